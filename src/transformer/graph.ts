// The forward pass of GPT-2, from top to bottom, with a line for each hook point. A section of the pass has two
// versions: fused kernels, used when no hook or caller needs the values inside it, and open steps, used when one does.
// pass_plan.ts chooses between them.
//
// Letters: B batch, S new tokens, T all tokens, D model width, H heads, C head width, A = H C, F hidden width,
// V vocabulary.
//   tokens (B,S) -> x (B,S,D) -> per layer: ln (B,S,D) -> qkv (B,S,3A) -> attention (B,S,H,C) -> delta (B,S,D) -> x
//                                         ln (B,S,D) -> pre, post (B,S,F) -> delta (B,S,D) -> x
//   -> ln (B,S,D) -> logits (B,S,V)
import { floatDType } from '../engine/dtype.js';
import { addLayerNorm } from '../engine/ops/add_layer_norm.js';
import { attention } from '../engine/ops/attention.js';
import { embedding } from '../engine/ops/embedding.js';
import { layerNorm } from '../engine/ops/layer_norm.js';
import { linear } from '../engine/ops/linear.js';
import { maskLogits } from '../engine/ops/mask_logits.js';
import { matmul } from '../engine/ops/matmul.js';
import { rootMeanSquare } from '../engine/ops/root_mean_square.js';
import { softmax, softmaxNumerator } from '../engine/ops/softmax.js';
import { Tensor } from '../engine/ops/tensor.js';
import { gelu } from '../engine/ops/unary.js';
import { Scope } from '../engine/scope.js';
import type { PartialHookContext, TransformerHooks } from './hooks.js';
import type { KvCaches } from './kv_cache.js';
import { executionOrder, formatLocation, type Location, type Point, pointsWithKeys } from './location.js';
import type { Input } from './padding.js';
import { type Addition, type LayerPlan, type NormId, type PassPlan, placeOf, watchedPoint } from './pass_plan.js';
import { hasPadding, type Positions, positionsTensor, remembered } from './token_positions.js';
import type { TransformerConfig } from './weights/config.js';
import type { LayerWeights, Linear, Norm, Weights } from './weights/weights.js';

export interface PassOptions {
  readonly config: TransformerConfig;
  readonly weights: Weights;
  readonly plan: PassPlan;
  readonly input: Input;
  readonly hooks?: TransformerHooks;
  /** The caches to extend; without them none are made. */
  readonly caches?: KvCaches;
  /** The positions of all keys: those of the caches, then the new tokens'. */
  readonly keyPositions: Positions;
  /** Locations whose values are returned. */
  readonly wanted?: ReadonlySet<string>;
  /** Compute the logits of the last position only. */
  readonly lastOnly?: boolean;
  /** Values for the context of every hook. */
  readonly context?: PartialHookContext;
}

const eps = 1e-5;

/** The residual stream (B,S,D). A delta is not added yet: the layer norm that comes next adds it. */
interface Stream {
  readonly x: Tensor;
  readonly delta?: Tensor;
}

/** Thrown when the last wanted value is computed: the rest of the pass is not needed. */
const enough = Symbol('enough');

/** A part of a pass. It yields what each hook point gives, and takes its value: what hooks give has to be waited for. */
type Steps<T> = Generator<Tensor | Promise<Tensor>, T, Tensor>;

interface Results {
  /** The logits, unless the pass stopped before. */
  readonly logits?: Tensor;
  /** The wanted values. */
  readonly values: Map<string, Tensor>;
}

/** Runs a pass. The caller frees what it returns. */
export async function runPass(options: PassOptions): Promise<Results> {
  const steps = stepsOf(options);
  let step = steps.next();
  while (!step.done) {
    if (!(step.value instanceof Promise)) {
      step = steps.next(step.value);
      continue;
    }
    let value: Tensor;
    try {
      value = await step.value;
    } catch (error) {
      step = steps.throw(error);
      continue;
    }
    step = steps.next(value);
  }
  return step.value;
}

/** Runs a pass without hooks or wanted values at once, and returns its logits. The caller frees them. */
export function runPlainPass(options: Omit<PassOptions, 'hooks' | 'wanted'>): Tensor {
  const steps = stepsOf(options);
  let step = steps.next();
  while (!step.done) step = steps.next(step.value as Tensor);
  return step.value.logits as Tensor;
}

function* stepsOf(options: PassOptions): Steps<Results> {
  const pass = new Pass(options);
  try {
    const logits = yield* pass.run();
    return { logits: pass.handOut(logits), values: pass.values };
  } catch (error) {
    if (error === enough) return { values: pass.values };
    for (const value of pass.values.values()) value.dispose();
    throw error;
  } finally {
    pass.scope.end();
    options.input.tokens.device.section('');
  }
}

