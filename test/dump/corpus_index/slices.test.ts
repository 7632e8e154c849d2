// An index that is made in slices, by one maker or by several at the same time. Oracle: the index of one pass over the
// corpus, byte for byte.
import { mkdir, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { clearIndex } from '../../../src/dump/corpus_index/make_index.js';
import type { IndexedSoFar } from '../../../src/dump/corpus_index/make_slices.js';
import { isIndexFile, sliceFile } from '../../../src/dump/format/manifest.js';
import { checkedLine } from '../../../src/files/checked_lines.js';
import type { Lease } from '../../../src/files/lease.js';
import { DiskStore } from '../../../src/files/store/disk_store.js';
import { openStore } from '../../../src/files/store/open_store.js';
import { gpt2Tokenizer } from '../../../src/files/tokenizer/tokenizer.js';
import { address, blobsOf, withBlobServer } from '../../support/blobs/blob_stores.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { type Random, random } from '../../support/random.js';
import { sampleText } from '../folders.js';
import { indexIn, type Making, makeIndex, onePass } from './making.js';

const test = suite('slices of an index');
test.limit(120_000);
const { encode } = gpt2Tokenizer();

const words = ['Kate', ' found', ' a', ' red', ' ball', '.', '\n', ' 漢字', " it's", ' 1984', '  ', ' é'];

const randomText = (rng: Random, count: number): string =>
  Array.from({ length: count }, () => rng.pick(words)).join('');

/** A folder in which nobody reads the corpus in one pass: such an index is written by appending to it. */
class SharingStore extends DiskStore {
  override async append(file: string): Promise<never> {
    throw new Error(`${file} is made in one pass`);
  }
}

/** Demands that so many makers at once make the index of one pass, and leave nothing else. A lone one reads once. */
async function sameAsOnePass(folder: string, making: Making, makers: readonly number[]): Promise<string> {
  const expected = await onePass(join(folder, 'whole'), making);
  const sizes = await Promise.all(making.files.map(async (file) => (await stat(file as string)).size));
  for (const count of makers) {
    const out = join(folder, 'out');
    await mkdir(out);
    const one = () => makeIndex(new SharingStore(out), making);
    const made = await Promise.all(Array.from({ length: count }, one));
    assert.ok((await indexIn(out)) === expected, `${count} makers`);
    assert.equal(await readdir(out), expected === '' ? [] : ['index.jsonl']);
    for (const { shards } of made) assert.is(shards, Math.max(0, expected.split('\n').length - 3));
    if (count === 1)
      assert.is(
        made[0]?.bytesRead,
        sizes.reduce((sum, size) => sum + size, 0),
      );
    assert.ok((made[0]?.slices as number) > 1, 'the corpus has slices');
    await rm(out, { recursive: true });
  }
  await rm(join(folder, 'whole'), { recursive: true });
  return expected;
}

/**
 * The same, where another process has the lease of a slice, and gives it back when the maker has nothing else to do: it
 * reads what lies before and behind, and begins anew with this slice. Returns what it has said meanwhile.
 */
async function heldUp(
  out: string,
  making: Making,
  expected: string,
  slice: number,
  store: DiskStore = new SharingStore(out),
) {
  await mkdir(out, { recursive: true });
  const lease = (await store.takeLease(sliceFile(slice, 'claim'))) as Lease;
  const seen: IndexedSoFar[] = [];
  let waited = false;
  let repeated = 0;
  const onIndexed = ({ known, tokens }: IndexedSoFar) => {
    repeated = known === seen.at(-1)?.known ? repeated + 1 : 0;
    seen.push({ known, tokens });
    if (repeated < 5 || waited) return;
    waited = true;
    lease.release();
  };
  await makeIndex(store, { ...making, onIndexed });
  await lease.release();
  assert.ok((await indexIn(out)) === expected, `slice ${slice} was held up`);
  assert.equal(await readdir(out), ['index.jsonl']);
  await rm(out, { recursive: true });
  return { seen, waited };
}

/** Files of all kinds, empty ones among them, with documents of all lengths. */
async function randomCorpus(folder: string, rng: Random): Promise<string[]> {
  const files: string[] = [];
  const number = rng.integer(1, 12);
  for (let i = 0; i < number; i++) {
    const lengths = rng.pick([
      [0, 1, 9, 60],
      [700, 9000],
      [0, 3, 20_000],
    ]);
    const documents = Array.from({ length: rng.integer(0, 12) }, () => randomText(rng, rng.pick(lengths)));
    const name = rng.pick(['txt', 'jsonl', 'bin']);
    const path = join(folder, `${i}.${name}`);
    const mark = rng.pick(['', '\ufeff']);
    if (name === 'txt') await writeFile(path, mark + documents.join('<|endoftext|>') + rng.pick(['', '<|endoftext|>']));
    else if (name === 'jsonl') {
      const lines = documents.map((text) => JSON.stringify({ text })).join(rng.pick(['\n', '\r\n', '\n\n']));
      await writeFile(path, mark + lines + rng.pick(['', '\n', '\n'.repeat(9000)]));
    } else {
      const end = rng.pick([[], [50_256]]);
      await writeFile(path, Uint16Array.from(documents.flatMap((text) => [...encode(text), ...end])));
    }
    files.push(path);
  }
  return files;
}

test('random corpora, sizes and numbers of makers', async () => {
  const rng = random(Number(process.env.TEST_SEED ?? 71));
  for (let round = 0; round < Number(process.env.TEST_ROUNDS ?? 5); round++) {
    await withFolder(async (folder) => {
      const files = await randomCorpus(folder, rng);
      const cut = { context: rng.integer(5, 40), rowsPerShard: rng.pick([2, 20, 100]), sectionBytes: 2 ** 12 };
      const sizes = await Promise.all(files.map(async (file) => (await stat(file)).size));
      const bytes = sizes.reduce((sum, size) => sum + size, 0);
      if (bytes < 8 * 4 * 4 * cut.context * cut.rowsPerShard) return;
      const sliceBytes = bytes / rng.integer(2, 9);
      await sameAsOnePass(folder, { files, ...cut, sliceBytes }, [1, rng.integer(2, 4)]);
    });
  }
});

/** The sizes that the tests below have: some slices of some sections each, and tens of shards in each slice. */
const small = { context: 16, rowsPerShard: 20, sectionBytes: 2 ** 12, sliceBytes: 2 ** 15 } as const;

const stories = async (): Promise<string[]> =>
  (await readFile(sampleText, 'utf8')).split('<|endoftext|>').filter((text) => text.length > 0);

/** Texts of stories of so many bytes in all. */
async function texts(bytes: number): Promise<string[]> {
  const list = (await stories()).flatMap((story) => story.match(/.{1,700}/gs) ?? []);
  const found: string[] = [];
  for (let i = 0, length = 0; length < bytes; i++) {
    const text = `${i}. ${list[i % list.length]}`;
    found.push(text);
    length += text.length;
  }
  return found;
}

const corpora: Record<string, (folder: string) => Promise<string[]>> = {
  async 'a last word that is longer than slices, before other files'(folder) {
    const paths = ['a.txt', 'b.txt', 'c.jsonl', 'd.txt'].map((name) => join(folder, name));
    const list = await texts(30_000);
    const contents = [
      `${list.join('<|endoftext|>')} ${'!'.repeat(80_000)}<|endoftext|>`, // cut behind the mark alone
      'b'.repeat(80_000),
      `${JSON.stringify({ text: 'c'.repeat(80_000) })}\n`,
      list.join(''),
    ];
    for (const [i, path] of paths.entries()) await writeFile(path, contents[i] as string);
    return paths;
  },
  async 'one document that spans all slices'(folder) {
    const path = join(folder, 'a.txt');
    await writeFile(path, (await texts(300_000)).join('\n'));
    return [path];
  },
  async 'many documents, whose marks lie at the ends of slices'(folder) {
    const path = join(folder, 'a.txt');
    // Each section ends with a mark, a letter before it, within it or behind it.
    const sections = Array.from({ length: 75 }, (_, i) => 'word '.repeat(900).slice(0, 4096 - 13 + ((i % 27) - 13)));
    await writeFile(path, sections.join('<|endoftext|>'));
    return [path];
  },
  async 'JSON lines, some of them longer than a slice'(folder) {
    const path = join(folder, 'a.jsonl');
    const lines = (await texts(200_000)).map((text, i) => JSON.stringify({ text: text.repeat(i % 30 === 7 ? 40 : 1) }));
    await writeFile(path, `\ufeff${lines.join('\n')}\n`);
    return [path];
  },
  async 'tokens with and without a header'(folder) {
    const tokens = (await texts(400_000)).flatMap((text) => [...encode(text), 50_256]);
    const [plain, numpy] = [join(folder, 'a.bin'), join(folder, 'b.npy')];
    await writeFile(plain, Uint16Array.from(tokens));
    const fields = `{'descr': '<u2', 'fortran_order': False, 'shape': (${tokens.length},), }`;
    const head = Buffer.from(`\x93NUMPY\x01\x00\x76\x00${fields.padEnd(117)}\n`, 'latin1');
    await writeFile(numpy, Buffer.concat([head, new Uint8Array(Uint16Array.from(tokens).buffer)]));
    return [plain, numpy];
  },
  async 'hundreds of small files, some of them empty'(folder) {
    const files = (await texts(200_000)).flatMap((text, i) => (i % 9 === 2 ? ['', text] : [text]));
    const paths = files.map((_, i) => join(folder, `${i}.${i % 7 === 3 ? 'jsonl' : 'txt'}`));
    for (const [i, path] of paths.entries()) {
      const text = files[i] as string;
      await writeFile(path, path.endsWith('txt') || text === '' ? text : JSON.stringify({ text }));
    }
    return paths;
  },
};

for (const [what, write] of Object.entries(corpora)) {
  test(`one maker and three at once: ${what}`, () =>
    withFolder(async (folder) => {
      const making = { files: await write(folder), ...small };
      const index = await sameAsOnePass(folder, making, [1, 3]);
      assert.ok(index.split('\n').length > 60);
      for (const slice of [1, 3, 4, 6]) await heldUp(join(folder, 'out'), making, index, slice);
    }));
}

test('slices without tokens, and shards that end where slices do', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'a.jsonl');
    const lines = (await texts(20_000)).map((text) => JSON.stringify({ text: text.slice(0, 60) }));
    await writeFile(path, `${lines.join('\n')}${'\n'.repeat(40_000)}${lines.join('\n')}`);
    const cut = { context: 32, rowsPerShard: 1, sectionBytes: 2 ** 9, sliceBytes: 2 ** 12 };
    const expected = await sameAsOnePass(folder, { files: [path], ...cut }, [1, 4]);
    await heldUp(join(folder, 'out'), { files: [path], ...cut }, expected, 5);
  }));

