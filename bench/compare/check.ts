// What the checks of the benchmarks and of the GPU scripts share: the parts of a large result that are checked, what an
// encoder's row must be, and attention in double precision.
import type { SparseLatents } from '../../src/index.js';

/** Up to `count` indices at the beginning of n, in its middle and at its end, as ranges. */
export function parts(n: number, count: number): [number, number][] {
  if (n <= 3 * count) return [[0, n]];
  const middle = n >> 1;
  return [
    [0, count],
    [middle, middle + count],
    [n - count, n],
  ];
}

interface Kept {
  readonly top: number;
  readonly threshold: number;
  readonly relu?: boolean;
  /** Of the columns. */
  readonly thresholds?: Float32Array;
}

/** Demands the very entries of the dense row that pass: an encoder's arithmetic is linear's, bit for bit. */
export function checkRow(got: SparseLatents, row: number, dense: Float32Array, kept: Kept): void {
  const { top, threshold, relu = true, thresholds } = kept;
  const value = (j: number) => dense[j] as number;
  const limit = (j: number) => Math.max(threshold, thresholds?.[j] ?? 0);
  const order = largest(dense, top).filter((j) => (relu ? value(j) : Math.abs(value(j))) > limit(j));
  const [from, to] = [Number(got.rowPtr[row]), Number(got.rowPtr[row + 1])];
  if (to - from !== order.length) {
    throw new Error(`row ${row} has ${to - from} entries, but should have ${order.length}`);
  }
  for (const [i, j] of order.entries()) {
    const [index, entry] = [got.indices[from + i], got.values[from + i]];
    if (index === j && entry === dense[j]) continue;
    throw new Error(`row ${row}: entry ${i} is ${entry} of column ${index}, but should be ${dense[j]} of ${j}`);
  }
}

/** The indices of the `top` largest values, ascending, of equals the first; all indices when top is 0. */
function largest(values: Float32Array, top: number): number[] {
  if (top === 0 || top >= values.length) return [...values.keys()];
  const least = values.slice().sort()[values.length - top] as number;
  const indices: number[] = [];
  for (let i = 0; i < values.length; i++) if ((values[i] as number) > least) indices.push(i);
  let equals = top - indices.length;
  for (let i = 0; equals > 0 && i < values.length; i++) {
    if (values[i] !== least) continue;
    indices.push(i);
    equals--;
  }
  return indices.sort((i, j) => i - j);
}

/** Row s of causal attention in double precision, of one head: q, k and v [positions, channels] -> [channels]. */
export function attend(q: Float64Array, k: Float64Array, v: Float64Array, s: number, channels: number): Float64Array {
  const scores = Array.from({ length: s + 1 }, (_, t) => {
    let sum = 0;
    for (let c = 0; c < channels; c++) sum += (q[s * channels + c] as number) * (k[t * channels + c] as number);
    return sum / Math.sqrt(channels);
  });
  const most = Math.max(...scores);
  const weights = scores.map((score) => Math.exp(score - most));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const out = new Float64Array(channels);
  for (const [t, weight] of weights.entries()) {
    for (let c = 0; c < channels; c++) out[c] = (out[c] as number) + (weight / total) * (v[t * channels + c] as number);
  }
  return out;
}
