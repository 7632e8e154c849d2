// The file of an index, damaged in every way, or another file in its place. Oracle: the folders that are made where there
// is none, byte for byte. What is damaged is made again; what is no index, or that of another dump, is an error that says
// so, and stays as it is.
import { execFileSync, spawnSync } from 'node:child_process';
import { cp, lstat, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { indexCorpus } from '../../../src/dump/index_corpus.js';
import { dump } from '../../../src/dump/run.js';
import type { DumpOptions } from '../../../src/dump/shards/options.js';
import { planShards } from '../../../src/dump/workers/shard_session.js';
import { checkedLine } from '../../../src/files/checked_lines.js';
import { thisProcess } from '../../../src/files/lease.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { assertSameFolder, contentsOf, sampleText } from '../folders.js';

const test = suite('index file');
test.limit(180_000);
const model = await Transformer.load('demo');
const cut = { context: 16, shardTokens: 128 } as const;

interface Made {
  readonly at: (name: string) => string;
  readonly request: (out: string, changes?: Partial<DumpOptions>) => DumpOptions;
  /** The index of the corpus. */
  readonly text: string;
  readonly lines: readonly string[];
}

/** Makes the dump `whole` of a small text, and its parts in `part-0` and `part-1`. */
const withDumps = (body: (made: Made) => Promise<void>): Promise<void> =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const stories = (await readFile(sampleText, 'utf8')).replaceAll('<|endoftext|>', '').slice(0, 2_000);
    await writeFile(at('corpus.txt'), (stories.match(/.{1,450}/gs) ?? []).join('<|endoftext|>'));
    const request = (out: string, changes: Partial<DumpOptions> = {}): DumpOptions => ({
      ...{ model, corpus: at('corpus.txt'), locations: ['resid/post_emb'], out: at(out), ...cut, ...changes },
    });
    await dump(request('whole'));
    for (const index of [0, 1]) await dump(request(`part-${index}`, { shard: { index, count: 2 } }));
    const text = await readFile(at('whole/index.jsonl'), 'utf8');
    const lines = text.split('\n').slice(0, -1);
    assert.ok(lines.length >= 5, text);
    await body({ at, request, text, lines });
  });

/** The ways in which an index is used: each ends with the folder that it makes where there is no index. */
const ways: Record<string, (made: Made, out: string) => Promise<void>> = {
  async dump({ at, request }, out) {
    await dump(request(out));
    await assertSameFolder(at(out), at('whole'));
  },
  async indexCorpus({ at, request }, out) {
    const { corpus } = request(out);
    await indexCorpus({ corpus: corpus as string, out: at(out), ...cut });
    assert.equal(await readdir(at(out)), ['index.jsonl']);
    assert.is(await readFile(at(`${out}/index.jsonl`), 'utf8'), await readFile(at('whole/index.jsonl'), 'utf8'));
  },
  async part({ at, request }, out) {
    await dump(request(out, { shard: { index: 1, count: 2 } }));
    await assertSameFolder(at(out), at('part-1'));
  },
  async planShards({ at }, out) {
    const plan = { model: 'demo', corpus: [at('corpus.txt')], locations: ['resid/post_emb'], out: at(out), ...cut };
    const { count } = await planShards(plan);
    const { shards } = JSON.parse(await readFile(at('whole/manifest.json'), 'utf8'));
    assert.is(count, shards.length);
    assert.equal(await readdir(at(out)), ['index.jsonl']);
    assert.is(await readFile(at(`${out}/index.jsonl`), 'utf8'), await readFile(at('whole/index.jsonl'), 'utf8'));
  },
};

/** Goes the ways from a folder that has no more than an index. */
async function heals(made: Made, index: string | Buffer, what: string, names = Object.keys(ways)): Promise<void> {
  for (const name of names) {
    const out = made.at('out');
    await mkdir(out);
    await writeFile(join(out, 'index.jsonl'), index);
    try {
      await (ways[name] as (typeof ways)[string])(made, 'out');
    } catch (cause) {
      throw new Error(`${name} with ${what}: ${(cause as Error).message}`, { cause });
    }
    await rm(out, { recursive: true });
  }
}

