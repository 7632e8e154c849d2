// gelu against its formula in doubles.
import { gelu } from '../../src/engine/ops/gelu.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { suite, throws } from '../support/harness.js';
import { cases, unit } from '../support/operations/cases.js';
import { specialValues } from '../support/operations/elementwise.js';

const test = suite('gelu');

test('special values', async () => {
  using x = Tensor.from([...specialValues]);
  const got = [...(await gelu(x).read())];
  close(got.slice(0, 2), [NaN, Infinity], {});
  close(got.slice(3), [0, 0, 5e-46, 3.4e38, 0, 0.8411919906082768], { rtol: 1e-6, atol: 1e-44 });
});

test('200 random shapes, layouts and dtypes', async () => {
  await cases(200, async (c) => {
    const x = await c.tensor(c.rng.shape(c.rng.integer(0, 4)), { scale: 3 });
    const expected = x.x.map((v) => 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3))));
    close(await c.own(gelu(x.t)).read(), expected, { rtol: unit[x.t.dtype] + 2e-6, atol: 1e-6 });
  });
  throws(() => gelu(Tensor.from([1], { dtype: 'int32' })), TypeError, /gelu: x must be float32, bfloat16 or float16/);
});

test.run();
