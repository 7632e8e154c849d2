// JumpReLU: an activation with a threshold for each latent. Oracle: the rule, latent = z where z > threshold or z is NaN,
// else 0, on pre-activations that were read, bit for bit.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { activations, jumpReLU } from '../../src/autoencoder/activation.js';
import { Autoencoder } from '../../src/autoencoder/autoencoder.js';
import type { DType } from '../../src/engine/dtype.js';
import type { SparseLatents } from '../../src/engine/ops/sparse_encode.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import {
  floatToBfloat16,
  floatToFloat16,
  type HostTensor,
  type StateDict,
  type StateValue,
} from '../../src/files/host_tensor.js';
import { loadTorch, saveTorch } from '../../src/files/torch/torch.js';
import { AutoencoderHooks } from '../../src/transformer/hooks.js';
import { gradientAt } from '../engine/gradients/operations/differences.js';
import { call, dict, entriesOf, storage, streamOf, tensor, text, zipOf } from '../files/fixtures.js';
import { exactly } from '../support/arguments/garbage.js';
import { onCpu, testDevice } from '../support/device.js';
import { withFolder } from '../support/folders.js';
import { suite, throws } from '../support/harness.js';
import { type Random, random } from '../support/random.js';

const test = suite('JumpReLU');
const device = testDevice();
const dtypes = ['float32', 'bfloat16', 'float16'] as const;

const rule = (z: number, threshold: number): number => (z > threshold || Number.isNaN(z) ? z : 0);
const floats = (shape: number[], data: Iterable<number>): HostTensor => ({
  dtype: 'float32',
  shape,
  data: Float32Array.from(data),
});

/** Weights of whole numbers: pre-activations are exact, and many are equal to a threshold. */
function stateOf(L: number, N: number, rng: Random, more: StateDict = {}): StateDict {
  const whole = (count: number) => Array.from({ length: count }, () => rng.integer(-2, 3));
  return {
    pre_bias: floats([N], whole(N)),
    latent_bias: floats([L], whole(L)),
    'encoder.weight': floats([L, N], whole(L * N)),
    'decoder.weight': floats([N, L], whole(L * N)),
    activation: 'JumpReLU',
    activation_state_dict: { threshold: floats([L], thresholdsOf(L, rng)) },
    ...more,
  };
}
const thresholdsOf = (L: number, rng: Random): number[] =>
  Array.from({ length: L }, () => rng.pick([0, 1, 2, 3, 7.5, Number.POSITIVE_INFINITY]));
const from = (state: StateDict, options: { dtype?: DType; normalize?: boolean } = {}): Autoencoder =>
  Autoencoder.fromStateDict(state, { strict: false, device, ...options });

/** Rows of `width` in CSR form: what is not 0. */
function sparseOf(dense: ArrayLike<number>, width: number) {
  const kept = Array.from(dense, (value, at) => ({ value, at })).filter(({ value }) => value !== 0);
  return {
    rowPtr: Array.from({ length: dense.length / width + 1 }, (_, r) => kept.filter(({ at }) => at < r * width).length),
    indices: kept.map(({ at }) => at % width),
    values: kept.map(({ value }) => value),
  };
}
const plain = ({ rowPtr, indices, values }: SparseLatents) => ({
  rowPtr: Array.from(rowPtr, Number),
  indices: [...indices],
  values: [...values],
});

