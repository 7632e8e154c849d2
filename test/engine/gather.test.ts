// gather against looking elements up by hand.
import * as assert from 'uvu/assert';
import { DeviceError } from '../../src/engine/errors.js';
import { gather } from '../../src/engine/ops/gather.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { rejects, suite, throws } from '../support/harness.js';
import { cases } from '../support/operations/cases.js';
import { anyBits, bitsOf, offsetOf, smaller } from '../support/operations/indexing.js';

const test = suite('gather');

test('200 random shapes, dimensions, layouts and dtypes, bit for bit', async () => {
  await cases(200, async (c) => {
    const shape = c.rng.shape(c.rng.integer(1, 5), { elements: 5000 });
    const d = c.rng.integer(0, shape.length);
    const n = shape[d] as number;
    const x = await anyBits(c, shape);
    const wanted = smaller(c.rng, shape);
    wanted[d] = n === 0 ? 0 : c.rng.pick([0, 1, 7, 33, 100]);
    const index = await c.integers(wanted, 0, Math.max(n, 1));
    const out = c.own(x.t.gather(c.rng.pick([d, d - shape.length]), index.t));
    assert.equal([...out.shape], wanted);
    assert.is(out.dtype, x.t.dtype);
    const expected = Array.from(index.x, (i, at) => x.x[offsetOf(wanted, at, shape, d, i)]);
    assert.equal(await bitsOf(out), expected);
  });
});

test('nested numbers, negative ones from the end; an index of long rows', async () => {
  using x = Tensor.from([
    [1, 2, 3],
    [4, 5, 6],
  ]);
  using out = gather(x, 1, [
    [0, -1],
    [-3, 1],
  ]);
  assert.equal([...(await out.read())], [1, 3, 4, 5]);
  using first = x.gather(0, [[1, 0]]);
  assert.equal([...(await first.read())], [4, 2]);
  using none = x.gather(0, [[]]);
  assert.equal([...none.shape], [1, 0]);
  using index = Tensor.from(
    Int32Array.from({ length: 40_000 }, (_, i) => 39_999 - i),
    { shape: [40_000] },
  );
  using reversed = index.gather(0, index);
  assert.equal([...(await reversed.read())].slice(0, 3), [0, 1, 2]);
  assert.is((await reversed.read())[39_999], 39_999);
});

test('an index outside is reported where it is', async () => {
  using x = Tensor.zeros([5, 4]);
  for (const bad of [-1, 5, 2 ** 31 - 1, -(2 ** 31)]) {
    using index = Tensor.from([0, 0, 0, bad], { dtype: 'int32', shape: [2, 2] });
    const message = new RegExp(`^gather: index ${bad} at position 3 is outside \\[0, 5\\) `);
    using out = gather(x, 0, index);
    await rejects(out.read(), DeviceError, message);
  }
  using last = Tensor.from([0, 4, 0, 0], { dtype: 'int32', shape: [2, 2] });
  await rejects(x.gather(1, last).read(), DeviceError, /^gather: index 4 at position 1 is outside \[0, 4\)/);
  using empty = Tensor.zeros([0, 2]);
  await rejects(empty.gather(0, last).read(), DeviceError, /^gather: index \d at position \d is outside \[0, 0\)/);
  // the next one works
  assert.equal([...(await x.gather(0, [[0]]).read())], [0]);
});

test('errors', () => {
  using x = Tensor.zeros([5, 4]);
  throws(
    () => gather(x, 1, [[0], [4]]),
    RangeError,
    /^gather: index\[1\]\[0\] must be an integer from -4 to 3, but is 4/,
  );
  throws(
    () => gather(x, 1, [[0.5]]),
    RangeError,
    /^gather: index\[0\]\[0\] must be an integer from -4 to 3, but is 0.5/,
  );
  throws(() => gather(x, 1, [[0], [1, 2]]), RangeError, /^gather: index\[1\] must be an array of length 1/);
  throws(
    () => gather(x, 1, [0]),
    RangeError,
    /^gather: index must be \[≤ 5, any\] \(the tensor is \[5, 4\]\), but is \[1\]/,
  );
  throws(
    () => gather(x, 1, Tensor.zeros([6, 1], { dtype: 'int32' })),
    RangeError,
    /^gather: index must be \[≤ 5, any\] \(the tensor is \[5, 4\]\), but is \[6, 1\]/,
  );
  throws(() => gather(x, 1, Tensor.zeros([1, 1])), TypeError, /^gather: index must be int32, but is float32/);
  throws(
    () => gather(x, 1, Tensor.zeros([1, 1], { dtype: 'bool' })),
    TypeError,
    /^gather: index must be int32, but is bool/,
  );
  throws(() => gather(Tensor.zeros([0, 2]), 0, [[0]]), RangeError, /^gather: index\[0\]\[0\] must be left out, as the/);
  throws(() => gather(x, 2, [[0]]), RangeError, /^gather: dim must be a dimension of \[5, 4\]/);
});

test.run();
