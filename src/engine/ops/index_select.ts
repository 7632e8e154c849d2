// Slices of a tensor in the order of a list of indices.
import { checkedDim, checkedShape, checkOperands } from '../check.js';
import { recordWrite } from '../record.js';
import type { Shape } from '../shape.js';
import { gradientOfGathered } from './gather.js';
import { type IndexList, withIndexList } from './indices.js';
import type { Tensor } from './tensor.js';
import { dimFirst } from './views.js';

/**
 * The slices of x at `indices` of dimension `dim`: x [A, N, C] and dim 1 give [A, K, C], out[:, j] = x[:, indices[j]].
 * `indices`: K integers, which may be negative and then count from the end, or an int32 tensor [K]. Any dtype; the
 * elements are bits of x. (PyTorch's index_select.)
 * @throws RangeError for numbers outside of the dimension; TypeError for a tensor of another dtype. An index outside
 * [0, N) in a tensor fails the operation: the next read() or synchronize() rejects.
 */
export function indexSelect(x: Tensor, dim: number, indices: IndexList): Tensor {
  checkOperands('indexSelect', { tensor: x });
  const d = checkedDim('indexSelect', 'dim', dim, x.shape);
  return withIndexList('indexSelect', 'indices', indices, x, d, (list) => {
    const shape = x.shape.map((n, other) => (other === d ? (list.shape[0] as number) : n));
    return indexSelectInto(x.make(checkedShape('indexSelect', shape)), x, d, list);
  });
}

/** @internal The same into a tensor of that shape, which is returned; nothing is checked. */
export function indexSelectInto(out: Tensor, x: Tensor, d: number, indices: Tensor): Tensor {
  recordWrite('indexSelect', out, [x], (keep) => {
    const list = keep(indices);
    return (g) => [gradientOfSelected(x.shape, d, list.tensor, g as Tensor)];
  });
  x.device.run('indexSelect', dimFirst(out, d), dimFirst(x, d), indices);
  return out;
}

/** The gradient of a tensor of this shape, from that of its slices at a list of indices of dimension d. */
export function gradientOfSelected(shape: Shape, d: number, list: Tensor, gradient: Tensor): Tensor {
  const step = list.strides[0] as number;
  const index = list.window(
    gradient.shape,
    gradient.shape.map((_, other) => (other === d ? step : 0)),
  );
  return gradientOfGathered(shape, d, index, gradient);
}
