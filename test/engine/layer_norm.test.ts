// layerNorm against loops in doubles.
import { layerNorm } from '../../src/engine/ops/layer_norm.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { suite, throws } from '../support/harness.js';
import { cases, unit } from '../support/operations/cases.js';
import { layerNormed, sameInAnyBatch } from '../support/operations/rows.js';

const test = suite('layer_norm');

test('200 random shapes, layouts and dtypes, and a large mean', async () => {
  await cases(200, async (c) => {
    const shape = c.rng.shape(c.rng.integer(1, 4), { elements: 20_000 });
    const width = shape.at(-1) as number;
    const x = await c.tensor(shape);
    const shift = c.rng.pick([0, 0, 10]);
    x.t.add_(shift);
    const values = await x.t.read();
    const [gain, bias] = [await c.tensor([width]), await c.tensor([width])];
    const eps = c.rng.pick([1e-5, 1e-3]);
    const normed = c.own(layerNorm(x.t, gain.t, bias.t, { eps }));
    const expected = layerNormed(values, shape, gain.x, bias.x, eps);
    // a row of one or a few near-equal elements loses the digits that cancel
    const atol = 4e-6 * (1 + shift) * (width < 8 ? 60 : 1);
    close(await normed.read(), expected, { rtol: unit[x.t.dtype] + 4e-6, atol });
  });
  using large = Tensor.from([Array.from({ length: 768 }, (_, i) => 1000 + Math.sin(i))]);
  using one = Tensor.zeros([768]).fill(1);
  using zero = Tensor.zeros([768]);
  const row = [...(await large.read())];
  const mean = row.reduce((a, b) => a + b) / 768;
  const sd = Math.sqrt(row.reduce((a, b) => a + (b - mean) ** 2, 0) / 768 + 1e-5);
  close(
    await layerNorm(large, one, zero).read(),
    row.map((v) => (v - mean) / sd),
    { atol: 3e-4 },
  );
  throws(
    () => layerNorm(large, zero.slice(0, 1), zero),
    RangeError,
    /layerNorm: gain must be \[768\] \(the width of x \[1, 768\]\), but is \[767\]/,
  );
});

test('rows are the same bits for any batch and any number of threads', async () => {
  await sameInAnyBatch((x) => {
    using gain = Tensor.randn([777], { seed: 6, device: x.device });
    return layerNorm(x, gain, gain);
  });
});

test.run();
