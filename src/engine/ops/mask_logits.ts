// The mask of attention, for attention in separate steps: logits, mask, softmax, mix.
import { checkBoolean, checkFloat, checkOperands, checkOptions, wrong } from '../check.js';
import { showShape } from '../shape.js';
import { checkPad } from './attention.js';
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
  withContiguous([pad], (rows) => device.run('maskLogits', logits, rows ?? null, causal));
  return logits;
}
