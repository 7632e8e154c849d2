// Copying between any strides and dtypes, and filling.
import { checkNumber, checkOperands, wrong } from '../check.js';
import { broadcastShape, broadcastStrides, sameShape, showShape } from '../shape.js';
import { withSafeInput } from './overlap.js';
import type { Tensor } from './tensor.js';

/** out = x, converted to out's dtype; x must broadcast to out's shape. Returns out. */
export function copy(operation: string, out: Tensor, x: Tensor): Tensor {
  checkOperands(operation, { out, other: x });
  const source = broadcastTo(operation, 'other', x, out);
  withSafeInput(out, source, (safe) => out.device.run('copy', out.handle, safe.handle));
  return out;
}

export function fill(t: Tensor, value: number): void {
  checkOperands('fill', { tensor: t });
  t.device.run('fill', t.handle, checkNumber('fill', 'value', value));
}

/** x seen in the shape of `like`. */
export function broadcastTo(operation: string, argument: string, x: Tensor, like: Tensor): Tensor {
  if (sameShape(x.shape, like.shape)) return x;
  const shape = broadcastShape(x.shape, like.shape);
  if (!shape || !sameShape(shape, like.shape)) {
    throw new RangeError(wrong(operation, argument, `broadcastable to ${showShape(like.shape)}`, showShape(x.shape)));
  }
  return x.window(like.shape, broadcastStrides(x.shape, x.strides, like.shape));
}
