// cat and stack against the same joined by hand from arrays.
import * as assert from 'uvu/assert';
import { openDevice } from '../../src/engine/device.js';
import type { DType } from '../../src/engine/dtype.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { cat, stack } from '../../src/index.js';
import { close } from '../support/close.js';
import { testDevice } from '../support/device.js';
import { suite, throws } from '../support/harness.js';
import { type Case, cases, coordinates, product, type Sample } from '../support/operations/cases.js';

const test = suite('cat');

// as torch.promote_types, for two dtypes of sonde
const promoted = (a: DType, b: DType): DType => {
  if (a === b) return a;
  const order: DType[] = ['bool', 'int32'];
  if (order.includes(a) && order.includes(b)) return 'int32';
  if (order.includes(a)) return b;
  if (order.includes(b)) return a;
  return 'float32';
};

async function anyTensor(c: Case, shape: number[]): Promise<Sample> {
  const kind = c.rng.next();
  if (kind < 0.6) return c.tensor(shape);
  // beyond the 24 bits of float32 where all are integers: these stay exact
  const integers = await c.integers(shape, kind < 0.8 ? -(2 ** 31) : 0, kind < 0.8 ? 2 ** 31 : 2);
  if (kind < 0.8) return integers;
  return { t: c.own(integers.t.to('bool')), x: integers.x };
}

const at = ({ t, x }: Sample, coords: readonly number[]): number =>
  x[coords.reduce((i, value, d) => i * (t.shape[d] as number) + value, 0)] as number;

/** The values as `dtype` holds them; 16-bit floats become float32 exactly, int32 is rounded. */
const rounded = (value: number, dtype: DType) => (dtype === 'float32' ? Math.fround(value) : value);

async function checkJoined(got: Tensor, parts: Sample[], d: number, shape: number[]): Promise<void> {
  assert.equal([...got.shape], shape);
  const dtype = parts.map(({ t }) => t.dtype).reduce(promoted);
  assert.is(got.dtype, dtype);
  assert.ok(got.isContiguous);
  const owners = parts.flatMap((part) =>
    Array.from({ length: part.t.shape[d] as number }, (_, i) => [part, i] as const),
  );
  const expected = Array.from({ length: product(shape) }, (_, i) => {
    const coords = coordinates(shape, i);
    const [part, index] = owners[coords[d] as number] as readonly [Sample, number];
    return rounded(at(part, coords.with(d, index)), dtype);
  });
  if (dtype === 'bfloat16' || dtype === 'float16') {
    const unit = dtype === 'bfloat16' ? 2 ** -8 : 2 ** -11;
    close(
      await got.read(),
      expected.map((v) => (dtype === 'float16' && Math.abs(v) >= 65_520 ? Math.sign(v) * Infinity : v)),
      { rtol: unit }, // int32 beside it is rounded
    );
  } else close(await got.read(), expected);
}

test('cat: 200 random cases', async () => {
  await cases(200, async (c) => {
    const sizes = c.rng.shape(c.rng.integer(1, 5), { elements: 2000, max: 31 });
    const dim = c.rng.integer(-sizes.length, sizes.length);
    const d = dim < 0 ? dim + sizes.length : dim;
    const parts: Sample[] = [];
    for (let i = c.rng.integer(1, 5); i > 0; i--)
      parts.push(await anyTensor(c, sizes.with(d, c.rng.pick([0, 1, 3, 17]))));
    const total = parts.reduce((sum, { t }) => sum + (t.shape[d] as number), 0);
    await checkJoined(
      c.own(
        cat(
          parts.map(({ t }) => t),
          dim,
        ),
      ),
      parts,
      d,
      sizes.with(d, total),
    );
  });
});

