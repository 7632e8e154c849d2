// What attributions estimate, measured: the pass again, with one feature changed at one token.
import type { Autoencoder } from '../../../src/autoencoder/autoencoder.js';
import type { AttributedFeature } from '../../../src/transformer/attribution/attribute.js';
import { AtLayers, AutoencoderHooks, type HookFunction, TransformerHooks } from '../../../src/transformer/hooks.js';
import { parseLocation } from '../../../src/transformer/location.js';
import type { Transformer } from '../../../src/transformer/transformer.js';

export interface Ends {
  readonly target: number;
  readonly instead?: number;
}

/** The logit of the target behind the last token, less that of `instead`. */
export async function scoreOf(
  xf: Transformer,
  tokens: readonly number[],
  { target, instead }: Ends,
  hooks = new TransformerHooks(),
): Promise<number> {
  const { logits } = await xf.forward([[...tokens]], { hooks, logitsAt: 'last' });
  using owned = logits;
  const all = await owned.read();
  return (all[target] as number) - (instead === undefined ? 0 : (all[instead] as number));
}

/** The score with a feature multiplied by a factor, 0 for an ablation. */
export function scoreWith(
  xf: Transformer,
  tokens: readonly number[],
  ends: Ends,
  { location, index, position }: Pick<AttributedFeature, 'location' | 'index' | 'position'>,
  factor: number,
  autoencoders: Readonly<Record<string, Autoencoder>> = {},
): Promise<number> {
  const scale: HookFunction = (x) => {
    x.slice(1, position, position + 1)
      .select(2, index)
      .mul_(factor);
  };
  const place = location.replace(/\/latents$/, '');
  const { point, layer } = parseLocation(place);
  const hooks = new TransformerHooks();
  const append = (hook: HookFunction | AutoencoderHooks) =>
    hooks.appendToPath(`${point}.fwd`, layer === undefined ? hook : new AtLayers(layer as number).append(hook));
  if (place === location) append(scale);
  else {
    const ae = autoencoders[place] as Autoencoder;
    const inside = new AutoencoderHooks({
      encode: (x) => ae.encode(x),
      decode: (latents, x) => ae.decode(latents, { inputs: x }),
      addError: true,
    });
    inside.latents.appendFwd(scale);
    append(inside);
  }
  return scoreOf(xf, tokens, ends, hooks);
}

/** How well attributions foretold what ablations did. */
export interface Agreement {
  /** How many there are, and how many of the changes have the sign that was foretold. */
  readonly count: number;
  readonly signs: number;
  /** The sum of all |changes|, as a part of what was foretold. */
  readonly sizes: number;
  /** The same of the sum of those that were foretold to raise the score, and of those to lower it; none where there are none. */
  readonly sides: readonly number[];
}

/** Ablates features, each by itself. */
export async function agreementOf(
  xf: Transformer,
  tokens: readonly number[],
  ends: Ends,
  features: readonly AttributedFeature[],
  autoencoders: Readonly<Record<string, Autoencoder>> = {},
): Promise<Agreement> {
  const before = await scoreOf(xf, tokens, ends);
  const changes: [foretold: number, found: number][] = [];
  for (const feature of features) {
    const after = await scoreWith(xf, tokens, ends, feature, 0, autoencoders);
    changes.push([-feature.attribution, after - before]);
  }
  const sum = (list: readonly number[]) => list.reduce((total, x) => total + x, 0);
  const ratio = (some: typeof changes) => sum(some.map(([, found]) => found)) / sum(some.map(([foretold]) => foretold));
  return {
    count: changes.length,
    signs: changes.filter(([foretold, found]) => Math.sign(foretold) === Math.sign(found)).length,
    sizes: ratio(changes.map(([foretold, found]) => [Math.abs(foretold), Math.abs(found)])),
    sides: [changes.filter(([foretold]) => foretold > 0), changes.filter(([foretold]) => foretold < 0)]
      .filter((side) => side.length > 0)
      .map(ratio),
  };
}

export const withinTwo = (ratio: number): boolean => ratio > 0.5 && ratio < 2;
