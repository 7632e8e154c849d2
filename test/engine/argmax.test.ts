// argmax and argmin against a search by hand.
import * as assert from 'uvu/assert';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { emulated, testDevice } from '../support/device.js';
import { suite, throws } from '../support/harness.js';
import { cases } from '../support/operations/cases.js';
import { along, anyDim } from '../support/operations/rows.js';

const test = suite('argmax');

test('ties to the lowest index, NaN largest', async () => {
  await cases(200, async (c) => {
    const [x, d] = await anyDim(c, 1);
    const whole = c.own(x.t.mul(2).to('int32')); // many ties
    const coarse = c.rng.pick([whole, c.own(whole.to('float32')), c.own(whole.to('bool'))]);
    const values = Float64Array.from(await coarse.read());
    const { rows, rest } = along({ t: coarse, x: values }, d);
    const best = c.own(coarse.argmax(d));
    assert.equal([...best.shape], rest);
    close(
      await best.read(),
      rows.map((row) => row.indexOf(Math.max(...row))),
    );
    const least = c.own(coarse.argmin(d - x.t.shape.length, { keepDim: true }));
    assert.equal(
      [...least.shape],
      x.t.shape.map((n, i) => (i === d ? 1 : n)),
    );
    close(
      await least.read(),
      rows.map((row) => row.indexOf(Math.min(...row))),
    );
    // in the order of the tensor, whatever that of its memory is
    const turned = coarse.permute([...x.t.shape.keys()].reverse());
    const flat = [...(await turned.read())];
    const [largest, smallest] = [flat.reduce((a, b) => Math.max(a, b)), flat.reduce((a, b) => Math.min(a, b))];
    assert.equal([...(await c.own(turned.argmax()).read())], [flat.indexOf(largest)]);
    assert.equal([...(await c.own(turned.argmin()).read())], [flat.indexOf(smallest)]);
  });
  using x = Tensor.from([[1, NaN, 3, NaN]]);
  assert.equal([...(await x.argmax(1).read())], [1]);
  throws(() => Tensor.zeros([2, 0]).argmax(1), RangeError, /argmax: dim must be a dimension that is not empty/);
});

test('over the first dimension, with NaN, infinities and integers that float32 does not hold', async () => {
  const device = testDevice();
  const values = [NaN, Infinity, -Infinity, 0, -0, 5, -5, 5];
  for (const [n, width] of [
    [1, 2],
    [7, 37],
    [40, 300],
  ] as [number, number][]) {
    const data = Float32Array.from({ length: n * width }, (_, i) => values[(i * 7 + Math.floor(i / 3)) % 8] as number);
    const whole = Int32Array.from(data, (v, i) => (v === 5 ? 2 ** 24 + (i % 3) : -(2 ** 31) + (i % 5)));
    using x = Tensor.from(data, { shape: [n, width], device });
    using y = Tensor.from(whole, { shape: [n, width], device });
    for (const [t, all] of [
      [x, data],
      [y, whole],
    ] as [Tensor, ArrayLike<number>][]) {
      const column = (j: number) => Array.from({ length: n }, (_, i) => all[i * width + j] as number);
      const expected = (pick: (...list: number[]) => number) =>
        Array.from({ length: width }, (_, j) => {
          const list = column(j);
          const nan = list.findIndex(Number.isNaN);
          return nan >= 0 ? nan : list.indexOf(pick(...list));
        });
      assert.equal([...(await t.argmax(0).read())], expected(Math.max));
      assert.equal([...(await t.argmin(0).read())], expected(Math.min));
    }
  }
});

test('odd values, and integers that float32 does not hold', async () => {
  const device = testDevice();
  for (const before of [0, 3, 4097]) {
    if (emulated() && before > 100) continue;
    for (const [row, most, least] of [
      [[-Infinity, -Infinity], 0, 0],
      [[Infinity, Infinity], 0, 0],
      [[-0, 0], 0, 0],
      [[0, -0], 0, 0],
      [[1, NaN, -Infinity, NaN], 1, 1],
      [[1e-45, 0, -1e-45], 0, 2],
      [[3, Infinity, -Infinity], 1, 2],
    ] as const) {
      const data = [...new Array(before).fill(row[0]), ...row];
      using x = Tensor.from(data, { device });
      const at = (i: number) => (i === 0 ? 0 : before + i);
      assert.equal([...(await x.argmax(0).read()), ...(await x.argmin().read())], [at(most), at(least)], String(row));
    }
  }
  using whole = Tensor.from([2 ** 24, 2 ** 24 + 1, -(2 ** 31), 1 - 2 ** 31, 2 ** 31 - 1, 2 ** 31 - 2], {
    dtype: 'int32',
    device,
  });
  assert.equal([...(await whole.argmin().read()), ...(await whole.argmax().read())], [2, 4]);
  assert.equal([...(await whole.slice(0, 0, 2).argmax(0).read())], [1]);
  assert.equal([...(await whole.slice(0, 4).argmin(0).read())], [1]);
  using scalar = Tensor.from([7], { shape: [], device });
  assert.equal([...(await scalar.argmax().read())], [0]);
  assert.equal([...Tensor.zeros([2, 3]).argmin(undefined, { keepDim: true }).shape], [1, 1]);
  throws(() => Tensor.zeros([2, 0]).argmin(), RangeError, /^argmin: the tensor must be of at least one element/);
  const long = Tensor.zeros([1]).expand(2 ** 31 + 1); // int32 does not hold the indices of so many
  throws(() => long.argmax(0), RangeError, /^argmax: dim must be a dimension of at most 2147483648, but is 0 of/);
  throws(() => long.argmin(), RangeError, /^argmin: the tensor must be of at most 2147483648 elements/);
  throws(() => Tensor.zeros([2, 0]).argmin(-1), RangeError, /^argmin: dim must be a dimension that is not empty/);
  throws(() => scalar.argmax(0, { keepdim: true } as never), TypeError, /no option/);
});

test.run();
