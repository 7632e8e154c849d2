// The latents of a shard while it is made: nobody knows beforehand how many there will be, so they are kept aside as they
// come, and put in the order of the rows when the last one is there.
import type { Draft } from '../../files/store/store.js';
import type { Block } from '../corpus/blocks.js';
import { onDisk, writeAll } from '../format/disk.js';
import { indexDType, latentDType } from '../format/layout.js';
import type { Cells } from '../format/positions.js';
import type { DumpSettings } from '../format/settings.js';
import { toStored } from '../format/stored_floats.js';
import type { Batch } from './batches.js';

/** The latents of a batch's [rows * seq] positions. */
export interface Csr {
  readonly rowPtr: BigInt64Array;
  readonly indices: Int32Array;
  readonly values: Float32Array;
}

/** Where entries [from, to) of a batch are stored together. */
interface Stretch {
  readonly from: number;
  to: number;
}

/** Writes at a position of the shard. */
export type Write = (view: ArrayBufferView, position: number) => Promise<void>;

interface SpoolFile {
  readonly draft: Draft;
  bytes: number;
}

export class LatentSpool {
  readonly #settings: DumpSettings;
  readonly #latents: number;
  readonly #block: Block;
  readonly #cells: Cells;
  readonly #indices: SpoolFile;
  readonly #values: SpoolFile;
  /** Of each cell the active latents, [cells]. */
  readonly #counts: Uint32Array;
  /** Of each row its first entry here, [rows], and the number of its entries. */
  readonly #starts: Float64Array;
  readonly #sizes: Float64Array;
  #entries = 0;

  /** Of autoencoder `i`; the drafts are the spool's, to be discarded with it. */
  constructor(
    i: number,
    settings: DumpSettings,
    block: Block,
    cells: Cells,
    { indices, values }: { indices: Draft; values: Draft },
  ) {
    this.#settings = settings;
    this.#latents = (settings.autoencoders[i] as DumpSettings['autoencoders'][number]).latents;
    this.#block = block;
    this.#cells = cells;
    this.#indices = { draft: indices, bytes: 0 };
    this.#values = { draft: values, bytes: 0 };
    this.#counts = new Uint32Array(cells.count);
    this.#starts = new Float64Array(block.rows);
    this.#sizes = new Float64Array(block.rows);
  }

  get entries(): number {
    return this.#entries;
  }

  async append(batch: Batch, csr: Csr): Promise<void> {
    const stretches = this.#stored(batch, csr);
    const count = stretches.reduce((sum, { from, to }) => sum + to - from, 0);
    const indices = new (indexDType(this.#latents) === 'uint16' ? Uint16Array : Int32Array)(count);
    const values = new Float32Array(count);
    let at = 0;
    for (const { from, to } of stretches) {
      indices.set(csr.indices.subarray(from, to), at);
      values.set(csr.values.subarray(from, to), at);
      at += to - from;
    }
    await append(this.#indices, indices);
    await append(this.#values, toStored(values, latentDType(this.#settings.dtype)));
  }

  // Padding has entries, too, if it was computed, and is left out.
  #stored({ rows, seq }: Batch, { rowPtr }: Csr): Stretch[] {
    const { context } = this.#settings;
    const { starts, places } = this.#cells;
    const stretches: Stretch[] = [];
    for (const [n, row] of rows.entries()) {
      this.#starts[row] = this.#entries;
      const first = starts[row] as number;
      const end = places ? (starts[row + 1] as number) : first + (this.#block.lengths[row] as number);
      for (let cell = first; cell < end; cell++) {
        const at = n * seq + (places ? (places[cell] as number) : cell) - row * context;
        const [from, to] = [Number(rowPtr[at]), Number(rowPtr[at + 1])];
        this.#counts[cell] = to - from;
        this.#entries += to - from;
        const last = stretches.at(-1);
        if (last?.to === from) last.to = to;
        else stretches.push({ from, to });
      }
      this.#sizes[row] = this.#entries - (this.#starts[row] as number);
    }
    return stretches.filter(({ from, to }) => to > from);
  }

  /** Row pointers, [cells + 1], without the first one, which is 0. `room` is overwritten. */
  async writePointers(write: Write, position: number, room: Uint8Array): Promise<void> {
    const pointers = new BigInt64Array(room.buffer, room.byteOffset, Math.floor(room.length / 8));
    let entries = 0;
    for (let from = 0; from < this.#counts.length; from += pointers.length) {
      const own = this.#counts.subarray(from, from + pointers.length);
      for (let i = 0; i < own.length; i++) {
        entries += own[i] as number;
        pointers[i] = BigInt(entries);
      }
      await write(pointers.subarray(0, own.length), position + (from + 1) * 8);
    }
  }

  /** In the order of the rows. `room` is overwritten. */
  writeIndices(write: Write, position: number, room: Uint8Array): Promise<void> {
    return this.#copy(this.#indices, write, position, room);
  }

  /** In the order of the rows. `room` is overwritten. */
  writeValues(write: Write, position: number, room: Uint8Array): Promise<void> {
    return this.#copy(this.#values, write, position, room);
  }

  async discard(): Promise<void> {
    const discarding = [this.#indices, this.#values].map(({ draft }) => draft.discard());
    await Promise.allSettled(discarding); // both, before a failure is told
    await Promise.all(discarding);
  }

  async #copy({ draft, bytes }: SpoolFile, write: Write, position: number, room: Uint8Array): Promise<void> {
    const width = this.#entries > 0 ? bytes / this.#entries : 0;
    let filled = 0;
    let at = position;
    const flush = async () => {
      await write(room.subarray(0, filled), at);
      at += filled;
      filled = 0;
    };
    for (let row = 0; row < this.#starts.length; ) {
      const begin = this.#starts[row] as number;
      let end = begin;
      for (; row < this.#starts.length && this.#starts[row] === end; row++) end += this.#sizes[row] as number;
      for (let offset = begin * width; offset < end * width; ) {
        const part = room.subarray(filled, Math.min(room.length, filled + end * width - offset));
        const { bytesRead } = await onDisk(draft.path, draft.handle.read(part, 0, part.length, offset));
        if (bytesRead === 0) throw new Error(`dump: ${draft.path} became shorter while it was in use`);
        filled += bytesRead;
        offset += bytesRead;
        if (filled === room.length) await flush();
      }
    }
    await flush();
  }
}

async function append(file: SpoolFile, view: ArrayBufferView): Promise<void> {
  await writeAll(file.draft.path, file.draft.handle, view, file.bytes);
  file.bytes += view.byteLength;
}
