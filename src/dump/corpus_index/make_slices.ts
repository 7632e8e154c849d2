// Makes an index in slices, together with other processes that do the same at this time. Each slice is read by one
// process, which has its lease.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Lease } from '../../files/lease.js';
import { quietly } from '../../files/promises.js';
import type { Store } from '../../files/store/store.js';
import type { Block } from '../corpus/blocks.js';
import { indexFile, sliceFile } from '../format/manifest.js';
import { CorpusIndex } from './corpus_index.js';
import type { CorpusReader } from './corpus_reader.js';
import type { IndexHeader } from './index_format.js';
import { type SliceEntries, SliceFiles } from './slice_files.js';
import { type RunHost, SliceRun } from './slice_run.js';
import { type SliceState, type SliceSummary, startOfCorpus, stateAfter } from './slice_state.js';
import { Slices } from './slices.js';
import { Takeovers } from './takeovers.js';

/** What is known of an index while it is made. */
export interface IndexedSoFar {
  /** The numbers of shards and of their tokens. */
  readonly known: number;
  readonly tokens: number;
  /** Bytes of the corpus that other processes have read, about. */
  readonly bytesElsewhere?: number;
}

export interface SliceOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called with what is known so far, also while another process makes the index. */
  readonly onIndexed?: ((known: IndexedSoFar) => void) | undefined;
  /** The fewest bytes of a slice. */
  readonly sliceBytes?: number | undefined;
}

/** Where another process has all slices that are left, and where the state at the start of a slice is not known. */
const idleMilliseconds = 250;
const stateMilliseconds = 50;
const mostLosses = 5;

export class SliceMaker implements RunHost {
  readonly reader: CorpusReader;
  readonly header: IndexHeader;
  readonly slices: Slices;
  readonly #store: Store;
  readonly #options: SliceOptions;
  readonly #files: SliceFiles;
  /** The states at the starts of slices, from the first one on, and the summaries that this process has made. */
  readonly #states: SliceState[] = [startOfCorpus];
  readonly #summaries = new Map<number, SliceSummary>();
  /** What is known of each slice that is done. */
  readonly #done = new Map<number, SliceEntries>();
  #known = 0;
  #tokens = 0;
  #slicesElsewhere = 0;
  /** What is written, in order, while the corpus is read on. */
  #writing: Promise<void> = Promise.resolve();
  /** How often another process was faster with a lease. */
  #losses = 0;
  #takeovers = this.#newTakeovers();

  constructor(store: Store, reader: CorpusReader, header: IndexHeader, options: SliceOptions) {
    this.#store = store;
    this.reader = reader;
    this.header = header;
    this.#options = options;
    this.slices = new Slices(reader, header, options.sliceBytes);
    this.#files = new SliceFiles(store, header, this.slices.count);
  }

  /** Returns true when all slices are done, and false when another process writes the index in one pass. */
  async make(): Promise<boolean> {
    this.#takeovers = this.#newTakeovers();
    try {
      for (;;) {
        this.#options.signal?.throwIfAborted();
        if (await this.#hasIndex()) return false;
        const names = await this.#files.names();
        const left = await this.#left(names);
        this.#report();
        if (left.length === 0) return true;
        const claimed = new Set(left.filter((slice) => names.has(sliceFile(slice, 'claim'))));
        const free = left.filter((slice) => !claimed.has(slice));
        const taken = await this.#takeOne(free, claimed);
        if (taken) await this.#run(...taken);
        else if (free.length === 0) await this.#pause(idleMilliseconds);
      }
    } finally {
      await this.#takeovers.close(this.#options.signal?.aborted === true);
    }
  }

  /** The index of all slices. @throws Error when they do not join up. */
  joined(): CorpusIndex {
    const index = new CorpusIndex(this.header);
    let documents = 0;
    for (let slice = 0; slice < this.slices.count; slice++) {
      const { begin, entries, documents: upTo } = this.#done.get(slice) as SliceEntries;
      const state = this.#states[slice];
      if (!state || !isSame(begin, state)) throw new Error(`slice ${slice} begins elsewhere`);
      for (const entry of entries) index.add(entry);
      if (entries.length > 0) documents = upTo;
    }
    const end = this.#states[this.slices.count];
    if (end?.tokens !== index.tokens) throw new Error('the slices have other tokens than their shards');
    if (index.known > 0) index.complete({ shards: index.known, tokens: index.tokens, documents });
    return index;
  }

  // ---- which slice

  /** The slices that are not done. */
  async #left(names: ReadonlySet<string>): Promise<number[]> {
    const left: number[] = [];
    for (let slice = 0; slice < this.slices.count; slice++) {
      const isDone = this.#done.has(slice) || (names.has(sliceFile(slice, 'entries')) && (await this.#isDone(slice)));
      if (!isDone) left.push(slice);
    }
    if (left.length === 0) await this.lookForStates();
    return left;
  }

