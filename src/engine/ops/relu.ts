// ReLU, an activation.
import { checkFloat, checkOperands } from '../check.js';
import type { Tensor } from './tensor.js';

/** max(x, 0); NaN stays NaN. */
export function relu(x: Tensor): Tensor {
  const device = checkOperands('relu', { x });
  checkFloat('relu', 'x', x);
  const out = x.make(x.shape);
  device.run('relu', out.handle, x.handle);
  return out;
}
