// Slices of a tensor in the order of a list of indices.
import { checkedDim, checkedShape, checkOperands } from '../check.js';
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
  x.device.run('indexSelect', dimFirst(out, d), dimFirst(x, d), indices);
  return out;
}
