// Where the tokens of a batch are: the position of each token in its own sequence.
import type { Device } from '../engine/device.js';
import { Tensor } from '../engine/ops/tensor.js';

/** The position of each token, by row: the number of the row's tokens before it, padding left out; -1 for padding. */
export type Positions = readonly Int32Array[];

/** Each row of `before`, followed by that of `after`. */
export const joined = (before: Positions, after: Positions): Positions =>
  before.map((row, i) => {
    const next = after[i] as Int32Array;
    const all = new Int32Array(row.length + next.length);
    all.set(row);
    all.set(next, row.length);
    return all;
  });

export const hasPadding = (positions: Positions): boolean => positions.some((row) => row.includes(-1));

/** The number of tokens of each row, padding left out. */
export const lengthsOf = (positions: Positions): number[] =>
  positions.map((row) => row.reduce((length, position) => Math.max(length, position + 1), 0));

// What the device holds is known on the host as well: hooks that look for a position do not wait for the device.
const onHost = new WeakMap<Tensor, Positions>();

/** Positions on a device: int32 [batch, seq]. The caller frees the tensor. */
export function positionsTensor(positions: Positions, device: Device): Tensor {
  const seq = positions[0]?.length ?? 0;
  const data = new Int32Array(positions.length * seq);
  for (const [row, of] of positions.entries()) data.set(of, row * seq);
  return remembered(Tensor.from(data, { shape: [positions.length, seq], device }), positions);
}

/** Notes what a tensor of positions holds. */
export function remembered(tensor: Tensor, positions: Positions): Tensor {
  onHost.set(tensor, positions);
  return tensor;
}

/** The positions that a tensor [batch, seq] holds. Only one that no pass has made is read from its device. */
export async function positionsOf(tensor: Tensor): Promise<Positions> {
  const known = onHost.get(tensor);
  if (known) return known;
  const [batch, seq] = tensor.shape as [number, number];
  const data = Int32Array.from(await tensor.read());
  return Array.from({ length: batch }, (_, row) => data.subarray(row * seq, (row + 1) * seq));
}
