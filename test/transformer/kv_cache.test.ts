// Caches: growth, other models' caches, passes at the same time. The oracle is the same sequence computed in one pass.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { close } from '../support/close.js';
import { rejects, suite, throws } from '../support/harness.js';

const test = suite('kv cache');
const tiny = join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny');
let xf: Transformer;
test.before(async () => {
  xf = await Transformer.load(tiny);
});

test('one token at a time is the sequence at once, through every growth of the buffers', async () => {
  const rows = [0, 1].map((row) => Array.from({ length: 20 }, (_, i) => (i * 7 + row * 13) % xf.nVocab));
  const whole = await xf.forward(rows);
  let kvCaches: typeof whole.kvCaches | undefined;
  for (let i = 0; i < 20; i++) {
    const step = await xf.forward(
      rows.map((row) => [row[i] as number]),
      kvCaches ? { kvCaches } : {},
    );
    kvCaches = step.kvCaches;
    assert.is(kvCaches.length, i + 1);
    close(await step.logits.select(1, 0).read(), await whole.logits.select(1, i).read(), { rtol: 1e-4, atol: 1e-4 });
    step.logits.dispose();
  }
  for (let layer = 0; layer < xf.config.nLayers; layer++) {
    close(
      await (kvCaches as NonNullable<typeof kvCaches>).keys(layer).read(),
      await whole.kvCaches.keys(layer).read(),
      {
        rtol: 1e-4,
        atol: 1e-4,
      },
    );
  }
  for (const t of [whole.logits, whole.kvCaches, kvCaches]) t?.dispose();
});

test('running out of memory while growing leaves the caches as they were', async () => {
  const first = await xf.forward([[1, 2, 3]]);
  const { kvCaches } = first;
  const { empty } = Tensor;
  for (const failing of [1, 2, 3]) {
    let buffers = 0;
    Tensor.empty = (shape, options) => {
      if (shape.length === 3 && shape[1] === 6 && ++buffers === failing) throw new Error('planted: no memory');
      return empty.call(Tensor, shape, options);
    };
    try {
      await rejects(xf.forward([[4]], { kvCaches }), Error, /planted: no memory/);
    } finally {
      Tensor.empty = empty;
    }
    assert.is(kvCaches.length, 3);
  }
  const next = await xf.forward([[4]], { kvCaches });
  const whole = await xf.forward([[1, 2, 3, 4]]);
  close(await next.logits.select(1, 0).read(), await whole.logits.select(1, 3).read(), { rtol: 1e-4, atol: 1e-4 });
  for (const t of [first.logits, next.logits, whole.logits, kvCaches]) t.dispose();
});

test('caches of a model of another size or dtype are refused, and stay usable', async () => {
  using half = await Transformer.load(tiny, { dtype: 'bfloat16' });
  using other = await Transformer.load('random:tiny');
  const first = await xf.forward([[1, 2]]);
  const { kvCaches } = first;
  for (const model of [half, other]) {
    await rejects(model.forward([[3]], { kvCaches }), TypeError, /kvCaches must be of this model/);
  }
  const next = await xf.forward([[3]], { kvCaches });
  assert.is(kvCaches.length, 3);
  throws(() => kvCaches.keys(9), RangeError, /kvCaches: layer must be from 0 to/);
  for (const t of [first.logits, next.logits, kvCaches]) t.dispose();
});

test('padding in the caches is still ignored', async () => {
  using tokens = Tensor.from(
    [
      [0, 0, 5, 6],
      [7, 8, 9, 10],
    ],
    { dtype: 'int32' },
  );
  using pad = Tensor.from([
    [true, true, false, false],
    [false, false, false, false],
  ]);
  const first = await xf.forward(tokens, { pad });
  const { kvCaches } = first;
  const next = await xf.forward([[11], [12]], { kvCaches });
  const alone = await xf.forward([[5, 6, 11]]);
  close(await next.logits.select(0, 0).read(), await alone.logits.select(1, 2).read(), { rtol: 1e-4, atol: 1e-4 });
  for (const t of [first.logits, next.logits, alone.logits, kvCaches]) t.dispose();
});

test('passes at the same time give the same as one by one, each with its caches', async () => {
  const prompts = Array.from({ length: 40 }, (_, i) => [[i, i + 1, i + 2]]);
  const together = await Promise.all(prompts.map((tokens) => xf.forward(tokens)));
  const held = together.map(({ logits, kvCaches }) => ({ logits, kvCaches })); // later passes release unread caches
  for (const [i, { logits, kvCaches }] of held.entries()) {
    const alone = await xf.forward(prompts[i] as number[][]);
    close(await logits.read(), await alone.logits.read());
    assert.is(kvCaches.length, 3);
    for (const t of [logits, alone.logits, kvCaches]) t.dispose();
  }
});

test.run();
