// The first pass of collate(), which reads every row once. Each row is summed up by itself and then merged, so that the
// result does not depend on how many rows are read at a time.
import { Moments } from '../format/moments.js';
import type { DenseRows, Dump, SparseRows } from '../read/reader.js';
import {
  allRanges,
  type Chunk,
  checkLatents,
  type FeatureTensor,
  positionsOf,
  readChunks,
  rowsWithin,
} from './features.js';
import { TopRows } from './row_choice.js';
import type { ScanMeter } from './scan_progress.js';

/**
 * The moments and the top rows of chosen features. A feature's slot in both is its index in the list of chosen ones.
 */
export interface Scan {
  readonly moments: Moments;
  readonly top: TopRows;
  add(chunk: Chunk): void;
  /** Must be called after the last chunk. */
  finish(): void;
}

const makeScan = ({ name, width, sparse }: FeatureTensor, chosen: Int32Array, top: number): Scan =>
  sparse ? new SparseScan(name, chosen, top) : new DenseScan(width, chosen, top);

export interface ScanOptions {
  /** For the rows that are read at once. */
  readonly chunkBytes: number;
  readonly meter: ScanMeter;
  readonly signal: AbortSignal | undefined;
}

/** Scans all rows of a dump for chosen features, and remembers the `top` strongest rows of each. */
export async function scanDump(
  dump: Dump,
  tensor: FeatureTensor,
  chosen: Int32Array,
  { top, ...options }: ScanOptions & { readonly top: number },
): Promise<Scan> {
  const scan = makeScan(tensor, chosen, top);
  for await (const chunk of readAll(dump, tensor, options)) scan.add(chunk);
  scan.finish();
  return scan;
}

/** All rows of a tensor, in chunks. After each one, the progress is reported and the signal is checked. */
export async function* readAll(
  dump: Dump,
  tensor: FeatureTensor,
  { chunkBytes, meter, signal }: ScanOptions,
): AsyncGenerator<Chunk> {
  const ranges = allRanges(dump, rowsWithin(dump, tensor, chunkBytes));
  for await (const chunk of readChunks(dump, tensor.name, ranges)) {
    yield chunk;
    meter.scanned(chunk.tokens.document);
    signal?.throwIfAborted();
  }
}

class DenseScan implements Scan {
  readonly moments: Moments;
  readonly top: TopRows;
  readonly #width: number;
  readonly #chosen: Int32Array;
  readonly #mean: Float64Array;
  readonly #largest: Float64Array;
  readonly #m2: Float64Array;
  readonly #m3: Float64Array;
  readonly #m4: Float64Array;

  constructor(width: number, chosen: Int32Array, top: number) {
    const n = chosen.length;
    this.moments = new Moments(n);
    this.top = new TopRows(n, top);
    this.#width = width;
    this.#chosen = chosen;
    this.#mean = new Float64Array(n);
    this.#largest = new Float64Array(n);
    this.#m2 = new Float64Array(n);
    this.#m3 = new Float64Array(n);
    this.#m4 = new Float64Array(n);
  }

  add(chunk: Chunk): void {
    const { data } = chunk.values as DenseRows;
    const rowSize = (chunk.tokens.shape[1] as number) * this.#width;
    for (let r = 0; r < chunk.count; r++) {
      const starts = positionsOf(chunk, r).map((p) => r * rowSize + p * this.#width);
      if (starts.length > 0) this.#addRow(data, starts, chunk.from + r);
    }
  }

  finish(): void {}

  #addRow(data: Float32Array, starts: number[], row: number): void {
    this.#sumAndMaximum(data, starts);
    this.#centralSums(data, starts);
    for (let i = 0; i < this.#chosen.length; i++) {
      const [mean, m2, m3, m4] = [this.#mean[i], this.#m2[i], this.#m3[i], this.#m4[i]] as [
        number,
        number,
        number,
        number,
      ];
      this.moments.merge(i, starts.length, mean, m2, m3, m4);
      this.top.offer(i, this.#largest[i] as number, row);
    }
  }

  #sumAndMaximum(data: Float32Array, starts: number[]): void {
    const [chosen, sum, largest] = [this.#chosen, this.#mean.fill(0), this.#largest.fill(Number.NEGATIVE_INFINITY)];
    for (const start of starts) {
      for (let i = 0; i < chosen.length; i++) {
        const x = data[start + (chosen[i] as number)] as number;
        sum[i] = (sum[i] as number) + x;
        if (x > (largest[i] as number)) largest[i] = x;
      }
    }
    for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) / starts.length;
  }

  #centralSums(data: Float32Array, starts: number[]): void {
    const [chosen, mean] = [this.#chosen, this.#mean];
    const [m2, m3, m4] = [this.#m2.fill(0), this.#m3.fill(0), this.#m4.fill(0)];
    for (const start of starts) {
      for (let i = 0; i < chosen.length; i++) {
        const d = (data[start + (chosen[i] as number)] as number) - (mean[i] as number);
        const square = d * d;
        m2[i] = (m2[i] as number) + square;
        m3[i] = (m3[i] as number) + square * d;
        m4[i] = (m4[i] as number) + square * square;
      }
    }
  }
}

// Only stored values are read. The zeros of a latent are merged at the end. Of the rows where a latent is not active,
// only the first few can be among the top ones.
class SparseScan implements Scan {
  readonly moments: Moments;
  readonly top: TopRows;
  readonly #name: string;
  readonly #most: number;
  /** The slot of each latent up to the last chosen one, or -1. */
  readonly #slotOf: Int32Array;
  /** Sums over the current row, by slot. */
  readonly #count: Int32Array;
  readonly #mean: Float64Array;
  readonly #largest: Float64Array;
  readonly #m2: Float64Array;
  readonly #m3: Float64Array;
  readonly #m4: Float64Array;
  /** The rows of zeros that were offered, by slot, and the slots that have had fewer than `most` of them. */
  readonly #zeroRows: Int32Array;
  #unfilled: Int32Array;
  #tokens = 0;

