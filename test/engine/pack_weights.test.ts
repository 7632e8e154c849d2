// Packing weights and back. Oracle: the matrix that was packed.
import * as assert from 'uvu/assert';
import { packWeights } from '../../src/engine/ops/pack_weights.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { suite, throws } from '../support/harness.js';
import { cases } from '../support/operations/cases.js';

const test = suite('pack_weights');

test('packing and unpacking give the matrix back, transposed or not', async () => {
  await cases(200, async (c) => {
    const [k, n] = c.rng.shape(2, { max: 200, elements: 20_000 }) as [number, number];
    const w = await c.tensor([n, k]);
    const packed = c.own(packWeights(w.t, { transposeB: true }));
    assert.equal([packed.k, packed.n, packed.dtype], [k, n, w.t.dtype]);
    const back = c.own(packed.unpack({ transposeB: true }));
    assert.equal([...back.shape], [n, k]);
    close(await back.read(), w.x);
    const straight = c.own(packed.unpack());
    close(await c.own(straight.permute([1, 0]).clone()).read(), w.x);
  });
});

test('weights can be packed in another dtype', async () => {
  using w = Tensor.from([
    [1.00390625, 2],
    [3, 4],
  ]);
  using packed = packWeights(w, { dtype: 'bfloat16' });
  using back = packed.unpack();
  assert.equal([back.dtype, [...(await back.read())]], ['bfloat16', [1, 2, 3, 4]]);
});

test('wrong arguments are refused, disposed matrices too', () => {
  throws(() => packWeights(Tensor.zeros([4])), RangeError, /packWeights: b must be of 2 or more dimensions/);
  throws(() => packWeights(Tensor.zeros([4, 2, 2])), RangeError, /packWeights: b must be a matrix/);
  const w = packWeights(Tensor.zeros([4, 5]));
  w.dispose();
  throws(() => w.unpack(), Error, /it was disposed/);
});

test.run();
