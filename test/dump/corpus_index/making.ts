// Makes the index of a corpus in slices of a given size, as a function and as a program: FOLDER, and what is to be made as
// JSON.
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type CorpusFile, describeSource, openCorpus } from '../../../src/dump/corpus/corpus.js';
import { TokenizerThreads } from '../../../src/dump/corpus/tokenizer_threads.js';
import { CorpusReader } from '../../../src/dump/corpus_index/corpus_reader.js';
import type { IndexHeader } from '../../../src/dump/corpus_index/index_format.js';
import { clearIndex, wholeIndex } from '../../../src/dump/corpus_index/make_index.js';
import type { SliceOptions } from '../../../src/dump/corpus_index/make_slices.js';
import { Slices } from '../../../src/dump/corpus_index/slices.js';
import { openStore } from '../../../src/files/store/open_store.js';
import type { Store } from '../../../src/files/store/store.js';
import { gpt2Tokenizer } from '../../../src/files/tokenizer/tokenizer.js';

export interface Making extends SliceOptions {
  readonly files: CorpusFile[];
  readonly context: number;
  readonly rowsPerShard: number;
  readonly limit?: number;
  readonly sectionBytes?: number;
  readonly threads?: number;
}

export interface Made {
  readonly shards: number;
  readonly bytesRead: number;
  /** The number of slices that the corpus has. */
  readonly slices: number;
}

export async function makeIndex(store: Store, making: Making): Promise<Made> {
  const { files, context, rowsPerShard, limit, sectionBytes, threads = 1, ...options } = making;
  const sources = await openCorpus(files);
  const settings = {
    ...{ context, limit: limit ?? null, corpus: sources.map(describeSource) },
    ...{ tokenizer: 'gpt2' as const, model: { vocabulary: 50_257 } },
  };
  let bytesRead = 0;
  const onBytes = (bytes: number) => {
    bytesRead += bytes;
  };
  const { encode } = gpt2Tokenizer();
  const reader = new CorpusReader(
    sources,
    { settings, rowsPerShard, encode },
    { threads: new TokenizerThreads(threads), onBytes, ...(sectionBytes !== undefined && { sectionBytes }) },
  );
  const header = reader.header as IndexHeader;
  try {
    await clearIndex(store); // as all do that make an index
    const { known } = await wholeIndex(store, reader, header, options);
    return { shards: known, bytesRead, slices: new Slices(reader, header, options.sliceBytes).count };
  } finally {
    await reader.close();
  }
}

/** The index in a folder; empty where there is none. */
export const indexIn = (folder: string): Promise<string> =>
  readFile(join(folder, 'index.jsonl'), 'utf8').catch(() => '');

/** The index that one pass makes, in a new folder. */
export async function onePass(folder: string, making: Making): Promise<string> {
  await mkdir(folder, { recursive: true });
  await makeIndex(openStore(folder), { ...making, sliceBytes: 2 ** 40 });
  return indexIn(folder);
}

export const program = fileURLToPath(import.meta.url);

if (process.argv[1] === program) {
  const [folder, making] = process.argv.slice(2) as [string, string];
  await makeIndex(openStore(folder), JSON.parse(making));
}