test('apply: each dtype, views, values at the threshold and next to it, NaN and infinities', async () => {
  const limits = [0, 0, 1, 1, 0.1, Number.POSITIVE_INFINITY, 3e38];
  const activation = activations.jumpReLU(limits);
  const special = [NaN, Infinity, -Infinity, -0, 0, 1, 1 + 2 ** -23, 1 - 2 ** -24, 0.1, -1, 3e38, 2 ** -149];
  const values = special.flatMap((value) => limits.map(() => value));
  for (const dtype of dtypes) {
    using whole = Tensor.from(values, { shape: [special.length, limits.length], device, dtype });
    using across = Tensor.from(await whole.permute([1, 0]).read(), { shape: [7, special.length], device, dtype });
    for (const x of [whole, whole.select(0, 5), whole.slice(0, 1, 9).unsqueeze(0), across.permute([1, 0])]) {
      using got = activation.apply(x);
      assert.equal([[...got.shape], got.dtype, got.device], [[...x.shape], dtype, device]);
      const expected = (await x.read()).map((z, i) => rule(z, Math.fround(limits[i % limits.length] as number)));
      for (const [i, value] of (await got.read()).entries()) assert.ok(Object.is(value, expected[i]), `${x}, ${i}`);
    }
  }
  // the bfloat16 of 0.1 is above its float32; the one below is not
  using narrow = Tensor.from([0.1, 0.0996], { shape: [2, 1], device, dtype: 'bfloat16' });
  using latents = jumpReLU([0.1]).apply(narrow);
  const [above, below] = await narrow.read();
  assert.equal([...(await latents.read())], [above, 0]);
  assert.ok((above as number) > Math.fround(0.1) && (below as number) > 0);
});

test('thresholds are copied, rounded to float32 and cannot be changed; wrong ones are named', () => {
  const given = Float32Array.of(0.5, 2);
  const activation = jumpReLU(given);
  given.fill(0);
  assert.equal(activation.thresholds, [0.5, 2]);
  assert.ok(Object.isFrozen(activation.thresholds));
  assert.equal(jumpReLU([0.1, 1e-60, 1e300]).thresholds, [Math.fround(0.1), 0, Number.POSITIVE_INFINITY]);
  assert.ok(Object.is(jumpReLU([-0]).thresholds?.[0], 0));
  for (const [value, type, said] of [
    [-1, RangeError, 'jumpReLU: thresholds[2] must be 0 or more, but is -1'],
    [Number.NaN, RangeError, 'jumpReLU: thresholds[2] must be 0 or more, but is NaN'],
    [-1e-60, RangeError, 'jumpReLU: thresholds[2] must be 0 or more, but is -1e-60'],
    ['1', TypeError, "jumpReLU: thresholds[2] must be a number, but is '1'"],
    [undefined, TypeError, 'jumpReLU: thresholds[2] must be a number, but is undefined'],
  ] as const) {
    throws(() => jumpReLU([0, 1, value as number]), type, exactly(said));
  }
  throws(() => jumpReLU([]), RangeError, /^jumpReLU: thresholds must have one number at least$/);
  throws(
    () => jumpReLU(Float64Array.of(1) as never),
    TypeError,
    /must be an array or a Float32Array, but is a Float64/,
  );
});

test('a pre-activation of another width or dtype, or an autoencoder of another size, is an error', () => {
  const activation = jumpReLU([1, 2, 3]);
  for (const shape of [[2, 4], [3, 1], []]) {
    using x = Tensor.zeros(shape, { device });
    const message = `apply: preAct must be [..., 3] (a latent for each threshold), but is [${shape.join(', ')}]`;
    throws(() => activation.apply(x), RangeError, exactly(message));
  }
  using integers = Tensor.zeros([2, 3], { device, dtype: 'int32' });
  throws(
    () => activation.apply(integers),
    TypeError,
    /^apply: preAct must be float32, bfloat16 or float16, but is int32$/,
  );
  const before = device.memory().allocated;
  throws(
    () => new Autoencoder({ nLatents: 4, nInputs: 2, activation, device }),
    RangeError,
    /^Autoencoder: activation must be jumpReLU\(\) of 4 thresholds \(nLatents\), but is of 3$/,
  );
  assert.is(device.memory().allocated, before);
  for (const wrong of [
    { ...activation, thresholds: undefined },
    { ...activation, thresholds: [1, Number.NaN, 2] },
    { ...activations.relu(), thresholds: [1] },
  ]) {
    throws(
      () => new Autoencoder({ nLatents: 3, nInputs: 2, activation: wrong as never, device }),
      TypeError,
      /^Autoencoder: activation must be what relu\(\), identity\(\), topK\(\) or jumpReLU\(\) gives/,
    );
  }
});

