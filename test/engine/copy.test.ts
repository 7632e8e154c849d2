// Copies between any layouts and dtypes, against the same by hand.
import * as assert from 'uvu/assert';
import { isFloat } from '../../src/engine/dtype.js';
import { DeviceError } from '../../src/engine/errors.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { testDevice } from '../support/device.js';
import { rejects, suite } from '../support/harness.js';
import { cases, unit } from '../support/operations/cases.js';
import { anyOf, specialValues } from '../support/operations/elementwise.js';

const test = suite('copy');

test('special values', async () => {
  using x = Tensor.from([...specialValues]);
  using half = x.to('float16');
  close(await half.read(), [NaN, Infinity, -Infinity, 0, 0, 0, Infinity, -Infinity, 1], {});
});

test('floats become int32 by truncation, and those that int32 does not hold are an error', async () => {
  const device = testDevice();
  const good = [1.9, -1.9, 0.5, -0, 2147483520, -2147483648, 1e-45];
  using x = Tensor.from(good, { device });
  close(await x.to('int32').read(), good.map(Math.trunc));
  for (const [value, said] of [
    [NaN, 'NaN'],
    [Infinity, 'inf'],
    [-Infinity, '-inf'],
    [2147483648, '2.14748365e\\+09'],
    [-2147483904, '-2.1474839e\\+09'],
    [2 ** 127, '1.70141183e\\+38'],
  ] as const) {
    const rows = Array.from({ length: 50 }, (_, i) => Array.from({ length: 70 }, (_, j) => i - j));
    (rows[31] as number[])[47] = value;
    using wide = Tensor.from(rows, { device });
    const why = (at: number) =>
      new RegExp(`^copy: element ${at} is ${said}, which int32 does not hold \\(of out \\[.*\\] int32, x `);
    await rejects(wide.to('int32').read(), DeviceError, why(31 * 70 + 47));
    await rejects(wide.permute([1, 0]).to('int32').read(), DeviceError, why(47 * 50 + 31));
    await rejects(wide.slice(0, 31).slice(1, 3).to('int32').read(), DeviceError, why(44));
    using into = Tensor.zeros([3, 70], { dtype: 'int32', device });
    await rejects(into.copyFrom(wide.select(0, 31)).read(), DeviceError, why(47));
    if (Math.abs(value) > 3e9 || Number.isNaN(value)) {
      await rejects(wide.to('bfloat16').to('int32').read(), DeviceError, /^copy: element 2217 is /);
    }
    assert.is((await wide.to('bool').read())[31 * 70 + 47], 1);
  }
});

test('clone, copyFrom and to between any layouts and dtypes', async () => {
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
  });
});

test.run();
