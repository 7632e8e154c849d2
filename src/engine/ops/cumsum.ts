// Sums up to each element along a dimension.
import { checkedDim, checkOperands } from '../check.js';
import { hasHistory, record } from '../record.js';
import { withTemporaries } from '../scope.js';
import type { Tensor } from './tensor.js';
import { dimLast } from './views.js';

/**
 * The sums up to each element along `dim`: x [...] -> the same shape and dtype; int32 for a bool tensor. Floats are
 * added up in double precision, and each sum is rounded once. Sums of integers are exact: if int32 does not hold one,
 * the operation fails, and the next read() or synchronize() rejects.
 */
export function cumsum(x: Tensor, dim: number): Tensor {
  const device = checkOperands('cumsum', { tensor: x });
  const d = checkedDim('cumsum', 'dim', dim, x.shape);
  const out = x.make(x.shape, x.dtype === 'bool' ? 'int32' : x.dtype);
  const run = (rows: Tensor) => device.run('cumsum', dimLast(out, d), dimLast(rows, d));
  if (x.dtype !== 'bool') run(x);
  else {
    using integers = x.to('int32');
    run(integers);
  }
  if (hasHistory(x)) {
    // the sums from the end
    const reversed = Array.from({ length: x.shape[d] as number }, (_, i) => -1 - i);
    const backward = (g: Tensor | undefined) =>
      withTemporaries((own) => [own(own((g as Tensor).indexSelect(d, reversed)).cumsum(d)).indexSelect(d, reversed)]);
    record('cumsum', [out], [x], () => backward);
  }
  return out;
}
