// The index of a corpus in memory, as far as it is known, and its file in the folder of a dump.
import { checkedLinesIn } from '../../files/checked_lines.js';
import type { Lease } from '../../files/lease.js';
import { quietly } from '../../files/promises.js';
import type { Appender, Store } from '../../files/store/store.js';
import { onDisk } from '../format/disk.js';
import { indexFile, indexLease } from '../format/manifest.js';
import { isObject } from '../format/schema.js';
import {
  firstLine,
  headerDifference,
  type IndexEnd,
  type IndexEntry,
  type IndexHeader,
  lineOf,
  readEnd,
  readEntry,
  readHeader,
} from './index_format.js';
import { clearSlices } from './slice_files.js';

/** An index as far as it is known. Shards are added in order. */
export class CorpusIndex {
  readonly header: IndexHeader;
  readonly #entries: IndexEntry[] = [];
  /** The number of tokens before each shard, and behind the last one. */
  readonly #tokensBefore: number[] = [0];
  #end: IndexEnd | undefined;
  /** How many entries are others than those that were added. */
  refreshed = 0;

  constructor(header: IndexHeader) {
    this.header = header;
  }

  /** The shards that are known: those with lower numbers. */
  get known(): number {
    return this.#entries.length;
  }

  /** Whether all shards of the corpus are known. */
  get isComplete(): boolean {
    return this.#end !== undefined;
  }

  get tokens(): number {
    return this.tokensBefore(this.known);
  }

  entry(shard: number): IndexEntry | undefined {
    return this.#entries[shard];
  }

  /** The number of tokens in the shards before one. */
  tokensBefore(shard: number): number {
    return this.#tokensBefore[shard] as number;
  }

  /** Adds the next shard. @throws Error when it cannot be the next one. */
  add(entry: IndexEntry): void {
    const problem = this.#problemWith(entry);
    if (problem !== undefined) throw new Error(`the line of shard ${entry.shard} ${problem}`);
    this.#tokensBefore.push(this.tokens + entry.tokens);
    this.#entries.push(entry);
  }

  /** Another sample of a shard: its text is as it was, and what lies behind it is not. */
  refresh(shard: number, sample: string): void {
    this.#entries[shard] = { ...(this.#entries[shard] as IndexEntry), sample };
    this.refreshed++;
  }

  #problemWith({ shard, source, offset, document, rows, tokens }: IndexEntry): string | undefined {
    const { context, rowsPerShard, sources } = this.header;
    const before = this.#entries.at(-1);
    if (shard !== this.known) return `comes where that of shard ${this.known} belongs`;
    if (tokens > rows * context || rows > rowsPerShard) return 'has more than a shard holds';
    if (source >= sources) return `begins in source ${source} of ${sources}`;
    if (!before) return undefined;
    if (before.rows < rowsPerShard) return 'follows the last one';
    const isBehind = source > before.source || (source === before.source && offset >= before.offset);
    return isBehind && document >= before.document ? undefined : 'lies before the one before it';
  }

  /** Declares all shards known. @throws Error when there are others than that. */
  complete(end: IndexEnd): void {
    const { shards, tokens } = end;
    if (shards !== this.known || tokens !== this.tokens) {
      throw new Error(`it ends with ${shards} shards of ${tokens} tokens, but has ${this.known} of ${this.tokens}`);
    }
    this.#end = end;
  }

  /** The lines of the file from a shard on. */
  text(from: number): string {
    const lines = this.#entries.slice(from).map((entry) => lineOf(this.header, entry));
    return lines.join('') + (this.#end ? lineOf(this.header, this.#end) : '');
  }
}

/** The most bytes of an index: about a million shards. */
const largestIndex = 2 ** 29;

export interface FoundIndex {
  readonly index: CorpusIndex;
  /** Whether the file has nothing but lines of the index. */
  readonly isClean: boolean;
}

/**
 * The index in a folder, as far as its lines are whole and in order; an empty one when there is none.
 * @throws Error when the file is no index, or that of another corpus or of other shards, with the difference named.
 */
export async function readIndex(store: Store, header: IndexHeader): Promise<FoundIndex> {
  const index = new CorpusIndex(header);
  const bytes = await bytesOfIndex(store);
  if (bytes === undefined) return { index, isClean: true };
  const path = store.pathOf(indexFile);
  const begin = bytes.toString('utf8', 0, mark.length);
  if (!mark.startsWith(begin)) throw new Error(`dump: ${path} is no index of a corpus. ${removeAdvice}`);
  const firstEnd = bytes.indexOf('\n') + 1;
  if (firstEnd === 0) return { index, isClean: false };
  const begins = bytes.toString('utf8', 0, firstEnd - 1);
  checkHeader(path, begins, header);
  let isClean = begins === firstLine(header);
  let at = firstEnd;
  try {
    for (const { json, start, end } of checkedLinesIn(bytes.subarray(firstEnd), firstLine(header))) {
      if (firstEnd + start !== at) isClean = false;
      const isKnown = addLine(index, JSON.parse(json));
      if (!isKnown) return { index, isClean: false };
      at = firstEnd + end;
    }
  } catch (cause) {
    throw new Error(`dump: ${path} is not as it should be: ${(cause as Error).message}. ${removeAdvice}`, { cause });
  }
  return { index, isClean: isClean && index.known > 0 && at === bytes.length };
}

const removeAdvice = 'Remove it, and it is made again';

/** The beginning of each index. */
const mark = '{"format":"sonde corpus index"';

