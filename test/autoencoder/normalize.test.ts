// Whether inputs are normalised: published v5 files are known by where they came from, and others of their shape must
// be told. Oracle: the path or address of each file.
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import * as assert from 'uvu/assert';
import { activations } from '../../src/autoencoder/activation.js';
import { Autoencoder } from '../../src/autoencoder/autoencoder.js';
import { AutoencoderContext } from '../../src/context/autoencoder_context.js';
import { DerivedScalarType } from '../../src/context/registry.js';
import { findAutoencoder } from '../../src/dump/shards/autoencoders.js';
import { openDevice } from '../../src/engine/device.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { openBlob } from '../../src/files/blob/blob.js';
import { type HostTensor, isHostTensor, type StateDict } from '../../src/files/host_tensor.js';
import { loadSafetensors, saveSafetensors } from '../../src/files/safetensors/safetensors.js';
import { loadTorch, saveTorch } from '../../src/files/torch/torch.js';
import { BlobServer } from '../support/blobs/blob_server.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite, throws } from '../support/harness.js';
import { random } from '../support/random.js';

const test = suite('normalised inputs');
const device = openDevice('cpu'); // nothing here depends on it
const options = { strict: false, device };

const host = (shape: number[], seed: number): HostTensor => ({
  dtype: 'float32',
  shape,
  data: random(seed).floats(shape.reduce((a, b) => a * b, 1)),
});
const stateOf = (latents: number, activation = 'TopK'): StateDict => ({
  pre_bias: host([2], 1),
  latent_bias: host([latents], 2),
  'encoder.weight': host([latents, 2], 3),
  'decoder.weight': host([2, latents], 4),
  activation,
  ...(activation === 'TopK' && { activation_state_dict: { k: 3, postact_fn: 'ReLU' } }),
});
const normalizes = (state: StateDict, how = {}): boolean => {
  using ae = Autoencoder.fromStateDict(state, { ...options, ...how });
  return ae.normalize;
};
const mustBeTold =
  /normalize must be true or false, but is not given: a TopK autoencoder of \d+ latents .*\{ normalize: true \}/;

const published = 'resid_delta_mlp_v5_32k/autoencoders/5.pt';

test("a file under a published one's path, whatever way it is read", () =>
  withFolder(async (folder) => {
    const path = join(folder, published);
    await mkdir(dirname(path), { recursive: true });
    await saveTorch(path, stateOf(32_768));
    await using file = await openBlob(path);
    const state = await loadTorch(path);
    const { activation_state_dict, ...rest } = state;
    const copies: StateDict[] = [
      state,
      { ...state },
      Object.fromEntries(Object.entries(state)),
      { ...rest, activation_state_dict: { ...(activation_state_dict as StateDict) } },
      { ...state, 'encoder.weight': { ...(state['encoder.weight'] as HostTensor) } },
      await loadTorch(file),
      await loadTorch(await file.read()),
    ];
    for (const copy of copies) assert.is(normalizes(copy), true);
    assert.equal(Reflect.ownKeys(state), Reflect.ownKeys(stateOf(32_768)));
    assert.is(normalizes(state, { normalize: false }), false);
    using loaded = await Autoencoder.load(path, options);
    assert.is(loaded.normalize, true);
    const before = process.cwd();
    process.chdir(dirname(path));
    try {
      assert.is(normalizes(await loadTorch('5.pt')), true);
    } finally {
      process.chdir(before);
    }
    // nothing is known of what has lost its origin
    throws(() => normalizes(structuredClone(state)), Error, mustBeTold);
    const bytes = await readFile(path);
    throws(() => normalizes(structuredClone(state)), Error, /where this one comes from is not known/);
    const fromBytes = await loadTorch(bytes);
    throws(() => normalizes(fromBytes), Error, mustBeTold);
    assert.is(normalizes(fromBytes, { normalize: true }), true);
  }));

