// Matrix products: of any two tensors, and of rows with a packed weight matrix.
import { checkDType, checkFloat, checkOperands, checkRank, checkShape, describe, wrong } from '../check.js';
import { promote } from '../dtype.js';
import { broadcastShape, broadcastStrides, rowCount, showShape } from '../shape.js';
import { withContiguous } from './contiguous.js';
import { overlaps, sameWindow } from './overlap.js';
import type { PackedMatrix } from './packed_matrix.js';
import type { Tensor } from './tensor.js';

const precisions = { float32: 0, strict: 1, tf32: 2, bf16: 3 } as const; // Precision in native/ops.h
/**
 * How float32 products are computed. The CPU computes every one of them in float32, in a fixed order. A GPU is as
 * accurate as float32, by whatever is fastest; it may be told to keep to plain float32 arithmetic (`strict`), or to
 * trade accuracy for speed (`tf32`, `bf16`).
 */
export type Precision = keyof typeof precisions;

const activations = { none: 0, relu: 1, gelu: 2 } as const; // Activation in native/ops.h
export type Activation = keyof typeof activations;

interface ProductOptions {
  /** [N], added to every row. */
  bias?: Tensor;
  /** Where to put the result: [..., M, N], contiguous, apart from the operands. */
  out?: Tensor;
  precision?: Precision;
}

interface LinearOptions extends ProductOptions {
  activation?: Activation;
  /** [..., M, N] of the result's dtype, added after the activation. It may be `out` itself. */
  residual?: Tensor;
}

const last = (t: Tensor): number => t.shape[t.shape.length - 1] as number;

/**
 * a b + bias: a [..., M, K], b [..., K, N] (or [..., N, K] with transposeB) -> [..., M, N]; leading dimensions broadcast.
 * Accumulated in float32 over K in a fixed order: a row's result does not depend on the other rows.
 */
export function matmul(
  a: Tensor,
  b: Tensor,
  { transposeB = false, bias, out, precision }: ProductOptions & { transposeB?: boolean } = {},
): Tensor {
  const device = checkOperands('matmul', { a, b, bias, out });
  const code = precisionCode('matmul', precision);
  for (const [argument, t] of Object.entries({ a, b })) {
    checkRank('matmul', argument, t, 2);
    checkFloat('matmul', argument, t);
  }
  const rank = b.shape.length;
  const right = transposeB ? b.permute([...Array(rank - 2).keys(), rank - 1, rank - 2]) : b;
  const k = last(a);
  const n = last(right);
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
  const shape = [...lead, a.shape[a.shape.length - 2] as number, n];
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
  withContiguous([bias], (b) => device.run('matmul', to.handle, left.handle, matrix.handle, b?.handle ?? null, code));
  return result;
}

/**
 * activation(x w + bias) + residual: x [..., K], w a packed [K, N] -> [..., N], of x's dtype unless `out` has another.
 * The same arithmetic as matmul; the residual is added as add() would.
 */
export function linear(
  x: Tensor,
  w: PackedMatrix,
  { bias, residual, out, precision, activation = 'none' }: LinearOptions = {},
): Tensor {
  const device = checkOperands('linear', { x, w, bias, residual, out });
  const code = precisionCode('linear', precision);
  checkRank('linear', 'x', x, 1);
  checkFloat('linear', 'x', x);
  if (!Object.hasOwn(activations, activation)) {
    throw new TypeError(wrong('linear', 'activation', Object.keys(activations).join(', '), describe(activation)));
  }
  if (last(x) !== w.k) {
    throw new RangeError(wrong('linear', 'x', `[..., ${w.k}] (w is [${w.k}, ${w.n}])`, showShape(x.shape)));
  }
  const shape = [...x.shape.slice(0, -1), w.n];
  if (bias) checkBias('linear', bias, w.n);
  if (out) checkGivenOut('linear', out, shape, { x, bias });
  if (residual) {
    checkShape('linear', 'residual', residual.shape, shape, `the product of x ${showShape(x.shape)} and w`);
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
      result.reshape(rows, w.n).handle,
      x.reshape(rows, w.k).handle,
      w.handle,
      bias?.handle ?? null,
      residual?.reshape(rows, w.n).handle ?? null,
      activations[activation],
      code,
    ),
  );
  return result;
}

/** @internal Native code's number for a precision; float32's for one left out. */
export function precisionCode(operation: string, precision: Precision = 'float32'): number {
  if (Object.hasOwn(precisions, precision)) return precisions[precision];
  throw new TypeError(wrong(operation, 'precision', Object.keys(precisions).join(', '), describe(precision)));
}

function checkBias(operation: string, bias: Tensor, n: number): void {
  checkFloat(operation, 'bias', bias);
  checkShape(operation, 'bias', bias.shape, [n], 'the width of the product');
}

function checkOut(operation: string, a: Tensor, b: Tensor, shape: number[], out?: Tensor, bias?: Tensor): Tensor {
  if (bias) checkBias(operation, bias, shape[shape.length - 1] as number);
  if (!out) return a.make(shape, promote(a.dtype, b.dtype));
  checkGivenOut(operation, out, shape, { a, b, bias });
  return out;
}

function checkGivenOut(
  operation: string,
  out: Tensor,
  shape: number[],
  inputs: Record<string, Tensor | undefined>,
): void {
  checkShape(operation, 'out', out.shape, shape, 'the product');
  checkFloat(operation, 'out', out);
  if (!out.isContiguous) throw new RangeError(wrong(operation, 'out', 'contiguous', 'a strided view'));
  for (const [argument, t] of Object.entries(inputs)) {
    if (t && overlaps(out, t))
      throw new RangeError(wrong(operation, 'out', `apart from ${argument}`, 'on the same memory'));
  }
}
