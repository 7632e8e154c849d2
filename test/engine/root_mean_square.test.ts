// rootMeanSquare against loops in doubles.
import { rootMeanSquare } from '../../src/engine/ops/root_mean_square.js';
import { close } from '../support/close.js';
import { suite } from '../support/harness.js';
import { cases, eachRow, unit } from '../support/operations/cases.js';

const test = suite('root_mean_square');

test('200 random shapes, layouts and dtypes', async () => {
  await cases(200, async (c) => {
    const shape = c.rng.shape(c.rng.integer(1, 4), { elements: 20_000 });
    const width = shape.at(-1) as number;
    const x = await c.tensor(shape);
    const shift = c.rng.pick([0, 0, 10]);
    x.t.add_(shift);
    const values = await x.t.read();
    const eps = c.rng.pick([1e-5, 1e-3]);
    const roots: number[] = [];
    eachRow(shape, (_, offset, n) => {
      const row = Array.from(values.slice(offset, offset + n));
      roots.push(Math.sqrt(row.reduce((a, b) => a + b * b, 0) / n + eps));
    });
    if (width > 0) close(await c.own(rootMeanSquare(x.t, { eps })).read(), roots, { rtol: unit[x.t.dtype] + 4e-6 });
  });
});

test.run();
