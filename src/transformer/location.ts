// The original's names of activations, `5/mlp/post_act`. Each stands for a hook point and, inside the torso, a layer.
import { checkInteger, checkText, describe, wrong } from '../engine/check.js';
import { checkSizes, dFf, dHead, type TransformerConfig } from './weights/config.js';

/** Hook points of a layer in the order in which a pass reaches them, by their ids: the original's, and attn.head_out. */
export const layerPoints = [
  'resid.torso.ln_attn.post_mean_subtraction',
  'resid.torso.ln_attn.scale',
  'resid.torso.ln_attn.post_scale',
  'resid.torso.post_ln_attn',
  'attn.q',
  'attn.k',
  'attn.v',
  'attn.qk_logits',
  'attn.qk_softmax_denominator',
  'attn.qk_probs',
  'attn.v_out',
  'attn.head_out',
  'resid.torso.delta_attn',
  'resid.torso.post_attn',
  'resid.torso.ln_mlp.post_mean_subtraction',
  'resid.torso.ln_mlp.scale',
  'resid.torso.ln_mlp.post_scale',
  'resid.torso.post_ln_mlp',
  'mlp.pre_act',
  'mlp.post_act',
  'resid.torso.delta_mlp',
  'resid.torso.post_mlp',
] as const;
type LayerPoint = (typeof layerPoints)[number];

/** The points whose values are [batch, keys, …]; those of all others are [batch, seq, …]. */
export const pointsOfKeys: ReadonlySet<string> = new Set<LayerPoint>(['attn.k', 'attn.v']);

/** The points whose values have a dimension of keys, wherever it is. */
export const pointsWithKeys: ReadonlySet<string> = new Set<string>([
  ...pointsOfKeys,
  'attn.qk_logits',
  'attn.qk_probs',
]);

/** The points before the first layer and after the last one. */
export const firstPoint = 'resid.post_emb';
export const finalPoints = [
  'resid.ln_f.post_mean_subtraction',
  'resid.ln_f.scale',
  'resid.ln_f.post_scale',
  'resid.post_ln_f',
  'logits',
] as const;
export type Point = LayerPoint | typeof firstPoint | (typeof finalPoints)[number];

/** An activation: a point, and the layer where the point is one of a layer; '*' is every layer. */
export interface Location {
  readonly point: Point;
  readonly layer?: number | '*';
}

export const isLayerPoint = (point: string): point is LayerPoint => (layerPoints as readonly string[]).includes(point);

/** The name without the torso, `resid/delta_mlp`. */
const shortName = (point: Point): string => point.replace('.torso.', '.').replaceAll('.', '/');

const byName = new Map<string, Point>(
  [...layerPoints, firstPoint, ...finalPoints].flatMap((point): [string, Point][] => [
    [shortName(point as Point), point as Point],
    [point.replaceAll('.', '/'), point as Point],
  ]),
);

/** The names that a location may end in. */
export const locationNames: readonly string[] = [...new Set([...byName.values()].map(shortName))];

/**
 * Reads `5/mlp/post_act`, `* /mlp/post_act` (without the space), `resid/post_emb` or `logits`.
 * @throws Error that says what is wrong.
 */
export function parseLocation(text: string): Location {
  if (typeof text !== 'string') {
    throw new TypeError(wrong('parseLocation', 'text', "a text such as '5/mlp/post_act'", describe(text)));
  }
  const [, layer, name] = /^(?:(\d{1,6}|\*)\/)?(.+)$/.exec(text.trim()) ?? [];
  const point = byName.get((name ?? '').replaceAll('.', '/'));
  if (!point) {
    throw new Error(
      `location '${text}' is not known; it must be LAYER/NAME or NAME, the name one of ${locationNames.join(', ')}`,
    );
  }
  if (!isLayerPoint(point)) {
    if (layer !== undefined) throw new Error(`location '${text}' must have no layer: '${shortName(point)}'`);
    return { point };
  }
  if (layer === undefined)
    throw new Error(
      `location '${text}' must begin with a layer, as in '0/${shortName(point)}' or '*/${shortName(point)}'`,
    );
  return { point, layer: layer === '*' ? '*' : Number(layer) };
}

export const formatLocation = ({ point, layer }: Location): string =>
  layer === undefined ? shortName(point) : `${layer}/${shortName(point)}`;

/** The order in which a pass reaches locations; larger is later. */
export function executionOrder({ point, layer }: Location): number {
  if (point === firstPoint) return -1;
  if (isLayerPoint(point)) return (layer as number) * layerPoints.length + layerPoints.indexOf(point);
  return 1e9 + finalPoints.indexOf(point as (typeof finalPoints)[number]);
}

/** Concrete locations in the order of a pass, without repetitions; `*` becomes every layer. */
export function expandLocations(locations: readonly string[], config: TransformerConfig): string[] {
  return concreteLocations('expandLocations', locations, config);
}

/** expandLocations() on behalf of another operation; of a pass that begins at a layer, those below are refused. */
export function concreteLocations(
  operation: string,
  locations: readonly string[],
  config: TransformerConfig,
  firstLayer?: number,
): string[] {
  if (!Array.isArray(locations)) {
    throw new TypeError(wrong(operation, 'locations', "an array, as in ['logits']", describe(locations)));
  }
  checkSizes(operation, config, ['nLayers']);
  const all = Array.from(locations, (text: unknown, i) => {
    checkText(operation, `locations[${i}]`, text, "a text such as '5/mlp/post_act'");
    const location = parseLocation(text as string);
    if (location.layer === '*') return Array.from({ length: config.nLayers }, (_, layer) => ({ ...location, layer }));
    if (location.layer !== undefined && location.layer >= config.nLayers) {
      throw new Error(`location '${text}': the layer must be from 0 to ${config.nLayers - 1}`);
    }
    return [location];
  }).flat();
  all.sort((a, b) => executionOrder(a) - executionOrder(b));
  const [lowest] = all;
  if (firstLayer !== undefined && lowest && executionOrder(lowest) < firstLayer * layerPoints.length) {
    throw new RangeError(
      `${operation}: location '${formatLocation(lowest)}' is not computed, as the pass begins at layer ${firstLayer} (from)`,
    );
  }
  return [...new Set(all.map(formatLocation))];
}

/** The shape of an activation of `seq` tokens in `batch` rows, without earlier tokens in a cache. */
export function locationShape(
  location: string,
  config: TransformerConfig,
  nVocab: number,
  batch: number,
  seq: number,
): number[] {
  checkText('locationShape', 'location', location, "a text such as '5/mlp/post_act'");
  checkSizes('locationShape', config, ['dModel', 'nHeads', 'mAttn', 'mMlp']);
  for (const [name, size] of Object.entries({ nVocab, batch, seq })) checkInteger('locationShape', name, size, 0);
  const { point } = parseLocation(location);
  const heads = [config.nHeads, dHead(config)];
  switch (point) {
    case 'attn.q':
    case 'attn.k':
    case 'attn.v':
    case 'attn.v_out':
      return [batch, seq, ...heads];
    case 'attn.head_out':
      return [batch, seq, config.nHeads, config.dModel];
    case 'attn.qk_logits':
    case 'attn.qk_probs':
      return [batch, seq, seq, config.nHeads];
    case 'attn.qk_softmax_denominator':
      return [batch, seq, 1, config.nHeads];
    case 'mlp.pre_act':
    case 'mlp.post_act':
      return [batch, seq, dFf(config)];
    case 'logits':
      return [batch, seq, nVocab];
    default:
      return [batch, seq, point.endsWith('.scale') ? 1 : config.dModel];
  }
}
