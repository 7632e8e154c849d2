// The latents of a shard while it is made. Their number is not known beforehand, so they are written to spill files as
// they are computed, and copied into the shard in the order of the rows when the last batch is done.
import type { SparseLatents } from '../../engine/ops/sparse_encode.js';
import type { Draft } from '../../files/store/store.js';
import type { Block } from '../corpus/blocks.js';
import { onDisk, writeAll } from '../format/disk.js';
import { indexDType, type SparseValues } from '../format/layout.js';
import { type NonFiniteCounter, nextNonFinite } from '../format/non_finite.js';
import type { StoredPositions } from '../format/positions.js';
import type { DumpSettings } from '../format/settings.js';
import { toStored } from '../format/stored_floats.js';
import type { Batch } from './batches.js';

/** Entries [from, to) of a batch, all of which are stored. */
interface EntrySpan {
  readonly from: number;
  to: number;
}

/** Writes at a byte offset of the shard. */
export type Write = (view: ArrayBufferView, offset: number) => Promise<void>;

/** Floats of which each entry has one: its value and, in a dump with gradients, its gradient. */
export interface SpilledFloats {
  /** The index in `namedValues`. */
  readonly of: number;
  readonly named: SparseValues;
  readonly draft: Draft;
}

interface SpillFile {
  readonly draft: Draft;
  bytes: number;
}

export class LatentSpill {
  readonly #settings: DumpSettings;
  readonly #block: Block;
  readonly #positions: StoredPositions;
  readonly #indices: SpillFile;
  readonly #floats: readonly (SpilledFloats & SpillFile)[];
  /** The number of active latents in each slot, [slots]. */
  readonly #counts: Uint32Array;
  /** The first entry of each row in the spill files, [rows], and the number of its entries. */
  readonly #starts: Float64Array;
  readonly #sizes: Float64Array;
  #entries = 0;

  /** For the latents of one autoencoder. `discard` discards the drafts. */
  constructor(
    settings: DumpSettings,
    block: Block,
    positions: StoredPositions,
    { indices, floats }: { indices: Draft; floats: readonly SpilledFloats[] },
  ) {
    this.#settings = settings;
    this.#block = block;
    this.#positions = positions;
    this.#indices = { draft: indices, bytes: 0 };
    this.#floats = floats.map((one) => ({ ...one, bytes: 0 }));
    this.#counts = new Uint32Array(positions.count);
    this.#starts = new Float64Array(block.rows);
    this.#sizes = new Float64Array(block.rows);
  }

  get entries(): number {
    return this.#entries;
  }

  /** The indices in `namedValues` of the floats of each entry. */
  get columns(): number[] {
    return this.#floats.map(({ of }) => of);
  }

