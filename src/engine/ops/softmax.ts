// Softmax, its logarithm, and its numerator alone for callers that divide by themselves.
import { checkedDim, checkFloat, checkOperands } from '../check.js';
import { type Backward, hasHistory, type Keep, record } from '../record.js';
import { withTemporaries } from '../scope.js';
import type { Tensor } from './tensor.js';
import { dimLast, fromDimLast } from './views.js';

const kinds = { softmax: 0, numerator: 1, logSoftmax: 2 } as const; // SoftmaxKind in native/ops.h
type Kind = keyof typeof kinds;

/** The gradients of x. The maximum in the numerator is a constant. */
function backwardOf(
  operation: string,
  x: Tensor,
  dim: number,
  kind: Kind,
  out: Tensor,
  keep: Keep<Tensor>,
): Backward<Tensor> {
  // a result of 16 bits is too coarse
  const kept = keep(out.dtype === 'float32' ? out : x);
  return (given) =>
    withTemporaries((own) => {
      const g = given as Tensor;
      const { tensor } = kept;
      const value =
        tensor.dtype === 'float32' ? tensor : own(alongDim(operation, own(tensor.to('float32')), dim, kind));
      if (kind === 'numerator') return [g.mul(value)];
      const sum = (t: Tensor) => own(t.sum(dim, { keepDim: true }));
      if (kind === 'softmax') return [value.mul(own(g.sub(sum(own(value.mul(g))))))];
      return [g.sub(own(own(value.exp()).mul(sum(g))))];
    });
}

function alongDim(operation: string, x: Tensor, dim: number, kind: Kind): Tensor {
  const device = checkOperands(operation, { t: x });
  checkFloat(operation, 't', x);
  const d = checkedDim(operation, 'dim', dim, x.shape);
  const last = dimLast(x, d);
  const out = x.make(last.shape);
  device.run('softmax', out, last, kinds[kind]);
  const result = fromDimLast(out, d);
  if (hasHistory(x)) record(operation, [result], [x], (keep) => backwardOf(operation, x, d, kind, result, keep));
  return result;
}

/**
 * exp(t - max) / sum of the same, over dim: t [...] of floats -> the same shape and dtype. Computed in float32; a row
 * of -inf alone gives NaN.
 */
export const softmax = (t: Tensor, dim = -1): Tensor => alongDim('softmax', t, dim, 'softmax');

/** The logarithm of softmax: t - max - log(sum of exp(t - max)), over dim. As softmax. */
export const logSoftmax = (t: Tensor, dim = -1): Tensor => alongDim('logSoftmax', t, dim, 'logSoftmax');

/** exp(t - max) over dim: softmax before it divides by the sum. For gradients, max is a constant. */
export const softmaxNumerator = (t: Tensor, dim = -1): Tensor => alongDim('softmaxNumerator', t, dim, 'numerator');