test('a file of their shape under another path must be told, others need not', () =>
  withFolder(async (folder) => {
    for (const latents of [32_768, 131_072]) {
      const path = join(folder, '5.pt');
      await saveTorch(path, stateOf(latents));
      await rejects(Autoencoder.load(path, options), Error, mustBeTold);
      await rejects(Autoencoder.load(path, options), Error, new RegExp(`v5_${latents / 1024}k/.*and ${path} is not`));
      const state = await loadTorch(path);
      throws(() => normalizes(state), Error, mustBeTold);
      for (const normalize of [true, false]) {
        using ae = await Autoencoder.load(path, { ...options, normalize });
        assert.is(ae.normalize, normalize);
        // what is saved of it says so
        const saved = join(folder, 'saved.pt');
        await saveTorch(saved, await ae.stateDict());
        using again = await Autoencoder.load(saved, { device });
        assert.is(again.normalize, normalize);
        assert.is(await again.digest(), await ae.digest());
      }
      await rejects(
        findAutoencoder(
          { location: '5/resid/delta_mlp', autoencoder: 'mine' } as never,
          { mine: join(folder, '{layer}.pt') },
          { name: 'gpt2-small', device },
        ),
        Error,
        /keep the file under such a path; what stateDict\(\) gives says it/,
      );
      const config = { dst: DerivedScalarType.residDeltaMlp, pathByLayerIndex: new Map([[5, path]]) };
      using unknown = new AutoencoderContext({ config, device });
      await rejects(unknown.getAutoencoder(5), Error, mustBeTold);
      using told = new AutoencoderContext({ config: { ...config, normalize: true }, device });
      assert.is((await told.getAutoencoder(5)).normalize, true);
    }
    for (const state of [stateOf(32_767), stateOf(32_768, 'ReLU'), stateOf(131_072, 'Identity'), stateOf(12)]) {
      assert.is(normalizes(state), false);
    }
    using untrained = new Autoencoder({ nLatents: 32_768, nInputs: 2, activation: activations.topK(2), device });
    assert.is(normalizes(await untrained.stateDict()), false);
    // a selection of the published size, and one of them
    using large = Autoencoder.fromStateDict(stateOf(40_000), options);
    using some = large.selectLatents(Int32Array.from({ length: 32_768 }, (_, i) => i));
    assert.is(normalizes(await some.stateDict()), false);
    using v5 = Autoencoder.fromStateDict(stateOf(32_768), { ...options, normalize: true });
    using few = v5.selectLatents([1, 2]);
    assert.is(normalizes(await few.stateDict()), true);
  }));

test('what a state dict says counts, and must be true or false', () => {
  const saying = (normalize: never): StateDict => ({
    ...stateOf(32_768),
    activation_state_dict: { k: 3, postact_fn: 'ReLU', normalize },
  });
  assert.is(normalizes(saying(false as never)), false);
  assert.is(normalizes(saying(true as never)), true);
  throws(() => normalizes(saying('yes' as never)), Error, /normalize in activation_state_dict must be true or false/);
});

test('a copy as safetensors has no activation: what was TopK must be put beside it, and told', () =>
  withFolder(async (folder) => {
    const state = stateOf(32_768);
    const tensors = Object.fromEntries(Object.entries(state).filter(([, value]) => isHostTensor(value)));
    const path = join(folder, 'x.safetensors');
    await saveSafetensors(path, tensors as Record<string, HostTensor>);
    const { activation, activation_state_dict } = state as { activation: string; activation_state_dict: StateDict };
    const again: StateDict = { ...(await loadSafetensors(path)), activation, activation_state_dict };
    throws(() => normalizes(again), Error, mustBeTold);
    assert.is(normalizes(again, { normalize: true }), true);
  }));

test('an address on the network, asked for or in the cache', () =>
  withFolder(async (folder) => {
    await using server = await BlobServer.start();
    const path = join(folder, 'x.pt');
    await saveTorch(path, stateOf(32_768));
    const bytes = await readFile(path);
    server.put(`sae/gpt2-small/${published}`, bytes);
    server.put('sae/mine/5.pt', bytes);
    const variables = ['SONDE_CACHE', 'SONDE_BLOB_ENDPOINT'] as const;
    const before = variables.map((name) => process.env[name]);
    process.env.SONDE_CACHE = join(folder, 'cache');
    process.env.SONDE_BLOB_ENDPOINT = server.address;
    try {
      for (const address of [
        `${server.address}/sae/gpt2-small/${published}`,
        `az://openaipublic/sae/gpt2-small/${published}`,
      ]) {
        for (const query of address.startsWith('az') ? [''] : ['', '?sig=x']) {
          await using file = await openBlob(address + query);
          assert.is(normalizes(await loadTorch(file)), true);
          assert.is(normalizes(await loadTorch(address + query)), true);
          assert.is(normalizes(await loadTorch(file.path)), true); // the copy by its own path
          using ae = await Autoencoder.load(address + query, options);
          assert.is(ae.normalize, true);
        }
      }
      await rejects(Autoencoder.load(`${server.address}/sae/mine/5.pt`, options), Error, mustBeTold);
      assert.ok((await readdir(join(folder, 'cache', 'blobs'))).length > 0);
    } finally {
      for (const [i, name] of variables.entries()) {
        const value = before[i];
        if (value === undefined) delete process.env[name];
        else process.env[name] = value;
      }
    }
  }));

test('it changes what is encoded', async () => {
  using plain = Autoencoder.fromStateDict(stateOf(32_768), { ...options, normalize: false });
  using normalizing = Autoencoder.fromStateDict(stateOf(32_768), { ...options, normalize: true });
  using x = Tensor.from([[30, 50]], { device });
  const [a, b] = [await plain.encodeSparse(x), await normalizing.encodeSparse(x)];
  assert.is.not(String(a.values), String(b.values));
});

test.run();