test('threads that tokenise, and shards that are larger than a slice', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'a.txt');
    await writeFile(path, (await texts(2_600_000)).join('<|endoftext|>'));
    await sameAsOnePass(folder, { files: [path], ...small, rowsPerShard: 1000, threads: 2 }, [1, 2]);
    // A slice is as large as several shards, but some texts have fewer bytes for each token than others.
    await writeFile(path, '9 漢 é\n'.repeat(60_000));
    await sameAsOnePass(folder, { files: [path], ...small, rowsPerShard: 1000 }, [1, 2]);
  }));

/** A text in a new folder, and its index. */
const withText = (
  body: (folder: string, making: Making, expected: string) => Promise<void>,
  bytes = 300_000,
): Promise<void> =>
  withFolder(async (folder) => {
    const path = join(folder, 'a.txt');
    await writeFile(path, (await texts(bytes)).join('<|endoftext|>'));
    const making = { files: [path], ...small, sliceBytes: bytes / 8 };
    await body(folder, making, await onePass(join(folder, 'whole'), making));
  });

test('with a limit, and where a part of the index is there, one maker reads', () =>
  withText(async (folder, making, expected) => {
    const out = join(folder, 'out');
    const limited = await onePass(join(folder, 'limited'), { ...making, limit: 30_000 });
    await mkdir(out);
    await Promise.all([1, 2].map(() => makeIndex(new DiskStore(out), { ...making, limit: 30_000 })));
    assert.is(await indexIn(out), limited);
    assert.equal(await readdir(out), ['index.jsonl']);
    await writeFile(join(out, 'index.jsonl'), expected.slice(0, expected.length / 2));
    const { bytesRead } = await makeIndex(new DiskStore(out), making);
    assert.ok(bytesRead < 200_000, String(bytesRead));
    assert.is(await indexIn(out), expected);
    assert.equal(await readdir(out), ['index.jsonl']);
  }));

