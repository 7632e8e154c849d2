// updateLastNonzero against the same by hand.
import { updateLastNonzero } from '../../src/engine/ops/update_last_nonzero.js';
import { close } from '../support/close.js';
import { suite } from '../support/harness.js';
import { cases } from '../support/operations/cases.js';

const test = suite('update_last_nonzero');

test('updateLastNonzero counts the passes since a column was last not zero', async () => {
  await cases(200, async (c) => {
    const [rows, n] = c.rng.shape(2, { max: 600, elements: 20_000 }) as [number, number];
    const latents = await c.tensor([rows, n], { scale: 1 });
    const mask = await c.integers([rows, n], 0, 2);
    latents.t.mul_(mask.t).mul_((await c.integers([1, n], 0, 2)).t);
    const values = await latents.t.read();
    const stats = await c.integers([n], 0, 9);
    updateLastNonzero(stats.t, latents.t);
    const expected = stats.x.map((before, j) => {
      for (let row = 0; row < rows; row++) if (values[row * n + j] !== 0) return 1;
      return before + 1;
    });
    close(await stats.t.read(), expected);
  });
});

test.run();