/** Adds what a line says. Returns false when a line before it is missing, or the index has ended. */
function addLine(index: CorpusIndex, value: unknown): boolean {
  if (index.isComplete) return false;
  if (isObject(value) && 'shards' in value) {
    const end = readEnd(value, 'refused');
    if (end.shards > index.known) return false;
    index.complete(end);
    return true;
  }
  const entry = readEntry(value, 'refused');
  if (entry.shard !== index.known) return false;
  index.add(entry);
  return true;
}

async function bytesOfIndex(store: Store): Promise<Buffer | undefined> {
  const found = await store.find(indexFile);
  if (!found) return undefined;
  const path = store.pathOf(indexFile);
  if (!found.regular) throw new Error(`dump: ${path} is not a regular file. ${removeAdvice}`);
  if (found.size > largestIndex) throw new Error(`dump: ${path} is ${found.size} bytes long. ${removeAdvice}`);
  const source = await store.open(indexFile, { growing: true });
  try {
    return Buffer.from((await source.read(0, source.size)).buffer);
  } finally {
    await source.close();
  }
}

function checkHeader(path: string, json: string, wanted: IndexHeader): void {
  let found: IndexHeader;
  try {
    found = readHeader(JSON.parse(json), 'refused');
  } catch (cause) {
    throw new Error(`dump: ${path} is no index that can be read: ${(cause as Error).message}. ${removeAdvice}`, {
      cause,
    });
  }
  const difference = headerDifference(found, wanted);
  if (!difference) return;
  const [label, has, wants] = difference;
  throw new Error(
    `dump: ${path} is the index of a dump with ${label} ${has}, but ${wants} was asked for. ${removeAdvice}`,
  );
}

// ---- writing

/** Lines that are written at a time, and the milliseconds after which fewer are. */
const linesAtOnce = 64;
const longestPause = 5000;

/**
 * Writes an index to its file, from the shards on that the file has. One process at a time does that, and others
 * leave it alone.
 */
export class IndexWriter {
  readonly #store: Store;
  readonly #index: CorpusIndex;
  /** The shards that the file has, whether it has nothing else, and whether it has the end. */
  #written: number;
  #isClean: boolean;
  #isEnded: boolean;
  #writtenAt = performance.now();
  #refreshed = 0;
  #lease: Lease | undefined;
  readonly #isLent: boolean;
  #appender: Appender | undefined;
  #writing: Promise<void> = Promise.resolve();
  /** Whether another process had the lease at the last attempt. */
  #isRefused = false;

  /** Without a lease, it takes one before it writes. */
  constructor(store: Store, { index, isClean }: FoundIndex, lease?: Lease) {
    this.#store = store;
    this.#index = index;
    this.#written = index.known;
    this.#isClean = isClean;
    this.#isEnded = index.isComplete && isClean;
    this.#lease = lease;
    this.#isLent = lease !== undefined;
  }

  /** Writes what is new, if it is much, or after some time. */
  async writeSome(): Promise<void> {
    const hasMany = !this.#isRefused && this.#index.known - this.#written >= linesAtOnce;
    if (hasMany || performance.now() - this.#writtenAt >= longestPause) await this.writeAll();
  }

  /** Writes what is new. */
  writeAll(): Promise<void> {
    this.#writing = quietly(this.#writing.catch(() => {}).then(() => this.#writeNews()));
    return this.#writing;
  }

  async #writeNews(): Promise<void> {
    const { known, isComplete } = this.#index;
    const isRefreshed = this.#index.refreshed > this.#refreshed;
    if (isRefreshed) [this.#isClean, this.#isEnded] = [false, false];
    const hasNews = isRefreshed || known > this.#written || (isComplete && known === this.#written);
    if (known > 0 && hasNews && !this.#isEnded) await onDisk(this.#store.pathOf(indexFile), this.#write());
  }

  async #write(): Promise<void> {
    this.#isRefused = !(await this.#mayWrite());
    this.#writtenAt = performance.now();
    if (this.#isRefused) return;
    const isAnew = !this.#isClean || this.#appender?.isFull;
    if (isAnew) {
      await this.#closeFile();
      await this.#store.remove(indexFile); // in object storage, only what was begun by appending takes more
    }
    this.#appender ??= await this.#store.append(indexFile);
    const { header, known, isComplete, refreshed } = this.#index; // it may have grown meanwhile
    const begin = isAnew || this.#written === 0 ? `${firstLine(header)}\n` : '';
    const text = begin + this.#index.text(isAnew ? 0 : this.#written);
    this.#isClean = false; // until all of it is there
    await this.#appender.append(text);
    this.#isClean = true;
    this.#written = known;
    this.#refreshed = refreshed;
    this.#isEnded = isComplete;
  }

  /** Whether this process has the lease. A process that has lost it leaves the file alone from then on. */
  async #mayWrite(): Promise<boolean> {
    if (!this.#lease) {
      const lease = await this.#store.takeLease(indexLease);
      if (typeof lease === 'string') return false;
      this.#lease = lease;
      const now = await readIndex(this.#store, this.#index.header); // another process may have gone on with it
      const isClean = now.isClean && this.#index.refreshed === this.#refreshed;
      [this.#written, this.#isClean, this.#isEnded] = [now.index.known, isClean, now.index.isComplete && isClean];
    }
    return this.#index.known >= this.#written && !this.#isEnded && !(await this.#lease.lost());
  }

  async #closeFile(): Promise<void> {
    const appender = this.#appender;
    this.#appender = undefined;
    await appender?.close();
  }

  async close(): Promise<void> {
    await this.#writing.catch(() => {});
    await this.#closeFile().catch(() => {}); // what was appended lasts already
    if (this.#lease && this.#written > 0) await clearSlices(this.#store).catch(() => {}); // the next process does
    if (!this.#isLent) await this.#lease?.release();
    this.#lease = undefined;
  }
}
