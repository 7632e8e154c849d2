// Gradients: the operations that compute them, and what they are made of.
import { attention } from '../../src/engine/ops/attention.js';
import { crossEntropy } from '../../src/engine/ops/cross_entropy.js';
import { layerNorm } from '../../src/engine/ops/layer_norm.js';
import { linear } from '../../src/engine/ops/linear.js';
import { matmul } from '../../src/engine/ops/matmul.js';
import { packWeights } from '../../src/engine/ops/pack_weights.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { gelu, relu } from '../../src/engine/ops/unary.js';
import type { Digests } from './digests.js';
import type { Kind } from './values.js';

const kinds: readonly Kind[] = ['plain', 'finite', 'awkward'];

/** Takes the gradients of the leaves, for the sum of `make` times random weights. Disposes of the leaves. */
async function takeGradients(d: Digests, name: string, leaves: readonly Tensor[], make: () => Tensor): Promise<void> {
  for (const leaf of leaves) leaf.requireGrad();
  using out = make();
  using weights = d.floats([...out.shape]);
  using weighted = out.mul(weights);
  using loss = weighted.sum();
  await loss.backward();
  for (const leaf of leaves) await d.take(`${name} backward`, (leaf.grad as Tensor).clone());
  for (const leaf of leaves) leaf.dispose();
}

export async function gradients(d: Digests): Promise<void> {
  for (const width of [1, 3, 65, 768, 769, 4099]) {
    for (const kind of kinds) {
      const x = () => d.floats([5, width], kind);
      for (const [name, activation] of Object.entries({ gelu, relu })) {
        const leaf = x();
        await takeGradients(d, name, [leaf], () => activation(leaf));
      }
      const [rows, gain, bias] = [x(), d.floats([width]), d.floats([width])] as const;
      await takeGradients(d, 'layer_norm', [rows, gain, bias], () => layerNorm(rows, gain, bias));
      const logits = x();
      const [targets, pad] = [d.integers([5], 0, width), d.bools([5])];
      const options = { pad, reduction: 'none' } as const;
      await takeGradients(d, 'cross_entropy', [logits], () => crossEntropy(logits, targets, options));
    }
  }
  for (const [M, K, N] of [
    [1, 3, 5],
    [7, 65, 97],
    [50, 130, 1601],
    [1030, 17, 9],
  ] as const) {
    for (const kind of ['plain', 'rare'] as const) {
      const w = packWeights(d.floats([K, N], kind));
      const [x, bias] = [d.floats([M, K]), d.floats([N])];
      await takeGradients(d, 'linear', [x, bias], () => linear(x, w, { bias, activation: 'gelu' }));
      w.dispose();
      const [a, b] = [d.floats([M, K]), d.floats([K, N], kind)];
      await takeGradients(d, 'matmul', [a, b], () => matmul(a, b));
    }
  }
  for (const [queries, keys] of [
    [1, 1],
    [7, 7],
    [3, 60],
    [100, 130],
  ] as const) {
    for (const channels of [1, 16, 65]) {
      for (const kind of ['plain', 'rare'] as const) {
        const q = d.floats([2, queries, 3, channels], kind);
        const [k, v] = [d.floats([2, keys, 3, channels], kind), d.floats([2, keys, 3, channels + 1], kind)];
        const ends = d.integers([2], 0, keys);
        const places = Tensor.arange(keys, { device: d.device }).unsqueeze(0);
        const pad = channels % 2 ? places.lt(ends.unsqueeze(1)) : places.gt(ends.unsqueeze(1));
        const causal = channels < 65;
        await takeGradients(d, 'attention', [q, k, v], () => attention(q, k, v, { causal, pad }));
      }
    }
  }
}
