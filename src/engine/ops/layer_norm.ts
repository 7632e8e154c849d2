// Layer norm, alone or of a sum, and the root mean square that its open form divides by.
import { checkDType, checkFloat, checkNumber, checkOperands, checkRank, checkShape } from '../check.js';
import { showShape } from '../shape.js';
import { withContiguous } from './contiguous.js';
import type { Tensor } from './tensor.js';

/**
 * Layer norm over the last dimension: (x - mean) / sqrt(variance + eps) * gain + bias (Ba et al. 2016, arXiv 1607.06450).
 * x [..., width], gain and bias [width]; returns a tensor like x. Statistics are in float32, the variance in a second pass.
 * @throws RangeError for other shapes, TypeError for dtypes that are no floats.
 */
export function layerNorm(x: Tensor, gain: Tensor, bias: Tensor, { eps = 1e-5 }: { eps?: number } = {}): Tensor {
  const device = checkOperands('layerNorm', { x, gain, bias });
  checkNorm('layerNorm', 'x', x, { gain, bias }, eps);
  const out = x.make(x.shape);
  withContiguous([gain, bias], (g, b) => device.run('layerNorm', out.handle, x.handle, g.handle, b.handle, eps));
  return out;
}

/**
 * sum = a + b and its layer norm in one pass: the same values as a.add(b) and layerNorm() one after the other.
 * a and b [..., width] are of one shape and dtype, gain and bias [width].
 * @throws RangeError for other shapes, TypeError for other dtypes.
 */
export function addLayerNorm(
  a: Tensor,
  b: Tensor,
  gain: Tensor,
  bias: Tensor,
  { eps = 1e-5 }: { eps?: number } = {},
): { sum: Tensor; out: Tensor } {
  const device = checkOperands('addLayerNorm', { a, b, gain, bias });
  checkNorm('addLayerNorm', 'a', a, { gain, bias }, eps);
  checkShape('addLayerNorm', 'b', b.shape, a.shape, 'the shape of a');
  checkDType('addLayerNorm', 'b', b, a.dtype);
  const sum = a.make(a.shape);
  const out = a.make(a.shape);
  withContiguous([gain, bias], (g, h) =>
    device.run('addLayerNorm', sum.handle, out.handle, a.handle, b.handle, g.handle, h.handle, eps),
  );
  return { sum, out };
}

function checkNorm(operation: string, name: string, x: Tensor, weights: Record<string, Tensor>, eps: number): void {
  checkRank(operation, name, x, 1);
  const width = x.shape[x.shape.length - 1] as number;
  for (const [argument, t] of Object.entries({ [name]: x, ...weights })) checkFloat(operation, argument, t);
  for (const [argument, t] of Object.entries(weights)) {
    checkShape(operation, argument, t.shape, [width], `the width of ${name} ${showShape(x.shape)}`);
  }
  checkNumber(operation, 'eps', eps);
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
