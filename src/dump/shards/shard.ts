// Writes one shard. Tensors follow one another in the file while rows come batch by batch. So each batch is written at
// the offsets that the layout gives. Latents, whose number is not known beforehand, follow at the end, and the header
// is written last into the space that was left for it. Padding is never written: holes of a file read as zeros. The
// shard gets its name only when it is complete and on the disk.
import type { SparseLatents } from '../../engine/ops/sparse_encode.js';
import { handleSource } from '../../files/byte_source.js';
import { type Draft, newTag, type Store } from '../../files/store/store.js';
import { type Block, positionInDocument } from '../corpus/blocks.js';
import { digestOf, onDisk, writeAll } from '../format/disk.js';
import { featureNames, latentDType, latentsName, ShardLayout, widthOf } from '../format/layout.js';
import { type ListedFile, type ShardEntry, shardFile } from '../format/manifest.js';
import { denseDType, type FoundValue, NonFiniteCounter, NonFiniteError, storedSizes } from '../format/non_finite.js';
import { type StoredPositions, storedPositionsOf } from '../format/positions.js';
import type { DenseLocation, DumpSettings, SparseLocation } from '../format/settings.js';
import { quantized, type StoredFloats, toStored, transferDType } from '../format/stored_floats.js';
import type { Batch } from './batches.js';
import { LatentSpill } from './latent_spill.js';
import { draftParquet, type FinishedShard } from './shard_parquet.js';
import { ShardStatistics } from './shard_statistics.js';
import { packedSpans, paddedSpans } from './spans.js';

const slotsAtOnce = 2 ** 18;

interface NewShard {
  readonly store: Store;
  /** The tag of this attempt's unfinished files. */
  readonly tag: string;
  readonly settings: DumpSettings;
  readonly block: Block;
  readonly positions: StoredPositions;
  /** Whether values that are not finite are an error. Without it, they are one where int8 would have to hold them. */
  readonly finite: boolean;
}

export class ShardWriter {
  readonly #store: Store;
  readonly #tag: string;
  readonly #settings: DumpSettings;
  readonly #block: Block;
  readonly #positions: StoredPositions;
  readonly #draft: Draft;
  readonly #spills: readonly LatentSpill[];
  readonly #layout: ShardLayout;
  readonly #statistics: ShardStatistics | undefined;
  readonly #nonFinite: NonFiniteCounter;

  private constructor(
    { store, tag, settings, block, positions, finite }: NewShard,
    draft: Draft,
    spills: readonly LatentSpill[],
  ) {
    this.#store = store;
    this.#tag = tag;
    this.#settings = settings;
    this.#block = block;
    this.#positions = positions;
    this.#draft = draft;
    this.#spills = spills;
    this.#layout = ShardLayout.beforeLatents(settings, { rows: block.rows, positions: positions.count });
    this.#statistics = settings.statistics ? new ShardStatistics(settings, block) : undefined;
    const isInt8 = (feature: number) => settings.dtype === 'int8' && feature < settings.locations.length;
    this.#nonFinite = new NonFiniteCounter(settings, (feature) => finite || isInt8(feature));
  }

