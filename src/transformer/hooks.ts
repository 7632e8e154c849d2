// Hooks: functions that see, and may replace, a value inside a pass; and the tree of hook points, as in the original.
// The fields of the collections are the list of points. Property names are camelCase, ids the original's snake_case.
import { inspect } from 'node:util';
import { checkBoolean, checkInteger, checkOperands, checkOptions, describe, wrong } from '../engine/check.js';
import type { PackedMatrix } from '../engine/ops/pack_weights.js';
import { Tensor } from '../engine/ops/tensor.js';
import { addGradientHook, currentRecord } from '../engine/record.js';
import { showShape } from '../engine/shape.js';
import { type Chain, calling, chainOf, extended, inChain, inNewChain, placed } from './hook_chain.js';

/** The values that a hook receives besides x; bound values are added. */
export interface HookContext {
  /** The hook point, as in 'resid.torso.post_mlp'. */
  point?: string;
  /** The layer, at points inside one. */
  layer?: number;
  /** At mlp.post_act: the weights that come next. */
  outLayer?: PackedMatrix;
  /**
   * int32 [batch, seq]: the positions of the pass's tokens, -1 for padding; at the logits, those of `logitsAt`. A token's
   * position is the number of its row's tokens before it, in the caches too, padding left out. Valid until the pass
   * ends, and not to be changed.
   */
  positions: Tensor;
  /** At the points of attn that have keys (k, v, qk_logits, qk_probs): int32 [batch, keys], the same of all keys. */
  keyPositions?: Tensor;
  /** In sample(): how many tokens were added before this pass; 0 in the pass of the prompts. */
  step?: number;
  /** Inside atPositions: the rows of the batch that x holds. */
  rows?: readonly number[];
  [bound: string]: unknown;
}

/**
 * x is valid until the hook ends; to keep it, clone it. It may be changed in place; a returned tensor of the same
 * shape, dtype and device replaces it. That tensor stays the hook's: it is copied, and neither changed nor freed.
 *
 * What a hook throws fails the pass with an Error that names the hook point and the layer; its `cause` is what was
 * thrown.
 */
export type HookFunction = (x: Tensor, context: HookContext) => HookResult | Promise<HookResult>;
// biome-ignore lint/suspicious/noConfusingVoidType: a function without a return statement is of type void
export type HookResult = Tensor | undefined | void;

/** A context as far as it is known: hooks that are run outside of a pass receive what the caller of run() gives. */
export type PartialHookContext = Partial<HookContext>;

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
function checked(result: HookResult, x: Tensor, where: string, chain: Chain): Tensor {
  const unfit = (what: string) => placed(new TypeError(`${where}: a hook must return ${what}`), chain);
  if (result === undefined || result === x) {
    if (x.ended) throw unfit(`another tensor where x may not be used any more: ${x.ended}`);
    return x;
  }
  if (!(result instanceof Tensor)) throw unfit(`a tensor or nothing, but returned ${describe(result)}`);
  if (result.ended) throw unfit(`a tensor that may still be used, but returned one of which: ${result.ended}`);
  if (showShape(result.shape) !== showShape(x.shape)) {
    throw unfit(`a tensor of shape ${showShape(x.shape)}, but returned ${showShape(result.shape)}`);
  }
  if (result.dtype !== x.dtype) throw unfit(`a tensor of ${x.dtype}, but returned ${result.dtype}`);
  if (result.device !== x.device) throw unfit(`a tensor on ${x.device}, but returned one on ${result.device}`);
  return result;
}

/** A hook in a list. */
interface Entry {
  readonly hook: Hook;
  /** What was appended: the hook itself, or the one that it is a clone of. */
  readonly origin: Hook;
}

/** A sequence of hooks, each of which receives the value that the one before it left. It is a hook itself. */
export class Hooks implements HookRunner {
  protected entries: Entry[] = [];
  protected bound: PartialHookContext = {};

  append(hook: Hook): this {
    return this.appendAs('append', hook);
  }

