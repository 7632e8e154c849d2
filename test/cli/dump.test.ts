// Oracle: exit codes and messages of the contract, and openDump.
import { appendFile, readdir, readFile, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { openDump } from '../../src/dump/read/reader.js';
import { gpt2Tokenizer } from '../../src/files/tokenizer/tokenizer.js';
import { assertSameFolder, sampleText } from '../dump/folders.js';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';
import { run } from './command.js';

const test = suite('sonde dump');
const hook = ['--hook', '1/mlp/post_act'];
const few = ['--context', '32', '--shard-tokens', '512', '--limit', '1200'];

test('a dump, the same again, and a look at it', () =>
  withFolder(async (folder) => {
    const args = ['dump', '--text', sampleText, ...hook, '--out', 'out', ...few];
    const first = await run(args, { cwd: folder });
    assert.is(first.code, 0, first.stderr);
    assert.match(first.stdout, /^out: 38 rows, 1200 tokens in 3 shards, \d+ kB\n$/);
    assert.match(first.stderr, /^[\d,]+ of [\d,]+ tokens, [\d,]+ tokens\/s, \d shards?/);
    assert.match(first.stderr, /1,200 of 1,200 tokens, [\d,]+ tokens\/s, 3 shards, 0 s left\n$/);
    assert.ok(!first.stderr.includes('\u001b'), 'escape codes in a log');
    const again = await run(args, { cwd: folder });
    assert.is(again.code, 0);
    assert.match(again.stdout, /^out is complete already: 38 rows, 1200 tokens in 3 shards.*Nothing was done\.\n$/);
    const look = await run(['inspect', 'out'], { cwd: folder });
    assert.is(look.code, 0, look.stderr);
    assert.match(look.stdout, /rows +38 of 32 tokens, 1200 tokens without padding/);
    assert.match(look.stdout, /first row "It was a windy Monday\./);
    assert.match(look.stdout, /1\/mlp\/post_act {2}\[38, 32, 256\] {2}/);
    const good = await run(['verify', 'out'], { cwd: folder });
    assert.is(good.code, 0, good.stderr);
    assert.match(good.stdout, /^out: 3 shards, \d+ kB: every file is as the manifest says\n$/);
    await truncate(join(folder, 'out', 'shard-00001.safetensors'), 9);
    const broken = await run(['verify', 'out'], { cwd: folder });
    assert.is(broken.code, 1);
    assert.match(broken.stdout, /shard-00001\.safetensors: holds 9 bytes/);
    assert.match(broken.stderr, /^sonde: out: 1 problem was found/);
  }));

test('the options of storage: a sample, int8, statistics, Parquet', () =>
  withFolder(async (folder) => {
    const what = ['--hook', '1/mlp/post_act', '--autoencoder', '1/resid/delta_mlp=ae-resid-delta-mlp', '--out', 'out'];
    const how = [
      '--drop',
      'endoftext',
      '--sample',
      '0.25',
      '--seed',
      '3',
      '--dtype',
      'int8',
      '--statistics',
      '--parquet',
    ];
    const args = ['dump', '--text', sampleText, ...few, ...what, ...how];
    const plan = await run([...args, '--plan'], { cwd: folder });
    assert.is(plan.code, 0, plan.stderr);
    for (const part of [
      /^positions {2}0\.25 of them by chance \(seed 3\), without padding and <\|endoftext\|>$/m,
      /1\/mlp\/post_act {2}int8 \[positions, 256\], and a scale for each token {2}260 bytes per token/,
      /count, active, mean, variance and maximum of each feature/,
      /the latents once more, sorted by latent, as Parquet/,
      /in all {5}75 bytes per token, and the latents/,
    ]) {
      assert.match(plan.stdout, part);
    }
    const made = await run(args, { cwd: folder });
    assert.is(made.code, 0, made.stderr);
    const look = await run(['inspect', '--statistics', 'out'], { cwd: folder });
    assert.match(look.stdout, /^positions 0\.25 of them by chance \(seed 3\), without padding and/m);
    assert.match(look.stdout, /1\/resid\/delta_mlp\/latents {2}\d+ positions: \d+ of 1024 are ever other than 0;/);
    const good = await run(['verify', 'out'], { cwd: folder });
    assert.is(good.code, 0, good.stdout);
    await using dump = await openDump(join(folder, 'out'));
    const { drop, sample, seed, dtype, statistics, parquet } = dump.manifest;
    assert.equal([drop, sample, seed, dtype], [['padding', 'endoftext'], 0.25, 3, 'int8']);
    assert.equal([statistics, parquet], [true, true]);
    const report = await run(['report', 'out', '--out', 'x.html'], { cwd: folder });
    assert.is(report.code, 1);
    assert.match(report.stderr, /^sonde: out holds a sample of the positions: there are no whole texts to show/);
  }));

test('gradients of the loss', () =>
  withFolder(async (folder) => {
    const what = [...hook, '--autoencoder', '1/resid/delta_mlp=ae-resid-delta-mlp', '--gradient-of', 'loss'];
    const args = ['dump', '--text', sampleText, ...what, '--out', 'out', '--context', '16', '--limit', '300'];
    const plan = await run([...args, '--plan'], { cwd: folder });
    assert.match(plan.stdout, /^gradients {2}of the mean next-token cross-entropy of each row$/m, plan.stderr);
    const made = await run(args, { cwd: folder });
    assert.is(made.code, 0, made.stderr);
    const look = await run(['inspect', 'out'], { cwd: folder });
    assert.match(look.stdout, /^gradients of the mean next-token cross-entropy of each row$/m);
    assert.match(look.stdout, /^ {2}1\/mlp\/post_act\.gradient +\[19, 16, 256\] {2}.* on average, standard deviation/m);
    assert.match(
      look.stdout,
      /^ {2}1\/resid\/delta_mlp\/latents\.gradient +\[19, 16, 1024\] {2}.* active per token, the strong/m,
    );
    const good = await run(['verify', 'out'], { cwd: folder });
    assert.is(good.code, 0, good.stdout);
    const other = await run(
      args.filter((word) => word !== '--gradient-of' && word !== 'loss'),
      { cwd: folder },
    );
    assert.is(other.code, 1);
    assert.match(other.stderr, /^sonde: dump: out holds a dump with gradients of loss, but nothing was asked for\n$/);
    const wrong = await run([...args, '--gradient-of', 'logits'], { cwd: folder });
    assert.is(wrong.code, 2);
    assert.match(wrong.stderr, /--gradient-of.*'logits'.*loss/);
    const onGpu = await run([...args, '--device', 'cuda:0,cuda:1'], { cwd: folder });
    assert.is(onGpu.code, 1);
    assert.match(
      onGpu.stderr,
      /^sonde: dump: gradients are computed on the CPU alone so far, and workers\[0\] is on cuda:0/,
    );
  }));

test('latents, lists of words, and standard input', () =>
  withFolder(async (folder) => {
    const text = await readFile(sampleText, 'utf8');
    const words = [
      '--autoencoder',
      '0/resid/delta_mlp=ae-resid-delta-mlp',
      '2/resid/delta_mlp=ae-resid-delta-mlp',
      '-',
    ];
    const piped = await run(['dump', ...few, '--out', 'a', '--hook', '1/mlp/pre_act', 'resid/post_emb', ...words], {
      cwd: folder,
      input: text,
    });
    assert.is(piped.code, 0, piped.stderr);
    await using made = await openDump(join(folder, 'a'));
    assert.equal(made.names, [
      ...['resid/post_emb', '1/mlp/pre_act'],
      ...['0/resid/delta_mlp/latents', '2/resid/delta_mlp/latents'],
    ]);
    assert.equal(made.manifest.corpus, [{ kind: 'standard input' }]);
    const dash = await run(['dump', '-', ...few, '--out', 'b', ...hook], { cwd: folder, input: text });
    assert.is(dash.code, 0, dash.stderr);
  }));

test('jsonl, token files and parts', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    await writeFile(at('a'), '{"text": "It was a windy Monday."}\n{"text": "The wind moved the trees."}\n');
    await writeFile(at('b'), new Uint8Array(Uint16Array.from([1, 2, 50256, 3]).buffer));
    const args = ['dump', '--jsonl', 'a', '--tokens', 'b', ...hook, '--shard-tokens', '8', '--context', '4', '--out'];
    assert.is((await run([...args, 'whole'], { cwd: folder })).code, 0);
    const parts = ['0/2', '1/2'].map((part) => run([...args, 'parts', '--shard', part], { cwd: folder }));
    for (const { code, stderr } of await Promise.all(parts)) assert.is(code, 0, stderr);
    await using whole = await openDump(at('whole'));
    await using both = await openDump(at('parts'));
    assert.equal(both.shards, whole.shards);
    assert.is(new Set((await whole.tokens()).document.filter((d) => d >= 0)).size, 4);
  }));

