// Hugging Face's layout. Oracle: the reference checkpoint that the folder was made from; the same logits, bit for bit.
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../../src/engine/native.js';
import type { HostTensor } from '../../../src/files/host_tensor.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { BlobServer } from '../../support/blobs/blob_server.js';
import { close } from '../../support/close.js';
import { testDevice } from '../../support/device.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { type HuggingFaceOptions, saveHuggingFace } from '../../support/hugging_face.js';

const test = suite('Hugging Face');
const device = testDevice();
const tiny = join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny');
const tokens = [[5, 1, 60, 3, 3, 17, 42]];
let reference: Transformer;
let expectedLogits: Float32Array;
test.before(async () => {
  reference = await Transformer.load(tiny, { device });
  expectedLogits = await logitsOf(reference);
});

async function logitsOf(model: Transformer): Promise<Float32Array> {
  const { logits } = await model.forward(tokens);
  using all = logits;
  return (await all.read()) as Float32Array;
}

for (const [title, options] of Object.entries({
  'one file': {},
  'without the prefix': { prefix: '' },
  'three files and an index': { files: 3 },
} satisfies Record<string, HuggingFaceOptions>)) {
  test(`${title}: the same model`, () =>
    withFolder(async (folder) => {
      await saveHuggingFace(reference, folder, options);
      const before = device.memory().allocated;
      using model = await Transformer.load(folder, { device });
      assert.equal(model.config, reference.config);
      assert.is(model.nVocab, reference.nVocab);
      assert.is(await model.digest(), await reference.digest());
      assert.equal(await logitsOf(model), expectedLogits);
      model.dispose();
      assert.is(device.memory().allocated, before);
    }));
}

test('without lm_head the embedding unembeds', () =>
  withFolder(async (folder) => {
    await saveHuggingFace(reference, folder, { tied: true });
    using model = await Transformer.load(folder, { device });
    using embedding = model.weight('tok_embed.weight');
    using unembedding = model.weight('unembed.weight');
    assert.equal(await unembedding.read(), await embedding.read());
    await saveHuggingFace(reference, folder, { tied: true, config: { tie_word_embeddings: false } });
    await rejects(Transformer.load(folder, { device }), Error, /has no tensor lm_head\.weight, and config\.json says/);
  }));

test('float16 and bfloat16 files', () =>
  withFolder(async (folder) => {
    for (const [dtype, rtol] of [
      ['float16', 2e-3],
      ['bfloat16', 2e-2],
    ] as const) {
      await saveHuggingFace(reference, folder, { dtype });
      using model = await Transformer.load(folder, { device });
      assert.is(model.dtype, 'float32');
      const largest = Math.max(...expectedLogits.map(Math.abs));
      close(await logitsOf(model), expectedLogits, { rtol, atol: rtol * largest });
    }
  }));

test('an inner width of its own', () =>
  withFolder(async (folder) => {
    const { dModel, mMlp } = reference.config;
    await saveHuggingFace(reference, folder, { config: { n_inner: dModel * mMlp, n_positions: undefined } });
    using model = await Transformer.load(folder, { device });
    assert.is(await model.digest(), await reference.digest());
  }));

test('from a server', () =>
  withFolder(async (folder) => {
    await saveHuggingFace(reference, folder, { files: 2 });
    await using server = await BlobServer.start();
    const names = [1, 2].map((i) => `model-0000${i}-of-00002.safetensors`);
    for (const name of ['config.json', 'model.safetensors.index.json', ...names]) {
      server.put(`models/here/${name}`, await readFile(join(folder, name)));
    }
    const before = process.env.SONDE_CACHE;
    process.env.SONDE_CACHE = join(folder, 'cache');
    try {
      const reported = new Set<string>();
      using model = await Transformer.load(`${server.address}/models/here?sig=secret`, {
        device,
        onProgress: ({ name }) => reported.add(name),
      });
      assert.is(await model.digest(), await reference.digest());
      assert.is(model.name, `${server.address}/models/here`);
      assert.equal(
        [...reported].sort(),
        names.map((name) => `${server.address}/models/here/${name}`),
      );
      await rejects(
        Transformer.load(`${server.address}/models/none`, { device }),
        /models\/none\/config\.json: there is no such blob/,
      );
      const stop = AbortSignal.abort(new Error('enough'));
      await rejects(Transformer.load(`${server.address}/models/here`, { device, signal: stop }), /enough/);
    } finally {
      if (before === undefined) delete process.env.SONDE_CACHE;
      else process.env.SONDE_CACHE = before;
    }
  }));

