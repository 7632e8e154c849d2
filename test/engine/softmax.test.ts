// softmax and its numerator against loops in doubles.
import * as assert from 'uvu/assert';
import { softmax, softmaxNumerator } from '../../src/engine/ops/softmax.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { suite } from '../support/harness.js';
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

test('rows are the same bits for any batch and any number of threads', async () => {
  await sameInAnyBatch((x) => softmax(x));
});

test.run();
