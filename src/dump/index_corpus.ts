// indexCorpus(): makes the index of a corpus ahead of the dumps that use it.
import { checkCallback, checkInteger, checkOptions, checkSignal, type OptionNames } from '../engine/check.js';
import { openStore } from '../files/store/open_store.js';
import type { Store } from '../files/store/store.js';
import { gpt2Tokenizer } from '../files/tokenizer/tokenizer.js';
import { type CorpusFile, corpusBytes, describeSource, isSeekable, openCorpus } from './corpus/corpus.js';
import { CorpusReader } from './corpus_index/corpus_reader.js';
import { headerDifference, headerOfDump, type IndexHeader } from './corpus_index/index_format.js';
import { clearIndex, wholeIndex } from './corpus_index/make_index.js';
import { isManifestFile, readManifests } from './format/manifest.js';
import { rowsPerShard } from './format/positions.js';
import type { StorageOptions } from './format/settings.js';
import { checkRoom } from './shards/folder.js';

export interface IndexProgress {
  readonly shards: number;
  readonly tokens: number;
  /** Bytes that were read, those that other processes have read for the same index among them. */
  readonly bytesRead: number;
  /** The bytes of all files. */
  readonly totalBytes: number;
}

export interface IndexOptions extends Pick<StorageOptions, 'context' | 'shardTokens' | 'limit'> {
  corpus: CorpusFile | CorpusFile[];
  /** The folder of the dump, or `az://account/container/prefix`: new, empty, or with a dump of this corpus. */
  out: string;
  /** The size of the vocabulary of the model; GPT-2's, 50,257, when left out. */
  vocabulary?: number;
  signal?: AbortSignal;
  onProgress?: (progress: IndexProgress) => void;
}

const indexOptionNames: OptionNames<IndexOptions> = {
  ...{ corpus: true, out: true, context: true, shardTokens: true, limit: true },
  ...{ vocabulary: true, signal: true, onProgress: true },
};

export interface IndexResult {
  readonly out: string;
  readonly shards: number;
  readonly tokens: number;
  /** Bytes that this call read: 0 when the index was there already. */
  readonly bytesRead: number;
}

/**
 * Makes the index of a corpus of files of GPT-2's text or tokens, `index.jsonl`, in the folder of a dump: where each of
 * its shards begins. Dumps with the same files, `context`, `shardTokens` and `limit` use it, and so do their parts and
 * the workers of a queue: none of them reads what lies before its shards. A dump makes it by itself on the way.
 * Processes that make it in one folder at the same time, on one machine or several, share the work where the corpus is
 * larger than 32 MB and 8 shards: each reads other slices of it. Smaller ones, and those with `limit`, are read by one
 * process, and the others wait for it. The same call goes on with one that was interrupted.
 * @throws TypeError or RangeError for an option that cannot be; Error for a corpus that cannot be read or has no tokens,
 *   and when the folder has another index, or files of others.
 */
export async function indexCorpus(options: IndexOptions): Promise<IndexResult> {
  checkOptions('indexCorpus', options, indexOptionNames);
  const { out, context = 128, shardTokens = 2 ** 20, limit, vocabulary = gpt2Tokenizer().nVocab, signal } = options;
  if (typeof out !== 'string' || out === '') throw new TypeError('indexCorpus: out must be the path of a folder');
  checkInteger('indexCorpus', 'context', context, 1, 2 ** 20);
  checkInteger('indexCorpus', 'shardTokens', shardTokens, 1, 2 ** 27);
  if (limit !== undefined) checkInteger('indexCorpus', 'limit', limit, 1);
  checkInteger('indexCorpus', 'vocabulary', vocabulary, 1, 2 ** 31);
  checkSignal('indexCorpus', signal);
  checkCallback('indexCorpus', 'onProgress', options.onProgress);
  const sources = await openCorpus(options.corpus, 'indexCorpus');
  if (!isSeekable(sources)) throw new TypeError('indexCorpus: corpus must be files: only they can be read again');
  const corpus = sources.map(describeSource);
  let bytesRead = 0;
  const cut = {
    settings: { corpus, tokenizer: 'gpt2', model: { vocabulary }, context, limit: limit ?? null } as const,
    rowsPerShard: rowsPerShard({ context, shardTokens }),
    encode: gpt2Tokenizer().encode,
  };
  const reader = new CorpusReader(sources, cut, {
    signal,
    onBytes: (bytes) => {
      bytesRead += bytes;
    },
  });
  const header = reader.header as IndexHeader; // the corpus is files, and the tokenizer GPT-2's own
  const store = openStore(out);
  const undo = await checkRoom(store);
  try {
    await checkSubject(store, header);
    await clearIndex(store);
    const totalBytes = corpusBytes(sources) as number;
    const { known, tokens } = await wholeIndex(store, reader, header, {
      signal,
      onIndexed: ({ known, tokens, bytesElsewhere = 0 }) => {
        const read = Math.min(bytesRead + bytesElsewhere, totalBytes);
        options.onProgress?.({ shards: known, tokens, bytesRead: read, totalBytes });
      },
    });
    if (known === 0) throw new Error('indexCorpus: the corpus has no tokens');
    return { out, shards: known, tokens, bytesRead };
  } finally {
    await reader.close();
    await undo(); // removes the folder where it is empty
  }
}

/** @throws Error when the folder holds a dump of another corpus or other rows, with the difference named. */
async function checkSubject(store: Store, header: IndexHeader): Promise<void> {
  const [name] = (await store.list()).filter(isManifestFile);
  const there = name === undefined ? undefined : (await readManifests(store, [name])).get(name);
  if (!there || there.shards.length === 0) return;
  const difference = headerDifference(headerOfDump(there), header);
  if (!difference) return;
  const [label, has, wants] = difference;
  throw new Error(`indexCorpus: ${store.name} holds a dump with ${label} ${has}, but ${wants} was asked for`);
}
