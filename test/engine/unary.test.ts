// Functions of one element against the same on doubles, and odd values as PyTorch 2.13 treats them.
import * as assert from 'uvu/assert';
import { type DType, isFloat } from '../../src/engine/dtype.js';
import { DeviceError } from '../../src/engine/errors.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { abs, clamp, exp, gelu, log, neg, pow, relu, sigmoid, sign, sqrt, tanh } from '../../src/engine/ops/unary.js';
import { close } from '../support/close.js';
import { testDevice } from '../support/device.js';
import { rejects, suite, throws } from '../support/harness.js';
import { type Case, cases, type Sample, unit } from '../support/operations/cases.js';
import { closeAs } from '../support/operations/elementwise.js';

const test = suite('unary');

/** x where float32 does not hold it as a normal number: what is smaller may be rounded in steps of its own. */
const smallest = 2 ** -126;

interface Kind {
  readonly of: (x: Tensor) => Tensor;
  readonly exact: (x: number) => number;
  /** The error allowed besides rounding, as a part of the result. */
  readonly rtol?: number;
  readonly atol?: number;
  /** Gives integers for integers. */
  readonly whole?: boolean;
  readonly inPlace: (x: Tensor) => Tensor;
}
const kinds: Record<string, Kind> = {
  relu: { of: relu, exact: (x) => Math.max(x, 0), inPlace: (x) => x.relu_() },
  gelu: {
    of: gelu,
    exact: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
    rtol: 2e-6,
    atol: 1e-6,
    inPlace: (x) => x.gelu_(),
  },
  exp: { of: exp, exact: Math.exp, inPlace: (x) => x.exp_() },
  log: { of: log, exact: Math.log, inPlace: (x) => x.log_() },
  sqrt: { of: sqrt, exact: Math.sqrt, inPlace: (x) => x.sqrt_() },
  abs: { of: abs, exact: Math.abs, whole: true, inPlace: (x) => x.abs_() },
  neg: { of: neg, exact: (x) => -x, whole: true, inPlace: (x) => x.neg_() },
  sign: { of: sign, exact: (x) => (x > 0 ? 1 : x < 0 ? -1 : 0), whole: true, inPlace: (x) => x.sign_() },
  tanh: { of: tanh, exact: Math.tanh, inPlace: (x) => x.tanh_() },
  sigmoid: { of: sigmoid, exact: (x) => 1 / (1 + Math.exp(-x)), inPlace: (x) => x.sigmoid_() },
};

/** A tensor of any dtype in a random layout: normal values, some of them far from 0. */
async function any(c: Case, dtype: DType): Promise<Sample> {
  const shape = c.rng.shape(c.rng.integer(0, 5), { elements: 20_000 });
  if (isFloat(dtype)) return c.tensor(shape, { dtype, scale: c.rng.pick([0.01, 1, 10]) });
  const { t, x } = await c.integers(shape, dtype === 'bool' ? 0 : -9, dtype === 'bool' ? 2 : 10);
  return { t: dtype === 'bool' ? c.own(t.to('bool')) : t, x };
}

for (const [name, { of, exact, rtol = 0, atol = 0, whole = false, inPlace }] of Object.entries(kinds)) {
  test(`${name}: 200 random shapes, layouts and dtypes`, async () => {
    await cases(200, async (c) => {
      const dtype = c.rng.pick(
        name === 'gelu' || name === 'relu'
          ? (['float32', 'bfloat16', 'float16'] as const)
          : (['float32', 'float32', 'bfloat16', 'float16', 'int32', 'bool'] as const),
      );
      const { t, x } = await any(c, dtype);
      const got = c.own(of(t));
      assert.equal([...got.shape], [...t.shape]);
      assert.is(got.dtype, isFloat(dtype) ? dtype : whole ? 'int32' : 'float32');
      const most = { float16: 65520, float32: 2 ** 128, bfloat16: 2 ** 128 }[got.dtype as 'float32'] ?? Infinity;
      const expected = x.map(exact).map((v) => (Math.abs(v) >= most ? Math.sign(v) * Infinity : v));
      const least = got.dtype === 'float16' ? 2 ** -24 : smallest;
      const values = await got.read();
      if (name === 'gelu') close(values, expected, { rtol: unit[got.dtype] + rtol, atol: atol + least });
      else closeAs(values, expected, got.dtype);
      if (got.dtype !== dtype) return;
      assert.is(inPlace(t), t);
      close(await t.read(), values);
    });
  });
}

