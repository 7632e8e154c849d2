// The index of the largest or smallest value, over one dimension or all.
import { checkBoolean, checkedDim, checkOperands, checkOptions, wrong } from '../check.js';
import { hasHistory, noGradients, record } from '../record.js';
import { maxIndexed, showShape } from '../shape.js';
import { type ReduceOptions, reduceOptions } from './reduce.js';
import type { Tensor } from './tensor.js';
import { dimLast } from './views.js';

function indexOf(
  operation: 'argmax' | 'argmin',
  x: Tensor,
  dim: number | undefined,
  options: ReduceOptions = {},
): Tensor {
  checkOptions(operation, options, reduceOptions);
  const { keepDim = false } = options;
  checkBoolean(operation, 'keepDim', keepDim);
  const device = checkOperands(operation, { tensor: x });
  const d = dim === undefined ? undefined : checkedDim(operation, 'dim', dim, x.shape);
  const n = d === undefined ? x.size : (x.shape[d] as number);
  if (n === 0 || n > maxIndexed) {
    if (d === undefined) {
      const expected = n === 0 ? 'of at least one element' : `of at most ${maxIndexed} elements`;
      throw new RangeError(wrong(operation, 'the tensor', expected, showShape(x.shape)));
    }
    const expected = n === 0 ? 'a dimension that is not empty' : `a dimension of at most ${maxIndexed}`;
    throw new RangeError(wrong(operation, 'dim', expected, `${dim} of ${showShape(x.shape)}`));
  }
  const out = x.make(d === undefined ? [] : x.shape.filter((_, other) => other !== d), 'int32');
  const run = (rows: Tensor) => device.run('argmax', out, rows, operation === 'argmin');
  if (d !== undefined) run(dimLast(x, d));
  else {
    const flat = x.reshape(-1);
    run(flat);
    if (flat.storage !== x.storage) flat.dispose();
  }
  if (hasHistory(x)) record<Tensor>(operation, [out], [x], noGradients);
  return keepDim ? out.transferTo(x.shape.map((size, other) => (d === undefined || other === d ? 1 : size))) : out;
}

/**
 * int32: the lowest index of the largest value along `dim`, or in x in row-major order without it; a NaN is the
 * largest. x [...], any dtype -> the dimensions that are left (with keepDim, the others as 1).
 * @throws RangeError where there is nothing to choose from.
 */
export const argmax = (x: Tensor, dim?: number, options?: ReduceOptions): Tensor => indexOf('argmax', x, dim, options);

/** The same of the smallest value; a NaN is the smallest. */
export const argmin = (x: Tensor, dim?: number, options?: ReduceOptions): Tensor => indexOf('argmin', x, dim, options);
