// The files that the makers of an index share in the folder of a dump, for each slice: its summary and its entries, which
// are written at once, and the lease of the process that reads it. They last until the index is written.
//
//   {"format":"sonde slice of a corpus index",…}       what it is of, and the number of the slice
//   CHECKSUM {"source":0,"offset":33554432,…}          the summary; or the state at the slice's start,
//   CHECKSUM {"shard":8,…}                             a line for each shard that begins in the slice,
//   CHECKSUM {"entries":8,"documents":40213}           and the end
import { checkedLine, checkedLinesIn } from '../../files/checked_lines.js';
import type { Lease } from '../../files/lease.js';
import type { Store } from '../../files/store/store.js';
import { onDisk, readSmallFile } from '../format/disk.js';
import { isSliceFile, sliceFile } from '../format/manifest.js';
import { integer, object } from '../format/schema.js';
import { type IndexEntry, type IndexHeader, readEntry } from './index_format.js';
import { readState, readSummary, type SliceState, type SliceSummary } from './slice_state.js';

/** The shards that begin in a slice. */
export interface SliceEntries {
  /** The state at the start of the slice. */
  readonly begin: SliceState;
  readonly entries: readonly IndexEntry[];
  /** The number of documents up to the last one of these shards; 0 without a shard. */
  readonly documents: number;
}

interface EntriesEnd {
  readonly entries: number;
  readonly documents: number;
}

const readEnd = object<EntriesEnd>({ entries: integer(0), documents: integer(0) });

/** The most bytes of a file that is read. */
const largestFile = 2 ** 28;

export class SliceFiles {
  readonly #store: Store;
  readonly #header: IndexHeader;
  readonly #count: number;

  constructor(store: Store, header: IndexHeader, count: number) {
    this.#store = store;
    this.#header = header;
    this.#count = count;
  }

  /** A slice's summary; undefined when it is not there, or not whole, or one of something else. */
  async summary(slice: number): Promise<SliceSummary | undefined> {
    const [value] = (await this.#read(slice, 'summary')) ?? [];
    return orUndefined(() => readSummary(value, 'refused'));
  }

  /** A slice's entries; undefined when they are not there, or not whole, or those of something else. */
  async entries(slice: number): Promise<SliceEntries | undefined> {
    const lines = (await this.#read(slice, 'entries')) ?? [];
    return orUndefined(() => {
      const begin = readState(lines[0], 'refused');
      const end = readEnd(lines.at(-1), 'refused');
      const entries = lines.slice(1, -1).map((line) => readEntry(line, 'refused'));
      return entries.length === end.entries ? { begin, entries, documents: end.documents } : undefined;
    });
  }

  async writeSummary(slice: number, summary: SliceSummary): Promise<void> {
    await this.#write(slice, 'summary', [summary]);
  }

  async writeEntries(slice: number, { begin, entries, documents }: SliceEntries): Promise<void> {
    await this.#write(slice, 'entries', [begin, ...entries, { entries: entries.length, documents }]);
  }

  /** The names of all files in the folder. */
  async names(): Promise<ReadonlySet<string>> {
    return new Set(await this.#store.list());
  }

  async isClaimed(slice: number): Promise<boolean> {
    return (await this.#store.find(sliceFile(slice, 'claim'))) !== undefined;
  }

  /** The lease on a slice; undefined when another process has it. */
  async takeLease(slice: number): Promise<Lease | undefined> {
    const file = sliceFile(slice, 'claim');
    const lease = await onDisk(this.#store.pathOf(file), this.#store.takeLease(file));
    return typeof lease === 'string' ? undefined : lease;
  }

  #firstLine(slice: number): string {
    return JSON.stringify({
      ...this.#header,
      ...{ format: 'sonde slice of a corpus index', slice, slices: this.#count },
    });
  }

  async #read(slice: number, what: 'summary' | 'entries'): Promise<unknown[] | undefined> {
    const bytes = await readSmallFile(this.#store, sliceFile(slice, what), largestFile).catch(() => undefined);
    if (!bytes) return undefined;
    const first = this.#firstLine(slice);
    const begin = Buffer.from(`${first}\n`);
    if (!bytes.subarray(0, begin.length).equals(begin)) return undefined;
    const lines = [...checkedLinesIn(bytes.subarray(begin.length), first)];
    return orUndefined(() => lines.map(({ json }): unknown => JSON.parse(json)));
  }

  async #write(slice: number, what: 'summary' | 'entries', values: readonly object[]): Promise<void> {
    const [file, first] = [sliceFile(slice, what), this.#firstLine(slice)];
    const lines = values.map((value) => checkedLine(first, JSON.stringify(value)));
    await onDisk(this.#store.pathOf(file), this.#store.writeText(file, `${[first, ...lines].join('\n')}\n`));
  }
}

/** What a file says that may have come from anywhere. */
function orUndefined<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}

/** Removes all files of slices: where the index is there, nobody needs them. */
export async function clearSlices(store: Store): Promise<void> {
  for (const name of await store.list()) if (isSliceFile(name)) await removeSlice(store, name);
}

/**
 * Removes a file of a slice. The lease of a process that has it now may not be removed in object storage: that process
 * gives it back.
 */
export async function removeSlice(store: Store, name: string): Promise<void> {
  const isLease = name.endsWith('.claim');
  await store.remove(name).catch((error: unknown) => {
    if (!isLease) throw error;
  });
}