// odd values, in the order that PyTorch gives their results in
const odd = [NaN, Infinity, -Infinity, 0, -0, -1.5, 1e-40];
const tiny = Math.fround(1e-40);
const results: Record<string, number[]> = {
  exp: [NaN, Infinity, 0, 1, 1, Math.exp(-1.5), 1],
  log: [NaN, Infinity, NaN, -Infinity, -Infinity, NaN, Math.log(tiny)],
  sqrt: [NaN, Infinity, NaN, 0, -0, NaN, Math.sqrt(tiny)],
  abs: [NaN, Infinity, Infinity, 0, 0, 1.5, tiny],
  neg: [NaN, -Infinity, Infinity, -0, 0, 1.5, -tiny],
  sign: [0, 1, -1, 0, 0, -1, 1],
  tanh: [NaN, 1, -1, 0, -0, Math.tanh(-1.5), tiny],
  sigmoid: [NaN, 1, 0, 0.5, 0.5, 1 / (1 + Math.exp(1.5)), 0.5],
  relu: [NaN, Infinity, 0, 0, 0, 0, tiny],
  gelu: [NaN, Infinity, NaN, 0, -0, -0.1004284, tiny / 2],
};

/** Demands these values; zeros have their signs where `signed`. */
function same(got: ArrayLike<number>, expected: readonly number[], signed: boolean, what: string): void {
  for (const [i, value] of expected.entries()) {
    const here = got[i] as number;
    const good = Number.isNaN(value)
      ? Number.isNaN(here)
      : value === 0
        ? here === 0 && (!signed || Object.is(here, value))
        : here === value || Math.abs(here - value) <= 4e-7 * Math.abs(value) + 2 ** -149;
    assert.ok(good, `${what}, element ${i}: ${here}, not ${value}`);
  }
}

test('odd values', async () => {
  // among others, so that each lies in a vector and behind the last whole vector as well
  for (const count of [0, 1, 16]) {
    const data = [...new Array(count).fill(0.5), ...odd, ...new Array(count).fill(2), ...odd];
    using x = Tensor.from(data, { device: testDevice() });
    for (const [name, expected] of Object.entries(results)) {
      if (name === 'gelu') continue; // at -inf it has its own test
      using y = (kinds[name] as Kind).of(x);
      const values = await y.read();
      same(values.subarray(count), expected, name !== 'relu', name);
      same(values.subarray(2 * count + odd.length), expected, name !== 'relu', name);
    }
  }
});

test('gelu of special values', async () => {
  using y = gelu(Tensor.from([NaN, Infinity, 0, -0, 1e-45, 3.4e38, -3.4e38, 1]));
  close(await y.read(), [NaN, Infinity, 0, 0, 5e-46, 3.4e38, 0, 0.8411919906082768], { rtol: 1e-6, atol: 1e-44 });
});

test('over the whole range of float32, close to the last place', async () => {
  // each exponent, and values around those at which a formula changes
  const edges = [2 ** -0.5, 2 ** 0.5, 0.625, 1, 88.7, -103, -87.5, 89, 9, 1e-3];
  const values = [
    ...Array.from({ length: 277 }, (_, i) => 2 ** (i - 149)),
    ...Array.from({ length: 276 }, (_, i) => 1.618 * 2 ** (i - 149)),
    ...edges.flatMap((edge) => [-3, -2, -1, 0, 1, 2, 3].map((step) => edge * (1 + step * 2 ** -23))),
  ].flatMap((v) => [v, -v]);
  using x = Tensor.from(Float32Array.from(values), { device: testDevice() });
  const inputs = await x.read();
  for (const name of ['exp', 'log', 'sqrt', 'tanh', 'sigmoid']) {
    const { of, exact } = kinds[name] as Kind;
    using y = of(x);
    const got = await y.read();
    for (const [i, v] of inputs.entries()) {
      const expected = exact(v);
      const here = got[i] as number;
      if (Number.isNaN(expected)) assert.ok(Number.isNaN(here), `${name}(${v}) is ${here}`);
      else if (Math.abs(expected) >= 2 ** 128 - 2 ** 103)
        assert.is(here, Math.sign(expected) * Infinity, `${name}(${v})`);
      else {
        // sigmoid has no subnormal results: its divisor is then infinite
        const least = name === 'sigmoid' ? 2 ** -125 : 2 ** -148;
        const off = Math.abs(here - expected);
        assert.ok(off <= 2 ** -22 * Math.abs(expected) + least, `${name}(${v}) is ${here}, not ${expected}`);
      }
    }
  }
});