test('a tensor that does not fit is refused by the name in the file, with both shapes', () =>
  withFolder(async (folder) => {
    const refused = async (options: HuggingFaceOptions, pattern: RegExp) => {
      await saveHuggingFace(reference, folder, options);
      const before = device.memory().allocated;
      await rejects(Transformer.load(folder, { device }), Error, pattern);
      assert.is(device.memory().allocated, before);
    };
    const drop = (name: string) => (tensors: Record<string, HostTensor>) => void delete tensors[name];
    const reshape = (name: string, shape: number[]) => (tensors: Record<string, HostTensor>) => {
      tensors[name] = { dtype: 'float32', shape, data: new Float32Array(shape.reduce((a, b) => a * b)) };
    };
    const D = reference.config.dModel;
    await refused(
      { edit: drop('transformer.h.1.mlp.c_fc.bias') },
      /has no tensor h\.1\.mlp\.c_fc\.bias, with or without transformer\./,
    );
    await refused({ edit: drop('transformer.wte.weight') }, /has no tensor wte\.weight/);
    await refused(
      { edit: reshape('transformer.h.0.attn.c_attn.weight', [3 * D, D]) },
      new RegExp(
        `transformer\\.h\\.0\\.attn\\.c_attn\\.weight must be \\[${D}, ${3 * D}\\] to fit config\\.json, but is \\[${3 * D}, ${D}\\]`,
      ),
    );
    await refused(
      { edit: reshape('transformer.h.1.mlp.c_proj.weight', [D, D]) },
      new RegExp(`c_proj\\.weight must be \\[${4 * D}, ${D}\\] to fit config\\.json, but is \\[${D}, ${D}\\]`),
    );
    await refused(
      { edit: reshape('transformer.wte.weight', [7]) },
      /transformer\.wte\.weight must be \[vocabulary, \d+\], but is \[7\]/,
    );
    const integers = (tensors: Record<string, HostTensor>) => {
      tensors['transformer.ln_f.bias'] = { dtype: 'int32', shape: [D], data: new Int32Array(D) };
    };
    await refused({ edit: integers }, /transformer\.ln_f\.bias must be of floats, but is int32/);
  }));

test('tensors that config.json does not account for are refused by name, unless they change nothing', () =>
  withFolder(async (folder) => {
    const D = reference.config.dModel;
    const add = (...names: string[]) => ({
      edit: (tensors: Record<string, HostTensor>) => {
        for (const name of names) tensors[name] = { dtype: 'float32', shape: [D], data: new Float32Array(D) };
      },
    });
    for (const files of [1, 2]) {
      for (const [names, pattern] of [
        [
          ['transformer.h.3.ln_1.weight'],
          /: a GPT-2 of config\.json's sizes has no tensor transformer\.h\.3\.ln_1\.weight$/,
        ],
        [['transformer.h.3.attn.bias'], /has no tensor transformer\.h\.3\.attn\.bias$/],
        [['emb_norm.weight'], /has no tensor emb_norm\.weight$/],
        [['wte.weight'], /has no tensor wte\.weight$/], // beside transformer.wte.weight
        [['lm_head.bias'], /has no tensor lm_head\.bias$/],
        [['h.0.crossattention.c_attn.weight', 'a', 'b', 'c', 'd'], /has no tensor .* and 2 more$/],
        [['base_model.model.transformer.h.0.attn.c_attn.lora_A.weight'], /has no tensor base_model/],
      ] as const) {
        await saveHuggingFace(reference, folder, { ...add(...names), files });
        await rejects(Transformer.load(folder, { device }), Error, pattern);
      }
      const heads = [
        'score.weight',
        'classifier.weight',
        'classifier.bias',
        'qa_outputs.bias',
        'v_head.summary.weight',
      ];
      await saveHuggingFace(reference, folder, {
        ...add(...heads, 'multiple_choice_head.summary.weight', 'h.2.attn.masked_bias'),
        files,
      });
      using model = await Transformer.load(folder, { device });
      assert.is(await model.digest(), await reference.digest());
      await rm(folder, { recursive: true }); // or the index would stay
    }
  }));

