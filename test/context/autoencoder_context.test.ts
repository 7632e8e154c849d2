// Sets of autoencoders. Oracle: the autoencoders' files, and the original's rules (autoencoder_context.py,
// model_registry.py; paths.py of openai/sparse_autoencoder), written out here.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { Autoencoder } from '../../src/autoencoder/autoencoder.js';
import {
  AutoencoderContext,
  countDeadLatents,
  MultiAutoencoderContext,
  makeAutoencoderContext,
  omitLeastActiveLatents,
} from '../../src/context/autoencoder_context.js';
import { Dimension, NodeType } from '../../src/context/dimensions.js';
import { DerivedScalarType, findAutoencoderSpec, listAutoencoderNames } from '../../src/context/registry.js';
import { getDefaultDevice } from '../../src/engine/device.js';
import { packageRoot } from '../../src/engine/native.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import type { HostTensor, StateDict } from '../../src/files/host_tensor.js';
import { saveTorch } from '../../src/files/torch/torch.js';
import { BlobServer } from '../support/blobs/blob_server.js';
import { close } from '../support/close.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite, throws } from '../support/harness.js';
import { random } from '../support/random.js';

const test = suite('autoencoder context');
const device = getDefaultDevice();
const allocated = () => device.memory().allocated;

test('the names, and the paths of the files', () => {
  assert.equal(listAutoencoderNames().slice(0, 5), [
    'ae-mlp-post-act-v1',
    'ae-resid-delta-mlp-v1',
    'ae-mlp-post-act-v4',
    'ae-resid-delta-mlp-v4',
    'ae-resid-delta-attn-v4',
  ]);
  assert.equal(listAutoencoderNames().slice(5).sort(), [
    'ae-resid-delta-attn-v5-128k',
    'ae-resid-delta-attn-v5-32k',
    'ae-resid-delta-mlp-v5-128k',
    'ae-resid-delta-mlp-v5-32k',
    'ae-resid-post-attn-v5-128k',
    'ae-resid-post-attn-v5-32k',
    'ae-resid-post-mlp-v5-128k',
    'ae-resid-post-mlp-v5-32k',
  ]);
  assert.equal(listAutoencoderNames('gpt2/small'), listAutoencoderNames('gpt2-small'));
  assert.equal(listAutoencoderNames('demo'), ['ae-mlp-post-act', 'ae-resid-delta-mlp', 'ae-resid-delta-attn']);
  assert.equal(listAutoencoderNames('gpt2-xl'), []);
  const paths = (autoencoderName: string) => {
    const context = makeAutoencoderContext({ modelName: 'gpt2-small', autoencoderName, device });
    const { config, dst } = context;
    assert.equal([...context.layerIndices], [...Array(12).keys()]);
    return [dst, config.pathByLayerIndex.get(11), config.normalize ?? false];
  };
  const folder = 'az://openaipublic/sparse-autoencoder/gpt2-small';
  assert.equal(paths('ae-mlp-post-act-v1'), ['mlp_post_act', `${folder}/mlp_post_act/autoencoders/11.pt`, false]);
  assert.equal(paths('ae-resid-delta-attn-v4'), [
    'resid_delta_attn',
    `${folder}/resid_delta_attn_v4/autoencoders/11.pt`,
    false,
  ]);
  assert.equal(paths('ae-resid-post-mlp-v5-128k'), [
    'resid_post_mlp',
    `${folder}/resid_post_mlp_v5_128k/autoencoders/11.pt`,
    true,
  ]);
  throws(
    () => makeAutoencoderContext({ modelName: 'gpt2-small', autoencoderName: 'ae-none' }),
    RangeError,
    /gpt2-small has no autoencoders 'ae-none'; it has ae-mlp-post-act-v1, /,
  );
  throws(
    () => makeAutoencoderContext({ modelName: 'gpt2-xl', autoencoderName: 'ae-mlp-post-act-v4' }),
    RangeError,
    /gpt2-xl has no autoencoders 'ae-mlp-post-act-v4'$/,
  );
  throws(
    () => makeAutoencoderContext({ modelName: 'demo', autoencoderName: '__proto__' }),
    RangeError,
    /has no autoencoders/,
  );
  // a model in a folder has no name that says what it is
  assert.is(findAutoencoderSpec('./my-gpt2', 'ae-mlp-post-act-v4')?.dst, 'mlp_post_act');
  assert.is(findAutoencoderSpec('gpt2-small', 'ae-mlp-post-act'), undefined);
});

