// Comparisons and logic against the same on doubles.
import * as assert from 'uvu/assert';
import { type DType, isFloat } from '../../src/engine/dtype.js';
import { and, eq, ge, gt, le, lt, ne, not, or } from '../../src/engine/ops/compare.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { broadcastShape } from '../../src/engine/shape.js';
import { testDevice } from '../support/device.js';
import { suite, throws } from '../support/harness.js';
import { cases, product } from '../support/operations/cases.js';
import { anyDType, thinned, under } from '../support/operations/elementwise.js';

const test = suite('compare');

const kinds = { eq, ne, lt, le, gt, ge } as const;
const exact: Record<keyof typeof kinds, (a: number, b: number) => boolean> = {
  eq: (a, b) => a === b,
  ne: (a, b) => a !== b,
  lt: (a, b) => a < b,
  le: (a, b) => a <= b,
  gt: (a, b) => a > b,
  ge: (a, b) => a >= b,
};
const names = Object.keys(kinds) as (keyof typeof kinds)[];
const dtypes: readonly DType[] = ['float32', 'bfloat16', 'float16', 'int32', 'bool'];

test('300 random comparisons of two tensors, which broadcast', async () => {
  await cases(300, async (c) => {
    const shape = c.rng.shape(c.rng.integer(0, 5), { elements: 20_000 });
    // few different values, so that some are equal
    const dtype = c.rng.pick(dtypes);
    const other = c.rng.next() < 0.5 ? dtype : c.rng.pick(dtypes);
    const [a, b] = [await anyDType(c, thinned(c, shape), dtype), await anyDType(c, thinned(c, shape), other)];
    const kind = c.rng.pick(names);
    const got = c.own(kinds[kind](a.t, b.t));
    const target = broadcastShape(a.t.shape, b.t.shape) as number[];
    assert.equal([...got.shape], target);
    assert.is(got.dtype, 'bool');
    const expected = Uint8Array.from({ length: product(target) }, (_, i) =>
      Number(exact[kind](under(a, target, i), under(b, target, i))),
    );
    assert.equal(await got.read(), expected, `${kind} of ${dtype} and ${other}`);
  });
});

test('200 random comparisons with numbers', async () => {
  await cases(200, async (c) => {
    const dtype = c.rng.pick(dtypes);
    const a = await anyDType(c, c.rng.shape(c.rng.integer(0, 5), { elements: 20_000 }), dtype);
    const some = a.x.length > 0 ? (a.x[c.rng.integer(0, a.x.length)] as number) : 0;
    const b = c.rng.pick([some, 0, 1, 0.5, -3, c.rng.normal(), NaN, Infinity, -Infinity, 2 ** 31, -(2 ** 40)]);
    const kind = c.rng.pick(names);
    // a number takes the dtype of floats beside it
    using number = Tensor.from([b]);
    using rounded = isFloat(dtype) ? number.to(dtype) : undefined;
    const [taken = b] = rounded ? await rounded.read() : [];
    const got = await c.own(kinds[kind](a.t, b)).read();
    assert.equal(
      got,
      Uint8Array.from(a.x, (v) => Number(exact[kind](v, taken))),
      `${kind} of ${dtype} and ${b}`,
    );
  });
});

