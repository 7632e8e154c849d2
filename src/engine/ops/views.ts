// Views that several operations need: a tensor broadcast to another's shape, or with another dimension last.
import { checkedShape, wrong } from '../check.js';
import { broadcastShape, broadcastStrides, type Shape, sameShape, showShape } from '../shape.js';
import type { Tensor } from './tensor.js';

/** A view of x in the shape of `like`. */
export function broadcastTo(operation: string, argument: string, x: Tensor, like: { readonly shape: Shape }): Tensor {
  if (sameShape(x.shape, like.shape)) return x;
  const shape = broadcastShape(x.shape, like.shape);
  if (!shape || !sameShape(shape, like.shape)) {
    throw new RangeError(wrong(operation, argument, `broadcastable to ${showShape(like.shape)}`, showShape(x.shape)));
  }
  return x.window(like.shape, broadcastStrides(x.shape, x.strides, like.shape));
}

/** Views of all the tensors in the shape to which they broadcast; an error names the first one that does not. */
export function broadcastTogether(operation: string, tensors: Record<string, Tensor>): Tensor[] {
  const all = Object.entries(tensors);
  let shape: number[] = [];
  for (const [argument, { shape: own }] of all) {
    const both = broadcastShape(shape, own);
    if (!both)
      throw new RangeError(wrong(operation, argument, `broadcastable with ${showShape(shape)}`, showShape(own)));
    shape = both;
  }
  checkedShape(operation, shape);
  return all.map(([, t]) =>
    sameShape(t.shape, shape) ? t : t.window(shape, broadcastStrides(t.shape, t.strides, shape)),
  );
}

/** A view of x with dimensions `dims`, ascending, last. */
export function dimsLast(x: Tensor, dims: readonly number[]): Tensor {
  const before = x.shape.length - dims.length;
  if (dims.every((d, i) => d === before + i)) return x;
  return x.permute([...x.shape.keys()].filter((d) => !dims.includes(d)).concat(dims));
}

/** A view of x with dimension `dim` first. */
export function dimFirst(x: Tensor, dim: number): Tensor {
  if (dim === 0) return x;
  return x.permute([dim, ...[...x.shape.keys()].filter((d) => d !== dim)]);
}

/** A new tensor with dimension `dim` last, handed over with its dimensions in their order; rows stay contiguous. */
export function fromDimLast(x: Tensor, dim: number): Tensor {
  const last = x.shape.length - 1;
  if (dim === last) return x;
  const order = [...x.shape.keys()].map((other) => (other === dim ? last : other - (other > dim ? 1 : 0)));
  return x.transferTo(
    order.map((from) => x.shape[from] as number),
    order.map((from) => x.strides[from] as number),
  );
}

/** A view of x with dimension `dim` last. */
export const dimLast = (x: Tensor, dim: number): Tensor => dimsLast(x, [dim]);
