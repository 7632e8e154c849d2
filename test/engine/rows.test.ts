// The operations on rows (reductions, argmax, top-k, softmax, layer norm, root mean square, embedding) against loops in
// doubles: 200 random shapes, layouts and dtypes each. The layer norm of a sum is also, bit for bit, that of add() and
// layerNorm().
import * as assert from 'uvu/assert';
import { DeviceError } from '../../src/engine/errors.js';
import { embedding } from '../../src/engine/ops/embedding.js';
import { addLayerNorm, layerNorm, rootMeanSquare } from '../../src/engine/ops/layer_norm.js';
import { softmax, softmaxNumerator } from '../../src/engine/ops/softmax.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { topKMask } from '../../src/engine/ops/top_k.js';
import { type Case, cases, eachRow, product, type Sample, unit } from '../support/cases.js';
import { close } from '../support/close.js';
import { testDevice } from '../support/device.js';
import { rejects, suite, throws } from '../support/harness.js';

const test = suite('rows');

/** x's values with dimension d last, as rows, and the shape without d. */
function along(x: Sample, d: number): { rows: number[][]; rest: number[] } {
  const { shape } = x.t;
  const rest = shape.filter((_, other) => other !== d);
  const inner = product(shape.slice(d + 1));
  const n = shape[d] as number;
  const rows = Array.from({ length: product(rest) }, (_, row) => {
    const base = Math.floor(row / inner) * n * inner + (row % inner);
    return Array.from({ length: n }, (_, i) => x.x[base + i * inner] as number);
  });
  return { rows, rest };
}

const anyDim = async (c: Case, min = 0): Promise<[Sample, number]> => {
  const shape = c.rng.shape(c.rng.integer(1, 5), { elements: 20_000, min });
  return [await c.tensor(shape), c.rng.integer(0, shape.length)];
};

test('sum, mean and max', async () => {
  await cases(200, async (c) => {
    const [x, d] = await anyDim(c, c.rng.next() < 0.9 ? 1 : 0);
    const { rows, rest } = along(x, d);
    const keepDim = c.rng.next() < 0.5;
    const r = { rtol: unit[x.t.dtype] + 1e-5, atol: 2e-5 };
    const sum = c.own(x.t.sum(d, { keepDim }));
    assert.equal([...sum.shape], keepDim ? x.t.shape.map((n, i) => (i === d ? 1 : n)) : rest);
    close(
      await sum.read(),
      rows.map((row) => row.reduce((a, b) => a + b, 0)),
      r,
    );
    close(
      await c.own(x.t.mean(d - x.t.shape.length)).read(),
      rows.map((row) => row.reduce((a, b) => a + b, 0) / row.length),
      r,
    );
    close(await c.own(x.t.sum()).read(), [x.x.reduce((a, b) => a + b, 0)], { rtol: r.rtol, atol: 1e-3 });
    if (x.t.size > 0) {
      close(
        await c.own(x.t.max(d)).read(),
        rows.map((row) => Math.max(...row)),
      );
      close(await c.own(x.t.max()).read(), [x.x.reduce((a, b) => Math.max(a, b))]);
    } else {
      throws(() => x.t.max(d), RangeError, /max: the tensor must be of at least one element/);
    }
  });
  using i = Tensor.from(
    [
      [2 ** 30, 2 ** 30],
      [3, 4],
    ],
    { dtype: 'int32' },
  );
  assert.equal([...(await i.sum(1).read())], [-(2 ** 31), 7]);
  assert.equal(
    [i.mean(1).dtype, ...(await i.mean(0).read())],
    ['float32', (2 ** 30 + 3) / 2, (2 ** 30 + 4) / 2].map((v) => (typeof v === 'number' ? Math.fround(v) : v)),
  );
  using flags = Tensor.from([true, true, false]);
  assert.equal([...(await flags.sum().read())], [2]);
  close(await Tensor.from([1, NaN, 2]).max(0).read(), [NaN]);
});

test('argmax and topk: ties to the lowest index, NaN largest', async () => {
  await cases(200, async (c) => {
    const [x, d] = await anyDim(c, 1);
    const coarse = c.own(x.t.mul(2).to('int32')); // many ties
    const sample = { t: coarse, x: Float64Array.from(await coarse.read()) };
    const { rows, rest } = along(sample, d);
    const best = c.own(coarse.argmax(d));
    assert.equal([...best.shape], rest);
    close(
      await best.read(),
      rows.map((row) => row.indexOf(Math.max(...row))),
    );
    const subject = c.rng.next() < 0.5 ? sample : x;
    const last = along(subject, subject.t.shape.length - 1).rows;
    const n = subject.t.shape.at(-1) as number;
    const k = c.rng.pick([0, 1, Math.min(n, 6), n]);
    const { values, indices } = subject.t.topk(k);
    c.own(values);
    const order = last.map((row) =>
      [...row.keys()].sort((i, j) => (row[j] as number) - (row[i] as number) || i - j).slice(0, k),
    );
    close(await c.own(indices).read(), order.flat());
    close(
      await values.read(),
      order.flatMap((list, row) => list.map((i) => (last[row] as number[])[i] as number)),
    );
    const relu = c.rng.next() < 0.5;
    const masked = last.map((row, r) =>
      row.map((v, i) => ((order[r] as number[]).includes(i) ? (relu ? Math.max(v, 0) : v) : 0)),
    );
    close(await c.own(topKMask(subject.t, k, { relu })).read(), masked.flat());
  });
  using x = Tensor.from([[1, NaN, 3, NaN]]);
  assert.equal([...(await x.argmax(1).read())], [1]);
  assert.equal([...(await x.topk(3).indices.read())], [1, 3, 2]);
  throws(() => x.topk(5), RangeError, /topk: k must be an integer from 0 to 4, but is 5/);
  throws(() => Tensor.zeros([2, 0]).argmax(1), RangeError, /argmax: dim must be a dimension that is not empty/);
});

