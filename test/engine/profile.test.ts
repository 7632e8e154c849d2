// Oracle: the operations that were asked for, in their order; GPT-2's floating-point operations counted by hand (2 per
// multiply-add): 12 * 768^2 weights of a layer, 768 * 50,257 of the unembedding.
import * as assert from 'uvu/assert';
import { openDevice } from '../../src/engine/device.js';
import { linear } from '../../src/engine/ops/linear.js';
import { packWeights } from '../../src/engine/ops/pack_weights.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { gelu } from '../../src/engine/ops/unary.js';
import { floorOf, workOf } from '../../src/engine/work.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { onCpu, testDevice } from '../support/device.js';
import { rejects, suite } from '../support/harness.js';

const test = suite('profile');
const device = testDevice();
const ceilings = { float32: 100e9, bfloat16: 200e9, bandwidth: 10e9 };
const tensor = (name: string, shape: number[], dtype = 'float32') => ({ name, shape, dtype });

test('a profile holds the operations carried out while it ran, with their tensors, and nothing else', async () => {
  using x = Tensor.zeros([5, 7], { device });
  using w = packWeights(Tensor.zeros([7, 3], { device }));
  linear(x, w).dispose();
  const entries = await device.profile(async () => {
    linear(x, w).dispose();
    gelu(x).dispose();
  });
  linear(x, w).dispose();
  await device.synchronize();
  assert.equal(
    entries.map(({ operation }) => operation),
    ['linear', 'unary'],
  );
  assert.equal(entries[0]?.arguments, [tensor('out', [5, 3]), tensor('x', [5, 7]), tensor('w', [7, 3])]);
  assert.ok(entries.every(({ seconds, section }) => seconds >= 0 && section === ''));
  assert.ok((entries[1]?.begin as number) >= (entries[0]?.begin as number) + (entries[0]?.seconds as number));
});

test('a profile that fails ends, and two at a time are refused', async () => {
  await rejects(
    device.profile(() => Promise.reject(new Error('mine'))),
    Error,
    /^mine$/,
  );
  await device.profile(async () => {
    await rejects(
      device.profile(async () => {}),
      Error,
      /is being profiled already/,
    );
  });
  assert.equal(await device.profile(async () => {}), []);
});

test('sections are the parts of the model', async () => {
  using xf = await Transformer.load('demo', { device });
  const entries = await device.profile(async () => (await xf.forward([[1, 2, 3]])).logits.dispose());
  const sections = [...new Set(entries.map(({ section }) => section))].filter((name) => name !== '');
  const layers = Array.from({ length: xf.config.nLayers }, (_, i) => `layer ${i}`);
  assert.equal(sections, ['embedding', ...layers, 'end']);
  const linears = entries.filter(({ operation, section }) => operation === 'linear' && section === 'layer 0');
  assert.is(linears.length, 4);
});

test('work: a layer of GPT-2 small, its attention, its unembedding', () => {
  const linears = [
    [768, 2304],
    [768, 768],
    [768, 3072],
    [3072, 768],
  ].map(([k, n]) => {
    const all = [
      tensor('out', [1, 1, n as number]),
      tensor('x', [1, 1, k as number]),
      tensor('w', [k as number, n as number]),
    ];
    return workOf({ operation: 'linear', arguments: all });
  });
  const sum = (list: number[]) => list.reduce((a, b) => a + b, 0);
  assert.is(sum(linears.map(({ flops }) => flops)), 2 * 12 * 768 * 768);
  assert.is(sum(linears.map(({ bytes }) => bytes)), 4 * 12 * 768 * 768, 'weights are read, and small tensors are not');
  const unembed = [tensor('out', [1, 50257]), tensor('x', [1, 768]), tensor('w', [768, 50257])];
  assert.is(workOf({ operation: 'linear', arguments: unembed }).flops, 77_194_752);
  const heads = (name: string, S: number) => tensor(name, [2, S, 12, 64], 'bfloat16');
  const attention = {
    operation: 'attention',
    arguments: [heads('out', 3), heads('q', 3), heads('k', 5), heads('v', 5)],
  };
  // the three queries see 3, 4 and 5 keys
  assert.equal(workOf(attention), { flops: 2 * 2 * 12 * 12 * 128, dtype: 'bfloat16', bytes: 0 });
});

test('floors: the slower of arithmetic and memory', () => {
  const product = (rows: number, dtype: string) => ({
    operation: 'linear',
    arguments: [tensor('out', [rows, 1000], dtype), tensor('x', [rows, 1000], dtype), tensor('w', [1000, 1000], dtype)],
  });
  assert.is(floorOf(product(1000, 'float32'), ceilings), 2e9 / 100e9);
  assert.is(floorOf(product(1000, 'bfloat16'), ceilings), 2e9 / 200e9);
  assert.is(floorOf(product(1, 'float32'), ceilings), 4e6 / 10e9);
  const large = { operation: 'unary', arguments: [tensor('out', [2 ** 24]), tensor('x', [2 ** 24])] };
  assert.is(floorOf(large, ceilings), 2 ** 27 / 10e9, 'more than a cache holds');
  assert.is(floorOf(large, { ...ceilings, bandwidth: 0 }), undefined);
  const encode = { operation: 'sparseEncode', arguments: [tensor('x', [1, 1000]), tensor('w', [1000, 1000])] };
  const filtered = { ...encode, arguments: [...encode.arguments, tensor('filter', [2 ** 30], 'bool')] };
  assert.is(floorOf(filtered, ceilings), floorOf(encode, ceilings), 'a filter is no work that must be done');
});

if (onCpu) {
  test(
    'the ceilings of a CPU are those of some processor',
    async () => {
      // other processes only ever make a figure smaller, and not each of them alike: the best of some measurements
      // counts
      let [float32, bfloat16, bandwidth] = [0, 0, 0];
      const alike = () => bfloat16 > 0.5 * float32 && bfloat16 < 20 * float32;
      for (let i = 0; i < 20 && !alike(); i++) {
        const measured = await openDevice('cpu').ceilings();
        float32 = Math.max(float32, measured.float32);
        bfloat16 = Math.max(bfloat16, measured.bfloat16);
        bandwidth = Math.max(bandwidth, measured.bandwidth);
      }
      assert.ok(float32 > 1e8 && float32 < 1e14, `${float32} FLOP/s`);
      assert.ok(bfloat16 > 0.5 * float32 && bfloat16 < 20 * float32, `${bfloat16} FLOP/s in bfloat16`);
      assert.ok(bandwidth > 1e8 && bandwidth < 1e13, `${bandwidth} byte/s`);
    },
    { limit: 240_000 },
  );
} else {
  test('the ceilings of a GPU are not measured', async () => {
    assert.equal(await device.ceilings(), { float32: 0, bfloat16: 0, bandwidth: 0 });
  });
}

test.run();
