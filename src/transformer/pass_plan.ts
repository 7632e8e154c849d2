// The plan of a forward pass, derived from the hooks and the wanted locations: which sections of each layer run as
// fused kernels and which as open steps, and which point is the last one. No device or tensor is needed.
import { failure } from './hook_chain.js';
import type { FwdBwdHooks, TransformerHooks } from './hooks.js';
import { executionOrder, finalPoints, type Location, layerPoints, type Point, parseLocation } from './location.js';

/** The layer norms, as their points' ids begin. */
export type NormId = 'resid.torso.ln_attn' | 'resid.torso.ln_mlp' | 'resid.ln_f';

/**
 * How an update is added to the residual stream. product: within the matrix product that computes it. norm: in one
 * kernel with the layer norm that comes next. apart: in a kernel of its own.
 */
export type Addition = 'product' | 'norm' | 'apart';

/** How a layer is computed. */
export interface LayerPlan {
  /** Layer norm before attention: in one kernel, or in steps whose values hooks can see. */
  readonly lnAttn: 'fused' | 'open';
  /**
   * fused: one kernel on the joint projections. split: the same kernel on copies of queries, keys and values that hooks
   * may change, queries and keys scaled. open: logits and probabilities in memory.
   */
  readonly attention: 'fused' | 'split' | 'open';
  /**
   * Whether the kernel, fused or split, also returns the probabilities: they are wanted, and no hook may change them.
   */
  readonly probs: boolean;
  /** The softmax: in one kernel, or in steps that show its denominator. */
  readonly softmax: 'fused' | 'open';
  /**
   * The output of each head. fused: only their sum, in the output projection. aside: also each of them, for whoever wants
   * them. open: each of them, and then their sum, as hooks may change them.
   */
  readonly heads: 'fused' | 'aside' | 'open';
  readonly addAttn: Addition;
  readonly lnMlp: 'fused' | 'open';
  /** GELU: within the matrix product, or in a kernel of its own. */
  readonly gelu: 'fused' | 'open';
  readonly addMlp: Addition;
}

export interface PassPlan {
  readonly layers: readonly LayerPlan[];
  readonly lnF: 'fused' | 'open';
  /** The last wanted location; nothing after it is computed. Undefined: up to the logits. */
  readonly last?: Location;
  /**
   * From where on a pass that gives the logits of some positions computes only these: from the last layer's mix of values
   * (mix), the final layer norm (stream), or the unembedding (normed). Whatever is watched sees all positions, but for the
   * logits.
   */
  readonly choosesAt: 'mix' | 'stream' | 'normed';
}

type Watching = (hooks: TransformerHooks | undefined, point: Point, layer?: number) => FwdBwdHooks | undefined;

const pointWhere =
  (isWatched: (node: FwdBwdHooks, layer: number | undefined) => boolean): Watching =>
  (hooks, point, layer) => {
    const node = hooks?.at(point) as FwdBwdHooks | undefined;
    try {
      return node && isWatched(node, layer) ? node : undefined;
    } catch (cause) {
      throw failure(placeOf(point, layer), 'watches() of a hook', cause);
    }
  };

/** The hooks of a point, or undefined where a forward pass has none to call. */
export const watchedPoint = pointWhere((node, layer) => node.watches(layer));

/** The hooks of a point, or undefined where a backward pass has none to call. */
export const gradientPoint = pointWhere((node, layer) => node.bwd.watches(layer));

/** A hook point as errors name it. */
export const placeOf = (point: Point, layer?: number): string =>
  layer === undefined ? point : `${point}, layer ${layer}`;

export function planPass(nLayers: number, hooks?: TransformerHooks, locations?: readonly string[]): PassPlan {
  const wanted = locations?.map(parseLocation);
  const isWanted = (point: Point, layer?: number) =>
    (wanted?.some((w) => w.point === point && w.layer === layer) ?? false) ||
    watchedPoint(hooks, point, layer) !== undefined;
  const any = (points: readonly Point[], layer?: number) => points.some((point) => isWanted(point, layer));
  const norm = (prefix: NormId, layer?: number) =>
    any([`${prefix}.post_mean_subtraction`, `${prefix}.scale`, `${prefix}.post_scale`], layer) ? 'open' : 'fused';
  const lnF = norm('resid.ln_f');
  const heads = (layer: number): LayerPlan['heads'] => {
    if (watchedPoint(hooks, 'attn.head_out', layer)) return 'open';
    return isWanted('attn.head_out', layer) ? 'aside' : 'fused';
  };
  const addition = (sublayer: 'attn' | 'mlp', layer: number, next: 'fused' | 'open'): Addition => {
    const open = sublayer === 'attn' && heads(layer) === 'open';
    if (!open && !isWanted(`resid.torso.delta_${sublayer}`, layer)) return 'product';
    return next === 'fused' && !isWanted(`resid.torso.post_${sublayer}`, layer) ? 'norm' : 'apart';
  };
  const layers = Array.from({ length: nLayers }, (_, layer): LayerPlan => {
    const probsHooked = watchedPoint(hooks, 'attn.qk_probs', layer) !== undefined;
    const open = probsHooked || any(['attn.qk_logits', 'attn.qk_softmax_denominator'], layer);
    const lnMlp = norm('resid.torso.ln_mlp', layer);
    const afterMlp = layer === nLayers - 1 ? lnF : norm('resid.torso.ln_attn', layer + 1);
    return {
      lnAttn: norm('resid.torso.ln_attn', layer),
      attention: open ? 'open' : any(['attn.q', 'attn.k', 'attn.v'], layer) ? 'split' : 'fused',
      probs: !open && isWanted('attn.qk_probs', layer),
      softmax: any(['attn.qk_softmax_denominator'], layer) ? 'open' : 'fused',
      heads: heads(layer),
      addAttn: addition('attn', layer, lnMlp),
      lnMlp,
      gelu: any(['mlp.pre_act'], layer) ? 'open' : 'fused',
      addMlp: addition('mlp', layer, afterMlp),
    };
  });
  // backward hooks count here, as the gradient that they see is that of all positions
  const isSeen = (point: Point, layer?: number) =>
    isWanted(point, layer) || gradientPoint(hooks, point, layer) !== undefined;
  const lastLayer = nLayers - 1;
  const endSeen = finalPoints.some((point) => point !== 'logits' && isSeen(point));
  const outSeen = layerPoints.slice(layerPoints.indexOf('attn.head_out')).some((point) => isSeen(point, lastLayer));
  // the final layer norm adds the last update to the stream, so their sum is not there before
  const sumSeen =
    layers[lastLayer]?.addMlp === 'norm' && gradientPoint(hooks, 'resid.torso.post_mlp', lastLayer) !== undefined;
  const last = wanted?.reduce((a, b) => (executionOrder(b) > executionOrder(a) ? b : a));
  return {
    layers,
    lnF,
    ...(last ? { last } : {}),
    choosesAt: endSeen || sumSeen ? 'normed' : outSeen ? 'stream' : 'mix',
  };
}
