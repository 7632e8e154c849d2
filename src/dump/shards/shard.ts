// Writes one shard. Tensors follow one another in the file while rows come batch by batch. So each batch is written at
// the offsets that the layout gives. Latents, whose number is not known beforehand, follow at the end, and the header
// is written last into the space that was left for it. Padding is never written: holes of a file read as zeros. The
// shard gets its name only when it is complete and on the disk.
import type { SparseLatents } from '../../engine/ops/sparse_encode.js';
import { handleSource } from '../../files/byte_source.js';
import { type Draft, newTag, type Store } from '../../files/store/store.js';
import { type Block, positionInDocument } from '../corpus/blocks.js';
import { digestOf, onDisk, writeAll } from '../format/disk.js';
import { type DenseValues, latentsName, type NamedValues, namedValues, ShardLayout } from '../format/layout.js';
import { type ListedFile, type ShardEntry, shardFile } from '../format/manifest.js';
import { type FoundValue, NonFiniteCounter, NonFiniteError, storedSizes } from '../format/non_finite.js';
import { type StoredPositions, storedPositionsOf } from '../format/positions.js';
import type { DumpSettings, SparseLocation } from '../format/settings.js';
import { quantized, type StoredFloats, toStored, transferDType } from '../format/stored_floats.js';
import type { Batch } from './batches.js';
import { LatentSpill, type SpilledFloats } from './latent_spill.js';
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
  readonly #named: readonly NamedValues[];
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
    this.#named = namedValues(settings);
    this.#nonFinite = new NonFiniteCounter(settings, (of) => finite || this.#named[of]?.dtype === 'int8');
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
        const indices = await begin(`${i}-indices`);
        const floats: SpilledFloats[] = [];
        for (const [of, named] of namedValues(settings).entries()) {
          if (!named.isSparse || named.index !== i) continue;
          floats.push({ of, named, draft: await begin(`${i}-${named.isGradient ? 'gradients' : 'values'}`) });
        }
        spills.push(new LatentSpill(settings, block, shard.positions, { indices, floats }));
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
   * Writes the batch's `values` [rows, seq, ...] of the dense `namedValues[of]`, except padding and left-out positions.
   * `values` is overwritten. `allFinite`: none of them needs to be looked at.
   */
  async writeDense(of: number, batch: Batch, values: StoredFloats, allFinite: boolean): Promise<void> {
    const named = this.#named[of] as DenseValues;
    const { width } = named;
    const { context } = this.#settings;
    const { flatPositions } = this.#positions;
    this.#statistics?.addDense(of, batch, values as Float32Array);
    const spans = flatPositions
      ? packedSpans(batch, { ...this.#positions, flatPositions }, context, values, width)
      : paddedSpans(batch, this.#block, context);
    for (const { first, slot, count } of spans) {
      const vectors = values.subarray(first * width, (first + count) * width);
      const flatOf = (n: number) => (flatPositions ? (flatPositions[slot + n] as number) : slot + n);
      if (!allFinite) this.#nonFinite.addDense(of, vectors, flatOf);
      if (!this.#nonFinite.refused) await this.#writeVectors(named, slot, vectors);
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

  async #writeVectors({ tensor, dtype, width }: DenseValues, slot: number, values: StoredFloats): Promise<void> {
    const put = (name: string, view: ArrayBufferView & { readonly BYTES_PER_ELEMENT: number }, vector: number) =>
      this.#write(view, this.#layout.offset(name) + slot * vector * view.BYTES_PER_ELEMENT);
    if (dtype === 'int8') {
      const { integers, scales } = quantized(values as Float32Array, width);
      await put(`${tensor}.scale`, scales, 1);
      await put(tensor, integers, width);
    } else {
      await put(tensor, values instanceof Float32Array ? toStored(values, dtype) : values, width);
    }
  }

  /**
   * Adds the latents of autoencoder `i` at the batch's [rows * seq] positions, and the gradient of each, where the dump
   * has gradients.
   */
  async appendLatents(i: number, batch: Batch, csr: SparseLatents, gradients?: Float32Array): Promise<void> {
    const spill = this.#spills[i] as LatentSpill;
    const floats = gradients ? [csr.values, gradients] : [csr.values];
    for (const [n, values] of floats.entries()) {
      this.#statistics?.addSparse(spill.columns[n] as number, batch, { ...csr, values });
    }
    await spill.append(batch, csr, floats, this.#nonFinite);
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
      await spill.writeFloats(this.#write, (tensor) => layout.offset(tensor), buffer);
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

function refusal(settings: DumpSettings, block: Block, { of, flat, index, value }: FoundValue): NonFiniteError {
  const { name, isSparse, dtype } = namedValues(settings)[of] as NamedValues;
  const { context } = settings;
  const position = `position ${positionInDocument(block, flat)} in document ${block.document[flat]}`;
  const row = `row ${Math.floor(flat / context)}, position ${flat % context} of ${shardFile(block.number)}`;
  const where = `${isSparse ? 'latent' : 'value'} ${index} at ${position} (${row})`;
  if (dtype === 'int8') {
    const advice = `choose float16, and another folder. It is ${where}`;
    return new NonFiniteError(`dump: ${name}: ${value} is not finite, which int8 cannot hold: ${advice}`, block.number);
  }
  const rounded = !isSparse && transferDType({ dtype }, settings) !== 'float32' && !Number.isNaN(value);
  const is = rounded ? `is not finite, or was too large for ${dtype}` : `is not finite`;
  const what = Number.isFinite(value) ? `${value} is too large for ${dtype}` : `${value} ${is}`;
  return new NonFiniteError(`dump: ${name}: ${what}: ${where}. Without finite, such values are counted`, block.number);
}
