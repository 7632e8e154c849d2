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
import { hasHistory, type Prepare, record, recordWrite } from '../record.js';
import { withTemporaries } from '../scope.js';
import { rowCount, showShape } from '../shape.js';
import { withContiguous } from './contiguous.js';
import { matmul } from './matmul.js';
import { overlaps, sameWindow } from './overlap.js';
import type { PackedMatrix } from './pack_weights.js';
import { checkBias, checkGivenOut, type ProductOptions, precisionCode, productOptions } from './product.js';
import { sumOfRows } from './reduce.js';
import type { Tensor } from './tensor.js';
import { activationGradient } from './unary.js';

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
  if (out) recordWrite('linear', out, [x, w, bias, residual], backwardOf(x, w, bias, activation));
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
  if (!out && hasHistory(x, w, bias, residual)) {
    record('linear', [result], [x, w, bias, residual], backwardOf(x, w, bias, activation));
  }
  return result;
}

/** The matrix is not kept: it is used as it is when backward comes here. */
const backwardOf =
  (x: Tensor, w: PackedMatrix, bias: Tensor | undefined, activation: Activation): Prepare<Tensor> =>
  (keep, [ofX, ofW, ofBias]) => {
    const activated = activation !== 'none' && (ofX || ofW || ofBias) ? activation : undefined;
    const input = ofW || activated ? keep(x) : undefined;
    const added = activated && bias ? keep(bias) : undefined;
    return (g) =>
      withTemporaries((own) => {
        if (w.ended && (ofX || activated)) {
          throw new Error(`linear: backward needs a packed matrix [${w.k}, ${w.n}] that cannot be used: ${w.ended}`);
        }
        const rows = (t: Tensor, width: number) => own(t.reshape(rowCount(t.shape), width));
        let ofProduct = rows(g as Tensor, w.n);
        const values = input && rows(input.tensor, w.k);
        if (values && activated) {
          const product = own(ofProduct.make(ofProduct.shape));
          linear(values, w, { out: product, ...(added && { bias: added.tensor }) });
          ofProduct = own(activationGradient(activated, product, ofProduct));
        }
        return [
          ofX ? matmul(ofProduct, own(w.unpack()), { transposeB: true }).transferTo(x.shape) : undefined,
          values && ofW ? matmul(values.permute([1, 0]), ofProduct) : undefined,
          ofBias ? sumOfRows(ofProduct) : undefined,
          g,
        ];
      });
  };
