// Views that several operations need: a tensor broadcast to another's shape, or with another dimension last.
import { wrong } from '../check.js';
import { broadcastShape, broadcastStrides, sameShape, showShape } from '../shape.js';
import type { Tensor } from './tensor.js';

/** A view of x in the shape of `like`. */
export function broadcastTo(operation: string, argument: string, x: Tensor, like: Tensor): Tensor {
  if (sameShape(x.shape, like.shape)) return x;
  const shape = broadcastShape(x.shape, like.shape);
  if (!shape || !sameShape(shape, like.shape)) {
    throw new RangeError(wrong(operation, argument, `broadcastable to ${showShape(like.shape)}`, showShape(x.shape)));
  }
  return x.window(like.shape, broadcastStrides(x.shape, x.strides, like.shape));
}

/** A view of x with dimensions `dims`, ascending, last. */
export function dimsLast(x: Tensor, dims: readonly number[]): Tensor {
  const before = x.shape.length - dims.length;
  if (dims.every((d, i) => d === before + i)) return x;
  return x.permute([...x.shape.keys()].filter((d) => !dims.includes(d)).concat(dims));
}

/** A view of x with dimension `dim` last. */
export const dimLast = (x: Tensor, dim: number): Tensor => dimsLast(x, [dim]);
