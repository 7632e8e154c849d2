// Autoencoders: state dicts that do not fit, shapes, statistics, round trips; the values are goldens.test.ts's. The oracle for
// encode and decode is the formula in doubles.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { identity, relu, topK } from '../../src/autoencoder/activation.js';
import { Autoencoder } from '../../src/autoencoder/autoencoder.js';
import { getDefaultDevice } from '../../src/engine/device.js';
import { packageRoot } from '../../src/engine/native.js';
import { Tensor } from '../../src/engine/tensor.js';
import type { HostTensor, StateDict } from '../../src/files/host_tensor.js';
import { loadTorch, saveTorch } from '../../src/files/torch.js';
import { close } from '../support/close.js';
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

test('a threshold keeps what is above it, and the sparse form decodes to the same', async () => {
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
    /activation must be ReLU, TopK or Identity, but is 'Sigmoid'/,
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
  throws(() => topK(2, topK(1)), TypeError, /must be relu\(\) or identity\(\)/);
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
  for (const activation of [relu(), topK(3), identity()]) {
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
