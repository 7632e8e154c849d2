// The options that matrix products share: precision, bias, a tensor for the result; and their checks.
import { checkFloat, checkShape, describe, type OptionNames, wrong } from '../check.js';
import { checkWritable, overlaps } from './overlap.js';
import type { Tensor } from './tensor.js';

const precisions = { float32: 0, strict: 1, tf32: 2, bf16: 3 } as const; // Precision in native/ops.h
/**
 * How float32 products are computed. The CPU computes every one of them in float32, in a fixed order. A GPU is as
 * accurate as float32, by whatever is fastest; `strict` keeps it to plain float32 arithmetic, `tf32` and `bf16`
 * trade accuracy for speed.
 */
export type Precision = keyof typeof precisions;

export interface ProductOptions {
  /** [N], added to every row. */
  bias?: Tensor;
  /** The tensor for the result: [..., M, N], contiguous, apart from the operands. */
  out?: Tensor;
  precision?: Precision;
}
export const productOptions: OptionNames<ProductOptions> = { bias: true, out: true, precision: true };

/** @internal Native code's number for a precision; float32's for one left out. */
export function precisionCode(operation: string, precision: Precision = 'float32'): number {
  if (typeof precision === 'string' && Object.hasOwn(precisions, precision)) return precisions[precision];
  throw new TypeError(wrong(operation, 'precision', Object.keys(precisions).join(', '), describe(precision)));
}

export function checkBias(operation: string, bias: Tensor, n: number): void {
  checkFloat(operation, 'bias', bias);
  checkShape(operation, 'bias', bias.shape, [n], 'the width of the product');
}

export function checkGivenOut(
  operation: string,
  out: Tensor,
  shape: number[],
  inputs: Record<string, Tensor | undefined>,
): void {
  checkShape(operation, 'out', out.shape, shape, 'the product');
  checkFloat(operation, 'out', out);
  checkWritable(operation, 'out', out);
  if (!out.isContiguous) throw new RangeError(wrong(operation, 'out', 'contiguous', 'a strided view'));
  for (const [argument, t] of Object.entries(inputs)) {
    if (t && overlaps(out, t))
      throw new RangeError(wrong(operation, 'out', `apart from ${argument}`, 'on the same memory'));
  }
}
