// softmax, its logarithm and its numerator against loops in doubles.
import * as assert from 'uvu/assert';
import { logSoftmax, softmax, softmaxNumerator } from '../../src/engine/ops/softmax.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { suite, throws } from '../support/harness.js';
import { cases, unit } from '../support/operations/cases.js';
import { along, anyDim, sameInAnyBatch } from '../support/operations/rows.js';

const test = suite('softmax');

test('softmax and its numerator over any dimension', async () => {
  await cases(200, async (c) => {
    const [x, d] = await anyDim(c);
    x.t.mul_(c.rng.pick([1, 10]));
    const scaled = { t: x.t, x: Float64Array.from(await x.t.read()) };
    const { rows } = along(scaled, d);
    const exps = rows.map((row) => row.map((v) => Math.exp(v - Math.max(...row))));
    const tolerance = { rtol: unit[x.t.dtype] + 4e-6, atol: x.t.dtype === 'float16' ? 6e-8 : 1e-37 };
    const probs = c.own(softmax(x.t, d));
    assert.equal([...probs.shape], [...x.t.shape]);
    const got = along({ t: probs, x: Float64Array.from(await probs.read()) }, d).rows;
    close(
      got.flat(),
      exps.flatMap((row) => {
        const sum = row.reduce((a, b) => a + b, 0);
        return row.map((e) => e / sum);
      }),
      tolerance,
    );
    const numerator = c.own(softmaxNumerator(x.t, d));
    close(along({ t: numerator, x: Float64Array.from(await numerator.read()) }, d).rows.flat(), exps.flat(), tolerance);
  });
  using x = Tensor.from([
    [-Infinity, 0, 0],
    [-Infinity, -Infinity, -Infinity],
    [NaN, 1, 2],
    [1e30, 0, -1e30],
  ]);
  close(await softmax(x).read(), [0, 0.5, 0.5, NaN, NaN, NaN, NaN, NaN, NaN, 1, 0, 0]);
});

test('logSoftmax over any dimension', async () => {
  await cases(200, async (c) => {
    const [x, d] = await anyDim(c);
    x.t.mul_(c.rng.pick([1, 10, 1000]));
    const { rows } = along({ t: x.t, x: Float64Array.from(await x.t.read()) }, d);
    const logs = c.own(x.t.logSoftmax(c.rng.pick([d, d - x.t.shape.length])));
    assert.equal([logs.dtype, ...logs.shape], [x.t.dtype, ...x.t.shape]);
    close(
      along({ t: logs, x: Float64Array.from(await logs.read()) }, d).rows.flat(),
      rows.flatMap((row) => {
        const top = Math.max(...row);
        const log = Math.log(row.reduce((sum, v) => sum + Math.exp(v - top), 0));
        return row.map((v) => v - top - log);
      }),
      { rtol: unit[x.t.dtype] + 1e-6, atol: 1e-6 },
    );
    close(await c.own(x.t.softmax(d)).read(), await c.own(softmax(x.t, d)).read());
  });
  const [p, m] = [Infinity, -Infinity];
  using x = Tensor.from([
    [m, 0, m],
    [m, m, m],
    [NaN, 1, 2],
    [p, 0, 1],
    [0, -20, m],
    [120, 0, m],
  ]);
  const near = -Math.log1p(Math.exp(-20)); // the sum is 1 in float32
  const expected = [m, 0, m, NaN, NaN, NaN, NaN, NaN, NaN, NaN, NaN, NaN, near, near - 20, m, 0, -120, m];
  close(await logSoftmax(x).read(), expected, { rtol: 1e-5 });
  throws(
    () => logSoftmax(Tensor.zeros([2], { dtype: 'int32' })),
    TypeError,
    /^logSoftmax: t must be float32, bfloat16/,
  );
});

test('rows are the same bits for any batch and any number of threads', async () => {
  await sameInAnyBatch((x) => softmax(x));
});

test.run();
