// Gradients of attention, in one operation and in steps, against central differences of plain loops.
import { attention } from '../../../../src/engine/ops/attention.js';
import { maskLogits } from '../../../../src/engine/ops/mask_logits.js';
import { matmul } from '../../../../src/engine/ops/matmul.js';
import { Tensor } from '../../../../src/engine/ops/tensor.js';
import { close } from '../../../support/close.js';
import { suite, throws } from '../../../support/harness.js';
import { attentionOracle } from '../../../support/operations/attention.js';
import { coordinates } from '../../../support/operations/cases.js';
import { type Random, random } from '../../../support/random.js';
import { anyFloat, gradients } from './differences.js';
import { maybe, normal } from './inputs.js';

const test = suite('gradients of attention');

/** The padding of [batch, keys]: on one side, on the other, or anywhere; or none. */
function padding(rng: Random, batch: number, keys: number): Uint8Array | undefined {
  const kind = rng.pick(['none', 'left', 'right', 'anywhere'] as const);
  if (kind === 'none') return undefined;
  const lengths = Array.from({ length: batch }, () => rng.integer(0, keys));
  return Uint8Array.from({ length: batch * keys }, (_, i) => {
    const [at, length] = [i % keys, lengths[Math.floor(i / keys)] as number];
    return Number(kind === 'anywhere' ? maybe(rng, 0.3) : kind === 'left' ? at < length : at >= keys - length);
  });
}

function sizes(rng: Random) {
  const [B, H, S] = [rng.integer(1, 4), rng.integer(1, 4), rng.pick([1, 2, 3, 5, 9])];
  const T = S + rng.pick([0, 0, 1, 4]);
  return { B, H, S, T, D: rng.pick([1, 3, 4, 8]), E: rng.pick([1, 2, 5, 8]) };
}

test('attention: causal or not, any padding and scale, more keys than queries, probabilities in the loss', async () => {
  await gradients(240, (rng) => {
    const { B, H, S, T, D, E } = sizes(rng);
    const [causal, dtype] = [maybe(rng, 0.7), anyFloat(rng)];
    const flags = padding(rng, B, T);
    const scale = maybe(rng) ? { scale: rng.pick([1, 0.3]) } : {};
    const used = rng.pick(['out', 'out', 'out beside probs', 'both', 'probs'] as const);
    return {
      operation: `attention of ${S} queries, causal ${causal}, pad ${flags}, ${used}`,
      inputs: [
        normal(rng, [B, S, H, D], dtype),
        normal(rng, [B, T, H, D], dtype),
        ...(used === 'probs' ? [] : [normal(rng, [B, T, H, E], dtype)]),
      ],
      ours: (own, ...inputs) => {
        // one tensor with queries, keys and values, as a model has them, is overwritten afterwards
        const [q, k, v] = inputs.map((t) => own(t.clone())) as [Tensor, Tensor, Tensor | undefined];
        const { device } = q;
        const pad = flags && own(Tensor.from(flags, { shape: [B, T], device }));
        const probs = used === 'out' ? undefined : own(q.make([B, H, S, T]).fill(3)).permute([0, 2, 3, 1]);
        const out = attention(q, k, v ?? own(k.make([B, T, H, E]).fill(1)), {
          causal,
          ...scale,
          ...(pad && { pad }),
          ...(probs && { probs }),
        });
        own(out);
        for (const t of [q, k, v, pad]) t?.fill(1);
        return used === 'both' ? [out, probs as Tensor] : used === 'probs' ? (probs as Tensor) : out;
      },
      oracle: (q, k, v = new Float64Array(B * T * H * E)) => {
        const given = { q: q as Float64Array, k: k as Float64Array, v };
        const factor = scale.scale ?? 1 / Math.sqrt(D);
        const { out, probs } = attentionOracle(given, { B, S, T, H, D, E }, causal, factor, flags);
        return used === 'both' ? [out, probs] : used === 'probs' ? probs : out;
      },
      views: 'distinct',
    };
  });
});

