// sparseEncode against the dense product sorted by hand in the same float32 bits.
import * as assert from 'uvu/assert';
import { linear } from '../../src/engine/ops/linear.js';
import { packWeights } from '../../src/engine/ops/pack_weights.js';
import { type SparseEncodeOptions, sparseEncode } from '../../src/engine/ops/sparse_encode.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { topKMask } from '../../src/engine/ops/top_k.js';
import { relu as rectified } from '../../src/engine/ops/unary.js';
import { close } from '../support/close.js';
import { emulated, testDevice } from '../support/device.js';
import { rejects, suite } from '../support/harness.js';
import { cases, floats, product } from '../support/operations/cases.js';

const test = suite('sparse_encode');

test(
  '200 random shapes: the values that pass the threshold, or are among the k largest, and nothing else',
  async () => {
    await cases(200, async (c) => {
      const k = c.rng.integer(0, 60);
      const n = c.rng.pick([0, 1, 15, 16, 17, 47, 48, 49, 383, 384, 385, 800]);
      const lead = c.rng.shape(c.rng.integer(1, 3), { max: c.rng.pick([3, 20, 300]), elements: 300 });
      const rounded = c.rng.next() < 0.3; // many equal values, to try the order of ties
      const x = await c.tensor([...lead, k]);
      const w = await c.tensor([k, n], rounded ? { scale: 0 } : {});
      const bias = rounded
        ? c.own(Tensor.randint(-2, 3, [n], { seed: c.seed, device: c.device }).to('float32'))
        : (await c.tensor([n])).t;
      const packed = c.own(packWeights(w.t));
      const relu = c.rng.next() < 0.7;
      const top = c.rng.next() < 0.5 ? 0 : Math.min(n, c.rng.pick([1, 2, 6, 32, n]));
      const threshold = c.rng.pick([0, 0, 0.5]);
      const got = await sparseEncode(x.t, packed, { bias, relu, k: top, threshold });
      using out = Tensor.empty([...lead, n], { device: c.device });
      const dense = await linear(x.t, packed, { bias, out }).read();
      const rows = product(lead);
      assert.is(got.rowPtr.length, rows + 1);
      let at = 0;
      for (let row = 0; row < rows; row++) {
        assert.is(Number(got.rowPtr[row]), at, `row ${row} starts`);
        let order = [...Array(n).keys()];
        const value = (j: number) => dense[row * n + j] as number;
        if (top) {
          order.sort((i, j) => value(j) - value(i) || i - j);
          order = order.slice(0, top).sort((i, j) => i - j);
        }
        for (const j of order) {
          if ((relu ? value(j) : Math.abs(value(j))) <= threshold) continue;
          assert.is(got.indices[at], j, `entry ${at} of row ${row}`);
          assert.is(got.values[at], value(j));
          at++;
        }
      }
      assert.equal([Number(got.rowPtr[rows]), got.indices.length, got.values.length], [at, at, at]);
    });
  },
  { limit: 120_000 },
);

test('the same result for any number of threads and any batch', async () => {
  const results = [];
  for (const threads of [1, 2, 4]) {
    const device = testDevice(threads);
    using w = Tensor.randn([33, 5000], { seed: 1, device });
    using packed = packWeights(w);
    using x = Tensor.randn([600, 33], { seed: 2, device });
    results.push([await sparseEncode(x, packed, { threshold: 9 }), await sparseEncode(x, packed, { k: 32 })]);
    const part = await sparseEncode(x.slice(0, 300, 301), packed, { k: 32 });
    const [, top] = results[0] as [unknown, Awaited<ReturnType<typeof sparseEncode>>];
    close(part.indices, top.indices.slice(Number(top.rowPtr[300]), Number(top.rowPtr[301])));
  }
  for (const result of results.slice(1)) assert.equal(result, results[0]);
});

