// Opens a dump that is complete or has been begun. Safetensors and JSON would be enough to read one; this is more
// convenient.
import { describe, wrong } from '../../engine/check.js';
import { checkMemory } from '../../files/memory.js';
import { openStore } from '../../files/store/open_store.js';
import type { Store } from '../../files/store/store.js';
import { whyUnreadable } from '../format/disk.js';
import { inJson } from '../format/in_json.js';
import {
  type DenseValues,
  denseValues,
  latentsName,
  type SparseValues,
  sparseValues,
  valueNames,
} from '../format/layout.js';
import {
  arithmeticOf,
  differenceOf,
  type Manifest,
  readManifests,
  type ShardEntry,
  shardNumber,
  totalsOf,
  whole,
} from '../format/manifest.js';
import { type NonFiniteTotal, totalNonFinite } from '../format/non_finite.js';
import type { DenseLocation, SparseLocation } from '../format/settings.js';
import { MergedStatistics, type Statistics } from '../format/statistics.js';
import { dequantized, fromStored, type StoredFloats } from '../format/stored_floats.js';
import { ShardReader, statisticsIn } from './shard_reader.js';
import { type Problem, verifyDump } from './verify.js';

export interface DenseRows {
  /** [rows, context, ...], row-major; zeros at padding and where nothing is stored. */
  readonly data: Float32Array;
  readonly shape: number[];
}

/** Latents in CSR form: those of row r, position p are rowPtr[r * context + p] to rowPtr[r * context + p + 1]. */
export interface SparseRows {
  /** [rows, context, latents]: what the dense tensor would be. */
  readonly shape: number[];
  readonly rowPtr: BigInt64Array;
  readonly indices: Int32Array;
  readonly values: Float32Array;
}

/** The result of `rows`. Where the compiler knows the name, it knows which of the two types it is. */
export type Rows<Name extends string> = string extends Name
  ? DenseRows | SparseRows
  : Name extends `${string}/latents` | `${string}/latents.gradient`
    ? SparseRows
    : DenseRows;

export interface TokenRows {
  /** [rows, context], 0 at padding. */
  readonly tokens: Int32Array;
  /** [rows, context]: the number of the document; -1 at padding. */
  readonly document: Int32Array;
  /**
   * [rows, context]: 1 where values are stored. That is everywhere but at padding, unless the dump drops or samples
   * positions.
   */
  readonly stored: Uint8Array;
  readonly shape: number[];
}

/** The stored values and nothing else, in the order of the rows. */
export interface StoredRows {
  /** [stored, ...] */
  readonly data: Float32Array;
  readonly shape: number[];
  /** [stored, 2]: the row of the dump, and the position in it. */
  readonly positions: Int32Array;
}

interface OpenShard {
  readonly shard: Promise<ShardReader>;
  /** How many reads are using it now. */
  users: number;
}

// Elements that are read and widened at a time. They are enough that object storage is asked for several ranges at
// once.
const valuesAtOnce = 2 ** 24;
// The memory that merging takes for each feature, for a shard's own statistics and for the result.
const bytesOfStatistics = 8 * 20;

// Up to this size, memory is taken without checking the shards first, as the check may have to open each shard once
// more.
const uncheckedBytes = 2 ** 26;

// Shards that stay open when nothing reads them: the number of files that a process may open is limited.
const shardsOpen = 8;

/** A dump, opened by `openDump`. Rows are counted over all its shards. */
export class Dump {
  /** The path or address, as it was given. */
  readonly folder: string;
  readonly manifest: Manifest;
  readonly shards: readonly ShardEntry[];
  readonly rowCount: number;
  readonly tokenCount: number;
  readonly #store: Store;
  /** By name. */
  readonly #dense: ReadonlyMap<string, DenseValues>;
  readonly #sparse: ReadonlyMap<string, SparseValues>;
  /** Files whose size and header have been checked. */
  readonly #checked = new Set<string>();
  /** The open shards, in the order of their last use. */
  readonly #open = new Map<string, OpenShard>();
  #closed = false;

  /** @internal Use openDump. */
  constructor(store: Store, manifest: Manifest) {
    this.#store = store;
    this.folder = store.name;
    this.manifest = manifest;
    this.shards = manifest.shards;
    this.#dense = new Map(denseValues(manifest).map((values) => [values.name, values]));
    this.#sparse = new Map(sparseValues(manifest).map((values) => [values.name, values]));
    const { rows, tokens } = totalsOf(manifest.shards);
    this.rowCount = rows;
    this.tokenCount = tokens;
  }

