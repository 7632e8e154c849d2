// Writes one shard. Tensors follow one another in the file while rows come batch by batch, so each batch is written
// at the positions that the plan gives, latents, whose number nobody knows before, at the end, and the header goes last
// into the room kept for it. Padding is never written: holes of a file read as zeros. The shard gets its name only when it
// is whole and on the disk.
import { handleSource } from '../../files/byte_source.js';
import { type Draft, newTag, type Store } from '../../files/store/store.js';
import type { Block } from '../corpus/blocks.js';
import { digestOf, onDisk, writeAll } from '../format/disk.js';
import { latentsName, ShardLayout, widthOf } from '../format/layout.js';
import { type ListedFile, type ShardEntry, shardFile } from '../format/manifest.js';
import { type Cells, cellsOf } from '../format/positions.js';
import type { DumpSettings } from '../format/settings.js';
import { type Quantized, quantized, type StoredFloats, toStored } from '../format/stored_floats.js';
import type { Batch } from './batches.js';
import { type Csr, LatentSpool } from './latent_spill.js';
import { draftParquet, type FinishedShard } from './shard_parquet.js';
import { ShardStatistics } from './shard_statistics.js';
import { packedRuns, paddedRuns } from './spans.js';

const positionsAtOnce = 2 ** 18;

interface Making {
  readonly store: Store;
  /** Of this attempt. */
  readonly tag: string;
  readonly settings: DumpSettings;
  readonly block: Block;
  readonly cells: Cells;
}

export class ShardWriter {
  readonly #store: Store;
  readonly #tag: string;
  readonly #settings: DumpSettings;
  readonly #block: Block;
  readonly #cells: Cells;
  readonly #draft: Draft;
  readonly #spools: readonly LatentSpool[];
  readonly #layout: ShardLayout;
  readonly #statistics: ShardStatistics | undefined;

  private constructor({ store, tag, settings, block, cells }: Making, draft: Draft, spools: readonly LatentSpool[]) {
    this.#store = store;
    this.#tag = tag;
    this.#settings = settings;
    this.#block = block;
    this.#cells = cells;
    this.#draft = draft;
    this.#spools = spools;
    this.#layout = ShardLayout.beforeLatents(settings, { rows: block.rows, cells: cells.count });
    this.#statistics = settings.statistics ? new ShardStatistics(settings, block) : undefined;
  }

  /** Makes the unfinished file, with the tokens in it. */
  static async create(store: Store, settings: DumpSettings, block: Block): Promise<ShardWriter> {
    const making = { store, tag: newTag(), settings, block, cells: cellsOf(settings, block) };
    const file = shardFile(block.number);
    const opened: Draft[] = [];
    const begin = async (piece?: string): Promise<Draft> => {
      const draft = await onDisk(store.pathOf(file), store.draft(file, making.tag, piece));
      opened.push(draft);
      return draft;
    };
    try {
      const draft = await begin();
      const spools: LatentSpool[] = [];
      for (const i of settings.autoencoders.keys()) {
        const drafts = { indices: await begin(`${i}-indices`), values: await begin(`${i}-values`) };
        spools.push(new LatentSpool(i, settings, block, making.cells, drafts));
      }
      const writer = new ShardWriter(making, draft, spools);
      await writer.#writeTokens();
      return writer;
    } catch (error) {
      await discardAll(opened);
      throw error;
    }
  }

  async #writeTokens(): Promise<void> {
    const { tokens, document } = this.#block;
    await onDisk(this.#draft.path, this.#draft.handle.truncate(this.#layout.bytes));
    await this.#write(tokens, this.#layout.offset('tokens'));
    await this.#write(document, this.#layout.offset('document'));
    const { places } = this.#cells;
    if (places) await this.#writePositions(places, this.#layout.offset('positions'));
  }

