// Opens a finished, or begun, dump. Nothing but safetensors and JSON is needed to read one; this is the convenient way.
import { openStore } from '../files/open_store.js';
import type { Store } from '../files/store.js';
import type { Cells } from './cells.js';
import { whyUnreadable } from './disk.js';
import { featureNames, featureWidths, latentDType, latentsName, widthOf } from './layout.js';
import { differenceOf, type Manifest, readManifests, type ShardEntry, shardNumber } from './manifest.js';
import { ShardReader, statisticsIn } from './shard_reader.js';
import { MergedStatistics, type Statistics } from './statistics.js';
import { dequantized, fromStored, type StoredFloats } from './stored_floats.js';
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

/** What `rows` gives: where the name is known to the compiler, the one or the other. */
export type Rows<Name extends string> = string extends Name
  ? DenseRows | SparseRows
  : Name extends `${string}/latents`
    ? SparseRows
    : DenseRows;

export interface TokenRows {
  /** [rows, context], 0 at padding. */
  readonly tokens: Int32Array;
  /** [rows, context]: the number of the document, -1 at padding. */
  readonly document: Int32Array;
  /** [rows, context]: 1 where values are stored: everywhere but at padding, unless the dump drops or samples positions. */
  readonly stored: Uint8Array;
  readonly shape: number[];
}

/** Only what is stored, in the order of the rows. */
export interface StoredRows {
  /** [stored, ...] */
  readonly data: Float32Array;
  readonly shape: number[];
  /** [stored, 2]: the row of the dump, and the position in it. */
  readonly positions: Int32Array;
}

interface HeldShard {
  readonly shard: Promise<ShardReader>;
  /** Who is reading it now. */
  users: number;
}

// Shards that stay open when nobody reads them: a process may not open any number of files.
const shardsOpen = 8;

/** A dump, opened by `openDump`. Rows are counted over all its shards. */
export class Dump {
  /** As it was given: a path or an address. */
  readonly folder: string;
  readonly manifest: Manifest;
  readonly shards: readonly ShardEntry[];
  readonly rowCount: number;
  readonly tokenCount: number;
  readonly #store: Store;
  /** The shard that was read last comes last. */
  readonly #open = new Map<string, HeldShard>();
  #closed = false;

  /** @internal Use openDump. */
  constructor(store: Store, manifest: Manifest) {
    this.#store = store;
    this.folder = store.name;
    this.manifest = manifest;
    this.shards = manifest.shards;
    this.rowCount = manifest.shards.reduce((sum, { rows }) => sum + rows, 0);
    this.tokenCount = manifest.shards.reduce((sum, { tokens }) => sum + tokens, 0);
  }

  /**
   * What `rows` can be asked for: dense locations, and `LOCATION/latents` for those that went through an autoencoder.
   */
  get names(): string[] {
    return featureNames(this.manifest);
  }

  /**
   * Rows [from, to) of a location, `5/mlp/post_act`, or of its latents, `5/resid/delta_mlp/latents`.
   * @throws RangeError for a name that the dump does not have or rows beyond its end.
   */
  async rows<Name extends string>(location: Name, from = 0, to = this.rowCount): Promise<Rows<Name>> {
    return (await this.#rows(location, from, to)) as Rows<Name>;
  }

  #rows(location: string, from: number, to: number): Promise<DenseRows | SparseRows> {
    const dense = this.manifest.locations.findIndex((entry) => entry.location === location);
    if (dense >= 0) return this.#dense(dense, from, to);
    const sparse = this.manifest.autoencoders.findIndex((entry) => latentsName(entry.location) === location);
    if (sparse >= 0) return this.#sparse(sparse, from, to);
    throw this.#unknown('rows', location);
  }

