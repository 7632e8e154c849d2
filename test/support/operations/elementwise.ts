// Helpers that the tests of element-by-element operations share.
import { type DType, isFloat } from '../../../src/engine/dtype.js';
import { close } from '../close.js';
import { type Case, coordinates, type Sample, unit } from './cases.js';

/** Not a number, infinities, zeros, the smallest and largest magnitudes. */
export const specialValues: readonly number[] = [NaN, Infinity, -Infinity, 0, -0, 1e-45, 3.4e38, -3.4e38, 1];

/** A tensor of any dtype but bool, in a random layout. */
export const anyOf = async (c: Case, shape: number[]): Promise<Sample> =>
  c.rng.next() < 0.25 ? c.integers(shape, -9, 10) : c.tensor(shape);

/** A tensor of `dtype` in a random layout, with few different values, which every dtype of floats holds. */
export async function anyDType(c: Case, shape: number[], dtype: DType): Promise<Sample> {
  const { t } = await c.tensor(shape, { dtype });
  const values = await c.integers(shape, dtype === 'bool' ? 0 : -6, dtype === 'bool' ? 2 : 7);
  t.copyFrom(isFloat(dtype) ? c.own(values.t.mul(0.5)) : values.t);
  return { t, x: isFloat(dtype) ? values.x.map((v) => v / 2) : values.x };
}

/** A shape that broadcasts to `shape`: without some leading dimensions, and with 1 in place of others. */
export const thinned = (c: Case, shape: number[]): number[] =>
  shape.slice(c.rng.integer(0, 2) * c.rng.integer(0, shape.length + 1)).map((n) => (c.rng.next() < 0.25 ? 1 : n));

/** The element of x that lies under element i of `shape`, to which it broadcasts. */
export function under(x: Sample, shape: readonly number[], i: number): number {
  const at = coordinates(shape, i).slice(shape.length - x.t.shape.length);
  let index = 0;
  for (const [d, n] of x.t.shape.entries()) index = index * n + (n === 1 ? 0 : (at[d] as number));
  return x.x[index] as number;
}

/** Demands that values of this dtype are what they should be, but for rounding. */
export function closeAs(actual: ArrayLike<number>, expected: ArrayLike<number>, dtype: DType): void {
  const r = unit[dtype] + 2 ** -22;
  close(actual, expected, { rtol: r, atol: dtype === 'float16' ? 2 ** -24 : 1e-30 });
}
