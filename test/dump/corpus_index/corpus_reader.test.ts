// Blocks that are read by their number. Oracle: the blocks of one reading from the start to the end.
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { Block } from '../../../src/dump/corpus/blocks.js';
import { type CorpusFile, describeSource, openCorpus } from '../../../src/dump/corpus/corpus.js';
import { TokenizerThreads } from '../../../src/dump/corpus/tokenizer_threads.js';
import { CorpusReader } from '../../../src/dump/corpus_index/corpus_reader.js';
import type { IndexHeader } from '../../../src/dump/corpus_index/index_format.js';
import { wholeIndex } from '../../../src/dump/corpus_index/make_index.js';
import { DiskStore } from '../../../src/files/store/disk_store.js';
import { gpt2Tokenizer } from '../../../src/files/tokenizer/tokenizer.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { type Random, random } from '../../support/random.js';
import { sampleText } from '../folders.js';

const test = suite('corpus reader');
test.limit(120_000);
const { encode } = gpt2Tokenizer();

interface Cut {
  readonly context: number;
  readonly rowsPerShard: number;
  readonly limit?: number;
}

async function readerOf(files: CorpusFile[], { context, rowsPerShard, limit }: Cut, threads = 1) {
  const sources = await openCorpus(files);
  let bytesRead = 0;
  const settings = {
    ...{ context, limit: limit ?? null, corpus: sources.map(describeSource) },
    ...{ tokenizer: 'gpt2' as const, model: { vocabulary: 50_257 } },
  };
  const options = {
    threads: new TokenizerThreads(threads),
    onBytes: (bytes: number) => {
      bytesRead += bytes;
    },
  };
  const reader = new CorpusReader(sources, { settings, rowsPerShard, encode }, options);
  return { reader, sources, bytesRead: () => bytesRead };
}

async function blocksOf(blocks: AsyncIterable<Block>): Promise<Block[]> {
  const list: Block[] = [];
  // a reading that ends bit by bit has other chunks at its end
  for await (const block of blocks) list.push({ ...block, end: undefined });
  return list;
}

const words = ['Kate', ' found', ' a', ' red', ' ball', '.', '\n', ' 漢字', " it's", ' 1984', '  ', ' é'];

const randomText = (rng: Random, count: number): string =>
  Array.from({ length: count }, () => rng.pick(words)).join('');

/** Files of all kinds with documents of all lengths. */
async function randomCorpus(folder: string, rng: Random): Promise<CorpusFile[]> {
  const files: string[] = [];
  for (let i = 0; i < rng.integer(1, 5); i++) {
    const documents = Array.from({ length: rng.integer(0, 40) }, () => randomText(rng, rng.pick([0, 1, 9, 60, 700])));
    const name = rng.pick(['txt', 'jsonl', 'bin']);
    const path = join(folder, `${files.length}.${name}`);
    files.push(path);
    if (name === 'txt') await writeFile(path, documents.join('<|endoftext|>'));
    else if (name === 'jsonl') await writeFile(path, documents.map((text) => JSON.stringify({ text })).join('\n'));
    else await writeFile(path, Uint16Array.from(documents.flatMap((text) => [...encode(text), 50_256])));
  }
  return files;
}

test('each block alone is that of the whole reading, at random sizes, kinds of files and limits', async () => {
  const rng = random(41);
  for (let round = 0; round < 25; round++) {
    await withFolder(async (folder) => {
      const files = await randomCorpus(folder, rng);
      const cut = { context: rng.integer(1, 40), rowsPerShard: rng.integer(1, 30) };
      const limit = rng.next() < 0.3 ? { limit: rng.integer(1, 3000) } : {};
      const { reader } = await readerOf(files, { ...cut, ...limit });
      const whole = await blocksOf(reader.blocks());
      const out = join(folder, 'out');
      await mkdir(out);
      const index = await wholeIndex(new DiskStore(out), reader, reader.header as IndexHeader);
      assert.is(index.known, whole.length);
      assert.is(
        index.tokens,
        whole.reduce((sum, block) => sum + block.tokenCount, 0),
      );
      for (let i = 0; i < 12 && whole.length > 0; i++) {
        const from = rng.integer(0, whole.length);
        const to = Math.min(whole.length, from + rng.integer(1, 4));
        assert.equal(await blocksOf(reader.blocks(from, to)), whole.slice(from, to), `blocks ${from} to ${to}`);
      }
      await reader.close();
    });
  }
});

async function largeCorpus(folder: string): Promise<CorpusFile[]> {
  const text = (await readFile(sampleText, 'utf8')).replaceAll('<|endoftext|>', '');
  const documents = text.match(/.{1,900}/gs) ?? [];
  const [a, b, c] = ['a.txt', 'b.jsonl', 'c.txt'].map((name) => join(folder, name)) as [string, string, string];
  await writeFile(a, `${documents.join('<|endoftext|>')}<|endoftext|>`.repeat(30));
  await writeFile(b, `${documents.map((document) => JSON.stringify({ text: document })).join('\n')}\n`.repeat(10));
  await writeFile(c, text.repeat(12)); // one long document
  return [a, b, c];
}

