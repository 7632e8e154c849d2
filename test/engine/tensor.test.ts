// Tensors, views and host data, against the same done by hand on arrays.
import * as assert from 'uvu/assert';
import { DeviceError } from '../../src/engine/errors.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { rejects, suite, throws } from '../support/harness.js';

const test = suite('tensor');
const numbers = async (t: Tensor) => [...(await t.read())];

test('from nested arrays, typed arrays and file tensors', async () => {
  using nested = Tensor.from([
    [1, 2, 3],
    [4, 5, 6],
  ]);
  assert.equal([nested.shape, nested.dtype, nested.size], [[2, 3], 'float32', 6]);
  assert.equal(await numbers(nested), [1, 2, 3, 4, 5, 6]);
  using tokens = Tensor.from([[1, 2]], { dtype: 'int32' });
  assert.instance(await tokens.read(), Int32Array);
  using flags = Tensor.from([true, false]);
  assert.is(flags.dtype, 'bool');
  assert.equal(await numbers(flags), [1, 0]);
  using long = Tensor.from(BigInt64Array.from([5n, -7n]));
  assert.equal([long.dtype, await numbers(long)], ['int32', [5, -7]]);
  using double = Tensor.from(Float64Array.from([0.5, 0.25]), { shape: [2, 1] });
  assert.equal([double.dtype, double.shape, await numbers(double)], ['float32', [2, 1], [0.5, 0.25]]);
  using bits = Tensor.from(Uint16Array.from([0x3f80, 0xc000]), { dtype: 'bfloat16' });
  assert.equal(await numbers(bits), [1, -2]);
  using half = Tensor.from({ dtype: 'float16', shape: [2], data: Uint16Array.from([0x3c00, 0xfc00]) });
  assert.equal([half.dtype, await numbers(half)], ['float16', [1, -Infinity]]);
  using scalar = Tensor.from(3);
  assert.equal([scalar.shape, await numbers(scalar)], [[], [3]]);
  using empty = Tensor.from([], { shape: [0, 4] });
  assert.equal([empty.shape, await numbers(empty)], [[0, 4], []]);
});

test('wrong host data says what is wrong and where', () => {
  throws(
    () => Tensor.from([[1, 2], [3]]),
    RangeError,
    /Tensor\.from: data, near element 2, must be an array of length 2/,
  );
  throws(() => Tensor.from([1, 'x'] as never), TypeError, /element 1, must be a number, but is 'x'/);
  throws(
    () => Tensor.from(new Float32Array(3), { shape: [2, 2] }),
    RangeError,
    /shape must be of 3 elements.*\[2, 2\]/,
  );
  throws(() => Tensor.from([1.5], { dtype: 'int32' }), RangeError, /data\[0\] must be an integer of 32 bits/);
  throws(() => Tensor.from(BigInt64Array.from([2n ** 40n])), RangeError, /data\[0\] must be in the range of int32/);
  throws(() => Tensor.from('text' as never), TypeError, /data must be a typed array.*'text'/);
  throws(() => Tensor.empty([-1]), RangeError, /shape must be integers of 0 or more/);
  throws(() => Tensor.empty([1, 1, 1, 1, 1, 1, 1, 1, 1]), RangeError, /at most 8 dimensions/);
  throws(() => Tensor.empty([2 ** 30, 2 ** 30]), RangeError, /fewer than 2\^51 elements/);
  throws(() => Tensor.empty([1], { dtype: 'float64' as never }), TypeError, /dtype must be float32,/);
});