  /** @internal append() on behalf of another operation. */
  appendAs(operation: string, hook: Hook): this {
    checkHook(operation, hook, [this]);
    this.entries.push({ hook, origin: hook });
    return this;
  }

  /**
   * Runs the hooks outside of a pass. The result is x, a view of x, or a new tensor, which is the caller's to free.
   * Within a hook that passes its context on, it is the pass's.
   */
  async run(x: Tensor, context: PartialHookContext = {}, where?: string): Promise<Tensor> {
    const place = checkedPlace('Hooks.run', x, context, where);
    return inChain(x, context, place, (inner, chain) => this.#run(x, inner, chain, place));
  }

  async #run(x: Tensor, context: PartialHookContext, chain: Chain, where: string): Promise<Tensor> {
    const all = extended(context, this.bound) as HookContext;
    for (const { hook } of this.entries) {
      const given = x;
      const result = await calling(chain, where, 'a hook', () =>
        isRunner(hook) ? hook.run(given, all, where) : hook(given, all),
      );
      const next = checked(result, x, where, chain);
      if (next.storage === x.storage) {
        x = next;
        continue;
      }
      const isMadeHere = isRunner(hook) && chain.scope.has(next);
      x = isMadeHere ? next : chain.scope.add(next.clone()); // a tensor of the user may be changed later, by anyone
      chain.scope.free(given);
    }
    return x;
  }

  /**
   * @internal Calls the hooks with the gradient of x, where x is recorded, when a backward pass comes by. Each hook wraps
   * the value in turn, as in the original: the last one sees the gradient first.
   */
  attachTo(x: Tensor, context: PartialHookContext, where: string): void {
    const place = `${where}, gradient`;
    for (const entry of this.entries) {
      const alone = new Hooks();
      alone.entries = [entry];
      alone.bound = { ...this.bound };
      if (!alone.watches(context.layer)) continue;
      // a context of its own, as the chain of the forward hooks will have ended
      addGradientHook(x, (gradient) => alone.run(gradient, { ...context }, place));
    }
  }

  /** Adds values to the context of every call. @throws Error for a name already bound, or one that the pass gives. */
  bind(values: PartialHookContext): this {
    this.checkBind(values);
    Object.assign(this.bound, values);
    return this;
  }

  /** @internal */
  checkBind(values: PartialHookContext): void {
    if (typeof values !== 'object' || values === null || Array.isArray(values)) {
      throw new TypeError(wrong('bind', 'values', 'an object of names and values', describe(values)));
    }
    for (const key of Object.keys(values)) {
      if (Object.hasOwn(this.bound, key)) throw new Error(`bind: ${key} is already bound`);
      if (givenByPass.includes(key)) throw new Error(`bind: ${key} is what the pass gives, and cannot be bound`);
    }
  }

  /** @throws Error for a name that is not bound. */
  unbind(names: string[]): this {
    this.checkUnbind(names);
    for (const name of names) delete this.bound[name];
    return this;
  }

  /** @internal */
  checkUnbind(names: string[]): void {
    if (!Array.isArray(names)) throw new TypeError(wrong('unbind', 'names', 'an array of names', describe(names)));
    for (const [i, name] of names.entries()) {
      if (typeof name !== 'string') throw new TypeError(wrong('unbind', `names[${i}]`, 'a name', describe(name)));
      if (!Object.hasOwn(this.bound, name)) throw new Error(`unbind: ${name} is not bound`);
    }
  }

  isEmpty(): boolean {
    return this.entries.length === 0;
  }

  watches(layer: number | undefined): boolean {
    return this.entries.some(({ hook }) => !isRunner(hook) || (hook.watches?.(layer) ?? true));
  }

  /** A copy with the same functions. */
  clone(): Hooks {
    return this.copyInto(new Hooks());
  }

  protected copyInto<T extends Hooks>(other: T): T {
    other.entries = this.entries.map(({ hook, origin }) => ({ hook: cloned(hook), origin }));
    other.bound = { ...this.bound };
    return other;
  }

  /** @internal Becomes a copy of `other`. */
  assign(other: Hooks): void {
    other.copyInto(this);
  }

