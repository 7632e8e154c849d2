// What arithmetic makes of NaN is one NaN, whatever the sign and the payload of those that come in; what only moves
// elements keeps their bits. Oracle: the bits.
import * as assert from 'uvu/assert';
import { attention } from '../../src/engine/ops/attention.js';
import { crossEntropy } from '../../src/engine/ops/cross_entropy.js';
import { embedding } from '../../src/engine/ops/embedding.js';
import { layerNorm } from '../../src/engine/ops/layer_norm.js';
import { linear } from '../../src/engine/ops/linear.js';
import { matmul } from '../../src/engine/ops/matmul.js';
import { packWeights } from '../../src/engine/ops/pack_weights.js';
import { rootMeanSquare } from '../../src/engine/ops/root_mean_square.js';
import { logSoftmax, softmax, softmaxNumerator } from '../../src/engine/ops/softmax.js';
import { sparseDecode } from '../../src/engine/ops/sparse_decode.js';
import { sparseEncode } from '../../src/engine/ops/sparse_encode.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { addLayerNorm, cat, where } from '../../src/index.js';
import { onCpu, testDevice } from '../support/device.js';
import { suite } from '../support/harness.js';

const test = suite('nan');
const device = testDevice();
const [rows, width] = [5, 40];

// NaN of both signs, with payloads, quiet and signalling; infinities; numbers
const words = [0xffc12345, 0x7fc0_0001, 0x7f812345, 0xff800001, 0x7f800000, 0xff800000, 0x3f800000, 0xbf000000];
const bits = Uint32Array.from({ length: rows * width }, (_, i) => words[(i * 5 + (i >> 3)) % words.length] as number);
const mixed = () => Tensor.from(new Float32Array(bits.buffer.slice(0)), { shape: [rows, width], device });

async function wordsOf(x: Tensor): Promise<Uint32Array> {
  using wide = x.dtype === 'float32' ? x.clone() : x.to('float32');
  const values = (await wide.read()) as Float32Array;
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}

async function checkCanonical(name: string, x: Tensor): Promise<void> {
  const found = (await wordsOf(x)).filter((word) => (word & 0x7fffffff) > 0x7f800000);
  assert.ok(found.length > 0, `${name} gives a NaN`);
  for (const word of found) assert.is(word.toString(16), '7fc00000', name);
}

const functions: Record<string, (x: Tensor) => Tensor> = {
  add: (x) => x.add(x),
  'add of a number': (x) => x.add(1),
  sub: (x) => x.sub(x.flatten().slice(0, 0, 40)),
  mul: (x) => x.mul(0),
  div: (x) => x.div(x),
  maximum: (x) => x.maximum(x),
  minimum: (x) => x.minimum(0),
  abs: (x) => x.abs(),
  neg: (x) => x.neg(),
  clamp: (x) => x.clamp(-1, 1),
  'clamp of a NaN': (x) => x.clamp(Number.NaN, 1),
  exp: (x) => x.exp(),
  log: (x) => x.log(),
  sqrt: (x) => x.sqrt(),
  tanh: (x) => x.tanh(),
  sigmoid: (x) => x.sigmoid(),
  gelu: (x) => x.gelu(),
  relu: (x) => x.relu(),
  'pow of 1': (x) => x.pow(1),
  'pow of 2': (x) => x.pow(2),
  'pow of 2.5': (x) => x.pow(2.5),
  'pow of -Infinity': (x) => x.pow(Number.NEGATIVE_INFINITY),
  sum: (x) => x.sum(),
  'sum along': (x) => x.sum(1),
  'sum across': (x) => x.sum(0),
  mean: (x) => x.mean(1),
  'var along': (x) => x.var(1),
  'std across': (x) => x.std(0),
  norm: (x) => x.norm(0),
  'max along': (x) => x.max(1),
  'max across': (x) => x.max(0),
  'min of all': (x) => x.min(),
  'logSumExp along': (x) => x.logSumExp(1),
  'logSumExp across': (x) => x.logSumExp(0),
  cumsum: (x) => x.cumsum(1),
  'cumsum across': (x) => x.cumsum(0),
  softmax: (x) => softmax(x),
  'softmax across': (x) => softmax(x, 0),
  logSoftmax: (x) => logSoftmax(x),
  softmaxNumerator: (x) => softmaxNumerator(x),
  rootMeanSquare: (x) => rootMeanSquare(x),
  layerNorm: (x) => layerNorm(x, x.select(0, 1), x.select(0, 2)),
  'the sum of addLayerNorm': (x) => addLayerNorm(x, x, x.select(0, 1), x.select(0, 2)).sum,
  'the norm of addLayerNorm': (x) => addLayerNorm(x, x, x.select(0, 1), x.select(0, 2)).out,
  crossEntropy: (x) => crossEntropy(x, [0, 1, 2, 3, 4], { reduction: 'none' }),
  matmul: (x) => matmul(x, x.transpose(0, 1)),
  'matmul of infinities and zeros': () =>
    matmul(Tensor.zeros([2, width], { device }).fill(Number.POSITIVE_INFINITY), Tensor.zeros([width, 3], { device })),
  linear: (x) => linear(x, packWeights(x.transpose(0, 1))),
  'linear with GELU': (x) => linear(x, packWeights(x.transpose(0, 1)), { activation: 'gelu' }),
  'linear with a residual': (x) =>
    linear(x, packWeights(x.transpose(0, 1).slice(1, 0, 5)), { residual: x.slice(1, 0, 5) }),
  attention: (x) => {
    const heads = x.reshape(1, rows, 4, 10);
    return attention(heads, heads, heads);
  },
  scatterAdd: (x) => x.scatterAdd(0, Tensor.zeros([rows, width], { dtype: 'int32', device }), x).slice(0, 0, 1),
  embedding: (x) => {
    const addTo = Tensor.zeros([rows, width], { device, dtype: x.dtype });
    return embedding(Tensor.from([4, 3, 2, 1, 0], { dtype: 'int32', device }), x, { addTo });
  },
  'fill of a NaN': (x) => x.clone().fill(-Number.NaN),
  float16: (x) => x.to('float16'),
  bfloat16: (x) => x.to('bfloat16'),
};

