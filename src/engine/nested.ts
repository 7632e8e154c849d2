// Nested arrays: of numbers as a tensor reads, and those that calls take.
import type { HostArray } from './dtype.js';
import { maxRank, type Shape } from './shape.js';

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

/** The length of the first array of each depth: the shape, if all are alike. It ends at one dimension too many. */
export function nestedShape(value: unknown): number[] {
  const shape: number[] = [];
  for (let level = value; Array.isArray(level) && shape.length <= maxRank; level = level[0]) shape.push(level.length);
  return shape;
}

/**
 * The values of nested arrays of `shape`, in row-major order. `refuse` throws the error for what is at the indices
 * `path` and is not an array of the length that `shape` says.
 */
export function flattened(
  value: unknown,
  shape: Shape,
  refuse: (actual: unknown, path: readonly number[]) => never,
): unknown[] {
  const out: unknown[] = [];
  const path: number[] = [];
  const visit = (level: unknown): void => {
    const depth = path.length;
    if (!Array.isArray(level) || level.length !== shape[depth]) refuse(level, path);
    for (let i = 0; i < level.length; i++) {
      if (depth + 1 === shape.length) out.push(level[i]);
      else {
        path.push(i);
        visit(level[i]);
        path.pop();
      }
    }
  };
  if (shape.length === 0) return [value];
  visit(value);
  return out;
}
