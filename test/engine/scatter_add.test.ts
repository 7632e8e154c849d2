// scatterAdd against adding terms in doubles, one after the other.
import * as assert from 'uvu/assert';
import { DeviceError } from '../../src/engine/errors.js';
import { scatterAdd } from '../../src/engine/ops/scatter_add.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { testDevice } from '../support/device.js';
import { rejects, suite, throws } from '../support/harness.js';
import { cases, floats, unit } from '../support/operations/cases.js';
import { offsetOf, smaller } from '../support/operations/indexing.js';

const test = suite('scatter_add');

test('200 random shapes, dimensions, layouts and dtypes', async () => {
  await cases(200, async (c) => {
    const shape = c.rng.shape(c.rng.integer(1, 5), { elements: 3000 });
    const d = c.rng.integer(0, shape.length);
    const n = shape[d] as number;
    const terms = c.rng
      .shape(shape.length, { elements: 5000 })
      .map((m, k) => (k === d ? m : (shape[k] as number) + (m % 3)));
    const wanted = smaller(c.rng, terms).map((m, k) => (k === d ? (n === 0 ? 0 : m) : Math.min(m, shape[k] as number)));
    const index = await c.integers(wanted, 0, Math.max(n, 1));
    const whole = c.rng.next() < 0.25;
    const x = whole ? await c.integers(shape, -99, 100) : await c.tensor(shape);
    const other = whole || c.rng.next() < 0.1;
    const source = other ? await c.integers(terms, -99, 100) : await c.tensor(terms, { dtype: c.rng.pick(floats) });
    const expected = Float64Array.from(x.x);
    const size = Float64Array.from(x.x, Math.abs);
    for (const [at, i] of index.x.entries()) {
      const [to, term] = [
        offsetOf(wanted, at, shape, d, i),
        source.x[offsetOf(wanted, at, terms, d, undefined)] as number,
      ];
      expected[to] = (expected[to] as number) + term;
      size[to] = (size[to] as number) + Math.abs(term);
    }
    const dim = c.rng.pick([d, d - shape.length]);
    const out = c.own(x.t.scatterAdd(dim, index.t, source.t));
    assert.is(out.dtype, x.t.dtype);
    const r = unit[x.t.dtype];
    const got = await out.read();
    for (const [i, v] of got.entries()) {
      const bound = r * Math.abs(expected[i] as number) + 1e-14 * (size[i] as number) + 1e-45;
      assert.ok(Math.abs(v - (expected[i] as number)) <= bound, `element ${i} is ${v}, but should be ${expected[i]}`);
    }
    close(await x.t.read(), x.x);
    assert.is(x.t.scatterAdd_(dim, index.t, source.t), x.t);
    close(await x.t.read(), got);
  });
});

test('sums are rounded once, in the order of the terms, with any number of threads; long rows', async () => {
  // 1 + 2^30 ulps of terms: float32 would lose each of them
  using x = Tensor.from([1, 2 ** 24, 0]);
  using tiny = Tensor.from(new Float32Array(1000).fill(2 ** -25));
  using list = Tensor.zeros([1000], { dtype: 'int32' });
  close(await x.scatterAdd(0, list, tiny).read(), [1 + 1000 * 2 ** -25, 2 ** 24, 0], { rtol: 2 ** -24 });
  // not rounded to bfloat16 before they are added
  using half = Tensor.from([1], { dtype: 'bfloat16' });
  const fine = Tensor.from([2 ** -9, 2 ** -9, 2 ** -9]);
  assert.equal([...(await half.scatterAdd(0, [0, 0, 0], fine).read())], [1 + 2 ** -7]);
  let bits: Buffer | undefined;
  for (const threads of [1, 2, 3]) {
    const device = testDevice(threads);
    using base = Tensor.randn([7, 65], { seed: 1, device });
    using index = Tensor.randint(0, 65, [7, 3000], { seed: 2, device });
    using terms = Tensor.randn([7, 3000], { seed: 3, device });
    const expected = Float64Array.from(await base.read());
    const [to, added] = [await index.read(), await terms.read()];
    for (const [at, i] of to.entries()) {
      const place = Math.floor(at / 3000) * 65 + i;
      expected[place] = (expected[place] as number) + (added[at] as number);
    }
    using out = base.scatterAdd(1, index, terms);
    const got = await out.read();
    close(got, Float32Array.from(expected));
    bits ??= Buffer.from(got.buffer);
    assert.is(Buffer.compare(bits, Buffer.from(got.buffer)), 0);
  }
});

test('what no index names keeps its bits; odd values', async () => {
  using x = Tensor.from(new Float32Array(Uint32Array.of(0x7fc01234, 0x80000000, 0x7f800000, 0x80000000).buffer));
  using out = x.scatterAdd(0, [2, 3], Tensor.from([Number.NEGATIVE_INFINITY, 1e-45]));
  const got = await out.read();
  assert.equal([...new Uint32Array(got.buffer)].slice(0, 2), [0x7fc01234, 0x80000000]);
  assert.ok(Number.isNaN(got[2]));
  assert.is(got[3], Math.fround(1e-45));
  using large = Tensor.from([3e38]).scatterAdd(0, [0, 0], Tensor.from([3e38, -3e38]));
  close(await large.read(), [3e38], { rtol: 1e-7 });
});

