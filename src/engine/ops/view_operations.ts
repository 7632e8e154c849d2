// Views as operations: other shapes, orders and parts of a tensor's dimensions, on the same memory. None of them
// copies, except flatten where strides forbid a view.
import { checkedDim, checkedShape, checkInteger, checkOperands, checkRank, describe, wrong } from '../check.js';
import { broadcastStrides, shapeOf, showShape } from '../shape.js';
import type { Tensor } from './tensor.js';

/**
 * The view with a new dimension of size 1 at `dim`: [2, 3] -> [2, 1, 3] for 1, [2, 3, 1] for -1. Any dtype.
 * @throws RangeError for a dim that is not from -(rank + 1) to rank, and for a ninth dimension.
 */
export function unsqueeze(x: Tensor, dim: number): Tensor {
  checkOperands('unsqueeze', { x });
  const d = checkNewDim('unsqueeze', dim, x);
  const shape = checkedShape('unsqueeze', x.shape.toSpliced(d, 0, 1));
  return x.window(shape, x.strides.toSpliced(d, 0, 1));
}

/** A dimension that is to be added to x's, counted from 0. */
export function checkNewDim(operation: string, dim: number, x: Tensor): number {
  const rank = x.shape.length + 1;
  const d = checkInteger(operation, 'dim', dim, -rank, rank - 1);
  return d < 0 ? d + rank : d;
}

/**
 * The view without dimensions of size 1: without the one or the list that `dim` names, or without all of them. A
 * dimension that `dim` names and that has another size stays. Any dtype.
 * @throws RangeError for a dimension that x does not have, or that is named twice.
 */
export function squeeze(x: Tensor, dim?: number | readonly number[]): Tensor {
  checkOperands('squeeze', { x });
  const dims =
    dim === undefined ? [...x.shape.keys()] : [dim].flat().map((d) => checkedDim('squeeze', 'dim', d, x.shape));
  if (new Set(dims).size < dims.length) {
    throw new RangeError(wrong('squeeze', 'dim', 'each dimension once', showShape([dim].flat())));
  }
  const stays = (_: number, d: number) => x.shape[d] !== 1 || !dims.includes(d);
  return x.window(x.shape.filter(stays), x.strides.filter(stays));
}

/**
 * The view of another shape in which dimensions of size 1, and new ones in front, repeat: [3, 1] -> [2, 3, 4]. -1 keeps
 * a size. Any dtype. It shows elements more than once, so that it can be read, and not be written.
 * @throws RangeError for a shape that x does not broadcast to.
 */
export function expand(x: Tensor, ...shape: number[] | [readonly number[]]): Tensor {
  checkOperands('expand', { x });
  const wanted = shapeOf(shape);
  const lead = wanted.length - x.shape.length;
  const sizes = wanted.map((n, d) => (n === -1 && d >= lead ? (x.shape[d - lead] as number) : n));
  const target = checkedShape('expand', sizes);
  if (lead < 0 || x.shape.some((n, d) => n !== 1 && n !== target[d + lead])) {
    throw new RangeError(wrong('expand', 'shape', `one that ${showShape(x.shape)} broadcasts to`, showShape(wanted)));
  }
  return x.window(target, broadcastStrides(x.shape, x.strides, target));
}

/** The view with two dimensions exchanged. Any dtype. */
export function transpose(x: Tensor, a: number, b: number): Tensor {
  checkOperands('transpose', { x });
  const [from, to] = [checkedDim('transpose', 'a', a, x.shape), checkedDim('transpose', 'b', b, x.shape)];
  return x.permute([...x.shape.keys()].map((d) => (d === from ? to : d === to ? from : d)));
}

/**
 * The dimensions `from` to `to`, both included, as one: [2, 3, 4] -> [2, 12] for 1. A view, or a copy where strides
 * forbid one; a scalar becomes [1]. Any dtype.
 * @throws RangeError for a dimension that x does not have, and a `from` after `to`.
 */
export function flatten(x: Tensor, from = 0, to = -1): Tensor {
  checkOperands('flatten', { x });
  const shape = x.shape.length === 0 ? [1] : x.shape;
  const [first, last] = [checkedDim('flatten', 'from', from, shape), checkedDim('flatten', 'to', to, shape)];
  if (last < first) throw new RangeError(wrong('flatten', 'to', `${first} or more (from)`, String(to)));
  const one = shape.slice(first, last + 1).reduce((product, n) => product * n, 1);
  return x.reshape([...shape.slice(0, first), one, ...shape.slice(last + 1)]);
}

/**
 * The view of the elements whose indices in two dimensions, i in dim1 and j in dim2, satisfy j - i = offset. The two
 * are dropped, and the diagonal comes last: [2, 3, 4] -> [4, 2] for 0, 0, 1. It is empty where the offset lies outside.
 * Any dtype; it can be written.
 * @throws RangeError for dimensions that x does not have, and for dim1 and dim2 that are the same.
 */
export function diagonal(x: Tensor, offset = 0, dim1 = 0, dim2 = 1): Tensor {
  checkOperands('diagonal', { x });
  checkRank('diagonal', 'x', x, 2);
  checkInteger('diagonal', 'offset', offset, -(2 ** 53));
  const [row, column] = [checkedDim('diagonal', 'dim1', dim1, x.shape), checkedDim('diagonal', 'dim2', dim2, x.shape)];
  if (row === column) throw new RangeError(wrong('diagonal', 'dim2', 'another dimension than dim1', String(dim2)));
  const size = (d: number) => x.shape[d] as number;
  const step = (d: number) => x.strides[d] as number;
  const [down, right] = [Math.max(-offset, 0), Math.max(offset, 0)];
  const length = Math.max(Math.min(size(row) - down, size(column) - right), 0);
  const others = [...x.shape.keys()].filter((d) => d !== row && d !== column);
  return x.window(
    [...others.map(size), length],
    [...others.map(step), step(row) + step(column)],
    x.offset + (length > 0 ? down * step(row) + right * step(column) : 0),
  );
}

/**
 * Views of consecutive parts of a dimension: parts of `size`, of which the last one may be smaller, or of the sizes of
 * a list, which add up to the dimension. [5, 3] -> [2, 3], [2, 3], [1, 3] for 2. Any dtype.
 * @throws RangeError for a size below 1 (0 in a list) and for sizes that do not add up.
 */
export function split(x: Tensor, size: number | readonly number[], dim = 0): Tensor[] {
  checkOperands('split', { x });
  const d = checkedDim('split', 'dim', dim, x.shape);
  const n = x.shape[d] as number;
  const sizes = Array.isArray(size) ? checkedSizes(size, n, x, dim) : equalSizes(size as number, n);
  let from = 0;
  return sizes.map((part) => {
    from += part;
    return x.slice(d, from - part, from);
  });
}

function equalSizes(size: number, n: number): number[] {
  checkInteger('split', 'size', size, 1);
  // an empty dimension is one part
  return Array.from({ length: Math.max(Math.ceil(n / size), 1) }, (_, i) => Math.min(size, n - i * size));
}

function checkedSizes(sizes: readonly number[], n: number, x: Tensor, dim: number): readonly number[] {
  for (const [i, size] of sizes.entries()) checkInteger('split', `size[${i}]`, size, 0);
  const total = sizes.reduce((sum, size) => sum + size, 0);
  if (total === n) return sizes;
  const expected = `sizes that add up to ${n} (dimension ${describe(dim)} of ${showShape(x.shape)})`;
  throw new RangeError(wrong('split', 'size', expected, showShape(sizes)));
}