/** Goes on with a dump that is complete but for its index. */
async function healsComplete({ at, request }: Made, index: string | Buffer, what: string): Promise<void> {
  await cp(at('whole'), at('out'), { recursive: true });
  await writeFile(at('out/index.jsonl'), index);
  const { written } = await dump(request('out'));
  assert.is(written, 0, what);
  assert.equal(await contentsOf(at('out')), await contentsOf(at('whole')), what);
  await rm(at('out'), { recursive: true });
}

test('an index that is cut at any byte is made to its end', () =>
  withDumps(async (made) => {
    const { text } = made;
    const ends = new Set<number>();
    for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) {
      for (const near of [at - 1, at, at + 1, at + 2]) ends.add(near);
    }
    const first = text.indexOf('\n');
    for (let length = 0; length < text.length; length++) {
      const isNearEnd = ends.has(length);
      if (!isNearEnd && length % 11 !== 0) continue;
      const torn = text.slice(0, length);
      await heals(made, torn, `${length} bytes`, ['indexCorpus']);
      if (!isNearEnd) continue;
      await heals(made, torn, `${length} bytes`, [length % 2 ? 'dump' : 'part']);
      if (length % 2) await healsComplete(made, torn, `${length} bytes`);
    }
    for (const length of [0, 1, first, first + 1, text.length - 1]) {
      await heals(made, text.slice(0, length), `${length} bytes`, ['planShards']);
    }
  }));

test('a line that is garbled, missing, there twice, or in another place', () =>
  withDumps(async (made) => {
    const { lines, text } = made;
    const file = (changed: readonly string[]) => changed.map((line) => `${line}\n`).join('');
    const [first, ...rest] = lines as [string, ...string[]];
    for (let number = 1; number < lines.length; number++) {
      const [before, line, after] = [lines.slice(0, number), lines[number] as string, lines.slice(number + 1)];
      const names = number === 2 ? Object.keys(ways) : ['indexCorpus'];
      const variants: Record<string, string> = {
        missing: file([...before, ...after]),
        twice: file([...before, line, line, ...after]),
        last: file([...before, ...after, line]),
        garbled: file([...before, `${line.slice(0, 30)}#${line.slice(31)}`, ...after]),
        empty: file([...before, '', line, ...after]),
        'with a carriage return': file([...before, `${line}\r`, ...after]),
        zeros: file([...before, '\0'.repeat(line.length), ...after]),
        'with another one torn before it': file([...before, line.slice(0, 40) + line, ...after]),
      };
      for (const [what, changed] of Object.entries(variants)) {
        if (changed === text) continue; // the last line at the end
        await heals(made, changed, `line ${number} ${what}`, names);
        if (number > 2) await healsComplete(made, changed, `line ${number} ${what}`);
      }
    }
    await heals(made, `${text}${text}`, 'the whole twice');
    await heals(made, file([first, ...rest.toReversed()]), 'the lines in reverse');
    await heals(made, `${text}more`, 'something behind it');
    await heals(made, file([first]), 'the first line alone');
    await heals(made, `${first}\n\n\n`, 'empty lines');
    await heals(made, '', 'nothing');
  }));

test('a bit that flipped is found, and made good where it is not in the first line', () =>
  withDumps(async (made) => {
    const bytes = Buffer.from(made.text);
    const first = bytes.indexOf('\n') + 1;
    for (let at = 0; at < bytes.length; at += 9) {
      const changed = Buffer.from(bytes);
      changed[at] = (changed[at] as number) ^ (1 << (at % 8));
      if (at < first)
        await rejects(heals(made, changed, '', ['indexCorpus']), /index\.jsonl .*(Remove it, and it is made again)/);
      else await heals(made, changed, `a bit of byte ${at}`, [at % 8 ? 'indexCorpus' : 'part']);
      await rm(made.at('out'), { recursive: true, force: true });
    }
  }));