  /**
   * The names that `rows` takes: dense locations, and `LOCATION/latents` for locations that went through an
   * autoencoder. In a dump with gradients each is followed by that of its gradients, with `.gradient` behind it.
   */
  get names(): string[] {
    return valueNames(this.manifest);
  }

  /**
   * How many of the stored values are not finite, over all shards, as the manifest says. Names of which all values are
   * finite are left out. Shards of versions of this library that did not count have none: `verify` counts again.
   */
  get nonFinite(): Readonly<Record<string, NonFiniteTotal>> {
    return totalNonFinite(this.manifest, this.shards);
  }

  /**
   * Rows [from, to) of a location, `5/mlp/post_act`, of its latents, `5/resid/delta_mlp/latents`, or of the gradients of
   * either, `5/mlp/post_act.gradient`. Gradients of latents are those of the entries that are stored.
   * @throws RangeError for a name that the dump does not have, rows beyond its end, or more than fits into memory;
   *   Error that names the file when a shard is not as the manifest says.
   */
  async rows<Name extends string>(location: Name, from = 0, to = this.rowCount): Promise<Rows<Name>> {
    const dense = this.#dense.get(location);
    if (dense !== undefined) return (await this.#denseRows(dense, from, to)) as Rows<Name>;
    const sparse = this.#sparse.get(location);
    if (sparse !== undefined) return (await this.#sparseRows(sparse, from, to)) as Rows<Name>;
    throw this.#unknown('rows', location);
  }

  #unknown(operation: string, name: string): RangeError {
    const known = this.names.length > 50 ? `${this.names.length} others` : this.names.join(', ');
    return new RangeError(`${operation}: ${this.folder} has no ${inJson(name)}; it has ${known}`);
  }

  /**
   * The tokens of rows [from, to), and the documents they are from.
   * @throws RangeError for rows beyond the end, or more than fits into memory; Error when a shard is not as it should
   *   be.
   */
  async tokens(from = 0, to = this.rowCount): Promise<TokenRows> {
    const { context } = this.manifest;
    const size = this.#count('tokens', from, to) * context;
    await this.#checkShards(from, to, 9 * size);
    this.#checkMemory('tokens', [from, to], 9 * size);
    const [tokens, document, stored] = [new Int32Array(size), new Int32Array(size), new Uint8Array(size)];
    await this.#eachShard(from, to, async (shard, first, end, at) => {
      const own = [at * context, (at + end - first) * context] as const;
      await shard.readInto('tokens', first * context, tokens.subarray(...own));
      await shard.readInto('document', first * context, document.subarray(...own));
      const { begin, end: stop, flatPositions } = await shard.slotsOf(first, end);
      if (!flatPositions) for (let i = own[0]; i < own[1]; i++) stored[i] = document[i] === -1 ? 0 : 1;
      else for (const flat of flatPositions.subarray(begin, stop)) stored[(at - first) * context + flat] = 1;
    });
    return { tokens, document, stored, shape: [to - from, context] };
  }

  /**
   * The stored values of a dense location in rows [from, to), and nothing else. This is for dumps that drop or sample
   * positions.
   * @throws RangeError for a name that is no dense location, rows beyond the end, or more than fits into memory; Error
   *   when a shard is not as the manifest says.
   */
  async stored(location: string, from = 0, to = this.rowCount): Promise<StoredRows> {
    const found = this.#dense.get(location);
    if (!found) {
      const dense = [...this.#dense.keys()].join(', ') || 'none';
      throw new RangeError(`stored: ${this.folder} has no dense ${inJson(location)}; it has ${dense}`);
    }
    this.#count('stored', from, to);
    const { context } = this.manifest;
    const { width } = found;
    let count = 0;
    await this.#eachShard(from, to, async (shard, first, end) => {
      const { begin, end: stop, flatPositions } = await shard.slotsOf(first, end);
      if (flatPositions) count += stop - begin;
      else await this.#eachToken(shard, first, end, () => count++);
    });
    this.#checkMemory('stored', [from, to], count * (4 * width + 8), location);
    const [data, positions] = [new Float32Array(count * width), new Int32Array(2 * count)];
    let kept = 0;
    await this.#eachShard(from, to, async (shard, first, end, at) => {
      const { begin, end: stop, flatPositions } = await shard.slotsOf(first, end);
      const start = kept;
      const keep = (flat: number) => {
        positions[2 * kept] = from + at + Math.floor(flat / context);
        positions[2 * kept++ + 1] = flat % context;
      };
      if (flatPositions)
        for (let slot = begin; slot < stop; slot++) keep((flatPositions[slot] as number) - first * context);
      else await this.#eachToken(shard, first, end, keep);
      // Where positions are left out, padding is among them. Where all are stored, padding is left out here.
      let next = start;
      await this.#eachChunk(shard, found, [begin, stop], (values, slot, slots) => {
        if (flatPositions) data.set(values, (start + slot - begin) * width);
        else {
          for (; next < kept; next++) {
            const [row, position] = [positions[2 * next] as number, positions[2 * next + 1] as number];
            const inChunk = (row - from - at) * context + position - (slot - begin);
            if (inChunk >= slots) break;
            data.set(values.subarray(inChunk * width, (inChunk + 1) * width), next * width);
          }
        }
      });
    });
    return { data, shape: [count, ...this.#shapeOf(found).slice(1)], positions };
  }

  /**
   * Calls body for each position of rows [first, end) that holds a token. Flat positions count from the first row's
   * start.
   */
  async #eachToken(shard: ShardReader, first: number, end: number, body: (flat: number) => void): Promise<void> {
    const { context } = this.manifest;
    const size = (end - first) * context;
    const document = new Int32Array(Math.min(size, valuesAtOnce));
    for (let from = 0; from < size; from += document.length) {
      const part = document.subarray(0, Math.min(document.length, size - from));
      await shard.readInto('document', first * context + from, part);
      for (let i = 0; i < part.length; i++) if (part[i] !== -1) body(from + i);
    }
  }

  /**
   * The statistics of a location's features, or of its latents, over all shards that exist.
   * @throws RangeError for a name that the dump does not have; Error when it was made without statistics, or when a
   *   shard is not as the manifest says.
   */
  async statistics(name: string): Promise<Statistics> {
    const found = this.#dense.get(name) ?? this.#sparse.get(name);
    if (found === undefined) throw this.#unknown('statistics', name);
    if (!this.manifest.statistics) throw new Error(`statistics: ${this.folder} was made without statistics`);
    const { width } = found;
    const rows = this.#count('statistics', 0, this.rowCount);
    await this.#checkShards(0, rows, bytesOfStatistics * width);
    const what = `statistics: ${this.folder}: those of ${name}`;
    checkMemory(what, bytesOfStatistics * width, 'read them where there is more');
    const merged = new MergedStatistics(width);
    await this.#eachShard(0, rows, async (shard) => {
      merged.add(await statisticsIn(shard, name));
    });
    return merged.get();
  }

  /**
   * Checks every file against the manifest: sizes, checksums, headers, that what they hold makes sense, and how many
   * values are not finite.
   */
  async verify(): Promise<Problem[]> {
    this.#checkOpen();
    return verifyDump(this.#store, this.manifest);
  }

  /** Closes the files. Afterwards the dump cannot be read. */
  async close(): Promise<void> {
    this.#closed = true;
    const open = [...this.#open.values()];
    this.#open.clear();
    // A shard that could not be opened needs no closing.
    for (const { shard } of open) await shard.then((opened) => opened.close()).catch(() => {});
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** One row's shape, [context, ...]. */
  #shapeOf({ index }: DenseValues): readonly number[] {
    return (this.manifest.locations[index] as DenseLocation).shape;
  }

  async #denseRows(found: DenseValues, from: number, to: number): Promise<DenseRows> {
    const { name, width } = found;
    const { context } = this.manifest;
    const size = this.#count('rows', from, to) * context * width;
    await this.#checkShards(from, to, 4 * size);
    this.#checkMemory('rows', [from, to], 4 * size, name);
    const data = new Float32Array(size);
    await this.#eachShard(from, to, async (shard, first, end, at) => {
      const { begin, end: stop, flatPositions } = await shard.slotsOf(first, end);
      await this.#eachChunk(shard, found, [begin, stop], (values, slot, slots) => {
        if (!flatPositions) data.set(values, (at * context + slot - begin) * width);
        else {
          for (let n = 0; n < slots; n++) {
            const flat = (at - first) * context + (flatPositions[slot + n] as number);
            data.set(values.subarray(n * width, (n + 1) * width), flat * width);
          }
        }
      });
    });
    return { data, shape: [to - from, ...this.#shapeOf(found)] };
  }

  /**
   * Calls body with the vectors of a shard's slots [begin, end), some at a time: `values` [slots, ...] are those from
   * `slot` on.
   */
  async #eachChunk(
    shard: ShardReader,
    { tensor, dtype, width }: DenseValues,
    [begin, end]: readonly [number, number],
    body: (values: Float32Array, slot: number, slots: number) => void,
  ): Promise<void> {
    const most = Math.max(1, Math.floor(valuesAtOnce / width));
    for (let slot = begin; slot < end; slot += most) {
      const to = Math.min(end, slot + most);
      const stored = await shard.read(tensor, slot * width, to * width);
      if (dtype !== 'int8') body(fromStored(stored as StoredFloats, dtype), slot, to - slot);
      else {
        const scales = (await shard.read(`${tensor}.scale`, slot, to)) as Float32Array;
        body(dequantized({ integers: stored as Int8Array, scales }), slot, to - slot);
      }
    }
  }

  async #sparseRows(found: SparseValues, from: number, to: number): Promise<SparseRows> {
    const { tensor, dtype, width } = found;
    const { context, autoencoders } = this.manifest;
    const name = latentsName((autoencoders[found.index] as SparseLocation).location);
    const positions = this.#count('rows', from, to) * context;
    await this.#checkShards(from, to, 8 * (positions + 1));
    this.#checkMemory('rows', [from, to], 8 * (positions + 1), found.name);
    const rowPtr = new BigInt64Array(positions + 1);
    const ranges: [start: number, stop: number][] = [];
    let entries = 0;
    await this.#eachShard(from, to, async (shard, first, end, at) => {
      const slots = await shard.slotsOf(first, end);
      const pointers = (await shard.read(`${name}.row_ptr`, slots.begin, slots.end + 1)) as BigInt64Array;
      const [start, stop] = checkedRange(shard, name, pointers);
      const slotsBefore = slotCounter(slots.flatPositions, first * context, end * context, slots.begin);
      const shift = BigInt(entries) - (pointers[0] as bigint);
      for (let p = 1; p <= (end - first) * context; p++) {
        rowPtr[at * context + p] = (pointers[slotsBefore(p)] as bigint) + shift;
      }
      ranges.push([start, stop]);
      entries += stop - start;
    });
    this.#checkMemory('rows', [from, to], 8 * entries, found.name);
    const [indices, values] = [new Int32Array(entries), new Float32Array(entries)];
    let into = 0;
    await this.#eachShard(from, to, async (shard) => {
      const [start, stop] = ranges.shift() as [number, number];
      for (let at = start; at < stop; at += valuesAtOnce) {
        const end = Math.min(stop, at + valuesAtOnce);
        indices.set((await shard.read(`${name}.indices`, at, end)) as Uint16Array | Int32Array, into);
        const stored = await shard.read(tensor, at, end);
        values.set(fromStored(stored as StoredFloats, dtype), into);
        into += end - at;
      }
    });
    return { shape: [to - from, context, width], rowPtr, indices, values };
  }

  /** @throws RangeError when what was asked for does not fit into memory. */
  #checkMemory(operation: string, [from, to]: readonly [number, number], bytes: number, name = 'the tokens'): void {
    const what = `${operation}: ${this.folder}: rows ${from} to ${to} of ${name}`;
    checkMemory(what, bytes, 'ask for fewer rows');
  }

  /**
   * Checks all shards that have some of the rows, before so many bytes are taken for what the manifest says of them.
   */
  async #checkShards(from: number, to: number, bytes: number): Promise<void> {
    if (bytes <= uncheckedBytes) return;
    await this.#eachEntry(from, to, async (entry) => {
      if (this.#checked.has(entry.file)) return;
      await this.#withShard(entry, async () => {});
      this.#checked.add(entry.file);
    });
  }

  /** @internal Checks the sizes and the headers of all shards against the manifest. */
  async check(): Promise<void> {
    await this.#checkShards(0, this.#count('check', 0, this.rowCount), Number.POSITIVE_INFINITY);
  }

  #checkOpen(): void {
    if (this.#closed) throw new Error(`${this.folder}: the dump was closed`);
  }

  #count(operation: string, from: number, to: number): number {
    this.#checkOpen();
    if (Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from <= to && to <= this.rowCount) {
      return to - from;
    }
    throw new RangeError(
      `${operation}: rows must be a range within 0 to ${this.rowCount}, but are ${inJson(from)} to ${inJson(to)}`,
    );
  }

  // Calls body for each shard that has some of the rows, with the range in the shard, and the row of the result it
  // begins at.
  async #eachShard(
    from: number,
    to: number,
    body: (shard: ShardReader, first: number, end: number, at: number) => Promise<void>,
  ): Promise<void> {
    await this.#eachEntry(from, to, (entry, start) => {
      const [first, end] = [Math.max(from, start), Math.min(to, start + entry.rows)];
      return this.#withShard(entry, (shard) => body(shard, first - start, end - start, first - from));
    });
  }

  /** Calls body for each shard that has some of the rows, with the number of its first row. */
  async #eachEntry(from: number, to: number, body: (entry: ShardEntry, start: number) => Promise<void>): Promise<void> {
    let start = 0;
    for (const entry of this.shards) {
      if (Math.max(from, start) < Math.min(to, start + entry.rows)) await body(entry, start);
      start += entry.rows;
    }
  }

  async #withShard(entry: ShardEntry, body: (shard: ShardReader) => Promise<void>): Promise<void> {
    const { file } = entry;
    const held = this.#open.get(file) ?? this.#opened(entry);
    this.#open.delete(file);
    this.#open.set(file, held);
    held.users++;
    try {
      await body(await held.shard);
    } finally {
      held.users--;
      await this.#closeIdle();
    }
  }

  #opened(entry: ShardEntry): OpenShard {
    const shard = ShardReader.open(this.#store, this.manifest, entry);
    shard.catch(() => this.#open.delete(entry.file)); // the next read opens it again
    return { shard, users: 0 };
  }

  async #closeIdle(): Promise<void> {
    for (const [file, { shard, users }] of this.#open) {
      if (this.#open.size <= shardsOpen) return;
      if (users > 0) continue;
      this.#open.delete(file);
      await (await shard).close();
    }
  }
}