class Pass {
  readonly scope = new Scope();
  readonly values = new Map<string, Tensor>();
  readonly #options: PassOptions;
  readonly #end: number;
  #pad: Tensor | undefined; // bool [B, T]; undefined without padding
  #contexts: { queries?: PartialHookContext; keys?: PartialHookContext } = {};

  constructor(options: PassOptions) {
    this.#options = options;
    const { last } = options.plan;
    this.#end = last ? executionOrder(last) : Number.POSITIVE_INFINITY;
  }

  *run(): Steps<Tensor> {
    const { input, weights, plan, lastOnly } = this.#options;
    const s = this.scope;
    s.add(input.tokens);
    s.add(input.positions);
    this.#pad = this.#paddingOfAll();
    const { device } = input.tokens;
    device.section('embedding');
    let x = s.add(embedding(input.tokens, weights.tokEmbed)); // B S D
    embedding(input.positions, weights.posEmbed, { addTo: x });
    x = yield this.#point('resid.post_emb', x);
    let stream: Stream = { x };
    for (const [layer, w] of weights.layers.entries()) {
      device.section(`layer ${layer}`);
      stream = yield* this.#layer(layer, w, plan.layers[layer] as LayerPlan, stream);
    }
    device.section('end');
    if (lastOnly) stream = this.#lastPosition(stream, input.seq);
    const end = yield* this.#norm('resid.ln_f', undefined, plan.lnF, weights.lnF, stream);
    s.free(end.x);
    const normed = yield this.#point('resid.post_ln_f', end.normed);
    const logits = this.#replace(normed, linear(normed, weights.unembed)); // B S V
    return yield this.#point('logits', logits);
  }

  *#layer(layer: number, w: LayerWeights, plan: LayerPlan, stream: Stream): Steps<Stream> {
    let { x, normed } = yield* this.#norm('resid.torso.ln_attn', layer, plan.lnAttn, w.ln1, stream); // B S D
    normed = yield this.#point('resid.torso.post_ln_attn', normed, layer);
    const mixed = yield* this.#attention(layer, w, plan, normed); // B S H C
    stream = yield* this.#add('attn', layer, plan.addAttn, x, mixed, w.out);

    ({ x, normed } = yield* this.#norm('resid.torso.ln_mlp', layer, plan.lnMlp, w.ln2, stream)); // B S D
    normed = yield this.#point('resid.torso.post_ln_mlp', normed, layer);
    let hidden: Tensor; // B S F
    if (plan.gelu === 'fused') {
      hidden = this.#replace(normed, linear(normed, w.mlpIn.w, { bias: w.mlpIn.bias, activation: 'gelu' }));
    } else {
      hidden = this.#replace(normed, linear(normed, w.mlpIn.w, { bias: w.mlpIn.bias }));
      hidden = yield this.#point('mlp.pre_act', hidden, layer);
      hidden = this.#replace(hidden, gelu(hidden));
    }
    hidden = yield this.#point('mlp.post_act', hidden, layer, { outLayer: w.mlpOut.w });
    return yield* this.#add('mlp', layer, plan.addMlp, x, hidden, w.mlpOut);
  }