test('a maker that waits for another one says how far the index is', () =>
  withText(async (folder, making, expected) => {
    const { seen, waited } = await heldUp(join(folder, 'out'), making, expected, 2);
    assert.ok(waited, 'it said so while it waited');
    const shards = expected.split('\n').length - 3;
    assert.ok(seen.every(({ known, tokens }, i) => known <= shards && tokens >= (seen[i - 1]?.tokens ?? 0)));
  }));

test('in object storage', () =>
  withText(async (_, making, expected) => {
    await withBlobServer(async (server) => {
      const store = openStore(address);
      // A process may still have the lease of a slice that is done, and nobody else can remove that.
      const lease = (await store.takeLease(sliceFile(99, 'claim'))) as Lease;
      const made = await Promise.all([1, 2].map(() => makeIndex(openStore(address), making)));
      assert.ok(made.every(({ bytesRead }) => bytesRead > 0));
      assert.ok(blobsOf(server).get('index.jsonl')?.toString() === expected);
      assert.equal([...blobsOf(server).keys()].sort(), ['index.jsonl', sliceFile(99, 'claim')]);
      await clearIndex(store);
      await lease.release();
      assert.equal([...blobsOf(server).keys()], ['index.jsonl']);
    });
  }));

// ---- what is wrong

test('what is wrong with the corpus is said with its place, to each maker', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    await mkdir(out);
    const path = join(folder, 'a.jsonl');
    const lines = (await texts(300_000)).map((text) => JSON.stringify({ text }));
    const bad = Math.floor(lines.length * 0.7);
    await writeFile(path, lines.map((line, i) => (i === bad ? line.slice(1) : line)).join('\n'));
    const make = () => makeIndex(new DiskStore(out), { files: [path], ...small });
    const all = await Promise.allSettled([make(), make()]);
    for (const result of all) {
      assert.is(result.status, 'rejected');
      const { message } = (result as PromiseRejectedResult).reason as Error;
      assert.match(message, new RegExp(`a\\.jsonl, line ${bad + 1}: is not valid JSON`));
    }
    const left = await readdir(out);
    assert.ok(!left.some((name) => name.endsWith('.claim')), left.join());
    await writeFile(path, lines.join('\n')); // another size
    await rm(join(out, 'index.jsonl'));
    await make();
    assert.equal(await readdir(out), ['index.jsonl']);
    assert.is(await indexIn(out), await onePass(join(folder, 'whole'), { files: [path], ...small }));
  }));

