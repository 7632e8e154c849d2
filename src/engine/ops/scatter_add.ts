// Terms added to the elements that a tensor of indices names.
import { checkDType, checkedDim, checkOperands, wrong } from '../check.js';
import { isFloat, promote } from '../dtype.js';
import { recordWrite } from '../record.js';
import { withContiguous } from './contiguous.js';
import { checkIndexShape } from './gather.js';
import { type Indices, withIndices } from './indices.js';
import { checkWritable, overlaps } from './overlap.js';
import type { Tensor } from './tensor.js';

/** Checks all, and calls body with the index and the terms in a dtype that the kernel takes. */
function withTerms<R>(
  operation: string,
  x: Tensor,
  dim: number,
  index: Indices,
  source: Tensor,
  body: (index: Tensor, terms: Tensor, d: number) => R,
): R {
  checkOperands(operation, { tensor: x, source });
  checkDType(operation, 'the tensor', x, 'float32', 'bfloat16', 'float16', 'int32');
  if (!isFloat(x.dtype) && promote(x.dtype, source.dtype) !== x.dtype) {
    throw new TypeError(wrong(operation, 'source', `${x.dtype} or bool, as the tensor is ${x.dtype}`, source.dtype));
  }
  const d = checkedDim(operation, 'dim', dim, x.shape);
  return withIndices(operation, 'index', index, x, d, (own) => {
    checkIndexShape(operation, own.shape, 'the tensor', x.shape, d);
    checkIndexShape(operation, own.shape, 'source', source.shape);
    if (isFloat(source.dtype) || source.dtype === x.dtype) return body(own, source, d);
    using converted = source.to(isFloat(x.dtype) ? 'float32' : 'int32');
    return body(own, converted, d);
  });
}

/**
 * x with terms added to it, as a new tensor: of x [A, B, C] and dim 1, out[i, index[i, j, k], k] += source[i, j, k].
 * `index` is an int32 tensor or nested arrays of integers, which may be negative and then count from the end; it has as
 * many dimensions as x and `source`, in all of them at most the size of `source`, and but for `dim` at most x's. x is
 * of floats or int32; `source` any dtype where x is of floats, else int32 or bool. The sums are in double precision, in
 * the order of j, and rounded once; those of int32 are exact. (PyTorch's scatter_add.)
 * @throws RangeError for numbers outside of the dimension, and for other shapes; TypeError for other dtypes. An index
 * outside [0, N) in a tensor, and a sum that int32 does not hold, fail the operation: the next read() or synchronize()
 * rejects.
 */
export function scatterAdd(x: Tensor, dim: number, index: Indices, source: Tensor): Tensor {
  return withTerms('scatterAdd', x, dim, index, source, (own, terms, d) => {
    const out = x.clone();
    noteTerms('scatterAdd', out, d, own, terms);
    out.device.run('scatterAdd', out, own, terms, d);
    return out;
  });
}

/**
 * The same in x, which may be a view. Of what shares x's memory, the values are those from before. With an index
 * outside, nothing is written.
 */
export function scatterAddInPlace(x: Tensor, dim: number, index: Indices, source: Tensor): void {
  checkOperands('scatterAdd_', { tensor: x });
  checkWritable('scatterAdd_', 'the tensor', x);
  withTerms('scatterAdd_', x, dim, index, source, (own, terms, d) => {
    noteTerms('scatterAdd_', x, d, own, terms);
    withContiguous(
      [own, terms],
      (indices, added) => x.device.run('scatterAdd', x, indices, added, d),
      (t) => !overlaps(x, t),
    );
  });
}

/** Notes that terms, as many as there are indices, are about to be added to out. */
function noteTerms(operation: string, out: Tensor, d: number, index: Tensor, terms: Tensor): void {
  recordWrite(operation, out, [out, terms.window(index.shape, terms.strides)], (keep, [, ofTerms]) => {
    const places = ofTerms ? keep(index) : undefined;
    return (g) => [g, places && g?.gather(d, places.tensor)];
  });
}