  /** Looks whether another process has done a slice, from the text as it is: one that was killed may have left it long ago. */
  async #isDone(slice: number): Promise<boolean> {
    const [found, summary] = [await this.#files.entries(slice), await this.#files.summary(slice)];
    if (!found || !summary) return false;
    for (const entry of found.entries) if ((await this.reader.sampleOf(entry)) !== entry.sample) return false;
    this.#summaries.set(slice, summary);
    this.#done.set(slice, found);
    this.#slicesElsewhere++;
    this.#known += found.entries.length;
    this.#tokens += found.entries.reduce((sum, { tokens }) => sum + tokens, 0);
    return true;
  }

  /**
   * The lease on a slice. One that a process will come to soon is left to it, as it reads on without beginning anew;
   * those that processes have are taken when these have ended. A process that came too late tries another one, as several
   * that begin at the same time would follow each other from slice to slice.
   */
  async #takeOne(free: readonly number[], claimed: ReadonlySet<number>): Promise<[number, Lease] | undefined> {
    const apart = free.filter((number) => !claimed.has(number - 1));
    const random = 2 * Math.floor(Math.random() * 2 ** this.#losses);
    const slice = apart[Math.min(random, apart.length - 1)] ?? free[0];
    if (slice === undefined) return this.#takeovers.next([...claimed]);
    const lease = await this.#files.takeLease(slice);
    if (lease) return [slice, lease];
    this.#losses = Math.min(this.#losses + 1, mostLosses);
    return undefined;
  }

  async takeIfFree(slice: number): Promise<Lease | undefined> {
    if (slice >= this.slices.count || this.#done.has(slice) || (await this.#files.isClaimed(slice))) return undefined;
    const lease = await this.#files.takeLease(slice);
    if (!lease || (await this.#isWanted(slice))) return lease;
    await lease.release();
    return undefined;
  }

  /** Whether a slice whose lease was just taken is to be read: the process before may have done it. */
  async #isWanted(slice: number): Promise<boolean> {
    return !this.#done.has(slice) && !(await this.#isDone(slice)) && !(await this.#hasIndex());
  }

  async #run(slice: number, lease: Lease): Promise<void> {
    try {
      if (await this.#isWanted(slice)) await new SliceRun(this, slice, lease).run();
      await this.#writing;
    } finally {
      await this.#writing.catch(() => {});
      await lease.release();
    }
  }

  async #hasIndex(): Promise<boolean> {
    return (await this.#store.find(indexFile)) !== undefined;
  }

  // ---- states and results

  state(slice: number): SliceState | undefined {
    return this.#states[slice];
  }

  async lookForStates(): Promise<void> {
    for (let slice = this.#states.length - 1; slice < this.slices.count; slice++) {
      const summary = this.#summaries.get(slice) ?? (await this.#files.summary(slice));
      if (!summary) return;
      this.#states.push(stateAfter(this.#states[slice] as SliceState, summary, this.header.context));
    }
  }

  async waitForState(slice: number): Promise<SliceState | undefined> {
    for (;;) {
      await this.lookForStates();
      if (this.#states[slice] || (await this.#hasIndex())) return this.#states[slice];
      // The process that reads the slice that is missing may have ended. The state at its start is known.
      const taken = this.#takeovers.next([this.#states.length - 1]);
      if (taken) await this.#runMissing(...taken);
      else await this.#pause(stateMilliseconds);
    }
  }

  async #runMissing(slice: number, lease: Lease): Promise<void> {
    await this.lookForStates();
    if (this.#states.length - 1 === slice) await this.#run(slice, lease);
    else await lease.release();
  }

  async publish(slice: number, summary: SliceSummary): Promise<void> {
    const [before, after] = [this.#states[slice], this.#states[slice + 1]];
    if (before && after && !isSame(after, stateAfter(before, summary, this.header.context))) {
      throw new Error(`slice ${slice} is not what its summary says`);
    }
    this.#summaries.set(slice, summary);
    this.#write(() => this.#files.writeSummary(slice, summary));
    await this.lookForStates();
  }

  finish(slice: number, entries: SliceEntries, lease: Lease): void {
    this.#done.set(slice, entries);
    this.#write(() => this.#files.writeEntries(slice, entries), lease);
  }

  #write(work: () => Promise<void>, lease?: Lease): void {
    const written = this.#writing.then(work).finally(() => lease?.release());
    this.#writing = quietly(written);
  }

  // ---- waiting and progress

  readonly onBlock = ({ tokenCount }: Block): void => {
    this.#options.signal?.throwIfAborted();
    this.#known++;
    this.#tokens += tokenCount;
    this.#report();
  };

  #report(): void {
    const bytesElsewhere = (this.#slicesElsewhere * this.slices.bytes) / this.slices.count;
    this.#options.onIndexed?.({ known: this.#known, tokens: this.#tokens, bytesElsewhere });
  }

  async #pause(milliseconds: number): Promise<void> {
    const { signal } = this.#options;
    await sleep(milliseconds, undefined, { ...(signal && { signal }) }).catch(() => {});
    signal?.throwIfAborted();
    this.#report();
  }

  #newTakeovers(): Takeovers {
    return new Takeovers((slice) => this.#files.takeLease(slice));
  }
}

const isSame = (a: SliceState, b: SliceState): boolean =>
  (Object.keys(startOfCorpus) as (keyof SliceState)[]).every((field) => a[field] === b[field]);