  /** Creates the unfinished file and writes the tokens. */
  static async create(
    store: Store,
    { settings, finite }: { readonly settings: DumpSettings; readonly finite: boolean },
    block: Block,
  ): Promise<ShardWriter> {
    const shard = { store, tag: newTag(), settings, block, positions: storedPositionsOf(settings, block), finite };
    const file = shardFile(block.number);
    const opened: Draft[] = [];
    const begin = async (part?: string): Promise<Draft> => {
      const draft = await onDisk(store.pathOf(file), store.draft(file, shard.tag, part));
      opened.push(draft);
      return draft;
    };
    try {
      const draft = await begin();
      const spills: LatentSpill[] = [];
      for (const i of settings.autoencoders.keys()) {
        const drafts = { indices: await begin(`${i}-indices`), values: await begin(`${i}-values`) };
        spills.push(new LatentSpill(i, settings, block, shard.positions, drafts));
      }
      const writer = new ShardWriter(shard, draft, spills);
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
    const { flatPositions } = this.#positions;
    if (flatPositions) await this.#writePositions(flatPositions, this.#layout.offset('positions'));
  }

  async #writePositions(flatPositions: Int32Array, start: number): Promise<void> {
    const { context } = this.#settings;
    const positions = new Int32Array(2 * Math.min(flatPositions.length, slotsAtOnce));
    for (let from = 0; from < flatPositions.length; from += slotsAtOnce) {
      const count = Math.min(slotsAtOnce, flatPositions.length - from);
      for (let i = 0; i < count; i++) {
        const flat = flatPositions[from + i] as number;
        positions[2 * i] = Math.floor(flat / context);
        positions[2 * i + 1] = flat % context;
      }
      await this.#write(positions.subarray(0, 2 * count), start + 8 * from);
    }
  }

