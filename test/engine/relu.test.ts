// relu against the same on doubles.
import * as assert from 'uvu/assert';
import { relu } from '../../src/engine/ops/relu.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { suite } from '../support/harness.js';
import { cases } from '../support/operations/cases.js';
import { closeAs, specialValues } from '../support/operations/elementwise.js';

const test = suite('relu');

test('special values', async () => {
  using x = Tensor.from([...specialValues]);
  assert.equal(
    [...(await relu(x).read())].map((v) => (Object.is(v, -0) ? 0 : v)),
    specialValues.map((v) => (v > 0 || Number.isNaN(v) ? Math.fround(v) : 0)),
  );
});

test('200 random shapes, layouts and dtypes', async () => {
  await cases(200, async (c) => {
    const x = await c.tensor(c.rng.shape(c.rng.integer(0, 4)), { scale: 3 });
    closeAs(
      await c.own(relu(x.t)).read(),
      x.x.map((v) => Math.max(v, 0)),
      x.t.dtype,
    );
  });
});

test.run();