/** Begins an index, and stops when more than so many shards are known. */
async function makeAndStop(out: string, making: Making, most: number): Promise<void> {
  const stop = new AbortController();
  const onIndexed = ({ known }: IndexedSoFar) => {
    if (known > most) stop.abort(new Error('stopped'));
  };
  await rejects(makeIndex(new DiskStore(out), { ...making, onIndexed, signal: stop.signal }), Error, /stopped/);
}

test('a maker that is stopped keeps what it has, and gives its leases back', () =>
  withText(async (folder, making, expected) => {
    const out = join(folder, 'out');
    await mkdir(out);
    await makeAndStop(out, making, 100);
    const left = await readdir(out);
    assert.ok(left.every(isIndexFile) && left.includes(sliceFile(0, 'entries')), left.join());
    assert.ok(!left.some((name) => name.endsWith('.claim')), left.join());
    await clearIndex(new DiskStore(out));
    assert.equal(await readdir(out), left, 'it stays until the index is there');
    const { bytesRead } = await makeIndex(new DiskStore(out), making);
    assert.ok(bytesRead < 290_000, String(bytesRead));
    assert.is(await indexIn(out), expected);
    assert.equal(await readdir(out), ['index.jsonl']);
  }));

test('files of slices that are torn, foreign, no files, or forged', () =>
  withText(async (folder, making, expected) => {
    const kept = join(folder, 'kept');
    await mkdir(kept);
    await makeAndStop(kept, making, 40);
    const [summary, entries] = (await Promise.all(
      (['summary', 'entries'] as const).map((what) => readFile(join(kept, sliceFile(1, what)), 'utf8')),
    )) as [string, string];
    /** The file with another value in one of its lines, and the right checksum. */
    const forged = (text: string, number: number, field: string, by = 1) => {
      const lines = text.split('\n');
      const value = JSON.parse((lines[number] as string).slice(17));
      lines[number] = checkedLine(lines[0] as string, JSON.stringify({ ...value, [field]: value[field] + by }));
      return lines.join('\n');
    };
    /** The same for all entries, as if there were more documents before the slice. */
    const allForged = (text: string, field: string) => {
      const last = text.split('\n').length - 3;
      const numbers = Array.from({ length: last - 1 }, (_, i) => i + 2);
      return numbers.reduce((now, number) => forged(now, number, field), forged(text, 1, `${field}s`));
    };
    const planted: Record<string, string | undefined>[] = [
      { summary: '', entries: '' },
      { summary: summary.slice(0, -20), entries: entries.slice(0, entries.length / 2) },
      { summary: summary.replace('"slice":1', '"slice":2'), entries: entries.replace('"context":16', '"context":17') },
      { entries },
      { summary },
      { summary: undefined, entries: undefined },
      ...['source', 'offset', 'lines', 'documents', 'head', 'rows', 'tail', 'tokens'].map((field) => ({
        summary: forged(summary, 1, field),
      })),
      { summary: forged(summary, 1, 'tokens'), entries },
      ...['source', 'offset', 'lines', 'position', 'documents', 'rows', 'tokens'].map((field) => ({
        summary,
        entries: forged(entries, 1, field),
      })),
      { summary, entries: allForged(entries, 'document') },
      { summary, entries: forged(entries, 2, 'shard') },
      { summary, entries: forged(entries, 2, 'tokens', -1) },
      { summary, entries: forged(entries, -2 + entries.split('\n').length, 'entries') },
    ];
    for (const files of planted) {
      const out = join(folder, 'out');
      await mkdir(out);
      for (const [what, text] of Object.entries(files)) {
        const path = join(out, sliceFile(1, what as 'summary'));
        if (text === undefined) await symlink('/dev/zero', path);
        else await writeFile(path, text);
      }
      await makeIndex(new DiskStore(out), making);
      assert.ok((await indexIn(out)) === expected, JSON.stringify(files));
      assert.equal(await readdir(out), ['index.jsonl']);
      await rm(out, { recursive: true });
    }
    // What begins anew behind the slice uses the summary.
    const out = join(folder, 'out');
    await mkdir(out);
    await writeFile(join(out, sliceFile(1, 'summary')), forged(summary, 1, 'documents'));
    await heldUp(out, making, expected, 3, new DiskStore(out));
  }, 100_000));

test.run();