test('pow: 300 random cases', async () => {
  await cases(300, async (c) => {
    const dtype = c.rng.pick(['float32', 'float32', 'bfloat16', 'float16', 'int32', 'bool'] as const);
    const { t, x } = await any(c, dtype);
    const p = c.rng.pick([0, 1, 2, 3, 0.5, -0.5, -1, -2, 4, 7, 2.5, -3, -0.1, 1 / 3, c.rng.normal() * 3]);
    const whole = Number.isInteger(p);
    if (!isFloat(dtype) && whole && p < 0) {
      throws(() => pow(t, p), RangeError, /^pow: power must be 0 or more, as x is \w+; x.to\('float32'\) takes others/);
      return;
    }
    const got = c.own(pow(t, p));
    assert.is(got.dtype, isFloat(dtype) ? dtype : whole ? 'int32' : 'float32');
    const most = { float16: 65520, float32: 2 ** 128, bfloat16: 2 ** 128 }[got.dtype as 'float32'] ?? Infinity;
    const expected = x.map((v) => v ** p).map((v) => (Math.abs(v) >= most ? Math.sign(v) * Infinity : v));
    closeAs(await got.read(), expected, got.dtype);
    if (got.dtype !== dtype) return;
    assert.is(t.pow_(p), t);
    close(await t.read(), await got.read());
  });
});

test('pow of odd values', async () => {
  using x = Tensor.from([...odd, 1, -1, -8], { device: testDevice() });
  const big = Infinity;
  const expected: [number, number[]][] = [
    [0, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]],
    [1, [NaN, big, -big, 0, -0, -1.5, tiny, 1, -1, -8]],
    [2, [NaN, big, big, 0, 0, 2.25, 0, 1, 1, 64]],
    [0.5, [NaN, big, NaN, 0, -0, NaN, Math.sqrt(tiny), 1, NaN, NaN]],
    [-0.5, [NaN, 0, NaN, big, -big, NaN, 1 / Math.sqrt(tiny), 1, NaN, NaN]],
    [-1, [NaN, 0, -0, big, -big, -1 / 1.5, big, 1, -1, -0.125]],
    [-2, [NaN, 0, 0, big, big, 1 / 2.25, big, 1, 1, 1 / 64]],
    [3, [NaN, big, -big, 0, -0, -3.375, 0, 1, -1, -512]],
    [2.5, [NaN, big, big, 0, 0, NaN, 0, 1, NaN, NaN]],
    [-3, [NaN, 0, -0, big, -big, -1 / 3.375, big, 1, -1, -1 / 512]],
    [5, [NaN, big, -big, 0, -0, -7.59375, 0, 1, -1, -32768]],
    [Infinity, [NaN, big, big, 0, 0, big, 0, 1, 1, big]],
    [-Infinity, [NaN, 0, 0, big, big, 0, big, 1, 1, 0]],
    [NaN, [NaN, NaN, NaN, NaN, NaN, NaN, NaN, 1, NaN, NaN]],
  ];
  for (const [p, values] of expected) {
    using y = x.pow(p);
    same(await y.read(), values, true, `to the power ${p}`);
  }
});

test('clamp: 200 random cases', async () => {
  await cases(200, async (c) => {
    const dtype = c.rng.pick(['float32', 'bfloat16', 'float16', 'int32', 'bool'] as const);
    const { t, x } = await any(c, dtype);
    const whole = c.rng.next() < 0.5;
    const bound = () => (whole ? c.rng.integer(-6, 7) : c.rng.normal());
    const low = c.rng.next() < 0.2 ? -Infinity : bound();
    const high = c.rng.next() < 0.2 ? Infinity : bound();
    const got = c.own(clamp(t, low, high));
    const isWhole = [low, high].every((v) => !Number.isFinite(v) || Number.isInteger(v));
    assert.is(got.dtype, isFloat(dtype) ? dtype : isWhole ? 'int32' : 'float32');
    closeAs(
      await got.read(),
      x.map((v) => Math.min(Math.max(v, low), high)),
      got.dtype,
    );
    if (got.dtype !== dtype) return;
    assert.is(t.clamp_(low, high), t);
    close(await t.read(), await got.read());
  });
  using x = Tensor.from([NaN, -Infinity, Infinity, 0.5]);
  close(await x.clamp(0, 1).read(), [NaN, 0, 1, 0.5]);
  close(await x.clamp(1, -1).read(), [NaN, -1, -1, -1]);
  close(await x.clamp(NaN, 1).read(), [NaN, NaN, NaN, NaN]);
  close(await x.clamp(-Infinity, Infinity).read(), [NaN, -Infinity, Infinity, 0.5]);
});