  #unknown(operation: string, name: string): RangeError {
    const known = this.names.join(', ');
    return new RangeError(`${operation}: ${this.folder} has no ${JSON.stringify(name)}; it has ${known}`);
  }

  /** The tokens of rows [from, to), and the documents they are from. */
  async tokens(from = 0, to = this.rowCount): Promise<TokenRows> {
    const { context } = this.manifest;
    const size = this.#count('tokens', from, to) * context;
    const [tokens, document, stored] = [new Int32Array(size), new Int32Array(size), new Uint8Array(size)];
    await this.#eachShard(from, to, async (shard, first, end, at) => {
      const part = await shard.rows(first, end);
      tokens.set(part.tokens, at * context);
      document.set(part.document, at * context);
      const { starts, places } = await shard.cells();
      if (!places)
        part.document.forEach((number, i) => {
          stored[at * context + i] = number === -1 ? 0 : 1;
        });
      else for (const place of places.subarray(starts[first], starts[end])) stored[(at - first) * context + place] = 1;
    });
    return { tokens, document, stored, shape: [to - from, context] };
  }

  /**
   * What is stored of a dense location in rows [from, to), and nothing else: for dumps that drop or sample positions.
   * @throws RangeError for a name that is no dense location, or rows beyond the end.
   */
  async stored(location: string, from = 0, to = this.rowCount): Promise<StoredRows> {
    const entry = this.manifest.locations.find((dense) => dense.location === location);
    if (!entry) {
      const dense = this.manifest.locations.map((found) => found.location).join(', ') || 'none';
      throw new RangeError(`stored: ${this.folder} has no dense ${JSON.stringify(location)}; it has ${dense}`);
    }
    this.#count('stored', from, to);
    const { context } = this.manifest;
    const parts: Float32Array[] = [];
    const positions: number[] = [];
    await this.#eachShard(from, to, async (shard, first, end, at) => {
      const { starts, places } = await shard.cells();
      const document = places ? undefined : (await shard.rows(first, end)).document; // padding has no place among places
      const [begin, stop] = [starts[first] as number, starts[end] as number];
      const values = await this.#vectors(shard, entry, begin, stop);
      const width = widthOf(entry);
      const kept: number[] = [];
      for (let cell = begin; cell < stop; cell++) {
        const place = (places ? (places[cell] as number) : cell) - first * context;
        if (document?.[place] === -1) continue;
        kept.push(cell - begin);
        positions.push(from + at + Math.floor(place / context), place % context);
      }
      kept.forEach((cell, i) => {
        values.copyWithin(i * width, cell * width, (cell + 1) * width);
      });
      parts.push(values.subarray(0, kept.length * width));
    });
    const shape = [positions.length / 2, ...entry.shape.slice(1)];
    return { data: joined(Float32Array, parts), shape, positions: Int32Array.from(positions) };
  }

  /**
   * The statistics of a location's features, or of its latents, over all shards that are there.
   * @throws RangeError for a name that the dump does not have; Error when it was made without statistics.
   */
  async statistics(name: string): Promise<Statistics> {
    if (!this.names.includes(name)) throw this.#unknown('statistics', name);
    if (!this.manifest.statistics) throw new Error(`statistics: ${this.folder} was made without statistics`);
    const merged = new MergedStatistics(featureWidths(this.manifest)[this.names.indexOf(name)] as number);
    await this.#eachShard(0, this.#count('statistics', 0, this.rowCount), async (shard) => {
      merged.add(await statisticsIn(shard, name));
    });
    return merged.get();
  }

  /** Checks every file against the manifest: sizes, checksums, headers, and that what they hold makes sense. */
  async verify(): Promise<Problem[]> {
    this.#check();
    return verifyDump(this.#store, this.manifest);
  }

  /** Closes the files. The dump cannot be read afterwards. */
  async close(): Promise<void> {
    this.#closed = true;
    const open = [...this.#open.values()];
    this.#open.clear();
    for (const { shard } of open) await shard.then((opened) => opened.close()).catch(() => {}); // never opened
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #dense(i: number, from: number, to: number): Promise<DenseRows> {
    const entry = this.manifest.locations[i] as Manifest['locations'][number];
    const { context } = this.manifest;
    const width = widthOf(entry);
    const data = new Float32Array(this.#count('rows', from, to) * context * width);
    await this.#eachShard(from, to, async (shard, first, end, at) => {
      const { starts, places } = await shard.cells();
      const [begin, stop] = [starts[first] as number, starts[end] as number];
      const values = await this.#vectors(shard, entry, begin, stop);
      if (!places) return data.set(values, at * context * width);
      for (let cell = begin; cell < stop; cell++) {
        const place = (at - first) * context + (places[cell] as number);
        data.set(values.subarray((cell - begin) * width, (cell - begin + 1) * width), place * width);
      }
    });
    return { data, shape: [to - from, ...entry.shape] };
  }

  /** Vectors [from, to) as a shard stores them, [to - from, ...]. */
  async #vectors(
    shard: ShardReader,
    entry: Manifest['locations'][number],
    from: number,
    to: number,
  ): Promise<Float32Array> {
    const { dtype } = this.manifest;
    const { location } = entry;
    const width = widthOf(entry);
    const stored = await shard.read(location, from * width, to * width);
    if (dtype !== 'int8') return fromStored(stored as StoredFloats, dtype);
    const scales = (await shard.read(`${location}.scale`, from, to)) as Float32Array;
    return dequantized({ integers: stored as Int8Array, scales });
  }

  async #sparse(i: number, from: number, to: number): Promise<SparseRows> {
    const { location, latents } = this.manifest.autoencoders[i] as Manifest['autoencoders'][number];
    const { context, dtype } = this.manifest;
    const name = latentsName(location);
    const rowPtr = new BigInt64Array(this.#count('rows', from, to) * context + 1);
    const indices: Int32Array[] = [];
    const values: Float32Array[] = [];
    let entries = 0n;
    await this.#eachShard(from, to, async (shard, first, end, at) => {
      const cells = await shard.cells();
      const [begin, last] = [cells.starts[first] as number, cells.starts[end] as number];
      const pointers = (await shard.read(`${name}.row_ptr`, begin, last + 1)) as BigInt64Array;
      const [start, stop] = checkedRange(shard, name, pointers);
      const places = placesOf(cells, first * context, end * context, begin);
      for (let p = 1; p <= (end - first) * context; p++) {
        rowPtr[at * context + p] = entries + (pointers[places(p)] as bigint) - (pointers[0] as bigint);
      }
      indices.push(new Int32Array((await shard.read(`${name}.indices`, start, stop)) as Uint16Array | Int32Array));
      const stored = await shard.read(`${name}.values`, start, stop);
      values.push(fromStored(stored as StoredFloats, latentDType(dtype)));
      entries += BigInt(stop - start);
    });
    const shape = [to - from, context, latents];
    return { shape, rowPtr, indices: joined(Int32Array, indices), values: joined(Float32Array, values) };
  }

  #check(): void {
    if (this.#closed) throw new Error(`${this.folder}: the dump was closed`);
  }

  #count(operation: string, from: number, to: number): number {
    this.#check();
    if (Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from <= to && to <= this.rowCount) {
      return to - from;
    }
    throw new RangeError(`${operation}: rows must be a range within 0 to ${this.rowCount}, but are ${from} to ${to}`);
  }

  // Calls body for each shard that has some of the rows, with the range in the shard and where it goes in the result.
  async #eachShard(
    from: number,
    to: number,
    body: (shard: ShardReader, first: number, end: number, at: number) => Promise<void>,
  ): Promise<void> {
    let start = 0;
    for (const entry of this.shards) {
      const first = Math.max(from, start);
      const end = Math.min(to, start + entry.rows);
      if (first < end) {
        await this.#withShard(entry, (shard) => body(shard, first - start, end - start, first - from));
      }
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

  #opened(entry: ShardEntry): HeldShard {
    const shard = ShardReader.open(this.#store, this.manifest, entry);
    shard.catch(() => this.#open.delete(entry.file)); // it is tried again when it is asked for again
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

/** How many of the cells from `begin` on lie before place `from + p`; asked for with p rising by one. */
function placesOf({ places }: Cells, from: number, to: number, begin: number): (p: number) => number {
  if (!places) return (p) => p;
  let cell = begin;
  return (p) => {
    const end = Math.min(from + p, to);
    while (cell < places.length && (places[cell] as number) < end) cell++;
    return cell - begin;
  };
}

// Pointers come from the file: they must rise, and stay within it.
function checkedRange(shard: ShardReader, name: string, pointers: BigInt64Array): [number, number] {
  const entries = BigInt(shard.layout.tensor(`${name}.indices`).shape[0] as number);
  for (let p = 0; p < pointers.length; p++) {
    const pointer = pointers[p] as bigint;
    const least = p === 0 ? 0n : (pointers[p - 1] as bigint);
    if (pointer < least || pointer > entries) throw new Error(`${shard.path}: ${name}.row_ptr is broken`);
  }
  return [Number(pointers[0]), Number(pointers.at(-1))];
}

function joined<T extends Int32Array | Float32Array>(Kind: new (length: number) => T, parts: T[]): T {
  if (parts.length === 1) return parts[0] as T;
  const whole = new Kind(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/**
 * Opens the dump in a folder, or under `az://account/container/prefix`, of which only what is asked for is read. One that
 * was made in parts (`shard: { index, count }`) is opened as a whole, once its parts lie in one folder; parts that are
 * missing are missing rows.
 * @throws Error when the folder has no manifest, a broken one, or those of two different dumps.
 */
export async function openDump(folder: string): Promise<Dump> {
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
  return { ...parts[0], part: { index: 0, count: 1 }, shards, complete };
}
