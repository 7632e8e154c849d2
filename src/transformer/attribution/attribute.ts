// attribute(): the neurons, heads, channels and latents that a logit is due to, by activation times gradient.
import {
  checkInteger,
  checkObject,
  checkOptions,
  checkText,
  describe,
  type OptionNames,
  wrong,
} from '../../engine/check.js';
import type { Tensor } from '../../engine/ops/tensor.js';
import { checkRecordable } from '../../engine/record.js';
import { disposeAll, withTemporaries } from '../../engine/scope.js';
import type { LatentSpace } from '../gradients.js';
import { concreteLocations, parseLocation } from '../location.js';
import { Transformer } from '../transformer.js';

/** What an index of a location stands for. */
export type FeatureKind = 'neuron' | 'head' | 'channel' | 'latent';

/**
 * Which features are listed: those that speak for the target, those that speak against it, or both by the size of their
 * attributions.
 */
export type AttributionDirection = 'for' | 'against' | 'both';

export interface AttributeOptions {
  /** The token whose logit behind the last token is attributed. */
  target: number;
  /** Another token: what is attributed is then the logit of `target` minus that of this one. */
  instead?: number;
  /**
   * Locations of neurons (`mlp/pre_act`, `mlp/post_act`), heads (`attn/v_out`, `attn/head_out`, `attn/q`, `attn/k`,
   * `attn/v`), channels (those of `resid` but for `scale`), or latents, `5/resid/delta_mlp/latents`. Without it, all neurons
   * (`mlp/post_act`), all heads (`attn/v_out`) and all latents of `autoencoders`.
   */
  at?: readonly string[];
  /** Autoencoders by location, as for gradients(). */
  autoencoders?: Readonly<Record<string, LatentSpace>>;
  /** How many of each group are listed; 10 if left out. */
  top?: number;
  /** Which are listed; those that speak for the target if left out. */
  direction?: AttributionDirection;
}

/**
 * One neuron, head, channel or latent at one token. The value of a head is the norm of its channels, and its gradient is
 * the derivative along their direction: their product is the sum over the channels of value times gradient.
 */
export interface AttributedFeature {
  /** `2/mlp/post_act`, `1/resid/delta_mlp/latents` */
  readonly location: string;
  readonly index: number;
  /** The token that it is at, counted from 0. */
  readonly position: number;
  readonly value: number;
  readonly gradient: number;
  /** value times gradient: positive where it speaks for the target, negative where it speaks against it. */
  readonly attribution: number;
}

/** What one name means in all layers that were asked for. */
export interface AttributionGroup {
  readonly kind: FeatureKind;
  /** The location without its layer, `mlp/post_act`. */
  readonly name: string;
  /** The sum over all of them, at all tokens. */
  readonly sum: number;
  /** Those of `direction` with the largest |attribution|, the largest first; none whose attribution is 0. */
  readonly strongest: readonly AttributedFeature[];
}

export interface Attribution {
  /** What is attributed: the logit of the target, less that of `instead`. */
  readonly score: number;
  readonly targetLogit: number;
  readonly insteadLogit?: number;
  /** In the order of `at`. */
  readonly groups: readonly AttributionGroup[];
}

const attributeOptions: OptionNames<AttributeOptions> = {
  ...{ target: true, instead: true, at: true, autoencoders: true, top: true, direction: true },
};
const directions: readonly AttributionDirection[] = ['for', 'against', 'both'];
const latents = '/latents';

/**
 * Attributes the logit of a token, behind the last one of `tokens`, to neurons, heads, channels and latents at each of the
 * tokens, and lists the strongest of those that speak for it, or of another `direction`. An attribution is value times
 * gradient, a linear estimate of how much lower the logit would be if that value alone were set to 0 at its token, and
 * everything behind it computed again; ablating each of them alone is the test. It is exact where the rest of the model
 * is linear, and can be far off for what changes a lot, such as a whole head; signs are mostly right, more so with
 * `instead`. Attributions of layers that follow one another overlap: their sum is not the logit.
 * @throws RangeError or TypeError, before anything is computed, for what does not fit the model, and for locations whose
 *   values are neither neurons, heads, channels nor latents; Error on a GPU, where there are no gradients.
 */
