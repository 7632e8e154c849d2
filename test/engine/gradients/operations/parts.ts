// Parts of tensors that are written in place, and shapes that broadcast.
import type { Tensor } from '../../../../src/engine/ops/tensor.js';
import { coordinates, product } from '../../../support/operations/cases.js';
import type { Random } from '../../../support/random.js';

/** A part of a dimension. */
export interface Part {
  d: number;
  from: number;
  to: number;
}

/** All elements, or those of a part of one dimension. */
export const anyPart = (rng: Random, shape: readonly number[]): Part | undefined => {
  if (shape.length === 0 || rng.next() < 0.5) return undefined;
  const d = rng.integer(0, shape.length);
  const n = shape[d] as number;
  const from = rng.integer(0, n + 1);
  return { d, from, to: rng.integer(from, n + 1) };
};

export const viewOf = (t: Tensor, part: Part | undefined): Tensor => (part ? t.slice(part.d, part.from, part.to) : t);

/** Of each element of `shape` whether it is in the part. */
export const isInsidePart = (part: Part | undefined, shape: readonly number[]): boolean[] =>
  Array.from({ length: product(shape) }, (_, i) => {
    if (!part) return true;
    const at = coordinates(shape, i)[part.d] as number;
    return at >= part.from && at < part.to;
  });

export const partShape = (part: Part | undefined, shape: readonly number[]): number[] =>
  shape.map((n, d) => (part && d === part.d ? part.to - part.from : n));

/** A shape that broadcasts to `shape`. */
export const thinned = (rng: Random, shape: readonly number[]): number[] =>
  shape.slice(rng.next() < 0.3 ? rng.integer(0, shape.length + 1) : 0).map((n) => (rng.next() < 0.3 ? 1 : n));

/** Under which element of `own` each element of `shape` lies, to which it broadcasts. */
export const underneath = (own: readonly number[], shape: readonly number[]): number[] =>
  Array.from({ length: product(shape) }, (_, i) => {
    const at = coordinates(shape, i).slice(shape.length - own.length);
    return own.reduce((index, n, d) => index * n + (n === 1 ? 0 : (at[d] as number)), 0);
  });
