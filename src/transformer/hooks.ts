// Hooks: functions that see, and may replace, a value inside a pass; and the tree of hook points, as in the original.
// The fields of the collections are the list of points. Property names are camelCase, ids the original's snake_case.
import { checkInteger } from '../engine/check.js';
import type { PackedMatrix } from '../engine/ops/pack_weights.js';
import { Tensor } from '../engine/ops/tensor.js';
import { showShape } from '../engine/shape.js';

/** The values that a hook receives besides x; bound values are added. */
export interface HookContext {
  /** The layer, at points inside one. */
  layer?: number;
  /** At mlp.post_act: the weights that come next. */
  outLayer?: PackedMatrix;
  [bound: string]: unknown;
}

/**
 * x is valid until the hook ends; to keep it, clone it. It may be changed in place; a returned tensor of the same
 * shape, dtype and device replaces it.
 */
export type HookFunction = (x: Tensor, context: HookContext) => HookResult | Promise<HookResult>;
// biome-ignore lint/suspicious/noConfusingVoidType: a function without a return statement is of type void
export type HookResult = Tensor | undefined | void;

/** A function, or something that runs others: Hooks, AtLayers, ConditionalHooks, AutoencoderHooks. */
export type Hook = HookFunction | HookRunner;

export interface HookRunner {
  /** Does what a hook function does; `where` names the point in errors. */
  run(x: Tensor, context: HookContext, where?: string): HookResult | Promise<HookResult>;
  /** False if the runner certainly does nothing at this layer. Without this method, every layer is watched. */
  watches?(layer: number | undefined): boolean;
  /** A copy with lists of its own. Without this method, clones of a tree share the runner. */
  clone?(): HookRunner;
}

const isRunner = (hook: Hook): hook is HookRunner => typeof hook === 'object' && typeof hook?.run === 'function';

/**
 * The value after a hook: its result, or x if it returned none.
 * @throws TypeError for a result that cannot replace x.
 */
function checked(result: HookResult, x: Tensor, where: string): Tensor {
  if (result === undefined || result === x) return x;
  const wrong = (what: string) => new TypeError(`${where}: a hook must return ${what}`);
  if (!(result instanceof Tensor)) throw wrong(`a tensor or nothing, but returned ${String(result)}`);
  if (result.ended) throw wrong(`a tensor that may still be used, but returned one of which: ${result.ended}`);
  if (showShape(result.shape) !== showShape(x.shape)) {
    throw wrong(`a tensor of shape ${showShape(x.shape)}, but returned ${showShape(result.shape)}`);
  }
  if (result.dtype !== x.dtype) throw wrong(`a tensor of ${x.dtype}, but returned ${result.dtype}`);
  if (result.device !== x.device) throw wrong(`a tensor on ${x.device}, but returned one on ${result.device}`);
  return result;
}

/** A sequence of hooks, each of which receives the value that the one before it left. It is a hook itself. */
export class Hooks implements HookRunner {
  protected hooks: Hook[] = [];
  protected bound: HookContext = {};

  append(hook: Hook): this {
    if (typeof hook !== 'function' && !isRunner(hook)) {
      throw new TypeError(`append: hook must be a function or hooks, but is ${String(hook)}`);
    }
    this.hooks.push(hook);
    return this;
  }

  async run(x: Tensor, context: HookContext = {}, where = 'a hook'): Promise<Tensor> {
    const all = { ...context, ...this.bound };
    for (const hook of this.hooks) {
      const result = checked(await (isRunner(hook) ? hook.run(x, all, where) : hook(x, all)), x, where);
      // a tensor that AutoencoderHooks made is freed when another hook's result replaces it
      if (isPassOwned(x) && result.storage !== x.storage) x.dispose();
      x = result;
    }
    return x;
  }

  /** Adds values to the context of every call. @throws Error for a name already bound. */
  bind(values: HookContext): this {
    for (const key of Object.keys(values)) {
      if (Object.hasOwn(this.bound, key)) throw new Error(`bind: ${key} is already bound`);
    }
    Object.assign(this.bound, values);
    return this;
  }

