// tril and triu against comparing rows and columns by hand.
import * as assert from 'uvu/assert';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { tril, triu } from '../../src/engine/ops/triangle.js';
import { suite, throws } from '../support/harness.js';
import { cases } from '../support/operations/cases.js';
import { anyBits, bitsOf } from '../support/operations/indexing.js';

const test = suite('triangle');

test('200 random shapes, layouts and dtypes, bit for bit', async () => {
  await cases(200, async (c) => {
    const shape = c.rng.shape(c.rng.integer(2, 5), { elements: 5000 });
    const [height, width] = shape.slice(-2) as [number, number];
    const x = await anyBits(c, shape);
    const diagonal = c.rng.pick([0, 1, -1, c.rng.integer(-height - 2, width + 3), 2 ** 31, -(2 ** 31)]);
    const expected = (upper: boolean) =>
      Array.from(x.x, (v, i) => {
        const right = (i % width) - (Math.floor(i / width) % height);
        return (upper ? right >= diagonal : right <= diagonal) ? v : 0;
      });
    const lower = c.own(x.t.tril(diagonal));
    assert.equal([[...lower.shape], lower.dtype], [shape, x.t.dtype]);
    assert.equal(await bitsOf(lower), expected(false));
    assert.equal(await bitsOf(c.own(x.t.triu(diagonal))), expected(true));
    assert.equal(await bitsOf(x.t), [...x.x]);
    const upper = c.rng.next() < 0.5;
    assert.is(upper ? x.t.triu_(diagonal) : x.t.tril_(diagonal), x.t);
    assert.equal(await bitsOf(x.t), expected(upper));
  });
});

test('a causal mask', async () => {
  using ones = Tensor.zeros([3, 3], { dtype: 'bool' }).fill(1);
  assert.equal([...(await tril(ones).read())], [1, 0, 0, 1, 1, 0, 1, 1, 1]);
  assert.equal([...(await triu(ones, 1).read())], [0, 1, 1, 0, 0, 1, 0, 0, 0]);
});

test('errors', () => {
  throws(
    () => tril(Tensor.zeros([3])),
    RangeError,
    /^tril: the tensor must be of 2 or more dimensions, but is \[3\] of 1/,
  );
  const x = Tensor.zeros([3, 3]);
  throws(
    () => triu(x, 0.5),
    RangeError,
    /^triu: diagonal must be an integer from -2147483648 to 2147483648, but is 0.5/,
  );
  throws(
    () => x.window([2, 3, 3], [0, 3, 1]).tril_(),
    RangeError,
    /^tril_: the tensor must be a tensor whose elements/,
  );
});

test.run();
