// Fills a tensor with one value.
import { checkNumber, checkOperands } from '../check.js';
import type { Tensor } from './tensor.js';

export function fill(t: Tensor, value: number): void {
  checkOperands('fill', { tensor: t });
  t.device.run('fill', t.handle, checkNumber('fill', 'value', value));
}