test('int32 is exact, or an error where int32 does not hold the result', async () => {
  const device = testDevice();
  const edges = [2 ** 31 - 1, -(2 ** 31) + 1, 2 ** 24 + 1, -46340, 46340, 0, -1, 1];
  using x = Tensor.from(Int32Array.from(edges), { device });
  for (const [y, f] of [
    [x.abs(), Math.abs],
    [x.neg(), (v: number) => 0 - v],
    [x.sign(), Math.sign],
    [x.clamp(-100, 2 ** 30 + 1), (v: number) => Math.min(Math.max(v, -100), 2 ** 30 + 1)],
    [x.pow(1), (v: number) => v],
    [x.pow(0), () => 1],
    [x.slice(0, 3).pow(2), (v: number) => v ** 2],
  ] as [Tensor, (v: number) => number][]) {
    assert.is(y.dtype, 'int32');
    assert.equal([...(await y.read())], edges.slice(edges.length - y.size).map(f));
    y.dispose();
  }
  using least = Tensor.from(Int32Array.from([5, -(2 ** 31)]), { device });
  await rejects(
    least.abs().read(),
    DeviceError,
    /^unary: abs of -2147483648 at element 1 is outside int32 \(of out \[2\] int32, x \[2\] int32\)$/,
  );
  await rejects(least.neg_().read(), DeviceError, /^unary: neg of -2147483648 at element 1 is outside int32 /);
  using base = Tensor.from(Int32Array.from([3, 46341]), { device });
  await rejects(base.pow(2).read(), DeviceError, /^unary: 46341 to the power 2 at element 1 is outside int32 /);
  using two = Tensor.from(Int32Array.from([-2, 2, 1, -1, 0]), { device });
  assert.equal([...(await two.slice(0, 0, 1).pow(31).read())], [-(2 ** 31)]);
  await rejects(two.pow(31).read(), DeviceError, /: 2 to the power 31 at element 1 is outside int32 /);
  assert.equal(
    [
      ...(await two
        .slice(0, 2)
        .pow(2 ** 31 - 1)
        .read()),
    ],
    [1, -1, 0],
  );
  assert.equal(
    [
      ...(await two
        .slice(0, 2)
        .pow(2 ** 31 - 2)
        .read()),
    ],
    [1, 1, 0],
  );
});

test('what is refused', () => {
  using whole = Tensor.from([1, 2], { dtype: 'int32' });
  throws(() => gelu(whole), TypeError, /gelu: x must be float32, bfloat16 or float16/);
  throws(() => relu(whole), TypeError, /relu: x must be float32, bfloat16 or float16/);
  throws(() => whole.gelu_(), TypeError, /gelu_: x must be float32, bfloat16 or float16/);
  throws(() => whole.exp_(), TypeError, /^exp_: x must be float32, as the result is, but is int32/);
  throws(() => whole.clamp_(0, 0.5), TypeError, /^clamp_: x must be float32, as the result is, but is int32/);
  using flags = Tensor.from([true]);
  throws(() => flags.neg_(), TypeError, /^neg_: x must be int32, as the result is, but is bool/);
  throws(() => whole.pow('2' as never), TypeError, /^pow: power must be a number/);
  throws(() => whole.clamp(0, undefined as never), TypeError, /^clamp: high must be a number/);
  throws(() => exp([1] as never), TypeError, /^exp: x must be a tensor/);
  using x = Tensor.zeros([1, 3]);
  const wide = x.window([2, 3], [0, 1]);
  throws(() => wide.exp_(), RangeError, /^exp_: x must be a tensor whose elements can be written; clone\(\) makes one/);
});

test.run();
