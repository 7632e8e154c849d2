// What the checks of the GPU scripts share: where a large result is looked at, and what an encoder's row must be.
import type { SparseLatents } from '../../src/index.js';

/** Up to `count` places at the beginning of n, in its middle and at its end, as ranges. */
export function parts(n: number, count: number): [number, number][] {
  if (n <= 3 * count) return [[0, n]];
  const middle = n >> 1;
  return [
    [0, count],
    [middle, middle + count],
    [n - count, n],
  ];
}

export interface Kept {
  readonly top: number;
  readonly threshold: number;
  readonly relu?: boolean;
}

/** Demands the very entries of the dense row that pass: an encoder's arithmetic is linear's, bit for bit. */
export function checkRow(got: SparseLatents, row: number, dense: Float32Array, kept: Kept): void {
  const { top, threshold, relu = true } = kept;
  const value = (j: number) => dense[j] as number;
  let order = [...dense.keys()];
  if (top > 0 && top < order.length) {
    order.sort((i, j) => value(j) - value(i) || i - j);
    order = order.slice(0, top).sort((i, j) => i - j);
  }
  order = order.filter((j) => (relu ? value(j) : Math.abs(value(j))) > threshold);
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