  /**
   * Adds the latents of a batch, and to `counter` those floats that are stored and not finite. `floats` [entries] each,
   * in the order of `columns`.
   */
  async append(
    batch: Batch,
    csr: SparseLatents,
    floats: readonly Float32Array[],
    counter: NonFiniteCounter,
  ): Promise<void> {
    const spans = this.#storedSpans(batch, csr);
    const count = spans.reduce((sum, { from, to }) => sum + to - from, 0);
    const Indices = indexDType(this.#width) === 'uint16' ? Uint16Array : Int32Array;
    await append(this.#indices, gathered(csr.indices, spans, new Indices(count)));
    for (const [n, file] of this.#floats.entries()) {
      const { of, named } = file;
      const all = floats[n] as Float32Array;
      const values = gathered(all, spans, new Float32Array(count));
      if (nextNonFinite(values, named.dtype) >= 0) this.#count(batch, { ...csr, values: all }, of, counter);
      await append(file, toStored(values, named.dtype));
    }
  }

  /** The number of latents. */
  get #width(): number {
    return (this.#floats[0] as SpilledFloats).named.width;
  }

  #count(
    { rows, seq }: Batch,
    { rowPtr, indices, values }: SparseLatents,
    of: number,
    counter: NonFiniteCounter,
  ): void {
    for (const [n, row] of rows.entries()) {
      this.#eachSlot(row, (_, flat) => {
        const at = n * seq + flat - row * this.#settings.context;
        const [from, to] = [Number(rowPtr[at]), Number(rowPtr[at + 1])];
        const placeOf = (entry: number) => ({ flat, index: indices[from + entry] as number });
        counter.addSparse(of, values.subarray(from, to), placeOf);
      });
    }
  }

  /** Calls body with each stored position of a row: its slot, and its flat position. */
  #eachSlot(row: number, body: (slot: number, flat: number) => void): void {
    const { starts, flatPositions } = this.#positions;
    const first = starts[row] as number;
    const end = flatPositions ? (starts[row + 1] as number) : first + (this.#block.lengths[row] as number);
    for (let slot = first; slot < end; slot++) body(slot, flatPositions ? (flatPositions[slot] as number) : slot);
  }

  // Padding that was computed has entries, too. They are left out.
  #storedSpans({ rows, seq }: Batch, { rowPtr }: SparseLatents): EntrySpan[] {
    const { context } = this.#settings;
    const spans: EntrySpan[] = [];
    for (const [n, row] of rows.entries()) {
      this.#starts[row] = this.#entries;
      this.#eachSlot(row, (slot, flat) => {
        const at = n * seq + flat - row * context;
        const [from, to] = [Number(rowPtr[at]), Number(rowPtr[at + 1])];
        this.#counts[slot] = to - from;
        this.#entries += to - from;
        const last = spans.at(-1);
        if (last?.to === from) last.to = to;
        else spans.push({ from, to });
      });
      this.#sizes[row] = this.#entries - (this.#starts[row] as number);
    }
    return spans.filter(({ from, to }) => to > from);
  }

  /** Writes the row pointers, [slots + 1], without the first one, which is 0. `buffer` is overwritten. */
  async writePointers(write: Write, offset: number, buffer: Uint8Array): Promise<void> {
    const pointers = new BigInt64Array(buffer.buffer, buffer.byteOffset, Math.floor(buffer.length / 8));
    let entries = 0;
    for (let from = 0; from < this.#counts.length; from += pointers.length) {
      const own = this.#counts.subarray(from, from + pointers.length);
      for (let i = 0; i < own.length; i++) {
        entries += own[i] as number;
        pointers[i] = BigInt(entries);
      }
      await write(pointers.subarray(0, own.length), offset + (from + 1) * 8);
    }
  }

  /** Writes the indices in the order of the rows. `buffer` is overwritten. */
  writeIndices(write: Write, offset: number, buffer: Uint8Array): Promise<void> {
    return this.#copy(this.#indices, write, offset, buffer);
  }

  /** Writes the floats in the order of the rows, each at the offset of its tensor. `buffer` is overwritten. */
  async writeFloats(write: Write, offsetOf: (tensor: string) => number, buffer: Uint8Array): Promise<void> {
    for (const file of this.#floats) await this.#copy(file, write, offsetOf(file.named.tensor), buffer);
  }

  async discard(): Promise<void> {
    const discarding = [this.#indices, ...this.#floats].map(({ draft }) => draft.discard());
    await Promise.allSettled(discarding); // all must end before a failure is reported
    await Promise.all(discarding);
  }

  async #copy({ draft, bytes }: SpillFile, write: Write, offset: number, buffer: Uint8Array): Promise<void> {
    const width = this.#entries > 0 ? bytes / this.#entries : 0;
    let filled = 0;
    let at = offset;
    const flush = async () => {
      await write(buffer.subarray(0, filled), at);
      at += filled;
      filled = 0;
    };
    for (let row = 0; row < this.#starts.length; ) {
      const begin = this.#starts[row] as number;
      let end = begin;
      for (; row < this.#starts.length && this.#starts[row] === end; row++) end += this.#sizes[row] as number;
      for (let from = begin * width; from < end * width; ) {
        const part = buffer.subarray(filled, Math.min(buffer.length, filled + end * width - from));
        const { bytesRead } = await onDisk(draft.path, draft.handle.read(part, 0, part.length, from));
        if (bytesRead === 0) throw new Error(`dump: ${draft.path} became shorter while it was in use`);
        filled += bytesRead;
        from += bytesRead;
        if (filled === buffer.length) await flush();
      }
    }
    await flush();
  }
}

/** The elements of the spans, in `into`. */
function gathered<T extends Float32Array | Uint16Array | Int32Array>(
  all: Float32Array | Int32Array,
  spans: readonly EntrySpan[],
  into: T,
): T {
  let at = 0;
  for (const { from, to } of spans) {
    into.set(all.subarray(from, to), at);
    at += to - from;
  }
  return into;
}

async function append(file: SpillFile, view: ArrayBufferView): Promise<void> {
  await writeAll(file.draft.path, file.draft.handle, view, file.bytes);
  file.bytes += view.byteLength;
}
