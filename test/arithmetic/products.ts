// The part of the fixed program that multiplies matrices.
import { attention } from '../../src/engine/ops/attention.js';
import { einsum } from '../../src/engine/ops/einsum.js';
import { linear } from '../../src/engine/ops/linear.js';
import { maskLogits } from '../../src/engine/ops/mask_logits.js';
import { matmul } from '../../src/engine/ops/matmul.js';
import { packWeights } from '../../src/engine/ops/pack_weights.js';
import { sparseDecode } from '../../src/engine/ops/sparse_decode.js';
import { type SparseLatents, sparseEncode } from '../../src/engine/ops/sparse_encode.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { dot, outer } from '../../src/engine/ops/vector_products.js';
import type { Digests } from './digests.js';
import { type Kind, type Layout, layouts } from './values.js';

const inner = [1, 2, 3, 17, 64, 65, 767, 768, 769, 1537];
const sizes = [
  [1, 1],
  [1, 65],
  [2, 16],
  [3, 17],
  [5, 129],
  [7, 31],
  [13, 48],
  [17, 33],
  [33, 3],
  [64, 64],
] as const;
const kinds: readonly Kind[] = ['plain', 'rare', 'finite', 'plain', 'awkward', 'cancelling'];
const activations = ['none', 'relu', 'gelu'] as const;
const kindOf = (i: number): Kind => kinds[i % kinds.length] as Kind;
const layoutOf = (i: number): Layout => layouts[i % layouts.length] as Layout;

export async function products(d: Digests): Promise<void> {
  for (const [i, k] of inner.entries()) {
    for (const [j, [m, n]] of sizes.entries()) {
      if (k > 100 && (i + j) % 3 !== 0) continue; // the long ones cost the most
      await productsOf(d, m, k, n, i + j);
    }
  }
  await d.take('matmul', matmul(d.floats([3, 0]), d.floats([0, 5]), { bias: d.floats([5], 'awkward') }));
  await d.take(
    'matmul',
    matmul(d.floats([2, 1, 7, 19], 'finite', 'sliced'), d.floats([3, 19, 5], 'plain', 'reversed')),
  );
  await d.take(
    'matmul',
    matmul(d.floats([5, 33], 'plain', 'expanded'), d.floats([21, 33], 'rare'), { transposeB: true }),
  );
  await d.take('einsum', einsum('bij,bjk->bik', d.floats([3, 5, 17]), d.floats([3, 17, 4])));
  await d.take('einsum', einsum('ij,kj->ki', d.floats([5, 769]), d.floats([6, 769])), einsum('ii->', d.floats([9, 9])));
  for (const n of [0, 1, 17, 769, 70_001]) await d.take('dot', dot(d.floats([n], 'cancelling'), d.floats([n])));
  await d.take('outer', outer(d.floats([17], 'awkward'), d.floats([65], 'awkward')));
  await attentions(d);
}

async function productsOf(d: Digests, m: number, k: number, n: number, i: number): Promise<void> {
  const x = d.floats([m, k], kindOf(i), i % 2 ? 'sliced' : 'contiguous');
  const b = d.floats([k, n], kindOf(i + 1), layoutOf(i));
  const bias = i % 3 ? d.floats([n], 'plain') : undefined;
  await d.take('matmul', matmul(x, b, { ...(bias && { bias }) }), matmul(d.floats([m, k]), d.floats([k, n])));
  const packed = packWeights(b);
  await d.take('pack_weights', packed.unpack(), packWeights(b.permute([1, 0]), { transposeB: true }).unpack());
  for (const activation of activations) {
    const residual = (i + activation.length) % 2 ? d.floats([m, n], 'finite') : undefined;
    const options = { activation, ...(bias && { bias }), ...(residual && { residual }) };
    await d.take(`linear ${activation}`, linear(x, packed, options), linear(d.floats([m, k]), packed, options));
  }
  for (const dtype of ['float32', 'float16', 'bfloat16'] as const) {
    if (dtype === d.dtype) continue;
    const other = packWeights(b, { dtype });
    await d.take('linear mixed', linear(x, other, { activation: 'gelu', ...(bias && { bias }) }));
    const out = Tensor.empty([m, n], { device: d.device, dtype });
    await d.take('linear mixed', linear(x, packed, { out }));
  }
  for (const [relu, threshold, count] of [
    [true, 0, 0],
    [true, 0.25, 0],
    [false, 0.5, 0],
    [true, 0, Math.min(n, 7)],
    [false, 0, Math.min(n, 32)],
  ] as const) {
    const options = { relu, threshold, k: count, ...(bias && { bias }) };
    const sparse = await sparseEncode(x, packed, options);
    await takeLatents(d, count ? 'sparse_encode top k' : 'sparse_encode', sparse);
    const decoder = packWeights(d.floats([n, 33], 'plain'));
    const more = { bias: d.floats([33]) };
    await d.take(
      'sparse_decode',
      sparseDecode(sparse, decoder, more),
      sparseDecode(sparse, decoder, { dtype: 'float32' }),
    );
  }
}

async function takeLatents(d: Digests, name: string, { rowPtr, indices, values }: SparseLatents): Promise<void> {
  const { device } = d;
  await d.take(
    name,
    Tensor.from(rowPtr, { device }),
    Tensor.from(indices, { device }),
    Tensor.from(values, { device }),
  );
}

async function attentions(d: Digests): Promise<void> {
  for (const [i, channels] of [1, 3, 16, 64, 65].entries()) {
    for (const [j, [queries, keys]] of (
      [
        [1, 1],
        [1, 40],
        [2, 17],
        [7, 7],
        [16, 33],
        [40, 40],
      ] as const
    ).entries()) {
      for (const causal of [true, false]) {
        const [batch, heads] = [2, 3];
        const kind: Kind = (i + j) % 4 === 3 ? 'rare' : 'plain';
        const q = d.floats([batch, queries, heads, channels], kind);
        const k = d.floats([batch, keys, heads, channels], kind);
        const v = d.floats([batch, keys, heads, channels + (j % 3)], kind);
        if (j % 2) v.slice(1, keys - 1).fill(Number.NaN);
        const ends = d.integers([batch], 0, keys);
        const places = Tensor.arange(keys, { device: d.device }).unsqueeze(0);
        const pad = i % 2 ? places.lt(ends.unsqueeze(1)) : places.gt(ends.unsqueeze(1));
        const probs = Tensor.empty([batch, queries, keys, heads], { device: d.device, dtype: d.dtype });
        await d.take('attention', attention(q, k, v, { causal }), attention(q, k, v, { causal, scale: 3 }));
        await d.take('attention padding', attention(q, k, v, { causal, pad }));
        await d.take('attention probabilities', attention(q, k, v, { causal, probs }), probs);
        const logits = d.floats([batch, heads, queries, keys], 'awkward');
        await d.take('mask_logits', maskLogits(logits.clone(), { causal }), maskLogits(logits, { causal, pad }));
      }
    }
  }
}
