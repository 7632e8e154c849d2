// The weights of a model under the original's names, in the original's shapes: dimensions with a privileged basis
// (heads, neurons) come first, then inputs, then outputs.
import { checkDimension, Dimension, entryOf } from './dimensions.js';

export const WeightLocationType = {
  mlpToHidden: 'mlp.to_hidden',
  mlpToResidual: 'mlp.to_residual',
  embedding: 'embedding',
  unembedding: 'unembedding',
  positionEmbedding: 'position_embedding',
  attnToQuery: 'attn.to_query',
  attnToKey: 'attn.to_key',
  attnToValue: 'attn.to_value',
  attnToResidual: 'attn.to_residual',
  layerNormGainFinal: 'layer_norm_gain.final',
  layerNormBiasFinal: 'layer_norm_bias.final',
  layerNormGainPreAttn: 'layer_norm_gain.pre_attn',
  layerNormGainPreMlp: 'layer_norm_gain.pre_mlp',
} as const;
export type WeightLocationType = (typeof WeightLocationType)[keyof typeof WeightLocationType];

const { residualStreamChannels: D, attnHeads: H, queryAndKeyChannels: Q, valueChannels: V, mlpActs: F } = Dimension;

const shapes: Readonly<Record<WeightLocationType, readonly Dimension[]>> = {
  'mlp.to_hidden': [D, F],
  'mlp.to_residual': [F, D],
  embedding: [Dimension.vocabSize, D],
  unembedding: [D, Dimension.vocabSize],
  position_embedding: [Dimension.maxContextLength, D],
  'attn.to_query': [H, D, Q],
  'attn.to_key': [H, D, Q],
  'attn.to_value': [H, D, V],
  'attn.to_residual': [H, V, D],
  'layer_norm_gain.final': [D],
  'layer_norm_bias.final': [D],
  'layer_norm_gain.pre_attn': [D],
  'layer_norm_gain.pre_mlp': [D],
};

export const weightLocationTypes = Object.keys(shapes) as readonly WeightLocationType[];

/** The dimensions of a weight, on behalf of an operation. */
export const weightSpec = (operation: string, type: WeightLocationType): readonly Dimension[] =>
  entryOf(operation, 'weight location', type, shapes);

/** The dimensions of a weight, in order. @throws RangeError for an unknown name. */
export function weightShapeSpec(type: WeightLocationType): readonly Dimension[] {
  return weightSpec('weightShapeSpec', type);
}

const withoutLayers: readonly WeightLocationType[] = [
  WeightLocationType.embedding,
  WeightLocationType.unembedding,
  WeightLocationType.positionEmbedding,
  WeightLocationType.layerNormGainFinal,
  WeightLocationType.layerNormBiasFinal,
];

/** True for weights of which a model has one, not one per layer. @throws RangeError for an unknown name. */
export function weightHasNoLayers(type: WeightLocationType): boolean {
  weightSpec('weightHasNoLayers', type);
  return withoutLayers.includes(type);
}

const ofMlp: readonly WeightLocationType[] = [
  WeightLocationType.mlpToHidden,
  WeightLocationType.mlpToResidual,
  WeightLocationType.layerNormGainPreMlp,
];

/** True for the weights of an MLP and of the layer norm before it. @throws RangeError for an unknown name. */
export function isMlpWeight(type: WeightLocationType): boolean {
  weightSpec('isMlpWeight', type);
  return ofMlp.includes(type);
}

/** The index of a dimension in a weight's shape. @throws RangeError unless the weight has it once. */
export function dimensionIndex(type: WeightLocationType, dimension: Dimension): number {
  return indexOfDimension('dimensionIndex', type, dimension);
}

/** dimensionIndex() on behalf of another operation, whose argument is `argument`. */
export function indexOfDimension(
  operation: string,
  type: WeightLocationType,
  dimension: Dimension,
  argument = 'dimension',
): number {
  const spec = weightSpec(operation, type);
  checkDimension(operation, dimension, argument);
  const index = spec.indexOf(dimension);
  if (index >= 0 && spec.lastIndexOf(dimension) === index) return index;
  throw new RangeError(
    `${operation}: ${type} has the dimensions ${spec.join(', ')}, and ${dimension} is not one of them`,
  );
}
