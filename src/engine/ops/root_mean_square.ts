// The root mean square of each row, which layer norm divides by.
import { checkFloat, checkNumber, checkOperands, checkOptions, checkRank } from '../check.js';
import { hasHistory, record } from '../record.js';
import { withTemporaries } from '../scope.js';
import { type NormOptions, normOptions } from './layer_norm.js';
import type { Tensor } from './tensor.js';

/**
 * sqrt(mean of x^2 over the last dimension + eps): x [..., width] -> [..., 1]. Of a centred x, layer norm's divisor. Where it
 * is 0, its gradient is 0.
 */
export function rootMeanSquare(x: Tensor, options: NormOptions = {}): Tensor {
  checkOptions('rootMeanSquare', options, normOptions);
  const { eps = 1e-5 } = options;
  const device = checkOperands('rootMeanSquare', { x });
  checkRank('rootMeanSquare', 'x', x, 1);
  checkFloat('rootMeanSquare', 'x', x);
  checkNumber('rootMeanSquare', 'eps', eps);
  const out = x.make([...x.shape.slice(0, -1), 1]);
  device.run('rootMeanSquare', out, x, eps);
  if (hasHistory(x)) {
    record('rootMeanSquare', [out], [x], (keep) => {
      const rows = keep(x);
      return (g) =>
        withTemporaries((own) => {
          const wide = own(rows.tensor.to('float32'));
          const divisor = own(rootMeanSquare(wide, { eps })).mul_(wide.shape[wide.shape.length - 1] as number);
          const factor = own((g as Tensor).div(divisor));
          return [wide.mul(own(own(divisor.eq(0)).where(0, factor)))];
        });
    });
  }
  return out;
}
