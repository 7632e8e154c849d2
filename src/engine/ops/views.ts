// Views that several operations need: a tensor in the shape of another, or with its dimensions in another order.
import { wrong } from '../check.js';
import { broadcastShape, broadcastStrides, sameShape, showShape } from '../shape.js';
import type { Tensor } from './tensor.js';

/** x seen in the shape of `like`. */
export function broadcastTo(operation: string, argument: string, x: Tensor, like: Tensor): Tensor {
  if (sameShape(x.shape, like.shape)) return x;
  const shape = broadcastShape(x.shape, like.shape);
  if (!shape || !sameShape(shape, like.shape)) {
    throw new RangeError(wrong(operation, argument, `broadcastable to ${showShape(like.shape)}`, showShape(x.shape)));
  }
  return x.window(like.shape, broadcastStrides(x.shape, x.strides, like.shape));
}

/** x with dimension `dim` last, as a view. */
export function dimLast(x: Tensor, dim: number): Tensor {
  if (dim === x.shape.length - 1) return x;
  return x.permute([...x.shape.keys()].filter((d) => d !== dim).concat(dim));
}