export async function attribute(
  model: Transformer,
  tokens: readonly number[],
  options: AttributeOptions,
): Promise<Attribution> {
  const { target, instead, autoencoders, at, ...chosen } = checked(model, tokens, options);
  const logits: number[] = [];
  const { values, gradients } = await model.gradients([tokens], {
    at,
    autoencoders,
    logitsAt: 'last',
    of: async ({ logits: all }) => {
      const ofTarget = all.select(-1, target);
      logits.push(await ofTarget.item());
      if (instead === undefined) return ofTarget;
      using minuend = ofTarget;
      using subtrahend = all.select(-1, instead);
      logits.push(await subtrahend.item());
      return minuend.sub(subtrahend);
    },
  });
  try {
    const groups = new Map<string, { kind: FeatureKind; name: string; sum: number; strongest: AttributedFeature[] }>();
    for (const [location, value] of values) {
      const name = location.replace(/^\d+\//, '');
      const kind = kindOf(location) as FeatureKind;
      const group = groups.get(name) ?? { kind, name, sum: 0, strongest: [] };
      groups.set(name, group);
      const gradient = gradients.get(location) as Tensor;
      const found = await strongestAt(location, kind === 'head', value, gradient, chosen);
      disposeAll(value, gradient);
      group.sum += found.sum;
      group.strongest = [...group.strongest, ...found.strongest].sort(byStrength).slice(0, chosen.top);
    }
    const [targetLogit, insteadLogit] = logits as [number, number?];
    const score = targetLogit - (insteadLogit ?? 0);
    return { score, targetLogit, ...(insteadLogit !== undefined && { insteadLogit }), groups: [...groups.values()] };
  } finally {
    disposeAll(...values.values(), ...gradients.values());
  }
}

/** Values that are not finite come first. */
const strength = ({ attribution }: AttributedFeature): number =>
  Number.isFinite(attribution) ? Math.abs(attribution) : Number.MAX_VALUE;
const byStrength = (a: AttributedFeature, b: AttributedFeature): number => strength(b) - strength(a);

/** value, gradient [1, S, F], of heads [1, S, H, C] -> the sum of all attributions, and the strongest. */
async function strongestAt(
  location: string,
  ofHeads: boolean,
  value: Tensor,
  gradient: Tensor,
  { top, direction }: Required<Pick<AttributeOptions, 'top' | 'direction'>>,
): Promise<{ sum: number; strongest: AttributedFeature[] }> {
  const features = value.shape[2] as number;
  const [sum, indices, values, attributions, slopes] = await withTemporaries((own) => {
    const x = own(value.to('float32'));
    const products = own(x.mul(gradient));
    const all = ofHeads ? own(products.sum(-1)) : products;
    const flat = own(all.reshape(-1));
    const ranked = direction === 'for' ? flat : own(direction === 'against' ? flat.neg() : flat.abs());
    const { indices, values: largest } = ranked.topk(Math.min(top, flat.size));
    own(largest);
    own(indices);
    const chosen = (t: Tensor) => own(own(t.reshape(-1)).indexSelect(0, indices)).read();
    return Promise.all([
      own(flat.sum()).item(),
      indices.read(),
      chosen(ofHeads ? own(x.norm(-1)) : x),
      chosen(flat),
      ofHeads ? undefined : chosen(gradient),
    ]);
  });
  const strongest = Array.from(indices, (at, i): AttributedFeature => {
    const [v, attribution] = [values[i] as number, attributions[i] as number];
    return {
      ...{ location, index: at % features, position: Math.floor(at / features), value: v },
      ...{ gradient: slopes ? (slopes[i] as number) : attribution / v, attribution },
    };
  });
  const isOf = ({ attribution: a }: AttributedFeature) =>
    !(a === 0 || (direction === 'for' && a < 0) || (direction === 'against' && a > 0));
  return { sum, strongest: strongest.filter(isOf) };
}

const heads: readonly string[] = ['attn.q', 'attn.k', 'attn.v', 'attn.v_out', 'attn.head_out'];

/** What the indices of a location stand for; undefined where they are of no such kind. */
function kindOf(location: string): FeatureKind | undefined {
  if (location.endsWith(latents)) {
    const kind = kindOf(location.slice(0, -latents.length));
    return kind === 'neuron' || kind === 'channel' ? 'latent' : undefined;
  }
  const { point } = parseLocation(location);
  if (point.startsWith('mlp.')) return 'neuron';
  if (heads.includes(point)) return 'head';
  return point.startsWith('resid.') && !point.endsWith('.scale') ? 'channel' : undefined;
}

function checked(
  model: Transformer,
  tokens: readonly number[],
  options: AttributeOptions,
): Required<Omit<AttributeOptions, 'instead'>> & { instead: number | undefined } {
  if (!(model instanceof Transformer)) {
    throw new TypeError(wrong('attribute', 'model', 'a Transformer', describe(model)));
  }
  checkRecordable('attribute', model.device);
  const { config, nVocab } = model;
  if (!Array.isArray(tokens)) throw new TypeError(wrong('attribute', 'tokens', 'an array of tokens', describe(tokens)));
  checkInteger('attribute', 'the number of tokens', tokens.length, 1, config.ctxWindow);
  for (const [i, token] of tokens.entries()) checkInteger('attribute', `tokens[${i}]`, token, 0, nVocab - 1);
  checkOptions('attribute', options, attributeOptions);
  const { target, instead, autoencoders = {}, top = 10, direction = 'for' } = options;
  checkInteger('attribute', 'target', target, 0, nVocab - 1);
  if (instead !== undefined) checkInteger('attribute', 'instead', instead, 0, nVocab - 1);
  if (instead === target) throw new RangeError(wrong('attribute', 'instead', 'another token than target', `${target}`));
  checkInteger('attribute', 'top', top, 1);
  if (!directions.includes(direction)) {
    throw new TypeError(wrong('attribute', 'direction', "'for', 'against' or 'both'", describe(direction)));
  }
  checkObject('attribute', 'autoencoders', autoencoders, 'an object of locations and autoencoders');
  const spliced = concreteLocations('attribute', Object.keys(autoencoders), config);
  const { at = ['*/mlp/post_act', '*/attn/v_out', ...spliced.map((location) => location + latents)] } = options;
  if (!Array.isArray(at) || at.length === 0) {
    throw new TypeError(wrong('attribute', 'at', 'an array of locations, one at least', describe(at)));
  }
  for (const [i, location] of at.entries()) checkLocation(location, `at[${i}]`, spliced, config);
  return { target, instead, autoencoders, at, top, direction };
}

/** Demands a location whose values are of a known kind, and an autoencoder where it is one of latents. */
function checkLocation(
  location: unknown,
  argument: string,
  spliced: readonly string[],
  config: Transformer['config'],
): void {
  const name = checkText('attribute', argument, location, "a text such as '5/mlp/post_act'");
  const place = name.endsWith(latents) ? name.slice(0, -latents.length) : name;
  const concrete = concreteLocations('attribute', [place], config);
  if (kindOf(name) === undefined) {
    const neurons = 'neurons (mlp/pre_act, mlp/post_act)';
    const channels = 'channels (resid/… but for scale)';
    const expected = `a location of ${neurons}, heads (attn/v_out, head_out, q, k, v), ${channels}, or latents of neurons or channels`;
    throw new RangeError(wrong('attribute', argument, expected, `'${name}'`));
  }
  const missing = place === name ? undefined : concrete.find((one) => !spliced.includes(one));
  if (missing === undefined) return;
  const there = spliced.join(', ') || 'none';
  throw new RangeError(
    `attribute: ${argument} is '${name}', but ${missing} has no autoencoder (those that do: ${there})`,
  );
}
