// The layer norm of a sum, and the sum.
import { checkDType, checkOperands, checkOptions, checkShape } from '../check.js';
import { hasHistory, record } from '../record.js';
import { withContiguous } from './contiguous.js';
import { checkNorm, type LayerNormOptions, layerNormOptions, normGradients } from './layer_norm.js';
import { checkPlanes } from './planes.js';
import type { Tensor } from './tensor.js';

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
  options: LayerNormOptions = {},
): { sum: Tensor; out: Tensor } {
  checkOptions('addLayerNorm', options, layerNormOptions);
  const { eps = 1e-5, planes } = options;
  const device = checkOperands('addLayerNorm', { a, b, gain, bias });
  checkNorm('addLayerNorm', 'a', a, { gain, bias }, eps);
  checkShape('addLayerNorm', 'b', b.shape, a.shape, 'the shape of a');
  checkDType('addLayerNorm', 'b', b, a.dtype);
  checkPlanes('addLayerNorm', 'planes', planes, a, gain.elements);
  const sum = a.make(a.shape);
  const out = a.make(a.shape);
  withContiguous([gain, bias], (g, h) => device.run('addLayerNorm', sum, out, planes ?? null, a, b, g, h, eps));
  planes?.hold(out);
  if (hasHistory(a, b, gain, bias)) {
    record('addLayerNorm', [sum, out], [a, b, gain, bias], (keep, [ofA, ofB, ofGain, ofBias]) => {
      const [rows, factors] = [keep(sum), keep(gain)];
      return (ofSum, ofOut) => {
        if (!ofOut) return [ofSum, ofSum];
        const needs = [ofA || ofB, ofGain, ofBias];
        const [ofRows, ...others] = normGradients(ofOut, rows.tensor, factors.tensor, eps, needs, ofSum);
        return [ofRows, ofRows, ...others];
      };
    });
  }
  return { sum, out };
}
