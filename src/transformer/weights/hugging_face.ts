// A GPT-2 as Hugging Face stores it: config.json, and model.safetensors or several files with an index. Linear layers
// are Conv1D there, weights [in, out]; queries, keys and values are one layer; the unembedding may be the embedding
// itself.
import { readdir } from 'node:fs/promises';
import { readText } from '../../files/blob/blob.js';
import { isBlobUrl, joined } from '../../files/blob/blob_address.js';
import type { StoredTensor, TypedArray } from '../../files/host_tensor.js';
import { openSafetensors, type SafetensorsFile } from '../../files/safetensors/safetensors.js';
import { shown } from '../../files/text.js';
import { huggingFaceConfig } from './hugging_face_config.js';
import { parameterNames } from './state_dict.js';
import type { ModelFiles, OpenWeight, StoredWeight } from './stored_weights.js';
import { vocabularyOf } from './vocabulary_files.js';

const wholeFile = 'model.safetensors';
const indexFile = 'model.safetensors.index.json';

export async function openHuggingFace(base: string, json: Record<string, unknown>, file: string): Promise<ModelFiles> {
  const config = huggingFaceConfig(json, file);
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
  const files: ModelFiles = {
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
      const [rows = 0] = shape;
      if (shape.length !== 2 || rows === 0)
        return fail(`${name} must be [vocabulary, ${config.dModel}], but is [${shape.join(', ')}]`);
      if (json.vocab_size === undefined || json.vocab_size === rows) return rows;
      return fail(`${name} must have ${shown(json.vocab_size)} rows, the vocab_size of config.json, but has ${rows}`);
    },
    async check(): Promise<void> {
      const names = isBlobUrl(base) ? [] : await readdir(base); // an address gives no list of its files
      const adapter = 'adapter_config.json';
      if (names.includes(adapter)) fail(`has ${adapter}: an adapter is not applied to the weights; merge it first`);
      const read = new Set(parameterNames(config).map((name) => files.locate(name).name));
      const there = new Set(fileOf?.keys());
      for (const name of new Set(fileOf?.values() ?? [wholeFile])) {
        for (const tensor of (await openFile(name)).tensors.keys()) there.add(tensor);
      }
      const strange = [...there].filter((name) => !read.has(name) && !isHarmless(name, config.nLayers));
      if (strange.length > 0) {
        const more = strange.length > 3 ? ` and ${strange.length - 3} more` : '';
        fail(`a GPT-2 of config.json's sizes has no tensor ${strange.slice(0, 3).map(shown).join(', ')}${more}`);
      }
      const [embedding, own] = [find('wte.weight'), 'lm_head.weight'];
      if (json.tie_word_embeddings !== true || !has(own)) return;
      const stored = async (name: string) => (await placed(name)).stored(name);
      if (await haveEqualBytes(await stored(embedding), await stored(own))) return;
      fail(`${own} must be ${embedding}, as config.json says that they are tied (tie_word_embeddings), but is not`);
    },
    vocabulary: (nVocab) => vocabularyOf(base, json, nVocab),
    async close() {
      for (const opened of await Promise.allSettled(open.values())) {
        if (opened.status === 'fulfilled') await opened.value.close();
      }
    },
  };
  return files;
}

/** Tensors that change nothing of what the transformer computes: a checkpoint may have them, and they are not read. */
const harmless: readonly RegExp[] = [
  // the causal mask and the value under it, which older versions saved with each layer
  /^(?:transformer\.)?h\.(\d+)\.attn\.(?:bias|masked_bias)$/,
  // heads for other tasks, which read the last hidden state: of sequences, of tokens, of questions, of choices
  /^score\.weight$/,
  /^(?:classifier|qa_outputs|multiple_choice_head\.summary)\.(?:weight|bias)$/,
  // the value of a state, for reinforcement learning
  /^v_head\./,
];

const isHarmless = (name: string, nLayers: number): boolean =>
  harmless.some((pattern) => {
    const found = pattern.exec(name);
    return found !== null && Number(found[1] ?? 0) < nLayers;
  });

async function haveEqualBytes(a: StoredTensor, b: StoredTensor): Promise<boolean> {
  if (a.dtype !== b.dtype || a.shape.join() !== b.shape.join()) return false;
  const others = b.slices(new ArrayBuffer(2 ** 20));
  for await (const slice of a.slices(new ArrayBuffer(2 ** 20))) {
    const { value: other } = await others.next();
    if (other === undefined || Buffer.compare(bytesOf(slice), bytesOf(other)) !== 0) return false;
  }
  return true;
}

const bytesOf = ({ buffer, byteOffset, byteLength }: TypedArray): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

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
