// What a pass has to stop at: from the hooks and the wanted locations, per layer, which stretches run fused and which open,
// and which point is the last. Pure: no device, no tensors.
import type { FwdBwdHooks, TransformerHooks } from './hooks.js';
import { executionOrder, type LayerPoint, type Location, layerPoints, type Point, parseLocation } from './location.js';

/** How a layer is computed. */
export interface LayerPlan {
  /** Layer norm before attention in one kernel, or in steps whose values can be watched. */
  readonly lnAttn: 'fused' | 'open';
  /**
   * fused: one kernel on the joint projections. split: the same kernel on scaled copies of queries and keys (or a copy of the
   * values) that hooks may change. open: logits and probabilities in memory.
   */
  readonly attention: 'fused' | 'split' | 'open';
  /** The softmax in one kernel, or with its denominator in hand. */
  readonly softmax: 'fused' | 'open';
  readonly lnMlp: 'fused' | 'open';
  /** GELU as part of the matrix product, or apart from it. */
  readonly gelu: 'fused' | 'open';
}

export interface Plan {
  readonly layers: readonly LayerPlan[];
  readonly lnF: 'fused' | 'open';
  /** The last point anyone wants; nothing after it is computed. Undefined: up to the logits. */
  readonly last?: Location;
  /** Whether all positions' logits are needed, or only the last one's would do. */
  readonly watchesEnd: boolean;
}

/** The hooks of a point, if there are any that a forward pass has to call. */
export function watchedPoint(
  hooks: TransformerHooks | undefined,
  point: Point,
  layer?: number,
): FwdBwdHooks | undefined {
  const node = hooks?.at(point) as FwdBwdHooks | undefined;
  return node?.watches(layer) ? node : undefined;
}

export function makePlan(nLayers: number, hooks?: TransformerHooks, locations?: readonly string[]): Plan {
  const wanted = locations?.map(parseLocation);
  const isWanted = (point: Point, layer?: number) =>
    (wanted?.some((w) => w.point === point && w.layer === layer) ?? false) ||
    watchedPoint(hooks, point, layer) !== undefined;
  const any = (points: readonly Point[], layer?: number) => points.some((point) => isWanted(point, layer));
  const within = (prefix: string): LayerPoint[] => layerPoints.filter((point) => point.startsWith(prefix));
  const layers = Array.from({ length: nLayers }, (_, layer): LayerPlan => {
    const probabilities = any(['attn.qk_logits', 'attn.qk_softmax_denominator', 'attn.qk_probs'], layer);
    return {
      lnAttn: any(within('resid.torso.ln_attn.'), layer) ? 'open' : 'fused',
      attention: probabilities ? 'open' : any(['attn.q', 'attn.k', 'attn.v'], layer) ? 'split' : 'fused',
      softmax: any(['attn.qk_softmax_denominator'], layer) ? 'open' : 'fused',
      lnMlp: any(within('resid.torso.ln_mlp.'), layer) ? 'open' : 'fused',
      gelu: any(['mlp.pre_act'], layer) ? 'open' : 'fused',
    };
  });
  const last = wanted?.reduce((a, b) => (executionOrder(b) > executionOrder(a) ? b : a));
  return {
    layers,
    lnF: any(['resid.ln_f.post_mean_subtraction', 'resid.ln_f.scale', 'resid.ln_f.post_scale']) ? 'open' : 'fused',
    ...(last ? { last } : {}),
    watchesEnd: any([
      'resid.ln_f.post_mean_subtraction',
      'resid.ln_f.scale',
      'resid.ln_f.post_scale',
      'resid.post_ln_f',
      'logits',
    ]),
  };
}