test('threads give the same blocks, and a block deep in the corpus needs little of it', () =>
  withFolder(async (folder) => {
    const files = await largeCorpus(folder);
    const cut = { context: 64, rowsPerShard: 128 };
    const one = await readerOf(files, cut);
    const whole = await blocksOf(one.reader.blocks());
    const total = one.bytesRead();
    assert.ok(total > 4e6 && whole.length > 100);
    const several = await readerOf(files, cut, 3);
    assert.equal(await blocksOf(several.reader.blocks()), whole);
    await mkdir(join(folder, 'one'));
    await mkdir(join(folder, 'several'));
    await wholeIndex(new DiskStore(join(folder, 'one')), one.reader, one.reader.header as IndexHeader);
    await wholeIndex(new DiskStore(join(folder, 'several')), several.reader, several.reader.header as IndexHeader);
    const texts = ['one', 'several'].map((name) => readFile(join(folder, name, 'index.jsonl'), 'utf8'));
    const [first, second] = await Promise.all(texts);
    assert.is(second, first, 'the index does not depend on threads');
    const fresh = await readerOf(files, cut, 3);
    await wholeIndex(new DiskStore(join(folder, 'one')), fresh.reader, fresh.reader.header as IndexHeader);
    assert.is(fresh.bytesRead(), 0, 'an index that is there is used');
    for (const number of [whole.length - 1, 70, 130, 1, 0]) {
      const before = fresh.bytesRead();
      assert.equal(await blocksOf(fresh.reader.blocks(number, number + 1)), [whole[number]]);
      assert.ok(fresh.bytesRead() - before < 0.02 * total, `${fresh.bytesRead() - before} bytes for block ${number}`);
    }
    await Promise.all([one, several, fresh].map(({ reader }) => reader.close()));
  }));

test('an error is the same on threads, behind the blocks before it', () =>
  withFolder(async (folder) => {
    const files = await largeCorpus(folder);
    const path = files[0] as string;
    const bytes = await readFile(path);
    bytes[2_900_000] = 0xff;
    await writeFile(path, bytes);
    const counts: number[] = [];
    for (const threads of [1, 3]) {
      const { reader } = await readerOf([path], { context: 64, rowsPerShard: 64 }, threads);
      let count = 0;
      const read = async () => {
        for await (const _ of reader.blocks()) count++;
      };
      await rejects(read(), Error, /a\.txt, byte 2900000: not valid UTF-8 \(0xff\)/);
      counts.push(count);
      await reader.close();
    }
    assert.is(counts[0], counts[1]);
    assert.ok((counts[0] as number) > 100, String(counts[0]));
  }));

test('a corpus that has changed is named, with the place', () =>
  withFolder(async (folder) => {
    const files = await largeCorpus(folder);
    const { reader } = await readerOf(files, { context: 64, rowsPerShard: 128 });
    await mkdir(join(folder, 'out'));
    const index = await wholeIndex(new DiskStore(join(folder, 'out')), reader, reader.header as IndexHeader);
    const path = files[0] as string;
    const bytes = await readFile(path);
    const text = bytes.toString('latin1');
    const at = text.indexOf('the', 1_500_000);
    await writeFile(path, Buffer.from(`${text.slice(0, at)}any${text.slice(at + 3)}`, 'latin1'));
    const shard = Array.from({ length: index.known }, (_, i) => i).findLast((i) => {
      const entry = index.entry(i);
      return entry?.source === 0 && entry.offset <= at;
    }) as number;
    const read = (number: number) => blocksOf(reader.blocks(number, number + 1));
    await rejects(read(shard), Error, /the corpus has changed since its index was made: \S+a\.txt, from byte \d+ on,/);
    assert.is((await read(shard + 3)).length, 1, 'other shards can be read');
    await writeFile(path, bytes.subarray(0, 1_000_000)); // shorter than before
    await rejects(
      read(shard + 3),
      Error,
      /the corpus has changed since its index was made: \S+a\.txt, .*(ends before|has other)/,
    );
    await reader.close();
  }));

test('a corpus that cannot be read again has no index, nor has text of a tokenizer of the user’s own', async () => {
  async function* items() {
    yield 'One.';
  }
  const sources = await openCorpus(items());
  const settings = { context: 4, limit: null, corpus: [], tokenizer: 'gpt2', model: { vocabulary: 50_257 } } as const;
  assert.is(new CorpusReader(sources, { settings, rowsPerShard: 1, encode }).header, undefined);
  const files = await openCorpus(sampleText);
  const own = (text: string): number[] => [text.length];
  assert.is(new CorpusReader(files, { settings, rowsPerShard: 1, encode: own }).header, undefined);
  assert.ok(new CorpusReader(files, { settings, rowsPerShard: 1, encode }).header);
});

test.run();
