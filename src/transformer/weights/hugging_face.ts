// A GPT-2 as Hugging Face stores it: config.json, and model.safetensors or several files with an index. Linear layers
// are Conv1D there, weights [in, out]; queries, keys and values are one layer; the unembedding may be the embedding
// itself.
import { readText } from '../../files/blob/blob.js';
import { isBlobUrl, joined } from '../../files/blob/blob_address.js';
import { openSafetensors, type SafetensorsFile } from '../../files/safetensors/safetensors.js';
import { shown } from '../../files/text.js';
import { configFromJson, type TransformerConfig } from './config.js';
import type { ModelFiles, OpenWeight, StoredWeight } from './stored_weights.js';
import { vocabularyOf } from './vocabulary_files.js';

const wholeFile = 'model.safetensors';
const indexFile = 'model.safetensors.index.json';

export async function openHuggingFace(base: string, json: Record<string, unknown>, file: string): Promise<ModelFiles> {
  const config = configOf(json, file);
  const fileOf = await filesOf(base);
  const open = new Map<string, Promise<SafetensorsFile>>();
  const openFile = (name: string): Promise<SafetensorsFile> => {
    const opened = open.get(name) ?? openSafetensors(joined(base, name));
    open.set(name, opened);
    return opened;
  };
  const fail = (message: string): never => {
    throw new Error(`${base}: ${message}`);
  };
  const whole = fileOf ? undefined : await openFile(wholeFile);
  const has = (name: string): boolean => (fileOf ? fileOf.has(name) : (whole as SafetensorsFile).tensors.has(name));
  const full = (name: string): string | undefined => [`transformer.${name}`, name].find(has);
  const find = (name: string): string =>
    full(name) ?? fail(`has no tensor ${name}, with or without transformer. before it`);
  const placed = async (name: string): Promise<SafetensorsFile> => {
    const where = fileOf?.get(name) ?? wholeFile;
    const opened = await openFile(where);
    if (!opened.tensors.has(name)) fail(`${where} lacks the tensor ${name}, which the index says it has`);
    return opened;
  };
  return {
    base,
    config,
    addresses: [...new Set(fileOf ? fileOf.values() : [wholeFile])].map((name) => joined(base, name)).filter(isBlobUrl),
    locate(name): StoredWeight {
      if (name === 'unembed.weight') {
        const own = has('lm_head.weight') ? 'lm_head.weight' : undefined;
        if (!own && json.tie_word_embeddings === false)
          fail('has no tensor lm_head.weight, and config.json says that it is not tied');
        return { name: own ?? find('wte.weight'), transposed: false };
      }
      const { stored, ...how } = storedName(name);
      return { name: find(stored), ...how };
    },
    open: async ({ name }): Promise<OpenWeight> => ({ ...(await placed(name)).stored(name), async close() {} }),
    async nVocab(): Promise<number> {
      const name = find('wte.weight');
      const { shape } = (await placed(name)).tensors.get(name) as { shape: readonly number[] };
      if (shape.length === 2 && (shape[0] as number) > 0) return shape[0] as number;
      return fail(`${name} must be [vocabulary, ${config.dModel}], but is [${shape.join(', ')}]`);
    },
    vocabulary: (nVocab) => vocabularyOf(base, json, nVocab),
    async close() {
      for (const opened of await Promise.allSettled(open.values())) {
        if (opened.status === 'fulfilled') await opened.value.close();
      }
    },
  };
}

// the original's names -> theirs, within a layer
const inLayer: Readonly<Record<string, string>> = {
  ln_1: 'ln_1',
  ln_2: 'ln_2',
  'attn.out_proj': 'attn.c_proj',
  'mlp.in_layer': 'mlp.c_fc',
  'mlp.out_layer': 'mlp.c_proj',
};
const outside: Readonly<Record<string, string>> = { tok_embed: 'wte', pos_embed: 'wpe', final_ln: 'ln_f' };