  /** @internal What was appended, in order. */
  get inner(): readonly Entry[] {
    return this.entries;
  }

  /** @internal */
  get title(): string {
    return 'Hooks';
  }

  /** @internal The lines of toString(). */
  lines(indent: number, name = this.title): string[] {
    const pad = ' '.repeat(indent);
    const bound = Object.keys(this.bound);
    const inner = this.entries.flatMap(({ hook }) =>
      hook instanceof Hooks || hook instanceof HookCollection
        ? hook.lines(indent + 4)
        : [`${pad}    ${isRunner(hook) ? 'hook runner' : hook.name || 'function'}`],
    );
    return [`${pad}${name}${bound.length ? ` {${bound.join(', ')}}` : ''}`, ...inner];
  }

  toString(): string {
    return this.lines(0).join('\n');
  }

  /** @internal What console.log shows: the tree, unless it is too deep in other objects. */
  [inspect.custom](depth: number): string {
    return depth < 0 ? `[${this.title}]` : this.toString();
  }
}

/** @throws TypeError for what is no hook; Error for hooks that contain one of the lists that they are appended to. */
function checkHook(operation: string, hook: Hook, lists: readonly Hooks[]): void {
  if (typeof hook !== 'function' && !isRunner(hook)) {
    const actual = typeof hook === 'string' ? hook : describe(hook);
    throw new TypeError(wrong(operation, 'hook', 'a function or hooks', actual));
  }
  if (listsIn(hook).some((list) => lists.includes(list))) {
    throw new Error(`${operation}: hook must not contain the list that it is appended to`);
  }
}

/** What a pass puts into the context itself. */
const givenByPass = ['point', 'layer', 'outLayer', 'positions', 'keyPositions', 'step', 'rows'];

/** @throws TypeError for a result of clone() that is no hook. */
function cloned(hook: Hook): Hook {
  if (!isRunner(hook) || hook.clone === undefined) return hook;
  const copy = hook.clone();
  if (isRunner(copy)) return copy;
  throw new TypeError(`clone: clone() of a hook must return hooks, but returned ${describe(copy)}`);
}

/** Every list of hooks within a hook, itself included. */
function listsIn(hook: Hook | Node): Hooks[] {
  if (hook instanceof Hooks) return [hook, ...hook.inner.flatMap((entry) => listsIn(entry.hook))];
  return hook instanceof HookCollection ? [...hook.children].flatMap(([, child]) => listsIn(child)) : [];
}

/** @internal Checks what run() is called with. Gives the place that errors name: that of the chain, where none is given. */
export function checkedPlace(
  operation: string,
  x: Tensor,
  context: PartialHookContext,
  where: string | undefined,
): string {
  checkOperands(operation, { x });
  if (typeof context !== 'object' || context === null || Array.isArray(context)) {
    throw new TypeError(wrong(operation, 'context', 'an object', describe(context)));
  }
  if (where === undefined) return chainOf(context)?.where ?? operation;
  if (typeof where === 'string') return where;
  throw new TypeError(wrong(operation, 'where', 'a text', describe(where)));
}

/** Hooks that are run only when the predicate holds. */
export class ConditionalHooks extends Hooks {
  readonly #condition: (x: Tensor, context: HookContext) => boolean | Promise<boolean>;

  constructor(condition: (x: Tensor, context: HookContext) => boolean | Promise<boolean>) {
    super();
    if (typeof condition !== 'function') {
      throw new TypeError(wrong('ConditionalHooks', 'condition', 'a function', describe(condition)));
    }
    this.#condition = condition;
  }

  override async run(x: Tensor, context: PartialHookContext = {}, where?: string): Promise<Tensor> {
    const place = checkedPlace('ConditionalHooks.run', x, context, where);
    const holds = await calling(chainOf(context), place, 'a condition', () =>
      this.#condition(x, extended(context, this.bound) as HookContext),
    );
    return holds ? super.run(x, context, place) : x;
  }