/**
 * A function that says how many slots from `begin` on belong to flat positions before `from + p`. It must be called
 * with ascending p. `flatPositions` has the flat position of each slot; it is undefined when all positions are stored.
 */
function slotCounter(
  flatPositions: Int32Array | undefined,
  from: number,
  to: number,
  begin: number,
): (p: number) => number {
  if (!flatPositions) return (p) => p;
  let slot = begin;
  return (p) => {
    const end = Math.min(from + p, to);
    while (slot < flatPositions.length && (flatPositions[slot] as number) < end) slot++;
    return slot - begin;
  };
}

// Pointers come from the file: they must ascend, and stay within the entries.
function checkedRange(shard: ShardReader, name: string, pointers: BigInt64Array): [number, number] {
  const entries = BigInt(shard.layout.tensor(`${name}.indices`).shape[0] as number);
  for (let p = 0; p < pointers.length; p++) {
    const pointer = pointers[p] as bigint;
    const least = p === 0 ? 0n : (pointers[p - 1] as bigint);
    if (pointer < least || pointer > entries) throw new Error(`${shard.path}: ${name}.row_ptr is broken`);
  }
  return [Number(pointers[0]), Number(pointers.at(-1))];
}

/**
 * Opens the dump in a folder, or under `az://account/container/prefix`. Only what is asked for is read. A dump that was
 * made in parts (`shard: { index, count }`) is opened as a whole, once its parts lie in one folder. The rows of missing
 * parts are missing.
 * @throws Error when the folder has no manifest, a broken one, or those of two different dumps.
 */
