// embedding against looking rows up by hand.
import * as assert from 'uvu/assert';
import { DeviceError } from '../../src/engine/errors.js';
import { embedding } from '../../src/engine/ops/embedding.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { rejects, suite, throws } from '../support/harness.js';
import { cases } from '../support/operations/cases.js';

const test = suite('embedding');

test('embedding looks rows up and adds them', async () => {
  await cases(200, async (c) => {
    const rows = c.rng.integer(1, 50);
    const width = c.rng.pick([0, 1, 7, 16, 48, 100]);
    const table = await c.tensor([rows, width]);
    const indices = await c.integers(c.rng.shape(c.rng.integer(0, 4), { max: 20, elements: 300 }), 0, rows);
    const got = c.own(embedding(indices.t, table.t));
    assert.equal([...got.shape], [...indices.t.shape, width]);
    const expected = [...indices.x].flatMap((i) => [...table.x.slice(i * width, (i + 1) * width)]);
    close(await got.read(), expected);
    const sum = c.own(got.clone());
    assert.is(embedding(indices.t, table.t, { addTo: sum }), sum);
    close(
      await sum.read(),
      expected.map((v) => 2 * v),
    );
  });
  using table = Tensor.zeros([5, 2]);
  for (const bad of [-1, 5, 2 ** 31 - 1]) {
    using index = Tensor.from([0, bad], { dtype: 'int32' });
    await rejects(
      embedding(index, table).read(),
      DeviceError,
      new RegExp(`embedding: index ${bad} at position 1 is outside \\[0, 5\\)`),
    );
  }
  throws(() => embedding(Tensor.zeros([2]), table), TypeError, /embedding: indices must be int32, but is float32/);
});

test.run();
