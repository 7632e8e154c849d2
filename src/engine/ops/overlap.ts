// Checks whether two windows share memory: operations that write in place must not read what they have already
// overwritten.

import { wrong } from '../check.js';
import { overlap, sameWindow as sameExtent, showShape } from '../shape.js';
import type { Tensor } from './tensor.js';

export const overlaps = (a: Tensor, b: Tensor): boolean => a.storage.memory === b.storage.memory && overlap(a, b);

/** Demands that no two elements of x, which is to be written, lie at one place: an expanded view shows one again. */
export function checkWritable(operation: string, argument: string, x: Tensor): void {
  if (x.size === 0 || x.shape.every((n, d) => n === 1 || x.strides[d] !== 0)) return;
  const shown = `an expanded view ${showShape(x.shape)}, which shows elements more than once`;
  throw new RangeError(wrong(operation, argument, 'a tensor whose elements can be written; clone() makes one', shown));
}

/** Whether both show the same elements of the same memory in the same order. */
export const sameWindow = (a: Tensor, b: Tensor): boolean => a.storage.memory === b.storage.memory && sameExtent(a, b);

/** Calls body with x, or with a copy of x where writing `out` would change x under way. */
export function withSafeInput(out: Tensor, x: Tensor, body: (x: Tensor) => void): void {
  const apart = overlaps(out, x) && !sameWindow(out, x) ? x.clone() : undefined;
  body(apart ?? x);
  apart?.dispose();
}
