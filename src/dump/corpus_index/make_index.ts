// Makes the index of a corpus in the folder of a dump, or waits until another process has made it.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Store } from '../../files/store/store.js';
import type { Block } from '../corpus/blocks.js';
import { onDisk } from '../format/disk.js';
import { indexFile, indexLease, isIndexFile } from '../format/manifest.js';
import { type CorpusIndex, type FoundIndex, IndexWriter, readIndex } from './corpus_index.js';
import type { CorpusReader } from './corpus_reader.js';
import { entryOf, type IndexEntry, type IndexHeader } from './index_format.js';

export interface MakingOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called with what is known so far, also while another process makes the index. */
  readonly onIndexed?: (known: CorpusIndex) => void;
}

const pollMilliseconds = 500;

/**
 * The whole index of a corpus of files (`header` is the reader's), which the reader uses from then on. It is made where a part of it ends, in one
 * pass over the corpus; if another process makes it at this time, it is waited for. For a corpus without tokens, it has
 * no shards, and nothing is written.
 * @throws Error when the corpus cannot be read, or when the folder has the index of another one.
 */
export async function wholeIndex(
  store: Store,
  reader: CorpusReader,
  header: IndexHeader,
  options: MakingOptions = {},
): Promise<CorpusIndex> {
  for (;;) {
    const found = await readIndex(store, header);
    if (found.index.isComplete && found.isClean) {
      reader.use(found.index);
      return found.index;
    }
    const lease = await onDisk(store.pathOf(indexLease), store.takeLease(indexLease));
    if (typeof lease !== 'string') {
      try {
        const now = await readIndex(store, header); // another process may have gone on with it before
        return await make(now, new IndexWriter(store, now, lease), reader, options);
      } finally {
        await lease.release();
      }
    }
    options.onIndexed?.(found.index);
    await sleep(pollMilliseconds, undefined, { ...(options.signal && { signal: options.signal }) }).catch(() => {});
    options.signal?.throwIfAborted();
  }
}

/** Removes what a killed process has left of an index, unless another one is making it. */
export async function clearIndex(store: Store): Promise<void> {
  const left = (await store.list()).filter((name) => isIndexFile(name) && name !== indexFile);
  if (left.length === 0) return;
  const lease = await store.takeLease(indexLease);
  if (typeof lease === 'string') return;
  try {
    for (const name of left) if (name !== indexLease) await onDisk(store.pathOf(indexFile), store.remove(name));
  } finally {
    await lease.release();
  }
}

async function make(
  { index }: FoundIndex,
  writer: IndexWriter,
  reader: CorpusReader,
  { signal, onIndexed }: MakingOptions,
): Promise<CorpusIndex> {
  reader.use(index);
  const recorder = new IndexRecorder(index, reader);
  try {
    await checkKnown(index, reader);
    for await (const block of reader.blocks(Math.max(0, index.known - 1))) {
      signal?.throwIfAborted();
      await recorder.add(block);
      await writer.writeSome();
      onIndexed?.(index);
    }
    recorder.end();
    await writer.writeAll();
  } catch (error) {
    await writer.writeAll().catch(() => {}); // what is known lasts, if it can
    throw error;
  } finally {
    await writer.close();
  }
  return index;
}

/**
 * Compares the text where known shards begin. Where it is another one, the shard is read: what has changed may lie behind
 * it, such as a line that was broken.
 */
async function checkKnown(index: CorpusIndex, reader: CorpusReader): Promise<void> {
  for (let shard = 0; shard < index.known; shard++) {
    const entry = index.entry(shard) as IndexEntry;
    const sample = await reader.sampleOf(entry);
    if (sample === entry.sample) continue;
    for await (const _ of reader.blocks(shard, shard + 1)); // throws when the shard has other tokens
    index.refresh(shard, sample);
  }
}

/** Adds the blocks of a pass to an index, in order. */
export class IndexRecorder {
  readonly #index: CorpusIndex;
  readonly #reader: CorpusReader;
  #documents = 0;

  constructor(index: CorpusIndex, reader: CorpusReader) {
    this.#index = index;
    this.#reader = reader;
  }

  async add(block: Block): Promise<void> {
    const last = block.document.findLast((document) => document >= 0) ?? -1;
    this.#documents = Math.max(this.#documents, last + 1);
    if (block.number < this.#index.known || !block.begin) return;
    const entry = entryOf(block, block.begin);
    this.#index.add({ ...entry, sample: await this.#reader.sampleOf(entry) });
  }

  /** The corpus has no more blocks. */
  end(): void {
    const { known, tokens, isComplete } = this.#index;
    if (known > 0 && !isComplete) this.#index.complete({ shards: known, tokens, documents: this.#documents });
  }
}