test('autoencoders are loaded when they are needed, once, and freed together', async () => {
  const before = allocated();
  {
    using context = makeAutoencoderContext({ modelName: 'demo', autoencoderName: 'ae-resid-delta-mlp' });
    assert.is(context.dst, DerivedScalarType.residDeltaMlp);
    assert.is(context.autoencoderNodeType, NodeType.mlpAutoencoderLatent);
    throws(() => context.numAutoencoderDirections, Error, /call warmup\(\) first/);
    const [one, same] = await Promise.all([context.getAutoencoder(1), context.getAutoencoder(1)]);
    assert.is(one, same);
    using file = await Autoencoder.load(join(packageRoot, 'assets/demo/autoencoders/resid_delta_mlp/1.pt'), {
      strict: false,
    });
    assert.is(await one.digest(), await file.digest());
    await context.warmup();
    assert.is(await context.getAutoencoder(1), one);
    assert.is(context.numAutoencoderDirections, file.nLatents);
    assert.equal(context.getParameterizedDimensionSizes(), { [Dimension.autoencoderLatents]: file.nLatents });
    const weights = await context.getOutputWeights();
    assert.equal([...weights.keys()], [0, 1, 2, 3]);
    using expected = file.decoderWeight();
    assert.equal(await weights.get(1)?.read(), await expected.read());
    for (const weight of weights.values()) weight.dispose();
    await rejects(context.getAutoencoder(4), RangeError, /there is none for layer 4; there are for 0, 1, 2, 3/);
    await rejects(context.getAutoencoder(), RangeError, /there is none for layer undefined/);
  }
  assert.is(allocated(), before);
});

/** A file of an autoencoder whose latents have these frequencies. */
async function saveWith(path: string, frequencies: number[], more: StateDict = {}): Promise<StateDict> {
  const [L, N] = [frequencies.length, 5];
  const floats = (shape: number[], seed: number): HostTensor => {
    return { dtype: 'float32', shape, data: random(seed).floats(shape.reduce((a, b) => a * b)) };
  };
  const state: StateDict = {
    pre_bias: floats([N], 1),
    latent_bias: floats([L], 2),
    'encoder.weight': floats([L, N], 3),
    'decoder.weight': floats([N, L], 4),
    latents_activation_frequency: { dtype: 'float32', shape: [L], data: Float32Array.from(frequencies) },
    ...more,
  };
  await saveTorch(path, state);
  return state;
}

test('dead latents are omitted: the last ones, as many of each as the fewest dead', () =>
  withFolder(async (folder) => {
    const before = allocated();
    const paths = [0, 1].map((i) => join(folder, `${i}.pt`));
    const state = await saveWith(paths[0] as string, [0.1, 0, 0.2, 1e-9, 0.3, 0]); // 3 dead
    await saveWith(paths[1] as string, [0, 0.5, 1e-8, 0.1, 0.1, 0]); // 2 dead: 1e-8 is not below
    const pathByLayerIndex = new Map([...paths.entries()]);
    const config = { dst: DerivedScalarType.residDeltaAttn, pathByLayerIndex };
    using context = new AutoencoderContext({ config, omitDeadLatents: true, device });
    const first = await context.getAutoencoder(0);
    assert.equal([first.nLatents, await countDeadLatents(first)], [6, 3]);
    await context.warmup();
    assert.is(context.numAutoencoderDirections, 4);
    const smaller = await context.getAutoencoder(0);
    assert.equal([smaller.nLatents, (await context.getAutoencoder(1)).nLatents], [4, 4]);
    using x = Tensor.from(random(9).floats(10), { shape: [2, 5] });
    using whole = Autoencoder.fromStateDict(state, { strict: false });
    const [own, all] = [smaller.encode(x), whole.encode(x)];
    close(await own.read(), await all.slice(-1, 0, 4).read(), { rtol: 1e-6, atol: 1e-6 });
    own.dispose();
    all.dispose();
    using most = await omitLeastActiveLatents(whole, 3, { preserveIndices: false });
    assert.equal([...(await most.latentsActivationFrequency.read())], [...Float32Array.of(0.1, 0.2, 0.3)]);
    assert.is(await omitLeastActiveLatents(whole, 6), whole);
    for (const t of [x, whole, most, context]) t.dispose();
    assert.is(allocated(), before);

    await saveWith(paths[1] as string, [0, 0, 0]);
    using dead = await Autoencoder.load(paths[1] as string, { strict: false });
    await rejects(countDeadLatents(dead), Error, /all latents are dead/);
  }));