test('ties go to the lowest index, whichever thread met them first', async () => {
  // the first columns ascend, which takes time: others have seen equal values by then
  const [rows, n, top, first] = [400, 2400, 5, 150];
  const device = testDevice(4);
  using x = Tensor.zeros([rows, 1], { device });
  using w = Tensor.zeros([1, n], { device });
  using bias = Tensor.from(
    Float32Array.from({ length: n }, (_, j) => (j < first ? j / 1000 : 1)),
    { device },
  );
  using packed = packWeights(w);
  const expected = Array.from({ length: rows * top }, (_, i) => first + (i % top));
  for (let round = 0; round < 10; round++) {
    const { indices } = await sparseEncode(x, packed, { bias, k: top });
    assert.equal([...indices], expected, `round ${round}`);
  }
});

test('the latents that several threads found of a row are merged, row by row beside others', async () => {
  const [rows, n, top] = [1024, 1600, 32];
  const options = { k: top };
  let expected: number[] | undefined;
  for (const threads of [1, 4]) {
    const device = testDevice(threads);
    using x = Tensor.randn([rows, 8], { seed: 5, device });
    using w = Tensor.randn([8, n], { seed: 6, device });
    using packed = packWeights(w);
    for (let round = 0; round < (threads > 1 ? 5 : 1); round++) {
      const indices = [...(await sparseEncode(x, packed, options)).indices];
      expected ??= indices;
      assert.ok(
        indices.every((index, i) => index === (expected as number[])[i]),
        `${threads} threads, round ${round}`,
      );
    }
  }
});

test('a threshold that no float32 equals is not rounded to one', async () => {
  using w = packWeights(Tensor.from([[1, -1]]));
  using x = Tensor.from([[0.1], [Number.POSITIVE_INFINITY]]);
  for (const k of [0, 2]) {
    for (const [threshold, relu, expected] of [
      [0.1, true, [0, 0]], // the float32 of 0.1 is 0.10000000149...
      [Math.fround(0.1), true, [0]],
      [0.1, false, [0, 1, 0, 1]],
      [1e300, false, [0, 1]],
      [Number.MIN_VALUE, true, [0, 0]],
    ] as const) {
      const got = await sparseEncode(x, w, { threshold, relu, k, precision: 'strict' });
      assert.equal([...got.indices], [...expected], `above ${threshold}, k ${k}`);
    }
  }
});

test('NaN: the largest of all, and kept', async () => {
  using w = packWeights(Tensor.from([[1, 1, 1, 1]]));
  using x = Tensor.from([[1], [Number.NaN]]);
  const bias = Tensor.from([0, 5, Number.NaN, -3]);
  const [one, nan] = [x.slice(0, 0, 1), x.slice(0, 1)];
  const indices = async (row: Tensor, options: SparseEncodeOptions) => [
    ...(await sparseEncode(row, w, { bias, ...options })).indices,
  ];
  assert.equal(await indices(one, { k: 2, relu: false }), [1, 2]);
  assert.equal(await indices(one, { relu: false }), [0, 1, 2, 3]);
  assert.equal(await indices(one, {}), [0, 1, 2]);
  assert.equal(await indices(one, { k: 1 }), [2]);
  for (const relu of [true, false]) {
    assert.equal(await indices(nan, { relu, threshold: Number.POSITIVE_INFINITY }), [0, 1, 2, 3]);
    assert.equal(await indices(nan, { relu, k: 3 }), [0, 1, 2]);
  }
});

