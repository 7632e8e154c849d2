// The published autoencoders by name, and those of the demo model. Names and addresses: model_registry.py of the
// original, paths.py of openai/sparse_autoencoder for version 5.
import { join } from 'node:path';
import { describe, wrong } from '../engine/check.js';
import { packageRoot } from '../engine/native.js';
import { canonicalModelName } from '../transformer/weights/names.js';

/** The activations that autoencoders are trained on, as the original names derived scalars. */
export const DerivedScalarType = {
  mlpPostAct: 'mlp_post_act',
  residDeltaMlp: 'resid_delta_mlp',
  residDeltaMlpFromMlpPostAct: 'resid_delta_mlp_from_mlp_post_act',
  residDeltaAttn: 'resid_delta_attn',
  residPostAttn: 'resid_post_attn',
  residPostMlp: 'resid_post_mlp',
  attnWrite: 'attn_write',
} as const;
export type DerivedScalarType = (typeof DerivedScalarType)[keyof typeof DerivedScalarType];

/** A set of autoencoders, one for each layer. */
interface AutoencoderSpec {
  readonly dst: DerivedScalarType;
  /** Path or address of a layer's file, `{layer}` standing for the layer. */
  readonly path: string;
  readonly nLayers: number;
  /** Whether inputs are normalised. */
  readonly normalize?: boolean;
}

type Specs = Readonly<Record<string, AutoencoderSpec>>;

const folder = 'az://openaipublic/sparse-autoencoder/gpt2-small';
const published = (dst: DerivedScalarType, version: string, normalize = false): AutoencoderSpec => ({
  dst,
  path: `${folder}/${dst}${version}/autoencoders/{layer}.pt`,
  nLayers: 12,
  normalize,
});
const { mlpPostAct, residDeltaMlp, residDeltaAttn, residPostAttn, residPostMlp } = DerivedScalarType;
const dashed = (text: string): string => text.replaceAll('_', '-');

const ofGpt2Small: Specs = {
  // December 2023
  'ae-mlp-post-act-v1': published(mlpPostAct, ''),
  'ae-resid-delta-mlp-v1': published(residDeltaMlp, ''),
  // March 2024
  'ae-mlp-post-act-v4': published(mlpPostAct, '_v4'),
  'ae-resid-delta-mlp-v4': published(residDeltaMlp, '_v4'),
  'ae-resid-delta-attn-v4': published(residDeltaAttn, '_v4'),
  // June 2024, of openai/sparse_autoencoder: TopK, 32,768 and 131,072 latents
  ...Object.fromEntries(
    ['_v5_32k', '_v5_128k'].flatMap((version) =>
      [residDeltaAttn, residDeltaMlp, residPostAttn, residPostMlp].map((dst) => [
        `ae-${dashed(dst)}${dashed(version)}`,
        published(dst, version, true),
      ]),
    ),
  ),
};

const ofDemo: Specs = Object.fromEntries(
  [mlpPostAct, residDeltaMlp, residDeltaAttn].map((dst): [string, AutoencoderSpec] => [
    `ae-${dashed(dst)}`,
    { dst, path: join(packageRoot, 'assets', 'demo', 'autoencoders', dst, '{layer}.pt'), nLayers: 4 },
  ]),
);

const byModel: Readonly<Record<string, Specs>> = { 'gpt2-small': ofGpt2Small, demo: ofDemo };

const specsOf = (modelName: string): Specs => {
  const name = canonicalModelName(modelName);
  return Object.hasOwn(byModel, name) ? (byModel[name] as Specs) : {};
};

/** The autoencoders there are for a model: `ae-mlp-post-act-v4`, …; none for a model of another name. */
export function listAutoencoderNames(modelName = 'gpt2-small'): string[] {
  if (typeof modelName === 'string') return Object.keys(specsOf(modelName));
  throw new TypeError(wrong('listAutoencoderNames', 'modelName', "a model's name", describe(modelName)));
}

/**
 * A set of autoencoders by name. A model that has none of its own, such as one in a folder, may use those of any model:
 * the widths are checked when they are loaded.
 */
export function findAutoencoderSpec(modelName: string, autoencoderName: string): AutoencoderSpec | undefined {
  const own = specsOf(modelName);
  for (const specs of Object.keys(own).length > 0 ? [own] : Object.values(byModel)) {
    if (Object.hasOwn(specs, autoencoderName)) return specs[autoencoderName];
  }
  return undefined;
}