test('integers: exact, or an error that gives the sum', async () => {
  using x = Tensor.from([2 ** 31 - 1, 16777217, -(2 ** 31)], { dtype: 'int32' });
  using out = x.scatterAdd(0, [0, 0, 1, 2], Tensor.from([1, -2, 2, 0], { dtype: 'int32' }));
  assert.equal([...(await out.read())], [2 ** 31 - 2, 16777219, -(2 ** 31)]);
  using ones = x.scatterAdd(0, [1, 1], Tensor.from([true, true]));
  assert.equal([...(await ones.read())], [2 ** 31 - 1, 16777219, -(2 ** 31)]);
  using matrix = Tensor.from(
    [
      [0, 0, 0],
      [0, 2 ** 31 - 5, 0],
    ],
    { dtype: 'int32' },
  );
  using terms = Tensor.from(
    [
      [1, 7],
      [1, 8],
    ],
    { dtype: 'int32' },
  );
  await rejects(
    matrix
      .scatterAdd(
        0,
        [
          [0, 1],
          [0, 1],
        ],
        terms,
      )
      .read(),
    DeviceError,
    /^scatterAdd: the sum at element 4 is 2147483658, which int32 does not hold/,
  );
  await rejects(
    matrix
      .scatterAdd(
        1,
        [
          [0, 0],
          [1, 1],
        ],
        terms,
      )
      .read(),
    DeviceError,
    /^scatterAdd: the sum at element 4 is 2147483652, which int32 does not hold/,
  );
});

test('an index outside is reported, and nothing is written; memory that is shared', async () => {
  using x = Tensor.zeros([2, 5]);
  for (const bad of [-1, 5]) {
    using index = Tensor.from(
      [
        [0, 1],
        [bad, 1],
      ],
      { dtype: 'int32' },
    );
    x.scatterAdd_(
      1,
      index,
      Tensor.from([
        [1, 1],
        [1, 1],
      ]),
    );
    const message = new RegExp(`^scatterAdd: index ${bad} at position 2 is outside \\[0, 5\\) `);
    await rejects(x.read(), DeviceError, message);
    assert.equal([...(await x.read())], new Array(10).fill(0));
  }
  using nothing = Tensor.zeros([2, 0]);
  using first = Tensor.zeros([2, 1], { dtype: 'int32' });
  const message = /^scatterAdd: index 0 at position [01] is outside \[0, 0\) /;
  await rejects(nothing.scatterAdd(1, first, Tensor.ones([2, 1])).read(), DeviceError, message);
  x.select(0, 1).scatterAdd_(0, [-1, 0, -1], Tensor.from([1, 2, 4]));
  assert.equal([...(await x.read())], [0, 0, 0, 0, 0, 2, 0, 0, 0, 5]);
  using own = Tensor.from([1, 2, 4]);
  own.scatterAdd_(0, [1, 2, 0], own);
  assert.equal([...(await own.read())], [5, 3, 6]);
});

test('errors', () => {
  using x = Tensor.zeros([2, 5]);
  const one = Tensor.zeros([1, 1]);
  throws(
    () => x.scatterAdd(1, [[5]], one),
    RangeError,
    /^scatterAdd: index\[0\]\[0\] must be an integer from -5 to 4, but is 5/,
  );
  throws(() => x.scatterAdd_(1, [[5]], one), RangeError, /^scatterAdd_: index\[0\]\[0\] must be/);
  throws(
    () => x.scatterAdd(1, [[0, 0]], one),
    RangeError,
    /^scatterAdd: index must be \[≤ 1, ≤ 1\] \(source is \[1, 1\]\), but is \[1, 2\]/,
  );
  throws(
    () => x.scatterAdd(1, [[0], [0], [0]], Tensor.zeros([3, 1])),
    RangeError,
    /index must be \[≤ 2, any\] \(the tensor is/,
  );
  throws(
    () => scatterAdd(x.to('bool'), 1, [[0]], one),
    TypeError,
    /^scatterAdd: the tensor must be float32 or bfloat16 or/,
  );
  throws(
    () => x.to('int32').scatterAdd(1, [[0]], one),
    TypeError,
    /^scatterAdd: source must be int32 or bool, as the tensor is int32/,
  );
  throws(
    () => x.scatterAdd(1, Tensor.zeros([1, 1]), one),
    TypeError,
    /^scatterAdd: index must be int32, but is float32/,
  );
  const expanded = x.window([2, 3, 5], [5, 0, 1]);
  throws(
    () => expanded.scatterAdd_(0, [[[0]]], Tensor.zeros([1, 1, 1])),
    RangeError,
    /^scatterAdd_: the tensor must be a/,
  );
});

test.run();
