// The matrix product of any two tensors.
import {
  checkBoolean,
  checkedShape,
  checkFloat,
  checkOperands,
  checkOptions,
  checkRank,
  type OptionNames,
  wrong,
} from '../check.js';
import { promote } from '../dtype.js';
import { hasHistory, type Prepare, record, recordWrite } from '../record.js';
import { broadcastShape, broadcastStrides, rowCount, showShape } from '../shape.js';
import { withContiguous } from './contiguous.js';
import { checkBias, checkGivenOut, type ProductOptions, precisionCode, productOptions } from './product.js';
import { sumOfRows } from './reduce.js';
import type { Tensor } from './tensor.js';

interface MatmulOptions extends ProductOptions {
  /** b is [..., N, K]. */
  transposeB?: boolean;
}
const matmulOptions: OptionNames<MatmulOptions> = { ...productOptions, transposeB: true };

/**
 * a b + bias: a [..., M, K], b [..., K, N] (or [..., N, K] with transposeB) -> [..., M, N]; leading dimensions
 * broadcast. Accumulated in float32 over K in a fixed order: a row's result does not depend on the other rows.
 */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  checkOptions('matmul', options, matmulOptions);
  const { transposeB = false, bias, out, precision } = options;
  const device = checkOperands('matmul', { a, b }, { optional: { bias, out } });
  checkBoolean('matmul', 'transposeB', transposeB);
  const code = precisionCode('matmul', precision);
  for (const [argument, t] of Object.entries({ a, b })) {
    checkRank('matmul', argument, t, 2);
    checkFloat('matmul', argument, t);
  }
  const rank = b.shape.length;
  const right = transposeB ? b.permute([...Array(rank - 2).keys(), rank - 1, rank - 2]) : b;
  const k = a.shape[a.shape.length - 1] as number;
  const n = right.shape[rank - 1] as number;
  if (right.shape[rank - 2] !== k) {
    const expected = transposeB ? `[..., N, ${k}]` : `[..., ${k}, N]`;
    throw new RangeError(
      wrong('matmul', 'b', `${expected} (the width of a ${showShape(a.shape)})`, showShape(b.shape)),
    );
  }
  const lead = broadcastShape(a.shape.slice(0, -2), right.shape.slice(0, -2));
  if (!lead) {
    const expected = `of leading dimensions that broadcast with a ${showShape(a.shape)}`;
    throw new RangeError(wrong('matmul', 'b', expected, showShape(b.shape)));
  }
  const shape = checkedShape('matmul', [...lead, a.shape[a.shape.length - 2] as number, n]);
  const result = checkOut('matmul', a, b, shape, out, bias);
  const spread = (t: Tensor) => {
    const target = [...lead, ...t.shape.slice(-2)];
    return t.window(target, broadcastStrides(t.shape, t.strides, target));
  };
  // one matrix on the right: all rows of a in one product
  const flat = rank === 2 && a.isContiguous;
  const rows = rowCount(shape);
  const [to, left, matrix] = flat
    ? [result.reshape(rows, n), a.reshape(rows, k), right]
    : [result, spread(a), spread(right)];
  const prepare = backwardOf(left, matrix);
  if (out) recordWrite('matmul', to, [left, matrix, bias], prepare);
  withContiguous([bias], (b) => device.run('matmul', to, left, matrix, b ?? null, code));
  if (!out && hasHistory(left, matrix, bias)) record('matmul', [to], [left, matrix, bias], prepare);
  return result;
}

const backwardOf =
  (a: Tensor, b: Tensor): Prepare<Tensor> =>
  (keep, [ofA, ofB, ofBias]) => {
    const [left, right] = [ofB && keep(a), ofA && keep(b)];
    return (g) => {
      const product = g as Tensor;
      return [
        right ? matmul(product, right.tensor, { transposeB: true }) : undefined,
        left ? matmul(left.tensor.transpose(-2, -1), product) : undefined,
        ofBias ? sumOfRows(product) : undefined,
      ];
    };
  };

function checkOut(operation: string, a: Tensor, b: Tensor, shape: number[], out?: Tensor, bias?: Tensor): Tensor {
  if (bias) checkBias(operation, bias, shape[shape.length - 1] as number);
  if (!out) return a.make(shape, promote(a.dtype, b.dtype));
  checkGivenOut(operation, out, shape, { a, b, bias });
  return out;
}
