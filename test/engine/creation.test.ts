// Tensors of given values, and numbers read back, against the same computed by hand.
import * as assert from 'uvu/assert';
import { roundedToOdd } from '../../src/engine/arange.js';
import type { DType } from '../../src/engine/dtype.js';
import { OutOfMemoryError } from '../../src/engine/errors.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { arange, eye, full, ones } from '../../src/index.js';
import { close } from '../support/close.js';
import { testDevice } from '../support/device.js';
import { rejects, suite, throws } from '../support/harness.js';
import { cases, coordinates, product } from '../support/operations/cases.js';
import { random } from '../support/random.js';

const test = suite('creation');
const dtypes: readonly DType[] = ['float32', 'bfloat16', 'float16', 'int32', 'bool'];
const values = async (t: Tensor) => {
  const out = [...(await t.read())];
  t.dispose();
  return out;
};

test('full and ones: values, shapes, dtypes', async () => {
  const device = testDevice();
  for (const make of [Tensor.full, full]) {
    using plain = make([2, 3], 1.5, { device });
    assert.equal([plain.shape, plain.dtype, plain.device], [[2, 3], 'float32', device]);
    assert.equal(await values(make([2, 3], 1.5)), Array(6).fill(1.5));
    using integer = make([1], 7);
    assert.is(integer.dtype, 'float32', 'of an integer too, as zeros');
    using flag = make([3], true);
    assert.equal([flag.dtype, await values(flag.clone())], ['bool', [1, 1, 1]]);
    assert.equal(await values(make([2], false)), [0, 0]);
    assert.equal(await values(make([2], true, { dtype: 'float16' })), [1, 1]);
    assert.equal(await values(make([2], 2 ** 31 - 1, { dtype: 'int32' })), [2 ** 31 - 1, 2 ** 31 - 1]);
    assert.equal(await values(make([], -Infinity)), [-Infinity]);
    assert.equal(await values(make([0, 4], 1)), []);
    assert.equal(await values(make([1], Number.NaN, { dtype: 'bfloat16' })), [NaN]);
  }
  for (const dtype of dtypes) {
    using made = Tensor.ones([3, 5], { dtype });
    assert.equal([made.dtype, await values(made.clone())], [dtype, Array(15).fill(1)]);
    assert.equal(await values(ones([2], { dtype })), [1, 1]);
  }
  throws(() => full([2], 1.5, { dtype: 'int32' }), RangeError, /^full: value must be an integer of 32 bits, as the te/);
  throws(
    () => Tensor.full([2], 2, { dtype: 'bool' }),
    RangeError,
    /^Tensor\.full: value must be 0 or 1, as the tensor/,
  );
  throws(() => full([2], '1' as never), TypeError, /^full: value must be a number, but is '1'/);
  throws(() => full([-1], 1), RangeError, /^full: shape must be integers of 0 or more/);
  throws(
    () => ones([2], { dtyp: 'int32' } as never),
    TypeError,
    /^ones: 'dtyp' is no option; the nearest one is 'dtype'/,
  );
});

test('eye: 200 random shapes', async () => {
  await cases(200, async (c) => {
    const [n, m] = c.rng.shape(2, { elements: 5000 }) as [number, number];
    const dtype = c.rng.pick(dtypes);
    const { device } = c;
    const square = c.rng.next() < 0.3;
    const made = square
      ? c.rng.pick([() => eye(n, { device, dtype }), () => Tensor.eye(n, undefined, { device, dtype })])()
      : c.rng.pick([() => eye(n, m, { device, dtype }), () => Tensor.eye(n, m, { device, dtype })])();
    const shape = [n, square ? n : m];
    assert.equal([made.shape, made.dtype, made.device], [shape, dtype, device]);
    const expected = Array.from({ length: product(shape) }, (_, i) => {
      const [row, column] = coordinates(shape, i);
      return row === column ? 1 : 0;
    });
    close(await values(made), expected);
  });
  using plain = Tensor.eye(3);
  assert.equal([plain.shape, plain.dtype], [[3, 3], 'float32']);
  throws(() => eye(-1), RangeError, /^eye: n must be an integer of 0 or more, but is -1/);
  throws(() => Tensor.eye(2, 0.5), RangeError, /^Tensor\.eye: m must be an integer of 0 or more, but is 0\.5/);
  throws(() => eye(2, 3, 4 as never), TypeError, /^eye: options must be an object, but is 4/);
});