  /** @throws Error for a name that is not bound. */
  unbind(names: string[]): this {
    for (const name of names) {
      if (!Object.hasOwn(this.bound, name)) throw new Error(`unbind: ${name} is not bound`);
      delete this.bound[name];
    }
    return this;
  }

  isEmpty(): boolean {
    return this.hooks.length === 0;
  }

  watches(layer: number | undefined): boolean {
    return this.hooks.some((hook) => !isRunner(hook) || (hook.watches?.(layer) ?? true));
  }

  /** A copy with the same functions. */
  clone(): Hooks {
    return this.copyInto(new Hooks());
  }

  protected copyInto<T extends Hooks>(other: T): T {
    other.hooks = this.hooks.map((hook) => (isRunner(hook) ? (hook.clone?.() ?? hook) : hook));
    other.bound = { ...this.bound };
    return other;
  }

  /** @internal Becomes a copy of `other`. */
  assign(other: Hooks): void {
    other.copyInto(this);
  }

  protected get title(): string {
    return 'Hooks';
  }

  toString(indent = 0, name = this.title): string {
    const pad = ' '.repeat(indent);
    const bound = Object.keys(this.bound);
    const head = `${pad}${name}${bound.length ? ` {${bound.join(', ')}}` : ''}`;
    const inner = this.hooks.map((hook) =>
      hook instanceof Hooks || hook instanceof HookCollection
        ? hook.toString(indent + 4)
        : `${pad}    ${(hook as HookFunction).name || 'function'}`,
    );
    return [head, ...inner].join('\n');
  }
}

/** Hooks that are run only when the predicate holds. */
export class ConditionalHooks extends Hooks {
  readonly #condition: (x: Tensor, context: HookContext) => boolean | Promise<boolean>;

  constructor(condition: (x: Tensor, context: HookContext) => boolean | Promise<boolean>) {
    super();
    this.#condition = condition;
  }