test('odd values, and integers that float32 does not hold', async () => {
  const device = testDevice();
  const values = [NaN, Infinity, -Infinity, 0, -0, 1e-45, -1e-45, 2];
  using a = Tensor.from(
    values.flatMap((v) => values.map(() => v)),
    { device },
  );
  using b = Tensor.from(
    values.flatMap(() => values),
    { device },
  );
  const [left, right] = [await a.read(), await b.read()];
  for (const kind of names) {
    const expected = Uint8Array.from(left, (v, i) => Number(exact[kind](v, right[i] as number)));
    assert.equal(await kinds[kind](a, b).read(), expected, kind);
  }
  using whole = Tensor.from(Int32Array.from([2 ** 24, 2 ** 24 + 1, 2 ** 31 - 1, -(2 ** 31)]), { device });
  assert.equal([...(await whole.eq(2 ** 24 + 1).read())], [0, 1, 0, 0]);
  assert.equal([...(await whole.lt(2 ** 31 - 0.5).read())], [1, 1, 1, 1]);
  assert.equal([...(await whole.ge(-(2 ** 31) - 1).read())], [1, 1, 1, 1]);
  using others = Tensor.from(Int32Array.from([2 ** 24 + 1, 2 ** 24 + 1, 2 ** 31 - 2, -(2 ** 31)]), { device });
  assert.equal([...(await whole.gt(others).read())], [0, 0, 1, 0]);
  using one = Tensor.from([true], { device });
  assert.equal([...(await one.eq(1 + 1e-12).read())], [0]);
  using tenth = Tensor.from([0.1], { device, dtype: 'bfloat16' });
  assert.equal([(await tenth.eq(0.1).read())[0], (await tenth.lt(0.1).read())[0]], [1, 0]);
});

test('and, or, not: 200 random cases', async () => {
  await cases(200, async (c) => {
    const shape = c.rng.shape(c.rng.integer(0, 5), { elements: 20_000 });
    const [a, b] = [
      await anyDType(c, thinned(c, shape), c.rng.pick(dtypes)),
      await anyDType(c, thinned(c, shape), c.rng.pick(dtypes)),
    ];
    const target = broadcastShape(a.t.shape, b.t.shape) as number[];
    const both = (f: (p: boolean, q: boolean) => boolean) =>
      Uint8Array.from({ length: product(target) }, (_, i) => {
        const [p, q] = [under(a, target, i), under(b, target, i)];
        return Number(f(p !== 0, q !== 0));
      });
    assert.equal(
      await c.own(and(a.t, b.t)).read(),
      both((p, q) => p && q),
    );
    assert.equal(
      await c.own(or(a.t, b.t)).read(),
      both((p, q) => p || q),
    );
    assert.equal(
      await c.own(not(a.t)).read(),
      Uint8Array.from(a.x, (v) => Number(v === 0)),
    );
  });
  using odd = Tensor.from([NaN, -0, 1e-45, Infinity]);
  assert.equal([...(await odd.not().read())], [0, 1, 0, 0]);
  assert.equal([...(await odd.and(odd).read())], [1, 0, 1, 1]);
});

test('in place, on bools', async () => {
  const device = testDevice();
  using mask = Tensor.from([true, true, false, false], { device });
  using other = Tensor.from([true, false, true, false], { device });
  using rows = mask.clone().reshape(2, 2);
  assert.is(mask.and_(other), mask);
  assert.equal([...(await mask.read())], [1, 0, 0, 0]);
  assert.equal([...(await mask.or_(other).read())], [1, 0, 1, 0]);
  assert.equal([...(await mask.not_().read())], [0, 1, 0, 1]);
  // a view of itself, turned
  assert.equal([...(await rows.or_(rows.permute([1, 0])).read())], [1, 1, 1, 0]);
  throws(() => Tensor.from([1]).and_(other), TypeError, /^and_: the tensor must be bool, but is float32/);
  throws(() => Tensor.from([1]).not_(), TypeError, /^not_: x must be bool, but is float32/);
  throws(() => rows.or_(other), RangeError, /^or_: x must be broadcastable to \[2, 2\], but is \[4\]/);
});

test('what is refused', () => {
  using a = Tensor.zeros([2, 3]);
  using b = Tensor.zeros([2]);
  throws(() => a.eq(b), RangeError, /^eq: x must be broadcastable with \[2, 3\], but is \[2\]/);
  throws(() => a.lt('1' as never), TypeError, /^lt: x must be a number or a tensor/);
  throws(() => a.and(1 as never), TypeError, /^and: x must be a tensor/);
});

test.run();
