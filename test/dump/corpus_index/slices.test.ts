// An index that is made in slices, by one maker or by several at the same time. Oracle: the index of one pass over the
// corpus, byte for byte.
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { type CorpusFile, describeSource, openCorpus } from '../../../src/dump/corpus/corpus.js';
import { TokenizerThreads } from '../../../src/dump/corpus/tokenizer_threads.js';
import { CorpusReader } from '../../../src/dump/corpus_index/corpus_reader.js';
import type { IndexHeader } from '../../../src/dump/corpus_index/index_format.js';
import { wholeIndex } from '../../../src/dump/corpus_index/make_index.js';
import { Slices } from '../../../src/dump/corpus_index/slices.js';
import { DiskStore } from '../../../src/files/store/disk_store.js';
import { gpt2Tokenizer } from '../../../src/files/tokenizer/tokenizer.js';
import { withFolder } from '../../support/folders.js';
import { suite } from '../../support/harness.js';
import { type Random, random } from '../../support/random.js';
import { sampleText } from '../folders.js';

const test = suite('slices of an index');
test.limit(120_000);
const { encode } = gpt2Tokenizer();
const sectionBytes = 2 ** 12;

interface Cut {
  readonly context: number;
  readonly rowsPerShard: number;
}

interface Made {
  readonly text: string;
  readonly bytesRead: number;
  readonly slices: number;
}

/** Makes the index in a folder, by so many makers at the same time, and returns what each has read. */
async function makeIndex(files: CorpusFile[], cut: Cut, out: string, sliceBytes: number, makers = 1): Promise<Made[]> {
  await mkdir(out, { recursive: true });
  const sources = await openCorpus(files);
  const settings = {
    ...{ context: cut.context, limit: null, corpus: sources.map(describeSource) },
    ...{ tokenizer: 'gpt2' as const, model: { vocabulary: 50_257 } },
  };
  const make = async (): Promise<Made> => {
    let bytesRead = 0;
    const onBytes = (bytes: number) => {
      bytesRead += bytes;
    };
    const reader = new CorpusReader(
      sources,
      { settings, rowsPerShard: cut.rowsPerShard, encode },
      { threads: new TokenizerThreads(1), sectionBytes, onBytes },
    );
    try {
      const header = reader.header as IndexHeader;
      await wholeIndex(new DiskStore(out), reader, header, { sliceBytes });
      const text = await readFile(join(out, 'index.jsonl'), 'utf8').catch(() => '');
      return { text, bytesRead, slices: new Slices(reader, header, sliceBytes).count };
    } finally {
      await reader.close();
    }
  };
  return Promise.all(Array.from({ length: makers }, make));
}

const onePass = 2 ** 40;

/** Demands that makers in slices make the index of one pass, and leave nothing else. */
async function sameAsOnePass(folder: string, files: CorpusFile[], cut: Cut, sliceBytes: number, makers: number[]) {
  const [expected] = await makeIndex(files, cut, join(folder, 'whole'), onePass);
  assert.is(expected?.slices, 1);
  for (const count of makers) {
    const out = join(folder, 'out');
    const made = await makeIndex(files, cut, out, sliceBytes, count);
    for (const { text } of made) assert.is(text, expected?.text, `${count} makers`);
    assert.equal(await readdir(out), expected?.text === '' ? [] : ['index.jsonl']);
    await rm(out, { recursive: true });
    if (count === 1) assert.is(made[0]?.bytesRead, expected?.bytesRead, 'one maker reads once');
  }
  await rm(join(folder, 'whole'), { recursive: true });
}

const words = ['Kate', ' found', ' a', ' red', ' ball', '.', '\n', ' 漢字', " it's", ' 1984', '  ', ' é'];

const randomText = (rng: Random, count: number): string =>
  Array.from({ length: count }, () => rng.pick(words)).join('');

/** Files of all kinds, empty ones among them, with documents of all lengths. */
async function randomCorpus(folder: string, rng: Random): Promise<CorpusFile[]> {
  const files: CorpusFile[] = [];
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
      const lines = documents.map((text) => JSON.stringify({ text }));
      await writeFile(
        path,
        mark + lines.join(rng.pick(['\n', '\r\n', '\n\n'])) + rng.pick(['', '\n', '\n'.repeat(9000)]),
      );
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
  for (let round = 0; round < Number(process.env.TEST_ROUNDS ?? 12); round++) {
    await withFolder(async (folder) => {
      const files = await randomCorpus(folder, rng);
      const cut = { context: rng.integer(5, 40), rowsPerShard: rng.pick([2, 20, 200]) };
      const sizes = await Promise.all(files.map(async (file) => (await stat(file as string)).size));
      const bytes = sizes.reduce((sum, size) => sum + size, 0);
      await sameAsOnePass(folder, files, cut, Math.max(1, bytes / rng.integer(2, 12)), [1, rng.integer(2, 4)]);
    });
  }
});

void sampleText;
test.run();
