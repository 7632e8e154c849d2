// Helpers that the tests of operations on rows share.
import { Tensor } from '../../../src/engine/ops/tensor.js';
import { close } from '../close.js';
import { testDevice } from '../device.js';
import { type Case, coordinates, eachRow, product, type Sample } from './cases.js';

/** x's values with dimension d last, as rows, and the shape without d. */
export function along(x: Sample, d: number): { rows: number[][]; rest: number[] } {
  const { shape } = x.t;
  const rest = shape.filter((_, other) => other !== d);
  const inner = product(shape.slice(d + 1));
  const n = shape[d] as number;
  const rows = Array.from({ length: product(rest) }, (_, row) => {
    const base = Math.floor(row / inner) * n * inner + (row % inner);
    return Array.from({ length: n }, (_, i) => x.x[base + i * inner] as number);
  });
  return { rows, rest };
}

/** x's values as rows of the dimensions `dims`, ascending, joined in row-major order, and the shape without them. */
export function alongAll(x: Sample, dims: readonly number[]): { rows: number[][]; rest: number[] } {
  const { shape } = x.t;
  const kept = [...shape.keys()].filter((d) => !dims.includes(d));
  const rest = kept.map((d) => shape[d] as number);
  const rows = Array.from({ length: product(rest) }, (): number[] => []);
  for (const [i, value] of x.x.entries()) {
    const at = coordinates(shape, i);
    rows[kept.reduce((row, d) => row * (shape[d] as number) + (at[d] as number), 0)]?.push(value);
  }
  return { rows, rest };
}

/** A tensor of any shape, and one of its dimensions. */
export const anyDim = async (c: Case, min = 0): Promise<[Sample, number]> => {
  const shape = c.rng.shape(c.rng.integer(1, 5), { elements: 20_000, min });
  return [await c.tensor(shape), c.rng.integer(0, shape.length)];
};

/** Layer norm over the last dimension, in doubles. */
export function layerNormed(
  x: ArrayLike<number>,
  shape: number[],
  gain: Float64Array,
  bias: Float64Array,
  eps: number,
): Float64Array {
  const out = new Float64Array(x.length);
  eachRow(shape, (_, offset, n) => {
    const row = Array.from({ length: n }, (_, j) => x[offset + j] as number);
    const mean = row.reduce((a, b) => a + b, 0) / n;
    const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / n;
    for (const [j, v] of row.entries()) {
      out[offset + j] = ((v - mean) / Math.sqrt(variance + eps)) * (gain[j] as number) + (bias[j] as number);
    }
  });
  return out;
}

/** Demands that `compute` gives each row of an [N, 777] the same bits in any batch and with any number of threads. */
export async function sameInAnyBatch(compute: (x: Tensor) => Tensor): Promise<void> {
  const [rows, n] = [64, 777];
  const data = await Tensor.randn([rows, n], { seed: 5 }).read();
  const run = async (threads: number, from: number, to: number) => {
    using x = Tensor.from(data.slice(from * n, to * n), { shape: [to - from, n], device: testDevice(threads) });
    using out = compute(x);
    return out.read();
  };
  const all = await run(1, 0, rows);
  const width = all.length / rows;
  for (const [threads, from, to] of [
    [2, 0, 64],
    [3, 10, 11],
    [4, 1, 50],
  ] as const) {
    close(await run(threads, from, to), all.slice(from * width, to * width));
  }
}