function storedName(name: string): Omit<StoredWeight, 'name'> & { stored: string } {
  const [, layer, owner = '', kind = ''] = /^(?:xf_layers\.(\d+)\.)?(.*)\.(weight|bias)$/.exec(name) ?? [];
  if (layer === undefined) return { stored: `${outside[owner]}.${kind}`, transposed: false };
  const third = ['attn.q_proj', 'attn.k_proj', 'attn.v_proj'].indexOf(owner);
  const stored = `h.${layer}.${third < 0 ? inLayer[owner] : 'attn.c_attn'}.${kind}`;
  return { stored, transposed: kind === 'weight' && !owner.startsWith('ln_'), ...(third >= 0 && { third }) };
}

const mostFiles = 1000;

/** Which file has a tensor, where there are several; undefined for a single file. */
async function filesOf(base: string): Promise<Map<string, string> | undefined> {
  const index = joined(base, indexFile);
  let text: string;
  try {
    text = await readText('Transformer.load', index);
  } catch (error) {
    if (/there is no such/.test((error as Error).message)) return undefined;
    throw error;
  }
  let map: unknown;
  try {
    map = (JSON.parse(text) as { weight_map?: unknown } | null)?.weight_map;
  } catch (cause) {
    throw new Error(`${index}: is not JSON: ${(cause as Error).message}`, { cause });
  }
  if (typeof map !== 'object' || map === null) throw new Error(`${index}: must have a weight_map of tensors and files`);
  const files = new Map(Object.entries(map) as [string, unknown][]);
  const count = new Set(files.values()).size;
  if (count > mostFiles) throw new Error(`${index}: names ${count} files, more than ${mostFiles}`);
  for (const [tensor, name] of files) {
    if (typeof name === 'string' && /^[\w.-]+\.safetensors$/.test(name)) continue;
    throw new Error(
      `${index}: ${shown(tensor)} must be in a .safetensors file of the same folder, but is in ${shown(name)}`,
    );
  }
  return files as Map<string, string>;
}

/** The allowed values of fields in config.json, where it has them: only GPT-2's computation is supported. */
const required: Readonly<Record<string, readonly unknown[]>> = {
  model_type: ['gpt2'],
  activation_function: ['gelu_new', 'gelu_pytorch_tanh'], // one function by two names
  layer_norm_epsilon: [1e-5],
  scale_attn_weights: [true],
  scale_attn_by_inverse_layer_idx: [false],
  add_cross_attention: [false],
};

function configOf(json: Record<string, unknown>, file: string): TransformerConfig {
  for (const [name, allowed] of Object.entries(required)) {
    if (json[name] === undefined || allowed.includes(json[name])) continue;
    throw new Error(`${file}: ${name} must be ${allowed.join(' or ')}, but is ${shown(json[name])}`);
  }
  const { n_embd: width, n_inner: inner } = json;
  const ours = {
    enc: 'gpt2',
    ctx_window: json.n_positions ?? json.n_ctx,
    d_model: width,
    n_layers: json.n_layer,
    n_heads: json.n_head,
    m_attn: 1,
    m_mlp: typeof inner === 'number' && typeof width === 'number' ? ratio(inner, width) : 4,
  };
  if (inner !== undefined && inner !== null && typeof inner !== 'number') {
    throw new Error(`${file}: n_inner must be a number or null, but is ${shown(inner)}`);
  }
  return configFromJson(ours, file, theirNames);
}

/** A number whose product with `width`, rounded down, is `inner`. */
const ratio = (inner: number, width: number): number =>
  Math.floor((inner / width) * width) === inner ? inner / width : (inner + 0.5) / width;

const theirNames: Readonly<Record<string, string>> = {
  ctx_window: 'n_positions',
  d_model: 'n_embd',
  n_layers: 'n_layer',
  n_heads: 'n_head',
  m_mlp: 'n_inner / n_embd',
};
