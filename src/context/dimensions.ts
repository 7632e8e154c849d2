// The dimensions of weights and activations, and the kinds of nodes: the original's names, for tools that exchange
// them. Members are camelCase here; the values are the original's.
import { describe, wrong } from '../engine/check.js';

/**
 * The kinds of a tensor's dimensions, by what they count. Dimensions of attention heads (value channels) are per head,
 * those of layers (MLP activations) per layer.
 */
export const Dimension = {
  /** Positions of the sequence. */
  sequenceTokens: 'sequence_tokens',
  /** Positions that are attended to: those of the sequence, and those of a cache before it. */
  attendedToSequenceTokens: 'attended_to_sequence_tokens',
  /** The length of the longest sequence that has position embeddings. */
  maxContextLength: 'max_context_length',
  /** The width of the residual stream. */
  residualStreamChannels: 'residual_stream_channels',
  vocabSize: 'vocab_size',
  attnHeads: 'attn_heads',
  queryAndKeyChannels: 'query_and_key_channels',
  valueChannels: 'value_channels',
  mlpActs: 'mlp_acts',
  layers: 'layers',
  /** Always 1. */
  singleton: 'singleton',
  autoencoderLatents: 'autoencoder_latents',
  autoencoderLatentsByTokenPair: 'autoencoder_latents_by_token_pair',
} as const;
export type Dimension = (typeof Dimension)[keyof typeof Dimension];

/** The entry of a table by name. @throws RangeError that says `what` is not known, and which are. */
export function entryOf<Name extends string, Value>(
  operation: string,
  what: string,
  name: Name,
  table: Readonly<Record<Name, Value>>,
): Value {
  if (typeof name === 'string' && Object.hasOwn(table, name)) return table[name];
  const known = Object.keys(table).join(', ');
  throw new RangeError(`${operation}: ${what} ${describe(name)} is not known; it must be one of ${known}`);
}

/** Demands one of the values of a list of names. */
export function checkMember<Value extends string>(
  operation: string,
  argument: string,
  value: Value,
  members: Readonly<Record<string, Value>>,
): Value {
  const known = Object.values(members);
  if (known.includes(value)) return value;
  throw new RangeError(wrong(operation, argument, `one of ${known.join(', ')}`, describe(value)));
}

export const checkDimension = (operation: string, dimension: Dimension, argument = 'dimension'): Dimension =>
  checkMember(operation, argument, dimension, Dimension);

const isOfInput = (dimension: Dimension): boolean =>
  dimension === Dimension.sequenceTokens || dimension === Dimension.attendedToSequenceTokens;

/** True for the dimensions whose size the input decides. @throws RangeError for an unknown name. */
export const isSequenceTokenDimension = (dimension: Dimension): boolean =>
  isOfInput(checkDimension('isSequenceTokenDimension', dimension));

/** True for the dimensions whose size an autoencoder decides. @throws RangeError for an unknown name. */
export const isParameterizedDimension = (dimension: Dimension): boolean =>
  checkDimension('isParameterizedDimension', dimension) === Dimension.autoencoderLatents;

/** True for the dimensions whose size the model alone decides. @throws RangeError for an unknown name. */
export const isModelIntrinsic = (dimension: Dimension): boolean =>
  !isOfInput(checkDimension('isModelIntrinsic', dimension)) && dimension !== Dimension.autoencoderLatents;

/**
 * A part of a model with a number for each token, or each pair of tokens: an activation's last dimension counts such
 * parts.
 */
export const NodeType = {
  attentionHead: 'attention_head',
  qkChannel: 'qk_channel',
  vChannel: 'v_channel',
  mlpNeuron: 'mlp_neuron',
  autoencoderLatent: 'autoencoder_latent',
  mlpAutoencoderLatent: 'mlp_autoencoder_latent',
  attentionAutoencoderLatent: 'attention_autoencoder_latent',
  autoencoderLatentByTokenPair: 'autoencoder_latent_by_token_pair',
  layer: 'layer',
  residualStreamChannel: 'residual_stream_channel',
  vocabToken: 'vocab_token',
} as const;
export type NodeType = (typeof NodeType)[keyof typeof NodeType];

export const checkNodeType = (operation: string, nodeType: NodeType, argument = 'nodeType'): NodeType =>
  checkMember(operation, argument, nodeType, NodeType);

/** True for the types of nodes that are latents of an autoencoder. @throws RangeError for an unknown name. */
export const isAutoencoderLatent = (nodeType: NodeType): boolean =>
  checkNodeType('isAutoencoderLatent', nodeType).includes('autoencoder_latent');

const nodeTypes: Partial<Record<Dimension, NodeType>> = {
  mlp_acts: NodeType.mlpNeuron,
  attn_heads: NodeType.attentionHead,
  query_and_key_channels: NodeType.qkChannel,
  value_channels: NodeType.vChannel,
  singleton: NodeType.layer,
  residual_stream_channels: NodeType.residualStreamChannel,
  vocab_size: NodeType.vocabToken,
  autoencoder_latents: NodeType.autoencoderLatent,
  autoencoder_latents_by_token_pair: NodeType.autoencoderLatentByTokenPair,
};

/**
 * The type of node that a dimension counts, or undefined where there is none.
 * @throws RangeError for an unknown name.
 */
export const nodeTypeOfDimension = (dimension: Dimension): NodeType | undefined =>
  nodeTypes[checkDimension('nodeTypeOfDimension', dimension)];

/** Locations in a layer, just fine enough to show their order. The numbers are not for files. */
export const LocationWithinLayer = { endOfPrevLayer: 1, attn: 2, residPostAttn: 3, mlp: 4, residPostMlp: 5 } as const;
export type LocationWithinLayer = (typeof LocationWithinLayer)[keyof typeof LocationWithinLayer];

/**
 * The location of nodes of a type in a layer; undefined where the type alone does not decide it.
 * @throws Error for tokens of the vocabulary, which are in no layer; RangeError for an unknown name.
 */
export function locationOfNodeType(nodeType: NodeType): LocationWithinLayer | undefined {
  return locationOf('locationOfNodeType', nodeType);
}

/** locationOfNodeType() on behalf of another operation. */
export function locationOf(operation: string, nodeType: NodeType): LocationWithinLayer | undefined {
  switch (checkNodeType(operation, nodeType)) {
    case NodeType.mlpNeuron:
      return LocationWithinLayer.mlp;
    case NodeType.attentionHead:
    case NodeType.qkChannel:
    case NodeType.vChannel:
      return LocationWithinLayer.attn;
    case NodeType.vocabToken:
      throw new Error(`${operation}: tokens of the vocabulary are in no layer`);
    default:
      return undefined;
  }
}

export const PassType = { forward: 'forward', backward: 'backward' } as const;
export type PassType = (typeof PassType)[keyof typeof PassType];
