// The gradients of a scalar at locations of a pass: backward hooks that keep what they see.
import { checkObject, checkOptions, describe, type OptionNames, wrong } from '../engine/check.js';
import { Tensor } from '../engine/ops/tensor.js';
import type { GradientRecord } from '../engine/record.js';
import { disposeAll } from '../engine/scope.js';
import { checkHooks } from './hook_places.js';
import { AtLayers, AutoencoderHooks, type HookFunction, TransformerHooks } from './hooks.js';
import { concreteLocations, parseLocation } from './location.js';
import type { Pad } from './padding.js';
import type { TransformerConfig } from './weights/config.js';

/** What gradients() needs of an autoencoder. */
export interface LatentSpace {
  encode(x: Tensor): Tensor;
  /** `inputs` is what was encoded. */
  decode(latents: Tensor, options: { inputs: Tensor }): Tensor;
}

export interface GradientsOptions {
  /**
   * The scalar, made of the logits [batch, seq, vocabulary], or of the values at the locations of `at`. It is freed
   * afterwards, as are the logits; the values are not.
   */
  of: (pass: { logits: Tensor; values: ReadonlyMap<string, Tensor> }) => Tensor | Promise<Tensor>;
  /** Locations as for activations(), and with `/latents` behind it one that has an autoencoder. */
  at: readonly string[];
  /**
   * Autoencoders by location. Each is spliced into the pass with its error added back, so that the value there stays the
   * same but for rounding, after the forward hooks of the point.
   */
  autoencoders?: Readonly<Record<string, LatentSpace>>;
  /** Tokens to ignore, as for forward(). */
  pad?: Pad;
  hooks?: TransformerHooks;
}

/** By location, in the order of `at`: float32 gradients, and the values beside them. All are the caller's to free. */
export interface Gradients {
  readonly values: Map<string, Tensor>;
  readonly gradients: Map<string, Tensor>;
}

const gradientsOptions: OptionNames<GradientsOptions> = {
  ...{ of: true, at: true, autoencoders: true, pad: true, hooks: true },
};

/** A recorded pass with these hooks, which returns the values at the locations. */
export type RecordedPass = (
  hooks: TransformerHooks,
  locations: readonly string[],
) => Promise<{ logits: Tensor; values: Map<string, Tensor>; record: GradientRecord }>;

const suffix = '/latents';

export async function gradientsAt(
  config: TransformerConfig,
  options: GradientsOptions,
  pass: RecordedPass,
): Promise<Gradients> {
  checkOptions('gradients', options, gradientsOptions);
  const { of, at, hooks = new TransformerHooks(), autoencoders = {} } = options;
  if (typeof of !== 'function') throw new TypeError(wrong('gradients', 'of', 'a function', describe(of)));
  checkHooks('gradients', hooks, config);
  const spliced = checkedAutoencoders(autoencoders, config);
  const names = checkedLocations(at, spliced, config);
  const own = hooks.clone();
  const latents = new Map<string, Tensor>();
  const gradients = new Map<string, Tensor>();
  const keepIn =
    (map: Map<string, Tensor>, name: string): HookFunction =>
    (x) => {
      map.get(name)?.dispose();
      map.set(name, x.clone());
    };
  for (const [location, { encode, decode }] of spliced) {
    const inside = new AutoencoderHooks({ encode, decode, addError: true });
    const name = location + suffix;
    if (names.includes(name)) {
      inside.latents.appendFwd(keepIn(latents, name)).appendBwd(keepIn(gradients, name));
    }
    attach(own, location, 'fwd', inside);
  }
  const locations = names.filter((name) => !name.endsWith(suffix));
  for (const location of locations) attach(own, location, 'bwd', keepIn(gradients, location));

  const { logits, values, record } = await pass(own, locations).catch((error) => {
    disposeAll(...latents.values());
    throw error;
  });
  try {
    const found = new Map(names.map((name) => [name, (values.get(name) ?? latents.get(name)) as Tensor]));
    const scalar: unknown = await of({ logits, values: found });
    if (!(scalar instanceof Tensor)) {
      throw new TypeError(wrong('gradients', 'of', 'a function that returns a scalar tensor', describe(scalar)));
    }
    try {
      await scalar.backward();
    } finally {
      scalar.dispose();
    }
    for (const value of found.values()) value.storage.history = undefined; // its record is gone
    const ofLocation = (name: string, x: Tensor) => gradients.get(name) ?? x.make(x.shape, 'float32').fill(0);
    return {
      values: found,
      gradients: new Map([...found].map(([name, x]) => [name, ofLocation(name, x)])),
    };
  } catch (error) {
    disposeAll(...values.values(), ...latents.values(), ...gradients.values());
    throw error;
  } finally {
    logits.dispose();
    record.dispose();
  }
}

/** Appends a hook at one location. */
function attach(
  hooks: TransformerHooks,
  location: string,
  list: 'fwd' | 'bwd',
  hook: HookFunction | AutoencoderHooks,
): void {
  const { point, layer } = parseLocation(location);
  hooks.appendToPath(`${point}.${list}`, layer === undefined ? hook : new AtLayers(layer as number).append(hook));
}

interface Functions {
  readonly encode: (x: Tensor) => Tensor;
  readonly decode: (latents: Tensor, x: Tensor) => Tensor;
}

function checkedAutoencoders(autoencoders: unknown, config: TransformerConfig): Map<string, Functions> {
  checkObject('gradients', 'autoencoders', autoencoders, 'an object of locations and autoencoders');
  const checked = new Map<string, Functions>();
  for (const [pattern, autoencoder] of Object.entries(autoencoders as Record<string, LatentSpace>)) {
    if (typeof autoencoder?.encode !== 'function' || typeof autoencoder.decode !== 'function') {
      const argument = `autoencoders['${pattern}']`;
      throw new TypeError(
        wrong('gradients', argument, 'an autoencoder, with encode and decode', describe(autoencoder)),
      );
    }
    for (const location of concreteLocations('gradients', [pattern], config)) {
      checked.set(location, {
        encode: (x) => autoencoder.encode(x),
        decode: (latents, x) => autoencoder.decode(latents, { inputs: x }),
      });
    }
  }
  return checked;
}

function checkedLocations(
  at: readonly string[],
  autoencoders: ReadonlyMap<string, Functions>,
  config: TransformerConfig,
): string[] {
  if (!Array.isArray(at)) throw new TypeError(wrong('gradients', 'at', 'an array of locations', describe(at)));
  const names = at.flatMap((name: unknown) => {
    if (typeof name !== 'string' || !name.endsWith(suffix))
      return concreteLocations('gradients', [name as string], config);
    return concreteLocations('gradients', [name.slice(0, -suffix.length)], config).map((location) => {
      if (autoencoders.has(location)) return location + suffix;
      const there = [...autoencoders.keys()].join(', ') || 'none';
      throw new RangeError(
        wrong('gradients', `at '${name}'`, `at a location of autoencoders`, `at one without (${there})`),
      );
    });
  });
  return [...new Set(names)];
}