test('the entries are those of the dense latents, NaN and infinities among them', async () => {
  await cases(60, async ({ rng, device, own }) => {
    const [rows, k, n] = [rng.integer(1, 40), rng.integer(1, 20), rng.pick([1, 17, 300, 1500])];
    const spoilt = (values: Float32Array, share: number) =>
      values.map((v) => (rng.next() < share ? rng.pick([NaN, Infinity, -Infinity, -NaN]) : v));
    const share = rng.pick([0.001, 0.02, 1]);
    const x = own(Tensor.from(spoilt(rng.floats(rows * k), share), { shape: [rows, k], device }));
    const weights = spoilt(rng.floats(k * n), rng.pick([0, 0, 0.001]));
    const w = own(packWeights(own(Tensor.from(weights, { shape: [k, n], device }))));
    const bias = own(Tensor.from(spoilt(rng.floats(n), rng.pick([0, 0.1])), { device }));
    const [relu, top] = [rng.next() < 0.5, rng.pick([0, 1, Math.ceil(n / 20), n])];
    const pre = own(linear(x, w, { bias, out: own(Tensor.empty([rows, n], { device })) }));
    const activated = top > 0 ? own(topKMask(pre, top, { relu })) : relu ? own(rectified(pre)) : pre;
    const dense = await activated.read();
    const expected = [...dense.keys()].filter((i) => dense[i] !== 0);
    const got = await sparseEncode(x, w, { bias, relu, k: top });
    const where = `k ${top}, relu ${relu}`;
    const row = Array.from({ length: rows }, (_, r) => Number(got.rowPtr[r + 1]) - Number(got.rowPtr[r]));
    assert.equal(
      row.flatMap((count, r) => Array<number>(count).fill(r * n)).map((first, i) => first + (got.indices[i] as number)),
      expected,
      where,
    );
    close(
      got.values,
      expected.map((i) => dense[i] as number),
      { label: where },
    );
  });
});

test('rows of NaN alone: every latent of each', async () => {
  const [rows, n] = emulated() ? [20, 4096] : [300, 32_768];
  const device = testDevice(3);
  using w = Tensor.zeros([1, n], { device }).fill(1);
  using packed = packWeights(w);
  using x = Tensor.zeros([rows, 1], { device }).fill(Number.NaN);
  for (const k of [0, 40]) {
    const { rowPtr, indices, values } = await sparseEncode(x, packed, { k });
    const width = k || n;
    assert.ok(rowPtr.every((at, row) => Number(at) === row * width));
    assert.ok(indices.every((index, i) => index === i % width) && indices.length === rows * width);
    assert.ok(values.every(Number.isNaN) && values.length === rows * width);
  }
  // later rows are as before
  using ones = Tensor.zeros([2, 1], { device }).fill(1);
  assert.is((await sparseEncode(ones, packed, { k: 3 })).values.length, 6);
});

test('thresholds of columns: what is above its own and the common one, NaN and infinities among the values', async () => {
  await cases(200, async ({ rng, device, own, seed }) => {
    const [rows, k] = [rng.integer(1, 40), rng.integer(1, 70)];
    const n = rng.pick([1, 7, 15, 16, 17, 31, 33, 47, 49, 255, 383, 385, 800, 1500]);
    const share = rng.pick([0, 0, 0.001, 0.02]);
    const spoilt = (values: Float32Array) =>
      values.map((v) => (rng.next() < share ? rng.pick([NaN, Infinity, -Infinity, -0]) : v));
    const dtypes = [rng.pick(floats), rng.pick(floats)] as const;
    const x = own(Tensor.from(spoilt(rng.floats(rows * k)), { shape: [rows, k], device, dtype: dtypes[0] }));
    const weights = own(Tensor.from(rng.floats(k * n), { shape: [k, n], device, dtype: dtypes[1] }));
    const w = own(packWeights(weights));
    const bias = rng.next() < 0.7 ? own(Tensor.from(spoilt(rng.floats(n)), { device })) : undefined;
    const precision = rng.pick(['float32', 'strict'] as const);
    const shared = { precision, ...(bias && { bias }) };
    const out = own(Tensor.empty([rows, n], { device }));
    const dense = await linear(x, w, { ...shared, out }).read();
    const limits = Float32Array.from({ length: n }, (_, j) => {
      const value = Math.abs(dense[rng.integer(0, rows) * n + j] as number);
      return rng.pick([0, -0, Infinity, Number.isNaN(value) ? 1 : value, Math.abs(rng.normal())]);
    });
    const strided = own(Tensor.empty([n, 2], { device })).select(1, 1);
    const plain = own(Tensor.from(limits, { device }));
    const thresholds = rng.next() < 0.3 ? strided.copyFrom(plain) : plain;
    const threshold = rng.pick([0, 0, 0.1, 2]);
    const got = await sparseEncode(x, w, { ...shared, thresholds, threshold });
    const kept = [...dense.keys()].filter(
      (i) => !((dense[i] as number) <= Math.max(limits[i % n] as number, threshold)),
    );
    const where = `seed ${seed}: [${rows}, ${k}] ${dtypes[0]} x [${k}, ${n}] ${dtypes[1]} above ${threshold}`;
    const starts = Array.from({ length: rows + 1 }, (_, row) => kept.filter((i) => i < row * n).length);
    assert.equal(Array.from(got.rowPtr, Number), starts, where);
    assert.equal(
      [...got.indices],
      kept.map((i) => i % n),
      where,
    );
    assert.equal(
      [...got.values],
      kept.map((i) => dense[i] as number),
      where,
    );
  });
});

