// Indices as arguments: numbers, which are checked here, or an int32 tensor, whose values the kernel checks.
import { checkDType, checkOperands, describe, wrong } from '../check.js';
import { native } from '../native.js';
import { maxRank, type Shape, showShape } from '../shape.js';
import type { Tensor } from './tensor.js';

/** Nested arrays of integers, or an int32 tensor. */
export type Indices = Tensor | NestedIndices;
export type NestedIndices = readonly (number | NestedIndices)[];

/**
 * Calls body with the indices of dimension d of x as an int32 tensor on x's device. Numbers may be negative, and then
 * count from the end; their tensor is freed when body returns.
 */
export function withIndices<R>(
  operation: string,
  argument: string,
  indices: Indices,
  x: Tensor,
  d: number,
  body: (indices: Tensor) => R,
): R {
  if (!Array.isArray(indices)) {
    if (typeof indices !== 'object' || indices === null) {
      throw new TypeError(wrong(operation, argument, 'an array of integers or an int32 tensor', describe(indices)));
    }
    const tensor = indices as Tensor;
    checkOperands(operation, { tensor: x, [argument]: tensor });
    checkDType(operation, argument, tensor, 'int32');
    return body(tensor);
  }
  const shape: number[] = [];
  for (let level: unknown = indices; Array.isArray(level); level = level[0]) {
    shape.push(level.length);
    if (shape.length > maxRank) {
      throw new RangeError(wrong(operation, argument, `of at most ${maxRank} dimensions`, 'nested more deeply'));
    }
    if (level.length === 0) break;
  }
  const values: number[] = [];
  collect(operation, argument, indices, shape, x.shape[d] as number, values);
  using tensor = x.make(shape, 'int32');
  native.upload(x.device.handle, tensor.handle, Int32Array.from(values));
  return body(tensor);
}

/** Appends the indices of nested arrays of this shape, counted from the start of a dimension of n elements. */
function collect(operation: string, where: string, level: unknown, shape: Shape, n: number, out: number[]): void {
  const [length, ...inner] = shape as [number, ...number[]];
  if (!Array.isArray(level) || level.length !== length) {
    const expected = `an array of length ${length}, as the first one of that depth`;
    throw new RangeError(wrong(operation, where, expected, describe(level)));
  }
  for (let i = 0; i < length; i++) {
    const value: unknown = level[i];
    if (inner.length > 0) collect(operation, `${where}[${i}]`, value, inner, n, out);
    else if (Number.isInteger(value) && (value as number) >= -n && (value as number) < n) {
      out.push((value as number) < 0 ? (value as number) + n : (value as number));
    } else {
      const range = n > 0 ? `an integer from ${-n} to ${n - 1}` : 'left out, as the dimension is empty';
      throw new RangeError(wrong(operation, `${where}[${i}]`, range, describe(value)));
    }
  }
}

/** A list of indices: integers, or an int32 tensor of one dimension. */
export type IndexList = Tensor | readonly number[];

/** The same as withIndices, for a list. */
export function withIndexList<R>(
  operation: string,
  argument: string,
  indices: IndexList,
  x: Tensor,
  d: number,
  body: (indices: Tensor) => R,
): R {
  return withIndices(operation, argument, indices, x, d, (list) => {
    if (list.shape.length === 1) return body(list);
    throw new RangeError(wrong(operation, argument, 'of one dimension', showShape(list.shape)));
  });
}
