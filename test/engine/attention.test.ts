// Fused attention and its probabilities against loops in doubles.
import * as assert from 'uvu/assert';
import { attention } from '../../src/engine/ops/attention.js';
import { maskLogits } from '../../src/engine/ops/mask_logits.js';
import { softmax } from '../../src/engine/ops/softmax.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { emulated, onCpu, testDevice } from '../support/device.js';
import { suite, throws } from '../support/harness.js';
import { attentionCase } from '../support/operations/attention.js';
import { cases, unit } from '../support/operations/cases.js';

const test = suite('attention');

test(
  '200 random shapes, layouts, dtypes and masks',
  async () => {
    await cases(200, async (c) => {
      const { q, k, v, options, dtype, probsShape, expected } = await attentionCase(c);
      const given = c.rng.next() < 0.5 ? await c.tensor(probsShape, { dtype }) : undefined;
      const got = c.own(attention(q.t, k.t, v.t, given ? { ...options, probs: given.t } : options));
      close(await got.read(), expected.out, { rtol: unit[dtype] + 1e-5, atol: unit[dtype] + 2e-5 });
      if (given) {
        const values = await given.t.read();
        close(values, expected.probs, { rtol: unit[dtype] + 5e-5, atol: 1e-7, label: 'probs' });
        assert.ok(
          expected.probs.every((p, i) => p !== 0 || values[i] === 0),
          'what is masked is 0',
        );
        close(await c.own(attention(q.t, k.t, v.t, options)).read(), await got.read(), { label: 'without probs' });
      }
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

test('padding on the left or right: the rest is as without it, on the CPU bit for bit', async () => {
  await cases(120, async ({ seed, rng, device, own }) => {
    const most = emulated() ? 70 : seed % 20 === 0 ? 1700 : 200; // sums over the keys come in blocks of 768
    const lengths = [1, 2, 3].map(() => rng.integer(1, most));
    const width = Math.max(...lengths) + rng.integer(0, 51);
    const [H, D] = [rng.integer(1, 3), rng.pick([1, 8, 17])];
    const dtype = rng.pick(['float32', 'float32', 'bfloat16', 'float16'] as const);
    const causal = rng.next() < 0.7;
    const left = rng.next() < 0.7;
    const queries = left && rng.next() < 0.5 ? rng.integer(1, width + 1) : width; // the last ones
    const starts = lengths.map((length) => (left ? width - length : 0));
    const isPad = (row: number, at: number) =>
      at < (starts[row] as number) || at >= (starts[row] as number) + (lengths[row] as number);
    const random = (part: number) => own(Tensor.randn([3, width, H, D], { seed: seed * 4 + part, device, dtype }));
    const [q, k, v] = [random(0), random(1), random(2)];
    // what lies in the padding is of no importance
    if (onCpu && left && (starts[1] as number) > 0) {
      for (const t of [k, v]) t.select(0, 1).slice(0, 0, starts[1]).fill(Number.NaN);
    }
    const flags = Uint8Array.from({ length: 3 * width }, (_, i) => Number(isPad(Math.floor(i / width), i % width)));
    const pad = own(Tensor.from(flags, { shape: [3, width], device }));
    const probs = own(Tensor.zeros([3, queries, width, H], { device, dtype }));
    const before = width - queries;
    const all = own(attention(q.slice(1, before), k, v, { causal, pad, probs }));
    for (const [row, length] of lengths.entries()) {
      const [start, end] = [starts[row] as number, (starts[row] as number) + length];
      const first = Math.max(start, before);
      const part = (t: Tensor, from: number) => t.slice(0, row, row + 1).slice(1, from, end);
      const weights = own(Tensor.zeros([1, end - first, length, H], { device, dtype }));
      const alone = own(attention(part(q, first), part(k, start), part(v, start), { causal, probs: weights }));
      const here = (t: Tensor) =>
        own(
          t
            .slice(0, row, row + 1)
            .slice(1, first - before, end - before)
            .clone(),
        );
      const bound = onCpu ? {} : { rtol: 4 * unit[dtype] + 1e-5, atol: 4 * unit[dtype] + 1e-6 };
      const label = `${length} ${dtype} keys after ${start}`;
      close(await here(all).read(), await alone.read(), { ...bound, label });
      const rows = await own(here(probs).slice(2, start, end).clone()).read();
      close(rows, await weights.read(), { ...bound, label: `probs, ${label}` });
      const others = [...(await here(probs).read())].filter((_, i) => isPad(row, Math.floor(i / H) % width));
      assert.ok(others.every((p) => p === 0));
    }
  });
});

test('a query whose logits are all -inf has NaN probabilities, as attention in steps has', async () => {
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
});

// A GPU computes several queries against the same keys, and 0 times NaN is NaN.
if (onCpu) {
  test('what a later key holds does not matter to a query, not even NaN and infinities', async () => {
    for (const [T, before, D] of [
      [9, 0, 3],
      [23, 5, 16],
      [40, 0, 65],
      [41, 1, 8],
      [42, 20, 8],
    ] as const) {
      for (const dtype of ['float32', 'bfloat16'] as const) {
        const of = async (seed: number, at: number, odd: number) => {
          const values = (await Tensor.randn([1, T, 2, D], { seed }).read()) as Float32Array;
          for (let i = at; i < T; i++) values[i * 2 * D + (i % D)] = odd; // the first head
          return Tensor.from(values, { shape: [1, T, 2, D], dtype, device: testDevice() });
        };
        for (const odd of [Number.NaN, Number.POSITIVE_INFINITY]) {
          const at = before + Math.floor((T - before) / 2); // odd and even
          using k = await of(2, T, 0);
          using good = await of(3, T, 0);
          using bad = await of(3, at, odd);
          using q = await of(1, T, 0);
          const queries = q.slice(1, before, T);
          using expected = attention(queries, k, good);
          using got = attention(queries, k, bad);
          const unharmed = (at - before) * 2 * D;
          const [a, b] = [await got.read(), await expected.read()];
          assert.equal(a.slice(0, unharmed), b.slice(0, unharmed), `${T} positions, ${dtype}, ${odd}`);
          const [row, good0] = [a.slice(unharmed, unharmed + 2 * D), b.slice(unharmed, unharmed + 2 * D)];
          assert.equal(row.slice(D), good0.slice(D), 'the other head');
          assert.not.ok(Number.isFinite(row[at % D]), 'the query of that position sees it');
        }
      }
    }
  });
}

test.run();
