// Layer norm.
import {
  checkFloat,
  checkNumber,
  checkOperands,
  checkOptions,
  checkRank,
  checkShape,
  type OptionNames,
} from '../check.js';
import { hasHistory, record } from '../record.js';
import { withTemporaries } from '../scope.js';
import { showShape } from '../shape.js';
import { withContiguous } from './contiguous.js';
import { checkPlanes, type Planes } from './planes.js';
import { sumOfRows } from './reduce.js';
import type { Tensor } from './tensor.js';

export interface NormOptions {
  /** What is added to the variance, or to the mean square; 1e-5 by default. */
  eps?: number;
}
export const normOptions: OptionNames<NormOptions> = { eps: true };

export interface LayerNormOptions extends NormOptions {
  /** @internal Written with the result, for a product of it. */
  planes?: Planes;
}
export const layerNormOptions: OptionNames<LayerNormOptions> = { ...normOptions, planes: true };

/**
 * Layer norm over the last dimension: (x - mean) / sqrt(variance + eps) * gain + bias (Ba et al. 2016, arXiv
 * 1607.06450). x [..., width], gain and bias [width]; returns a tensor like x. Statistics are in double precision, the
 * variance in a second pass.
 * @throws RangeError for other shapes, TypeError for dtypes that are no floats.
 */
export function layerNorm(x: Tensor, gain: Tensor, bias: Tensor, options: LayerNormOptions = {}): Tensor {
  checkOptions('layerNorm', options, layerNormOptions);
  const { eps = 1e-5, planes } = options;
  const device = checkOperands('layerNorm', { x, gain, bias });
  checkNorm('layerNorm', 'x', x, { gain, bias }, eps);
  checkPlanes('layerNorm', 'planes', planes, x, gain.elements);
  const out = x.make(x.shape);
  withContiguous([gain, bias], (g, b) => device.run('layerNorm', out, planes ?? null, x, g, b, eps));
  planes?.hold(out);
  if (hasHistory(x, gain, bias)) {
    record('layerNorm', [out], [x, gain, bias], (keep, needs) => {
      const [rows, factors] = [keep(x), keep(gain)];
      return (g) => normGradients(g as Tensor, rows.tensor, factors.tensor, eps, needs);
    });
  }
  return out;
}

/**
 * The gradients of x, gain and bias, as far as they are needed, from that of layerNorm(x, gain, bias). `added` is added
 * to that of x.
 */
export const normGradients = (
  g: Tensor,
  x: Tensor,
  gain: Tensor,
  eps: number,
  [ofX, ofGain, ofBias]: readonly (boolean | undefined)[],
  added?: Tensor,
): [x: Tensor | undefined, gain: Tensor | undefined, bias: Tensor | undefined] =>
  withTemporaries((own) => {
    const out = ofX ? g.make(x.shape) : undefined;
    const products = ofGain ? own(g.make(x.shape)) : undefined;
    withContiguous([gain], (gain) => {
      if (out || products) {
        g.device.run('layerNormBackward', out ?? null, products ?? null, g, x, gain, added ?? null, eps);
      }
    });
    return [out, products && sumOfRows(products), ofBias ? sumOfRows(g) : undefined];
  });

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
  checkFloat(operation, name, x);
  for (const argument in weights) checkFloat(operation, argument, weights[argument] as Tensor);
  for (const argument in weights) {
    const { shape } = weights[argument] as Tensor;
    checkShape(operation, argument, shape, [width], () => `the width of ${name} ${showShape(x.shape)}`);
  }
  checkNumber(operation, 'eps', eps);
}