test('frequencies that are none are named, where a choice depends on them', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'x.pt');
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, -0.5]) {
      await saveWith(path, [0.1, bad, 0.2, 0.3]);
      using autoencoder = await Autoencoder.load(path, { strict: false });
      const named = `latents_activation_frequency of latent 1 must be a number of 0 or more, but is ${bad}`;
      const counted = await rejects(countDeadLatents(autoencoder), RangeError, /./);
      assert.is(counted.message, `countDeadLatents: ${named}`);
      const most = omitLeastActiveLatents(autoencoder, 2, { preserveIndices: false });
      assert.is((await rejects(most, RangeError, /./)).message, `omitLeastActiveLatents: ${named}`);
      using first = await omitLeastActiveLatents(autoencoder, 2);
      assert.is(first.nLatents, 2);
      const config = { dst: DerivedScalarType.residDeltaAttn, pathByLayerIndex: new Map([[0, path]]) };
      using context = new AutoencoderContext({ config, omitDeadLatents: true, device });
      await rejects(context.warmup(), RangeError, /countDeadLatents: latents_activation_frequency of latent 1/);
    }
    using whole = await Autoencoder.load(path, { strict: false });
    for (const kept of [0, -1, 1.5, Number.NaN]) {
      await rejects(omitLeastActiveLatents(whole, kept), RangeError, /nLatentsToKeep must be an integer of 1 or more/);
    }
  }));

test('autoencoders of different sizes have no common number of latents', () =>
  withFolder(async (folder) => {
    const paths = [0, 1].map((i) => join(folder, `${i}.pt`));
    await saveWith(paths[0] as string, [0.1, 0, 0.2]);
    await saveWith(paths[1] as string, [0.1, 0]);
    const config = { dst: DerivedScalarType.residDeltaAttn, pathByLayerIndex: new Map([...paths.entries()]) };
    for (const omitDeadLatents of [true, false]) {
      using context = new AutoencoderContext({ config, omitDeadLatents, device });
      const pattern = /must have one number of latents, but that of layer 0 has 3, that of layer 1 2/;
      if (omitDeadLatents) await rejects(context.warmup(), RangeError, pattern);
      else await context.warmup();
      throws(() => context.numAutoencoderDirections, RangeError, pattern);
      assert.is((await context.getAutoencoder(1)).nLatents, 2);
    }
  }));

