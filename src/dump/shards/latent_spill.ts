// The latents of a shard while it is made. Their number is not known beforehand, so they are written to spill files as
// they are computed, and copied into the shard in the order of the rows when the last batch is done.
import type { SparseLatents } from '../../engine/ops/sparse_encode.js';
import type { Draft } from '../../files/store/store.js';
import type { Block } from '../corpus/blocks.js';
import { onDisk, writeAll } from '../format/disk.js';
import { indexDType, latentDType } from '../format/layout.js';
import { type NonFiniteCounter, nextNonFinite } from '../format/non_finite.js';
import type { StoredPositions } from '../format/positions.js';
import type { DumpSettings, SparseLocation } from '../format/settings.js';
import { toStored } from '../format/stored_floats.js';
import type { Batch } from './batches.js';

/** Entries [from, to) of a batch, all of which are stored. */
interface EntrySpan {
  readonly from: number;
  to: number;
}

/** Writes at a byte offset of the shard. */
export type Write = (view: ArrayBufferView, offset: number) => Promise<void>;

interface SpillFile {
  readonly draft: Draft;
  bytes: number;
}

export class LatentSpill {
  readonly #i: number;
  readonly #settings: DumpSettings;
  readonly #latents: number;
  readonly #block: Block;
  readonly #positions: StoredPositions;
  readonly #indices: SpillFile;
  readonly #values: SpillFile;
  /** The number of active latents in each slot, [slots]. */
  readonly #counts: Uint32Array;
  /** The first entry of each row in the spill files, [rows], and the number of its entries. */
  readonly #starts: Float64Array;
  readonly #sizes: Float64Array;
  #entries = 0;

  /** For the latents of autoencoder `i`. `discard` discards the drafts. */
  constructor(
    i: number,
    settings: DumpSettings,
    block: Block,
    positions: StoredPositions,
    { indices, values }: { indices: Draft; values: Draft },
  ) {
    this.#i = i;
    this.#settings = settings;
    this.#latents = (settings.autoencoders[i] as SparseLocation).latents;
    this.#block = block;
    this.#positions = positions;
    this.#indices = { draft: indices, bytes: 0 };
    this.#values = { draft: values, bytes: 0 };
    this.#counts = new Uint32Array(positions.count);
    this.#starts = new Float64Array(block.rows);
    this.#sizes = new Float64Array(block.rows);
  }

  get entries(): number {
    return this.#entries;
  }

  /** Adds the latents of a batch, and to `counter` those values that are stored and not finite. */
  async append(batch: Batch, csr: SparseLatents, counter: NonFiniteCounter): Promise<void> {
    const spans = this.#storedSpans(batch, csr);
    const count = spans.reduce((sum, { from, to }) => sum + to - from, 0);
    const indices = new (indexDType(this.#latents) === 'uint16' ? Uint16Array : Int32Array)(count);
    const values = new Float32Array(count);
    let at = 0;
    for (const { from, to } of spans) {
      indices.set(csr.indices.subarray(from, to), at);
      values.set(csr.values.subarray(from, to), at);
      at += to - from;
    }
    const dtype = latentDType(this.#settings.dtype);
    if (nextNonFinite(values, dtype) >= 0) this.#count(batch, csr, counter);
    await append(this.#indices, indices);
    await append(this.#values, toStored(values, dtype));
  }

  #count({ rows, seq }: Batch, { rowPtr, indices, values }: SparseLatents, counter: NonFiniteCounter): void {
    for (const [n, row] of rows.entries()) {
      this.#eachSlot(row, (_, flat) => {
        const at = n * seq + flat - row * this.#settings.context;
        const [from, to] = [Number(rowPtr[at]), Number(rowPtr[at + 1])];
        const placeOf = (entry: number) => ({ flat, index: indices[from + entry] as number });
        counter.addLatents(this.#i, values.subarray(from, to), placeOf);
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

  /** Writes the values in the order of the rows. `buffer` is overwritten. */
  writeValues(write: Write, offset: number, buffer: Uint8Array): Promise<void> {
    return this.#copy(this.#values, write, offset, buffer);
  }

  async discard(): Promise<void> {
    const discarding = [this.#indices, this.#values].map(({ draft }) => draft.discard());
    await Promise.allSettled(discarding); // both must end before a failure is reported
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

async function append(file: SpillFile, view: ArrayBufferView): Promise<void> {
  await writeAll(file.draft.path, file.draft.handle, view, file.bytes);
  file.bytes += view.byteLength;
}