if (!onCpu) test.skip('all', 'a GPU makes a NaN of its own');
else {
  for (const [name, compute] of Object.entries(functions)) {
    test(`${name}: one NaN`, async () => {
      using x = mixed();
      await checkCanonical(name, compute(x));
      for (const dtype of ['float16', 'bfloat16'] as const) {
        using narrow = x.to(dtype);
        await checkCanonical(`${name} of ${dtype}`, compute(narrow));
      }
    });
  }

  test('sparse latents: one NaN', async () => {
    using x = mixed();
    using w = packWeights(x.transpose(0, 1));
    for (const options of [{ threshold: 0 }, { k: 2 }, { threshold: 0, relu: false }]) {
      const sparse = await sparseEncode(x, w, options);
      const found = new Uint32Array(sparse.values.buffer, sparse.values.byteOffset, sparse.values.length);
      assert.ok(found.length > 0);
      for (const word of found) assert.is(word.toString(16), '7fc00000');
      using back = packWeights(x);
      await checkCanonical('sparseDecode', sparseDecode(sparse, back));
    }
  });

  test('numbers of JavaScript: one NaN; a Float32Array keeps its bits', async () => {
    const [zero, none] = [Number('0'), Number('-1')];
    const odd = [zero / zero, Math.sqrt(none), Number.POSITIVE_INFINITY - Number.POSITIVE_INFINITY, -Number.NaN];
    for (const data of [odd, [odd, odd], Float64Array.from(odd)]) {
      using x = Tensor.from(data, { device });
      await checkCanonical('Tensor.from', x);
    }
    using kept = mixed();
    assert.equal(Array.from(await wordsOf(kept)), Array.from(bits));
  });

  test('moves keep the bits', async () => {
    using x = mixed();
    const everything = Array.from(bits);
    using all = Tensor.ones([rows, width], { device }).eq(1);
    for (const moved of [x.clone(), where(all, x, 0), cat([x]), x.transpose(0, 1).clone().transpose(0, 1).clone()]) {
      assert.equal(Array.from(await wordsOf(moved)), everything);
    }
    const order = Int32Array.from({ length: rows }, (_, i) => rows - 1 - i);
    using reversed = x.indexSelect(0, Tensor.from(order, { device }));
    using again = reversed.indexSelect(0, Tensor.from(order, { device }));
    assert.equal(Array.from(await wordsOf(again)), everything);
  });
}

test.run();