  override clone(): Hooks {
    return this.copyInto(new ConditionalHooks(this.#condition));
  }

  /** @internal */
  override get title(): string {
    return 'ConditionalHooks';
  }
}

/**
 * Hooks at some layers only. The other layers keep their fused kernels. A pass of a model that lacks one of the layers
 * fails before it begins.
 */
export class AtLayers extends ConditionalHooks {
  readonly layers: readonly number[];

  /** @throws RangeError for what is no layer, and for an empty list, at which hooks could never run. */
  constructor(layers: number | readonly number[]) {
    const list = listOfLayers(layers);
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

  /** @internal */
  override get title(): string {
    return `AtLayers(${this.layers.join(', ')})`;
  }
}

function listOfLayers(layers: number | Iterable<number>): number[] {
  if (typeof layers !== 'object') return [layers];
  if (typeof layers?.[Symbol.iterator] !== 'function') {
    throw new TypeError(wrong('AtLayers', 'layers', 'a layer or an array of layers', describe(layers)));
  }
  const list = [...layers];
  if (list.length > 0) return list;
  throw new RangeError(wrong('AtLayers', 'layers', 'at least one layer', 'an empty list'));
}

type Node = Hooks | HookCollection;

/** A node of the tree. */
export class HookCollection {
  readonly #children = new Map<string, Node>();
  /** What at() has found: a pass asks for every point in every layer. */
  readonly #found = new Map<string, Node>();

  /** @internal The nodes below, by the last part of their ids. */
  get children(): ReadonlyMap<string, Node> {
    return this.#children;
  }

  protected add<T extends Node>(name: string, child: T): T {
    this.#children.set(name, child);
    return child;
  }

  /** Appends a hook to every list below: fwd, bwd and fwd2 of each point. AtLayers run at the points that have layers. */
  appendAll(hook: Hook): this {
    checkHook('appendAll', hook, this.#lists);
    for (const list of this.#lists) list.appendAs('appendAll', hook);
    return this;
  }

  get #lists(): Hooks[] {
    return [...this.#children.values()].flatMap((child) => (child instanceof Hooks ? [child] : child.#lists));
  }

  /** Appends a hook by the original's id, as in 'resid.torso.post_mlp.fwd'. */
  appendToPath(path: string, hook: Hook): this {
    const node = this.at(path, 'appendToPath');
    if (!(node instanceof Hooks)) {
      throw new Error(`appendToPath: '${path}' must go on with ${[...node.#children.keys()].join(', ')}`);
    }
    node.appendAs('appendToPath', hook);
    return this;
  }

  /** @internal The node at a dotted path. */
  at(path: string, operation = 'at'): Node {
    if (typeof path !== 'string') {
      throw new TypeError(wrong(operation, 'path', "an id such as 'mlp.post_act.fwd'", describe(path)));
    }
    const known = this.#found.get(path);
    if (known) return known;
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
    this.#found.set(path, node);
    return node;
  }

  /** Adds values to the context of every call below. @throws Error for a name already bound somewhere below. */
  bind(values: PartialHookContext): this {
    for (const list of this.#lists) list.checkBind(values); // all or nothing
    for (const list of this.#lists) list.bind(values);
    return this;
  }

  /** @throws Error for a name that is not bound everywhere below. */
  unbind(names: string[]): this {
    for (const list of this.#lists) list.checkUnbind(names);
    for (const list of this.#lists) list.unbind(names);
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

  /** @internal The lines of toString(). */
  lines(indent: number, name = this.constructor.name): string[] {
    return [
      `${' '.repeat(indent)}${name}`,
      ...[...this.#children].flatMap(([id, child]) => child.lines(indent + 4, id)),
    ];
  }

  toString(): string {
    return this.lines(0).join('\n');
  }

  /** @internal What console.log shows: the tree, unless it is too deep in other objects. */
  [inspect.custom](depth: number): string {
    return depth < 0 ? `[${this.constructor.name}]` : this.toString();
  }
}

/** A point: forward hooks, then gradient hooks, then forward hooks that come after those. */
export class FwdBwdHooks extends HookCollection {
  readonly fwd = this.add('fwd', new Hooks());
  /**
   * Gradient hooks: a backward pass calls them with the gradient of the value that the hooks of `fwd` left, float32 and of
   * its shape, the last one first. A pass without `grad` does not call them.
   */
  readonly bwd = this.add('bwd', new Hooks());
  readonly fwd2 = this.add('fwd2', new Hooks());

  appendFwd(hook: Hook): this {
    this.fwd.appendAs('appendFwd', hook);
    return this;
  }

  appendBwd(hook: Hook): this {
    this.bwd.appendAs('appendBwd', hook);
    return this;
  }

  appendFwd2(hook: Hook): this {
    this.fwd2.appendAs('appendFwd2', hook);
    return this;
  }

  /** @internal Whether a forward pass has hooks to call here. */
  watches(layer: number | undefined): boolean {
    return this.fwd.watches(layer) || this.fwd2.watches(layer);
  }

  /** @internal */
  async run(x: Tensor, context: PartialHookContext, where: string): Promise<Tensor> {
    return inChain(x, context, where, async (inner) => {
      if (this.bwd.watches(context.layer)) currentRecord()?.watch(x);
      const value = await this.fwd.run(x, inner, where);
      this.bwd.attachTo(value, inner, where);
      return this.fwd2.run(value, inner, where);
    });
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
  /**
   * float32 [batch, seq, head, model width]: what each head adds to the residual stream. Their sum and the projection's
   * bias are delta_attn. They are computed only where something is here.
   */
  readonly headOut = this.add('head_out', new FwdBwdHooks());
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

const autoencoderHooksOptions = { encode: true, decode: true, addError: true } as const;

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
    checkOptions('AutoencoderHooks', options, autoencoderHooksOptions);
    for (const name of ['encode', 'decode'] as const) {
      if (typeof options[name] === 'function') continue;
      throw new TypeError(wrong('AutoencoderHooks', name, 'a function', describe(options[name])));
    }
    const { encode, decode, addError = false } = options;
    checkBoolean('AutoencoderHooks', 'addError', addError);
    this.#options = { encode, decode, addError };
  }

  watches(): boolean {
    return true;
  }

  /** Does what Hooks.run does, and the result is a new tensor in any case. */
  async run(x: Tensor, context: PartialHookContext = {}, where?: string): Promise<Tensor> {
    const place = checkedPlace('AutoencoderHooks.run', x, context, where);
    return inNewChain(x, context, place, (inner, chain) => this.#run(x, inner, chain, `${place}, autoencoder`));
  }

  async #run(x: Tensor, context: PartialHookContext, chain: Chain, where: string): Promise<Tensor> {
    const { encode, decode, addError } = this.#options;
    const { scope } = chain;
    const memories = new Set([x.storage.memory]);
    const made = async (by: string, call: () => Tensor | Promise<Tensor>) => {
      const t = await calling(chain, where, by, call);
      const must = (what: string) => placed(new TypeError(`${where}: ${by} must return a tensor${what}`), chain);
      if (!(t instanceof Tensor)) throw must(`, but returned ${describe(t)}`);
      if (t.ended) throw must(` that may still be used, but returned one of which: ${t.ended}`);
      // edits must not reach the tensor that it is a view of
      const own = scope.add(memories.has(t.storage.memory) ? t.clone() : t);
      memories.add(own.storage.memory);
      return own;
    };
    const point = (hooks: FwdBwdHooks, value: Tensor, id: string) => hooks.run(value, context, `${where} ${id}`);
    const latents = await made('encode', () => encode(x));
    // the error is that of the unedited latents
    const before = addError ? await made('decode', () => decode(latents, x)) : undefined;
    const edited = await point(this.latents, latents, 'latents');
    const decoded = await made('decode', () => decode(edited, x));
    const result = checked(await point(this.reconstruction, decoded, 'reconstruction'), x, where, chain);
    if (!addError && !this.error.watches(context.layer)) return result;
    const error = await point(this.error, scope.add(x.sub(before ?? result)), 'error');
    return addError ? scope.add(result.add(error)) : result;
  }

  protected override bare(): this {
    return new AutoencoderHooks(this.#options) as this;
  }
}
