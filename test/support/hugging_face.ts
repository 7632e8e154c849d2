// Writes a model as Hugging Face stores a GPT-2: Conv1D weights [in, out], queries, keys and values in one.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { floatToBfloat16, floatToHalf, type HostTensor } from '../../src/files/host_tensor.js';
import { saveSafetensors } from '../../src/files/safetensors.js';
import type { Transformer } from '../../src/transformer/transformer.js';

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
  const tensors = await tensorsOf(model, prefix, tied);
  for (const name of Object.keys(tensors)) tensors[name] = converted(tensors[name] as HostTensor, dtype);
  edit?.(tensors);
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

async function tensorsOf(model: Transformer, prefix: string, tied: boolean): Promise<Tensors> {
  const state = await model.stateDict();
  const own = (name: string) => state[name] as HostTensor;
  const out: Tensors = {
    [`${prefix}wte.weight`]: own('tok_embed.weight'),
    [`${prefix}wpe.weight`]: own('pos_embed.weight'),
    [`${prefix}ln_f.weight`]: own('final_ln.weight'),
    [`${prefix}ln_f.bias`]: own('final_ln.bias'),
    ...(!tied && { 'lm_head.weight': own('unembed.weight') }),
  };
  const { ctxWindow: n } = model.config;
  for (let i = 0; i < model.config.nLayers; i++) {
    const [from, to] = [`xf_layers.${i}`, `${prefix}h.${i}`];
    for (const norm of ['ln_1', 'ln_2']) {
      out[`${to}.${norm}.weight`] = own(`${from}.${norm}.weight`);
      out[`${to}.${norm}.bias`] = own(`${from}.${norm}.bias`);
    }
    const thirds = ['q_proj', 'k_proj', 'v_proj'].map((name) => `${from}.attn.${name}`);
    out[`${to}.attn.c_attn.weight`] = turned(stacked(thirds.map((name) => own(`${name}.weight`))));
    out[`${to}.attn.c_attn.bias`] = stacked(thirds.map((name) => own(`${name}.bias`)));
    for (const [name, theirs] of [
      ['attn.out_proj', 'attn.c_proj'],
      ['mlp.in_layer', 'mlp.c_fc'],
      ['mlp.out_layer', 'mlp.c_proj'],
    ]) {
      out[`${to}.${theirs}.weight`] = turned(own(`${from}.${name}.weight`));
      out[`${to}.${theirs}.bias`] = own(`${from}.${name}.bias`);
    }
    // buffers that their files have and nobody needs
    out[`${to}.attn.bias`] = { dtype: 'uint8', shape: [1, 1, n, n], data: new Uint8Array(n * n) };
    out[`${to}.attn.masked_bias`] = { dtype: 'float32', shape: [], data: Float32Array.of(-1e4) };
  }
  return out;
}

function stacked(parts: HostTensor[]): HostTensor {
  const data = Float32Array.from(parts.flatMap((part) => [...(part.data as Float32Array)]));
  const [first = 0, ...rest] = parts[0]?.shape ?? [];
  return { dtype: 'float32', shape: [parts.length * first, ...rest], data };
}

function turned({ shape, data }: HostTensor): HostTensor {
  const [rows = 0, columns = 0] = shape;
  const out = new Float32Array(data.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = Number(data[r * columns + c]);
  return { dtype: 'float32', shape: [columns, rows], data: out };
}

function converted(tensor: HostTensor, dtype: 'float32' | 'float16' | 'bfloat16'): HostTensor {
  if (dtype === 'float32' || tensor.dtype !== 'float32') return tensor;
  const bits = dtype === 'float16' ? floatToHalf : floatToBfloat16;
  return { dtype, shape: tensor.shape, data: Uint16Array.from(tensor.data as Float32Array, bits) };
}
