// Copies between any layouts and dtypes, against the same by hand.
import { isFloat } from '../../src/engine/dtype.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { suite } from '../support/harness.js';
import { cases, unit } from '../support/operations/cases.js';
import { anyOf, specialValues } from '../support/operations/elementwise.js';

const test = suite('copy');

test('special values', async () => {
  using x = Tensor.from([...specialValues]);
  using half = x.to('float16');
  close(await half.read(), [NaN, Infinity, -Infinity, 0, 0, 0, Infinity, -Infinity, 1], {});
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
