// Writes a model as Hugging Face stores a GPT-2: Conv1D weights [in, out], queries, keys and values in one.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { floatToBfloat16, floatToFloat16, type HostTensor } from '../../src/files/host_tensor.js';
import { saveSafetensors, type TensorToCome } from '../../src/files/safetensors/safetensors.js';
import type { Transformer } from '../../src/transformer/transformer.js';
import { parameterShape } from '../../src/transformer/weights/state_dict.js';

export type Tensors = Record<string, HostTensor>;

export interface HuggingFaceOptions {
  prefix?: '' | 'transformer.';
  /** Leave lm_head out: the unembedding is the embedding. */
  tied?: boolean;
  dtype?: 'float32' | 'float16' | 'bfloat16';
  /** Several files and an index. */
  files?: number;
  /** Changes the tensors before they are written. */
  edit?: (tensors: Tensors) => void;
  /** Replaces entries of config.json. */
  config?: Record<string, unknown>;
}

export async function saveHuggingFace(
  model: Transformer,
  folder: string,
  options: HuggingFaceOptions = {},
): Promise<void> {
  const { prefix = 'transformer.', tied = false, dtype = 'float32', files = 1, edit, config = {} } = options;
  const lazy = tensorsOf(model, prefix, tied);
  const tensors = edit || dtype !== 'float32' ? await inMemory(lazy, dtype) : lazy;
  edit?.(tensors as Tensors);
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'config.json'), JSON.stringify({ ...configOf(model), ...config }));
  if (files === 1) return saveSafetensors(join(folder, 'model.safetensors'), tensors, { format: 'pt' });
  const map: Record<string, string> = {};
  for (let i = 0; i < files; i++) {
    const name = `model-0000${i + 1}-of-0000${files}.safetensors`;
    const part = Object.fromEntries(Object.entries(tensors).filter((_, at) => at % files === i));
    for (const tensor of Object.keys(part)) map[tensor] = name;
    await saveSafetensors(join(folder, name), part);
  }
  await writeFile(join(folder, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map: map }));
}

async function inMemory(
  lazy: Record<string, TensorToCome>,
  dtype: 'float32' | 'float16' | 'bfloat16',
): Promise<Tensors> {
  const out: Tensors = {};
  for (const [name, { dtype: stored, shape, read }] of Object.entries(lazy)) {
    out[name] = converted({ dtype: stored, shape, data: await read() }, dtype);
  }
  return out;
}

const configOf = ({ config, nVocab }: Transformer) => ({
  model_type: 'gpt2',
  activation_function: 'gelu_new',
  layer_norm_epsilon: 1e-5,
  n_ctx: config.ctxWindow,
  n_embd: config.dModel,
  n_head: config.nHeads,
  n_inner: null,
  n_layer: config.nLayers,
  n_positions: config.ctxWindow,
  vocab_size: nVocab,
});

function tensorsOf(model: Transformer, prefix: string, tied: boolean): Record<string, TensorToCome> {
  const { config, nVocab } = model;
  const shape = (name: string) => parameterShape(name, config, nVocab);
  const tensor = (wanted: number[], make: () => Tensor): TensorToCome => ({
    dtype: 'float32',
    shape: wanted,
    async read() {
      using made = make();
      return (await made.read()) as Float32Array;
    },
  });
  const own = (name: string) => tensor(shape(name), () => model.weight(name));
  const transposed = (name: string) =>
    tensor(shape(name).reverse(), () => {
      using weight = model.weight(name);
      return weight.permute([1, 0]).clone();
    });
  const out: Record<string, TensorToCome> = {
    [`${prefix}wte.weight`]: own('tok_embed.weight'),
    [`${prefix}wpe.weight`]: own('pos_embed.weight'),
    [`${prefix}ln_f.weight`]: own('final_ln.weight'),
    [`${prefix}ln_f.bias`]: own('final_ln.bias'),
    ...(!tied && { 'lm_head.weight': own('unembed.weight') }),
  };
  const { ctxWindow: n } = config;
  for (let i = 0; i < config.nLayers; i++) {
    const [from, to] = [`xf_layers.${i}`, `${prefix}h.${i}`];
    for (const norm of ['ln_1', 'ln_2']) {
      out[`${to}.${norm}.weight`] = own(`${from}.${norm}.weight`);
      out[`${to}.${norm}.bias`] = own(`${from}.${norm}.bias`);
    }
    const [A = 0, D = 0] = shape(`${from}.attn.q_proj.weight`);
    const joint = (kind: string, rest: number[]) => {
      const all = Tensor.empty([3 * A, ...rest], { device: model.device });
      for (const [third, name] of ['q_proj', 'k_proj', 'v_proj'].entries()) {
        using weight = model.weight(`${from}.attn.${name}.${kind}`);
        all.slice(0, third * A, (third + 1) * A).copyFrom(weight);
      }
      return all;
    };
    out[`${to}.attn.c_attn.bias`] = tensor([3 * A], () => joint('bias', []));
    out[`${to}.attn.c_attn.weight`] = tensor([D, 3 * A], () => {
      using all = joint('weight', [D]);
      return all.permute([1, 0]).clone();
    });
    for (const [name, theirs] of [
      ['attn.out_proj', 'attn.c_proj'],
      ['mlp.in_layer', 'mlp.c_fc'],
      ['mlp.out_layer', 'mlp.c_proj'],
    ]) {
      out[`${to}.${theirs}.weight`] = transposed(`${from}.${name}.weight`);
      out[`${to}.${theirs}.bias`] = own(`${from}.${name}.bias`);
    }
    // buffers that such files have and readers ignore
    out[`${to}.attn.bias`] = { dtype: 'uint8', shape: [1, 1, n, n], read: async () => new Uint8Array(n * n) };
    out[`${to}.attn.masked_bias`] = { dtype: 'float32', shape: [], read: async () => Float32Array.of(-1e4) };
  }
  return out;
}

function converted(tensor: HostTensor, dtype: 'float32' | 'float16' | 'bfloat16'): HostTensor {
  if (dtype === 'float32' || tensor.dtype !== 'float32') return tensor;
  const bits = dtype === 'float16' ? floatToFloat16 : floatToBfloat16;
  return { dtype, shape: tensor.shape, data: Uint16Array.from(tensor.data as Float32Array, bits) };
}
