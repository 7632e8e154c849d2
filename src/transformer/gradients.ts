// The gradients of a scalar at locations of a pass: backward hooks that keep what they see.
import { checkObject, checkOptions, describe, type OptionNames, wrong } from '../engine/check.js';
import { Tensor } from '../engine/ops/tensor.js';
import { addGradientHook, currentRecord, GradientRecord, leafOf, recordingIn } from '../engine/record.js';
import { disposeAll } from '../engine/scope.js';
import { appendAt, checkHooks } from './hook_places.js';
import { AutoencoderHooks, type HookFunction, TransformerHooks } from './hooks.js';
import { concreteLocations } from './location.js';
import { checkedStart, type Pad, type PassRange, type PassStart, passRange } from './padding.js';
import type { TransformerConfig } from './weights/config.js';

/** What gradients() needs of an autoencoder. */
export interface LatentSpace {
  encode(x: Tensor): Tensor;
  /** `inputs` is what was encoded. */
  decode(latents: Tensor, options: { inputs: Tensor }): Tensor;
}

export interface GradientsOptions extends PassRange {
  /**
   * The scalar, made of the logits [batch, seq or chosen, vocabulary], or of the values at the locations of `at`. It is
   * freed afterwards, as are the logits, unless it is one of the values or a leaf.
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

/**
 * By location, in the order of `at`: the values behind all forward hooks of the point, and the float32 gradients of
 * these, which no backward hook of the point has edited. All are the caller's to free.
 */
export interface Gradients {
  readonly values: Map<string, Tensor>;
  readonly gradients: Map<string, Tensor>;
}

const gradientsOptions: OptionNames<GradientsOptions> = {
  ...{ ...passRange, of: true, at: true, autoencoders: true, pad: true, hooks: true },
};

const suffix = '/latents';

/** `pass` runs a pass with these hooks, recorded in this record, from there on, and returns its logits. */
export async function gradientsAt(
  config: TransformerConfig,
  options: GradientsOptions,
  pass: (hooks: TransformerHooks, record: GradientRecord, from: PassStart | undefined) => Promise<Tensor>,
): Promise<Gradients> {
  checkOptions('gradients', options, gradientsOptions);
  const { of, at, hooks = new TransformerHooks(), autoencoders = {} } = options;
  if (typeof of !== 'function') throw new TypeError(wrong('gradients', 'of', 'a function', describe(of)));
  const from = checkedStart('gradients', options.from, config);
  checkHooks('gradients', hooks, config, from?.layer);
  const expand = (location: unknown) => concreteLocations('gradients', [location as string], config, from?.layer);
  const spliced = checkedAutoencoders(autoencoders, expand);
  const names = checkedLocations(at, spliced, expand);
  const found = new Found(names);
  const own = hooks.clone();
  for (const [location, { encode, decode }] of spliced) {
    const inside = new AutoencoderHooks({ encode, decode, addError: true });
    if (names.includes(location + suffix)) inside.latents.appendFwd2(found.hook(location + suffix));
    appendAt(own, location, 'fwd', inside);
  }
  for (const name of names) if (!name.endsWith(suffix)) appendAt(own, name, 'fwd2', found.hook(name));

  const record = new GradientRecord();
  let logits: Tensor | undefined;
  try {
    logits = await pass(own, record, from);
    const given = { logits, values: found.values };
    const scalar: unknown = await recordingIn(record, () => of(given));
    if (!(scalar instanceof Tensor)) {
      throw new TypeError(wrong('gradients', 'of', 'a function that returns a scalar tensor', describe(scalar)));
    }
    try {
      await scalar.backward();
    } finally {
      if (![...found.values.values()].includes(scalar) && !leafOf(scalar)) scalar.dispose();
    }
    return found.result();
  } catch (error) {
    found.dispose();
    throw error;
  } finally {
    logits?.dispose();
    record.end('gradients() has freed it');
  }
}

/** Values and gradients at locations, as a pass comes by. */
class Found {
  readonly #names: readonly string[];
  readonly #values = new Map<string, Tensor>();
  readonly #gradients = new Map<string, Tensor>();

  constructor(names: readonly string[]) {
    this.#names = names;
  }

  /** In the order of the names. */
  get values(): Map<string, Tensor> {
    return new Map(this.#names.map((name) => [name, this.#values.get(name) as Tensor]));
  }

  /** Keeps the value that it sees, and its gradient. */
  hook(name: string): HookFunction {
    return (x) => {
      currentRecord()?.watch(x); // a constant of the user's hooks as well
      addGradientHook(x, async (gradient) => {
        this.#gradients.set(name, gradient.clone());
        return gradient;
      });
      this.#values.set(name, x.clone()); // behind the hook, which sees what a scalar of the values wants
    };
  }

  result(): Gradients {
    const { values } = this;
    for (const value of values.values()) value.storage.history = undefined; // its record is gone
    const zeros = (x: Tensor) => x.make(x.shape, 'float32').fill(0);
    const gradientOf = (name: string, x: Tensor) => this.#gradients.get(name) ?? zeros(x);
    return { values, gradients: new Map([...values].map(([name, x]) => [name, gradientOf(name, x)])) };
  }

  dispose(): void {
    disposeAll(...this.#values.values(), ...this.#gradients.values());
  }
}

interface Functions {
  readonly encode: (x: Tensor) => Tensor;
  readonly decode: (latents: Tensor, x: Tensor) => Tensor;
}

type Expand = (location: unknown) => string[];

function checkedAutoencoders(autoencoders: unknown, expand: Expand): Map<string, Functions> {
  checkObject('gradients', 'autoencoders', autoencoders, 'an object of locations and autoencoders');
  const checked = new Map<string, Functions>();
  for (const [pattern, autoencoder] of Object.entries(autoencoders as Record<string, LatentSpace>)) {
    if (typeof autoencoder?.encode !== 'function' || typeof autoencoder.decode !== 'function') {
      const argument = `autoencoders['${pattern}']`;
      throw new TypeError(
        wrong('gradients', argument, 'an autoencoder, with encode and decode', describe(autoencoder)),
      );
    }
    for (const location of expand(pattern)) {
      checked.set(location, {
        encode: (x) => autoencoder.encode(x),
        decode: (latents, x) => {
          const decoded = autoencoder.decode(latents, { inputs: x });
          if (decoded.dtype === x.dtype) return decoded;
          using wide = decoded;
          return wide.to(x.dtype);
        },
      });
    }
  }
  return checked;
}

function checkedLocations(
  at: readonly string[],
  autoencoders: ReadonlyMap<string, Functions>,
  expand: Expand,
): string[] {
  if (!Array.isArray(at)) throw new TypeError(wrong('gradients', 'at', 'an array of locations', describe(at)));
  const names = at.flatMap((name: unknown) => {
    if (typeof name !== 'string' || !name.endsWith(suffix)) return expand(name);
    return expand(name.slice(0, -suffix.length)).map((location) => {
      if (autoencoders.has(location)) return location + suffix;
      const there = [...autoencoders.keys()].join(', ') || 'none';
      throw new RangeError(
        wrong('gradients', `at '${name}'`, `at a location of autoencoders`, `at one without (${there})`),
      );
    });
  });
  return [...new Set(names)];
}
