// Layer norm, and the root mean square that its open form divides by.
import { checkFloat, checkNumber, checkOperands, checkRank, checkShape } from '../check.js';
import { withContiguous } from '../contiguous.js';
import { showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';

/**
 * Layer norm over the last dimension: (x - mean) / sqrt(variance + eps) * gain + bias (Ba et al. 2016, arXiv 1607.06450).
 * x [..., width], gain and bias [width]; returns a tensor like x. Statistics are in float32, the variance in a second pass.
 * @throws RangeError for other shapes, TypeError for dtypes that are no floats.
 */
export function layerNorm(x: Tensor, gain: Tensor, bias: Tensor, { eps = 1e-5 }: { eps?: number } = {}): Tensor {
  const device = checkOperands('layerNorm', { x, gain, bias });
  checkRank('layerNorm', 'x', x, 1);
  for (const [argument, t] of Object.entries({ x, gain, bias })) checkFloat('layerNorm', argument, t);
  const width = x.shape[x.shape.length - 1] as number;
  const why = `the width of x ${showShape(x.shape)}`;
  checkShape('layerNorm', 'gain', gain.shape, [width], why);
  checkShape('layerNorm', 'bias', bias.shape, [width], why);
  checkNumber('layerNorm', 'eps', eps);
  const out = x.make(x.shape);
  withContiguous([gain, bias], (g, b) => device.run('layerNorm', out.handle, x.handle, g.handle, b.handle, eps));
  return out;
}

/** sqrt(mean of x^2 over the last dimension + eps): x [..., width] -> [..., 1]. Of a centred x, layer norm's divisor. */
export function rootMeanSquare(x: Tensor, { eps = 1e-5 }: { eps?: number } = {}): Tensor {
  const device = checkOperands('rootMeanSquare', { x });
  checkRank('rootMeanSquare', 'x', x, 1);
  checkFloat('rootMeanSquare', 'x', x);
  const out = x.make([...x.shape.slice(0, -1), 1]);
  device.run('rootMeanSquare', out.handle, x.handle, checkNumber('rootMeanSquare', 'eps', eps));
  return out;
}
