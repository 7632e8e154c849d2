// Filling tensors of any layout and dtype. Oracle: the value itself.
import { close } from '../support/close.js';
import { suite } from '../support/harness.js';
import { cases } from '../support/operations/cases.js';
import { anyOf } from '../support/operations/elementwise.js';

const test = suite('fill');

test('fill of any layout and dtype', async () => {
  await cases(200, async (c) => {
    const to = await anyOf(c, c.rng.shape(c.rng.integer(0, 5), { elements: 30_000 }));
    to.t.fill(-2.5);
    close(
      await to.t.read(),
      to.x.map(() => (to.t.dtype === 'int32' ? -2 : -2.5)),
    );
  });
});

test.run();