test('host data that a dtype does not hold is refused', async () => {
  for (const value of [1.5, NaN, Infinity, -Infinity, 2 ** 31, -(2 ** 31) - 256, 1e300]) {
    for (const data of [[7, value], Float32Array.of(7, value), Float64Array.of(7, value)]) {
      throws(
        () => Tensor.from(data, { dtype: 'int32' }),
        RangeError,
        /^Tensor\.from: data\[1\] must be an integer of 32/,
      );
    }
  }
  // beyond the digits of float32
  using exact = Tensor.from(Float64Array.of(2 ** 24 + 1, -(2 ** 31)), { dtype: 'int32' });
  assert.equal(await numbers(exact), [2 ** 24 + 1, -(2 ** 31)]);
  for (const data of [[0, -0, NaN, 0.5, 2], Float32Array.of(0, -0, NaN, 0.5, 2)]) {
    using flags = Tensor.from(data, { dtype: 'bool' });
    assert.equal(await numbers(flags), [0, 0, 1, 1, 1]);
  }
  throws(() => Tensor.from([true, 5] as never), TypeError, /element 1, must be a boolean, as the first one, but is 5/);
  throws(
    () => Tensor.from([5, true] as never),
    TypeError,
    /element 1, must be a number, as the first one, but is true/,
  );
  const stored = (dtype: string, data: unknown) => () => Tensor.from({ dtype, shape: [2], data } as never);
  throws(
    stored('flaot16', new Uint16Array(2)),
    TypeError,
    /^Tensor\.from: data\.dtype must be float64, float32,.*'flaot16'/,
  );
  throws(stored('float32', new Int32Array(2)), TypeError, /data\.data must be a Float32Array, as its dtype is float32/);
  throws(stored('int32', new Float32Array(2)), TypeError, /data\.data must be a Int32Array.*but is a Float32Array/);
  const endless: unknown[] = [];
  endless.push(endless);
  throws(() => Tensor.from(endless as never), RangeError, /^Tensor\.from: shape must be of at most 8 dimensions/);
});

test('views share memory; writes show in the original', async () => {
  using t = Tensor.from([
    [1, 2, 3],
    [4, 5, 6],
  ]);
  t.select(-1, 1).fill(0);
  assert.equal(await numbers(t), [1, 0, 3, 4, 0, 6]);
  t.slice(0, 1).add_(10);
  assert.equal(await numbers(t), [1, 0, 3, 14, 10, 16]);
  assert.equal(await numbers(t.slice(1, 0, -1)), [1, 0, 14, 10]);
  assert.equal(await numbers(t.permute([1, 0])), [1, 14, 0, 10, 3, 16]);
  assert.equal(await numbers(t.permute([1, 0]).select(0, -1)), [3, 16]);
  assert.equal(await numbers(t.reshape(3, -1).select(0, 2)), [10, 16]);
  t.select(0, 0).copyFrom(Tensor.from([7]));
  assert.equal(await numbers(t), [7, 7, 7, 14, 10, 16]);
  using transposed = t.permute([1, 0]).reshape(-1);
  transposed.fill(0);
  assert.equal(await numbers(t), [7, 7, 7, 14, 10, 16], 'a reshape that strides forbid is a copy');
});

test('a write that overlaps what it reads behaves as if it had been read first', async () => {
  using t = Tensor.from([1, 2, 3, 4, 5]);
  t.slice(0, 1).add_(t.slice(0, 0, -1));
  assert.equal(await numbers(t), [1, 3, 5, 7, 9]);
  t.slice(0, 1).copyFrom(t.slice(0, 0, -1));
  assert.equal(await numbers(t), [1, 1, 3, 5, 7]);
});

test('wrong indices and shapes are refused', () => {
  using t = Tensor.zeros([2, 3]);
  throws(() => t.select(2, 0), RangeError, /select: dim must be a dimension of \[2, 3\], from -2 to 1, but is 2/);
  throws(() => t.select(0, 2), RangeError, /select: i must be an integer from -2 to 1, but is 2/);
  throws(() => t.slice(1, 2, 1), RangeError, /slice: to must be 2 or more/);
  throws(() => t.slice(1, 0, 4), RangeError, /slice: to must be an integer from -3 to 3, but is 4/);
  throws(() => t.reshape(4, 2), RangeError, /reshape: shape must be of 6 elements \(\[2, 3\]\), but is \[4, 2\]/);
  throws(() => t.reshape(-1, -1), RangeError, /reshape: shape/);
  throws(
    () => t.reshape(...([[3, 2], 1] as never)),
    RangeError,
    /reshape: shape .* but is \[an array of length 2, 1\]/,
  );
  throws(() => t.permute([0, 0]), RangeError, /permute: dims must be each dimension/);
  throws(() => t.copyFrom(Tensor.zeros([3, 2])), RangeError, /copyFrom: other must be broadcastable to \[2, 3\]/);
  throws(() => t.add(Tensor.zeros([2])), RangeError, /add: x must be broadcastable with \[2, 3\], but is \[2\]/);
  throws(() => t.add_(Tensor.zeros([4, 2, 3])), RangeError, /add_: x must be broadcastable to \[2, 3\]/);
  throws(() => t.add({} as never), TypeError, /add: x must be a tensor, but is a Object/);
  throws(() => t.add_('1' as never), TypeError, /add_: x must be a number/);
});

