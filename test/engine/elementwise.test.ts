// Arithmetic, copies, relu and gelu against the same on doubles; 200 random shapes, layouts and dtypes each.
import * as assert from 'uvu/assert';
import { type DType, isFloat, promote } from '../../src/engine/dtype.js';
import { gelu, relu } from '../../src/engine/ops/gelu.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { broadcastShape } from '../../src/engine/shape.js';
import { type Case, cases, coordinates, product, type Sample, unit } from '../support/cases.js';
import { close } from '../support/close.js';
import { suite, throws } from '../support/harness.js';

const test = suite('elementwise');
const kinds = ['add', 'sub', 'mul', 'div'] as const;
const functions = {
  add: (a: number, b: number) => a + b,
  sub: (a: number, b: number) => a - b,
  mul: (a: number, b: number) => a * b,
  div: (a: number, b: number) => a / b,
};

const anyOf = async (c: Case, shape: number[]): Promise<Sample> =>
  c.rng.next() < 0.25 ? c.integers(shape, -9, 10) : c.tensor(shape);

/** The element of x that lies under element i of `shape`. */
function under(x: Sample, shape: readonly number[], i: number): number {
  const at = coordinates(shape, i).slice(shape.length - x.t.shape.length);
  let index = 0;
  for (const [d, n] of x.t.shape.entries()) index = index * n + (n === 1 ? 0 : (at[d] as number));
  return x.x[index] as number;
}

const thinned = (c: Case, shape: number[]) =>
  shape.slice(c.rng.integer(0, 2) * c.rng.integer(0, shape.length + 1)).map((n) => (c.rng.next() < 0.25 ? 1 : n));

function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, dtype: DType): void {
  const r = unit[dtype] + 2 ** -22;
  close(actual, expected, { rtol: r, atol: dtype === 'float16' ? 2 ** -24 : 1e-30 });
}

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
    // what leaves float16's range becomes infinite, as in any conversion
    const wide =
      got.dtype === 'float16' ? expected.map((v) => (Math.abs(v) >= 65520 ? Math.sign(v) * Infinity : v)) : expected;
    expectClose(await got.read(), wide, got.dtype);
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
    expectClose(await out.read(), expected, out.dtype);
    assert.is(a.t[`${kind}_`](operand), a.t);
    expectClose(await a.t.read(), expected, a.t.dtype);
  });
});

test('int32 stays exact and wraps; the rest is refused', async () => {
  using a = Tensor.from([2 ** 31 - 1, -(2 ** 31), 7], { dtype: 'int32' });
  assert.equal([...(await a.add(1).read())], [-(2 ** 31), -(2 ** 31) + 1, 8]);
  assert.equal([...(await a.mul(a).read())], [1, 0, 49]);
  assert.equal([...(await a.sub(Tensor.from([true])).read())], [2 ** 31 - 2, 2 ** 31 - 1, 6]);
  throws(() => a.add_(0.5), TypeError, /add_: the tensor must be float32, as the result is, but is int32/);
  throws(() => a.div_(2), TypeError, /div_: the tensor must be float32/);
});

test('special values', async () => {
  const special = [NaN, Infinity, -Infinity, 0, -0, 1e-45, 3.4e38, -3.4e38, 1];
  using x = Tensor.from(special);
  assert.equal(
    [...(await relu(x).read())].map((v) => (Object.is(v, -0) ? 0 : v)),
    special.map((v) => (v > 0 || Number.isNaN(v) ? Math.fround(v) : 0)),
  );
  const got = [...(await gelu(x).read())];
  close(got.slice(0, 2), [NaN, Infinity], {});
  close(got.slice(3), [0, 0, 5e-46, 3.4e38, 0, 0.8411919906082768], { rtol: 1e-6, atol: 1e-44 });
  using half = x.to('float16');
  close(await half.read(), [NaN, Infinity, -Infinity, 0, 0, 0, Infinity, -Infinity, 1], {});
});

test('relu and gelu', async () => {
  await cases(200, async (c) => {
    const x = await c.tensor(c.rng.shape(c.rng.integer(0, 4)), { scale: 3 });
    expectClose(
      await c.own(relu(x.t)).read(),
      x.x.map((v) => Math.max(v, 0)),
      x.t.dtype,
    );
    const expected = x.x.map((v) => 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3))));
    close(await c.own(gelu(x.t)).read(), expected, { rtol: unit[x.t.dtype] + 2e-6, atol: 1e-6 });
  });
  throws(() => gelu(Tensor.from([1], { dtype: 'int32' })), TypeError, /gelu: x must be float32, bfloat16 or float16/);
});

test('clone, copyFrom, to and fill between any layouts and dtypes', async () => {
  await cases(200, async (c) => {
    const shape = c.rng.shape(c.rng.integer(0, 5), { elements: 30_000 });
    const x = await anyOf(c, shape);
    close(await c.own(x.t.clone()).read(), x.x);
    const to = await anyOf(c, shape);
    to.t.copyFrom(x.t);
    const { dtype } = to.t;
    const expected = dtype === 'int32' ? x.x.map(Math.trunc) : x.x;
    close(await to.t.read(), expected, { rtol: isFloat(dtype) ? unit[dtype] : 0, atol: 1e-7 });
    const flags = c.own(x.t.to('bool'));
    close(
      await flags.read(),
      x.x.map((v) => (v ? 1 : 0)),
    );
    to.t.fill(-2.5);
    close(
      await to.t.read(),
      x.x.map(() => (dtype === 'int32' ? -2 : -2.5)),
    );
  });
});

test.run();