test('arange: 200 random ranges, each value rounded once', async () => {
  await cases(200, async (c) => {
    const whole = c.rng.next() < 0.5;
    const number = (scale: number) => (whole ? c.rng.integer(-scale, scale + 1) : c.rng.normal() * scale);
    const start = number(50);
    const step = number(5) || 1;
    const end = start + Math.abs(number(200)) * Math.sign(step);
    const { device } = c;
    const made = c.own(
      step === 1 && c.rng.next() < 0.5
        ? c.rng.pick([() => arange(start, end, { device }), () => Tensor.arange(start, end, undefined, { device })])()
        : c.rng.pick([() => arange(start, end, step, { device }), () => Tensor.arange(start, end, step, { device })])(),
    );
    const expected: number[] = [];
    for (let i = 0; i < Math.ceil((end - start) / step); i++) expected.push(start + i * step);
    assert.is(made.dtype, whole ? 'int32' : 'float32');
    close(await made.read(), whole ? expected : Float32Array.from(expected));
  });
});

test('arange: forms, dtypes, ends', async () => {
  assert.equal(await values(arange(4)), [0, 1, 2, 3]);
  assert.equal(await values(Tensor.arange(4)), [0, 1, 2, 3]);
  assert.equal(await values(arange(2, 5)), [2, 3, 4]);
  assert.equal(await values(arange(5, 2, -1)), [5, 4, 3]);
  assert.equal(await values(arange(3, 3)), []);
  for (const step of [1, -1, 0.5]) assert.ok(Object.is(arange(3, 3, step).shape[0], 0));
  assert.equal(await values(arange(0)), []);
  assert.equal(await values(arange(2 ** 31 - 3, 2 ** 31 - 1)), [2 ** 31 - 3, 2 ** 31 - 2]);
  using long = arange(2 ** 31 - 1, 2 ** 31);
  assert.is(long.dtype, 'float32', 'its end is no int32');
  // as torch.arange(0, 1, 0.1): 10 values, the last one below the end
  const tenths = await values(arange(0, 1, 0.1));
  close(
    tenths,
    Float32Array.from({ length: 10 }, (_, i) => i * 0.1),
  );
  using small = arange(4, { dtype: 'float16', device: testDevice() });
  assert.equal([small.dtype, small.device, await values(small.clone())], ['float16', testDevice(), [0, 1, 2, 3]]);
  using integers = arange(3.0, { dtype: 'float32' });
  assert.is(integers.dtype, 'float32');
  // 1 + 2^-9 + 2^-40 is above the middle of two bfloat16, and its float32 is that middle
  assert.equal(await values(arange(1 + 2 ** -8 + 2 ** -40, 2, 1, { dtype: 'bfloat16' })), [1 + 2 ** -7]);
  assert.equal(await values(arange(1 + 2 ** -8, 2, 1, { dtype: 'bfloat16' })), [1]);
  assert.equal(await values(arange(2048 + 1 + 2 ** -30, 2050, 3, { dtype: 'float16' })), [2050]);
  assert.equal(await values(arange(65_520 - 2 ** -30, 65_521, 3, { dtype: 'float16' })), [65_504]);
  throws(() => arange(0, 5, 0), RangeError, /^arange: step must be another number than 0, but is 0 \(from 0 to 5\)/);
  throws(() => arange(-1), RangeError, /^arange: step must be of the sign of end - start, but is 1 \(from 0 to -1\)/);
  throws(() => arange(0, 5, -1), RangeError, /^arange: step must be of the sign of end - start/);
  throws(() => arange(Infinity), RangeError, /^arange: end must be finite, but is Infinity/);
  throws(() => arange(0, 2, NaN), RangeError, /^arange: step must be finite, but is NaN/);
  throws(() => arange('3' as never), TypeError, /^arange: end must be a number, but is '3'/);
  throws(() => Tensor.arange(0, 1e300), RangeError, /^Tensor\.arange: shape must be/);
  throws(
    () => arange(0.5, 3, 1, { dtype: 'int32' }),
    RangeError,
    /^arange: start, end and step must be integers of 32/,
  );
  throws(() => arange(3, { dtype: 'bool' }), TypeError, /^arange: dtype must be float32, bfloat16, float16 or int32/);
  throws(() => arange(3, { dtyp: 'bool' } as never), TypeError, /^arange: 'dtyp' is no option/);
  throws(() => arange(1, 2, 3, 4 as never), TypeError, /^arange: options must be an object after start, end and step/);
});

