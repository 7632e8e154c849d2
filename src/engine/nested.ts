// Nested arrays of numbers, as a tensor reads.
import type { HostArray } from './dtype.js';
import type { Shape } from './shape.js';

/** A number, or an array of such; as deep as a tensor has dimensions. */
export type NestedNumbers = number | NestedNumbers[];

/** The values of a tensor of `shape`, in row-major order, as nested arrays. */
export function nested(values: HostArray, shape: Shape): NestedNumbers {
  let at = 0;
  const level = (dim: number): NestedNumbers =>
    dim === shape.length
      ? (values[at++] as number)
      : Array.from({ length: shape[dim] as number }, () => level(dim + 1));
  return level(0);
}
