// Arithmetic between tensors and with numbers, against the same on doubles: 200 random shapes, layouts and dtypes each.
import * as assert from 'uvu/assert';
import { promote } from '../../src/engine/dtype.js';
import { DeviceError } from '../../src/engine/errors.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { broadcastShape } from '../../src/engine/shape.js';
import { close } from '../support/close.js';
import { testDevice } from '../support/device.js';
import { rejects, suite, throws } from '../support/harness.js';
import { cases, product } from '../support/operations/cases.js';
import { anyOf, closeAs, thinned, under } from '../support/operations/elementwise.js';

const test = suite('binary');

const kinds = ['add', 'sub', 'mul', 'div', 'maximum', 'minimum'] as const;
const functions = {
  add: (a: number, b: number) => a + b,
  sub: (a: number, b: number) => a - b,
  mul: (a: number, b: number) => a * b,
  div: (a: number, b: number) => a / b,
  maximum: (a: number, b: number) => Math.max(a, b),
  minimum: (a: number, b: number) => Math.min(a, b),
};

test('a op b with broadcasting', async () => {
  await cases(200, async (c) => {
    const shape = c.rng.shape(c.rng.integer(0, 5), { elements: 20_000 });
    const [a, b] = [await anyOf(c, thinned(c, shape)), await anyOf(c, thinned(c, shape))];
    const kind = c.rng.pick(kinds);
    const got = c.own(a.t[kind](b.t));
    const target = broadcastShape(a.t.shape, b.t.shape) as number[];
    assert.equal([...got.shape], target);
    const both = promote(a.t.dtype, b.t.dtype);
    assert.is(got.dtype, kind === 'div' && both === 'int32' ? 'float32' : both);
    const expected = Float64Array.from({ length: product(target) }, (_, i) =>
      functions[kind](under(a, target, i), under(b, target, i)),
    );
    // a value outside float16's range becomes infinite, as in any conversion
    const wide =
      got.dtype === 'float16' ? expected.map((v) => (Math.abs(v) >= 65520 ? Math.sign(v) * Infinity : v)) : expected;
    closeAs(await got.read(), wide, got.dtype);
  });
});

test('in place, and with numbers', async () => {
  await cases(200, async (c) => {
    const shape = c.rng.shape(c.rng.integer(0, 4), { elements: 20_000 });
    const a = await c.tensor(shape, { dtype: c.rng.pick(['float32', 'bfloat16']) });
    const kind = c.rng.pick(kinds);
    const number = c.rng.next() < 0.5 ? c.rng.normal() + 3 : undefined;
    const b = number === undefined ? await c.tensor(thinned(c, shape), { dtype: 'float32' }) : undefined;
    const other = (i: number) => (b ? under(b, shape, i) : Math.fround(number as number));
    const expected = a.x.map((v, i) => functions[kind](v, other(i)));
    const operand = b?.t ?? (number as number);
    const out = c.own(a.t[kind](operand));
    closeAs(await out.read(), expected, out.dtype);
    assert.is(a.t[`${kind}_`](operand), a.t);
    closeAs(await a.t.read(), expected, a.t.dtype);
  });
});

const exact = {
  add: (a: bigint, b: bigint) => a + b,
  sub: (a: bigint, b: bigint) => a - b,
  mul: (a: bigint, b: bigint) => a * b,
};
const fits = (x: bigint) => x === BigInt.asIntN(32, x);