  /** The end of a sublayer: the stream x plus the update, which is a product of `input`. Frees both. */
  *#add(
    sublayer: 'attn' | 'mlp',
    layer: number,
    addition: Addition,
    x: Tensor,
    input: Tensor,
    { w, bias }: Linear,
  ): Steps<Stream> {
    const s = this.scope;
    const rows = s.add(input.reshape(...x.shape.slice(0, 2), w.k)); // heads side by side
    if (addition === 'product') {
      x = this.#replace(x, linear(rows, w, { bias, residual: x })); // B S D
      s.free(rows, input);
    } else {
      let delta = s.add(linear(rows, w, { bias })); // B S D
      s.free(rows, input);
      delta = yield this.#point(`resid.torso.delta_${sublayer}`, delta, layer);
      if (addition === 'norm') return { x, delta };
      x = this.#replace(x, x.add(delta));
      s.free(delta);
    }
    return { x: yield this.#point(`resid.torso.post_${sublayer}`, x, layer) };
  }

  /** Only the last position of the stream: (B,1,D). */
  #lastPosition({ x, delta }: Stream, seq: number): Stream {
    const last = (t: Tensor) => this.#replace(t, t.slice(1, seq - 1).clone());
    return delta ? { x: last(x), delta: last(delta) } : { x: last(x) };
  }

  /** The stream, complete, and its layer norm. The open steps compute in float32 throughout, as in the original. */
  *#norm(
    prefix: NormId,
    layer: number | undefined,
    kernel: 'fused' | 'open',
    { gain, bias }: Norm,
    { x, delta }: Stream,
  ): Steps<{ x: Tensor; normed: Tensor }> {
    const s = this.scope;
    if (delta) {
      const { sum, out } = addLayerNorm(x, delta, gain, bias, { eps });
      s.free(x, delta);
      return { x: s.add(sum), normed: s.add(out) };
    }
    if (kernel === 'fused') return { x, normed: s.add(layerNorm(x, gain, bias, { eps })) };
    const wide = s.add(x.to('float32'));
    const mean = s.add(wide.mean(-1, { keepDim: true })); // B S 1
    let centred = this.#replace(wide, wide.sub(mean));
    s.free(mean);
    centred = yield this.#point(`${prefix}.post_mean_subtraction`, centred, layer);
    let scale = s.add(rootMeanSquare(centred, { eps })); // B S 1
    scale = yield this.#point(`${prefix}.scale`, scale, layer);
    let scaled = this.#replace(centred, centred.div(scale));
    s.free(scale);
    scaled = yield this.#point(`${prefix}.post_scale`, scaled, layer);
    const gained = this.#replace(scaled, scaled.mul(gain));
    const out = this.#replace(gained, gained.add(bias));
    return { x, normed: x.dtype === 'float32' ? out : this.#replace(out, out.to(x.dtype)) };
  }

  /** (B,S,D) -> (B,S,H,C): queries, keys, values, and their mix before the output projection. Frees x. */
  *#attention(layer: number, w: LayerWeights, plan: LayerPlan, x: Tensor): Steps<Tensor> {
    const s = this.scope;
    const { caches, config } = this.#options;
    const qkv = this.#replace(x, linear(x, w.qkv.w, { bias: w.qkv.bias })); // B S 3A
    const A = (qkv.shape[2] as number) / 3;
    const part = (i: number) => qkv.slice(2, i * A, (i + 1) * A);
    const { k, v } = caches ? caches.extend(layer, part(1), part(2)) : { k: part(1), v: part(2) }; // B T A
    let [q4, k4, v4] = [part(0), k, v].map((t) => splitHeads(t, config.nHeads)) as [Tensor, Tensor, Tensor];
    const C = q4.shape[3] as number;
    if (plan.attention === 'fused') {
      const mixed = yield* this.#fusedAttention(layer, plan, q4, k4, v4, 1 / Math.sqrt(C));
      s.free(qkv);
      return yield this.#point('attn.v_out', mixed, layer);
    }
    // copies, so that a hook's changes do not reach the cache
    const scale = C ** -0.25; // for queries and keys alike, as in the original
    q4 = yield this.#point('attn.q', s.add(q4.mul(scale)), layer); // B S H C
    k4 = yield this.#point('attn.k', s.add(k4.mul(scale)), layer); // B T H C
    v4 = yield this.#point('attn.v', s.add(v4.clone()), layer); // B T H C
    s.free(qkv);
    const mixed =
      plan.attention === 'split'
        ? yield* this.#fusedAttention(layer, plan, q4, k4, v4, 1)
        : yield* this.#openAttention(layer, plan, q4, k4, v4);
    s.free(q4, k4, v4);
    return yield this.#point('attn.v_out', mixed, layer);
  }

  /** The mix in one kernel, with the probabilities if they are wanted: in memory they are (B,H,S,T). */
  *#fusedAttention(layer: number, plan: LayerPlan, q: Tensor, k: Tensor, v: Tensor, scale: number): Steps<Tensor> {
    const s = this.scope;
    const [B, S, H] = q.shape as [number, number, number];
    const T = k.shape[1] as number;
    const probs = plan.probs ? s.add(permuted(q.make([B, H, S, T]), [0, 2, 3, 1])) : undefined; // B S T H
    const pad = this.#pad ? { pad: this.#pad } : {};
    const mixed = s.add(attention(q, k, v, { ...pad, scale, ...(probs ? { probs } : {}) }));
    if (probs) s.free(yield this.#point('attn.qk_probs', probs, layer));
    return mixed;
  }

  /** Logits, softmax and mix as separate steps. Hooks see (B,S,T,H), as in the original; in memory it is (B,H,S,T). */
  *#openAttention(layer: number, plan: LayerPlan, q: Tensor, k: Tensor, v: Tensor): Steps<Tensor> {
    const s = this.scope;
    const product = matmul(q.permute([0, 2, 1, 3]), k.permute([0, 2, 3, 1])); // B H S T
    maskLogits(product, this.#pad ? { pad: this.#pad } : {});
    let logits = s.add(permuted(product, [0, 2, 3, 1])); // B S T H
    logits = yield this.#point('attn.qk_logits', logits, layer);
    if (logits.dtype !== 'float32') logits = this.#replace(logits, logits.to('float32'));
    let probs: Tensor; // B S T H
    if (plan.softmax === 'fused') {
      probs = this.#replace(logits, softmax(logits, 2));
    } else {
      const numerator = this.#replace(logits, softmaxNumerator(logits, 2));
      let denominator = s.add(numerator.sum(2, { keepDim: true })); // B S 1 H
      denominator = yield this.#point('attn.qk_softmax_denominator', denominator, layer);
      probs = this.#replace(numerator, numerator.div(denominator));
      s.free(denominator);
    }
    if (probs.dtype !== floatDType(q.dtype)) probs = this.#replace(probs, probs.to(q.dtype));
    probs = yield this.#point('attn.qk_probs', probs, layer);
    const mixed = this.#replace(probs, matmul(probs.permute([0, 3, 1, 2]), v.permute([0, 2, 1, 3]))); // B H S C
    return this.#replace(mixed, mixed.permute([0, 2, 1, 3]).clone()); // B S H C
  }

  /** A hook point: runs its hooks, keeps the value if it is wanted, and ends the pass after the last wanted one. */
  #point(point: Point, x: Tensor, layer?: number, extra?: PartialHookContext): Tensor | Promise<Tensor> {
    const { hooks, wanted } = this.#options;
    return hooks || wanted ? this.#watchedPoint(point, x, layer, extra) : x;
  }

  async #watchedPoint(
    point: Point,
    x: Tensor,
    layer: number | undefined,
    extra: PartialHookContext | undefined,
  ): Promise<Tensor> {
    const { hooks, wanted } = this.#options;
    const location: Location = layer === undefined ? { point } : { point, layer };
    const watched = watchedPoint(hooks, point, layer);
    if (watched) {
      const context = { point, ...(layer === undefined ? {} : { layer }), ...extra, ...this.#contextOf(point) };
      const result = await watched.run(x, context, placeOf(point, layer));
      // the hooks leave x, a view of x, or a tensor that is the pass's to free
      x = result.storage === x.storage ? result : this.#replace(x, result);
    }
    if (wanted) {
      const name = formatLocation(location);
      if (wanted.has(name)) this.values.set(name, this.handOut(x));
      if (executionOrder(location) >= this.#end) throw enough;
    }
    return x;
  }

  /** A value as a tensor of the caller's: a view stays behind, and a copy of it goes. */
  handOut(x: Tensor): Tensor {
    return this.scope.has(x) ? this.scope.keep(x) : x.clone();
  }

  /** Frees `old` (if it is the pass's) and adds `next` to the scope. */
  #replace(old: Tensor, next: Tensor): Tensor {
    this.scope.free(old);
    return this.scope.add(next);
  }

  #paddingOfAll(): Tensor | undefined {
    const keys = this.#options.keyPositions;
    if (!hasPadding(keys)) return undefined;
    const length = keys[0]?.length ?? 0;
    const pad = new Uint8Array(keys.length * length);
    for (const [row, of] of keys.entries())
      for (let i = 0; i < length; i++) pad[row * length + i] = of[i] === -1 ? 1 : 0;
    return this.scope.add(
      Tensor.from(pad, { shape: [keys.length, length], device: this.#options.input.tokens.device }),
    );
  }

  /** What hooks learn about the pass: made when the first hook is called, and held until the pass ends. */
  #contextOf(point: Point): PartialHookContext {
    const made = this.#contexts;
    made.queries ??= { ...this.#options.context, positions: this.#positionsOfTokens() };
    if (!pointsWithKeys.has(point)) return made.queries;
    made.keys ??= { ...made.queries, keyPositions: this.#positionsOfKeys(made.queries.positions as Tensor) };
    return made.keys;
  }

  #positionsOfTokens(): Tensor {
    const { positions, tokenPositions, tokens } = this.#options.input;
    if (!hasPadding(tokenPositions)) return remembered(positions, tokenPositions);
    return this.scope.add(positionsTensor(tokenPositions, tokens.device));
  }

  #positionsOfKeys(ofTokens: Tensor): Tensor {
    const { caches, keyPositions, input } = this.#options;
    if (!caches?.length) return ofTokens;
    return this.scope.add(positionsTensor(keyPositions, input.tokens.device));
  }
}

/** (B,S,A) as (B,S,H,C), a view. */
function splitHeads(t: Tensor, heads: number): Tensor {
  const [B, S, A] = t.shape as [number, number, number];
  const [batch, row, element] = t.strides as [number, number, number];
  const C = A / heads;
  return t.window([B, S, heads, C], [batch, row, C * element, element]);
}

/** The same memory with its dimensions in another order; the result owns it instead of t. */
function permuted(t: Tensor, order: number[]): Tensor {
  return t.transferTo(
    order.map((d) => t.shape[d] as number),
    order.map((d) => t.strides[d] as number),
  );
}
