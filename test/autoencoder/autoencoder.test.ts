// Autoencoders: state dicts that do not fit, shapes, statistics, round trips; the values are goldens.test.ts's. The
// oracle for encode and decode is the formula in doubles.
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { activations } from '../../src/autoencoder/activation.js';
import { Autoencoder } from '../../src/autoencoder/autoencoder.js';
import { getDefaultDevice } from '../../src/engine/device.js';
import { packageRoot } from '../../src/engine/native.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import type { HostTensor, StateDict } from '../../src/files/host_tensor.js';
import { loadTorch, saveTorch } from '../../src/files/torch/torch.js';
import { AutoencoderHooks } from '../../src/transformer/hooks.js';
import { close, relativeError } from '../support/close.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite, throws } from '../support/harness.js';
import { random } from '../support/random.js';

const test = suite('autoencoder');
const tiny = join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny');

const host = (shape: number[], seed: number): HostTensor => ({
  dtype: 'float32',
  shape,
  data: random(seed).floats(shape.reduce((a, b) => a * b, 1)),
});
const stateOf = (latents: number, inputs: number, more: StateDict = {}): StateDict => ({
  pre_bias: host([inputs], 1),
  latent_bias: host([latents], 2),
  'encoder.weight': host([latents, inputs], 3),
  'decoder.weight': host([inputs, latents], 4),
  stats_last_nonzero: { dtype: 'int64', shape: [latents], data: new BigInt64Array(latents) },
  latents_activation_frequency: host([latents], 5),
  latents_mean_square: host([latents], 6),
  ...more,
});
const data = (state: StateDict, name: string) => (state[name] as HostTensor).data as Float32Array;

test('encode and decode are the formula, for each activation', async () => {
  const [L, N, rows] = [53, 19, 7];
  const topk = { activation: 'TopK', activation_state_dict: { k: 5, postact_fn: 'ReLU' } };
  const raw = { activation: 'TopK', activation_state_dict: { k: 5, postact_fn: 'Identity' } };
  for (const more of [{}, topk, raw, { activation: 'Identity' }] as StateDict[]) {
    const state = stateOf(L, N, more);
    using ae = Autoencoder.fromStateDict(state);
    using x = Tensor.from(random(9).floats(rows * N), { shape: [1, rows, N] });
    const input = await x.read();
    const latents = new Float64Array(rows * L);
    for (let r = 0; r < rows; r++) {
      const pre = Array.from({ length: L }, (_, l) => {
        let sum = data(state, 'latent_bias')[l] as number;
        for (let i = 0; i < N; i++) {
          sum +=
            ((input[r * N + i] as number) - (data(state, 'pre_bias')[i] as number)) *
            (data(state, 'encoder.weight')[l * N + i] as number);
        }
        return sum;
      });
      const kept =
        more.activation === 'TopK'
          ? [...pre.keys()].sort((a, b) => (pre[b] as number) - (pre[a] as number)).slice(0, 5)
          : [...pre.keys()];
      const after = more === raw || more.activation === 'Identity' ? (v: number) => v : (v: number) => Math.max(v, 0);
      for (const l of kept) latents[r * L + l] = after(pre[l] as number);
    }
    using encoded = ae.encode(x);
    assert.equal([...encoded.shape], [1, rows, L]);
    close(await encoded.read(), latents, { rtol: 1e-5, atol: 1e-5 });
    using decoded = ae.decode(encoded);
    const expected = Array.from({ length: rows * N }, (_, at) => {
      const [r, i] = [Math.floor(at / N), at % N];
      let sum = data(state, 'pre_bias')[i] as number;
      for (let l = 0; l < L; l++)
        sum += (latents[r * L + l] as number) * (data(state, 'decoder.weight')[i * L + l] as number);
      return sum;
    });
    close(await decoded.read(), expected, { rtol: 1e-4, atol: 1e-4 });
  }
});