test('dense and sparse: the rule, bit for bit, with random sizes, ties, NaN and the threshold of the call', async () => {
  const before = device.memory().allocated;
  for (let seed = 1; seed <= (onCpu ? 60 : 15); seed++) {
    const rng = random(seed);
    const [L, N, rows] = [rng.pick([1, 5, 16, 17, 40, 131, 400]), rng.integer(2, 20), rng.integer(1, 9)];
    const state = stateOf(L, N, rng);
    const normalize = rng.next() < 0.3;
    const dtype = rng.pick(['float32', 'float32', 'bfloat16'] as const);
    using ae = from(state, { normalize, dtype });
    const { data } = (state.activation_state_dict as StateDict).threshold as HostTensor;
    const limits = data as Float32Array;
    const values = Float32Array.from({ length: rows * N }, () => rng.integer(-3, 4));
    if (rng.next() < 0.3) values[rng.integer(0, rows * N)] = rng.pick([NaN, Infinity, -Infinity]);
    using x = Tensor.from(values, { shape: [rows, N], device });
    using preAct = ae.encodePreAct(x);
    using latents = ae.encode(x);
    const dense = await latents.read();
    const expected = (await preAct.read()).map((z, i) => rule(z, limits[i % L] as number));
    const where = `seed ${seed}`;
    assert.equal([...dense], [...expected], where);
    using applied = ae.activation.apply(preAct);
    assert.equal([...(await applied.read())], [...expected], where);
    assert.equal(plain(await ae.encodeSparse(x)), sparseOf(expected, L), where);
    const above = expected.map((z) => (z <= 2 ? 0 : z));
    assert.equal(plain(await ae.encodeSparse(x, { threshold: 2 })), sparseOf(above, L), where);
    const passed = await ae.forward(x);
    assert.equal([...(await passed.latents.read())], [...expected], where);
    using decoded = ae.decode(latents, { inputs: x });
    assert.equal([...(await passed.reconstruction.read())], [...(await decoded.read())], where);
    for (const t of Object.values(passed)) t.dispose();
  }
  assert.is(device.memory().allocated, before);
});

test('an untrained one, tied or not, and in hooks', async () => {
  const before = device.memory().allocated;
  for (const tied of [false, true]) {
    const activation = jumpReLU(Float32Array.from({ length: 20 }, (_, l) => l / 10));
    using ae = new Autoencoder({ nLatents: 20, nInputs: 6, activation, tied, seed: 3, device });
    using relu = new Autoencoder({ nLatents: 20, nInputs: 6, tied, seed: 3, device });
    using x = Tensor.randn([5, 6], { seed: 1, device });
    using latents = ae.encode(x);
    using all = relu.encode(x);
    const expected = (await all.read()).map((z, i) => rule(z, Math.fround((i % 20) / 10)));
    assert.equal([...(await latents.read())], [...expected]);
    assert.ok(expected.some((z) => z > 0) && expected.filter((z) => z > 0).length < 40);
    const hooks = new AutoencoderHooks({ encode: (t) => ae.encode(t), decode: (t) => ae.decode(t) });
    using out = await hooks.run(x);
    using decoded = ae.decode(latents);
    assert.equal([...(await out.read())], [...(await decoded.read())]);
  }
  assert.is(device.memory().allocated, before);
});

test('some of the latents have their own thresholds', async () => {
  const before = device.memory().allocated;
  const [L, N, rows] = [23, 6, 5];
  const rng = random(5);
  const state = stateOf(L, N, rng);
  {
    using ae = from(state);
    const indices = [22, 0, 7, 7, 13, 2];
    using some = ae.selectLatents(indices);
    using fewer = some.selectLatents([5, 0, 3]);
    const thresholds = ae.activation.thresholds as readonly number[];
    assert.equal(
      some.activation.thresholds,
      indices.map((i) => thresholds[i] as number),
    );
    using x = Tensor.from(
      Float32Array.from({ length: rows * N }, () => rng.integer(-3, 4)),
      { shape: [rows, N], device },
    );
    using all = ae.encode(x);
    const dense = await all.read();
    for (const [part, chosen] of [
      [some, indices],
      [fewer, [2, 22, 7]],
    ] as const) {
      using latents = part.encode(x);
      const expected = Array.from({ length: rows }, (_, r) => chosen.map((l) => dense[r * L + l] as number)).flat();
      assert.equal([...(await latents.read())], expected);
      assert.equal(plain(await part.encodeSparse(x)), sparseOf(expected, chosen.length));
      using again = Autoencoder.fromStateDict(await part.stateDict(), { device });
      assert.is(await again.digest(), await part.digest());
    }
    assert.ok(dense.some((z) => z > 0));
  }
  assert.is(device.memory().allocated, before);
});

