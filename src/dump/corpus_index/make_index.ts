// Makes the index of a corpus in the folder of a dump: a large one together with the other processes that need it, and
// else in one pass of one process, for which the others wait.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Store } from '../../files/store/store.js';
import type { Block } from '../corpus/blocks.js';
import { onDisk } from '../format/disk.js';
import { indexFile, indexLease, isIndexFile, isSliceFile } from '../format/manifest.js';
import { type CorpusIndex, type FoundIndex, IndexWriter, readIndex } from './corpus_index.js';
import type { CorpusReader } from './corpus_reader.js';
import { firstLine, type IndexEntry, type IndexHeader } from './index_format.js';
import { SliceMaker, type SliceOptions } from './make_slices.js';
import { clearSlices, removeSlice } from './slice_files.js';

const pollMilliseconds = 500;

/**
 * The whole index of a corpus of files (`header` is the reader's), which the reader uses from then on. A large corpus is
 * divided into slices: processes that need the index at the same time share them, and one that is alone reads them all
 * in one pass. A small corpus, one with a limit, and one of whose index a part is there, are read in one pass by one
 * process, and the others wait for it. For a corpus without tokens, the index has no shards, and nothing is written.
 * @throws Error when the corpus cannot be read, or when the folder has the index of another one.
 */
export async function wholeIndex(
  store: Store,
  reader: CorpusReader,
  header: IndexHeader,
  options: SliceOptions = {},
): Promise<CorpusIndex> {
  const maker = new SliceMaker(store, reader, header, options);
  let [isShared, hasShared] = [maker.slices.count > 1, false];
  for (;;) {
    const found = await readIndex(store, header);
    if (found.index.isComplete && found.isClean) {
      if (hasShared) await clearIndex(store); // a slice may have been made twice
      reader.use(found.index);
      return found.index;
    }
    const isMade = isShared && (await areMade(maker, options.signal));
    hasShared ||= isShared;
    if (!isMade && !(await store.find(indexFile))) isShared = false;
    const lease = await onDisk(store.pathOf(indexLease), store.takeLease(indexLease));
    if (typeof lease !== 'string') {
      try {
        const now = await readIndex(store, header); // another process may have gone on with it before
        const index = isMade && isNone(now) ? joinedBy(maker) : undefined;
        if (!index) return await make(now, new IndexWriter(store, now, lease), reader, options);
        await writeWhole(store, index);
        reader.use(index);
        return index;
      } finally {
        await lease.release();
      }
    }
    if (!isMade) options.onIndexed?.(found.index);
    await sleep(pollMilliseconds, undefined, { ...(options.signal && { signal: options.signal }) }).catch(() => {});
    options.signal?.throwIfAborted();
  }
}

/**
 * For a corpus that can have no index, as it cannot be read again or its tokenizer is not GPT-2's own.
 * @throws Error when the folder has one, which is of something else.
 */
export async function checkNoIndex(store: Store): Promise<void> {
  if (!(await store.find(indexFile))) return;
  throw new Error(
    `dump: ${store.pathOf(indexFile)} is the index of a corpus of files with GPT-2's tokenizer, and this dump has another ` +
      'corpus or tokenizer. Remove it, or choose another folder',
  );
}

/** Removes what a killed process has left of an index, unless another one is making it. */
export async function clearIndex(store: Store): Promise<void> {
  const names = await store.list();
  const isThere = names.includes(indexFile); // until then, its slices are what has been made of it
  const left = names.filter((name) => isIndexFile(name) && name !== indexFile && (isThere || !isSliceFile(name)));
  if (left.length === 0) return;
  const lease = await store.takeLease(indexLease);
  if (typeof lease === 'string') return;
  try {
    for (const name of left) {
      if (name === indexLease) continue;
      const removed = isSliceFile(name) ? removeSlice(store, name) : store.remove(name);
      await onDisk(store.pathOf(indexFile), removed);
    }
  } finally {
    await lease.release();
  }
}

/**
 * Makes the slices of an index with other processes. Returns whether they are all done. What is wrong with the corpus or
 * the folder is found again by the pass of one process, which knows the place.
 */
async function areMade(maker: SliceMaker, signal: AbortSignal | undefined): Promise<boolean> {
  try {
    return await maker.make();
  } catch {
    signal?.throwIfAborted();
    return false;
  }
}

const isNone = ({ index, isClean }: FoundIndex): boolean => index.known === 0 && isClean;

/** The index of all slices; undefined when they do not join up, as files from elsewhere may not. */
function joinedBy(maker: SliceMaker): CorpusIndex | undefined {
  try {
    return maker.joined();
  } catch {
    return undefined;
  }
}

async function writeWhole(store: Store, index: CorpusIndex): Promise<void> {
  const text = `${firstLine(index.header)}\n${index.text(0)}`;
  if (index.known > 0) await onDisk(store.pathOf(indexFile), store.writeText(indexFile, text));
  await onDisk(store.pathOf(indexFile), clearSlices(store));
}

async function make(
  { index }: FoundIndex,
  writer: IndexWriter,
  reader: CorpusReader,
  { signal, onIndexed }: SliceOptions,
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
    const entry = block.number < this.#index.known ? undefined : await this.#reader.entryOf(block);
    if (entry) this.#index.add(entry);
  }

  /** The corpus has no more blocks. */
  end(): void {
    const { known, tokens, isComplete } = this.#index;
    if (known > 0 && !isComplete) this.#index.complete({ shards: known, tokens, documents: this.#documents });
  }
}
