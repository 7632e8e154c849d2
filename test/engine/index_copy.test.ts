// indexCopy against assigning slices by hand, one after the other.
import * as assert from 'uvu/assert';
import { DeviceError } from '../../src/engine/errors.js';
import { indexCopy } from '../../src/engine/ops/index_copy.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { testDevice } from '../support/device.js';
import { rejects, suite, throws } from '../support/harness.js';
import { cases, product } from '../support/operations/cases.js';
import { anyBits, bitsOf, offsetOf } from '../support/operations/indexing.js';

const test = suite('index_copy');

test('200 random shapes, dimensions, layouts and dtypes, bit for bit; of equal indices the last one', async () => {
  await cases(200, async (c) => {
    const shape = c.rng.shape(c.rng.integer(1, 5), { elements: 5000 });
    const d = c.rng.integer(0, shape.length);
    const n = shape[d] as number;
    const x = await anyBits(c, shape);
    const count = n === 0 ? 0 : c.rng.pick([0, 1, 2, 7, 50]);
    const wanted = shape.with(d, count);
    const source = await anyBits(c, wanted, x.t.dtype);
    const list = await c.integers([count], 0, Math.max(n, 1));
    const numbers = Array.from(list.x, (i) => (c.rng.next() < 0.5 ? i : i - n));
    const indices = c.rng.next() < 0.5 ? list.t : numbers;
    const dim = c.rng.pick([d, d - shape.length]);
    const out = c.own(x.t.indexCopy(dim, indices, source.t));
    const expected = [...x.x];
    const inner = product(shape.slice(d + 1));
    for (let j = 0; j < count; j++) {
      for (let at = 0; at < product(wanted); at++) {
        if (Math.floor(at / inner) % count !== j) continue;
        expected[offsetOf(wanted, at, shape, d, list.x[j])] = source.x[at] as number;
      }
    }
    assert.equal(await bitsOf(out), expected);
    assert.equal(await bitsOf(x.t), [...x.x]);
    assert.is(x.t.indexCopy_(dim, indices, source.t), x.t);
    assert.equal(await bitsOf(x.t), expected);
  });
});

test('the last one of equal indices, with any number of threads and however wide', async () => {
  for (const [rows, width, count] of [
    [3, 50_000, 7],
    [5, 1, 40_000],
    [50_000, 2, 60_000],
  ] as const) {
    for (const threads of [1, 2, 4]) {
      const device = testDevice(threads);
      using x = Tensor.zeros([rows, width], { dtype: 'int32', device });
      using list = Tensor.randint(0, rows, [count], { seed: 4, device });
      using source = Tensor.randint(1, 1000, [count, width], { seed: 5, device });
      const expected = new Int32Array(rows * width);
      const [indices, from] = [await list.read(), await source.read()];
      for (const [j, i] of indices.entries()) expected.set(from.subarray(j * width, (j + 1) * width), i * width);
      x.indexCopy_(0, list, source);
      assert.equal(Buffer.compare(Buffer.from((await x.read()).buffer), Buffer.from(expected.buffer)), 0);
    }
  }
});

test('views, broadcasts, dtypes, and memory that is shared', async () => {
  using x = Tensor.zeros([3, 4]);
  x.select(1, 2).indexCopy_(0, [2, 0], Tensor.from([5, 7]));
  assert.equal([...(await x.read())], [0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 5, 0]);
  using all = indexCopy(x, 1, [-1, 0], Tensor.from(2.5));
  assert.equal([...(await all.read())], [2.5, 0, 7, 2.5, 2.5, 0, 0, 2.5, 2.5, 0, 5, 2.5]);
  using row = x.indexCopy(0, [1], Tensor.from([1, 2, 3, 4], { dtype: 'int32' }));
  assert.equal([...(await row.read())], [0, 0, 7, 0, 1, 2, 3, 4, 0, 0, 5, 0]);
  using whole = Tensor.zeros([2], { dtype: 'int32' }).indexCopy(0, [1], Tensor.from([2.9]));
  assert.equal([...(await whole.read())], [0, 2]);
  const nan = Tensor.zeros([2], { dtype: 'int32' }).indexCopy(0, [1], Tensor.from([Number.NaN]));
  await rejects(nan.read(), DeviceError, /copy: element 0 is NaN, which int32 does not hold/);
  // the values from before are written, and the indices from before count
  using own = Tensor.from([0, 1, 2, 3], { dtype: 'int32' });
  own.indexCopy_(0, [3, 2, 1, 0], own);
  assert.equal([...(await own.read())], [3, 2, 1, 0]);
  own.indexCopy_(0, own, Tensor.from([10, 20, 30, 40], { dtype: 'int32' }));
  assert.equal([...(await own.read())], [40, 30, 20, 10]);
});

test('an index outside is reported, and nothing is written', async () => {
  for (const bad of [-1, 5, 2 ** 31 - 1]) {
    using x = Tensor.zeros([5, 2]);
    using list = Tensor.from([0, 1, bad], { dtype: 'int32' });
    x.indexCopy_(0, list, Tensor.from([1, 2]));
    const message = new RegExp(`^indexCopy: index ${bad} at position 2 is outside \\[0, 5\\) `);
    await rejects(x.read(), DeviceError, message);
    assert.equal([...(await x.read())], new Array(10).fill(0));
    using empty = Tensor.zeros([5, 0]);
    await rejects(empty.indexCopy(0, list, Tensor.zeros([3, 0])).read(), DeviceError, message);
  }
});

test('errors', () => {
  using x = Tensor.zeros([2, 5]);
  const source = Tensor.zeros([2, 1]);
  throws(
    () => x.indexCopy(1, [5], source),
    RangeError,
    /^indexCopy: indices\[0\] must be an integer from -5 to 4, but is 5/,
  );
  throws(() => x.indexCopy_(1, [5], source), RangeError, /^indexCopy_: indices\[0\] must be an integer from -5 to 4/);
  throws(
    () => x.indexCopy(1, [0, 1], Tensor.zeros([2, 3])),
    RangeError,
    /^indexCopy: source must be broadcastable to \[2, 2\], but is \[2, 3\]/,
  );
  throws(
    () => x.indexCopy(1, Tensor.zeros([1]), source),
    TypeError,
    /^indexCopy: indices must be int32, but is float32/,
  );
  throws(() => x.indexCopy(1, [0], 1 as never), TypeError, /^indexCopy: source must be a tensor, but is 1/);
  const expanded = x.window([2, 3, 5], [5, 0, 1]);
  throws(
    () => expanded.indexCopy_(0, [0], Tensor.zeros([1])),
    RangeError,
    /^indexCopy_: the tensor must be a tensor whose/,
  );
});

test.run();