/** Rows of x [rows, N] without their mean, divided by the unbiased standard deviation plus 1e-5, in doubles. */
function normalizedRows(x: ArrayLike<number>, N: number): { rows: number[]; mean: number[]; std: number[] } {
  const [rows, mean, std] = [[] as number[], [] as number[], [] as number[]];
  for (let at = 0; at < x.length; at += N) {
    const row = Array.from({ length: N }, (_, i) => x[at + i] as number);
    const m = row.reduce((a, b) => a + b, 0) / N;
    const s = Math.sqrt(row.reduce((sum, v) => sum + (v - m) ** 2, 0) / (N - 1));
    rows.push(...row.map((v) => (v - m) / (s + 1e-5)));
    mean.push(m);
    std.push(s);
  }
  return { rows, mean, std };
}

test('normalised inputs, as in the v5 files: encode, decode and the sparse version are the formula', async () => {
  const [L, N, R, k] = [53, 19, 6, 5];
  const state = stateOf(L, N, { activation: 'TopK', activation_state_dict: { k, postact_fn: 'ReLU' } });
  using ae = Autoencoder.fromStateDict(state, { normalize: true });
  using same = Autoencoder.fromStateDict(state);
  assert.equal([ae.normalize, same.normalize], [true, false]);
  const values = random(9).floats(R * N);
  for (let i = 0; i < N; i++) values[i] = 7; // no deviation at all
  for (let i = 0; i < N; i++) values[N + i] = (values[N + i] as number) * 1000 + 5000;
  using x = Tensor.from(values, { shape: [2, 3, N] });
  const { rows, mean, std } = normalizedRows(values, N);
  using inputs = Tensor.from(rows, { shape: [2, 3, N], dtype: 'float32' });
  using expected = same.encode(inputs);
  using latents = ae.encode(x);
  close(await latents.read(), await expected.read(), { rtol: 1e-4, atol: 1e-4 });
  using preAct = ae.encodePreAct(x);
  using expectedPreAct = same.encodePreAct(inputs);
  close(await preAct.read(), await expectedPreAct.read(), { rtol: 1e-4, atol: 1e-4 });
  using part = ae.encodePreAct(x, { latentSlice: [3, 11] });
  close(await part.read(), await preAct.slice(-1, 3, 11).read(), { rtol: 1e-5, atol: 1e-5 });

  using plain = same.decode(latents);
  const scaledBack = Array.from(await plain.read(), (v, at) => {
    const row = Math.floor(at / N);
    return v * (std[row] as number) + (mean[row] as number);
  });
  using decoded = ae.decode(latents, { inputs: x });
  close(await decoded.read(), scaledBack, { rtol: 1e-4, atol: 1e-4 });
  const sparse = await ae.encodeSparse(x);
  using fromSparse = ae.decodeSparse(sparse, { inputs: x });
  assert.equal([...fromSparse.shape], [R, N]);
  close(await fromSparse.read(), scaledBack, { rtol: 1e-4, atol: 1e-4 });
  const passed = await ae.forward(x);
  close(await passed.reconstruction.read(), scaledBack, { rtol: 1e-4, atol: 1e-4 });
  for (const t of Object.values(passed)) t.dispose();

  throws(
    () => ae.decode(latents),
    TypeError,
    /decode: inputs must be what was encoded, as this autoencoder normalises/,
  );
  throws(() => ae.decode(latents, { inputs: x.slice(0, 0, 1) }), RangeError, /inputs must be \[2, 3, 19\]/);
  throws(() => ae.decodeSparse(sparse, { inputs: latents }), RangeError, /inputs must be \[\.\.\., 19\]/);
});

