// The config.json of a GPT-2 as Hugging Face writes it.
import { shown } from '../../files/text.js';
import { configFromJson, type TransformerConfig } from './config.js';

/** The allowed values of fields in config.json, where it has them: only GPT-2's computation is supported. */
const required: Readonly<Record<string, readonly unknown[]>> = {
  model_type: ['gpt2'],
  activation_function: ['gelu_new', 'gelu_pytorch_tanh'], // one function by two names
  layer_norm_epsilon: [1e-5],
  scale_attn_weights: [true],
  scale_attn_by_inverse_layer_idx: [false],
  add_cross_attention: [false],
  is_encoder_decoder: [false],
  position_embedding_type: ['absolute'],
  quantization_config: [null],
};

/** Other names that the library reads for some fields, with the same effect. */
const aliases: Readonly<Record<string, string>> = {
  hidden_size: 'n_embd',
  max_position_embeddings: 'n_positions',
  num_attention_heads: 'n_head',
  num_hidden_layers: 'n_layer',
};

/** @throws Error for a config of another computation than GPT-2's; it names the field. */
export function huggingFaceConfig(json: Record<string, unknown>, file: string): TransformerConfig {
  for (const [name, allowed] of Object.entries(required)) {
    if (json[name] === undefined || allowed.includes(json[name])) continue;
    throw new Error(`${file}: ${name} must be ${allowed.map(String).join(' or ')}, but is ${shown(json[name])}`);
  }
  for (const [alias, name] of Object.entries(aliases)) {
    if (json[alias] === undefined || json[alias] === json[name]) continue;
    throw new Error(`${file}: ${alias} must be ${name}, ${shown(json[name])}, but is ${shown(json[alias])}`);
  }
  const { architectures, auto_map: code, pruned_heads: pruned } = json;
  const architecture = json.model_type === undefined && Array.isArray(architectures) ? architectures[0] : 'GPT2';
  if (!/^GPT2/.test(String(architecture))) {
    throw new Error(`${file}: architectures must be GPT2 and the like, but are ${shown(architecture)}`);
  }
  if (Object.keys(Object(code)).some((name) => /Model/.test(name))) {
    throw new Error(`${file}: auto_map must name no model, as code of its own is not run`);
  }
  if (Object.keys(Object(pruned)).length > 0) throw new Error(`${file}: pruned_heads must be empty`);
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
