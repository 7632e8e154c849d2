// Writes one shard. Tensors follow one another in the file while rows come batch by batch, so each batch is written
// at the positions that the plan gives; latents, whose number nobody knows before, are spooled next to the shard as they
// come and put in the order of the rows at the end, and the header goes last into the room kept for it. Padding is never
// written: holes of a file read as zeros. The shard gets its name only when it is whole and on the disk.
import { handleSource } from '../files/byte_source.js';
import { type Draft, newTag, type Store } from '../files/store.js';
import type { Batch } from './batches.js';
import type { Block } from './blocks.js';
import { type Cells, cellsOf, passes } from './cells.js';
import { digestOf, onDisk, writeAll } from './disk.js';
import {
  featureNames,
  featureWidths,
  indexDType,
  latentDType,
  latentsName,
  ShardLayout,
  statisticNames,
  widthOf,
} from './layout.js';
import { type ListedFile, type ShardEntry, shardFile } from './manifest.js';
import type { DumpSettings } from './plan.js';
import { draftParquet, type FinishedShard } from './shard_parquet.js';
import { FeatureStatistics } from './statistics.js';
import { type Quantized, quantized, type StoredFloats, toStored } from './stored_floats.js';

interface Csr {
  readonly rowPtr: BigInt64Array;
  readonly indices: Int32Array;
  readonly values: Float32Array;
}

interface Spool {
  readonly indices: SpoolFile;
  readonly values: SpoolFile;
  /** Of each cell the active latents, [cells]. */
  readonly counts: Uint32Array;
  /** Of each row the first entry in the spool, [rows], and the number of its entries. */
  readonly starts: Float64Array;
  readonly sizes: Float64Array;
  entries: number;
}

/** Vectors that are stored one after the other: from `first` on in the batch, and `cell` in the shard. */
interface Run {
  first: number;
  cell: number;
  count: number;
}

interface SpoolFile extends Pick<Draft, 'path' | 'handle' | 'discard'> {
  bytes: number;
}

export class ShardWriter {
  readonly #store: Store;
  readonly #tag: string;
  readonly #settings: DumpSettings;
  readonly #block: Block;
  readonly #cells: Cells;
  readonly #draft: Draft;
  readonly #spools: Spool[];
  readonly #layout: ShardLayout;
  /** Of the locations and then the latents; undefined unless they are asked for. */
  readonly #statistics: FeatureStatistics[] | undefined;

  private constructor(
    { store, tag }: { store: Store; tag: string },
    settings: DumpSettings,
    block: Block,
    cells: Cells,
    draft: Draft,
    spools: Spool[],
  ) {
    this.#store = store;
    this.#tag = tag;
    this.#settings = settings;
    this.#block = block;
    this.#cells = cells;
    this.#draft = draft;
    this.#spools = spools;
    this.#layout = ShardLayout.beforeLatents(settings, { rows: block.rows, cells: cells.count });
    this.#statistics = settings.statistics
      ? featureWidths(settings).map((width) => new FeatureStatistics(width))
      : undefined;
  }

  /** Makes the unfinished file, with the tokens in it. */
  static async create(store: Store, settings: DumpSettings, block: Block): Promise<ShardWriter> {
    const tag = newTag();
    const file = shardFile(block.number);
    const opened: Draft[] = [];
    const begin = async (piece?: string): Promise<Draft> => {
      const draft = await onDisk(store.pathOf(file), store.draft(file, tag, piece));
      opened.push(draft);
      return draft;
    };
    const spool = async (piece: string): Promise<SpoolFile> => ({ ...(await begin(piece)), bytes: 0 });
    try {
      const draft = await begin();
      const cells = cellsOf(settings, block);
      const spools: Spool[] = [];
      for (const i of settings.autoencoders.keys()) {
        spools.push({
          indices: await spool(`${i}-indices`),
          values: await spool(`${i}-values`),
          counts: new Uint32Array(cells.count),
          starts: new Float64Array(block.rows),
          sizes: new Float64Array(block.rows),
          entries: 0,
        });
      }
      const writer = new ShardWriter({ store, tag }, settings, block, cells, draft, spools);
      await writer.#writeTokens();
      return writer;
    } catch (error) {
      for (const draft of opened) await draft.discard();
      throw error;
    }
  }

