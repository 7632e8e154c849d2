// Oracle: exit codes and messages of the contract, and the index that a dump makes on the way.
import { spawn } from 'node:child_process';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { Problem } from '../../src/dump/read/verify.js';
import { dump, indexCorpus, openDump } from '../../src/index.js';
import { assertSameFolder, sampleText } from '../dump/folders.js';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';
import { endOf } from '../support/processes.js';
import { main, run } from './command.js';

const test = suite('sonde index');
test.limit(120_000);
const hook = ['--hook', 'resid/post_emb'];
const few = ['--context', '16', '--shard-tokens', '512', '--limit', '3000'];

test('an index is made, is there already, and is what a dump makes', () =>
  withFolder(async (folder) => {
    const at = { cwd: folder };
    const args = ['index', '--text', sampleText, '--out', 'out', ...few];
    const first = await run(args, at);
    assert.is(first.code, 0, first.stderr);
    assert.is(first.stdout, 'out: the index of 6 shards, 3000 tokens, is made\n');
    assert.match(first.stderr, /^[\d.]+ \wB of [\d.]+ \wB, [\d,]+ tokens, \d shards?\n/);
    assert.ok(!first.stderr.includes('\u001b'), 'escape codes in a log');
    assert.equal(await readdir(join(folder, 'out')), ['index.jsonl']);
    const again = await run(args, at);
    assert.is(again.code, 0, again.stderr);
    assert.is(again.stdout, 'out: the index of 6 shards, 3000 tokens, is there already\n');
    for (const out of ['out', 'other']) {
      const made = await run(['dump', '--text', sampleText, ...hook, '--out', out, ...few], at);
      assert.is(made.code, 0, made.stderr);
    }
    await assertSameFolder(join(folder, 'out'), join(folder, 'other'));
    const other = await run([...args.slice(0, -2), '--limit', '2000'], at);
    assert.is(other.code, 1);
    assert.match(other.stderr, /holds a dump with a limit of 3000 tokens, but 2000 tokens was asked for/);
    assert.is(other.stdout, '');
  }));

test('verify names an index that is torn, and what writes it again; and a claim on it', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    const corpus = { corpus: sampleText, context: 16, shardTokens: 512, limit: 3000, out };
    await dump({ ...corpus, model: 'demo', locations: 'resid/post_emb' });
    const path = join(out, 'index.jsonl');
    const text = await readFile(path, 'utf8');
    const verify = async () => {
      await using made = await openDump(out);
      return made.verify();
    };
    assert.equal(await verify(), []);
    // the middle of a line is missing, the last line is cut, or a digit of a line is another one
    const [first, second, third, ...others] = text.split('\n') as [string, string, string];
    for (const [torn, known] of [
      [[first, second, third.slice(0, 20), ...others].join('\n'), 1],
      [text.slice(0, -5), 6],
      [[first, second.replace(/\d/, (digit) => `${9 - Number(digit)}`), third, ...others].join('\n'), 0],
    ] as const) {
      await writeFile(path, torn);
      const [{ file, problem }, ...more] = (await verify()) as [Problem];
      assert.equal([file, more], ['index.jsonl', []]);
      assert.is(
        problem,
        `has ${known} whole lines in order, and others: sonde index with the same options writes it again`,
      );
      await indexCorpus(corpus);
      assert.is(await readFile(path, 'utf8'), text);
      assert.equal(await verify(), []);
    }
    await writeFile(`${path}.claim`, '');
    const claimed = { file: 'index.jsonl.claim', problem: 'is the claim of a process that writes here, or was killed' };
    assert.equal(await verify(), [claimed]);
  }));

test('an interrupted index goes on', () =>
  withFolder(async (folder) => {
    const text = await readFile(sampleText, 'utf8');
    await writeFile(join(folder, 'a.txt'), text.repeat(Math.ceil(6e6 / text.length)));
    const args = ['index', '--text', 'a.txt', '--out', 'out', '--context', '16', '--shard-tokens', '1024'];
    const cut = await run(args, { cwd: folder, interrupt: { signal: 'SIGINT' } });
    assert.is(cut.code, 130, cut.stderr);
    assert.match(cut.stderr, /sonde: interrupted: the same command goes on with out\n/);
    for (const name of await readdir(join(folder, 'out')).catch(() => [])) assert.is(name, 'index.jsonl');
    for (const out of ['out', 'other']) {
      const { code, stderr, stdout } = await run([...args.slice(0, 4), out, ...args.slice(5)], { cwd: folder });
      assert.is(code, 0, stderr);
      assert.match(stdout, /^\w+: the index of \d{4} shards, \d+ tokens, is made\n$/);
    }
    await assertSameFolder(join(folder, 'out'), join(folder, 'other'));
  }));

