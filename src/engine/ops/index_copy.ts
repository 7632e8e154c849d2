// Slices of a tensor assigned at a list of indices.
import { checkedDim, checkOperands } from '../check.js';
import { recordWrite } from '../record.js';
import { withTemporaries } from '../scope.js';
import { withContiguous } from './contiguous.js';
import { type IndexList, withIndexList } from './indices.js';
import { checkWritable, overlaps } from './overlap.js';
import type { Tensor } from './tensor.js';
import { broadcastTo, dimFirst } from './views.js';

/** Checks all, and calls body with what is to be written where, dimension d first. */
function withSlices<R>(
  operation: string,
  x: Tensor,
  dim: number,
  indices: IndexList,
  source: Tensor,
  body: (d: number, list: Tensor, slices: Tensor) => R,
): R {
  checkOperands(operation, { tensor: x, source });
  const d = checkedDim(operation, 'dim', dim, x.shape);
  return withIndexList(operation, 'indices', indices, x, d, (list) => {
    const shape = x.shape.map((n, other) => (other === d ? (list.shape[0] as number) : n));
    const slices = broadcastTo(operation, 'source', source, { shape });
    if (slices.dtype === x.dtype) return body(d, list, slices);
    using converted = slices.to(x.dtype);
    return body(d, list, converted);
  });
}

function write(out: Tensor, d: number, list: Tensor, slices: Tensor): void {
  out.device.run('indexCopy', dimFirst(out, d), list, dimFirst(slices, d));
}

/**
 * x [A, N, C] with `source` assigned at `indices` of dimension `dim`, as a new tensor: for dim 1,
 * out[:, indices[j]] = source[:, j]. `indices`: K integers, which may be negative and then count from the end, or an
 * int32 tensor [K]; of equal ones the last one counts. `source` has x's shape with K at `dim`, or broadcasts to it; it
 * is converted to x's dtype as copyFrom does. Any dtype. (PyTorch's index_copy.)
 * @throws RangeError for numbers outside of the dimension, and for other shapes; TypeError for a tensor of indices of
 * another dtype. An index outside [0, N) in a tensor fails the operation, and nothing is written: the next read() or
 * synchronize() rejects.
 */
export function indexCopy(x: Tensor, dim: number, indices: IndexList, source: Tensor): Tensor {
  return withSlices('indexCopy', x, dim, indices, source, (d, list, slices) => {
    const out = x.clone();
    noteSlices('indexCopy', out, d, list, slices);
    write(out, d, list, slices);
    return out;
  });
}

/** The same in x, which may be a view. Of what shares x's memory, the values are those from before. */
export function indexCopyInPlace(x: Tensor, dim: number, indices: IndexList, source: Tensor): void {
  checkOperands('indexCopy_', { tensor: x });
  checkWritable('indexCopy_', 'the tensor', x);
  withSlices('indexCopy_', x, dim, indices, source, (d, list, slices) => {
    noteSlices('indexCopy_', x, d, list, slices);
    withContiguous(
      [list, slices],
      (own, from) => write(x, d, own, from),
      (t) => !overlaps(x, t),
    );
  });
}

/** Notes that slices are about to be assigned to those of out at a list of indices. */
function noteSlices(operation: string, out: Tensor, d: number, indices: Tensor, slices: Tensor): void {
  recordWrite(operation, out, [out, slices], (keep, [ofOut, ofSlices]) => {
    const list = keep(indices);
    return (g) =>
      withTemporaries((own) => {
        const gradient = g as Tensor;
        return [
          ofOut ? gradient.indexCopy(d, list.tensor, own(gradient.make([]).fill(0))) : undefined,
          ofSlices ? gradientOfSlices(gradient, d, list.tensor, own) : undefined,
        ];
      });
  });
}

/** That of slices which later ones overwrote is 0. */
function gradientOfSlices(g: Tensor, d: number, list: Tensor, own: (t: Tensor) => Tensor): Tensor {
  const numbers = own(own(list.make(list.shape).fill(1)).cumsum(0));
  const last = own(list.make([g.shape[d] as number]).fill(0)).indexCopy_(0, list, numbers);
  const isLast = own(own(last.indexSelect(0, list)).eq(numbers));
  const slices = own(g.indexSelect(d, list));
  const shape = slices.shape.map((n, other) => (other === d ? n : 1));
  return isLast.reshape([...shape]).where(slices, 0);
}
