// The sizes of a GPT-2, as a checkpoint's config.json states them.
import { describe, wrong } from '../../engine/check.js';

/**
 * Sizes of a transformer. The file's names are the original's: ctx_window, d_model, n_layers, m_attn, n_heads, m_mlp.
 */
export interface TransformerConfig {
  /** The tokenizer's name in config.json: 'gpt2', or 'unknown' for a vocabulary that no tokenizer here knows. */
  readonly enc: string;
  /** Positions a sequence may have. */
  readonly ctxWindow: number;
  /** Width of the residual stream. */
  readonly dModel: number;
  readonly nLayers: number;
  /** Width of all heads together, as a part of dModel. */
  readonly mAttn: number;
  readonly nHeads: number;
  /** Width of the MLP's hidden layer, in dModels. */
  readonly mMlp: number;
}

/** Demands an object with these sizes, each a number of 0 or more. */
export function checkSizes(
  operation: string,
  config: TransformerConfig,
  needed: readonly Exclude<keyof TransformerConfig, 'enc'>[],
): void {
  if (typeof config !== 'object' || config === null) {
    throw new TypeError(wrong(operation, 'config', "a model's config", describe(config)));
  }
  const { nLayers } = config;
  if (nLayers > largest.n_layers) {
    throw new RangeError(wrong(operation, 'config.nLayers', `${largest.n_layers} at most`, describe(nLayers)));
  }
  for (const name of needed) {
    if (typeof config[name] !== 'number' || !(config[name] >= 0 && config[name] < Infinity)) {
      throw new TypeError(wrong(operation, `config.${name}`, 'a number of 0 or more', describe(config[name])));
    }
  }
}

export const dFf = (config: TransformerConfig): number => Math.floor(config.dModel * config.mMlp);
/** Width of queries, of keys and of values, all heads together. */
export const dAttn = (config: TransformerConfig): number => Math.floor(config.dModel * config.mAttn);
export const dHead = (config: TransformerConfig): number => dAttn(config) / config.nHeads;

const gpt2 = (dModel: number, nLayers: number, nHeads: number, ctxWindow = 1024): TransformerConfig => ({
  enc: 'gpt2',
  ctxWindow,
  dModel,
  nLayers,
  mAttn: 1,
  nHeads,
  mMlp: 4,
});

/** The four sizes of GPT-2 (Radford et al. 2019, table 2), and a tiny one for trying things out. */
export const sizes: Readonly<Record<string, TransformerConfig>> = {
  'gpt2-small': gpt2(768, 12, 12),
  'gpt2-medium': gpt2(1024, 24, 16),
  'gpt2-large': gpt2(1280, 36, 20),
  'gpt2-xl': gpt2(1600, 48, 25),
  tiny: gpt2(64, 2, 4, 128),
};

// larger than any GPT-2 by far, small enough that a hostile file costs nothing
const largest = { n_layers: 10_000, other: 1e6 };

const fields = [
  ['ctx_window', 'ctxWindow'],
  ['d_model', 'dModel'],
  ['n_layers', 'nLayers'],
  ['n_heads', 'nHeads'],
  ['m_attn', 'mAttn'],
  ['m_mlp', 'mMlp'],
] as const;

/**
 * A config from a file's JSON; `names` are the fields' names in the file where they differ.
 * @throws Error that names the file, the field, and what it must be.
 */
export function configFromJson(
  json: unknown,
  file: string,
  names: Readonly<Record<string, string>> = {},
): TransformerConfig {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw new Error(`${file}: must be an object with ${fields.map(([name]) => name).join(', ')}`);
  }
  const given = json as Record<string, unknown>;
  const config: Record<string, unknown> = { enc: given.enc ?? 'gpt2' };
  for (const [name, property] of fields) {
    const value = given[name];
    const whole = !name.startsWith('m_');
    const most = name === 'n_layers' ? largest.n_layers : largest.other;
    const fits = typeof value === 'number' && value > 0 && value <= most && (!whole || Number.isInteger(value));
    if (!fits) {
      throw new Error(
        `${file}: ${names[name] ?? name} must be a ${whole ? 'whole ' : ''}number above 0 and at most ${most}, but is ${JSON.stringify(value)}`,
      );
    }
    config[property] = value;
  }
  const out = config as unknown as TransformerConfig;
  if (out.enc !== 'gpt2' && out.enc !== 'unknown') {
    throw new Error(`${file}: enc must be gpt2, but is ${JSON.stringify(out.enc)} (or unknown, for other tokens)`);
  }
  if (dAttn(out) % out.nHeads !== 0 || dAttn(out) === 0) {
    throw new Error(
      `${file}: ${names.n_heads ?? 'n_heads'} must divide the attention width ${dAttn(out)}, but is ${out.nHeads}`,
    );
  }
  if (dFf(out) === 0) throw new Error(`${file}: m_mlp times d_model must be 1 or more, but is ${dFf(out)}`);
  return out;
}

export function configToJson(config: TransformerConfig): Record<string, unknown> {
  return { enc: config.enc, ...Object.fromEntries(fields.map(([name, property]) => [name, config[property]])) };
}
