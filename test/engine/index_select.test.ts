// indexSelect against copying slices by hand.
import * as assert from 'uvu/assert';
import { DeviceError } from '../../src/engine/errors.js';
import { indexSelect } from '../../src/engine/ops/index_select.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { rejects, suite, throws } from '../support/harness.js';
import { cases, product } from '../support/operations/cases.js';
import { anyBits, bitsOf, offsetOf } from '../support/operations/indexing.js';

const test = suite('index_select');

test('200 random shapes, dimensions, layouts and dtypes, bit for bit', async () => {
  await cases(200, async (c) => {
    const shape = c.rng.shape(c.rng.integer(1, 5), { elements: 5000 });
    const d = c.rng.integer(0, shape.length);
    const n = shape[d] as number;
    const x = await anyBits(c, shape);
    const count = n === 0 ? 0 : c.rng.pick([0, 1, 2, 7, 50]);
    const list = await c.integers([count], 0, Math.max(n, 1));
    const numbers = Array.from(list.x, (i) => (c.rng.next() < 0.5 ? i : i - n));
    const out = c.own(x.t.indexSelect(c.rng.pick([d, d - shape.length]), c.rng.next() < 0.5 ? list.t : numbers));
    const wanted = shape.with(d, count);
    assert.equal([...out.shape], wanted);
    assert.is(out.dtype, x.t.dtype);
    const expected = Array.from({ length: product(wanted) }, (_, at) => {
      const j = Math.floor(at / product(shape.slice(d + 1))) % count;
      return x.x[offsetOf(wanted, at, shape, d, list.x[j])];
    });
    assert.equal(await bitsOf(out), expected);
  });
});

test('rows of many threads: long ones, and many short ones', async () => {
  for (const [rows, width, count] of [
    [3, 70_000, 4],
    [70_000, 1, 100_000],
    [1000, 40, 2000],
  ] as const) {
    using x = Tensor.randint(-1000, 1000, [rows, width], { seed: 3 });
    using list = Tensor.randint(0, rows, [count], { seed: 4 });
    using out = indexSelect(x, 0, list);
    const [from, indices] = [await x.read(), await list.read()];
    const expected = new Int32Array(count * width);
    for (const [j, i] of indices.entries()) expected.set(from.subarray(i * width, (i + 1) * width), j * width);
    assert.equal(Buffer.compare(Buffer.from((await out.read()).buffer), Buffer.from(expected.buffer)), 0);
  }
});

test('an index outside is reported, even where there is nothing to copy', async () => {
  for (const shape of [[5, 3], [5], [5, 0], [0, 3]]) {
    using x = Tensor.zeros(shape);
    for (const bad of [-1, 5, 2 ** 31 - 1]) {
      using list = Tensor.from(shape[0] === 0 ? [bad] : [0, bad, 1], { dtype: 'int32' });
      const at = shape[0] === 0 ? 0 : 1;
      using out = indexSelect(x, 0, list);
      const message = `^indexSelect: index ${bad} at position ${at} is outside \\[0, ${shape[0]}\\) `;
      await rejects(out.read(), DeviceError, new RegExp(message));
    }
  }
});

test('errors', () => {
  using x = Tensor.zeros([2, 5]);
  throws(
    () => x.indexSelect(1, [0, 5]),
    RangeError,
    /^indexSelect: indices\[1\] must be an integer from -5 to 4, but is 5/,
  );
  throws(
    () => x.indexSelect(1, [-6]),
    RangeError,
    /^indexSelect: indices\[0\] must be an integer from -5 to 4, but is -6/,
  );
  throws(
    () => x.indexSelect(1, [[0]] as never),
    RangeError,
    /^indexSelect: indices must be of one dimension, but is \[1, 1\]/,
  );
  throws(
    () => x.indexSelect(1, 0 as never),
    TypeError,
    /^indexSelect: indices must be an array of integers or an int32 tensor/,
  );
  throws(() => x.indexSelect(0, Tensor.zeros([2])), TypeError, /^indexSelect: indices must be int32, but is float32/);
  throws(() => x.indexSelect(0, Tensor.zeros([2], { dtype: 'bool' })), TypeError, /indices must be int32, but is bool/);
  throws(() => x.indexSelect(2, [0]), RangeError, /^indexSelect: dim must be a dimension of \[2, 5\]/);
});

test.run();
