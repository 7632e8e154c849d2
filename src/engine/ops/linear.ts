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
import { addInPlace } from './binary.js';
import { withContiguous } from './contiguous.js';
import { matmul } from './matmul.js';
import { overlaps, sameWindow } from './overlap.js';
import type { PackedMatrix } from './pack_weights.js';
import { checkPlanes, type Planes } from './planes.js';
import { checkBias, checkGivenOut, type ProductOptions, precisionCode, productOptions } from './product.js';
import { sumOfRows } from './reduce.js';
import type { Tensor } from './tensor.js';
import { gelu, relu } from './unary.js';

const activations = { none: 0, relu: 1, gelu: 2 } as const; // Activation in native/ops.h
export type Activation = keyof typeof activations;

export interface LinearOptions extends ProductOptions {
  activation?: Activation;
  /** [..., M, N] of the result's dtype, added after the activation. It may be `out` itself. */
  residual?: Tensor;
  /** @internal Those of x, which are read instead of it. */
  xPlanes?: Planes;
  /** @internal Of the result as rows: written with it, for a product of it. */
  planes?: Planes;
}
const linearOptions: OptionNames<LinearOptions> = {
  ...productOptions,
  activation: true,
  residual: true,
  xPlanes: true,
  planes: true,
};

/**
 * activation(x w + bias) + residual: x [..., K], w a packed [K, N] -> [..., N], of x's dtype unless `out` has another.
 * The same arithmetic as matmul; the residual is added as add() would.
 */
export function linear(x: Tensor, w: PackedMatrix, options: LinearOptions = {}): Tensor {
  checkOptions('linear', options, linearOptions);
  const { bias, residual, out, precision, activation = 'none', xPlanes, planes } = options;
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
  checkPlanes('linear', 'xPlanes', xPlanes, x, w.k);
  xPlanes?.checkHolds('linear', x);
  checkPlanes('linear', 'planes', planes, { device, dtype: (out ?? x).dtype, shape }, w.n);
  // steps write no planes: who gave them finds that they hold nothing
  if (activation !== 'none' && hasHistory(x, w, bias)) {
    planes?.forget();
    return inSteps(x, w, options, activation, shape);
  }
  const result = out ?? x.make(shape);
  const rows = rowCount(shape);
  if (out) recordWrite('linear', out, [x, w, bias, residual], backwardOf(x, w));
  withContiguous([x, bias, residual], (x, bias, residual) =>
    device.run(
      'linear',
      new MatrixArgument(result, rows, w.n),
      planes ?? null,
      new MatrixArgument(x, rows, w.k),
      xPlanes ?? null,
      w,
      bias ?? null,
      residual ? new MatrixArgument(residual, rows, w.n) : null,
      activations[activation],
      code,
    ),
  );
  planes?.hold(result);
  if (!out && hasHistory(x, w, bias, residual)) {
    record('linear', [result], [x, w, bias, residual], backwardOf(x, w));
  }
  return result;
}

/** The same bits in steps: the activation's gradient needs the product, which the kernel would not leave behind. */
function inSteps(
  x: Tensor,
  w: PackedMatrix,
  { bias, residual, out, precision = 'float32' }: LinearOptions,
  activation: 'relu' | 'gelu',
  shape: number[],
): Tensor {
  const dtype = (out ?? x).dtype;
  return withTemporaries((own) => {
    const product = own(x.make(shape, 'float32'));
    linear(x, w, { out: product, precision, ...(bias && { bias }) });
    const wide = own(activation === 'gelu' ? gelu(product) : relu(product));
    const active = wide.dtype === dtype ? wide : own(wide.to(dtype));
    if (residual) addInPlace(active, residual);
    return out ? out.copyFrom(active) : active.transferTo(shape);
  });
}

/** The matrix is not kept: it is used as it is when backward comes here. */
const backwardOf =
  (x: Tensor, w: PackedMatrix): Prepare<Tensor> =>
  (keep, [ofX, ofW, ofBias]) => {
    const input = ofW ? keep(x) : undefined;
    return (given) =>
      withTemporaries((own) => {
        if (w.ended && ofX) {
          throw new Error(`linear: backward needs a packed matrix [${w.k}, ${w.n}] that cannot be used: ${w.ended}`);
        }
        const g = given as Tensor;
        const rows = rowCount(g.shape);
        const ofProduct = own(g.reshape(rows, w.n));
        return [
          ofX ? timesTransposed(ofProduct, w).transferTo(x.shape) : undefined,
          input && matmul(own(input.tensor.reshape(rows, w.k)).permute([1, 0]), ofProduct),
          ofBias ? sumOfRows(ofProduct) : undefined,
          g,
        ];
      });
  };

/** g w^T: g [M, N], w a packed [K, N] -> float32 [M, K]. */
function timesTransposed(g: Tensor, w: PackedMatrix): Tensor {
  const rows = rowCount(g.shape);
  const out = g.make([rows, w.k], 'float32');
  withContiguous([g], (g) =>
    g.device.run('linearBackward', new MatrixArgument(out, rows, w.k), new MatrixArgument(g, rows, w.n), w),
  );
  return out;
}