export async function openDump(folder: string): Promise<Dump> {
  if (typeof folder !== 'string' || folder === '') {
    throw new TypeError(wrong('openDump', 'folder', 'the path of a folder, or an address', describe(folder)));
  }
  const store = openStore(folder);
  const manifests = await readManifests(store).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === undefined) throw cause;
    throw new Error(`openDump: ${folder}: ${whyUnreadable(cause)}`, { cause });
  });
  const [first, ...rest] = manifests.values();
  if (!first) throw new Error(`openDump: ${folder} has no manifest.json, so it is not a dump`);
  for (const other of rest) {
    const difference = differenceOf(first, other);
    if (!difference) continue;
    const [label, there, too] = difference;
    throw new Error(`openDump: ${folder} mixes two dumps: one has ${label} ${there}, the other ${too}`);
  }
  return new Dump(store, rest.length === 0 ? first : merged([first, ...rest]));
}

function merged(parts: [Manifest, ...Manifest[]]): Manifest {
  const shards = parts
    .flatMap((part) => part.shards)
    .sort((a, b) => (shardNumber(a.file) as number) - (shardNumber(b.file) as number));
  const complete = parts.length === parts[0].part.count && parts.every((part) => part.complete);
  return { ...parts[0], part: whole, arithmetic: arithmeticOf(parts), shards, complete };
}