test('saved and read again: float32 thresholds, under the names of torch, with the same digest', async () => {
  const state = stateOf(9, 4, random(1));
  const threshold = (state.activation_state_dict as StateDict).threshold as HostTensor;
  using ae = from(state, { normalize: true });
  const saved = await ae.stateDict();
  assert.equal(saved.activation, 'JumpReLU');
  const own = saved.activation_state_dict as StateDict;
  assert.equal(own.threshold, threshold);
  assert.is(own.normalize, true);
  await withFolder(async (folder) => {
    await saveTorch(join(folder, 'saved.pt'), saved);
    const read = await loadTorch(join(folder, 'saved.pt'));
    assert.equal((read.activation_state_dict as StateDict).threshold, threshold);
    using again = await Autoencoder.load(join(folder, 'saved.pt'), { device });
    assert.equal([again.activation.name, again.normalize], ['JumpReLU', true]);
    assert.equal(again.activation.thresholds, ae.activation.thresholds);
    assert.is(await again.digest(), await ae.digest());
    // torch's state dict of the whole module has the thresholds again, and they are not read
    await saveTorch(join(folder, 'module.pt'), { ...saved, 'activation.threshold': floats([1], [9]) });
    using known = await Autoencoder.load(join(folder, 'module.pt'), { device });
    assert.is(await known.digest(), await ae.digest());
  });
});

test('thresholds of a file in any dtype of floats', async () => {
  const values = [0, 0.1, 1.5, 1e-3, Number.POSITIVE_INFINITY];
  const words = (narrow: (v: number) => number) => Uint16Array.from(values, narrow);
  const near = (value: number, bits: number) => value + 2 ** -bits * value;
  for (const [dtype, data, bits] of [
    ['float64', Float64Array.from(values), 24],
    ['float32', Float32Array.from(values), 24],
    ['bfloat16', words(floatToBfloat16), 8],
    ['float16', words(floatToFloat16), 11],
  ] as const) {
    const state = stateOf(5, 3, random(2), { activation_state_dict: { threshold: { dtype, shape: [5], data } } });
    await withFolder(async (folder) => {
      await saveTorch(join(folder, 'ae.pt'), state);
      using ae = await Autoencoder.load(join(folder, 'ae.pt'), { strict: false, device });
      for (const [l, threshold] of (ae.activation.thresholds as readonly number[]).entries()) {
        const value = values[l] as number;
        assert.is(threshold, Math.fround(threshold));
        assert.ok(threshold <= near(value, bits) && near(threshold, bits) >= value, `${dtype}: ${threshold}`);
      }
      using read = Tensor.from({ dtype, shape: [5], data }, { device, dtype: 'float32' });
      assert.equal(ae.activation.thresholds, [...(await read.read())]);
    });
  }
});

test('a file of torch.save: the state of the activation is an OrderedDict with a parameter', async () => {
  const weights = Float32Array.from({ length: 17 }, (_, i) => i / 8);
  const part = (offset: number, shape: number[], strides: number[]) => tensor(storage('0', 17), offset, shape, strides);
  for (const [type, data] of [
    ['DoubleStorage', Float64Array.of(0.5, 0, 2)],
    ['FloatStorage', Float32Array.of(0.5, 0, 2)],
    ['BFloat16Storage', Uint16Array.from([0.5, 0, 2], floatToBfloat16)],
    ['HalfStorage', Uint16Array.from([0.5, 0, 2], floatToFloat16)],
  ] as const) {
    const stored = tensor(storage('1', 3, type), 0, [3], [1]);
    const parameter = call('torch._utils._rebuild_parameter', stored, '\x88', call('collections.OrderedDict'));
    const own = `${call('collections.OrderedDict')}(${text('threshold')}${parameter}u`;
    const value = dict(
      ...[text('pre_bias'), part(0, [2], [1]), text('latent_bias'), part(2, [3], [1])],
      ...[text('encoder.weight'), part(5, [3, 2], [2, 1]), text('decoder.weight'), part(11, [2, 3], [3, 1])],
      ...[text('activation.threshold'), parameter],
      ...[text('activation'), text('JumpReLU'), text('activation_state_dict'), own],
    );
    const blocks = [
      { key: '0', data: weights },
      { key: '1', data },
    ];
    for (const file of [zipOf(entriesOf(value, blocks)), streamOf(value, blocks)]) {
      using ae = from(await loadTorch(file));
      assert.equal([ae.activation.name, ae.activation.thresholds], ['JumpReLU', [0.5, 0, 2]], type);
    }
  }
});

