// argmax against a search by hand.
import * as assert from 'uvu/assert';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { suite, throws } from '../support/harness.js';
import { cases } from '../support/operations/cases.js';
import { along, anyDim } from '../support/operations/rows.js';

const test = suite('argmax');

test('ties to the lowest index, NaN largest', async () => {
  await cases(200, async (c) => {
    const [x, d] = await anyDim(c, 1);
    const coarse = c.own(x.t.mul(2).to('int32')); // many ties
    const { rows, rest } = along({ t: coarse, x: Float64Array.from(await coarse.read()) }, d);
    const best = c.own(coarse.argmax(d));
    assert.equal([...best.shape], rest);
    close(
      await best.read(),
      rows.map((row) => row.indexOf(Math.max(...row))),
    );
  });
  using x = Tensor.from([[1, NaN, 3, NaN]]);
  assert.equal([...(await x.argmax(1).read())], [1]);
  throws(() => Tensor.zeros([2, 0]).argmax(1), RangeError, /argmax: dim must be a dimension that is not empty/);
});

test.run();