test('stack: 200 random cases', async () => {
  await cases(200, async (c) => {
    const sizes = c.rng.shape(c.rng.integer(0, 5), { elements: 2000, max: 31 });
    const dim = c.rng.integer(-sizes.length - 1, sizes.length + 1);
    const d = dim < 0 ? dim + sizes.length + 1 : dim;
    const parts: Sample[] = [];
    for (let i = c.rng.integer(1, 5); i > 0; i--) parts.push(await anyTensor(c, sizes));
    const views = parts.map(({ t, x }) => ({ t: t.unsqueeze(d), x }));
    await checkJoined(
      c.own(
        stack(
          parts.map(({ t }) => t),
          dim,
        ),
      ),
      views,
      d,
      sizes.toSpliced(d, 0, parts.length),
    );
  });
});

test('each input is copied once, whatever its strides', () => {
  const device = testDevice();
  const run = device.run.bind(device);
  const called: string[] = [];
  device.run = (operation, ...args) => {
    called.push(operation);
    run(operation, ...args);
  };
  try {
    using a = Tensor.zeros([3, 4], { device });
    called.length = 0;
    using joined = cat([a.transpose(0, 1), a.slice(1, 1).transpose(0, 1), a.select(0, 0).unsqueeze(1).expand(4, 3)]);
    using stacked = stack([a, a], -1);
    assert.equal([called, joined.shape, stacked.shape], [Array(5).fill('copy'), [11, 3], [3, 4, 2]]);
  } finally {
    device.run = run;
  }
});

test('the default dimension is the first; odd values stay as they are', async () => {
  using a = Tensor.from([
    [NaN, Infinity],
    [-0, 1e-45],
  ]);
  using b = Tensor.from([[1, 2]]);
  using joined = cat([a, b]);
  const values = await joined.read();
  close(values, [NaN, Infinity, 0, 2 ** -149, 1, 2]);
  assert.ok(Object.is(values[2], -0));
  using stacked = stack([a, a]);
  assert.equal([...stacked.shape], [2, 2, 2]);
});

test('wrong arguments name the place in the list', () => {
  const device = testDevice();
  using a = Tensor.zeros([2, 3], { device });
  using b = Tensor.zeros([2, 4], { device });
  using scalar = Tensor.zeros([], { device });
  using elsewhere = Tensor.zeros([2, 3], { device: openDevice('cpu', { threads: 1 }) });
  throws(() => cat([]), RangeError, /^cat: tensors must be a list of one tensor or more, but is empty/);
  throws(() => stack([]), RangeError, /^stack: tensors must be a list of one tensor or more, but is empty/);
  throws(() => cat(a as never), TypeError, /^cat: tensors must be a list of tensors, but is a Tensor/);
  throws(() => cat([a, b]), RangeError, /^cat: tensors\[1\] must be \[…, 3\] \(as tensors\[0\] is\), but is \[2, 4\]/);
  throws(() => cat([a, a, scalar], 1), RangeError, /^cat: tensors\[2\] must be \[2, …\].*but is \[\]/);
  throws(() => cat([scalar]), RangeError, /^cat: tensors\[0\] must be of 1 or more dimensions/);
  throws(() => cat([a], 2), RangeError, /^cat: dim must be a dimension of \[2, 3\], from -2 to 1, but is 2/);
  throws(() => cat([a, 5 as never]), TypeError, /^cat: tensors\[1\] must be a tensor, but is 5/);
  throws(() => cat([a, undefined as never]), TypeError, /^cat: tensors\[1\] must be a tensor, but is undefined/);
  throws(
    () => cat([a, elsewhere]),
    TypeError,
    /^cat: tensors\[1\] must be on .*, where tensors\[0\] is, but is on cpu/,
  );
  throws(
    () => stack([a, b]),
    RangeError,
    /^stack: tensors\[1\] must be \[2, 3\] \(as tensors\[0\] is\), but is \[2, 4\]/,
  );
  throws(() => stack([a], 3), RangeError, /^stack: dim must be an integer from -3 to 2, but is 3/);
  using deep = Tensor.zeros([1, 1, 1, 1, 1, 1, 1, 1], { device });
  throws(() => stack([deep]), RangeError, /^stack: shape must be of at most 8 dimensions/);
  const gone = Tensor.zeros([2, 3], { device });
  gone.dispose();
  throws(() => cat([a, gone]), Error, /^cat: tensors\[1\] cannot be used: it was disposed/);
});

test.run();
