// Helpers that the tests of indexing share: tensors of any dtype with all kinds of values, as their bits.
import type { DType } from '../../../src/engine/dtype.js';
import { Tensor } from '../../../src/engine/ops/tensor.js';
import type { Random } from '../random.js';
import { type Case, coordinates, type Sample } from './cases.js';

/** The values of a tensor in row-major order; bfloat16 and float16 as their bits, float32 as those of each float. */
export async function bitsOf(t: Tensor): Promise<number[]> {
  if (t.dtype === 'bfloat16' || t.dtype === 'float16') {
    const raw = new Uint16Array(t.size);
    await t.readInto(raw);
    return [...raw];
  }
  const values = await t.read();
  return [...(values instanceof Float32Array ? new Uint32Array(values.buffer) : values)];
}

/** A tensor of any dtype in a random layout beside its bits: quiet NaNs with payloads, both zeros and infinities too. */
export async function anyBits(
  c: Case,
  shape: number[],
  dtype: DType = c.rng.pick(['float32', 'bfloat16', 'float16', 'int32', 'bool'] as const),
): Promise<Sample> {
  const odd = { float32: [0x7fc01234, 0xffc00001, 0x80000000, 1], bfloat16: [0x7fc5, 0xffc1, 0x8000, 1] };
  const special = {
    ...odd,
    float16: [0x7e05, 0xfe01, 0x8000, 1],
    int32: [2 ** 31 - 1, -(2 ** 31), 16777217],
    bool: [1],
  };
  const { t } = dtype === 'int32' ? await c.integers(shape, -9, 10) : await c.tensor(shape, layoutOf(dtype));
  const layout = dtype === 'bool' ? c.own(t.to('bool')) : t;
  const bits = Float64Array.from(await bitsOf(layout), (v) =>
    c.rng.next() < 0.2 ? c.rng.pick<number>(special[dtype as keyof typeof special]) : v,
  );
  const host =
    dtype === 'float32'
      ? new Float32Array(Uint32Array.from(bits).buffer)
      : dtype === 'int32'
        ? Int32Array.from(bits)
        : dtype === 'bool'
          ? Uint8Array.from(bits)
          : Uint16Array.from(bits);
  using source = Tensor.from(host, { shape, device: c.device, dtype });
  layout.copyFrom(source);
  return { t: layout, x: bits };
}

const layoutOf = (dtype: DType) => (dtype === 'bool' ? {} : { dtype });

/** A shape of as many dimensions, each of at most the size. */
export const smaller = (rng: Random, shape: readonly number[]): number[] =>
  shape.map((n) => (rng.next() < 0.5 ? n : rng.integer(0, n + 1)));

/** Where element `at` of an index of shape `wanted` lies in `shape`, with `i` in the place of its coordinate d. */
export function offsetOf(
  wanted: readonly number[],
  at: number,
  shape: readonly number[],
  d: number,
  i: number | undefined,
): number {
  const place = coordinates(wanted, at);
  if (i !== undefined) place[d] = i;
  return place.reduce((offset, coordinate, k) => offset * (shape[k] as number) + coordinate, 0);
}
