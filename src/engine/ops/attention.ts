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
import { hasHistory, type Prepare, record, recordWrite } from '../record.js';
import { withTemporaries } from '../scope.js';
import { sameShape, showShape } from '../shape.js';
import { withContiguous } from './contiguous.js';
import { checkPad, maskLogits } from './mask_logits.js';
import { matmul } from './matmul.js';
import { checkWritable, overlaps } from './overlap.js';
import { checkPlanes, type Planes } from './planes.js';
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
  /** @internal Of the result as [batch * queries, heads * value channels]: written with it, for a product of it. */
  planes?: Planes;
}

/**
 * softmax(q k^T scale, masked) v; the probabilities are stored only if `probs` is given. q [batch, queries, heads,
 * channels], k [batch, keys, heads, channels], v [batch, keys, heads, value channels], keys >= queries, one float dtype
 * -> [batch, queries, heads, value channels].
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  checkOptions('attention', options, { causal: true, pad: true, scale: true, probs: true, planes: true });
  const { causal = true, pad, probs, planes } = options;
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
  const shape = [batch, queries, heads, v.shape[3] as number];
  checkPlanes('attention', 'planes', planes, { device, dtype: q.dtype, shape }, heads * (shape[3] as number));
  const out = q.make(shape);
  const scores = { q, k, pad, causal, scale };
  if (probs) recordWrite('attention', probs, [q, k], backwardOfProbs(scores));
  withContiguous(
    [q, k, v, pad],
    (...[q, k, v, pad]) =>
      device.run('attention', out, planes ?? null, probs ?? null, q, k, v, pad ?? null, causal, scale),
    (t) => (t === pad ? t.isContiguous : hasContiguousRows(t)),
  );
  planes?.hold(out);
  if (hasHistory(q, k, v)) record('attention', [out], [q, k, v], backwardOf(scores, v));
  return out;
}

const hasContiguousRows = (t: Tensor): boolean => t.strides[3] === 1 || t.shape[3] === 1;

/** What the probabilities are made of. */
interface Scores {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly pad: Tensor | undefined;
  readonly causal: boolean;
  readonly scale: number;
}

/** The gradients of q, k and v, from that of the result. */
const backwardOf =
  ({ q, k, pad, causal, scale }: Scores, v: Tensor): Prepare<Tensor> =>
  (keep, needs) => {
    const [queries, keys, values, padding] = [keep(q), keep(k), keep(v), pad && keep(pad)];
    return (g) => {
      const made = gradientsOf([q, k, v], needs);
      const [dq = null, dk = null, dv = null] = made;
      withContiguous(
        [g as Tensor, queries.tensor, keys.tensor, values.tensor, padding?.tensor],
        (g, q, k, v, pad) => {
          g.device.run('attentionBackward', dq, dk, dv, g, q, k, v, pad ?? null, causal, scale);
        },
        (t) => (t === padding?.tensor ? t.isContiguous : hasContiguousRows(t)),
      );
      return made;
    };
  };

/**
 * New tensors for the gradients that are needed. Where the inputs lie side by side in one storage, as queries, keys and
 * values of a joint projection do, these lie so in one tensor.
 */
function gradientsOf(inputs: readonly Tensor[], needs: readonly boolean[]): (Tensor | undefined)[] {
  const first = inputs.find(({ offset }) => offset === 0);
  if (!first || needs.includes(false) || !fillSideBySide(inputs)) {
    return inputs.map((t, i) => (needs[i] ? t.make(t.shape, 'float32') : undefined));
  }
  const { shape, strides } = first;
  const owner = first.make([first.elements], 'float32').transferTo(shape, strides);
  return inputs.map((t) => (t === first ? owner : owner.window(shape, strides, t.offset)));
}

/** Whether tensors of one shape, of rank 4, are columns that lie side by side and fill the storage that they share. */
function fillSideBySide(tensors: readonly Tensor[]): boolean {
  const [{ storage, shape, strides, elements }] = tensors as [Tensor];
  const [batch, positions, heads, channels] = shape as [number, number, number, number];
  const width = heads * channels;
  const row = width * tensors.length;
  const joint = [positions * row, row, channels, 1];
  const starts = new Set(tensors.map(({ offset }) => offset));
  return (
    elements === batch * positions * row &&
    strides.every((stride, d) => stride === joint[d]) &&
    tensors.every((t) => t.storage === storage && sameShape(t.shape, shape) && sameShape(t.strides, strides)) &&
    tensors.every((_, i) => starts.has(i * width))
  );
}

/** The gradients of q and k, from that of the probabilities. */
const backwardOfProbs =
  ({ q, k, pad, causal, scale }: Scores): Prepare<Tensor> =>
  (keep, needs) => {
    const [queries, keys, padding] = [keep(q), keep(k), pad && keep(pad)];
    return (g) => {
      const gradients = [q, k].map((t, i) => (needs[i] ? t.make(t.shape, 'float32') : undefined));
      // one sequence at a time, since its probabilities are in memory
      for (let b = 0; b < (q.shape[0] as number); b++) {
        withTemporaries((own) => {
          const heads = (t: Tensor) => t.select(0, b).permute([1, 0, 2]); // [heads, positions, channels]
          const give = (i: number, left: Tensor, right: Tensor) => {
            const to = gradients[i];
            if (to) heads(to).copyFrom(own(matmul(left, right)));
          };
          const [query, key] = [own(heads(queries.tensor).to('float32')), own(heads(keys.tensor).to('float32'))];
          const logits = own(matmul(query, key, { transposeB: true })).mul_(scale);
          maskLogits(logits.unsqueeze(0), { causal, ...(padding && { pad: padding.tensor.slice(0, b, b + 1) }) });
          const probs = own(logits.softmax());
          const ofProbs = (g as Tensor).select(0, b).permute([2, 0, 1]);
          const weighted = own(probs.mul(ofProbs));
          const common = own(weighted.sum(-1, { keepDim: true }));
          const ofLogits = weighted.sub_(own(probs.mul(common))).mul_(scale);
          give(0, ofLogits, key);
          give(1, ofLogits.transpose(1, 2), query);
        });
      }
      return gradients;
    };
  };
