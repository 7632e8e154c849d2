// Indices as arguments: numbers, which are checked here, or an int32 tensor, whose values the kernel checks.
import { checkDType, checkOperands, describe, wrong } from '../check.js';
import { flattened, nestedShape } from '../nested.js';
import { contiguousStrides, maxRank, showShape } from '../shape.js';
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
  const shape = nestedShape(indices);
  if (shape.length > maxRank) {
    throw new RangeError(wrong(operation, argument, `of at most ${maxRank} dimensions`, 'nested more deeply'));
  }
  const values = flattened(indices, shape, (actual, path) => {
    const expected = `an array of length ${shape[path.length]}, as the first one of that depth`;
    throw new RangeError(wrong(operation, placed(argument, path), expected, describe(actual)));
  });
  const n = x.shape[d] as number;
  const list = Int32Array.from(values, (value, i) => {
    if (Number.isInteger(value) && (value as number) >= -n && (value as number) < n) {
      return (value as number) < 0 ? (value as number) + n : (value as number);
    }
    const path = contiguousStrides(shape).map((step, depth) => Math.floor(i / step) % (shape[depth] as number));
    const range = n > 0 ? `an integer from ${-n} to ${n - 1}` : 'left out, as the dimension is empty';
    throw new RangeError(wrong(operation, placed(argument, path), range, describe(value)));
  });
  using tensor = x.make(shape, 'int32');
  x.device.upload(tensor, list);
  return body(tensor);
}

/** `index[2][0]`, as errors name what is inside an argument. */
const placed = (argument: string, path: readonly number[]): string => argument + path.map((i) => `[${i}]`).join('');

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
