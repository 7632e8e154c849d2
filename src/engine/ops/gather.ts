// One dimension's index of each element taken from a tensor of indices.
import { checkedDim, checkOperands, wrong } from '../check.js';
import { hasHistory, record } from '../record.js';
import type { Shape } from '../shape.js';
import { showShape } from '../shape.js';
import { type Indices, withIndices } from './indices.js';
import type { Tensor } from './tensor.js';

/** Demands that index has as many dimensions as `shape`, and but for dimension d at most its sizes. */
export function checkIndexShape(operation: string, index: Shape, argument: string, shape: Shape, d?: number): void {
  if (index.length === shape.length && index.every((n, i) => i === d || n <= (shape[i] as number))) return;
  const limits = `[${shape.map((n, i) => (i === d ? 'any' : `≤ ${n}`)).join(', ')}]`;
  throw new RangeError(wrong(operation, 'index', `${limits} (${argument} is ${showShape(shape)})`, showShape(index)));
}

/**
 * The elements of x that `index` names along dimension `dim`, as PyTorch's gather: of x [A, B, C] and dim 1,
 * out[i, j, k] = x[i, index[i, j, k], k]. `index` is an int32 tensor or nested arrays of integers, which may be
 * negative and then count from the end; it has as many dimensions as x, and but for `dim` at most x's sizes. The
 * result has the shape of `index` and x's dtype, any; its elements are bits of x.
 * @throws RangeError for numbers outside of the dimension, and for other shapes; TypeError for an index of another
 * dtype. An index outside [0, N) in a tensor fails the operation: the next read() or synchronize() rejects.
 */
export function gather(x: Tensor, dim: number, index: Indices): Tensor {
  const device = checkOperands('gather', { tensor: x });
  const d = checkedDim('gather', 'dim', dim, x.shape);
  return withIndices('gather', 'index', index, x, d, (own) => {
    checkIndexShape('gather', own.shape, 'the tensor', x.shape, d);
    const out = x.make(own.shape);
    device.run('gather', out, x, own, d);
    if (hasHistory(x)) {
      record('gather', [out], [x], (keep) => {
        const places = keep(own);
        return (g) => [gradientOfGathered(x.shape, d, places.tensor, g as Tensor)];
      });
    }
    return out;
  });
}

/** The gradient of a tensor of this shape, from that of its elements that `index` names along dimension d. */
export const gradientOfGathered = (shape: Shape, d: number, index: Tensor, gradient: Tensor): Tensor =>
  gradient.make(shape).fill(0).scatterAdd_(d, index, gradient);
