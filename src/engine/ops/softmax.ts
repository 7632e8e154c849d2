// Softmax, its logarithm, and its numerator alone for callers that divide by themselves.
import { checkedDim, checkFloat, checkOperands } from '../check.js';
import type { Tensor } from './tensor.js';
import { dimLast, fromDimLast } from './views.js';

const kinds = { softmax: 0, numerator: 1, logSoftmax: 2 } as const; // SoftmaxKind in native/ops.h
type Kind = keyof typeof kinds;

function alongDim(operation: string, x: Tensor, dim: number, kind: Kind): Tensor {
  const device = checkOperands(operation, { t: x });
  checkFloat(operation, 't', x);
  const d = checkedDim(operation, 'dim', dim, x.shape);
  const last = dimLast(x, d);
  const out = x.make(last.shape);
  device.run('softmax', out, last, kinds[kind]);
  return fromDimLast(out, d);
}

/**
 * exp(t - max) / sum of the same, over dim: t [...] of floats -> the same shape and dtype. Computed in float32; a row
 * of -inf alone gives NaN.
 */
export const softmax = (t: Tensor, dim = -1): Tensor => alongDim('softmax', t, dim, 'softmax');

/** The logarithm of softmax: t - max - log(sum of exp(t - max)), over dim. As softmax. */
export const logSoftmax = (t: Tensor, dim = -1): Tensor => alongDim('logSoftmax', t, dim, 'logSoftmax');

/** exp(t - max) over dim: softmax before it divides by the sum. */
export const softmaxNumerator = (t: Tensor, dim = -1): Tensor => alongDim('softmaxNumerator', t, dim, 'numerator');
