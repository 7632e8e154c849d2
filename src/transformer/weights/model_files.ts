// The files of a model, in one of two layouts: the original's (config.json and model_pieces/NAME.pt, a tensor each) or
// Hugging Face's GPT-2 (config.json and safetensors files). config.json shows which of the two it is. Both give each
// weight by the original's name.
import type { Device } from '../../engine/device.js';
import { Tensor } from '../../engine/ops/tensor.js';
import { readText } from '../../files/blob/blob.js';
import { isBlobUrl, joined } from '../../files/blob/blob_address.js';
import { modelTokenizer } from '../../files/tokenizer/model_tokenizer.js';
import { gpt2Tokenizer, type Tokenizer } from '../../files/tokenizer/tokenizer.js';
import { configFromJson, sizes, type TransformerConfig } from './config.js';
import { openHuggingFace } from './hugging_face.js';
import { canonicalModelName, modelBase, modelNames } from './names.js';
import { openOriginal } from './original_layout.js';
import { parameterShape } from './state_dict.js';
import { checkStored, type ModelFiles, weightView } from './stored_weights.js';

/** Opens the files of a model. @throws Error that says what is missing or wrong, and where. */
export async function openModelFiles(base: string): Promise<ModelFiles> {
  const file = joined(base, 'config.json');
  const text = await readText('Transformer.load', file, 2 ** 20).catch((cause) => {
    const { message } = cause as Error;
    throw new Error(message.replace(/^Transformer\.load: /, ''), { cause });
  });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new Error(`${file}: is not JSON: ${(cause as Error).message}`, { cause });
  }
  const shownFile = isBlobUrl(file) ? (file.split('?')[0] as string) : file;
  if (typeof json === 'object' && json !== null && 'n_embd' in json) {
    return openHuggingFace(base, json as Record<string, unknown>, shownFile);
  }
  return openOriginal(base, configFromJson(json, shownFile));
}

/** A model's sizes, which are known before its weights are read. */
export interface ModelDescription {
  /** The name, folder or address, as Transformer.load takes it. */
  readonly address: string;
  /** Undefined for random weights. */
  readonly base: string | undefined;
  readonly config: TransformerConfig;
  readonly nVocab: number;
  readonly enc: Tokenizer;
}

/** A model by its name, folder or address. @throws Error for what is none, or has a broken config.json. */
export async function describeModel(name: string): Promise<ModelDescription> {
  const random = randomModel(name);
  const gpt2 = gpt2Tokenizer();
  if (random) return { address: name, base: undefined, config: random.config, nVocab: gpt2.nVocab, enc: gpt2 };
  const base = modelBase(name);
  const files = await openModelFiles(base);
  try {
    const known = modelNames.includes(canonicalModelName(name)); // the embedding of a known model need not be fetched
    const nVocab = known ? gpt2.nVocab : await files.nVocab();
    return { address: name, base, config: files.config, nVocab, enc: await tokenizerOfModel(files, nVocab) };
  } finally {
    await files.close();
  }
}

/** The tokenizer of a model whose embedding has `nVocab` rows. */
export async function tokenizerOfModel(files: ModelFiles, nVocab: number): Promise<Tokenizer> {
  return modelTokenizer(nVocab, await files.vocabulary(nVocab));
}

/** The size and seed of `random:gpt2-small` or `random:tiny?7`; undefined for a name of another kind. */
export function randomModel(name: string): { config: TransformerConfig; seed: number } | undefined {
  if (!name.startsWith('random:')) return undefined;
  const [, size = '', seed = '0'] = /^random:([^?]*)(?:\?(\d{1,9}))?$/.exec(name) ?? [];
  const config = Object.hasOwn(sizes, size) ? sizes[size] : undefined;
  if (config) return { config, seed: Number(seed) };
  const names = Object.keys(sizes).map((known) => `random:${known}`);
  throw new Error(`Transformer.load: '${name}' is not known; there are ${names.join(', ')}, each with ?SEED if wanted`);
}

/** One weight by the original's name, without loading the model: a tensor of the file's dtype, the caller's to free. */
export async function readWeight(base: string, name: string, device: Device): Promise<Tensor> {
  const files = await openModelFiles(base);
  try {
    const nVocab = /embed\.weight$/.test(name) ? await files.nVocab() : 0;
    const shape = parameterShape(name, files.config, nVocab);
    const stored = files.locate(name);
    const opened = await files.open(stored);
    try {
      checkStored(base, stored, opened, shape);
      using whole = Tensor.from(await opened.read(), { device });
      return weightView(whole, stored).clone();
    } finally {
      await opened.close();
    }
  } finally {
    await files.close();
  }
}