/** Demands the error of all ways, and that the file stays. */
async function isRefused(
  made: Made,
  index: string | Buffer,
  pattern: RegExp,
  names: readonly string[] = ['dump', 'indexCorpus'],
): Promise<void> {
  for (const name of names) {
    const out = made.at('out');
    await mkdir(out);
    await writeFile(join(out, 'index.jsonl'), index);
    await rejects((ways[name] as (typeof ways)[string])(made, 'out'), Error, pattern);
    assert.is(await readFile(join(out, 'index.jsonl'), 'latin1'), Buffer.from(index).toString('latin1'), name);
    await rm(out, { recursive: true });
  }
}

const advice = '.*Remove it, and it is made again$';

test('lines with a right checksum that say what cannot be are an error, and stay', () =>
  withDumps(async (made) => {
    const [first, ...lines] = made.lines as [string, ...string[]];
    const values = lines.map((line) => JSON.parse(line.slice(17)));
    const file = (changed: readonly unknown[]) =>
      `${[first, ...changed.map((value) => checkedLine(first, JSON.stringify(value)))].join('\n')}\n`;
    assert.is(file(values), made.text);
    const changed = (number: number, changes: object) =>
      file(values.map((value, i) => (i === number ? { ...value, ...changes } : value)));
    for (const [index, pattern] of [
      [changed(1, { offset: -1 }), /offset/],
      [changed(1, { skip: 2 ** 40 }), /skip/],
      [changed(1, { digest: 'x' }), /digest/],
      [changed(1, { rows: 9 }), /the line of shard 1 has more than a shard holds/],
      [changed(1, { tokens: 129 }), /the line of shard 1 has more than a shard holds/],
      [changed(1, { tokens: 0 }), /tokens/],
      [changed(1, { rows: 1, tokens: 16 }), /the line of shard 2 follows the last one/],
      [changed(2, { document: 0, offset: 0, source: 0 }), /the line of shard 2 lies before the one before it/],
      [changed(1, { more: 1 }), /more/],
      [file([...values.slice(0, -1), { ...values.at(-1), tokens: 5 }]), /it ends with \d+ shards of 5 tokens, but has/],
      [file([values[0], { shards: 1, tokens: '128', documents: 1 }]), /tokens/],
      [file([null]), /it must be an object, but is null/],
      [file([[]]), /it must be an object/],
    ] as [string, RegExp][]) {
      const named = new RegExp(`^dump: \\S+index\\.jsonl is not as it should be: .*${pattern.source}${advice}`);
      await isRefused(made, index, named);
    }
    // With another line, the dump begins where the index says, finds other tokens there, and says so.
    const elsewhere = values[2].source + 1;
    await rejects(heals(made, changed(2, { source: elsewhere }), ''), Error, /index|corpus/);
  }));

test('an index of another dump is refused with what differs, and stays', () =>
  withDumps(async (made) => {
    const { at, request } = made;
    const corpus = at('corpus.txt');
    const of = async (changes: object): Promise<string> => {
      await indexCorpus({ corpus, out: at('other'), ...cut, ...changes });
      const text = await readFile(at('other/index.jsonl'), 'utf8');
      await rm(at('other'), { recursive: true });
      return text;
    };
    await writeFile(at('other.txt'), 'Another text.');
    const differences: [object, string][] = [
      [{ context: 8 }, 'context 8, but 16 was'],
      [{ shardTokens: 256 }, 'shards of 16 rows, but 8 rows was'],
      [{ limit: 300 }, 'a limit of 300 tokens, but none was'],
      [{ vocabulary: 50_258 }, 'a vocabulary of 50258, but 50257 was'],
      [
        { corpus: at('other.txt') },
        '(files of \\d+ bytes in all, but \\d+ bytes in all|files .* digest [0-9a-f]{64}, but [0-9a-f]{64}) was',
      ],
    ];
    for (const [changes, words] of differences) {
      const named = new RegExp(`^dump: \\S+index\\.jsonl is the index of a dump with ${words} asked for${advice}`);
      await isRefused(made, await of(changes), named, Object.keys(ways));
    }
    // The first line decides, whatever follows.
    const other = (await of({ context: 8 })).split('\n')[0] as string;
    await isRefused(made, made.text.replace(made.lines[0] as string, other), /with context 8, but 16 was asked for/);
    // Lines of another index behind the right first line do not count.
    const foreign = (await of({ limit: 300 })).split('\n').slice(1).join('\n');
    await heals(made, `${made.lines[0]}\n${foreign}`, 'lines of another index');
    // A complete dump is refused, too, and stays complete.
    await cp(at('whole'), at('out'), { recursive: true });
    await writeFile(at('out/index.jsonl'), await of({ context: 8 }));
    await rejects(dump(request('out')), /with context 8, but 16 was asked for/);
    await rm(at('out/index.jsonl'));
    await dump(request('out'));
    await assertSameFolder(at('out'), at('whole'));
  }));

