// Fused attention and its probabilities against loops in doubles, and against its own open form.
import * as assert from 'uvu/assert';
import { attention, maskLogits } from '../../src/engine/ops/attention.js';
import { matmul } from '../../src/engine/ops/matmul.js';
import { softmax } from '../../src/engine/ops/softmax.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { cases, type Sample, unit } from '../support/cases.js';
import { close } from '../support/close.js';
import { testDevice } from '../support/device.js';
import { suite, throws } from '../support/harness.js';

const test = suite('attention');

function oracle(
  q: Sample,
  k: Sample,
  v: Sample,
  causal: boolean,
  scale: number,
  pad?: ArrayLike<number>,
): { out: Float64Array; probs: Float64Array } {
  const [B, S, H, D] = q.t.shape as [number, number, number, number];
  const T = k.t.shape[1] as number;
  const E = v.t.shape[3] as number;
  const out = new Float64Array(B * S * H * E);
  const probs = new Float64Array(B * S * T * H);
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      for (let i = 0; i < S; i++) {
        const query = T - S + i;
        const weights = Array.from({ length: T }, (_, j) => {
          if ((causal && j > query) || (pad && pad[b * T + j] !== pad[b * T + query])) return -Infinity;
          let sum = 0;
          for (let d = 0; d < D; d++)
            sum += (q.x[((b * S + i) * H + h) * D + d] as number) * (k.x[((b * T + j) * H + h) * D + d] as number);
          return sum * scale;
        });
        const largest = Math.max(...weights);
        const exps = weights.map((w) => Math.exp(w - largest));
        const total = exps.reduce((a, e) => a + e, 0);
        for (const [j, e] of exps.entries()) probs[((b * S + i) * T + j) * H + h] = e / total;
        for (let e = 0; e < E; e++) {
          let sum = 0;
          for (let j = 0; j < T; j++)
            if (exps[j]) sum += ((exps[j] as number) / total) * (v.x[((b * T + j) * H + h) * E + e] as number);
          out[((b * S + i) * H + h) * E + e] = sum;
        }
      }
    }
  }
  return { out, probs };
}

test(
  '200 random shapes, layouts, dtypes, masks, and the open form',
  async () => {
    await cases(200, async (c) => {
      const [B, H] = [c.rng.integer(1, 4), c.rng.integer(1, 5)];
      const [D, E] = [c.rng.pick([1, 3, 8, 10, 12, 16, 33, 64]), c.rng.pick([1, 5, 12, 16, 48, 64])];
      const S = c.rng.pick([1, 2, 5, 7, 8, 9, 17, 40, 65]);
      const T = S + c.rng.pick([0, 0, 1, 3, 30]);
      const dtype = c.rng.pick(['float32', 'float32', 'bfloat16', 'float16'] as const);
      const q = await c.tensor([B, S, H, D], { dtype });
      const k = await c.tensor([B, T, H, D], { dtype });
      const v = await c.tensor([B, T, H, E], { dtype });
      const causal = c.rng.next() < 0.7;
      const padding =
        c.rng.next() < 0.5 ? Uint8Array.from({ length: B * T }, () => (c.rng.next() < 0.3 ? 1 : 0)) : undefined;
      const pad = padding ? c.own(Tensor.from(padding, { shape: [B, T], device: c.device })) : undefined;
      const scale = c.rng.pick([1 / Math.sqrt(D), 1]);
      const options = { causal, scale, ...(pad ? { pad } : {}) };
      const { out: expected, probs: expectedProbs } = oracle(q, k, v, causal, scale, padding);
      const given = c.rng.next() < 0.5 ? await c.tensor([B, S, T, H], { dtype }) : undefined;
      const got = c.own(attention(q.t, k.t, v.t, given ? { ...options, probs: given.t } : options));
      close(await got.read(), expected, { rtol: unit[dtype] + 1e-5, atol: unit[dtype] + 2e-5 });
      if (given) {
        const values = await given.t.read();
        close(values, expectedProbs, { rtol: unit[dtype] + 5e-5, atol: 1e-7, label: 'probs' });
        assert.ok(
          expectedProbs.every((p, i) => p !== 0 || values[i] === 0),
          'what is masked is 0',
        );
        close(await c.own(attention(q.t, k.t, v.t, options)).read(), await got.read(), { label: 'without probs' });
      }
      // open: logits, mask, softmax, mix, in float32
      const wide = (t: Tensor) => c.own(t.to('float32'));
      const scaled = c.own(wide(q.t).mul(scale));
      const logits = c.own(matmul(scaled.permute([0, 2, 1, 3]), wide(k.t).permute([0, 2, 3, 1])));
      maskLogits(logits, { causal, ...(pad ? { pad } : {}) });
      const probs = c.own(softmax(logits));
      const mixed = c.own(matmul(probs, wide(v.t).permute([0, 2, 1, 3])));
      close(await c.own(mixed.permute([0, 2, 1, 3]).clone()).read(), expected, { rtol: 1e-5, atol: 2e-5 });
    });
  },
  { limit: 120_000 },
);