test('thresholds of columns: one that a value equals, infinite ones, -0 and NaN', async () => {
  const device = testDevice();
  using ones = Tensor.zeros([1, 6], { device }).fill(1);
  using w = packWeights(ones);
  using x = Tensor.from([[2], [-0], [Number.NaN], [Number.POSITIVE_INFINITY], [Number.NEGATIVE_INFINITY]], { device });
  using thresholds = Tensor.from([2, 1.9999999, 0, -0, Number.POSITIVE_INFINITY, Number.NaN], { device });
  const got = await sparseEncode(x, w, { thresholds });
  const all = [0, 1, 2, 3, 4, 5];
  const rows = Array.from({ length: 5 }, (_, row) => [
    ...got.indices.subarray(Number(got.rowPtr[row]), Number(got.rowPtr[row + 1])),
  ]);
  assert.equal(rows, [[1, 2, 3, 5], [], all, [0, 1, 2, 3, 5], []]);
  assert.equal([...(await sparseEncode(x, w, { thresholds, threshold: 2 })).indices], [...all, 0, 1, 2, 3, 5]);
});

test('wrong arguments are refused', async () => {
  using w = packWeights(Tensor.zeros([4, 3]));
  using x = Tensor.zeros([2, 4]);
  await rejects(sparseEncode(x, w, { threshold: -1 }), RangeError, /threshold must be 0 or more/);
  await rejects(sparseEncode(x, w, { k: 4 }), RangeError, /k must be an integer from 0 to 3/);
  await rejects(
    sparseEncode(x, w, { precision: 'fp8' as never }),
    TypeError,
    /sparseEncode: precision must be float32, strict, tf32, bf16, but is 'fp8'/,
  );
  await rejects(sparseEncode(x, w, { filter: 1 as never }), TypeError, /sparseEncode: filter must be .*, but is 1/);
  assert.is((await sparseEncode(x, w, { precision: 'tf32' })).values.length, 0);
  await rejects(sparseEncode(Tensor.zeros([2, 5]), w), RangeError, /x must be \[\.\.\., 4\]/);
  const thresholds = Tensor.zeros([3]);
  for (const [options, type, message] of [
    [{ thresholds: Tensor.zeros([4]) }, RangeError, /^sparseEncode: thresholds must be \[3\] \(the width .* is \[4\]$/],
    [{ thresholds: Tensor.zeros([1, 3]) }, RangeError, /^sparseEncode: thresholds must be \[3\] .* is \[1, 3\]$/],
    [
      { thresholds: Tensor.zeros([3], { dtype: 'bfloat16' }) },
      TypeError,
      /^sparseEncode: thresholds must be float32, but is bfloat16$/,
    ],
    [{ thresholds, k: 2 }, RangeError, /^sparseEncode: k must be 0 where there are thresholds, but is 2$/],
    [
      { thresholds, relu: false },
      RangeError,
      /^sparseEncode: relu must be true where there are thresholds, but is false$/,
    ],
    [{ thresholds: [0, 0, 0] as never }, TypeError, /^sparseEncode: thresholds must be a tensor/],
  ] as const) {
    await rejects(sparseEncode(x, w, options), type, message);
  }
});

test.run();
