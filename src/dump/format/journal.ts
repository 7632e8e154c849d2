// The journal of a manifest: the shards that were finished since the manifest was written, one line each. A line is
// appended for each shard, so that what is written grows with the number of shards, and not with its square as it would
// if the manifest were written each time. The first line names the dump and the part. Every line has a checksum of
// itself and of that first line: one that is torn, garbled or of another dump does not count, wherever it is, and its
// shard is made again.

import { BlobChanged } from '../../files/blob/blob_request.js';
import { type CheckedLine, checkedLine, checkedLinesIn } from '../../files/checked_lines.js';
import type { Appender, Store } from '../../files/store/store.js';
import { onDisk } from './disk.js';
import type { ShardEntry } from './manifest.js';
import type { Part } from './settings.js';

const journalPattern = /^journal(-\d+-of-\d+)?\.jsonl$/;

/** `journal.jsonl`, or a journal for each part. */
export const journalFile = ({ index, count }: Part): string =>
  count === 1 ? 'journal.jsonl' : `journal-${index}-of-${count}.jsonl`;

export const isJournalFile = (name: string): boolean => journalPattern.test(name);

/** The manifest that a journal belongs to. */
export const manifestOfJournal = (journal: string): string => journal.replace(journalPattern, 'manifest$1.json');

/** The journal of a manifest. */
export const journalOfManifest = (manifest: string): string =>
  manifest.replace(/^manifest(.*)\.json$/, 'journal$1.jsonl');

/** The first line of a journal. `dump` is the digest of the settings of the dump and the part. */
const firstLine = (dump: string): string => JSON.stringify({ format: 'sonde journal', version: 1, dump });

/** Appends finished shards to a journal. The file is made when the first one is recorded. */
export class JournalWriter {
  readonly #store: Store;
  readonly #file: string;
  readonly #first: string;
  #appender: Appender | undefined;
  #mayExist = false;
  /** Whether all that was appended so far ends with a whole line. */
  #isWhole = false;
  #entries = 0;
  #bytes = 0;

  /** `dump` is the digest of the settings of the dump and the part. */
  constructor(store: Store, part: Part, dump: string) {
    this.#store = store;
    this.#file = journalFile(part);
    this.#first = firstLine(dump);
  }

  /** The number of entries since the journal was begun. */
  get entries(): number {
    return this.#entries;
  }

  /** The bytes of the lines since the journal was begun. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Whether the store will soon take no more lines. */
  get isFull(): boolean {
    return this.#appender?.isFull ?? false;
  }

  /** Records a shard, which lasts when the promise resolves. Calls must not overlap. @throws Error that says why. */
  async add(entry: ShardEntry): Promise<void> {
    await onDisk(this.#store.pathOf(this.#file), this.#append(entry));
  }

  async #append(entry: ShardEntry): Promise<void> {
    const isNew = !this.#appender;
    this.#mayExist = true;
    this.#appender ??= await this.#store.append(this.#file);
    const line = `${checkedLine(this.#first, JSON.stringify(entry))}\n`;
    // After a failure, a part of a line may be there.
    const before = isNew ? `${this.#first}\n` : this.#isWhole ? '' : '\n';
    this.#isWhole = false;
    await this.#appender.append(before + line);
    this.#isWhole = true;
    this.#entries++;
    this.#bytes += Buffer.byteLength(line);
  }

  /** Whether this writer has begun a journal that it has not removed. A failure may have left one without entries. */
  get mayExist(): boolean {
    return this.#mayExist;
  }

  /** Removes the journal when the manifest lists its shards. Another one begins with the next shard. */
  async remove(): Promise<void> {
    await this.close();
    await onDisk(this.#store.pathOf(this.#file), this.#store.remove(this.#file));
    [this.#mayExist, this.#isWhole, this.#entries, this.#bytes] = [false, false, 0, 0];
  }

  /** Closes the file, which stays. */
  async close(): Promise<void> {
    const appender = this.#appender;
    this.#appender = undefined;
    await appender?.close();
  }
}

/**
 * The bytes of a journal. Undefined when it is gone or empty, is no regular file, or is longer than `most` bytes, which
 * no journal is.
 */
export async function readJournal(store: Store, file: string, most: number): Promise<Buffer | undefined> {
  const found = await store.find(file);
  if (!found?.regular || found.size === 0 || found.size > most) return undefined;
  try {
    const source = await store.open(file, { growing: true });
    try {
      return Buffer.from(await source.read(0, Math.min(source.size, found.size)));
    } finally {
      await source.close();
    }
  } catch (error) {
    // The manifest was written just now: it has what this journal held, and there may be another journal.
    if (error instanceof BlobChanged || !(await store.find(file))) return undefined;
    throw error;
  }
}

/**
 * Whether a file begins as a journal does, as far as it goes; also when it is gone. Anybody may give a file a journal's
 * name.
 */
export async function isJournal(store: Store, file: string): Promise<boolean> {
  const begin = Buffer.from(firstLine('').slice(0, -2)); // without the digest
  const found = await store.find(file);
  if (!found) return true;
  if (!found.regular) return false;
  const source = await store.open(file, { growing: true });
  try {
    const bytes = await source.read(0, Math.min(source.size, begin.length));
    return begin.subarray(0, bytes.length).equals(bytes);
  } finally {
    await source.close();
  }
}

/** The lines of a journal that are whole and of the dump with this digest. */
export const linesOf = (journal: Buffer, dump: string): Generator<CheckedLine> =>
  checkedLinesIn(journal, firstLine(dump));