  /**
   * Writes the batch's `values` [rows, seq, ...] of location `i`, except padding and left-out positions. `values` is
   * overwritten. `allFinite`: none of them needs to be looked at.
   */
  async writeDense(i: number, batch: Batch, values: StoredFloats, allFinite: boolean): Promise<void> {
    const entry = this.#settings.locations[i] as DenseLocation;
    const { context } = this.#settings;
    const { flatPositions } = this.#positions;
    const width = widthOf(entry);
    this.#statistics?.addDense(i, batch, values as Float32Array);
    const spans = flatPositions
      ? packedSpans(batch, { ...this.#positions, flatPositions }, context, values, width)
      : paddedSpans(batch, this.#block, context);
    for (const { first, slot, count } of spans) {
      const vectors = values.subarray(first * width, (first + count) * width);
      const flatOf = (n: number) => (flatPositions ? (flatPositions[slot + n] as number) : slot + n);
      if (!allFinite) this.#nonFinite.addDense(i, vectors, flatOf);
      if (!this.#nonFinite.refused) await this.#writeVectors(entry, slot, vectors);
    }
  }

  /** The first row so far that has a value that is an error; Infinity when there is none. */
  get refusedRow(): number {
    const { refused } = this.#nonFinite;
    return refused ? Math.floor(refused.flat / this.#settings.context) : Number.POSITIVE_INFINITY;
  }

  /**
   * Must be called when all batches were written but those whose rows all come after `refusedRow`.
   * @throws NonFiniteError that names the first value that is an error, if there is one.
   */
  checkFinite(): void {
    const { refused } = this.#nonFinite;
    if (refused) throw refusal(this.#settings, this.#block, refused);
  }

  async #writeVectors(entry: DenseLocation, slot: number, values: StoredFloats): Promise<void> {
    const { dtype } = this.#settings;
    const { location } = entry;
    const width = widthOf(entry);
    const put = (name: string, view: ArrayBufferView & { readonly BYTES_PER_ELEMENT: number }, vector: number) =>
      this.#write(view, this.#layout.offset(name) + slot * vector * view.BYTES_PER_ELEMENT);
    if (dtype === 'int8') {
      const { integers, scales } = quantized(values as Float32Array, width);
      await put(`${location}.scale`, scales, 1);
      await put(location, integers, width);
    } else {
      await put(location, values instanceof Float32Array ? toStored(values, dtype) : values, width);
    }
  }

  /** Adds the latents of the batch's [rows * seq] positions. */
  async appendLatents(i: number, batch: Batch, csr: SparseLatents): Promise<void> {
    this.#statistics?.addSparse(i, batch, csr);
    await this.#spills[i]?.append(batch, csr, this.#nonFinite);
  }

  /** Completes the file and gives it its name. Returns its entry in the manifest. `buffer` is overwritten. */
  async finish(buffer: Uint8Array): Promise<ShardEntry> {
    const { rows, number, tokenCount } = this.#block;
    const entries = this.#spills.map((spill) => spill.entries);
    const layout = new ShardLayout(this.#settings, { rows, positions: this.#positions.count, entries });
    for (const [i, spill] of this.#spills.entries()) {
      const name = latentsName((this.#settings.autoencoders[i] as SparseLocation).location);
      await spill.writePointers(this.#write, layout.offset(`${name}.row_ptr`), buffer);
      await spill.writeIndices(this.#write, layout.offset(`${name}.indices`), buffer);
      await spill.writeValues(this.#write, layout.offset(`${name}.values`), buffer);
      await spill.discard();
    }
    await this.#statistics?.write(this.#write, layout);
    await this.#write(layout.header, 0);
    const { bytes } = layout;
    const { path, handle } = this.#draft;
    const source = handleSource(path, handle, bytes);
    const sha256 = await onDisk(path, digestOf(source, buffer));
    const file = shardFile(number);
    const stored = this.#positions.flatPositions ? this.#positions.count : tokenCount;
    const nonFinite = this.#nonFinite.counts(storedSizes(this.#settings, stored, entries));
    const entry = { file, rows, tokens: tokenCount, bytes, sha256, ...(nonFinite && { nonFinite }) };
    const parquet = this.#settings.parquet
      ? await this.#publishParquet({ layout, file: source, path }, buffer)
      : undefined;
    await onDisk(this.#store.pathOf(file), this.#draft.publish()); // last, when the files beside it are there already
    return parquet ? { ...entry, parquet } : entry;
  }

  async #publishParquet(
    shard: Pick<FinishedShard, 'layout' | 'file' | 'path'>,
    buffer: Uint8Array,
  ): Promise<ListedFile[]> {
    const finished = { ...shard, settings: this.#settings, block: this.#block, positions: this.#positions };
    const files: ListedFile[] = [];
    for (const i of this.#settings.autoencoders.keys()) {
      const { draft, listed } = await draftParquet(finished, i, this.#store, this.#tag, buffer);
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

  /**
   * Removes what was written, after a failure and when no write is running. It never rejects, so that it does not hide
   * that failure.
   */
  async abandon(): Promise<void> {
    await discardAll([this.#draft, ...this.#spills]);
  }

  readonly #write = (view: ArrayBufferView, offset: number): Promise<void> =>
    writeAll(this.#draft.path, this.#draft.handle, view, offset);
}

/** Discards all of them, also when some cannot be removed. */
async function discardAll(written: readonly Pick<Draft, 'discard'>[]): Promise<void> {
  await Promise.allSettled(written.map((part) => part.discard()));
}

function refusal(settings: DumpSettings, block: Block, { feature, flat, index, value }: FoundValue): NonFiniteError {
  const { context, locations, dtype } = settings;
  const isDense = feature < locations.length;
  const position = `position ${positionInDocument(block, flat)} in document ${block.document[flat]}`;
  const row = `row ${Math.floor(flat / context)}, position ${flat % context} of ${shardFile(block.number)}`;
  const where = `${isDense ? 'value' : 'latent'} ${index} at ${position} (${row})`;
  const name = featureNames(settings)[feature];
  if (isDense && dtype === 'int8') {
    const advice = `choose float16, and another folder. It is ${where}`;
    return new NonFiniteError(`dump: ${name}: ${value} is not finite, which int8 cannot hold: ${advice}`, block.number);
  }
  const rounding = isDense ? denseDType(dtype) : latentDType(dtype);
  const rounded = isDense && transferDType(settings) !== 'float32' && !Number.isNaN(value);
  const is = rounded ? `is not finite, or was too large for ${rounding}` : `is not finite`;
  const what = Number.isFinite(value) ? `${value} is too large for ${rounding}` : `${value} ${is}`;
  return new NonFiniteError(`dump: ${name}: ${what}: ${where}. Without finite, such values are counted`, block.number);
}