  override async run(x: Tensor, context: HookContext = {}, where?: string): Promise<Tensor> {
    return (await this.#condition(x, { ...context, ...this.bound })) ? super.run(x, context, where) : x;
  }

  override clone(): Hooks {
    return this.copyInto(new ConditionalHooks(this.#condition));
  }

  protected override get title(): string {
    return 'ConditionalHooks';
  }
}

/** Hooks at some layers only. The other layers keep their fused kernels. */
export class AtLayers extends ConditionalHooks {
  readonly layers: readonly number[];

  constructor(layers: number | readonly number[]) {
    const list = typeof layers === 'number' ? [layers] : [...layers];
    for (const layer of list) checkInteger('AtLayers', 'layers', layer, 0);
    super((_, { layer }) => layer !== undefined && list.includes(layer));
    this.layers = list;
  }

  override watches(layer: number | undefined): boolean {
    return layer !== undefined && this.layers.includes(layer) && super.watches(layer);
  }

  override clone(): Hooks {
    return this.copyInto(new AtLayers(this.layers));
  }

  protected override get title(): string {
    return `AtLayers(${this.layers.join(', ')})`;
  }
}

type Node = Hooks | HookCollection;

/** A node of the tree. */
export class HookCollection {
  readonly #children = new Map<string, Node>();

  protected add<T extends Node>(name: string, child: T): T {
    this.#children.set(name, child);
    return child;
  }

  /** Appends a hook to every list below: fwd, bwd and fwd2 of each point. */
  appendAll(hook: Hook): this {
    for (const child of this.#children.values()) child instanceof Hooks ? child.append(hook) : child.appendAll(hook);
    return this;
  }

  /** Appends a hook by the original's id, as in 'resid.torso.post_mlp.fwd'. */
  appendToPath(path: string, hook: Hook): this {
    const node = this.at(path, 'appendToPath');
    if (!(node instanceof Hooks)) {
      throw new Error(`appendToPath: '${path}' must go on with ${[...node.#children.keys()].join(', ')}`);
    }
    node.append(hook);
    return this;
  }

  /** @internal The node at a dotted path. */
  at(path: string, operation = 'at'): Node {
    let node: Node = this;
    let seen = '';
    for (const part of path.split('.')) {
      const next: Node | undefined = node instanceof HookCollection ? node.#children.get(part) : undefined;
      if (!next) {
        const names =
          node instanceof HookCollection ? `one of ${[...node.#children.keys()].join(', ')}` : 'nothing more';
        throw new Error(`${operation}: '${path}': after '${seen}' must come ${names}, but comes '${part}'`);
      }
      node = next;
      seen += seen ? `.${part}` : part;
    }
    return node;
  }

  bind(values: HookContext): this {
    for (const child of this.#children.values()) child.bind(values);
    return this;
  }

  unbind(names: string[]): this {
    for (const child of this.#children.values()) child.unbind(names);
    return this;
  }

  isEmpty(): boolean {
    return [...this.#children.values()].every((child) => child.isEmpty());
  }

  /** A copy of the tree with the same functions. */
  clone(): this {
    const copy = this.bare();
    copy.assign(this);
    return copy;
  }

  /** A new one without hooks. */
  protected bare(): this {
    return new (this.constructor as new () => this)();
  }

  /** @internal */
  assign(other: HookCollection): void {
    for (const [name, child] of this.#children) {
      const from = other.#children.get(name) as Node;
      if (child instanceof Hooks) child.assign(from as Hooks);
      else child.assign(from as HookCollection);
    }
  }

  toString(indent = 0, name = this.constructor.name): string {
    const lines = [...this.#children].map(([id, child]) => child.toString(indent + 4, id));
    return [`${' '.repeat(indent)}${name}`, ...lines].join('\n');
  }
}

/** A point: forward hooks, then gradient hooks, then forward hooks that come after those. */
export class FwdBwdHooks extends HookCollection {
  readonly fwd = this.add('fwd', new Hooks());
  /** Gradient hooks; a pass without gradients does not call them. */
  readonly bwd = this.add('bwd', new Hooks());
  readonly fwd2 = this.add('fwd2', new Hooks());

  appendFwd(hook: Hook): this {
    this.fwd.append(hook);
    return this;
  }

  appendBwd(hook: Hook): this {
    this.bwd.append(hook);
    return this;
  }

  appendFwd2(hook: Hook): this {
    this.fwd2.append(hook);
    return this;
  }

  /** @internal Whether a forward pass has hooks to call here. */
  watches(layer: number | undefined): boolean {
    return this.fwd.watches(layer) || this.fwd2.watches(layer);
  }

  /** @internal */
  async run(x: Tensor, context: HookContext, where: string): Promise<Tensor> {
    return this.fwd2.run(await this.fwd.run(x, context, where), context, where);
  }
}

export class MLPHooks extends HookCollection {
  readonly preAct = this.add('pre_act', new FwdBwdHooks());
  readonly postAct = this.add('post_act', new FwdBwdHooks());
}

export class NormalizationHooks extends HookCollection {
  readonly postMeanSubtraction = this.add('post_mean_subtraction', new FwdBwdHooks());
  readonly scale = this.add('scale', new FwdBwdHooks());
  readonly postScale = this.add('post_scale', new FwdBwdHooks());
}

export class AttentionHooks extends HookCollection {
  readonly q = this.add('q', new FwdBwdHooks());
  readonly k = this.add('k', new FwdBwdHooks());
  readonly v = this.add('v', new FwdBwdHooks());
  readonly qkLogits = this.add('qk_logits', new FwdBwdHooks());
  readonly qkSoftmaxDenominator = this.add('qk_softmax_denominator', new FwdBwdHooks());
  readonly qkProbs = this.add('qk_probs', new FwdBwdHooks());
  readonly vOut = this.add('v_out', new FwdBwdHooks());
}

export class ResidualStreamTorsoHooks extends HookCollection {
  readonly lnAttn = this.add('ln_attn', new NormalizationHooks());
  readonly postLnAttn = this.add('post_ln_attn', new FwdBwdHooks());
  readonly deltaAttn = this.add('delta_attn', new FwdBwdHooks());
  readonly postAttn = this.add('post_attn', new FwdBwdHooks());
  readonly lnMlp = this.add('ln_mlp', new NormalizationHooks());
  readonly postLnMlp = this.add('post_ln_mlp', new FwdBwdHooks());
  readonly deltaMlp = this.add('delta_mlp', new FwdBwdHooks());
  readonly postMlp = this.add('post_mlp', new FwdBwdHooks());
}

export class ResidualStreamHooks extends HookCollection {
  readonly postEmb = this.add('post_emb', new FwdBwdHooks());
  readonly torso = this.add('torso', new ResidualStreamTorsoHooks());
  readonly lnF = this.add('ln_f', new NormalizationHooks());
  readonly postLnF = this.add('post_ln_f', new FwdBwdHooks());
}

/** Every hook point of a transformer. */
export class TransformerHooks extends HookCollection {
  readonly mlp = this.add('mlp', new MLPHooks());
  readonly attn = this.add('attn', new AttentionHooks());
  readonly resid = this.add('resid', new ResidualStreamHooks());
  readonly logits = this.add('logits', new FwdBwdHooks());
}

/** encode and decode each return a new tensor, which is freed when the hook ends. */
export interface AutoencoderHooksOptions {
  encode: (x: Tensor) => Tensor | Promise<Tensor>;
  /** x is the tensor that was encoded; an autoencoder that normalises its inputs needs it. */
  decode: (latents: Tensor, x: Tensor) => Tensor | Promise<Tensor>;
  /** Add the reconstruction error to the result: without edits, x then stays the same. */
  addError?: boolean;
}

// Tensors that AutoencoderHooks made and gave to the pass: nothing else owns them, so the pass frees them.
const madeHere = new WeakSet<Tensor>();

/** @internal Whether a hook's result is the pass's to free. */
export const isPassOwned = (t: Tensor): boolean => madeHere.has(t);

/**
 * A hook that passes x through an autoencoder; it has hook points for the latents, the reconstruction and the error.
 */
export class AutoencoderHooks extends HookCollection implements HookRunner {
  readonly latents = this.add('latents', new FwdBwdHooks());
  readonly reconstruction = this.add('reconstruction', new FwdBwdHooks());
  readonly error = this.add('error', new FwdBwdHooks());
  readonly #options: AutoencoderHooksOptions;

  constructor(options: AutoencoderHooksOptions) {
    super();
    this.#options = options;
  }

  watches(): boolean {
    return true;
  }

  async run(x: Tensor, context: HookContext = {}, where = 'autoencoder'): Promise<Tensor> {
    const { encode, decode, addError = false } = this.#options;
    const own = new Set<Tensor>(); // tensors that are made here and freed here, unless returned as the result
    const keep = (t: Tensor) => {
      own.add(t);
      return t;
    };
    const made = (t: Tensor, by: string, from: Tensor) => {
      if (!(t instanceof Tensor)) {
        throw new TypeError(`${where}, autoencoder: ${by} must return a tensor, but returned ${String(t)}`);
      }
      return keep(t.storage === from.storage ? t.clone() : t); // edits must not reach the tensor that it is a view of
    };
    const point = async (hooks: FwdBwdHooks, value: Tensor, id: string) => {
      const result = await hooks.run(value, context, `${where}, autoencoder ${id}`);
      return isPassOwned(result) ? keep(result) : result;
    };
    try {
      const latents = made(await encode(x), 'encode', x);
      // the error is that of the unedited latents
      const before = addError ? made(await decode(latents, x), 'decode', latents) : undefined;
      const edited = await point(this.latents, latents, 'latents');
      const decoded = made(await decode(edited, x), 'decode', edited);
      let result = checked(await point(this.reconstruction, decoded, 'reconstruction'), x, `${where}, autoencoder`);
      if (addError || this.error.watches(context.layer)) {
        const error = await point(this.error, keep(x.sub(before ?? result)), 'error');
        if (addError) result = keep(result.add(error));
      }
      // a hook's view of a tensor that is freed here is copied
      if (!own.has(result) && [...own].some(({ storage }) => storage === result.storage)) result = keep(result.clone());
      if (own.delete(result)) madeHere.add(result);
      return result;
    } finally {
      for (const t of own) t.dispose();
    }
  }

  protected override bare(): this {
    return new AutoencoderHooks(this.#options) as this;
  }
}
