// Contexts of models. Oracle for weights: the tensors of the checkpoint's files, put into the standard shapes by plain
// loops; for normalised ones, norms in doubles.
import { cp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { activationShapeSpec } from '../../src/context/activation_locations.js';
import { Dimension } from '../../src/context/dimensions.js';
import {
  getEmbedding,
  getUnembeddingWithLnGain,
  InvalidTokenException,
  ModelContext,
  StandardModelContext,
  StubModelContext,
} from '../../src/context/model_context.js';
import {
  WeightLocationType,
  weightHasNoLayers,
  weightLocationTypes,
  weightShapeSpec,
} from '../../src/context/weight_locations.js';
import { openDump } from '../../src/dump/read/reader.js';
import { dump } from '../../src/dump/run.js';
import { type Device, getDefaultDevice, openDevice } from '../../src/engine/device.js';
import { packageRoot } from '../../src/engine/native.js';
import { matmul } from '../../src/engine/ops/matmul.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import type { HostTensor } from '../../src/files/host_tensor.js';
import { gpt2Tokenizer, type Tokenizer } from '../../src/files/tokenizer/tokenizer.js';
import { loadTorchValue } from '../../src/files/torch/torch.js';
import { locationShape } from '../../src/transformer/location.js';
import type { Tokens } from '../../src/transformer/padding.js';
import type { SubjectModel } from '../../src/transformer/subject_model.js';
import { Transformer } from '../../src/transformer/transformer.js';
import type { TransformerConfig } from '../../src/transformer/weights/config.js';
import { close } from '../support/close.js';
import { withFolder } from '../support/folders.js';
import { goldenNames } from '../support/goldens.js';
import { rejects, suite, throws } from '../support/harness.js';
import { saveHuggingFace } from '../support/hugging_face.js';

const test = suite('model context');
const folderOf = (name: string) => join(packageRoot, 'test', 'fixtures', 'goldens', name);

/** The stored parameter of each weight, and its value at an index of the standard shape, from the stored one. */
interface Expected {
  parameter: string;
  at: (data: ArrayLike<number>, index: number[], heads: number, shape: readonly number[]) => number;
}
const transposed: Expected['at'] = (data, [i = 0, j = 0], _, shape) => data[j * (shape[0] as number) + i] as number;
const same: Expected['at'] = (data, [i = 0, j = 0], _, shape) => data[i * (shape[1] ?? 1) + j] as number;
// the file has [head * element, width], the standard is [head, width, element]
const byHead: Expected['at'] = (data, [h = 0, d = 0, c = 0], _, [, D = 0, C = 0]) =>
  data[(h * C + c) * D + d] as number;
// the file has [width, head * element], the standard is [head, element, width]
const fromHead: Expected['at'] = (data, [h = 0, c = 0, d = 0], H, [, C = 0]) => data[d * H * C + h * C + c] as number;
const expected: Record<WeightLocationType, Expected> = {
  'mlp.to_hidden': { parameter: 'xf_layers.1.mlp.in_layer.weight', at: transposed },
  'mlp.to_residual': { parameter: 'xf_layers.1.mlp.out_layer.weight', at: transposed },
  embedding: { parameter: 'tok_embed.weight', at: same },
  unembedding: { parameter: 'unembed.weight', at: transposed },
  position_embedding: { parameter: 'pos_embed.weight', at: same },
  'attn.to_query': { parameter: 'xf_layers.1.attn.q_proj.weight', at: byHead },
  'attn.to_key': { parameter: 'xf_layers.1.attn.k_proj.weight', at: byHead },
  'attn.to_value': { parameter: 'xf_layers.1.attn.v_proj.weight', at: byHead },
  'attn.to_residual': { parameter: 'xf_layers.1.attn.out_proj.weight', at: fromHead },
  'layer_norm_gain.final': { parameter: 'final_ln.weight', at: same },
  'layer_norm_bias.final': { parameter: 'final_ln.bias', at: same },
  'layer_norm_gain.pre_attn': { parameter: 'xf_layers.1.ln_1.weight', at: same },
  'layer_norm_gain.pre_mlp': { parameter: 'xf_layers.1.ln_2.weight', at: same },
};

/** Calls visit with each index of a shape, in row-major order. */
function eachIndex(shape: readonly number[], visit: (index: number[], flat: number) => void): void {
  const size = shape.reduce((a, b) => a * b, 1);
  for (let flat = 0; flat < size; flat++) {
    let rest = flat;
    const index = [...shape].reverse().map((n) => {
      const i = rest % n;
      rest = Math.floor(rest / n);
      return i;
    });
    visit(index.reverse(), flat);
  }
}

async function expectedWeight(
  folder: string,
  type: WeightLocationType,
  shape: number[],
  heads: number,
): Promise<Float64Array> {
  const { parameter, at } = expected[type];
  const { data } = (await loadTorchValue(join(folder, 'model_pieces', `${parameter}.pt`))) as HostTensor;
  const out = new Float64Array(shape.reduce((a, b) => a * b, 1));
  eachIndex(shape, (index, flat) => {
    out[flat] = at(data as Float32Array, index, heads, shape);
  });
  return out;
}

function dividedByNorm(values: Float64Array, shape: number[], dim: number): Float64Array {
  const sums = new Map<string, number>();
  const key = (index: number[]) => index.filter((_, d) => d !== dim).join();
  eachIndex(shape, (index, flat) => sums.set(key(index), (sums.get(key(index)) ?? 0) + (values[flat] as number) ** 2));
  const out = new Float64Array(values.length);
  eachIndex(shape, (index, flat) => {
    out[flat] = (values[flat] as number) / Math.max(Math.sqrt(sums.get(key(index)) as number), 1e-12);
  });
  return out;
}

const sizes = async (folder: string): Promise<Record<string, number>> => {
  const shape = async (name: string) =>
    ((await loadTorchValue(join(folder, 'model_pieces', `${name}.pt`))) as HostTensor).shape;
  const [vocab = 0, D = 0] = await shape('tok_embed.weight');
  const [F = 0] = await shape('xf_layers.0.mlp.in_layer.weight');
  const [A = 0] = await shape('xf_layers.0.attn.q_proj.weight');
  return { vocab, D, F, A };
};

for (const name of goldenNames) {
  const folder = folderOf(name);
  test(`${name}: every weight, with and without a loaded model, normalised or not`, async () => {
    const device = getDefaultDevice();
    const before = device.memory().allocated;
    const context = await ModelContext.fromModelType(folder, { device });
    assert.is(device.memory().allocated, before, 'nothing is loaded yet');
    const { vocab, D, F, A } = await sizes(folder);
    assert.equal([context.nVocab, context.nResidualStreamChannels, context.nNeurons], [vocab, D, F]);
    const heads = context.nAttentionHeads;
    assert.is(context.getDimSize(Dimension.queryAndKeyChannels), (A as number) / heads);
    for (const loaded of [false, true]) {
      using model = loaded ? ((await context.getOrCreateModel()) as Transformer) : undefined;
      assert.is(model, loaded ? await context.getOrCreateModel() : undefined);
      const after = device.memory().allocated;
      for (const type of weightLocationTypes) {
        const layer = weightHasNoLayers(type) ? {} : { layer: 1 };
        const shape = context.getShapeFromSpec(weightShapeSpec(type));
        const values = await expectedWeight(folder, type, shape, heads);
        using weight = await context.getWeight(type, layer);
        assert.equal([...weight.shape], shape, type);
        assert.equal(await weight.read(), Float32Array.from(values), type);
        for (const [dim, normalizeDim] of weightShapeSpec(type).entries()) {
          using unit = await context.getWeight(type, { ...layer, normalizeDim });
          close(await unit.read(), dividedByNorm(values, shape, dim), { rtol: 2e-6, atol: 1e-7 });
        }
      }
      assert.is(device.memory().allocated, after);
    }
  });
}

test('the loaded model counts, folded as it is', async () => {
  const context = await StandardModelContext.load(folderOf('tiny'));
  using model = await context.getOrCreateModel({ simplify: true });
  using gain = await context.getWeight(WeightLocationType.layerNormGainPreAttn, { layer: 0 });
  assert.ok((await gain.read()).every((x) => x === 1));
  model.dispose();
  await rejects(context.getWeight(WeightLocationType.embedding), Error, /cannot be used: it was disposed/);
});

test('only the file of a weight is read', () =>
  withFolder(async (folder) => {
    await cp(folderOf('tiny'), folder, { recursive: true });
    await rm(join(folder, 'model_pieces', 'pos_embed.weight.pt'));
    const context = await ModelContext.fromModelType(folder);
    using gain = await context.getWeight('layer_norm_gain.final');
    assert.is(gain.size, context.nResidualStreamChannels);
    await rejects(context.getWeight('position_embedding'), Error, /pos_embed\.weight\.pt: there is no such file/);
    await rejects(context.getOrCreateModel(), Error, /pos_embed\.weight\.pt: there is no such file/);
    await rejects(context.getOrCreateModel(), Error, /there is no such file/); // and again
  }));

test('models of other kinds: Hugging Face, random, the demo, on another device', () =>
  withFolder(async (folder) => {
    using tiny = await Transformer.load(folderOf('tiny'));
    await saveHuggingFace(tiny, folder);
    const original = await ModelContext.fromModelType(folderOf('tiny'));
    const other = openDevice('cpu', { threads: 1 });
    const context = await ModelContext.fromModelType(folder, { device: other });
    for (const type of weightLocationTypes) {
      const layer = weightHasNoLayers(type) ? {} : { layer: 0 };
      using weight = await context.getWeight(type, layer);
      using same = await original.getWeight(type, layer);
      assert.is(weight.device, other);
      assert.equal(await weight.read(), await same.read(), type);
      using here = await context.getWeight(type, { ...layer, device: getDefaultDevice() });
      assert.is(here.device, getDefaultDevice());
    }
    const random = (await ModelContext.fromModelType('random:tiny?3')) as StandardModelContext;
    assert.equal([random.nVocab, random.loadPath], [50_257, undefined]);
    using weight = await random.getWeight('mlp.to_hidden', { layer: 1 });
    using model = await random.getOrCreateModel();
    using same = model.weight('xf_layers.1.mlp.in_layer.weight');
    assert.equal(await weight.permute([1, 0]).clone().read(), await same.read());
    const demo = await ModelContext.fromModelType('demo');
    assert.equal([demo.nLayers, demo.modelName], [4, 'demo']);
    await rejects(ModelContext.fromModelType('random:none'), Error, /'random:none' is not known/);
    await rejects(ModelContext.fromModelType('/none'), Error, /\/none\/config\.json: there is no such file/);
  }));

test('sizes, the config, tokens', async () => {
  const context = (await ModelContext.fromModelType(folderOf('tiny'))) as StandardModelContext;
  using model = await Transformer.load(folderOf('tiny'));
  const { config } = model;
  assert.equal(
    [context.nLayers, context.nContext, context.nAttentionHeads],
    [config.nLayers, config.ctxWindow, config.nHeads],
  );
  assert.is(context.getModelConfigAsDict().d_model, config.dModel);
  assert.equal(context.getShapeFromSpec([Dimension.singleton, Dimension.layers]), [1, config.nLayers]);
  throws(
    () => context.getDimSize(Dimension.sequenceTokens),
    RangeError,
    /does not decide the size of 'sequence_tokens'/,
  );
  throws(() => context.getDimSize(Dimension.autoencoderLatents), RangeError, /autoencoder_latents/);

  assert.equal(context.encode('Hello world<|endoftext|>'), [15496, 995, 50256]);
  assert.is(context.decode([15496, 995]), 'Hello world');
  assert.equal(context.decodeTokenList([15496, 995]), ['Hello', ' world']);
  assert.is(context.encodeTokenStr(' world'), 995);
  assert.equal(context.encodeTokenStrList(['Hello', ' world']), [15496, 995]);
  throws(
    () => context.encodeTokenStr('Hello world'),
    InvalidTokenException,
    /"Hello world" must be one token, but is 2: \[15496, 995\]/,
  );
  throws(() => context.encodeTokenStr(''), InvalidTokenException, /but is 0/);

  await rejects(context.getWeight('mlp.to_hidden'), RangeError, /mlp\.to_hidden needs a layer from 0 to/);
  await rejects(context.getWeight('mlp.to_hidden', { layer: 99 }), RangeError, /layer must be an integer from 0 to/);
  await rejects(context.getWeight('embedding', { layer: 0 }), RangeError, /embedding is in no layer, but layer 0/);
  await rejects(context.getWeight('nonsense' as never), RangeError, /weight location 'nonsense' is not known/);
  await rejects(
    context.getWeight('embedding', { normalizeDim: Dimension.mlpActs }),
    RangeError,
    /embedding has the dimensions vocab_size, residual_stream_channels, and mlp_acts is not one of them/,
  );
});

test('the embedding, and the unembedding with the gain', async () => {
  const folder = folderOf('tiny');
  const context = await ModelContext.fromModelType(folder);
  const [V, D] = [context.nVocab, context.nResidualStreamChannels];
  using embedding = await getEmbedding(context);
  assert.equal([...embedding.shape], [V, D]);
  using unembedding = await getUnembeddingWithLnGain(context);
  const gain = await expectedWeight(folder, 'layer_norm_gain.final', [D], 1);
  const plain = await expectedWeight(folder, 'unembedding', [D, V], 1);
  close(
    await unembedding.read(),
    plain.map((x, at) => x * (gain[Math.floor(at / V)] as number)),
    { rtol: 1e-6, atol: 0 },
  );
});

test('a stub has only sizes', async () => {
  const stub = new StubModelContext({ [Dimension.layers]: 3, [Dimension.mlpActs]: 7 });
  assert.equal([stub.nLayers, stub.nNeurons, stub.modelName], [3, 7, 'stub']);
  throws(() => stub.nVocab, RangeError, /this stub has no size for 'vocab_size'/);
  throws(() => stub.getEncoding(), Error, /no tokenizer/);
  throws(() => stub.getModelConfigAsDict(), Error, /no config/);
  throws(() => stub.getOrCreateModel(), Error, /no model/);
  await rejects(stub.getWeight('mlp.to_hidden', { layer: 0 }), Error, /no weights/);
});

// ---- a model of another library

/** A model with an embedding, and MLPs of its own making: x + |x W| W'. It has no attention. */
class AbsoluteModel implements SubjectModel {
  readonly name = 'absolute';
  readonly config: TransformerConfig = {
    enc: 'gpt2',
    ctxWindow: 64,
    dModel: 6,
    nLayers: 2,
    nHeads: 1,
    mAttn: 1,
    mMlp: 2,
  };
  readonly nVocab = 50_257;
  readonly dtype = 'float32';
  readonly enc: Tokenizer = gpt2Tokenizer();
  readonly embedding: Tensor;
  readonly layers: { in: Tensor; out: Tensor }[];

  constructor(readonly device: Device) {
    const make = (shape: number[], seed: number) => Tensor.randn(shape, { device, seed, std: 0.3 });
    this.embedding = make([this.nVocab, 6], 1);
    this.layers = [0, 1].map((i) => ({ in: make([6, 12], 10 + i), out: make([12, 6], 20 + i) }));
  }

  async activations(tokens: Tokens, locations: string[]): Promise<Map<string, Tensor>> {
    const rows = tokens as number[][];
    const found = new Map<string, Tensor>();
    const all = await this.embedding.read();
    const values = rows.flat().flatMap((token) => [...all.subarray(token * 6, token * 6 + 6)]);
    let x = Tensor.from(values, { device: this.device, shape: [rows.length, rows[0]?.length as number, 6] });
    for (const [i, layer] of this.layers.entries()) {
      const pre = matmul(x, layer.in);
      const host = Float32Array.from(await pre.read(), Math.abs);
      const post = Tensor.from(host, { device: this.device, shape: [...pre.shape] });
      x = x.add(matmul(post, layer.out));
      if (locations.includes(`${i}/mlp/post_act`)) found.set(`${i}/mlp/post_act`, post);
    }
    return found;
  }

  digest = async (): Promise<string> => 'absolute 1';
}

class AbsoluteContext extends ModelContext {
  #model: AbsoluteModel | undefined;

  getDimSize(dimension: Dimension): number {
    const known: Partial<Record<Dimension, number>> = {
      layers: 2,
      mlp_acts: 12,
      residual_stream_channels: 6,
      vocab_size: 50_257,
    };
    return known[dimension] ?? 0;
  }

  async getOrCreateModel(): Promise<AbsoluteModel> {
    this.#model ??= new AbsoluteModel(this.device);
    return this.#model;
  }

  getModelConfigAsDict = (): Record<string, unknown> => ({ kind: 'absolute' });
  getEncoding = (): Tokenizer => gpt2Tokenizer();

  protected async weight(type: WeightLocationType, layer: number | undefined): Promise<Tensor> {
    const { layers, embedding } = await this.getOrCreateModel();
    if (type === 'mlp.to_hidden') return (layers[layer as number] as { in: Tensor }).in.clone();
    if (type === 'embedding') return embedding.slice(0, 0, 5).clone(); // a mistake of that library
    throw new Error(`there is no ${type}`);
  }
}

test('a model of another library works through its context', () =>
  withFolder(async (folder) => {
    const context = new AbsoluteContext('absolute', getDefaultDevice());
    using weight = await context.getWeight('mlp.to_hidden', {
      layer: 1,
      normalizeDim: Dimension.residualStreamChannels,
    });
    assert.equal([...weight.shape], [6, 12]);
    using squares = weight.mul(weight);
    using sums = squares.sum(0);
    close(await sums.read(), new Float32Array(12).fill(1), { rtol: 1e-5 });
    await rejects(
      getEmbedding(context),
      Error,
      /absolute: embedding must be \[50257, 6\] \(vocab_size, residual_stream_channels\), but is \[5, 6\]/,
    );

    const out = join(folder, 'dump');
    const texts = ['Hello world', 'one two three'];
    await dump({
      model: context,
      corpus: asyncOf(texts),
      locations: '*/mlp/post_act',
      out,
      context: 4,
      dtype: 'float32',
    });
    await using made = await openDump(out);
    assert.is(made.manifest.model.name, 'absolute');
    const { data, shape } = await made.rows('1/mlp/post_act', 0, 2);
    assert.equal(shape, [2, 4, 12]);
    const model = await context.getOrCreateModel();
    for (const [row, text] of texts.entries()) {
      const tokens = model.enc.encode(text);
      const values = await (await model.activations([tokens], ['1/mlp/post_act'])).get('1/mlp/post_act')?.read();
      close(data.subarray(row * 48, row * 48 + tokens.length * 12), values as Float32Array, { rtol: 1e-6 });
    }
    // its sizes are those of the locations
    assert.equal(locationShape('1/mlp/post_act', model.config, model.nVocab, 1, 4), [1, 4, 12]);
    assert.equal(context.getShapeFromSpec(activationShapeSpec('mlp.post_act').slice(1)), [12]);
  }));

async function* asyncOf(texts: string[]): AsyncGenerator<string> {
  yield* texts;
}

test.run();
