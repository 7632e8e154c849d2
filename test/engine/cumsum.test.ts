// cumsum against loops in doubles.
import * as assert from 'uvu/assert';
import { DeviceError } from '../../src/engine/errors.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { testDevice } from '../support/device.js';
import { rejects, suite, throws } from '../support/harness.js';
import { cases, unit } from '../support/operations/cases.js';
import { along, anyDim, sameInAnyBatch } from '../support/operations/rows.js';

const test = suite('cumsum');

const sums = (row: readonly number[]): number[] => {
  let sum = 0;
  return row.map((x) => {
    sum += x;
    return sum;
  });
};

test('sums up to each element, over any dimension of any dtype', async () => {
  await cases(200, async (c) => {
    const [floats, d] = await anyDim(c);
    const kind = c.rng.pick(['float', 'float', 'int32', 'bool'] as const);
    const t = kind === 'float' ? floats.t : c.own(c.own(floats.t.mul(3)).to(kind));
    const { rows } = along({ t, x: Float64Array.from(await t.read()) }, d);
    const out = c.own(t.cumsum(c.rng.pick([d, d - t.shape.length])));
    assert.is(out.dtype, kind === 'float' ? t.dtype : 'int32');
    assert.equal([...out.shape], [...t.shape]);
    assert.ok(out.isContiguous);
    const got = along({ t: out, x: Float64Array.from(await out.read()) }, d).rows;
    const exact = kind !== 'float';
    close(got.flat(), rows.flatMap(sums), exact ? {} : { rtol: unit[t.dtype] + 1e-7, atol: 1e-6 });
  });
});

test('each sum is rounded once, and passes on what is not finite from there', async () => {
  const device = testDevice();
  const n = 3001;
  const tenth = Math.fround(0.1);
  const expected = Float32Array.from({ length: n }, (_, i) => (i + 1) * tenth);
  using x = Tensor.zeros([n], { device }).fill(0.1);
  close(await x.cumsum(0).read(), expected, { rtol: 2 ** -24 });
  using wide = Tensor.zeros([n, 5], { device }).fill(0.1);
  const across = await wide.cumsum(0).read();
  close(
    across.filter((_, i) => i % 5 === 3),
    expected,
    { rtol: 2 ** -24 },
  );
  using odd = Tensor.from(
    [
      [1, Infinity, 2, -Infinity, 1],
      [3e38, 3e38, -3e38, NaN, 0],
    ],
    { device },
  );
  const rows = [
    [1, Infinity, Infinity, NaN, NaN],
    [Math.fround(3e38), Infinity, Math.fround(3e38), NaN, NaN],
  ];
  close(await odd.cumsum(1).read(), rows.flat());
  using turned = odd.permute([1, 0]).clone();
  close(await turned.permute([1, 0]).cumsum(-1).read(), rows.flat());
  close(await turned.cumsum(0).permute([1, 0]).read(), rows.flat());
  assert.equal([...(await Tensor.zeros([0, 3], { device }).cumsum(0).read())], []);
});

test('integers are exact, or the sum is named that int32 does not hold', async () => {
  const device = testDevice();
  const most = 2 ** 31 - 1;
  using x = Tensor.from(
    [
      [most, 0, -1, 1],
      [most - 5, 3, 2, 1],
      [-(2 ** 31), 5, -6, 0],
    ],
    { dtype: 'int32', device },
  );
  assert.equal([...(await x.slice(0, 0, 1).cumsum(1).read())], [most, most, most - 1, most]);
  const why = /^cumsum: the sum of row 1 up to element 3 is 2147483648, which int32 does not hold \(of /;
  const beyond = /^cumsum: the sum of row 2 up to element 2 is -2147483649, which int32 does not hold \(of /;
  await rejects(x.slice(0, 0, 2).cumsum(1).read(), DeviceError, why);
  await rejects(x.slice(0, 1, 3).slice(0, 0, 1).cumsum(-1).read(), DeviceError, /row 0 up to element 3 is 2147483648/);
  using turned = x.permute([1, 0]).clone();
  await rejects(turned.slice(1, 0, 2).cumsum(0).read(), DeviceError, why);
  await rejects(turned.slice(1, 2).cumsum(0).read(), DeviceError, /row 0 up to element 2 is -2147483649/);
  using last = x.slice(0, 0, 3).add(0);
  last.slice(0, 0, 2).fill(0);
  await rejects(last.cumsum(1).read(), DeviceError, beyond);
  using cube = Tensor.zeros([2, 3, 4], { dtype: 'int32', device });
  cube.select(0, 1).select(1, 2).fill(most);
  await rejects(cube.cumsum(1).read(), DeviceError, /the sum of row 6 up to element 1 is 4294967294, which/);
  await device.synchronize();
});

test('rows are the same bits for any batch and any number of threads', async () => {
  await sameInAnyBatch((x) => x.cumsum(1));
});

test('a dimension that is not there', () => {
  throws(() => Tensor.zeros([2, 3]).cumsum(2), RangeError, /^cumsum: dim must be a dimension of \[2, 3\]/);
  throws(() => Tensor.zeros([]).cumsum(0), RangeError, /^cumsum: dim must be a dimension of \[\]/);
});

test.run();
