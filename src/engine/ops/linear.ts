// The product of rows with a packed weight matrix.
import {
  checkDType,
  checkedShape,
  checkFloat,
  checkOperands,
  checkOptions,
  checkRank,
  checkShape,
  describe,
  type OptionNames,
  wrong,
} from '../check.js';
import { MatrixArgument } from '../native_arguments.js';
import { rowCount, showShape } from '../shape.js';
import { withContiguous } from './contiguous.js';
import { overlaps, sameWindow } from './overlap.js';
import type { PackedMatrix } from './pack_weights.js';
import { checkBias, checkGivenOut, type ProductOptions, precisionCode, productOptions } from './product.js';
import type { Tensor } from './tensor.js';

const activations = { none: 0, relu: 1, gelu: 2 } as const; // Activation in native/ops.h
export type Activation = keyof typeof activations;

interface LinearOptions extends ProductOptions {
  activation?: Activation;
  /** [..., M, N] of the result's dtype, added after the activation. It may be `out` itself. */
  residual?: Tensor;
}
const linearOptions: OptionNames<LinearOptions> = { ...productOptions, activation: true, residual: true };

/**
 * activation(x w + bias) + residual: x [..., K], w a packed [K, N] -> [..., N], of x's dtype unless `out` has another.
 * The same arithmetic as matmul; the residual is added as add() would.
 */
export function linear(x: Tensor, w: PackedMatrix, options: LinearOptions = {}): Tensor {
  checkOptions('linear', options, linearOptions);
  const { bias, residual, out, precision, activation = 'none' } = options;
  const device = checkOperands('linear', { x }, { packed: { w }, optional: { bias, residual, out } });
  const code = precisionCode('linear', precision);
  checkRank('linear', 'x', x, 1);
  checkFloat('linear', 'x', x);
  if (typeof activation !== 'string' || !Object.hasOwn(activations, activation)) {
    throw new TypeError(wrong('linear', 'activation', Object.keys(activations).join(', '), describe(activation)));
  }
  if (x.shape[x.shape.length - 1] !== w.k) {
    throw new RangeError(wrong('linear', 'x', `[..., ${w.k}] (w is [${w.k}, ${w.n}])`, showShape(x.shape)));
  }
  const shape = checkedShape('linear', [...x.shape.slice(0, -1), w.n]);
  if (bias) checkBias('linear', bias, w.n);
  if (out) checkGivenOut('linear', out, shape, { x, bias });
  if (residual) {
    checkShape('linear', 'residual', residual.shape, shape, () => `the product of x ${showShape(x.shape)} and w`);
    checkDType('linear', 'residual', residual, (out ?? x).dtype);
    if (out && overlaps(out, residual) && !sameWindow(out, residual)) {
      throw new RangeError(wrong('linear', 'residual', 'out itself or apart from it', 'partly on the same memory'));
    }
  }
  const result = out ?? x.make(shape);
  const rows = rowCount(shape);
  withContiguous([x, bias, residual], (x, bias, residual) =>
    device.run(
      'linear',
      new MatrixArgument(result, rows, w.n),
      new MatrixArgument(x, rows, w.k),
      w,
      bias ?? null,
      residual ? new MatrixArgument(residual, rows, w.n) : null,
      activations[activation],
      code,
    ),
  );
  return result;
}
