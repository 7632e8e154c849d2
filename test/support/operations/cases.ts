// Random cases for the tests of operations: tensors of any float dtype and layout beside their exact values in doubles.
import type { Device } from '../../../src/engine/device.js';
import type { DType } from '../../../src/engine/dtype.js';
import { Tensor } from '../../../src/engine/ops/tensor.js';
import { emulated, testDevice } from '../device.js';
import { type Random, random } from '../random.js';

export const floats: readonly DType[] = ['float32', 'float32', 'bfloat16', 'float16'];

/** The largest change of a value by one rounding to the dtype, as a part of the value. */
export const unit: Record<DType, number> = {
  float32: 2 ** -23,
  bfloat16: 2 ** -8,
  float16: 2 ** -10,
  int32: 0,
  bool: 0,
};

export interface Sample {
  t: Tensor;
  /** The tensor's values, exactly, in row-major order. */
  x: Float64Array;
}

export interface Case {
  seed: number;
  rng: Random;
  device: Device;
  /** A tensor of normal values (of `dtype`, any float if left out) in a random layout; freed after the case. */
  tensor(shape: number[], options?: { dtype?: DType; scale?: number; strided?: boolean }): Promise<Sample>;
  /** Integers in [low, high). */
  integers(shape: number[], low: number, high: number): Promise<Sample>;
  /** Frees t after the case. */
  own<T extends { dispose(): void }>(t: T): T;
}

/**
 * Calls body with `count` cases (a third of them on the emulator), of one and of several threads in turn; a failure
 * names the seed.
 */
export async function cases(count: number, body: (c: Case) => Promise<void>, first = 1): Promise<void> {
  const end = first + (emulated() ? Math.ceil(count / 3) : count);
  for (let seed = first; seed < end; seed++) {
    const owned: { dispose(): void }[] = [];
    const rng = random(seed);
    const device = testDevice(1 + (seed % 3));
    const own: Case['own'] = (t) => {
      owned.push(t);
      return t;
    };
    const values = async (t: Tensor): Promise<Sample> => ({ t, x: Float64Array.from(await t.read()) });
    try {
      await body({
        seed,
        rng,
        device,
        own,
        tensor: async (shape, { dtype = rng.pick(floats), scale = 1, strided = rng.next() < 0.5 } = {}) => {
          const layout = laidOut(rng, shape, strided, own, (s) => Tensor.empty(s, { device, dtype }));
          const size = shape.reduce((product, n) => product * n, 1);
          using host = Tensor.from(rng.floats(size, scale), { shape, device });
          layout.copyFrom(host);
          return values(layout);
        },
        integers: async (shape, low, high) => {
          const size = shape.reduce((product, n) => product * n, 1);
          const data = Int32Array.from({ length: size }, () => rng.integer(low, high));
          const layout = laidOut(rng, shape, rng.next() < 0.5, own, (s) => Tensor.empty(s, { device, dtype: 'int32' }));
          using host = Tensor.from(data, { shape, device });
          layout.copyFrom(host);
          return values(layout);
        },
      });
    } catch (cause) {
      throw new Error(`case ${seed}: ${(cause as Error).message}`, { cause });
    } finally {
      for (const t of owned) t.dispose();
    }
  }
}

// A view of `shape` on a larger tensor whose dimensions are in another order, or a plain tensor.
function laidOut(
  rng: Random,
  shape: number[],
  strided: boolean,
  own: Case['own'],
  empty: (shape: number[]) => Tensor,
): Tensor {
  if (!strided || shape.length === 0) return own(empty(shape));
  const order = [...shape.keys()];
  for (let i = order.length - 1; i > 0; i--) {
    const j = rng.integer(0, i + 1);
    [order[i], order[j]] = [order[j] as number, order[i] as number];
  }
  const before = order.map(() => rng.integer(0, 3));
  const base = own(empty(order.map((d, i) => (shape[d] as number) + (before[i] as number) + rng.integer(0, 2))));
  base.fill(base.dtype === 'bool' ? 1 : 77);
  let view: Tensor = base;
  for (const [i, d] of order.entries()) {
    view = view.slice(i, before[i] as number, (before[i] as number) + (shape[d] as number));
  }
  return view.permute(order.map((_, d) => order.indexOf(d)));
}

export const product = (shape: readonly number[]): number => shape.reduce((p, n) => p * n, 1);

/** Row-major coordinates of element i. */
export function coordinates(shape: readonly number[], i: number): number[] {
  const at = new Array<number>(shape.length);
  for (let d = shape.length - 1; d >= 0; d--) {
    at[d] = i % (shape[d] as number);
    i = Math.floor(i / (shape[d] as number));
  }
  return at;
}

/** Rows of the last dimension: calls body(row, its offset). */
export function eachRow(shape: readonly number[], body: (row: number, offset: number, n: number) => void): void {
  const n = shape.at(-1) ?? 1;
  const rows = product(shape.slice(0, -1));
  for (let row = 0; row < rows; row++) body(row, row * n, n);
}