test('a v5 autoencoder computes what openai/sparse_autoencoder does', async () => {
  const folder = join(packageRoot, 'test', 'fixtures', 'v5');
  const expected = await loadTorch(join(folder, 'expected.pt'));
  using ae = await Autoencoder.load(join(folder, 'autoencoder.pt'), { normalize: true });
  using x = Tensor.from(expected.x as HostTensor);
  using preAct = ae.encodePreAct(x);
  using latents = ae.encode(x);
  using reconstruction = ae.decode(latents, { inputs: x });
  for (const [name, t] of Object.entries({ pre: preAct, lat: latents, rec: reconstruction })) {
    assert.ok(relativeError(await t.read(), data(expected, name)) < 2e-6, name);
  }
});

test('normalised or not: saved and read again, by the address of the published files, and in hooks', async () => {
  const state = stateOf(12, 5, { activation: 'TopK', activation_state_dict: { k: 3, postact_fn: 'ReLU' } });
  using ae = Autoencoder.fromStateDict(state, { normalize: true });
  using same = Autoencoder.fromStateDict(state);
  assert.is.not(await ae.digest(), await same.digest());
  await withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    await saveTorch(at('saved.pt'), await ae.stateDict());
    using again = await Autoencoder.load(at('saved.pt'));
    assert.is(await again.digest(), await ae.digest());
    await mkdir(at('resid_post_mlp_v5_32k/autoencoders'), { recursive: true });
    const published = at('resid_post_mlp_v5_32k/autoencoders/3.pt');
    await saveTorch(published, state);
    using known = await Autoencoder.load(published);
    using asked = await Autoencoder.load(published, { normalize: false });
    assert.equal([known.normalize, asked.normalize], [true, false]);
  });
  using x = Tensor.from(random(2).floats(20), { shape: [1, 4, 5] });
  const hooks = new AutoencoderHooks({
    encode: (t) => ae.encode(t),
    decode: (latents, inputs) => ae.decode(latents, { inputs }),
  });
  using out = await hooks.run(x);
  const { reconstruction, ...rest } = await ae.forward(x);
  close(await out.read(), await reconstruction.read());
  for (const t of [reconstruction, ...Object.values(rest)]) t.dispose();
});

test('some latents of an autoencoder are an autoencoder', async () => {
  const topk = { activation: 'TopK', activation_state_dict: { k: 4, postact_fn: 'Identity' } };
  const tiedState = stateOf(30, 7);
  delete tiedState['decoder.weight'];
  tiedState['decoder.linear.weight'] = tiedState['encoder.weight'] as HostTensor;
  const before = getDefaultDevice().memory().allocated;
  for (const state of [stateOf(30, 7, topk), stateOf(30, 7), tiedState]) {
    using ae = Autoencoder.fromStateDict(state);
    const indices = [29, 0, 13, 13, 2];
    using some = ae.selectLatents(indices);
    assert.equal([some.nLatents, some.nInputs, some.tied, some.activation.k], [5, 7, ae.tied, ae.activation.k]);
    using x = Tensor.from(random(4).floats(21), { shape: [3, 7] });
    using all = ae.encodePreAct(x);
    using own = some.encodePreAct(x);
    const [whole, chosen] = [await all.read(), await own.read()];
    close(
      chosen,
      Float32Array.from(
        { length: 15 },
        (_, at) => whole[Math.floor(at / 5) * 30 + (indices[at % 5] as number)] as number,
      ),
      { rtol: 1e-6, atol: 1e-6 },
    );
    for (const name of ['latent_bias', 'latents_activation_frequency', 'latents_mean_square']) {
      const saved = data(await some.stateDict(), name);
      assert.equal(
        [...saved],
        indices.map((i) => data(state, name)[i]),
      );
    }
    using weight = ae.decoderWeight();
    using ownWeight = some.decoderWeight();
    assert.equal([...weight.shape], [30, 7]);
    for (const [row, i] of indices.entries()) {
      assert.equal([...(await ownWeight.select(0, row).read())], [...(await weight.select(0, i).read())]);
    }
    throws(() => ae.selectLatents([]), RangeError, /selectLatents: indices must name one latent at least/);
    throws(() => ae.selectLatents([30]), RangeError, /selectLatents: indices must be an integer from 0 to 29/);
  }
  assert.is(getDefaultDevice().memory().allocated, before);
});

