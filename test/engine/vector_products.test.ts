// dot and outer against the same in doubles; int32 against exact integers.
import * as assert from 'uvu/assert';
import { DeviceError } from '../../src/engine/errors.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { dot, outer } from '../../src/index.js';
import { close } from '../support/close.js';
import { rejects, suite, throws } from '../support/harness.js';
import { cases, unit } from '../support/operations/cases.js';

const test = suite('vector products');

test('dot: 200 random cases of floats, and of int32', async () => {
  await cases(200, async (c) => {
    const [n] = c.rng.shape(1, { max: 3000 }) as [number];
    const [a, b] = [await c.tensor([n]), await c.tensor([n])];
    using got = c.rng.next() < 0.5 ? dot(a.t, b.t) : a.t.dot(b.t);
    assert.equal([...got.shape], []);
    assert.is(got.dtype, a.t.dtype === b.t.dtype ? a.t.dtype : 'float32');
    const terms = Array.from(a.x, (v, i) => v * (b.x[i] as number));
    const sum = terms.reduce((total, v) => total + v, 0);
    const size = terms.reduce((total, v) => total + Math.abs(v), 0);
    // products of 16 bits are exact in float32, so that only the result is rounded
    const exact = a.t.dtype === b.t.dtype && a.t.dtype !== 'float32';
    const atol = exact ? 2 ** -23 * Math.abs(sum) + 1e-12 * size : 2 ** -23 * size;
    close(await got.read(), [sum], { rtol: unit[got.dtype], atol: atol + 1e-37 });
  });
  await cases(50, async (c) => {
    const [n] = c.rng.shape(1, { max: 300 }) as [number];
    const [a, b] = [await c.integers([n], -2000, 2000), await c.integers([n], -2000, 2000)];
    const sum = a.x.reduce((total, v, i) => total + v * (b.x[i] as number), 0);
    using got = dot(a.t, b.t);
    assert.equal([got.dtype, await got.item()], ['int32', sum]);
  });
});

test('dot: exact where it can be', async () => {
  using x = Tensor.from([300, 1, 300], { dtype: 'float16' });
  using y = Tensor.from([300, 1, -300], { dtype: 'float16' });
  assert.is(await dot(x, y).item(), 1);
  using large = Tensor.from([3e4, 3e4], { dtype: 'bfloat16' });
  close([await dot(large, large).item()], [2 * 29952 ** 2], { rtol: 2 ** -9 });
  using integers = Tensor.from([2 ** 24 + 1, 1], { dtype: 'int32' });
  assert.is(await dot(integers, Tensor.from([1, 1], { dtype: 'int32' })).item(), 2 ** 24 + 2);
  await rejects(dot(integers, integers).read(), DeviceError, /which int32 does not hold|beyond int32|int32/);
  using none = dot(Tensor.zeros([0]), Tensor.zeros([0]));
  assert.is(await none.item(), 0);
  assert.ok(Number.isNaN(await dot(Tensor.from([Infinity, 1]), Tensor.from([0, 1])).item()));
  using flags = dot(Tensor.from([true, true, false]), Tensor.from([true, true, true]));
  assert.equal([flags.dtype, await flags.item()], ['int32', 2]);
});

test('outer: 200 random cases', async () => {
  await cases(200, async (c) => {
    const [m, n] = c.rng.shape(2, { elements: 4000 }) as [number, number];
    const integers = c.rng.next() < 0.25;
    const make = (size: number) => (integers ? c.integers([size], -9999, 9999) : c.tensor([size]));
    const [a, b] = [await make(m), await make(n)];
    using got = c.rng.next() < 0.5 ? outer(a.t, b.t) : a.t.outer(b.t);
    assert.equal([...got.shape], [m, n]);
    assert.is(got.dtype, a.t.dtype === b.t.dtype ? a.t.dtype : 'float32');
    const expected = Float64Array.from(
      { length: m * n },
      (_, i) => (a.x[Math.floor(i / n)] as number) * (b.x[i % n] as number),
    );
    close(await got.read(), expected, { rtol: unit[got.dtype], atol: got.dtype === 'float16' ? 2 ** -24 : 0 });
  });
});

test('wrong arguments are refused', () => {
  using matrix = Tensor.zeros([2, 3]);
  using vector = Tensor.zeros([3]);
  using longer = Tensor.zeros([4]);
  throws(() => dot(matrix, vector), RangeError, /^dot: a must be of one dimension, but is \[2, 3\]/);
  throws(() => dot(vector, matrix), RangeError, /^dot: b must be of one dimension, but is \[2, 3\]/);
  throws(() => dot(vector, longer), RangeError, /^dot: b must be \[3\] \(the shape of a\), but is \[4\]/);
  throws(() => vector.dot(5 as never), TypeError, /^dot: b must be a tensor, but is 5/);
  throws(() => outer(vector, matrix), RangeError, /^outer: b must be of one dimension, but is \[2, 3\]/);
  throws(() => Tensor.zeros([]).outer(vector), RangeError, /^outer: a must be of one dimension, but is \[\]/);
  throws(() => outer(vector, undefined as never), TypeError, /^outer: b must be a tensor, but is undefined/);
});

test.run();