test('a published v5 set normalises its inputs; others do not', () =>
  withFolder(async (folder) => {
    await using server = await BlobServer.start();
    const before = { ...process.env };
    Object.assign(process.env, { SONDE_CACHE: join(folder, 'cache'), SONDE_BLOB_ENDPOINT: server.endpoint });
    try {
      const topK = { activation: 'TopK', activation_state_dict: { k: 2, postact_fn: 'ReLU' } };
      for (const [name, set] of [
        ['ae-resid-post-mlp-v5-32k', 'resid_post_mlp_v5_32k'],
        ['ae-resid-delta-mlp-v4', 'resid_delta_mlp_v4'],
      ] as const) {
        await saveWith(join(folder, 'x.pt'), [1, 1, 1, 1], topK);
        server.put(
          `openaipublic/sparse-autoencoder/gpt2-small/${set}/autoencoders/3.pt`,
          await readFile(join(folder, 'x.pt')),
        );
        using context = makeAutoencoderContext({ modelName: 'gpt2-small', autoencoderName: name, device });
        const autoencoder = await context.getAutoencoder(3);
        assert.is(autoencoder.normalize, name.includes('v5'));
        await rejects(context.getAutoencoder(4), Error, /autoencoders\/4\.pt: there is no such blob/);
      }
    } finally {
      for (const name of ['SONDE_CACHE', 'SONDE_BLOB_ENDPOINT']) delete process.env[name];
      Object.assign(process.env, before);
    }
  }));

test('options that make no set', () => {
  const config = (entries: [number | undefined, string][]) => {
    return { dst: DerivedScalarType.mlpPostAct, pathByLayerIndex: new Map(entries) };
  };
  throws(() => new AutoencoderContext({ config: config([]) }), RangeError, /must have a file for one layer at least/);
  const mixed: [number | undefined, string][] = [
    [undefined, 'a'],
    [1, 'b'],
  ];
  throws(() => new AutoencoderContext({ config: config(mixed) }), RangeError, /several files must each have a layer/);
  const elsewhere = { config: config([[undefined, 'a']]), device: 'cpu' as never };
  throws(
    () => new AutoencoderContext(elsewhere),
    TypeError,
    /device must be what openDevice or getDefaultDevice gives/,
  );
});

test('several sets, by type of node', async () => {
  const make = (autoencoderName: string) => makeAutoencoderContext({ modelName: 'demo', autoencoderName, device });
  using mlp = make('ae-mlp-post-act');
  using attention = make('ae-resid-delta-attn');
  using other = make('ae-resid-delta-mlp');
  const both = MultiAutoencoderContext.fromAutoencoderContextList([mlp, attention]);
  assert.equal(
    [...both.autoencoderContextByNodeType.keys()],
    ['mlp_autoencoder_latent', 'attention_autoencoder_latent'],
  );
  assert.is(both.getAutoencoderContext(NodeType.attentionAutoencoderLatent), attention);
  assert.is(both.getAutoencoderContext(NodeType.mlpNeuron), undefined);
  assert.not.ok(both.hasSingleAutoencoderContext);
  throws(
    () => both.getAutoencoderContext(),
    RangeError,
    /there must be one set of autoencoders, but there are: mlp_autoencoder_latent, att/,
  );
  assert.is(await both.getAutoencoder(2, NodeType.mlpAutoencoderLatent), await mlp.getAutoencoder(2));
  await rejects(both.getAutoencoder(2, NodeType.mlpNeuron), RangeError, /there is no set for mlp_neuron/);
  throws(
    () => MultiAutoencoderContext.fromAutoencoderContextList([mlp, other]),
    RangeError,
    /two of the autoencoders have the node type mlp_autoencoder_latent/,
  );
  using residual = makeAutoencoderContext({ modelName: 'gpt2-small', autoencoderName: 'ae-resid-post-mlp-v5-32k' });
  throws(
    () => MultiAutoencoderContext.fromAutoencoderContextList([residual]),
    RangeError,
    /latents of resid_post_mlp are no nodes/,
  );

  const single = MultiAutoencoderContext.fromContextOrMultiContext(attention);
  assert.ok(single?.hasSingleAutoencoderContext);
  assert.is(single?.getAutoencoderContext(), attention);
  assert.is(single?.getAutoencoderContext(NodeType.autoencoderLatent), attention);
  assert.is(await single?.getAutoencoder(0), await attention.getAutoencoder(0));
  assert.is(MultiAutoencoderContext.fromContextOrMultiContext(both), both);
  assert.is(MultiAutoencoderContext.fromContextOrMultiContext(undefined), undefined);
  await single?.warmup();
  assert.ok(attention.numAutoencoderDirections > 0);
});

test.run();