test('softmax and its numerator over any dimension', async () => {
  await cases(200, async (c) => {
    const [x, d] = await anyDim(c);
    x.t.mul_(c.rng.pick([1, 10]));
    const scaled = { t: x.t, x: Float64Array.from(await x.t.read()) };
    const { rows } = along(scaled, d);
    const exps = rows.map((row) => row.map((v) => Math.exp(v - Math.max(...row))));
    const tolerance = { rtol: unit[x.t.dtype] + 4e-6, atol: x.t.dtype === 'float16' ? 6e-8 : 1e-37 };
    const probs = c.own(softmax(x.t, d));
    assert.equal([...probs.shape], [...x.t.shape]);
    const got = along({ t: probs, x: Float64Array.from(await probs.read()) }, d).rows;
    close(
      got.flat(),
      exps.flatMap((row) => {
        const sum = row.reduce((a, b) => a + b, 0);
        return row.map((e) => e / sum);
      }),
      tolerance,
    );
    const numerator = c.own(softmaxNumerator(x.t, d));
    close(along({ t: numerator, x: Float64Array.from(await numerator.read()) }, d).rows.flat(), exps.flat(), tolerance);
  });
  using x = Tensor.from([
    [-Infinity, 0, 0],
    [-Infinity, -Infinity, -Infinity],
    [NaN, 1, 2],
    [1e30, 0, -1e30],
  ]);
  close(await softmax(x).read(), [0, 0.5, 0.5, NaN, NaN, NaN, NaN, NaN, NaN, 1, 0, 0]);
});

/** Layer norm over the last dimension, in doubles. */
function layerNormed(
  x: ArrayLike<number>,
  shape: number[],
  gain: Float64Array,
  bias: Float64Array,
  eps: number,
): Float64Array {
  const out = new Float64Array(x.length);
  eachRow(shape, (_, offset, n) => {
    const row = Array.from({ length: n }, (_, j) => x[offset + j] as number);
    const mean = row.reduce((a, b) => a + b, 0) / n;
    const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / n;
    for (const [j, v] of row.entries()) {
      out[offset + j] = ((v - mean) / Math.sqrt(variance + eps)) * (gain[j] as number) + (bias[j] as number);
    }
  });
  return out;
}

test('layer norm and root mean square', async () => {
  await cases(200, async (c) => {
    const shape = c.rng.shape(c.rng.integer(1, 4), { elements: 20_000 });
    const width = shape.at(-1) as number;
    const x = await c.tensor(shape);
    const shift = c.rng.pick([0, 0, 10]);
    x.t.add_(shift);
    const values = await x.t.read();
    const [gain, bias] = [await c.tensor([width]), await c.tensor([width])];
    const eps = c.rng.pick([1e-5, 1e-3]);
    const normed = c.own(layerNorm(x.t, gain.t, bias.t, { eps }));
    const expected = layerNormed(values, shape, gain.x, bias.x, eps);
    const roots: number[] = [];
    eachRow(shape, (_, offset, n) => {
      const row = Array.from(values.slice(offset, offset + n));
      roots.push(Math.sqrt(row.reduce((a, b) => a + b * b, 0) / n + eps));
    });
    // a row of one or a few near-equal elements loses the digits that cancel
    const atol = 4e-6 * (1 + shift) * (width < 8 ? 60 : 1);
    close(await normed.read(), expected, { rtol: unit[x.t.dtype] + 4e-6, atol });
    if (width > 0) close(await c.own(rootMeanSquare(x.t, { eps })).read(), roots, { rtol: unit[x.t.dtype] + 4e-6 });
  });
  using large = Tensor.from([Array.from({ length: 768 }, (_, i) => 1000 + Math.sin(i))]);
  using one = Tensor.zeros([768]).fill(1);
  using zero = Tensor.zeros([768]);
  const row = [...(await large.read())];
  const mean = row.reduce((a, b) => a + b) / 768;
  const sd = Math.sqrt(row.reduce((a, b) => a + (b - mean) ** 2, 0) / 768 + 1e-5);
  close(
    await layerNorm(large, one, zero).read(),
    row.map((v) => (v - mean) / sd),
    { atol: 3e-4 },
  );
  throws(
    () => layerNorm(large, zero.slice(0, 1), zero),
    RangeError,
    /layerNorm: gain must be \[768\] \(the width of x \[1, 768\]\), but is \[767\]/,
  );
});