test('a file that is no index is refused, and stays', () =>
  withDumps(async (made) => {
    const [first] = made.lines as [string];
    for (const file of [
      'My notes\n',
      '\n',
      '{}',
      '{"format":"sonde journal","version":1}\n',
      Buffer.from([0xff, 0xfe, 0]),
      Buffer.alloc(4096),
      ` ${made.text}`,
      `\ufeff${made.text}`,
    ]) {
      await isRefused(made, file, new RegExp(`^dump: \\S+index\\.jsonl is no index of a corpus${advice}`));
    }
    for (const line of [
      first.replace('"version":1', '"version":2'),
      first.replace('"context":16', '"context":"16"'),
      first.slice(0, -1),
      `${first.slice(0, -1)},"more":1}`,
      `${first}{}`,
    ]) {
      await isRefused(
        made,
        `${line}\n`,
        new RegExp(`^dump: \\S+index\\.jsonl is no index that can be read: .*${advice}`),
      );
    }
  }));

test('a link, a pipe or a folder in its place is an error at once, and stays', () =>
  withDumps(async (made) => {
    const { at } = made;
    const index = at('out/index.jsonl');
    await writeFile(at('elsewhere.jsonl'), made.text);
    const places: [string, () => unknown][] = [
      ['link', () => symlink(at('elsewhere.jsonl'), index)],
      ['link to nothing', () => symlink(at('nothing'), index)],
      ['pipe', () => execFileSync('mkfifo', [index])],
      ['folder', () => mkdir(index)],
    ];
    for (const [what, make] of places) {
      for (const [name, way] of Object.entries(ways)) {
        await mkdir(at('out'));
        await make();
        await rejects(way(made, 'out'), /index\.jsonl is not a regular file\. Remove it/);
        assert.not.ok((await lstat(index)).isFile(), `${name}, ${what}`);
        await rm(at('out'), { recursive: true });
      }
    }
    assert.is(await readFile(at('elsewhere.jsonl'), 'utf8'), made.text);
    assert.not.ok((await readdir(at('.'))).includes('nothing'));
  }));

test('what killed processes have left of it goes away', () =>
  withDumps(async (made) => {
    const { at, text } = made;
    const { pid } = spawnSync('true');
    const dead = JSON.stringify({ ...thisProcess(), host: hostname(), pid });
    const leftovers: Record<string, string> = {
      'index.jsonl.claim': dead,
      'index.jsonl.0123abcd.partial': text.slice(0, 300),
      'index.jsonl.claim.7f0a2f0e-94b1-4a0f-8a3d-0ab1b0e4a4a3': dead,
    };
    const indexes = [undefined, text.slice(0, 700), text];
    for (const [name, way] of Object.entries(ways)) {
      for (const index of indexes) {
        await mkdir(at('out'));
        if (index !== undefined) await writeFile(at('out/index.jsonl'), index);
        for (const [file, content] of Object.entries(leftovers)) await writeFile(at(`out/${file}`), content);
        try {
          await way(made, 'out');
        } catch (cause) {
          throw new Error(`${name}, ${index?.length} bytes: ${(cause as Error).message}`, { cause });
        }
        await rm(at('out'), { recursive: true });
      }
    }
    for (const file of Object.keys(leftovers)) {
      await cp(at('whole'), at('out'), { recursive: true });
      await writeFile(at(`out/${file}`), leftovers[file] as string);
      await dump(made.request('out'));
      await assertSameFolder(at('out'), at('whole'));
      await rm(at('out'), { recursive: true });
    }
  }));

test.run();