test('attention in steps: logits, mask, softmax, mix', async () => {
  await gradients(60, (rng) => {
    const { B, H, S, T, D, E } = sizes(rng);
    const causal = maybe(rng, 0.7);
    const flags = padding(rng, B, T);
    return {
      operation: `attention in steps, causal ${causal}, pad ${flags}`,
      inputs: [
        normal(rng, [B, S, H, D], 'float32', 1 / Math.sqrt(D)),
        normal(rng, [B, T, H, D]),
        normal(rng, [B, T, H, E]),
      ],
      ours: (own, ...inputs) => {
        const [q, k, v] = inputs.map((t) => t.permute([0, 2, 1, 3])) as [Tensor, Tensor, Tensor];
        const logits = own(matmul(q, k, { transposeB: true }));
        const pad = flags && own(Tensor.from(flags, { shape: [B, T], device: q.device }));
        maskLogits(logits, { causal, ...(pad && { pad }) });
        pad?.fill(0);
        return own(matmul(own(logits.softmax()), v)).permute([0, 2, 1, 3]);
      },
      oracle: (...[q, k, v]) => {
        const given = { q: q as Float64Array, k: k as Float64Array, v: v as Float64Array };
        return attentionOracle(given, { B, S, T, H, D, E }, causal, 1, flags).out;
      },
      views: 'distinct',
    };
  });
});

// the loss is -inf, so there is nothing to take differences of
test('maskLogits: masked entries get nothing, the others what they are given', async () => {
  for (let seed = 1; seed <= 200; seed++) {
    const rng = random(seed);
    const { B, H, S, T } = sizes(rng);
    const causal = maybe(rng, 0.7);
    const flags = padding(rng, B, T);
    using leaf = Tensor.zeros([B, S, T, H], { dtype: anyFloat(rng) }).requireGrad();
    using logits = leaf.clone();
    const shown = logits.permute([0, 3, 1, 2]);
    using pad = flags && Tensor.from(flags, { shape: [B, T] });
    maskLogits(shown, { causal, ...(pad && { pad }) });
    pad?.fill(0);
    const values = rng.floats(leaf.size);
    using weights = Tensor.from(values, { shape: [B, H, S, T] });
    using loss = shown.mul(weights).sum();
    await loss.backward();
    const expected = values.map((value, i) => {
      const [b, , query, key] = coordinates([B, H, S, T], i) as [number, number, number, number];
      const own = T - S + query;
      return (causal && key > own) || (flags && flags[b * T + key] !== flags[b * T + own]) ? 0 : value;
    });
    close(await (leaf.grad as Tensor).permute([0, 3, 1, 2]).read(), expected, { label: `case ${seed}` });
  }
});

test('a sequence and a row do not depend on the others', async () => {
  const [B, S, H, D] = [3, 40, 2, 16];
  const data = await Promise.all([1, 2, 3].map((seed) => Tensor.randn([B, S, H, D], { seed }).read()));
  const of = async (from: number, to: number, rows: number): Promise<Float32Array[]> => {
    const size = S * H * D;
    const leaves = data.map((values) =>
      Tensor.from(values.slice(from * size, to * size), { shape: [to - from, S, H, D] }).requireGrad(),
    ) as [Tensor, Tensor, Tensor];
    using out = attention(...leaves);
    const shown = out.slice(1, 0, rows);
    using loss = shown.mul(shown).sum();
    await loss.backward();
    const read = await Promise.all(
      leaves.map(async ({ grad }) => (await grad?.slice(1, 0, rows).read()) as Float32Array),
    );
    for (const leaf of leaves) leaf.dispose();
    return read;
  };
  const [all, one] = [await of(0, 3, S), await of(1, 2, S)];
  for (const [i, values] of one.entries())
    close(values, all[i]?.slice(values.length, 2 * values.length) as Float32Array);
});

test('a leaf is not written', () => {
  using leaf = Tensor.zeros([1, 1, 1, 1]).requireGrad();
  using x = Tensor.zeros([1, 1, 1, 1]);
  const refused = /: the tensor must not be one whose gradient is wanted \(requireGrad\); detach\(\)/;
  throws(() => maskLogits(leaf), Error, refused);
  throws(() => attention(x, x, x, { probs: leaf }), Error, refused);
});

test.run();
