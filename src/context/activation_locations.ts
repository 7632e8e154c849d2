// The activations of a model under the original's names, their shapes per sequence, and conversions between these names
// and locations such as `5/mlp/post_act`.
import { checkInteger, checkText } from '../engine/check.js';
import { formatLocation, parseLocation } from '../transformer/location.js';
import {
  Dimension,
  entryOf,
  LocationWithinLayer,
  locationOf,
  NodeType,
  nodeTypeOfDimension,
  type PassType,
} from './dimensions.js';

/** All are before a layer norm unless their name says otherwise. */
export const ActivationLocationType = {
  residPostEmbedding: 'resid.post_emb',
  residDeltaAttn: 'resid.delta_attn',
  residPostAttn: 'resid.post_attn',
  residDeltaMlp: 'resid.delta_mlp',
  residPostMlp: 'resid.post_mlp',
  residPostMlpLayerNorm: 'resid.post_mlp_ln',
  residPostAttnLayerNorm: 'resid.post_attn_ln',
  residPostFinalLayerNorm: 'resid.post_ln_f',
  mlpInputLayerNormScale: 'mlp_ln.scale',
  attnInputLayerNormScale: 'attn_ln.scale',
  residFinalLayerNormScale: 'resid.ln_f.scale',
  attnQuery: 'attn.q',
  attnKey: 'attn.k',
  attnValue: 'attn.v',
  attnQkLogits: 'attn.qk_logits',
  attnQkProbs: 'attn.qk_probs',
  attnWeightedSumOfValues: 'attn.v_out',
  mlpPreAct: 'mlp.pre_act',
  mlpPostAct: 'mlp.post_act',
  logits: 'logits',
  onlineAutoencoderLatent: 'online_autoencoder_latent',
  onlineMlpAutoencoderLatent: 'online_mlp_autoencoder_latent',
  onlineAttentionAutoencoderLatent: 'online_attention_autoencoder_latent',
  onlineMlpAutoencoderError: 'online_mlp_autoencoder_error',
  onlineResidualMlpAutoencoderError: 'online_residual_mlp_autoencoder_error',
  onlineResidualAttentionAutoencoderError: 'online_residual_attention_autoencoder_error',
} as const;
export type ActivationLocationType = (typeof ActivationLocationType)[keyof typeof ActivationLocationType];

const { sequenceTokens: S, attendedToSequenceTokens: K, residualStreamChannels: D, attnHeads: H } = Dimension;
const { queryAndKeyChannels: Q, valueChannels: V, mlpActs: F, autoencoderLatents: L, singleton } = Dimension;

const shapes: Readonly<Record<ActivationLocationType, readonly Dimension[]>> = {
  'resid.post_emb': [S, D],
  'resid.delta_attn': [S, D],
  'resid.post_attn': [S, D],
  'resid.delta_mlp': [S, D],
  'resid.post_mlp': [S, D],
  'resid.post_mlp_ln': [S, D],
  'resid.post_attn_ln': [S, D],
  'resid.post_ln_f': [S, D],
  'mlp_ln.scale': [S, singleton],
  'attn_ln.scale': [S, singleton],
  'resid.ln_f.scale': [S, singleton],
  'attn.q': [S, H, Q],
  'attn.k': [K, H, Q],
  'attn.v': [K, H, V],
  'attn.qk_logits': [S, K, H],
  'attn.qk_probs': [S, K, H],
  'attn.v_out': [S, H, V],
  'mlp.pre_act': [S, F],
  'mlp.post_act': [S, F],
  logits: [S, Dimension.vocabSize],
  online_autoencoder_latent: [S, L],
  online_mlp_autoencoder_latent: [S, L],
  online_attention_autoencoder_latent: [S, L],
  online_mlp_autoencoder_error: [S, F],
  online_residual_mlp_autoencoder_error: [S, D],
  online_residual_attention_autoencoder_error: [S, D],
};

export const activationLocationTypes = Object.keys(shapes) as readonly ActivationLocationType[];

const specOf = (operation: string, type: ActivationLocationType): readonly Dimension[] =>
  entryOf(operation, 'activation location', type, shapes);

/** The dimensions of an activation of one sequence, in order. @throws RangeError for an unknown name. */
export function activationShapeSpec(type: ActivationLocationType): readonly Dimension[] {
  return specOf('activationShapeSpec', type);
}

const withoutLayers: readonly ActivationLocationType[] = [
  ActivationLocationType.residPostEmbedding,
  ActivationLocationType.residFinalLayerNormScale,
  ActivationLocationType.residPostFinalLayerNorm,
  ActivationLocationType.logits,
];

