// Attention in one operation: the scores are never stored.
import {
  checkBoolean,
  checkDType,
  checkFloat,
  checkNumber,
  checkOperands,
  checkOptions,
  checkShape,
  wrong,
} from '../check.js';
import { showShape } from '../shape.js';
import { withContiguous } from './contiguous.js';
import { checkWritable, overlaps } from './overlap.js';
import type { Tensor } from './tensor.js';

export interface AttentionOptions {
  /** Query i sees keys up to its own position; the queries are the last of the keys' positions. Default true. */
  causal?: boolean;
  /**
   * bool [batch, keys], 1 = padding: a query sees a key only if both are padding or neither is. On the CPU, padding on
   * one side of a row alone changes no bit of the rest.
   */
  pad?: Tensor;
  /** The factor of the logits; 1 / sqrt(channels) by default. */
  scale?: number;
  /** [batch, queries, keys, heads] of q's dtype, any view: filled with the probabilities, 0 where masked. */
  probs?: Tensor;
}

/**
 * softmax(q k^T scale, masked) v; the probabilities are stored only if `probs` is given. q [batch, queries, heads,
 * channels], k [batch, keys, heads, channels], v [batch, keys, heads, value channels], keys >= queries, one float dtype
 * -> [batch, queries, heads, value channels].
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  checkOptions('attention', options, { causal: true, pad: true, scale: true, probs: true });
  const { causal = true, pad, probs } = options;
  const device = checkOperands('attention', { q, k, v }, { optional: { pad, probs } });
  checkBoolean('attention', 'causal', causal);
  checkFloat('attention', 'q', q);
  checkDType('attention', 'k', k, q.dtype);
  checkDType('attention', 'v', v, q.dtype);
  if (q.shape.length !== 4) {
    throw new RangeError(wrong('attention', 'q', '[batch, queries, heads, channels]', showShape(q.shape)));
  }
  const [batch, queries, heads, channels] = q.shape as [number, number, number, number];
  const keys = k.shape[1] ?? 0;
  checkShape('attention', 'k', k.shape, [batch, keys, heads, channels], () => `q is ${showShape(q.shape)}`);
  checkShape(
    'attention',
    'v',
    v.shape,
    [batch, keys, heads, v.shape[3] ?? channels],
    () => `k is ${showShape(k.shape)}`,
  );
  if (keys < queries) {
    throw new RangeError(wrong('attention', 'k', `of ${queries} or more keys, as many as q has queries`, String(keys)));
  }
  if (pad) checkPad('attention', pad, batch, keys);
  if (probs) {
    const why = () => `q is ${showShape(q.shape)}, k ${showShape(k.shape)}`;
    checkShape('attention', 'probs', probs.shape, [batch, queries, keys, heads], why);
    checkDType('attention', 'probs', probs, q.dtype);
    checkWritable('attention', 'probs', probs);
    for (const [argument, t] of Object.entries({ q, k, v, pad })) {
      if (t && overlaps(probs, t))
        throw new RangeError(wrong('attention', 'probs', `apart from ${argument}`, 'on the same memory'));
    }
  }
  const { scale = 1 / Math.sqrt(channels) } = options;
  checkNumber('attention', 'scale', scale);
  const out = q.make([batch, queries, heads, v.shape[3] as number]);
  const hasContiguousRows = (t: Tensor) => (t === pad ? t.isContiguous : t.strides[3] === 1 || t.shape[3] === 1);
  withContiguous(
    [q, k, v, pad],
    (...[q, k, v, pad]) => device.run('attention', out, probs ?? null, q, k, v, pad ?? null, causal, scale),
    hasContiguousRows,
  );
  return out;
}

/** Demands that `pad` marks the padding of [batch, keys]. */
export function checkPad(operation: string, pad: Tensor, batch: number, keys: number): void {
  checkDType(operation, 'pad', pad, 'bool');
  checkShape(operation, 'pad', pad.shape, [batch, keys], 'batch and keys');
}
