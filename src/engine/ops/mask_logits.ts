// The mask of attention, for attention in separate steps: logits, mask, softmax, mix.
import { checkBoolean, checkDType, checkFloat, checkOperands, checkOptions, checkShape, wrong } from '../check.js';
import { recordWrite } from '../record.js';
import { withTemporaries } from '../scope.js';
import { showShape } from '../shape.js';
import { withContiguous } from './contiguous.js';
import { checkWritable } from './overlap.js';
import type { Tensor } from './tensor.js';

/**
 * Sets the logits that attention must not see to -inf, in place: logits [batch, heads, queries, keys] of any strides,
 * with the same mask as attention's.
 */
export function maskLogits(logits: Tensor, options: { causal?: boolean; pad?: Tensor } = {}): Tensor {
  checkOptions('maskLogits', options, { causal: true, pad: true });
  const { causal = true, pad } = options;
  const device = checkOperands('maskLogits', { logits }, { optional: { pad } });
  checkBoolean('maskLogits', 'causal', causal);
  checkFloat('maskLogits', 'logits', logits);
  if (logits.shape.length !== 4) {
    throw new RangeError(wrong('maskLogits', 'logits', '[batch, heads, queries, keys]', showShape(logits.shape)));
  }
  checkWritable('maskLogits', 'logits', logits);
  if (pad) checkPad('maskLogits', pad, logits.shape[0] as number, logits.shape[3] as number);
  recordWrite('maskLogits', logits, [logits], (keep) => {
    const padding = pad && keep(pad);
    return (g) =>
      withTemporaries((own) => {
        const [batch, , queries, keys] = logits.shape as [number, number, number, number];
        const mask = own((g as Tensor).make([batch, 1, queries, keys]).fill(0));
        maskLogits(mask, { causal, ...(padding && { pad: padding.tensor }) });
        return [own(mask.eq(0)).where(g as Tensor, 0)];
      });
  });
  withContiguous([pad], (rows) => device.run('maskLogits', logits, rows ?? null, causal));
  return logits;
}

/** Demands that `pad` marks the padding of [batch, keys]. */
export function checkPad(operation: string, pad: Tensor, batch: number, keys: number): void {
  checkDType(operation, 'pad', pad, 'bool');
  checkShape(operation, 'pad', pad.shape, [batch, keys], 'batch and keys');
}
