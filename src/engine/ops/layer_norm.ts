// Layer norm.
import { checkFloat, checkNumber, checkOperands, checkRank, checkShape } from '../check.js';
import { showShape } from '../shape.js';
import { withContiguous } from './contiguous.js';
import type { Tensor } from './tensor.js';

/**
 * Layer norm over the last dimension: (x - mean) / sqrt(variance + eps) * gain + bias (Ba et al. 2016, arXiv
 * 1607.06450). x [..., width], gain and bias [width]; returns a tensor like x. Statistics are in float32, the variance
 * in a second pass.
 * @throws RangeError for other shapes, TypeError for dtypes that are no floats.
 */
export function layerNorm(x: Tensor, gain: Tensor, bias: Tensor, { eps = 1e-5 }: { eps?: number } = {}): Tensor {
  const device = checkOperands('layerNorm', { x, gain, bias });
  checkNorm('layerNorm', 'x', x, { gain, bias }, eps);
  const out = x.make(x.shape);
  withContiguous([gain, bias], (g, b) => device.run('layerNorm', out.handle, x.handle, g.handle, b.handle, eps));
  return out;
}

/** Demands that x is of floats, and each of `weights` as long as a row of x. */
export function checkNorm(
  operation: string,
  name: string,
  x: Tensor,
  weights: Record<string, Tensor>,
  eps: number,
): void {
  checkRank(operation, name, x, 1);
  const width = x.shape[x.shape.length - 1] as number;
  for (const [argument, t] of Object.entries({ [name]: x, ...weights })) checkFloat(operation, argument, t);
  for (const [argument, t] of Object.entries(weights)) {
    checkShape(operation, argument, t.shape, [width], `the width of ${name} ${showShape(x.shape)}`);
  }
  checkNumber(operation, 'eps', eps);
}