test('files that are not what they were given as: the right flag is named, and it is right', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const lines = '{"text": "It was a windy Monday."}\n{"text": "The wind moved the trees."}\n';
    await writeFile(at('a.jsonl'), lines);
    await writeFile(at('wide.bin'), new Uint8Array(Int32Array.from([1, 2, 50256, 3, 4]).buffer));
    await writeFile(at('words.bin'), 'It was a windy Monday, and no token.');
    const dump = (out: string, args: string[], input?: string) =>
      run(['dump', ...args, ...hook, '--context', '4', '--out', out], {
        cwd: folder,
        ...(input !== undefined && { input }),
      });
    const refused: [args: string[], pattern: RegExp, input?: string][] = [
      [['--text', 'a.jsonl'], /^sonde: dump: a\.jsonl: has a JSON object on each line, .*'jsonl' \(--jsonl\)/],
      [['-'], /^sonde: dump: standard input: has a JSON object on each line, .*'jsonl' \(--jsonl\)/, lines],
      [['--tokens', 'wide.bin'], /^sonde: dump: wide\.bin: has every other token 0: .*\(--token-dtype int32\)/],
      [['--tokens', 'words.bin'], /^sonde: dump: words\.bin: is text, and was given as tokens: .*'text' \(--text\)/],
    ];
    for (const [i, [args, pattern, input]] of refused.entries()) {
      const { code, stderr } = await dump(`refused-${i}`, args, input);
      assert.is(code, 1);
      assert.match(stderr, pattern);
      if (input === undefined) assert.not.ok((await readdir(folder)).includes(`refused-${i}`));
    }
    const taken: [args: string[], input?: string][] = [
      [['--jsonl', 'a.jsonl']],
      [['--jsonl', '-'], lines],
      [['--tokens', 'wide.bin', '--token-dtype', 'int32']],
      [['--text', 'a.jsonl', '--as-is']],
      [['-', '--as-is'], lines],
      [['--tokens', 'words.bin', '--as-is']],
    ];
    const tokens: string[] = [];
    for (const [i, [args, input]] of taken.entries()) {
      const { code, stderr } = await dump(`out-${i}`, args, input);
      assert.is(code, 0, stderr);
      await using made = await openDump(at(`out-${i}`));
      const { tokens: all, document } = await made.tokens();
      tokens.push(String(all.filter((_, p) => document[p] !== -1)));
    }
    const words = new Uint16Array(Uint8Array.from(await readFile(at('words.bin'))).buffer);
    assert.is(tokens[1], tokens[0]);
    assert.equal(tokens[2], '1,2,50256,3,4');
    assert.is(tokens[3], String(gpt2Tokenizer().encode(lines)));
    assert.is(tokens[4], tokens[3]);
    assert.is(tokens[5], String(words));
  }));

