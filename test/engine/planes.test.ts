// Planes: what an operation writes beside its result for the product that follows. Oracle: the product without them, bit
// for bit.
import * as assert from 'uvu/assert';
import type { Device } from '../../src/engine/device.js';
import { addLayerNorm } from '../../src/engine/ops/add_layer_norm.js';
import { attention } from '../../src/engine/ops/attention.js';
import { layerNorm } from '../../src/engine/ops/layer_norm.js';
import { linear } from '../../src/engine/ops/linear.js';
import { packWeights } from '../../src/engine/ops/pack_weights.js';
import { Planes, planesFor } from '../../src/engine/ops/planes.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { disposeAll } from '../../src/engine/scope.js';
import { close } from '../support/close.js';
import { onCpu, testDevice } from '../support/device.js';
import { rejects, suite, throws } from '../support/harness.js';
import { random } from '../support/random.js';

const test = suite('planes');
const device = testDevice();
const rng = random(31);

const normal = (...shape: number[]): Tensor => {
  const count = shape.reduce((a, b) => a * b, 1);
  return Tensor.from(
    Float32Array.from({ length: count }, () => rng.normal()),
    { device, shape },
  );
};
/** Planes, or memory like them where the device has no use for any. */
const planesOf = (rows: number, k: number, on: Device = device): Planes =>
  planesFor(on, 'float32', rows, k) ?? new Planes(on, rows, k, 64);

test('there are some where products read them', () => {
  assert.is(device.readsPlanes, planesFor(device, 'float32', 3, 64) !== undefined);
  if (onCpu) assert.not(device.readsPlanes);
  for (const [dtype, rows, k] of [
    ['bfloat16', 3, 64],
    ['float16', 3, 64],
    ['float32', 0, 64],
    ['float32', 3, 0],
    ['float32', 3, 72],
  ] as const) {
    assert.is(planesFor(device, dtype, rows, k), undefined, `${dtype} [${rows}, ${k}]`);
  }
  const { allocated } = device.memory();
  const planes = planesFor(device, 'float32', 3, 64);
  if (planes) assert.ok(device.memory().allocated > allocated);
  planes?.dispose();
  assert.is(device.memory().allocated, allocated);
});

test('a product has the same bits with those of its left side', async () => {
  if (!device.readsPlanes) return;
  const [B, S, H, C] = [2, 9, 3, 64];
  const A = H * C;
  using x = normal(B, S, A);
  using y = normal(B, S, A);
  using gain = normal(A);
  using bias = normal(A);
  using matrix = normal(A, 128);
  using w = packWeights(matrix);
  using back = normal(128, A);
  using v = packWeights(back);
  const same = async (value: Tensor, planes: Planes, label: string, of = w) => {
    using plain = linear(value, of);
    using quick = linear(value, of, { xPlanes: planes });
    close(await quick.read(), await plain.read(), { label });
    planes.dispose();
  };
  let planes = planesOf(B * S, A);
  using normed = layerNorm(x, gain, bias, { planes });
  await same(normed, planes, 'layerNorm');
  planes = planesOf(B * S, A);
  const { sum, out } = addLayerNorm(x, y, gain, bias, { planes });
  await same(out, planes, 'addLayerNorm');
  planes = planesOf(B * S, A);
  using heads = x.reshape(B, S, H, C);
  using mixed = attention(heads, heads, heads, { planes });
  using rows = mixed.reshape(B, S, A);
  await same(rows, planes, 'attention');
  for (const activation of ['none', 'relu', 'gelu'] as const) {
    planes = planesOf(B * S, 128);
    using active = linear(x, w, { activation, planes });
    await same(active, planes, activation, v);
  }
  disposeAll(sum, out);
});

test('what does not fit is refused', async () => {
  using x = normal(3, 64);
  using g = normal(64);
  using matrix = normal(64, 64);
  using w = packWeights(matrix);
  using p = planesOf(3, 64);
  throws(
    () => layerNorm(x, g, g, { planes: x as never }),
    TypeError,
    /^layerNorm: planes must be planes, but is a Tensor$/,
  );
  const other = planesOf(2, 64);
  const givers: [string, (planes: Planes) => void][] = [
    ['layerNorm', (planes) => layerNorm(x, g, g, { planes })],
    ['addLayerNorm', (planes) => addLayerNorm(x, x, g, g, { planes })],
    [
      'attention',
      (planes) => attention(x.reshape(1, 3, 1, 64), x.reshape(1, 3, 1, 64), x.reshape(1, 3, 1, 64), { planes }),
    ],
    ['linear', (planes) => linear(x, w, { planes })],
  ];
  for (const [operation, give] of givers) {
    throws(
      () => give(other),
      RangeError,
      new RegExp(`^${operation}: planes must be of \\[3, 64\\], but is \\[2, 64\\]$`),
    );
  }
  throws(
    () => linear(x, w, { xPlanes: other }),
    RangeError,
    /^linear: xPlanes must be of \[3, 64\], but is \[2, 64\]$/,
  );
  other.dispose();
  for (const [operation, give] of givers) {
    throws(() => give(other), Error, new RegExp(`^${operation}: planes cannot be used: they were disposed$`));
  }
  using half = x.to('float16');
  throws(() => layerNorm(half, g, g, { planes: p }), TypeError, /planes must be left out for float16, but is given/);
  throws(() => linear(x, w, { xPlanes: p }), Error, /^linear: xPlanes hold nothing$/);
  if (!device.readsPlanes) {
    using never = layerNorm(x, g, g, { planes: p });
    await rejects(() => never.read(), Error, /layerNorm: products of this device read no planes/);
    using nor = linear(never, w, { xPlanes: p });
    await rejects(() => nor.read(), Error, /linear: products of this device read no planes/);
    return;
  }
  using normed = layerNorm(x, g, g, { planes: p });
  throws(() => linear(x, w, { xPlanes: p }), Error, /^linear: xPlanes were written with another tensor than x$/);
  disposeAll(linear(normed, w, { xPlanes: p }));
});

test('an operation that is recorded in steps leaves them empty', () => {
  if (!onCpu) return; // gradients are computed on the CPU alone
  using x = normal(3, 64);
  x.requireGrad();
  using matrix = normal(64, 64);
  using w = packWeights(matrix);
  using planes = planesOf(3, 64);
  using active = linear(x, w, { activation: 'gelu', planes });
  throws(() => linear(active, w, { xPlanes: planes }), Error, /^linear: xPlanes hold nothing$/);
});

test.run();
