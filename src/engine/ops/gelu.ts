// GPT-2's activation.
import { checkFloat, checkOperands } from '../check.js';
import type { Tensor } from './tensor.js';

/** 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): GPT-2's GELU (Hendrycks and Gimpel, arXiv 1606.08415). */
export function gelu(x: Tensor): Tensor {
  const device = checkOperands('gelu', { x });
  checkFloat('gelu', 'x', x);
  const out = x.make(x.shape);
  device.run('gelu', out.handle, x.handle);
  return out;
}
