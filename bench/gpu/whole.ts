// Comparisons of whole results on the device, where they lie: to read a result of 4,096 x 50,257 takes longer than to
// compute it. A NaN in either operand gives NaN in farthest() and difference(), since a NaN wins in max.
import type { Tensor } from '../../src/index.js';

const largest = (x: Tensor): Tensor => {
  // by rows first: one row of everything would be one block's work
  using rows = x.max(-1);
  return rows.max();
};

const first = async (scalar: Tensor): Promise<number> => (await scalar.read())[0] as number;

/**
 * The largest |got - expected| / sqrt(expected² + least²): what a value is off by as a part of it, where small ones
 * count as `least`. got and expected [rows, n], expected float32, both finite.
 */
export async function farthest(got: Tensor, expected: Tensor, least: number): Promise<number> {
  using off = got.to('float32');
  off.sub_(expected);
  off.mul_(off);
  using size = expected.mul(expected);
  size.add_(least * least);
  using most = largest(off.div_(size));
  return Math.sqrt(await first(most));
}

/** The same of values in host memory. */
export function farthestOf(got: ArrayLike<number>, expected: ArrayLike<number>, least: number): number {
  if (got.length !== expected.length) return Number.NaN;
  let most = 0;
  for (let i = 0; i < expected.length; i++) {
    const value = expected[i] as number;
    const off = Math.abs((got[i] as number) - value) / Math.sqrt(value * value + least * least);
    if (!(off <= most)) most = off;
    if (Number.isNaN(off)) return off;
  }
  return most;
}

/** A scalar on the device, 0 if both have the same values; nothing is waited for. a, b [rows, n] of one dtype. */
export function difference(a: Tensor, b: Tensor): Tensor {
  using off = a.sub(b);
  return largest(off.mul_(off));
}

/** How many of the results' differences (see difference) are not 0. Frees them. */
export async function different(differences: readonly Tensor[]): Promise<number> {
  let count = 0;
  for (const one of differences) {
    if ((await first(one)) !== 0) count++;
    one.dispose();
  }
  return count;
}

/** Whether a and b hold the same bytes: both are read as a whole. a, b of one shape and dtype, floats. */
export async function sameBytes(a: Tensor, b: Tensor): Promise<boolean> {
  const [left, right] = [await bytes(a), await bytes(b)];
  return left.equals(right);
}

async function bytes(x: Tensor): Promise<Buffer> {
  const host = x.dtype === 'float32' ? new Float32Array(x.size) : new Uint16Array(x.size);
  await x.readInto(host);
  return Buffer.from(host.buffer);
}
