// Where the tokens of a batch are: the position of each token in its own sequence.
import { checkInteger, describe, wrong } from '../engine/check.js';
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

/** Some positions of each row, the same number of each. */
export interface Chosen {
  /** Where they are in tensors [batch * seq, …], one after the other. */
  readonly indices: Int32Array;
  readonly positions: Positions;
}

/**
 * The chosen positions among those of the tokens of a pass; undefined where these are all, in order. `wanted`: 'last', each
 * row's last token that is not padding, or a list for each row, in which negative ones count from the row's end. A row of
 * nothing but padding has its last column as its last position.
 * @throws TypeError or RangeError that names the row, and the positions that it has.
 */
export function choose(operation: string, argument: string, wanted: unknown, all: Positions): Chosen | undefined {
  const seq = all[0]?.length ?? 0;
  const columns = wanted === 'last' ? all.map((row) => [lastColumn(row)]) : columnsOf(operation, argument, wanted, all);
  const indices = Int32Array.from(columns.flatMap((row, r) => row.map((column) => r * seq + column)));
  if (indices.length === all.length * seq && indices.every((index, i) => index === i)) return undefined;
  return {
    indices,
    positions: all.map((row, r) => Int32Array.from(columns[r] as number[], (column) => row[column] as number)),
  };
}

function lastColumn(row: Int32Array): number {
  const last = row.findLastIndex((position) => position >= 0);
  return last < 0 ? row.length - 1 : last;
}

function columnsOf(operation: string, argument: string, wanted: unknown, all: Positions): number[][] {
  const expected = `'last', or an array of positions for each row, ${all.length} in all`;
  if (!Array.isArray(wanted)) throw new TypeError(wrong(operation, argument, expected, describe(wanted)));
  if (wanted.length !== all.length) throw new RangeError(wrong(operation, argument, expected, describe(wanted)));
  const lengths = lengthsOf(all);
  return all.map((row, r) => {
    const list: unknown = wanted[r];
    const own = `${argument}[${r}]`;
    if (!Array.isArray(list)) throw new TypeError(wrong(operation, own, 'an array of positions', describe(list)));
    if (list.length !== wanted[0].length) {
      throw new RangeError(
        wrong(operation, own, `as long as ${argument}[0], ${wanted[0].length}`, `of ${list.length}`),
      );
    }
    const last = (lengths[r] as number) - 1;
    if (last < 0 && list.length > 0) {
      throw new RangeError(wrong(operation, own, `empty, as row ${r} has nothing but padding`, describe(list)));
    }
    const first = row.find((position) => position >= 0) ?? 0;
    return Array.from(list, (position: unknown, i) => {
      const name = `${own}[${i}]`;
      const at = checkInteger(operation, name, position, first - last - 1, last);
      if (at < 0 || at >= first) return row.indexOf(at < 0 ? last + 1 + at : at);
      throw new RangeError(
        wrong(operation, name, `from ${first} to ${last}, as kvCaches hold those before`, String(at)),
      );
    });
  });
}

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