test('int32 is exact, or an error where int32 does not hold the result', async () => {
  const edges = [0, 1, -1, 2, 2 ** 31 - 1, -(2 ** 31), 2 ** 30, -(2 ** 30), 46340, 46341, -46341, 65536, 32767];
  await cases(300, async (c) => {
    const n = c.rng.integer(1, 100);
    const kind = c.rng.pick(['add', 'sub', 'mul'] as const);
    // most values are small, so that some cases have no failure, some one and some many
    const share = c.rng.pick([0, 0.01, 1]);
    const data = () =>
      Int32Array.from({ length: n }, () => (c.rng.next() < share ? c.rng.pick(edges) : c.rng.integer(-9, 10)));
    const [a, b] = [data(), data()];
    const scalar = c.rng.next() < 0.3 ? (b[0] as number) : undefined;
    const x = c.own(Tensor.from(a, { device: c.device }));
    const y = c.own(Tensor.from(b, { device: c.device }));
    const strided = c.own(Tensor.zeros([n, 2], { dtype: 'int32', device: c.device })).select(1, 1);
    const right = c.rng.next() < 0.5 ? y : strided.copyFrom(y);
    const expected = Array.from(a, (v, i) => exact[kind](BigInt(v), BigInt(scalar ?? (b[i] as number))));
    const operand = scalar ?? right;
    for (const inPlace of [false, true]) {
      const read = () => (inPlace ? x[`${kind}_`](operand) : c.own(x[kind](operand))).read();
      if (expected.every(fits)) {
        assert.equal(Array.from(await read(), BigInt), expected);
        continue;
      }
      const pattern = /^binary\w*: (-?\d+) ([-+*]) (-?\d+) at element (\d+) is outside int32 \(of out /;
      const { message } = await rejects(read(), DeviceError, pattern);
      const [, left, sign, other, at] = pattern.exec(message) as unknown as [string, string, string, string, string];
      const i = Number(at);
      assert.equal([Number(left), Number(other)], [a[i], scalar ?? b[i]]);
      assert.is(sign, { add: '+', sub: '-', mul: '*' }[kind]);
      assert.not.ok(fits(expected[i] as bigint), `${message}: it fits`);
    }
  });
});

test('maximum and minimum: NaN on either side, infinities, int32 exactly, what is refused', async () => {
  using a = Tensor.from([NaN, 1, Infinity, -Infinity, -2, NaN]);
  using b = Tensor.from([1, NaN, 3, 3, -1, NaN]);
  close(await a.maximum(b).read(), [NaN, NaN, Infinity, 3, -1, NaN]);
  close(await a.minimum(b).read(), [NaN, NaN, 3, -Infinity, -2, NaN]);
  close(await a.maximum(0).read(), [NaN, 1, Infinity, 0, 0, NaN]);
  close(await a.minimum(NaN).read(), new Array(6).fill(NaN));
  const device = testDevice();
  const [p, q] = [
    [2 ** 31 - 1, -(2 ** 31), 2 ** 24, 7],
    [2 ** 31 - 2, 5, 2 ** 24 + 1, 7],
  ] as [number[], number[]];
  // wide enough for a vector, and a rest
  const wide = (list: number[]) => Int32Array.from({ length: 21 }, (_, i) => list[i % 4] as number);
  using x = Tensor.from(wide(p), { device });
  using y = Tensor.from(wide(q), { device });
  assert.equal(
    [...(await x.maximum(y).read())],
    [...wide(p)].map((v, i) => Math.max(v, wide(q)[i] as number)),
  );
  assert.equal(
    [...(await x.minimum(y).read())],
    [...wide(p)].map((v, i) => Math.min(v, wide(q)[i] as number)),
  );
  assert.equal(
    [...(await x.minimum_(2 ** 24 + 1).read())],
    [...wide(p)].map((v) => Math.min(v, 2 ** 24 + 1)),
  );
  assert.is(x.maximum(0.5).dtype, 'float32');
  throws(() => x.maximum_(0.5), TypeError, /^maximum_: the tensor must be float32, as the result is, but is int32/);
});

test('a bool beside large integers', async () => {
  using flags = Tensor.from([true, false]);
  using whole = Tensor.from(Int32Array.from([2 ** 24 + 1, 2 ** 24 + 3]));
  assert.equal([...(await flags.add(2 ** 24 + 1).read())], [2 ** 24 + 2, 2 ** 24 + 1]);
  assert.equal([...(await flags.add(whole).read())], [2 ** 24 + 2, 2 ** 24 + 3]);
  assert.equal([...(await whole.add_(flags).read())], [2 ** 24 + 2, 2 ** 24 + 3]);
  using both = flags.maximum(Tensor.from([false, false]));
  assert.equal([both.dtype, ...(await both.read())], ['int32', 1, 0]);
});

test('an expanded view cannot be written', () => {
  using x = Tensor.zeros([1, 3]);
  const wide = x.window([2, 3], [0, 1]);
  throws(
    () => wide.add_(1),
    RangeError,
    /^add_: the tensor must be a tensor whose elements can be written; clone\(\) makes/,
  );
  throws(() => wide.fill(1), RangeError, /^fill: the tensor must be a tensor whose elements can be written/);
});

test('int32 with a bool, a fraction or a division', async () => {
  using a = Tensor.from([2 ** 31 - 1, -(2 ** 31), 7], { dtype: 'int32' });
  assert.equal(
    [
      ...(await a
        .slice(0, 0, 1)
        .sub(Tensor.from([true]))
        .read()),
    ],
    [2 ** 31 - 2],
  );
  await rejects(a.sub(Tensor.from([true])).read(), DeviceError, /-2147483648 - 1 at element 1 is outside int32/);
  assert.equal([...(await a.mul(0.5).read())], [2 ** 30, -(2 ** 30), 3.5]);
  throws(() => a.add_(0.5), TypeError, /add_: the tensor must be float32, as the result is, but is int32/);
  throws(() => a.div_(2), TypeError, /div_: the tensor must be float32/);
});

test.run();
