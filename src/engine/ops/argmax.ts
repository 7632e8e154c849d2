// The index of the largest value, over one dimension.
import { checkedDim, checkOperands, wrong } from '../check.js';
import { showShape } from '../shape.js';
import type { Tensor } from './tensor.js';
import { dimLast } from './views.js';

export function argmax(x: Tensor, dim: number): Tensor {
  const device = checkOperands('argmax', { tensor: x });
  const d = checkedDim('argmax', 'dim', dim, x.shape);
  if (x.shape[d] === 0) {
    throw new RangeError(wrong('argmax', 'dim', 'a dimension that is not empty', `${dim} of ${showShape(x.shape)}`));
  }
  const out = x.make(
    x.shape.filter((_, other) => other !== d),
    'int32',
  );
  device.run('argmax', out.handle, dimLast(x, d).handle, false);
  return out;
}
