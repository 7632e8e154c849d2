// topk and topKMask against sorting by hand.
import * as assert from 'uvu/assert';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { topKMask } from '../../src/engine/ops/top_k.js';
import { close } from '../support/close.js';
import { suite, throws } from '../support/harness.js';
import { cases } from '../support/operations/cases.js';
import { along, anyDim } from '../support/operations/rows.js';

const test = suite('top_k');

test('ties to the lowest index, NaN largest', async () => {
  await cases(200, async (c) => {
    const [x] = await anyDim(c, 1);
    const coarse = c.own(x.t.mul(2).to('int32')); // many ties
    const sample = { t: coarse, x: Float64Array.from(await coarse.read()) };
    const subject = c.rng.next() < 0.5 ? sample : x;
    const last = along(subject, subject.t.shape.length - 1).rows;
    const n = subject.t.shape.at(-1) as number;
    const k = c.rng.pick([0, 1, Math.min(n, 6), n]);
    const { values, indices } = subject.t.topk(k);
    c.own(values);
    const order = last.map((row) =>
      [...row.keys()].sort((i, j) => (row[j] as number) - (row[i] as number) || i - j).slice(0, k),
    );
    close(await c.own(indices).read(), order.flat());
    close(
      await values.read(),
      order.flatMap((list, row) => list.map((i) => (last[row] as number[])[i] as number)),
    );
    const relu = c.rng.next() < 0.5;
    const masked = last.map((row, r) =>
      row.map((v, i) => ((order[r] as number[]).includes(i) ? (relu ? Math.max(v, 0) : v) : 0)),
    );
    close(await c.own(topKMask(subject.t, k, { relu })).read(), masked.flat());
  });
  using x = Tensor.from([[1, NaN, 3, NaN]]);
  assert.equal([...(await x.topk(3).indices.read())], [1, 3, 2]);
  throws(() => x.topk(5), RangeError, /topk: k must be an integer from 0 to 4, but is 5/);
});

test.run();