test('thresholds that do not fit are errors that name the entry, and take no memory', () => {
  const before = device.memory().allocated;
  const entry = 'Autoencoder: activation_state_dict.threshold';
  for (const [threshold, message] of [
    [undefined, `${entry} must be [4] (a number for each latent), but is undefined`],
    [1.5, `${entry} must be [4] (a number for each latent), but is 1.5`],
    [floats([5], [1, 1, 1, 1, 1]), `${entry} must be [4] (a number for each latent), but is [5]`],
    [floats([1, 4], [1, 1, 1, 1]), `${entry} must be [4] (a number for each latent), but is [1, 4]`],
    [floats([], [1]), `${entry} must be [4] (a number for each latent), but is []`],
    [floats([4], [1]), `${entry}: data must have 4 elements for shape [4], but has 1`],
    [{ dtype: 'int64', shape: [4], data: new BigInt64Array(4) }, `${entry} must be of floats, but is int64`],
    [floats([4], [0, 1, Number.NaN, -1]), `${entry}[2] must be 0 or more, but is NaN`],
    [floats([4], [0, 1, 2, -1]), `${entry}[3] must be 0 or more, but is -1`],
    [
      { dtype: 'float64', shape: [4], data: Float64Array.of(0, -1e-60, 0, 0) },
      `${entry}[1] must be 0 or more, but is -1e-60`,
    ],
    [
      { dtype: 'bfloat16', shape: [4], data: Uint16Array.of(0, 0xbf80, 0, 0) },
      `${entry}[1] must be 0 or more, but is -1`,
    ],
  ] as [StateValue, string][]) {
    throws(() => from(stateOf(4, 3, random(1), { activation_state_dict: { threshold } })), Error, exactly(message));
  }
  throws(() => from({ ...stateOf(4, 3, random(1)), 'ranking.latent_bias': floats([4], [1, 1, 1, 1]) }), Error, /lacks/);
  const postact = { activation: 'TopK', activation_state_dict: { k: 2, postact_fn: 'JumpReLU' } };
  throws(
    () => from(stateOf(4, 3, random(1), postact)),
    Error,
    /^Autoencoder: activation_state_dict\.postact_fn must be ReLU or Identity, but is 'JumpReLU'$/,
  );
  assert.is(device.memory().allocated, before);
});

test('the digest depends on each threshold', async () => {
  const of = async (thresholds: number[], more: StateDict = {}): Promise<string> => {
    const own = { activation_state_dict: { threshold: floats([3], thresholds) } };
    using ae = from(stateOf(3, 2, random(1), { ...own, ...more }));
    return await ae.digest();
  };
  const same = await of([1, 2, 3]);
  assert.is(await of([1, 2, 3]), same);
  const others = await Promise.all([
    of([1, 2, 4]),
    of([2, 1, 3]),
    of([0, 0, 0]),
    of([1, 2, 3], { activation: 'ReLU' }),
  ]);
  assert.is(new Set([same, ...others]).size, 5);
});

if (onCpu) {
  test('the derivative is 1 above the threshold, and 0 at it and below; NaN passes', async () => {
    const z = [2, 2.5, 1.5, -1, Number.NaN, 9];
    const activation = jumpReLU([2, 2, 2, 0, 1, Number.POSITIVE_INFINITY]);
    for (const dtype of dtypes) {
      assert.equal(await gradientAt(z, (x) => activation.apply(x), [1, 2, 3, 4, 5, 6], dtype), [0, 2, 0, 0, 5, 0]);
    }
  });
}

test.run();