test('--plan prints and writes nothing', () =>
  withFolder(async (folder) => {
    const { code, stdout } = await run(
      ['dump', '--plan', '--text', sampleText, '--hook', '*/resid/post_mlp', '--out', 'out'],
      {
        cwd: folder,
      },
    );
    assert.is(code, 0);
    assert.match(stdout, /3\/resid\/post_mlp {2}float16 \[rows, 128, 64\] {2}128 bytes per token/);
    assert.equal(await readdir(folder), []);
  }));

test('wrong usage is 2, with a word on what is right', async () => {
  const cases: [string[], RegExp][] = [
    [['dump'], /sonde: required option '--out <folder>' not specified/],
    [['dump', '--out', 'x'], /sonde: dump needs a text/],
    [['dump', '--text', 'a', '--token-dtype', 'int32', ...hook, '--out', 'x'], /sonde: --token-dtype is for --tokens/],
    [['dump', '--tokens', 'a', '--token-dtype', 'int8', ...hook, '--out', 'x'], /It must be one of uint16, int32, uin/],
    ...['1e3', '0x10', '', ' 5', '5abc', '0', '99999999999999999999'].map((limit): [string[], RegExp] => [
      ['dump', '--text', 'a', ...hook, '--out', 'x', '--limit', limit],
      /'--limit <tokens>' argument '.*' is invalid\. It must be a whole number of 1 or more\./,
    ]),
    ...['0x10', '', ' 0.5', 'Infinity'].map((threshold): [string[], RegExp] => [
      ['dump', '--text', 'a', ...hook, '--out', 'x', '--threshold', threshold],
      /'--threshold <x>' argument '.*' is invalid\. It must be a number of 0 or more\./,
    ]),
    [
      ['dump', '--text', 'a', ...hook, '--out', 'x', '--device', 'cuda', '--threads', '2'],
      /sonde: --threads is for the CPU, and the work is done on cuda/,
    ],
    [['sample', '--device', 'cuda', '--threads', '2', 'Kate'], /sonde: --threads is for the CPU/],
    [['cache', '--clear', ''], /sonde: --clear: an empty word is in every address; --clear alone removes all files/],
    [['cache', '--clear', '--verify'], /sonde: --clear and --verify exclude each other/],
    [['dump', '--out', 'x', '--text', 'a.txt'], /sonde: dump needs a --hook or an --autoencoder/],
    [['dump', '--out', 'x', '--text', 'a.txt', ...hook, '--context', 'many'], /whole number of 1 or more/],
    [['dump', '--out', 'x', '--text', 'a.txt', ...hook, '--drop', 'text'], /one of padding, endoftext/],
    [['dump', '--out', 'x', '--text', 'a.txt', ...hook, '--sample', '2'], /a number from 0 to 1/],
    [['dump', '--out', 'x', '--text', 'a.txt', ...hook, '--dtype', 'int4'], /one of float16, bfloat16, float32, int8/],
    [
      ['dump', '--out', 'x', '--text', 'a.txt', ...hook, '--shard', '3/3'],
      /--shard 3\/3: I must be from 0 to 2, but is 3/,
    ],
    [['dump', '--out', 'x', '--text', 'a.txt', ...hook, '--shard', '3'], /--shard must read I\/N, auto or auto\/N/],
    [['dump', '--out', 'x', '--text', 'a.txt', ...hook, '--device', 'cpu,cpu'], /It names cpu twice/],
    [
      ['dump', '--out', 'x', '--text', sampleText, ...hook, '--device', 'cpu,cuda', '--workers', '1'],
      /fewer than the dev/,
    ],
    [['dump', '--out', 'x', '--text', 'a.txt', ...hook, '--device', 'tpu'], /cpu, cuda or cuda:N/],
    [['dump', '--out', 'x', 'a.txt', ...hook], /what is 'a\.txt'\?/],
    [['dump', '--out', 'x', '--text', 'a.txt', '--autoencoder', 'oops'], /LOCATION=NAME/],
    [['dump', '--out', 'x', '--textt', 'a.txt'], /unknown option '--textt'/],
    [['dmup'], /unknown command 'dmup'/],
    [['inspect'], /missing required argument 'dump'/],
  ];
  for (const [args, pattern] of cases) {
    const { code, stderr, stdout } = await run(args);
    assert.is(code, 2, `${args.join(' ')}: ${stderr}`);
    assert.match(stderr, pattern);
    assert.match(stderr, /Try --help/);
    assert.is(stdout, '');
  }
});