test('a threshold keeps what is above it, and the sparse version decodes to the same', async () => {
  using ae = Autoencoder.fromStateDict(stateOf(200, 30));
  using x = Tensor.from(random(5).floats(60), { shape: [2, 30] });
  using latents = ae.encode(x);
  const dense = await latents.read();
  const sparse = await ae.encodeSparse(x, { threshold: 3 });
  assert.equal(
    [...sparse.values],
    [...dense].filter((v) => v > 3),
  );
  const none = await ae.encodeSparse(x, { threshold: 1e9 });
  assert.equal([...none.rowPtr], [0n, 0n, 0n]);
  using back = ae.decodeSparse(await ae.encodeSparse(x));
  using full = ae.decode(latents);
  close(await back.read(), await full.read(), { rtol: 1e-4, atol: 1e-4 });
});

test('without a filter: the same latents, kept by a selection', async () => {
  const topk = { activation: 'TopK', activation_state_dict: { k: 9, postact_fn: 'ReLU' } };
  using x = Tensor.from(random(5).floats(5 * 90), { shape: [5, 90] });
  for (const state of [stateOf(700, 90), stateOf(700, 90, topk)]) {
    using ae = Autoencoder.fromStateDict(state);
    using without = Autoencoder.fromStateDict(state, { filter: false });
    using some = without.selectLatents([3, 600, 17]);
    using made = new Autoencoder({ nLatents: 2, nInputs: 3, filter: false });
    assert.equal(
      [ae, without, some, made].map(({ filter }) => filter),
      [true, false, false, false],
    );
    const [sparse, expected] = [await ae.encodeSparse(x), await without.encodeSparse(x)];
    assert.ok(expected.indices.length > 0);
    assert.equal(sparse, expected);
    const entries = await without.device.profile(() => without.encodeSparse(x));
    assert.ok(entries.every(({ operation, filter }) => operation !== 'packFilter' && filter === undefined));
  }
});

test('state dicts that do not fit say so by name', async () => {
  const without = (name: string) => {
    const state = stateOf(4, 3);
    delete state[name];
    return state;
  };
  throws(() => Autoencoder.fromStateDict(without('pre_bias')), Error, /the state dict lacks pre_bias/);
  // only a file that says so is tied: one that lost its decoder would decode to something else
  throws(() => Autoencoder.fromStateDict(without('decoder.weight')), Error, /the state dict lacks decoder\.weight/);
  throws(
    () => Autoencoder.fromStateDict(without('latents_mean_square')),
    Error,
    /lacks the statistics latents_mean_square \(strict: false starts them afresh\)/,
  );
  Autoencoder.fromStateDict(without('latents_mean_square'), { strict: false }).dispose();
  throws(() => Autoencoder.fromStateDict({}), Error, /lacks pre_bias, latent_bias, encoder\.weight/);
  throws(
    () => Autoencoder.fromStateDict(stateOf(4, 3, { extra: 1, more: 2 })),
    Error,
    /unexpected entries: extra, more \(strict: false ignores them\)/,
  );
  Autoencoder.fromStateDict(stateOf(4, 3, { extra: 1 }), { strict: false }).dispose();
  throws(
    () => Autoencoder.fromStateDict(stateOf(4, 3, { latent_bias: host([5], 1) })),
    Error,
    /latent_bias must be \[4\] \(encoder\.weight is \[4, 3\]\), but is \[5\]/,
  );
  throws(
    () => Autoencoder.fromStateDict(stateOf(4, 3, { activation: 'Sigmoid' })),
    Error,
    /activation must be ReLU, TopK, JumpReLU or Identity, but is 'Sigmoid'/,
  );
  throws(
    () => Autoencoder.fromStateDict(stateOf(4, 3, { activation: 'TopK' })),
    RangeError,
    /topK: k must be an integer of 1 or more/,
  );
  throws(
    () => Autoencoder.fromStateDict(stateOf(4, 3, { 'encoder.weight': host([4], 1) })),
    Error,
    /encoder\.weight must be \[latents, inputs\], but is \[4\]/,
  );
  await rejects(Autoencoder.load('/no/such/file.pt'), Error, /\/no\/such\/file\.pt/);
  const before = getDefaultDevice().memory().allocated;
  throws(
    () => Autoencoder.fromStateDict(stateOf(4, 3, { stats_last_nonzero: host([9], 1) })),
    Error,
    /stats_last_nonzero must be/,
  );
  assert.is(getDefaultDevice().memory().allocated, before);
});

