// Filling tensors of any layout and dtype. Oracle: the value itself.
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { testDevice } from '../support/device.js';
import { suite, throws } from '../support/harness.js';
import { cases } from '../support/operations/cases.js';
import { anyOf } from '../support/operations/elementwise.js';

const test = suite('fill');

test('fill of any layout and dtype', async () => {
  await cases(200, async (c) => {
    const to = await anyOf(c, c.rng.shape(c.rng.integer(0, 5), { elements: 30_000 }));
    const value = to.t.dtype === 'int32' ? -(2 ** 31) : -2.5;
    to.t.fill(value);
    close(
      await to.t.read(),
      to.x.map(() => value),
    );
  });
});

test('a value that int32 or bool does not hold is refused; floats round', async () => {
  const device = testDevice();
  using whole = Tensor.zeros([2, 3], { dtype: 'int32', device });
  for (const value of [0.5, -2.5, 2 ** 31, -(2 ** 31) - 1, NaN, Infinity, -Infinity, 1e300, 5e-324]) {
    throws(
      () => whole.fill(value),
      RangeError,
      new RegExp(
        `^fill: value must be an integer of 32 bits, as the tensor is int32, but is ${String(value).replace('+', '\\+')}$`,
      ),
    );
  }
  close(await whole.fill(2 ** 31 - 1).read(), new Array(6).fill(2 ** 31 - 1));
  close(await whole.fill(-0).read(), new Array(6).fill(0));
  using flags = Tensor.zeros([3], { dtype: 'bool', device });
  for (const value of [2, -1, 0.5, NaN, Infinity]) {
    throws(
      () => flags.fill(value),
      RangeError,
      new RegExp(`^fill: value must be 0 or 1, as the tensor is bool, but is ${value}$`),
    );
  }
  close(await flags.fill(1).read(), [1, 1, 1]);
  using half = Tensor.zeros([1], { dtype: 'float16', device });
  for (const [value, held] of [
    [0.1, 0.0999755859375],
    [1e6, Infinity],
    [NaN, NaN],
    [-Infinity, -Infinity],
  ] as const) {
    close(await half.fill(value).read(), [held]);
  }
});

test.run();