test('failures are 1, in one line; SONDE_DEBUG shows where', () =>
  withFolder(async (folder) => {
    await writeFile(join(folder, 'a.txt'), 'abc');
    await appendFile(join(folder, 'a.txt'), Buffer.from([0xff]));
    const cases: [string[], RegExp][] = [
      [['--text', 'none.txt', ...hook], /^sonde: dump: corpus file none\.txt: there is no such file\n$/],
      [['--text', 'a.txt', ...hook], /^sonde: a\.txt, byte 3: not valid UTF-8 \(0xff\)\n$/],
      [['--text', sampleText, '--hook', '1/mlp/nonsense'], /^sonde: .*nonsense.*\n$/],
      [['--text', sampleText, ...hook, '--context', '10000'], /^sonde: dump: context must be an integer from 1 to 256/],
      [['--text', sampleText, ...hook, '--model', 'no/such/folder'], /^sonde: .*no\/such\/folder/],
    ];
    for (const [args, pattern] of cases) {
      const { code, stderr } = await run(['dump', '--out', 'out', ...args], { cwd: folder });
      assert.is(code, 1, stderr);
      assert.match(stderr, pattern);
    }
    const args = ['dump', '--out', 'out', '--text', 'none.txt', ...hook];
    const { stderr } = await run(args, { cwd: folder, env: { SONDE_DEBUG: '1' } });
    assert.match(stderr, /no such file\n {4}at /);
    const { code, stderr: none } = await run(['inspect', 'nowhere'], { cwd: folder });
    assert.is(code, 1);
    assert.match(none, /^sonde: openDump: nowhere: there is no such folder\n$/);
  }));