test('what makes no sense is refused with code 2, and what cannot be done with code 1', () =>
  withFolder(async (folder) => {
    await writeFile(join(folder, 'empty.txt'), '');
    await writeFile(join(folder, 'a.txt'), 'A text.');
    const usage: [string[], RegExp][] = [
      [['--text', 'a.txt'], /required option '--out <folder>' not specified/],
      [['--out', 'out'], /index needs a text: --text FILE/],
      [['--out', 'out', '--text', 'a.txt', '--context', '0'], /--context.*0/],
      [['--out', 'out', '--text', 'a.txt', '--vocabulary', 'x'], /--vocabulary/],
      [['--out', 'out', '--text', 'a.txt', '--hook', 'resid/post_emb'], /unknown option '--hook'/],
      [['--out', 'out', '--text', 'a.txt', '--token-dtype', 'uint16'], /--token-dtype is for --tokens/],
    ];
    for (const [options, pattern] of usage) {
      const { code, stderr, stdout } = await run(['index', ...options], { cwd: folder });
      assert.is(code, 2, `${options}: ${stderr}`);
      assert.match(stderr, pattern);
      assert.is(stdout, '');
    }
    const failures: [string[], RegExp][] = [
      [['--text', 'empty.txt'], /the corpus has no tokens/],
      [['--text', 'none.txt'], /none\.txt/],
    ];
    for (const [options, pattern] of failures) {
      const { code, stderr } = await run(['index', ...options, '--out', 'out'], { cwd: folder });
      assert.is(code, 1, `${options}: ${stderr}`);
      assert.match(stderr, pattern);
    }
    assert.equal(await readdir(folder), ['a.txt', 'empty.txt'], 'no folder stays');
    await mkdir(join(folder, 'mine'));
    await writeFile(join(folder, 'mine', 'notes.md'), 'mine');
    const full = await run(['index', '--text', 'a.txt', '--out', 'mine'], { cwd: folder });
    assert.is(full.code, 1);
    assert.match(
      full.stderr,
      /mine is not empty and has no manifest\.json \(it has notes\.md\): choose another folder/,
    );
    assert.equal(await readdir(join(folder, 'mine')), ['notes.md']);
  }));

test('--files-from: a list of files of all kinds, with either end of lines', () =>
  withFolder(async (folder) => {
    const at = { cwd: folder };
    await writeFile(join(folder, 'a.txt'), 'A first story. '.repeat(40));
    await writeFile(join(folder, 'b c.jsonl'), `${JSON.stringify({ text: 'A second story. '.repeat(40) })}\n`);
    await writeFile(
      join(folder, 'd.bin'),
      Uint16Array.from({ length: 90 }, (_, i) => i + 300),
    );
    await writeFile(join(folder, 'list'), 'a.txt\r\nb c.jsonl\r\n\r\nd.bin\r\n');
    await writeFile(join(folder, 'unix'), '\na.txt\nb c.jsonl\nd.bin');
    const small = ['--context', '16', '--shard-tokens', '64'];
    const given = await run(
      ['dump', ...hook, ...small, '--out', 'given', '--text', 'a.txt', '--jsonl', 'b c.jsonl', '--tokens', 'd.bin'],
      at,
    );
    assert.is(given.code, 0, given.stderr);
    for (const list of ['list', 'unix']) {
      const out = `from-${list}`;
      const index = await run(['index', '--files-from', list, ...small, '--out', out], at);
      assert.is(index.code, 0, index.stderr);
      const made = await run(['dump', '--files-from', list, ...hook, ...small, '--out', out], at);
      assert.is(made.code, 0, made.stderr);
      await assertSameFolder(join(folder, out), join(folder, 'given'));
    }
  }));

test('--files-from: what is no list of files is refused', () =>
  withFolder(async (folder) => {
    const lists: [string, RegExp][] = [
      ['', /--files-from list: it names no file: one path is expected on each line/],
      ['\r\n\n', /--files-from list: it names no file/],
      ['a.txt\n-\n', /--files-from list: line 2 is no path: one path is expected on each line/],
      ['a.txt\n\na\0b\n', /--files-from list: line 3 is no path/],
    ];
    await writeFile(join(folder, 'a.txt'), 'A text.');
    for (const command of [['index'], ['dump', ...hook]]) {
      for (const [content, pattern] of lists) {
        await writeFile(join(folder, 'list'), content);
        const { code, stderr } = await run([...command, '--files-from', 'list', '--out', 'out'], { cwd: folder });
        assert.is(code, 2, stderr);
        assert.match(stderr, pattern);
      }
      const none = await run([...command, '--files-from', 'none', '--out', 'out'], { cwd: folder });
      assert.is(none.code, 2);
      assert.match(none.stderr, /--files-from none: .*no such file/);
      await writeFile(join(folder, 'list'), 'a.txt\nnone.txt\n');
      const missing = await run([...command, '--files-from', 'list', '--out', 'out'], { cwd: folder });
      assert.is(missing.code, 1);
      assert.match(missing.stderr, /none\.txt/);
    }
    assert.equal(await readdir(folder), ['a.txt', 'list']);
  }));

test('3,000 files where 128 may be open', () =>
  withFolder(async (folder) => {
    await mkdir(join(folder, 'text'));
    const names = Array.from({ length: 3000 }, (_, i) => `text/${String(i).padStart(4, '0')}.txt`);
    for (const [i, name] of names.entries()) await writeFile(join(folder, name), `Story ${i}: a girl found a ball.`);
    await writeFile(join(folder, 'list'), names.join('\n'));
    const limited = (args: string[]) =>
      spawn('bash', ['-c', 'ulimit -n 128; exec "$0" "$@"', process.execPath, main, ...args], {
        cwd: folder,
        stdio: ['ignore', 'pipe', 'pipe'],
      });
    const small = ['--files-from', 'list', '--context', '16', '--shard-tokens', '4096'];
    for (const args of [
      ['index', ...small, '--out', 'out'],
      ['dump', ...small, ...hook, '--out', 'out'],
    ]) {
      const { code, errors } = await endOf(limited(args));
      assert.is(code, 0, errors);
    }
  }));

test.run();
