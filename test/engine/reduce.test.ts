// Sums, means and maxima against loops in doubles.
import * as assert from 'uvu/assert';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { suite, throws } from '../support/harness.js';
import { cases, unit } from '../support/operations/cases.js';
import { along, anyDim, sameInAnyBatch } from '../support/operations/rows.js';

const test = suite('reduce');

test('sum, mean and max', async () => {
  await cases(200, async (c) => {
    const [x, d] = await anyDim(c, c.rng.next() < 0.9 ? 1 : 0);
    const { rows, rest } = along(x, d);
    const keepDim = c.rng.next() < 0.5;
    const r = { rtol: unit[x.t.dtype] + 1e-5, atol: 2e-5 };
    const sum = c.own(x.t.sum(d, { keepDim }));
    assert.equal([...sum.shape], keepDim ? x.t.shape.map((n, i) => (i === d ? 1 : n)) : rest);
    close(
      await sum.read(),
      rows.map((row) => row.reduce((a, b) => a + b, 0)),
      r,
    );
    close(
      await c.own(x.t.mean(d - x.t.shape.length)).read(),
      rows.map((row) => row.reduce((a, b) => a + b, 0) / row.length),
      r,
    );
    close(await c.own(x.t.sum()).read(), [x.x.reduce((a, b) => a + b, 0)], { rtol: r.rtol, atol: 1e-3 });
    if (x.t.size > 0) {
      close(
        await c.own(x.t.max(d)).read(),
        rows.map((row) => Math.max(...row)),
      );
      close(await c.own(x.t.max()).read(), [x.x.reduce((a, b) => Math.max(a, b))]);
    } else {
      throws(() => x.t.max(d), RangeError, /max: the tensor must be of at least one element/);
    }
  });
  using i = Tensor.from(
    [
      [2 ** 30, 2 ** 30],
      [3, 4],
    ],
    { dtype: 'int32' },
  );
  assert.equal([...(await i.sum(1).read())], [-(2 ** 31), 7]);
  assert.equal(
    [i.mean(1).dtype, ...(await i.mean(0).read())],
    ['float32', (2 ** 30 + 3) / 2, (2 ** 30 + 4) / 2].map((v) => (typeof v === 'number' ? Math.fround(v) : v)),
  );
  using flags = Tensor.from([true, true, false]);
  assert.equal([...(await flags.sum().read())], [2]);
  close(await Tensor.from([1, NaN, 2]).max(0).read(), [NaN]);
});

test('rows are the same bits for any batch and any number of threads', async () => {
  await sameInAnyBatch((x) => x.sum(1));
});

test.run();
