// A choice element by element, against the same on the host.
import * as assert from 'uvu/assert';
import { type DType, isFloat, promote } from '../../src/engine/dtype.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { where } from '../../src/engine/ops/where.js';
import { broadcastShape } from '../../src/engine/shape.js';
import { close } from '../support/close.js';
import { testDevice } from '../support/device.js';
import { suite, throws } from '../support/harness.js';
import { cases, product } from '../support/operations/cases.js';
import { anyDType, thinned, under } from '../support/operations/elementwise.js';

const test = suite('where');
const dtypes: readonly DType[] = ['float32', 'bfloat16', 'float16', 'int32', 'bool'];

test('300 random choices between tensors and numbers', async () => {
  await cases(300, async (c) => {
    const shape = c.rng.shape(c.rng.integer(0, 5), { elements: 20_000 });
    const condition = await anyDType(c, thinned(c, shape), 'bool');
    const side = async () =>
      c.rng.next() < 0.25
        ? c.rng.pick([0, 1, -7, 0.5, Infinity, NaN])
        : anyDType(c, thinned(c, shape), c.rng.pick(dtypes));
    const [a, b] = [await side(), await side()];
    const operand = (x: typeof a) => (typeof x === 'number' ? x : x.t);
    const got = c.own(where(condition.t, operand(a), operand(b)));
    let target: number[] = [...condition.t.shape];
    for (const x of [a, b]) if (typeof x !== 'number') target = broadcastShape(target, x.t.shape) as number[];
    assert.equal([...got.shape], target);
    const dtypeOf = (x: typeof a, y: typeof a): DType => {
      if (typeof x === 'number' && typeof y === 'number') return 'float32';
      if (typeof x === 'number') return dtypeOf(y, x);
      if (typeof y !== 'number') return promote(x.t.dtype, y.t.dtype);
      if (isFloat(x.t.dtype)) return x.t.dtype;
      return Number.isInteger(y) ? 'int32' : 'float32';
    };
    assert.is(got.dtype, dtypeOf(a, b));
    const value = (x: typeof a, i: number) => (typeof x === 'number' ? x : under(x, target, i));
    const expected = Float64Array.from({ length: product(target) }, (_, i) =>
      under(condition, target, i) ? value(a, i) : value(b, i),
    );
    close(await got.read(), expected); // every number here is in every dtype of floats
  });
});

test('bits are moved as they are', async () => {
  const device = testDevice();
  const bits = Uint16Array.from({ length: 64 }, (_, i) => 0x7fc0 + i * 517);
  using a = Tensor.from(bits, { dtype: 'bfloat16', device });
  using b = Tensor.zeros([64], { dtype: 'bfloat16', device });
  using all = Tensor.zeros([64], { dtype: 'bool', device }).fill(1);
  const got = new Uint16Array(64);
  await where(all, a, b).readInto(got);
  assert.equal(got, bits);
  using x = Tensor.from([-0, 1e-45, 2 ** 24], { device });
  using picked = Tensor.from([true, true, false], { device }).where(x, -0);
  assert.ok([...(await picked.read())].every((v, i) => Object.is(v, [-0, Math.fround(1e-45), -0][i])));
  using whole = Tensor.from(Int32Array.from([2 ** 31 - 1, -(2 ** 31)]), { device });
  using first = Tensor.from([true, false], { device });
  assert.equal([...(await where(first, whole, 2 ** 24 + 1).read())], [2 ** 31 - 1, 2 ** 24 + 1]);
});

test('what is refused', () => {
  using mask = Tensor.from([true, false]);
  using x = Tensor.from([1, 2, 3]);
  throws(() => where(x, 1, 2), TypeError, /^where: condition must be bool, but is float32/);
  throws(() => where(mask, x, 2), RangeError, /^where: a must be broadcastable with \[2\], but is \[3\]/);
  throws(() => where(mask, 1, x), RangeError, /^where: b must be broadcastable with \[2\], but is \[3\]/);
  throws(() => where(mask, '1' as never, 2), TypeError, /^where: a must be a number or a tensor/);
  throws(() => where(mask, 1, null as never), TypeError, /^where: b must be a number or a tensor/);
});

test.run();