test('a query gets the same bits alone, in a batch, later, and with any number of threads', async () => {
  const [B, T, H, D] = [2, 37, 3, 16];
  const values = await Tensor.randn([3, B, T, H, D], { seed: 8 }).read();
  const run = async (threads: number, batch: [number, number], last: number, keys = T) => {
    using all = Tensor.from(values, { shape: [3, B, T, H, D], device: testDevice(threads) });
    const part = (i: number, from: number) =>
      all
        .select(0, i)
        .slice(0, ...batch)
        .slice(1, from, keys);
    using probs = Tensor.empty([batch[1] - batch[0], last, keys, H], { device: all.device });
    using out = attention(part(0, keys - last), part(1, 0), part(2, 0), { probs });
    return { out: await out.read(), probs: await probs.read() };
  };
  const whole = await run(1, [0, 2], T);
  const row = H * D;
  const again = await run(3, [0, 2], T);
  close(again.out, whole.out);
  close(again.probs, whole.probs);
  const one = await run(2, [1, 2], 1);
  close(one.out, whole.out.slice(-row));
  close(one.probs, whole.probs.slice(-T * H));
  close((await run(2, [1, 2], 9, 20)).out, whole.out.slice((T + 11) * row, (T + 20) * row));
});

test('a query whose logits are all -inf has NaN probabilities, as in the open form', async () => {
  using q = Tensor.from([1, 1], { shape: [1, 2, 1, 1] });
  using k = Tensor.from([-Infinity, 1], { shape: [1, 2, 1, 1] });
  using probs = Tensor.zeros([1, 2, 2, 1]);
  using out = attention(q, k, q, { probs });
  close(await probs.read(), [NaN, NaN, 0, 1]);
  close(await out.read(), [NaN, 1]);
  using logits = maskLogits(Tensor.from([-Infinity, 1, -Infinity, 1], { shape: [1, 1, 2, 2] }));
  close(await softmax(logits).read(), [NaN, NaN, 0, 1]);
});

test('probabilities of values without channels', async () => {
  using q = Tensor.from([0, 1], { shape: [1, 2, 1, 1] });
  using v = Tensor.zeros([1, 2, 1, 0]);
  using probs = Tensor.zeros([1, 2, 2, 1]);
  using out = attention(q, q, v, { scale: Math.log(3), probs });
  assert.is(out.size, 0);
  close(await probs.read(), [1, 0, 0.25, 0.75], { rtol: 1e-6 });
});

test('wrong shapes are refused', () => {
  const t = (...shape: number[]) => Tensor.zeros(shape);
  throws(
    () => attention(t(1, 2, 3), t(1, 2, 3), t(1, 2, 3)),
    RangeError,
    /attention: q must be \[batch, queries, heads, channels\]/,
  );
  throws(
    () => attention(t(1, 2, 3, 4), t(1, 2, 3, 5), t(1, 2, 3, 4)),
    RangeError,
    /attention: k must be \[1, 2, 3, 4\]/,
  );
  throws(() => attention(t(1, 2, 3, 4), t(1, 1, 3, 4), t(1, 1, 3, 4)), RangeError, /k must be of 2 or more keys/);
  throws(() => attention(t(1, 2, 3, 4), t(1, 2, 3, 4), t(1, 2, 3, 4), { pad: t(1, 2) }), TypeError, /pad must be bool/);
  throws(
    () => attention(t(1, 2, 3, 4), t(1, 5, 3, 4), t(1, 5, 3, 4), { probs: t(1, 3, 2, 5) }),
    RangeError,
    /attention: probs must be \[1, 2, 5, 3\] \(q is \[1, 2, 3, 4\], k \[1, 5, 3, 4\]\), but is \[1, 3, 2, 5\]/,
  );
  const half = Tensor.zeros([1, 2, 2, 3], { dtype: 'float16' });
  throws(
    () => attention(t(1, 2, 3, 4), t(1, 2, 3, 4), t(1, 2, 3, 4), { probs: half }),
    TypeError,
    /attention: probs must be float32, but is float16/,
  );
  const square = t(1, 2, 2, 2);
  throws(
    () => attention(t(1, 2, 2, 2), t(1, 2, 2, 2), square, { probs: square }),
    RangeError,
    /attention: probs must be apart from v, but is on the same memory/,
  );
  throws(() => maskLogits(t(2, 2)), RangeError, /maskLogits: logits must be/);
});

test.run();
