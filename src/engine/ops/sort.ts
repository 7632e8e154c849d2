// The elements of a dimension in order.
import { checkBoolean, checkedDim, checkOperands, checkOptions, type OptionNames, wrong } from '../check.js';
import { hasHistory, record } from '../record.js';
import { maxIndexed, showShape } from '../shape.js';
import { gradientOfGathered } from './gather.js';
import type { Tensor } from './tensor.js';
import { dimLast, fromDimLast } from './views.js';

export interface SortOptions {
  /** The largest first; false unless given. */
  descending?: boolean;
}
const sortOptions: OptionNames<SortOptions> = { descending: true };

/**
 * x with dimension `dim` in order, and int32 the index that each value had; both of x's shape. Any dtype. Equal values
 * keep their order, and both zeros are equal; NaN is the largest. (PyTorch's sort with `stable`.)
 */
export function sort(x: Tensor, dim = -1, options: SortOptions = {}): { values: Tensor; indices: Tensor } {
  checkOptions('sort', options, sortOptions);
  const { descending = false } = options;
  checkBoolean('sort', 'descending', descending);
  const device = checkOperands('sort', { tensor: x });
  const d = checkedDim('sort', 'dim', dim, x.shape);
  if ((x.shape[d] as number) > maxIndexed) {
    throw new RangeError(
      wrong('sort', 'dim', `a dimension of at most ${maxIndexed}`, `${dim} of ${showShape(x.shape)}`),
    );
  }
  const last = dimLast(x, d);
  const values = x.make(last.shape);
  const indices = x.make(last.shape, 'int32');
  device.run('sort', values, indices, last, descending);
  const result = { values: fromDimLast(values, d), indices: fromDimLast(indices, d) };
  if (hasHistory(x)) {
    record('sort', [result.values, result.indices], [x], (keep) => {
      const at = keep(result.indices);
      return (g) => [gradientOfGathered(x.shape, d, at.tensor, g as Tensor)];
    });
  }
  return result;
}