test('wrong widths and slices are refused', async () => {
  using ae = new Autoencoder({ nLatents: 8, nInputs: 3 });
  using x = Tensor.zeros([2, 4]);
  throws(
    () => ae.encode(x),
    RangeError,
    /encodePreAct: x must be \[\.\.\., 3\] \(the autoencoder's inputs\), but is \[2, 4\]/,
  );
  throws(() => ae.decode(x), RangeError, /decode: x must be \[\.\.\., 8\] \(the autoencoder's latents\)/);
  await rejects(ae.encodeSparse(x), RangeError, /encodeSparse: x must be \[\.\.\., 3\]/);
  throws(
    () => ae.encodePreAct(Tensor.zeros([1, 3]), { latentSlice: [2, 9] }),
    RangeError,
    /latentSlice\[1\] must be an integer from 2 to 8/,
  );
  throws(() => new Autoencoder({ nLatents: 0, nInputs: 3 }), RangeError, /nLatents must be an integer of 1 or more/);
  throws(() => activations.topK(2, activations.topK(1)), TypeError, /must be relu\(\) or identity\(\)/);
});

test('a saved state dict is the same autoencoder again', async () => {
  await withFolder(async (folder) => {
    for (const kind of ['relu', 'topk', 'identity', 'tied', 'relu_half']) {
      using ae = await Autoencoder.load(join(tiny, `ae_${kind}.pt`));
      const file = join(folder, `${kind}.pt`);
      await saveTorch(file, await ae.stateDict());
      using again = await Autoencoder.load(file);
      assert.is(await again.digest(), await ae.digest());
      assert.equal(
        [again.tied, again.activation.name, again.activation.k],
        [ae.tied, ae.activation.name, ae.activation.k],
      );
      close(await again.statsLastNonzero.read(), await ae.statsLastNonzero.read());
      const saved = Object.keys(await again.stateDict());
      const original = Object.keys(await loadTorch(join(tiny, `ae_${kind}.pt`)));
      // torch repeats a TopK's own state under activation.*; files of tensors alone name no activation
      for (const name of original) assert.ok(saved.includes(name) || name.startsWith('activation.'), name);
    }
  });
});

test('new ones: tied or not, each activation, and memory that goes', async () => {
  const device = getDefaultDevice();
  const before = device.memory().allocated;
  for (const activation of [activations.relu(), activations.topK(3), activations.identity()]) {
    for (const tied of [true, false]) {
      using ae = new Autoencoder({ nLatents: 20, nInputs: 6, activation, tied, seed: 3 });
      using x = Tensor.randn([5, 6], { seed: 1 });
      const { preAct, latents, reconstruction } = await ae.forward(x);
      assert.equal(
        [[...latents.shape], [...reconstruction.shape]],
        [
          [5, 20],
          [5, 6],
        ],
      );
      assert.is(Math.max(...(await ae.statsLastNonzero.read())), 1);
      for (const t of [preAct, latents, reconstruction]) t.dispose();
    }
  }
  assert.is(device.memory().allocated, before);
});

test.run();