  constructor(name: string, chosen: Int32Array, top: number) {
    const n = chosen.length;
    this.moments = new Moments(n);
    this.top = new TopRows(n, top);
    this.#name = name;
    this.#most = top;
    this.#slotOf = new Int32Array(chosen.reduce((most, latent) => Math.max(most, latent + 1), 0)).fill(-1);
    for (let i = 0; i < n; i++) this.#slotOf[chosen[i] as number] = i;
    this.#count = new Int32Array(n);
    this.#mean = new Float64Array(n);
    this.#largest = new Float64Array(n);
    this.#m2 = new Float64Array(n);
    this.#m3 = new Float64Array(n);
    this.#m4 = new Float64Array(n);
    this.#zeroRows = new Int32Array(n);
    this.#unfilled = Int32Array.from({ length: n }, (_, i) => i);
  }

  add(chunk: Chunk): void {
    for (let r = 0; r < chunk.count; r++) {
      checkLatents(this.#name, chunk, r);
      const positions = positionsOf(chunk, r);
      if (positions.length > 0) this.#addRow(chunk, r, positions);
    }
  }

  finish(): void {
    for (let i = 0; i < this.#count.length; i++)
      this.moments.merge(i, this.#tokens - this.moments.count(i), 0, 0, 0, 0);
  }

  #addRow(chunk: Chunk, r: number, positions: number[]): void {
    this.#tokens += positions.length;
    const entries = this.#entries(chunk.values as SparseRows, r, positions);
    const active = this.#sumAndMaximum(entries);
    this.#centralSums(entries, active);
    const row = chunk.from + r;
    for (const slot of active) {
      const largest = this.#largest[slot] as number;
      const hasZeros = (this.#count[slot] as number) < positions.length;
      this.top.offer(slot, hasZeros ? Math.max(0, largest) : largest, row); // latents may be negative
    }
    this.#offerZeros(row);
    for (const slot of active) this.#count[slot] = 0;
  }

  /** The slots and values of the chosen latents in a row. */
  #entries({ rowPtr, indices, values, shape }: SparseRows, r: number, positions: number[]): [number[], number[]] {
    const [slots, found]: [number[], number[]] = [[], []];
    for (const p of positions) {
      const at = r * (shape[1] as number) + p;
      for (let i = Number(rowPtr[at]); i < Number(rowPtr[at + 1]); i++) {
        const slot = this.#slotOf[indices[i] as number] ?? -1;
        if (slot < 0) continue;
        slots.push(slot);
        found.push(values[i] as number);
      }
    }
    return [slots, found];
  }

  #sumAndMaximum([slots, values]: [number[], number[]]): number[] {
    const [count, mean, largest] = [this.#count, this.#mean, this.#largest];
    const active: number[] = [];
    for (let i = 0; i < slots.length; i++) {
      const [slot, x] = [slots[i] as number, values[i] as number];
      if (count[slot] === 0) {
        active.push(slot);
        mean[slot] = 0;
        largest[slot] = Number.NEGATIVE_INFINITY;
      }
      count[slot] = (count[slot] as number) + 1;
      mean[slot] = (mean[slot] as number) + x;
      if (x > (largest[slot] as number)) largest[slot] = x;
    }
    for (const slot of active) mean[slot] = (mean[slot] as number) / (count[slot] as number);
    return active;
  }

  #centralSums([slots, values]: [number[], number[]], active: number[]): void {
    const [mean, m2, m3, m4] = [this.#mean, this.#m2, this.#m3, this.#m4];
    for (const slot of active) m2[slot] = m3[slot] = m4[slot] = 0;
    for (let i = 0; i < slots.length; i++) {
      const slot = slots[i] as number;
      const d = (values[i] as number) - (mean[slot] as number);
      const square = d * d;
      m2[slot] = (m2[slot] as number) + square;
      m3[slot] = (m3[slot] as number) + square * d;
      m4[slot] = (m4[slot] as number) + square * square;
    }
    for (const i of active) {
      const [n, average] = [this.#count[i], mean[i]] as [number, number];
      this.moments.merge(i, n, average, m2[i] as number, m3[i] as number, m4[i] as number);
    }
  }

  // A later row of zeros never ranks before an earlier one, so only the first `most` can count.
  #offerZeros(row: number): void {
    let left = 0;
    for (const slot of this.#unfilled) {
      if (this.#count[slot] === 0) {
        this.top.offer(slot, 0, row);
        this.#zeroRows[slot] = (this.#zeroRows[slot] as number) + 1;
      }
      if ((this.#zeroRows[slot] as number) < this.#most) this.#unfilled[left++] = slot;
    }
    this.#unfilled = this.#unfilled.subarray(0, left);
  }
}