test('an obstacle in the way of --out is named by every command that writes', () =>
  withFolder(async (folder) => {
    await writeFile(join(folder, 'file'), '');
    await writeFile(join(folder, 'empty.txt'), '');
    await symlink('nowhere', join(folder, 'dangling'));
    const made = await run(['dump', '--text', sampleText, ...hook, '--limit', '500', '--out', 'made'], { cwd: folder });
    assert.is(made.code, 0, made.stderr);
    const commands: [string, string[], (out: string) => string[]][] = [
      ['dump', ['--text', sampleText, ...hook], (out) => ['--out', out]],
      ['merge', [], (out) => [out, 'made']],
      ['collate', ['made', '--select', '1/mlp/post_act=1'], (out) => ['--out', out]],
      ['report', ['made', '--select', '1/mlp/post_act=1'], (out) => ['--out', `${out}/page.html`]],
    ];
    for (const [name, args, out] of commands) {
      for (const [path, what] of [
        ['file', 'a file, not a folder'],
        ['file/below', 'a file, not a folder'],
        ['dangling', 'a link to nowhere, which is not there'],
      ] as const) {
        const { code, stderr, stdout } = await run([name, ...args, ...out(path)], { cwd: folder });
        assert.is(code, 1, stderr);
        assert.is(stdout, '');
        assert.match(
          stderr,
          new RegExp(`^sonde: ${name}: cannot write ${path}.*: .* is ${what} .*: choose another \\w+\n$`),
        );
      }
    }
    const { stderr } = await run(['dump', '--text', 'empty.txt', ...hook, '--out', 'new'], { cwd: folder });
    assert.match(stderr, /^sonde: dump: the corpus has no tokens\n$/);
    assert.equal((await readdir(folder)).sort(), ['dangling', 'empty.txt', 'file', 'made']);
  }));

test('SIGINT and SIGTERM are 130, say how to go on, and leave a folder that goes on', () =>
  withFolder(async (folder) => {
    await writeFile(join(folder, 'a.txt'), (await readFile(sampleText, 'utf8')).repeat(10));
    const args = ['dump', '--text', 'a.txt', ...hook, '--shard-tokens', '4096', '--out'];
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      const { code, stderr, stdout } = await run([...args, 'out'], { cwd: folder, interrupt: { signal } });
      assert.is(code, 130, stderr);
      assert.match(stderr, /sonde: interrupted: out can be continued with the same command\n$/);
      assert.is(stdout, '');
      assert.ok((await readdir(join(folder, 'out'))).every((name) => !name.endsWith('.partial')));
    }
    const limit = ['--limit', '20000'];
    const slowly = [...args, 'out2', ...limit, '--batch', '1'];
    const { code } = await run(slowly, { cwd: folder, interrupt: { signal: 'SIGINT' } });
    assert.is(code, 130);
    for (const out of ['out2', 'whole']) assert.is((await run([...args, out, ...limit], { cwd: folder })).code, 0);
    await assertSameFolder(join(folder, 'out2'), join(folder, 'whole'));
    const waiting = { cwd: folder, interrupt: { signal: 'SIGINT', after: 3000 } } as const;
    assert.is((await run(['dump', '-', ...hook, '--out', 'stdin'], waiting)).code, 130);
  }));

test.run();
