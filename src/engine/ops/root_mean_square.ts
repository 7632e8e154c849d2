// The root mean square of each row, which layer norm divides by.
import { checkFloat, checkNumber, checkOperands, checkRank } from '../check.js';
import type { Tensor } from './tensor.js';

/**
 * sqrt(mean of x^2 over the last dimension + eps): x [..., width] -> [..., 1]. Of a centred x, layer norm's divisor.
 */
export function rootMeanSquare(x: Tensor, { eps = 1e-5 }: { eps?: number } = {}): Tensor {
  const device = checkOperands('rootMeanSquare', { x });
  checkRank('rootMeanSquare', 'x', x, 1);
  checkFloat('rootMeanSquare', 'x', x);
  const out = x.make([...x.shape.slice(0, -1), 1]);
  device.run('rootMeanSquare', out.handle, x.handle, checkNumber('rootMeanSquare', 'eps', eps));
  return out;
}
