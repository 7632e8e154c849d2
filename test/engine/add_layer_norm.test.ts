// addLayerNorm against loops in doubles and, bit for bit, against add() and layerNorm() one after the other.
import * as assert from 'uvu/assert';
import { addLayerNorm } from '../../src/engine/ops/add_layer_norm.js';
import { layerNorm } from '../../src/engine/ops/layer_norm.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { suite, throws } from '../support/harness.js';
import { cases, unit } from '../support/operations/cases.js';
import { layerNormed, sameInAnyBatch } from '../support/operations/rows.js';

const test = suite('add_layer_norm');

test('the layer norm of a sum', async () => {
  await cases(200, async (c) => {
    const shape = c.rng.shape(c.rng.integer(1, 4), { elements: 20_000 });
    const width = shape.at(-1) as number;
    const a = await c.tensor(shape);
    const b = c.rng.next() < 0.1 ? a : await c.tensor(shape, { dtype: a.t.dtype, scale: 3 });
    const [gain, bias] = [await c.tensor([width]), await c.tensor([width])];
    const eps = c.rng.pick([1e-5, 1e-3]);
    const { sum, out } = addLayerNorm(a.t, b.t, gain.t, bias.t, { eps });
    for (const t of [sum, out]) assert.equal([[...c.own(t).shape], t.dtype], [shape, a.t.dtype]);
    const sums = await sum.read();
    close(
      sums,
      a.x.map((v, i) => v + (b.x[i] as number)),
      { rtol: unit[a.t.dtype], label: 'sum' },
    );
    const expected = layerNormed(sums, shape, gain.x, bias.x, eps);
    close(await out.read(), expected, { rtol: unit[a.t.dtype] + 4e-6, atol: 4e-6 * (width < 8 ? 60 : 1) });
    const apart = c.own(a.t.add(b.t));
    close(sums, await apart.read(), { label: 'sum and add()' });
    close(await out.read(), await c.own(layerNorm(apart, gain.t, bias.t, { eps })).read(), { label: 'bits' });
  });
  using a = Tensor.zeros([2, 3]);
  using g = Tensor.zeros([3]);
  throws(
    () => addLayerNorm(a, Tensor.zeros([3]), g, g),
    RangeError,
    /addLayerNorm: b must be \[2, 3\] \(the shape of a\), but is \[3\]/,
  );
  throws(
    () => addLayerNorm(a, Tensor.zeros([2, 3], { dtype: 'float16' }), g, g),
    TypeError,
    /addLayerNorm: b must be float32, but is float16/,
  );
  throws(
    () => addLayerNorm(a, a, g, a),
    RangeError,
    /addLayerNorm: bias must be \[3\] \(the width of a \[2, 3\]\), but is \[2, 3\]/,
  );
  throws(
    () => addLayerNorm(Tensor.zeros([2, 3], { dtype: 'int32' }), a, g, g),
    TypeError,
    /addLayerNorm: a must be float32, bfloat16 or float16, but is int32/,
  );
});

test('rows are the same bits for any batch and any number of threads', async () => {
  await sameInAnyBatch((x) => {
    using gain = Tensor.randn([777], { seed: 6, device: x.device });
    return addLayerNorm(x, x, gain, gain).out;
  });
});

test.run();
