// Helpers that the tests of element-by-element operations share.
import type { DType } from '../../../src/engine/dtype.js';
import { close } from '../close.js';
import { type Case, type Sample, unit } from './cases.js';

/** Not a number, infinities, zeros, the smallest and largest magnitudes. */
export const specialValues: readonly number[] = [NaN, Infinity, -Infinity, 0, -0, 1e-45, 3.4e38, -3.4e38, 1];

/** A tensor of any dtype but bool, in a random layout. */
export const anyOf = async (c: Case, shape: number[]): Promise<Sample> =>
  c.rng.next() < 0.25 ? c.integers(shape, -9, 10) : c.tensor(shape);

/** Demands that values of this dtype are what they should be, but for rounding. */
export function closeAs(actual: ArrayLike<number>, expected: ArrayLike<number>, dtype: DType): void {
  const r = unit[dtype] + 2 ** -22;
  close(actual, expected, { rtol: r, atol: dtype === 'float16' ? 2 ** -24 : 1e-30 });
}