test('a disposed tensor, and a view of one, throw when used', async () => {
  const t = Tensor.zeros([2, 3]);
  const row = t.select(0, 0);
  t.dispose();
  t.dispose();
  throws(() => t.add(1), Error, /add: tensor cannot be used: it was disposed/);
  throws(() => row.fill(1), Error, /fill: tensor cannot be used: it was disposed/);
  await rejects(t.read(), Error, /it was disposed/);
  using live = Tensor.zeros([2]);
  const view = live.slice(0, 1);
  view.dispose();
  assert.equal(await numbers(live), [0, 0], 'disposing a view leaves its owner alone');
});

test('readInto takes the right array only', async () => {
  using t = Tensor.from([1, 2], { dtype: 'bfloat16' });
  const raw = new Uint16Array(2);
  await t.readInto(raw);
  assert.equal([...raw], [0x3f80, 0x4000]);
  await rejects(t.readInto(new Float32Array(3)), RangeError, /readInto: host must be 2 long/);
  await rejects(t.readInto(new Int32Array(2)), TypeError, /host must be a Float32Array for bfloat16/);
});

test('readChecked finds a value that is not finite as it is stored, wherever it is', async () => {
  const [large, larger] = [65_519.996, 3.3961773e38]; // the largest that do not overflow float16 and bfloat16
  for (const length of [1, 7, 64, 1000]) {
    for (const [odd, ...found] of [
      [1, false, false, false],
      [-large, false, false, false],
      [-65_520, true, false, false],
      [larger, true, false, false],
      [3.3961775e38, true, true, false],
      [-Infinity, true, true, true],
      [Number.NaN, true, true, true],
    ] as const) {
      for (const at of new Set([0, length >> 1, length - 1])) {
        const values = Float32Array.from({ length }, (_, i) => (i === at ? odd : i - 3));
        using t = Tensor.from(values);
        const host = new Float32Array(length);
        const results: boolean[] = [];
        for (const as of ['float16', 'bfloat16', 'float32'] as const) {
          results.push(await t.readChecked(host, as));
          assert.equal([...host], [...values]);
          if (as === 'float32') continue;
          using rounded = t.to(as);
          const expected = (await rounded.read()).some((x) => !Number.isFinite(x));
          assert.is(await rounded.readChecked(new Uint16Array(length), as), expected, `${odd} as ${as}`);
          assert.is(await rounded.readChecked(new Float32Array(length), as), expected, `${odd} as ${as}, widened`);
        }
        assert.equal(results, found, `${odd} at ${at} of ${length}`);
      }
    }
  }
  using none = Tensor.zeros([0, 4]);
  assert.is(await none.readChecked(new Float32Array(0), 'float16'), false);
  using view = Tensor.from([1, Number.NaN, 2]).slice(0, 0, 1);
  assert.is(await view.readChecked(new Float32Array(1), 'float32'), false);
  using integers = Tensor.from([1, 2], { dtype: 'int32' });
  await rejects(integers.readChecked(new Int32Array(2), 'float32'), TypeError, /only floats are checked/);
  await rejects(none.readChecked(new Float32Array(3), 'float32'), RangeError, /readInto: host must be 0 long/);
});

test('to() converts', async () => {
  using t = Tensor.from([0, 1.5, -2.75, 3e9]);
  using i = t.slice(0, 0, 3).to('int32');
  assert.equal(await numbers(i), [0, 1, -2]);
  await rejects(
    t.to('int32').read(),
    DeviceError,
    /^copy: element 3 is 3e\+09, which int32 does not hold \(of out \[4\]/,
  );
  using b = t.to('bool');
  assert.equal(await numbers(b), [0, 1, 1, 1]);
  using h = t.to('float16');
  close(await h.read(), [0, 1.5, -2.75, Infinity], {});
});

test('random tensors', async () => {
  using a = Tensor.randn([1000], { seed: 7, mean: 2, std: 3 });
  using b = Tensor.randn([1000], { seed: 7, mean: 2, std: 3 });
  assert.equal(await a.read(), await b.read());
  using i = Tensor.randint(-3, 4, [1000], { seed: 1 });
  assert.equal(new Set(await i.read()), new Set([-3, -2, -1, 0, 1, 2, 3]));
  throws(() => Tensor.randint(3, 3, [1], { seed: 1 }), RangeError, /high must be an integer from 4/);
  throws(() => Tensor.randn([1], { seed: -1 }), RangeError, /seed must be/);
});

test.run();