  async #writeTokens(): Promise<void> {
    const { tokens, document } = this.#block;
    const { places } = this.#cells;
    const { context } = this.#settings;
    await onDisk(this.#draft.path, this.#draft.handle.truncate(this.#layout.bytes));
    await this.#write(tokens, this.#layout.offset('tokens'));
    await this.#write(document, this.#layout.offset('document'));
    if (!places) return;
    const positions = Int32Array.from({ length: 2 * places.length }, (_, i) => {
      const place = places[i >> 1] as number;
      return i % 2 === 0 ? Math.floor(place / context) : place % context;
    });
    await this.#write(positions, this.#layout.offset('positions'));
  }

  /** `values` [rows, seq, ...] of the batch, which are overwritten. Only what has a cell and is no padding is stored. */
  async writeDense(i: number, batch: Batch, values: StoredFloats): Promise<void> {
    const entry = this.#settings.locations[i] as DumpSettings['locations'][number];
    const width = widthOf(entry);
    const statistics = this.#statistics?.[i];
    if (statistics) this.#addDense(statistics, batch, values as Float32Array, width);
    const runs = this.#cells.places ? this.#packed(batch, values, width) : this.#padded(batch);
    for (const { first, cell, count } of runs) {
      await this.#writeVectors(entry, cell, values.subarray(first * width, (first + count) * width));
    }
  }