test('an unembedding beside a config that says it is the embedding', () =>
  withFolder(async (folder) => {
    const config = { tie_word_embeddings: true };
    await saveHuggingFace(reference, folder, { config });
    await rejects(
      Transformer.load(folder, { device }),
      Error,
      /lm_head\.weight must be transformer\.wte\.weight, as config\.json says that they are tied/,
    );
    const edit = (tensors: Record<string, HostTensor>) => {
      tensors['lm_head.weight'] = tensors['transformer.wte.weight'] as HostTensor;
    };
    for (const files of [1, 2]) {
      await saveHuggingFace(reference, folder, { config, edit, files });
      using model = await Transformer.load(folder, { device });
      using embedding = model.weight('tok_embed.weight');
      using unembedding = model.weight('unembed.weight');
      assert.equal(await unembedding.read(), await embedding.read());
    }
  }));

test('another computation is refused', () =>
  withFolder(async (folder) => {
    for (const [config, pattern] of [
      [{ model_type: 'gpt_neo' }, /config\.json: model_type must be gpt2, but is gpt_neo/],
      [{ activation_function: 'relu' }, /activation_function must be gelu_new or gelu_pytorch_tanh, but is relu/],
      [{ layer_norm_epsilon: 1e-6 }, /layer_norm_epsilon must be 0\.00001, but is/],
      [{ scale_attn_by_inverse_layer_idx: true }, /scale_attn_by_inverse_layer_idx must be false/],
      [{ scale_attn_weights: false }, /scale_attn_weights must be true/],
      [{ is_encoder_decoder: true }, /is_encoder_decoder must be false/],
      [{ add_cross_attention: true }, /add_cross_attention must be false/],
      [{ quantization_config: { bits: 4 } }, /config\.json: quantization_config must be null, but is an object/],
      [{ pruned_heads: { 0: [1] } }, /config\.json: pruned_heads must be empty/],
      [{ auto_map: { AutoModelForCausalLM: 'x.Y' } }, /config\.json: auto_map must name no model/],
      [{ model_type: undefined, architectures: ['GPTNeoForCausalLM'] }, /architectures must be GPT2 .* but are GPTNeo/],
      [{ position_embedding_type: 'rotary' }, /position_embedding_type must be absolute, but is rotary/],
      [{ hidden_size: 7 }, /config\.json: hidden_size must be n_embd, 48, but is 7/],
      [{ vocab_size: 50_257 }, /wte\.weight must have 50257 rows, the vocab_size of config\.json, but has \d+/],
      [{ n_embd: '64' }, /config\.json: n_embd must be a whole number/],
      [{ n_inner: 'x' }, /n_inner must be a number or null/],
      [{ n_head: 5 }, /n_head must divide the attention width/],
      [{ n_layer: 1e9 }, /n_layer must be a whole number above 0 and at most 10000/],
    ] as const) {
      await saveHuggingFace(reference, folder, { config });
      await rejects(Transformer.load(folder, { device }), Error, pattern);
    }
  }));

test('an adapter beside the weights', () =>
  withFolder(async (folder) => {
    await saveHuggingFace(reference, folder, {});
    await writeFile(join(folder, 'adapter_config.json'), '{}');
    await rejects(Transformer.load(folder, { device }), Error, /has adapter_config\.json: an adapter is not applied/);
  }));

test('an index that is broken or points elsewhere', () =>
  withFolder(async (folder) => {
    await saveHuggingFace(reference, folder, { files: 2 });
    const index = join(folder, 'model.safetensors.index.json');
    const { weight_map: map } = JSON.parse(await readFile(index, 'utf8'));
    for (const [content, pattern] of [
      ['{', /index\.json: is not JSON/],
      ['null', /index\.json: must have a weight_map/],
      [
        JSON.stringify({ weight_map: { x: '../../secret.safetensors' } }),
        /must be in a \.safetensors file of the same folder, but is in/,
      ],
      [JSON.stringify({ weight_map: { x: 7 } }), /must be in a \.safetensors file of the same folder, but is in 7/],
      [
        JSON.stringify({ weight_map: { ...map, 'transformer.wte.weight': map['transformer.wpe.weight'] } }),
        /lacks the tensor transformer\.wte\.weight, which the index says it has|is no/,
      ],
    ] as const) {
      await writeFile(index, content);
      await rejects(Transformer.load(folder, { device }), Error, pattern);
    }
    await rm(index);
    await rejects(Transformer.load(folder, { device }), Error, /model\.safetensors: there is no such file/);
  }));

test.run();