  async #writePositions(places: Int32Array, start: number): Promise<void> {
    const { context } = this.#settings;
    const positions = new Int32Array(2 * Math.min(places.length, positionsAtOnce));
    for (let from = 0; from < places.length; from += positionsAtOnce) {
      const count = Math.min(positionsAtOnce, places.length - from);
      for (let i = 0; i < count; i++) {
        const place = places[from + i] as number;
        positions[2 * i] = Math.floor(place / context);
        positions[2 * i + 1] = place % context;
      }
      await this.#write(positions.subarray(0, 2 * count), start + 8 * from);
    }
  }

  /** `values` [rows, seq, ...] of the batch, which are overwritten. Only what has a cell and is no padding is stored. */
  async writeDense(i: number, batch: Batch, values: StoredFloats): Promise<void> {
    const entry = this.#settings.locations[i] as DumpSettings['locations'][number];
    const { context } = this.#settings;
    const { places } = this.#cells;
    const width = widthOf(entry);
    this.#statistics?.addDense(i, batch, values as Float32Array);
    const runs = places
      ? packedRuns(batch, { ...this.#cells, places }, context, values, width)
      : paddedRuns(batch, this.#block, context);
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

  /** Latents of the batch's [rows * seq] positions. */
  async appendLatents(i: number, batch: Batch, csr: Csr): Promise<void> {
    this.#statistics?.addSparse(i, batch, csr);
    await this.#spools[i]?.append(batch, csr);
  }

  /** Completes the file and gives it its name. Returns what the manifest says of it. `room` is overwritten. */
  async finish(room: Uint8Array): Promise<ShardEntry> {
    const { rows, number, tokenCount } = this.#block;
    const entries = this.#spools.map((spool) => spool.entries);
    const layout = new ShardLayout(this.#settings, { rows, cells: this.#cells.count, entries });
    for (const [i, spool] of this.#spools.entries()) {
      const name = latentsName((this.#settings.autoencoders[i] as DumpSettings['autoencoders'][number]).location);
      await spool.writePointers(this.#write, layout.offset(`${name}.row_ptr`), room);
      await spool.writeIndices(this.#write, layout.offset(`${name}.indices`), room);
      await spool.writeValues(this.#write, layout.offset(`${name}.values`), room);
      await spool.discard();
    }
    await this.#statistics?.write(this.#write, layout);
    await this.#write(layout.header, 0);
    const { bytes } = layout;
    const { path, handle } = this.#draft;
    const source = handleSource(path, handle, bytes);
    const sha256 = await onDisk(path, digestOf(source, room));
    const file = shardFile(number);
    const entry = { file, rows, tokens: tokenCount, bytes, sha256 };
    const parquet = this.#settings.parquet
      ? await this.#publishParquet({ layout, file: source, path }, room)
      : undefined;
    await onDisk(this.#store.pathOf(file), this.#draft.publish()); // last: what lies beside it is there already
    return parquet ? { ...entry, parquet } : entry;
  }

  async #publishParquet(
    shard: Pick<FinishedShard, 'layout' | 'file' | 'path'>,
    room: Uint8Array,
  ): Promise<ListedFile[]> {
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

  /** Removes what was written. For after a failure; no write may be under way. Never rejects: that failure is the one to tell. */
  async abandon(): Promise<void> {
    await discardAll([this.#draft, ...this.#spools]);
  }

  readonly #write = (view: ArrayBufferView, position: number): Promise<void> =>
    writeAll(this.#draft.path, this.#draft.handle, view, position);
}

/** Closes them all, whether or not the disk lets what is in them be removed. */
async function discardAll(written: readonly Pick<Draft, 'discard'>[]): Promise<void> {
  await Promise.allSettled(written.map((part) => part.discard()));
}

function quantizedAt(location: string, values: Float32Array, width: number): Quantized {
  try {
    return quantized(values, width);
  } catch (cause) {
    throw new RangeError(`dump: ${location}: ${(cause as Error).message}: choose float16, and another folder`, {
      cause,
    });
  }
}