  async #writeVectors(entry: DumpSettings['locations'][number], cell: number, values: StoredFloats): Promise<void> {
    const { dtype } = this.#settings;
    const { location } = entry;
    const width = widthOf(entry);
    const put = (name: string, view: ArrayBufferView & { readonly BYTES_PER_ELEMENT: number }, vector: number) =>
      this.#write(view, this.#layout.offset(name) + cell * vector * view.BYTES_PER_ELEMENT);
    if (dtype === 'int8') {
      const { integers, scales } = quantizedAt(location, values as Float32Array, width);
      await put(`${location}.scale`, scales, 1);
      await put(location, integers, width);
    } else {
      await put(location, values instanceof Float32Array ? toStored(values, dtype) : values, width);
    }
  }

  // Stretches of vectors that are stored without a gap, from `first` on in the batch. Rows of full length that follow one
  // another go together.
  *#padded({ rows, seq }: Batch): Generator<Run> {
    const { context } = this.#settings;
    let run: Run | undefined;
    for (const [n, row] of rows.entries()) {
      const length = this.#block.lengths[row] as number;
      run ??= { first: n * seq, cell: row * context, count: 0 };
      run.count += length;
      if (length === context && seq === context && rows[n + 1] === row + 1) continue;
      yield run;
      run = undefined;
    }
  }

  // The same where positions are left out: vectors are moved together first, to the front.
  #packed({ rows, seq }: Batch, values: StoredFloats, width: number): Run[] {
    const { context } = this.#settings;
    const { starts } = this.#cells;
    const places = this.#cells.places as Int32Array;
    const runs: Run[] = [];
    let at = 0;
    for (const [n, row] of rows.entries()) {
      const [from, to] = [starts[row] as number, starts[row + 1] as number];
      const last = runs.at(-1);
      if (last && last.cell + last.count === from) last.count += to - from;
      else runs.push({ first: at, cell: from, count: to - from });
      for (let cell = from; cell < to; cell++) {
        const source = (n * seq + (places[cell] as number) - row * context) * width;
        values.copyWithin(at++ * width, source, source + width);
      }
    }
    return runs.filter(({ count }) => count > 0);
  }

  #addDense(statistics: FeatureStatistics, { order, rows, seq }: Batch, values: Float32Array, width: number): void {
    for (const n of order) {
      const own = values.subarray(n * seq * width, (n + 1) * seq * width);
      statistics.addDense(own, this.#counted(rows[n] as number));
    }
  }

  // The positions of a row that statistics are of.
  #counted(row: number): number[] {
    const { context } = this.#settings;
    const positions: number[] = [];
    for (let position = 0; position < (this.#block.lengths[row] as number); position++) {
      const token = this.#block.tokens[row * context + position] as number;
      if (passes(this.#settings, token)) positions.push(position);
    }
    return positions;
  }

  /** Latents of the batch's [rows * seq] positions. */
  async appendLatents(i: number, batch: Batch, csr: Csr): Promise<void> {
    const spool = this.#spools[i] as Spool;
    const { autoencoders, dtype, locations } = this.#settings;
    const { latents } = autoencoders[i] as DumpSettings['autoencoders'][number];
    const pointers = Float64Array.from(csr.rowPtr, Number);
    const statistics = this.#statistics?.[locations.length + i];
    if (statistics) this.#addSparse(statistics, batch, csr, pointers);
    for (const { from, to } of this.#keptEntries(spool, batch, pointers)) {
      const indices = csr.indices.subarray(from, to);
      await append(spool.indices, indexDType(latents) === 'uint16' ? new Uint16Array(indices) : indices);
      await append(spool.values, toStored(csr.values.subarray(from, to), latentDType(dtype)));
    }
  }

  // Stretches of entries that are stored: padding has entries, too, if it was computed, and is left out.
  #keptEntries(spool: Spool, { rows, seq }: Batch, pointers: Float64Array): { from: number; to: number }[] {
    const { context } = this.#settings;
    const { starts, places } = this.#cells;
    const kept: { from: number; to: number }[] = [];
    for (const [n, row] of rows.entries()) {
      spool.starts[row] = spool.entries;
      const first = starts[row] as number;
      const end = places ? (starts[row + 1] as number) : first + (this.#block.lengths[row] as number);
      for (let cell = first; cell < end; cell++) {
        const at = n * seq + (places ? (places[cell] as number) : cell) - row * context;
        const [from, to] = [pointers[at] as number, pointers[at + 1] as number];
        spool.counts[cell] = to - from;
        spool.entries += to - from;
        const last = kept.at(-1);
        if (last?.to === from) last.to = to;
        else kept.push({ from, to });
      }
      spool.sizes[row] = spool.entries - (spool.starts[row] as number);
    }
    return kept.filter(({ from, to }) => to > from);
  }

  #addSparse(statistics: FeatureStatistics, { order, rows, seq }: Batch, csr: Csr, pointers: Float64Array): void {
    for (const n of order) {
      const ranges = this.#counted(rows[n] as number).map((position) => {
        const at = n * seq + position;
        return [pointers[at] as number, pointers[at + 1] as number] as const;
      });
      statistics.addSparse(csr.indices, csr.values, ranges);
    }
  }

  /** Completes the file and gives it its name. Returns what the manifest says of it. `room` is overwritten. */
  async finish(room: Uint8Array): Promise<ShardEntry> {
    const { rows, number, tokenCount } = this.#block;
    const entries = this.#spools.map((spool) => spool.entries);
    const layout = new ShardLayout(this.#settings, { rows, cells: this.#cells.count, entries });
    for (const [i, { location }] of this.#settings.autoencoders.entries()) {
      const spool = this.#spools[i] as Spool;
      const at = (part: string) => layout.offset(`${latentsName(location)}.${part}`);
      await this.#writePointers(spool.counts, at('row_ptr'), room);
      await this.#copy(spool.indices, spool, at('indices'), room);
      await this.#copy(spool.values, spool, at('values'), room);
    }
    await this.#writeStatistics();
    await this.#write(layout.header, 0);
    const { bytes } = layout;
    const { path, handle } = this.#draft;
    const source = handleSource(path, handle, bytes);
    const sha256 = await onDisk(path, digestOf(source, room));
    const file = shardFile(number);
    const entry = { file, rows, tokens: tokenCount, bytes, sha256 };
    const parquet = this.#settings.parquet ? await this.#publishParquet({ layout, file: source }, room) : undefined;
    await onDisk(this.#store.pathOf(file), this.#draft.publish()); // last: what lies beside it is there already
    return parquet ? { ...entry, parquet } : entry;
  }

  async #publishParquet(shard: Pick<FinishedShard, 'layout' | 'file'>, room: Uint8Array): Promise<ListedFile[]> {
    const finished = { ...shard, settings: this.#settings, block: this.#block, cells: this.#cells };
    const files: ListedFile[] = [];
    for (const i of this.#settings.autoencoders.keys()) {
      const { draft, listed } = await draftParquet(finished, i, this.#store, this.#tag, room);
      try {
        await onDisk(this.#store.pathOf(listed.file), draft.publish());
      } catch (error) {
        await draft.discard();
        throw error;
      }
      files.push(listed);
    }
    return files;
  }

  async #writeStatistics(): Promise<void> {
    if (!this.#statistics) return;
    for (const [i, name] of featureNames(this.#settings).entries()) {
      const found = (this.#statistics[i] as FeatureStatistics).finish();
      await this.#write(BigInt64Array.of(BigInt(found.count)), this.#layout.offset(`${name}.count`));
      for (const statistic of statisticNames) {
        const values = found[statistic];
        const view = statistic === 'active' ? BigInt64Array.from(values, BigInt) : values;
        await this.#write(view, this.#layout.offset(`${name}.${statistic}`));
      }
    }
  }

  /** Removes what was written. For after a failure; no write may be under way. */
  async abandon(): Promise<void> {
    const spooled = this.#spools.flatMap(({ indices, values }) => [indices, values]);
    for (const file of [this.#draft, ...spooled]) await file.discard();
  }

  async #write(view: ArrayBufferView, position: number): Promise<void> {
    await writeAll(this.#draft.path, this.#draft.handle, view, position);
  }

  async #writePointers(counts: Uint32Array, start: number, room: Uint8Array): Promise<void> {
    const pointers = new BigInt64Array(room.buffer, room.byteOffset, Math.floor(room.length / 8));
    let entries = 0;
    for (let from = 0; from < counts.length; from += pointers.length) {
      const own = counts.subarray(from, from + pointers.length);
      for (let i = 0; i < own.length; i++) {
        entries += own[i] as number;
        pointers[i] = BigInt(entries);
      }
      await this.#write(pointers.subarray(0, own.length), start + (from + 1) * 8); // the first, 0, is a hole
    }
  }

  // From the order in which rows were computed into their own.
  async #copy(from: SpoolFile, { starts, sizes, entries }: Spool, position: number, room: Uint8Array): Promise<void> {
    const width = entries > 0 ? from.bytes / entries : 0;
    let filled = 0;
    let at = position;
    const flush = async () => {
      await this.#write(room.subarray(0, filled), at);
      at += filled;
      filled = 0;
    };
    for (let row = 0; row < starts.length; ) {
      const begin = starts[row] as number;
      let end = begin;
      for (; row < starts.length && starts[row] === end; row++) end += sizes[row] as number;
      for (let offset = begin * width; offset < end * width; ) {
        const part = room.subarray(filled, Math.min(room.length, filled + end * width - offset));
        const { bytesRead } = await onDisk(from.path, from.handle.read(part, 0, part.length, offset));
        if (bytesRead === 0) throw new Error(`dump: ${from.path} became shorter while it was in use`);
        filled += bytesRead;
        offset += bytesRead;
        if (filled === room.length) await flush();
      }
    }
    await flush();
    await from.discard();
  }
}

function quantizedAt(location: string, values: Float32Array, width: number): Quantized {
  try {
    return quantized(values, width);
  } catch (cause) {
    throw new RangeError(`dump: ${location}: ${(cause as Error).message}: choose float16`, { cause });
  }
}

async function append(file: SpoolFile, view: ArrayBufferView): Promise<void> {
  await writeAll(file.path, file.handle, view, file.bytes);
  file.bytes += view.byteLength;
}