test('arange in more than one part', async () => {
  const n = 2 ** 20 + 7;
  using range = arange(-3, n - 3, { device: testDevice() });
  const all = await range.read();
  assert.is(all.length, n);
  assert.ok(all.every((value, i) => value === i - 3));
  throws(() => arange(2 ** 50, { device: testDevice() }), OutOfMemoryError, /memory/);
});

test('roundedToOdd keeps what a second rounding needs', () => {
  const rng = random(3);
  const float = new Float32Array(1);
  const bits = new Int32Array(float.buffer);
  const edges = [0, -0, 1e-45, 7e-46, -7e-46, 1e-300, 3.4028235677973366e38, 1e300, -1e300, 1, 1 + 2 ** -24];
  for (const x of [...edges, ...Array.from({ length: 2000 }, () => rng.normal() * 2 ** rng.integer(-150, 128))]) {
    const got = roundedToOdd(x);
    float[0] = x;
    if (float[0] === x) {
      assert.ok(Object.is(got, x), `${x} is a float32`);
      continue;
    }
    float[0] = got;
    assert.is((bits[0] as number) & 1, 1, `${x}: the last bit of ${got}`);
    assert.ok(
      Math.abs(got - x) <= Math.max(Math.abs(x) * 2 ** -23, 2 ** -149) || Math.abs(x) > 3.4e38,
      `${got} for ${x}`,
    );
    assert.is(Math.sign(got), Math.sign(x));
  }
});

test('item', async () => {
  assert.is(await Tensor.from([[[2.5]]]).item(), 2.5);
  assert.is(await Tensor.from(7, { dtype: 'int32' }).item(), 7);
  assert.is(await Tensor.from([true, false]).select(0, 0).item(), 1);
  assert.is(await Tensor.from([1.5, 2.5], { dtype: 'bfloat16' }).select(0, 1).item(), 2.5);
  assert.ok(Number.isNaN(await Tensor.from(NaN).item()));
  await rejects(Tensor.zeros([2]).item(), RangeError, /^item: the tensor must be of one element, but is \[2\] of 2/);
  await rejects(
    Tensor.zeros([0, 2]).item(),
    RangeError,
    /^item: the tensor must be of one element, but is \[0, 2\] of 0/,
  );
  const gone = Tensor.zeros([1]);
  gone.dispose();
  await rejects(gone.item(), Error, /^item: tensor cannot be used: it was disposed/);
});

test('toArray: nested arrays that Tensor.from takes back, 200 random cases', async () => {
  await cases(200, async (c) => {
    const x = await c.tensor(c.rng.shape(c.rng.integer(0, 5), { elements: 500, max: 9 }));
    const array = await x.t.toArray();
    const visit = (level: unknown, dim: number): number[] => {
      if (dim === x.t.shape.length) return [level as number];
      assert.is((level as unknown[]).length, x.t.shape[dim]);
      return (level as unknown[]).flatMap((inner) => visit(inner, dim + 1));
    };
    close(visit(array, 0), x.x);
    if (x.t.size === 0) return;
    using back = Tensor.from(array, { device: c.device });
    assert.equal([...back.shape], [...x.t.shape]);
    close(await back.read(), x.x);
  });
  assert.equal(
    await Tensor.from([
      [1, 2],
      [3, 4],
    ])
      .permute([1, 0])
      .toArray(),
    [
      [1, 3],
      [2, 4],
    ],
  );
  assert.equal(await Tensor.from([true, false]).toArray(), [1, 0]);
  assert.is(await Tensor.from(3).toArray(), 3);
  assert.equal(await Tensor.zeros([2, 0, 3]).toArray(), [[], []]);
  assert.equal(await Tensor.zeros([0, 3]).toArray(), []);
});

test.run();