test('the layer norm of a sum', async () => {
  await cases(200, async (c) => {
    const shape = c.rng.shape(c.rng.integer(1, 4), { elements: 20_000 });
    const width = shape.at(-1) as number;
    const a = await c.tensor(shape);
    const b = c.rng.next() < 0.1 ? a : await c.tensor(shape, { dtype: a.t.dtype, scale: 3 });
    const [gain, bias] = [await c.tensor([width]), await c.tensor([width])];
    const eps = c.rng.pick([1e-5, 1e-3]);
    const { sum, out } = addLayerNorm(a.t, b.t, gain.t, bias.t, { eps });
    for (const t of [sum, out]) assert.equal([[...c.own(t).shape], t.dtype], [shape, a.t.dtype]);
    const sums = await sum.read();
    close(
      sums,
      a.x.map((v, i) => v + (b.x[i] as number)),
      { rtol: unit[a.t.dtype], label: 'sum' },
    );
    const expected = layerNormed(sums, shape, gain.x, bias.x, eps);
    close(await out.read(), expected, { rtol: unit[a.t.dtype] + 4e-6, atol: 4e-6 * (width < 8 ? 60 : 1) });
    const apart = c.own(a.t.add(b.t));
    close(sums, await apart.read(), { label: 'sum and add()' });
    close(await out.read(), await c.own(layerNorm(apart, gain.t, bias.t, { eps })).read(), { label: 'bits' });
  });
  using a = Tensor.zeros([2, 3]);
  using g = Tensor.zeros([3]);
  throws(
    () => addLayerNorm(a, Tensor.zeros([3]), g, g),
    RangeError,
    /addLayerNorm: b must be \[2, 3\] \(the shape of a\), but is \[3\]/,
  );
  throws(
    () => addLayerNorm(a, Tensor.zeros([2, 3], { dtype: 'float16' }), g, g),
    TypeError,
    /addLayerNorm: b must be float32, but is float16/,
  );
  throws(
    () => addLayerNorm(a, a, g, a),
    RangeError,
    /addLayerNorm: bias must be \[3\] \(the width of a \[2, 3\]\), but is \[2, 3\]/,
  );
  throws(
    () => addLayerNorm(Tensor.zeros([2, 3], { dtype: 'int32' }), a, g, g),
    TypeError,
    /addLayerNorm: a must be float32, bfloat16 or float16, but is int32/,
  );
});

test('embedding looks rows up and adds them', async () => {
  await cases(200, async (c) => {
    const rows = c.rng.integer(1, 50);
    const width = c.rng.pick([0, 1, 7, 16, 48, 100]);
    const table = await c.tensor([rows, width]);
    const indices = await c.integers(c.rng.shape(c.rng.integer(0, 4), { max: 20, elements: 300 }), 0, rows);
    const got = c.own(embedding(indices.t, table.t));
    assert.equal([...got.shape], [...indices.t.shape, width]);
    const expected = [...indices.x].flatMap((i) => [...table.x.slice(i * width, (i + 1) * width)]);
    close(await got.read(), expected);
    const sum = c.own(got.clone());
    assert.is(embedding(indices.t, table.t, { addTo: sum }), sum);
    close(
      await sum.read(),
      expected.map((v) => 2 * v),
    );
  });
  using table = Tensor.zeros([5, 2]);
  for (const bad of [-1, 5, 2 ** 31 - 1]) {
    using index = Tensor.from([0, bad], { dtype: 'int32' });
    await rejects(
      embedding(index, table).read(),
      DeviceError,
      new RegExp(`embedding: index ${bad} at position 1 is outside \\[0, 5\\)`),
    );
  }
  throws(() => embedding(Tensor.zeros([2]), table), TypeError, /embedding: indices must be int32, but is float32/);
});

test('rows are the same bits for any batch and any number of threads', async () => {
  const data = await Tensor.randn([64, 777], { seed: 5 }).read();
  const run = async (threads: number, from: number, to: number) => {
    const device = testDevice(threads);
    using x = Tensor.from(data.slice(from * 777, to * 777), { shape: [to - from, 777], device });
    using gain = Tensor.randn([777], { seed: 6, device });
    const added = addLayerNorm(x, x, gain, gain);
    const all = [softmax(x), layerNorm(x, gain, gain), added.out, x.sum(1)];
    return (await Promise.all(all.map((t) => t.read()))) as [Float32Array, Float32Array, Float32Array, Float32Array];
  };
  const [a, b, c, s] = await run(1, 0, 64);
  for (const [threads, from, to] of [
    [2, 0, 64],
    [3, 10, 11],
    [4, 1, 50],
  ] as const) {
    const [p, q, r, t] = await run(threads, from, to);
    close(p, a.slice(from * 777, to * 777));
    close(q, b.slice(from * 777, to * 777));
    close(r, c.slice(from * 777, to * 777));
    close(t, s.slice(from, to));
  }
});

test.run();