/** True for activations of which a pass has one, not one per layer. @throws RangeError for an unknown name. */
export function activationHasNoLayers(type: ActivationLocationType): boolean {
  specOf('activationHasNoLayers', type);
  return withoutLayers.includes(type);
}

/**
 * False for `online_autoencoder_latent`, which only hooks create; true for all others, as in the original.
 * @throws RangeError for an unknown name.
 */
export function activationExistsByDefault(type: ActivationLocationType): boolean {
  specOf('activationExistsByDefault', type);
  return type !== ActivationLocationType.onlineAutoencoderLatent;
}

/** The type of node that an activation's last dimension counts. @throws RangeError for an unknown name. */
export function activationNodeType(type: ActivationLocationType): NodeType {
  return nodeTypeOf('activationNodeType', type);
}

function nodeTypeOf(operation: string, type: ActivationLocationType): NodeType {
  const last = specOf(operation, type).at(-1) as Dimension;
  const nodeType = nodeTypeOfDimension(last);
  if (nodeType) return nodeType;
  throw new RangeError(`${operation}: what the dimension ${last} of ${type} counts has no name`);
}

const residualLocations: Partial<Record<ActivationLocationType, LocationWithinLayer>> = {
  'resid.delta_attn': LocationWithinLayer.attn,
  'resid.post_attn': LocationWithinLayer.residPostAttn,
  'resid.delta_mlp': LocationWithinLayer.mlp,
  'resid.post_mlp': LocationWithinLayer.residPostMlp,
};

/**
 * The location of an activation in a layer; undefined where it does not follow from the name.
 * @throws Error for logits, which are in no layer; RangeError for an unknown name.
 */
export function activationLocationWithinLayer(type: ActivationLocationType): LocationWithinLayer | undefined {
  const nodeType = nodeTypeOf('activationLocationWithinLayer', type);
  return nodeType === NodeType.residualStreamChannel
    ? residualLocations[type]
    : locationOf('activationLocationWithinLayer', nodeType);
}

export interface ActivationLocationTypeAndPassType {
  readonly activationLocationType: ActivationLocationType;
  readonly passType: PassType;
}

// ---- locations of hook points

// Names that differ from a location by more than a dot for /. Two of the original's names stand for no hook point of
// its transformer, and neither do those of autoencoders.
const otherNames: Partial<Record<ActivationLocationType, string>> = {
  'mlp_ln.scale': 'resid/ln_mlp/scale',
  'attn_ln.scale': 'resid/ln_attn/scale',
};
const withoutPoint = (type: ActivationLocationType): boolean =>
  type.startsWith('online_') || /^resid\..*_ln$/.test(type);

const names = new Map(
  activationLocationTypes
    .filter((type) => !withoutPoint(type))
    .map((type) => [type, otherNames[type] ?? type.replaceAll('.', '/')]),
);
const types = new Map([...names].map(([type, name]) => [name, type]));

/**
 * The location, `5/mlp/post_act`, of an activation, as `activations()` and `dump()` take it.
 * @throws RangeError for a name without a hook point, a layer that is missing, or one too many.
 */
export function locationOfActivation(type: ActivationLocationType, layer?: number): string {
  specOf('locationOfActivation', type);
  const name = names.get(type);
  if (name === undefined) throw new RangeError(`locationOfActivation: ${type} is at no hook point of a transformer`);
  if (withoutLayers.includes(type) !== (layer === undefined)) {
    const needs = withoutLayers.includes(type) ? 'is in no layer, so none can be given' : 'needs a layer';
    throw new RangeError(`locationOfActivation: ${type} ${needs}`);
  }
  if (layer !== undefined) checkInteger('locationOfActivation', 'layer', layer, 0);
  return layer === undefined ? name : `${layer}/${name}`;
}

/**
 * The activation of a location, and the layer if it has one.
 * @throws Error for a text that is no location, RangeError for a hook point that the original has no name for.
 */
export function activationOfLocation(location: string): { type: ActivationLocationType; layer: number | undefined } {
  checkText('activationOfLocation', 'location', location, "a text such as '5/mlp/post_act'");
  const parsed = parseLocation(location);
  if (parsed.layer === '*')
    throw new RangeError(`activationOfLocation: location '${location}' stands for every layer, not for one activation`);
  const name = formatLocation({ point: parsed.point });
  const type = types.get(name);
  if (type === undefined) {
    throw new RangeError(`activationOfLocation: location '${location}' has no name among the original's activations`);
  }
  return { type, layer: parsed.layer };
}
