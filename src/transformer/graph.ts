// The forward pass of GPT-2, from top to bottom, with a line for each hook point. A section of the pass has two
// versions: fused kernels, used when no hook or caller needs the values inside it, and open steps, used when one does.
// pass_plan.ts chooses between them. Where gradients are wanted inside a section that runs fused, backward goes through
// its open steps.
//
// Letters: B batch, S new tokens, T all tokens, D model width, H heads, C head width, A = H C, F hidden width,
// V vocabulary.
//   tokens (B,S) -> x (B,S,D) -> per layer: ln (B,S,D) -> qkv (B,S,3A) -> attention (B,S,H,C) -> delta (B,S,D) -> x
//                                         ln (B,S,D) -> pre, post (B,S,F) -> delta (B,S,D) -> x
//   -> ln (B,S,D) -> logits (B,S,V)
import { floatDType } from '../engine/dtype.js';
import { addLayerNorm } from '../engine/ops/add_layer_norm.js';
import { attention } from '../engine/ops/attention.js';
import { cat } from '../engine/ops/cat.js';
import { embedding } from '../engine/ops/embedding.js';
import { indexSelect } from '../engine/ops/index_select.js';
import { layerNorm } from '../engine/ops/layer_norm.js';
import { type LinearOptions, linear } from '../engine/ops/linear.js';
import { maskLogits } from '../engine/ops/mask_logits.js';
import { matmul } from '../engine/ops/matmul.js';
import type { PackedMatrix } from '../engine/ops/pack_weights.js';
import { type Planes, planesFor } from '../engine/ops/planes.js';
import { rootMeanSquare } from '../engine/ops/root_mean_square.js';
import { softmax, softmaxNumerator } from '../engine/ops/softmax.js';
import { Tensor } from '../engine/ops/tensor.js';
import { gelu } from '../engine/ops/unary.js';
import { type GradientRecord, hasHistory, recordingIn, recordReplay } from '../engine/record.js';
import { Scope } from '../engine/scope.js';
import type { PartialHookContext, TransformerHooks } from './hooks.js';
import type { KvCaches } from './kv_cache.js';
import { executionOrder, formatLocation, type Location, type Point, pointsWithKeys } from './location.js';
import type { Input } from './padding.js';
import { gradientPoint, type LayerPlan, type NormId, type PassPlan, placeOf, watchedPoint } from './pass_plan.js';
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
  /** Values for the context of every hook. */
  readonly context?: PartialHookContext;
  /** Where operations are recorded for gradients; the pass must run in it (recordingIn). */
  readonly record?: GradientRecord;
}

const eps = 1e-5;

interface Place {
  readonly point: Point;
  readonly layer: number | undefined;
}

const insideNorm = (prefix: NormId, layer: number | undefined): Place[] =>
  (['post_mean_subtraction', 'scale', 'post_scale'] as const).map((id) => ({ point: `${prefix}.${id}`, layer }));
/** The points of the layer norms' results. */
const afterNorm = {
  'resid.torso.ln_attn': 'resid.torso.post_ln_attn',
  'resid.torso.ln_mlp': 'resid.torso.post_ln_mlp',
  'resid.ln_f': 'resid.post_ln_f',
} as const satisfies Record<NormId, Point>;
const insideSoftmax = ['attn.qk_logits', 'attn.qk_softmax_denominator', 'attn.qk_probs'] as const;
const insideAttention = ['attn.q', 'attn.k', 'attn.v', ...insideSoftmax] as const;

type Mutable<T extends readonly unknown[]> = { -readonly [I in keyof T]: T[I] };

/** The residual stream (B,S,D). An update is not added yet: the layer norm that comes next adds it. */
interface Stream {
  readonly x: Tensor;
  readonly update?: {
    readonly delta: Tensor;
    /** The point of x + delta. */
    readonly sum: Place;
  };
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
export const runPass = (options: PassOptions): Promise<Results> => walk(stepsOf(options));

async function walk<T>(steps: Steps<T>): Promise<T> {
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
    options.record?.watch(logits); // what is made of the logits joins the record
    return { logits: pass.handOut(logits), values: pass.values };
  } catch (error) {
    if (error === enough) return { values: pass.values };
    for (const value of pass.values.values()) value.dispose();
    throw error;
  } finally {
    pass.end();
    options.input.tokens.device.section('');
  }
}

class Pass {
  readonly scope = new Scope();
  readonly values = new Map<string, Tensor>();
  readonly #options: PassOptions;
  readonly #end: number;
  #hasChosen = false; // whether only the chosen positions are left
  /** What was written with values for the products that come next. Nothing can change these values before. */
  readonly #planes = new Map<Tensor, Planes>();
  #pad: Tensor | undefined; // bool [B, T]; undefined without padding
  #contexts: { queries?: PartialHookContext; keys?: PartialHookContext; chosen?: PartialHookContext } = {};
  /** The hooks as they were when the first section with gradients inside was computed. */
  #hooksOfSections: TransformerHooks | undefined;

  constructor(options: PassOptions) {
    this.#options = options;
    const { last } = options.plan;
    this.#end = last ? executionOrder(last) : Number.POSITIVE_INFINITY;
  }

  *run(): Steps<Tensor> {
    const { input, weights, plan } = this.#options;
    const { from } = input;
    const s = this.scope;
    s.add(input.tokens);
    s.add(input.positions);
    this.#pad = this.#paddingOfAll();
    const { device } = input.tokens;
    device.section('embedding');
    let x: Tensor; // B S D
    if (from) {
      x = s.add(from.residual.clone()); // the caller may change it meanwhile
    } else {
      x = s.add(embedding(input.tokens, weights.tokEmbed));
      embedding(input.positions, weights.posEmbed, { addTo: x });
      x = yield this.#point('resid.post_emb', x);
    }
    let stream: Stream = { x };
    for (const [layer, w] of weights.layers.entries()) {
      if (from && layer < from.layer) continue;
      device.section(`layer ${layer}`);
      stream = yield* this.#layer(layer, w, plan.layers[layer] as LayerPlan, stream);
    }
    device.section('end');
    if (plan.choosesAt !== 'normed') stream = this.#chosenStream(stream);
    const end = yield* this.#norm('resid.ln_f', undefined, plan.lnF, weights.lnF, stream);
    s.free(end.x);
    const [normed] = this.#onlyChosen(yield this.#point('resid.post_ln_f', end.normed));
    const logits = this.#replace(normed, this.#product(normed, weights.unembed)); // B S V, or only the chosen of S
    return yield this.#point('logits', logits);
  }

  *#layer(layer: number, w: LayerWeights, plan: LayerPlan, stream: Stream): Steps<Stream> {
    let { x, normed } = yield* this.#norm('resid.torso.ln_attn', layer, plan.lnAttn, w.ln1, stream); // B S D
    normed = yield this.#point('resid.torso.post_ln_attn', normed, layer);
    let mixed = yield* this.#attention(layer, w, plan, normed); // B S H C
    if (this.#choosesNext('mix', layer)) [x, mixed] = this.#onlyChosen(x, mixed);
    stream = yield* this.#add('attn', layer, plan, x, mixed, w.out);

    ({ x, normed } = yield* this.#norm('resid.torso.ln_mlp', layer, plan.lnMlp, w.ln2, stream)); // B S D
    normed = yield this.#point('resid.torso.post_ln_mlp', normed, layer);
    let hidden: Tensor; // B S F
    if (plan.gelu === 'fused') {
      const { w: weights, bias } = w.mlpIn;
      const planes = this.#planesFor('mlp.post_act', layer, normed, weights.n);
      const [active] = this.#section(
        [{ point: 'mlp.pre_act', layer }],
        [normed, weights, bias],
        () => [this.#product(normed, weights, { bias, activation: 'gelu', ...planes })],
        function* (pass, normed, weights, bias) {
          const s = pass.scope;
          const hidden = yield pass.#point('mlp.pre_act', s.add(linear(normed, weights, { bias })), layer);
          return [s.add(gelu(hidden))];
        },
      );
      hidden = this.#wrote(this.#replace(normed, active), planes);
    } else {
      hidden = this.#replace(normed, this.#product(normed, w.mlpIn.w, { bias: w.mlpIn.bias }));
      hidden = yield this.#point('mlp.pre_act', hidden, layer);
      hidden = this.#replace(hidden, gelu(hidden));
    }
    hidden = yield this.#point('mlp.post_act', hidden, layer, { outLayer: w.mlpOut.w });
    return yield* this.#add('mlp', layer, plan, x, hidden, w.mlpOut);
  }

  /** The end of a sublayer: the stream x plus the update, which is a product of `input`. Frees both. */
  *#add(
    sublayer: 'attn' | 'mlp',
    layer: number,
    plan: LayerPlan,
    x: Tensor,
    input: Tensor,
    { w, bias }: Linear,
  ): Steps<Stream> {
    const s = this.scope;
    const addition = sublayer === 'attn' ? plan.addAttn : plan.addMlp;
    const delta: Point = `resid.torso.delta_${sublayer}`;
    const sum: Point = `resid.torso.post_${sublayer}`;
    if (sublayer === 'attn' && plan.heads === 'aside') this.#keepHeads(layer, input, w);
    if (addition === 'product') {
      const inside: Point[] = sublayer === 'attn' ? ['attn.head_out', delta] : [delta];
      const [whole] = this.#section(
        inside.map((point) => ({ point, layer })),
        [input, x, w, bias],
        () => [this.#joint(input, w, bias, x)],
        function* (pass, input, x, w, bias) {
          let added = yield* pass.#update(sublayer, layer, plan, input, w, bias);
          added = yield pass.#point(delta, added, layer);
          return [pass.scope.add(x.add(added))];
        },
      );
      x = this.#replace(x, whole); // B S D
      s.free(input);
    } else {
      let added = yield* this.#update(sublayer, layer, plan, input, w, bias); // B S D
      s.free(input);
      added = yield this.#point(delta, added, layer);
      if (addition === 'norm') return { x, update: { delta: added, sum: { point: sum, layer } } };
      x = this.#replace(x, x.add(added));
      s.free(added);
    }
    return { x: yield this.#point(sum, x, layer) };
  }

  /** What a sublayer adds to the stream (B,S,D), from (B,S,H,C) or (B,S,F). */
  *#update(
    sublayer: 'attn' | 'mlp',
    layer: number,
    plan: LayerPlan,
    input: Tensor,
    w: PackedMatrix,
    bias: Tensor,
  ): Steps<Tensor> {
    const s = this.scope;
    if (sublayer === 'mlp') return s.add(this.#joint(input, w, bias));
    if (plan.heads === 'open') return yield* this.#sumOfHeads(layer, input, w, bias);
    const [added] = this.#section(
      [{ point: 'attn.head_out', layer }],
      [input, w, bias],
      () => [this.#joint(input, w, bias)],
      function* (pass, input, w, bias) {
        return [yield* pass.#sumOfHeads(layer, input, w, bias)];
      },
    );
    return s.add(added);
  }

  /** The update of attention from the output of each head. */
  *#sumOfHeads(layer: number, mixed: Tensor, w: PackedMatrix, bias: Tensor): Steps<Tensor> {
    const heads = yield this.#point('attn.head_out', this.#heads(mixed, w), layer);
    const sum = this.#replace(heads, heads.sum(2)); // B S D
    const added = this.#replace(sum, sum.add(bias));
    return mixed.dtype === 'float32' ? added : this.#replace(added, added.to(mixed.dtype));
  }

  /** Keeps the output of each head, if it is wanted. The pass does not need it. */
  #keepHeads(layer: number, mixed: Tensor, w: PackedMatrix): void {
    const heads = this.#heads(mixed, w);
    this.#keepWanted('attn.head_out', heads, layer);
    this.scope.free(heads);
  }

  /**
   * The output of each head, in float32: its mix times its rows of the output projection. Hooks see (B,S,H,D); in memory
   * it is (B,H,S,D).
   */
  #heads(mixed: Tensor, w: PackedMatrix): Tensor {
    const s = this.scope;
    const [, , H, C] = mixed.shape as [number, number, number, number];
    let matrix = s.add(w.unpack()); // A D
    if (matrix.dtype !== 'float32') matrix = this.#replace(matrix, matrix.to('float32'));
    const values = mixed.dtype === 'float32' ? mixed : s.add(mixed.to('float32'));
    const product = matmul(values.permute([0, 2, 1, 3]), s.add(matrix.reshape(H, C, w.n))); // B H S D
    s.free(matrix);
    if (values !== mixed) s.free(values);
    return s.add(permuted(product, [0, 2, 1, 3]));
  }

  #chosenStream({ x, update }: Stream): Stream {
    if (!update) return { x: this.#onlyChosen(x)[0] };
    const [before, delta] = this.#onlyChosen(x, update.delta);
    return { x: before, update: { ...update, delta } };
  }

  /** Whether only the chosen positions are computed from this place on: the mix of a layer, or the last norm's result. */
  #choosesNext(place: 'mix' | 'normed', layer?: number): boolean {
    const { input, plan } = this.#options;
    const isThere = place === 'normed' || layer === plan.layers.length - 1;
    return input.chosen !== undefined && !this.#hasChosen && plan.choosesAt === place && isThere;
  }

  /** Only the chosen positions of tensors (B,S,…), unless they were chosen before, or all are wanted. Frees the tensors. */
  #onlyChosen<const T extends readonly Tensor[]>(...tensors: T): T {
    const { chosen, tokens } = this.#options.input;
    if (!chosen || this.#hasChosen) return tensors;
    this.#hasChosen = true;
    const s = this.scope;
    const indices = s.add(Tensor.from(chosen.indices, { device: tokens.device }));
    const only = tensors.map((x) => {
      const [B, S, ...rest] = x.shape as [number, number, ...number[]];
      const rows = s.add(x.reshape(B * S, ...rest));
      const kept = indexSelect(rows, 0, indices).transferTo([B, chosen.indices.length / B, ...rest]);
      s.free(rows);
      return this.#replace(x, kept);
    });
    s.free(indices);
    return only as unknown as T;
  }

  /** The stream, complete, and its layer norm. */
  *#norm(
    prefix: NormId,
    layer: number | undefined,
    kernel: 'fused' | 'open',
    { gain, bias }: Norm,
    { x, update }: Stream,
  ): Steps<{ x: Tensor; normed: Tensor }> {
    const s = this.scope;
    if (!update) return { x, normed: yield* this.#normed(prefix, layer, kernel, x, gain, bias) };
    const { delta, sum } = update;
    const planes = this.#planesOfNorm(prefix, layer, x);
    const [whole, normed] = this.#section(
      [...insideNorm(prefix, layer), sum],
      [x, delta, gain, bias],
      () => {
        const { sum, out } = addLayerNorm(x, delta, gain, bias, { eps, ...planes });
        return [sum, out];
      },
      function* (pass, x, delta, gain, bias) {
        const whole = yield pass.#point(sum.point, pass.scope.add(x.add(delta)), sum.layer);
        return [whole, yield* pass.#normed(prefix, layer, kernel, whole, gain, bias)];
      },
    );
    s.free(x, delta);
    return { x: s.add(whole), normed: this.#wrote(s.add(normed), planes) };
  }

  *#normed(
    prefix: NormId,
    layer: number | undefined,
    kernel: 'fused' | 'open',
    x: Tensor,
    gain: Tensor,
    bias: Tensor,
  ): Steps<Tensor> {
    if (kernel === 'open') return yield* this.#openNorm(prefix, layer, x, gain, bias);
    const planes = this.#planesOfNorm(prefix, layer, x);
    const [normed] = this.#section(
      insideNorm(prefix, layer),
      [x, gain, bias],
      () => [layerNorm(x, gain, bias, { eps, ...planes })],
      function* (pass, x, gain, bias) {
        return [yield* pass.#openNorm(prefix, layer, x, gain, bias)];
      },
    );
    return this.#wrote(this.scope.add(normed), planes);
  }

  /** Layer norm in steps, in float32 throughout, as in the original. */
  *#openNorm(prefix: NormId, layer: number | undefined, x: Tensor, gain: Tensor, bias: Tensor): Steps<Tensor> {
    const s = this.scope;
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
    return x.dtype === 'float32' ? out : this.#replace(out, out.to(x.dtype));
  }

  /** (B,S,D) -> (B,S,H,C): queries, keys, values, and their mix before the output projection. Frees x. */
  *#attention(layer: number, w: LayerWeights, plan: LayerPlan, x: Tensor): Steps<Tensor> {
    const s = this.scope;
    const { caches, config } = this.#options;
    const qkv = this.#replace(x, this.#product(x, w.qkv.w, { bias: w.qkv.bias })); // B S 3A
    const A = (qkv.shape[2] as number) / 3;
    const part = (i: number) => qkv.slice(2, i * A, (i + 1) * A);
    const { k, v } = caches ? this.#cached(caches, layer, part(1), part(2)) : { k: part(1), v: part(2) }; // B T A
    const [q4, k4, v4] = [part(0), k, v].map((t) => splitHeads(t, config.nHeads)) as [Tensor, Tensor, Tensor];
    const mixed =
      plan.attention === 'fused'
        ? this.#fusedAttention(layer, plan, q4, k4, v4)
        : yield* this.#splitAttention(layer, plan, q4, k4, v4);
    s.free(qkv, k, v);
    return yield this.#point('attn.v_out', mixed, layer);
  }

  /** The keys and values of all tokens. The caches hold those of this pass without their history. */
  #cached(caches: KvCaches, layer: number, k: Tensor, v: Tensor): { k: Tensor; v: Tensor } {
    if (!hasHistory(k)) return caches.extend(layer, k, v);
    const all = caches.extend(layer, k.detach(), v.detach());
    if (caches.length === 0) return { k, v };
    const joined = (cached: Tensor, own: Tensor) => this.scope.add(cat([cached.slice(1, 0, caches.length), own], 1));
    return { k: joined(all.k, k), v: joined(all.v, v) };
  }

  /** The mix in one kernel, from the joint projections. */
  #fusedAttention(layer: number, plan: LayerPlan, q: Tensor, k: Tensor, v: Tensor): Tensor {
    const [mixed] = this.#section(
      insideAttention.map((point) => ({ point, layer })),
      [q, k, v],
      () => [this.#mix(layer, plan, q, k, v, 1 / Math.sqrt(q.shape[3] as number))],
      function* (pass, q, k, v) {
        return [yield* pass.#splitAttention(layer, plan, q, k, v)];
      },
    );
    return this.scope.add(mixed);
  }

  /** The mix of copies of queries, keys and values, which hooks may change without reaching the caches. */
  *#splitAttention(layer: number, plan: LayerPlan, q: Tensor, k: Tensor, v: Tensor): Steps<Tensor> {
    const s = this.scope;
    const scale = (q.shape[3] as number) ** -0.25; // for queries and keys alike, as in the original
    const q4 = yield this.#point('attn.q', s.add(q.mul(scale)), layer); // B S H C
    const k4 = yield this.#point('attn.k', s.add(k.mul(scale)), layer); // B T H C
    const v4 = yield this.#point('attn.v', s.add(v.clone()), layer); // B T H C
    if (plan.attention === 'open') {
      const mixed = yield* this.#openAttention(layer, plan, q4, k4, v4);
      s.free(q4, k4, v4);
      return mixed;
    }
    const [mixed] = this.#section(
      insideSoftmax.map((point) => ({ point, layer })),
      [q4, k4, v4],
      () => [this.#mix(layer, plan, q4, k4, v4, 1)],
      function* (pass, q, k, v) {
        return [yield* pass.#openAttention(layer, plan, q, k, v)];
      },
    );
    s.free(q4, k4, v4);
    return s.add(mixed);
  }

  /** The mix in one kernel, with the probabilities if they are wanted: in memory they are (B,H,S,T). */
  #mix(layer: number, plan: LayerPlan, q: Tensor, k: Tensor, v: Tensor, scale: number): Tensor {
    const s = this.scope;
    const [B, S, H] = q.shape as [number, number, number];
    const T = k.shape[1] as number;
    const probs = plan.probs ? s.add(permuted(q.make([B, H, S, T]), [0, 2, 3, 1])) : undefined; // B S T H
    const pad = this.#pad ? { pad: this.#pad } : {};
    // nobody multiplies the mix as it is where each head's output is needed, or a few positions are chosen from it
    const isMultiplied = plan.heads !== 'open' && !this.#choosesNext('mix', layer);
    const planes = isMultiplied ? this.#planesFor('attn.v_out', layer, q, H * (v.shape[3] as number)) : undefined;
    const mixed = s.add(attention(q, k, v, { ...pad, scale, ...(probs ? { probs } : {}), ...planes }));
    this.#wrote(mixed, planes);
    if (probs) {
      this.#keepWanted('attn.qk_probs', probs, layer);
      s.free(probs);
    }
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
      const [fused] = this.#section(
        [{ point: 'attn.qk_softmax_denominator', layer }],
        [logits],
        () => [softmax(logits, 2)],
        function* (pass, logits) {
          return [yield* pass.#openSoftmax(layer, logits)];
        },
      );
      probs = this.#replace(logits, fused);
    } else {
      probs = yield* this.#openSoftmax(layer, logits);
      s.free(logits);
    }
    if (probs.dtype !== floatDType(q.dtype)) probs = this.#replace(probs, probs.to(q.dtype));
    probs = yield this.#point('attn.qk_probs', probs, layer);
    const mixed = this.#replace(probs, matmul(probs.permute([0, 3, 1, 2]), v.permute([0, 2, 1, 3]))); // B H S C
    return this.#replace(mixed, mixed.permute([0, 2, 1, 3]).clone()); // B S H C
  }

  /** Probabilities (B,S,T,H) from logits in float32. */
  *#openSoftmax(layer: number, logits: Tensor): Steps<Tensor> {
    const s = this.scope;
    const numerator = s.add(softmaxNumerator(logits, 2));
    let denominator = s.add(numerator.sum(2, { keepDim: true })); // B S 1 H
    denominator = yield this.#point('attn.qk_softmax_denominator', denominator, layer);
    const probs = this.#replace(numerator, numerator.div(denominator));
    s.free(denominator);
    return probs;
  }

  /**
   * What `fused` computes in one step. Where gradients are wanted at points inside it, backward goes through `open`, the
   * same in steps, which gets the inputs again. Everything it makes belongs to the scope of the pass that it is given.
   */
  #section<const In extends readonly (Tensor | PackedMatrix)[], const Out extends readonly Tensor[]>(
    points: readonly Place[],
    inputs: In,
    fused: () => Out,
    open: (pass: Pass, ...inputs: Mutable<In>) => Steps<Out>,
  ): Out {
    const { record, hooks } = this.#options;
    if (!record || !points.some(({ point, layer }) => gradientPoint(hooks, point, layer))) return fused();
    const outputs = recordingIn(undefined, fused);
    this.#contextOf('attn.qk_probs'); // makes both contexts, while the caches are as the pass found them
    this.#hooksOfSections ??= hooks?.clone();
    recordReplay(outputs, inputs, async (again) => {
      const pass = this.#replica();
      try {
        const made = await walk(open(pass, ...(again as unknown as Mutable<In>)));
        return made.map((output) => pass.handOut(output));
      } finally {
        pass.scope.end();
      }
    });
    return outputs;
  }

  /** A pass that goes through a part of this one again, for gradients alone. */
  #replica(): Pass {
    const { wanted, hooks, ...options } = this.#options;
    const own = this.#hooksOfSections;
    const pass = new Pass({ ...options, ...(own && { hooks: own }) });
    pass.#hooksOfSections = own;
    pass.#pad = this.#pad;
    pass.#contexts = this.#contexts;
    return pass;
  }

  /** Frees what is left. What backward hooks and sections need stays with the record. */
  end(): void {
    const { record, input } = this.#options;
    if (record) {
      const { queries, keys, chosen } = this.#contexts;
      for (const t of [this.#pad, input.positions, queries?.positions, keys?.keyPositions, chosen?.positions]) {
        if (t && this.scope.has(t)) record.hold(this.scope.keep(t));
      }
    }
    this.scope.end();
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
    const { hooks, record } = this.#options;
    const watched = watchedPoint(hooks, point, layer) ?? (record && gradientPoint(hooks, point, layer));
    if (watched) {
      const context = { point, ...(layer === undefined ? {} : { layer }), ...extra, ...this.#contextOf(point) };
      const result = await watched.run(x, context, placeOf(point, layer));
      // the hooks leave x, a view of x, or a tensor that is the pass's to free
      x = result.storage === x.storage ? result : this.#replace(x, result);
    }
    this.#keepWanted(point, x, layer);
    return x;
  }

  /** Keeps the value of a point if it is wanted, and ends the pass after the last wanted one. */
  #keepWanted(point: Point, x: Tensor, layer: number | undefined): void {
    const { wanted } = this.#options;
    if (!wanted) return;
    const location: Location = layer === undefined ? { point } : { point, layer };
    const name = formatLocation(location);
    if (wanted.has(name)) this.values.set(name, this.handOut(x));
    if (executionOrder(location) >= this.#end) throw enough;
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

  /** The output projection of a sublayer: (B,S,H,C), heads side by side, or (B,S,F) -> (B,S,D), plus the residual stream. */
  #joint(input: Tensor, w: PackedMatrix, bias: Tensor, residual?: Tensor): Tensor {
    const rows = input.reshape(...input.shape.slice(0, 2), w.k);
    const product = this.#product(rows, w, { bias, ...(residual && { residual }) }, input);
    if (rows.storage !== input.storage) rows.dispose();
    return product;
  }

  /** x w, with what was written for it with `value`, of which x is a view: it is freed. */
  #product(x: Tensor, w: PackedMatrix, options: LinearOptions = {}, value = x): Tensor {
    const xPlanes = this.#planes.get(value);
    if (!xPlanes) return linear(x, w, options);
    const product = linear(x, w, { ...options, xPlanes });
    this.#planes.delete(value);
    this.scope.free(xPlanes);
    return product;
  }

  /**
   * Planes for the value of a point, with as many rows as x has and `width` columns, where a product is all that comes next:
   * no hook changes the value, and no gradient is recorded, for which some operations run in steps.
   */
  #planesFor(point: Point, layer: number | undefined, x: Tensor, width: number): { planes: Planes } | undefined {
    const { hooks, record } = this.#options;
    if (!x.device.readsPlanes || record || watchedPoint(hooks, point, layer)) return undefined;
    if (executionOrder(layer === undefined ? { point } : { point, layer }) >= this.#end) return undefined;
    const [B, S] = x.shape as [number, number];
    const planes = planesFor(x.device, x.dtype, B * S, width);
    return planes && { planes: this.scope.add(planes) };
  }

  #planesOfNorm(prefix: NormId, layer: number | undefined, x: Tensor): { planes: Planes } | undefined {
    if (prefix === 'resid.ln_f' && this.#choosesNext('normed')) return undefined;
    return this.#planesFor(afterNorm[prefix], layer, x, x.shape[2] as number);
  }

  /** Notes that planes were written with a value. */
  #wrote(value: Tensor, written: { planes: Planes } | undefined): Tensor {
    if (written) this.#planes.set(value, written.planes);
    return value;
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
    const { chosen, tokens } = this.#options.input;
    if (chosen && this.#hasChosen) {
      const positions = () => this.scope.add(positionsTensor(chosen.positions, tokens.device));
      made.chosen ??= { ...this.#options.context, positions: positions() };
      return made.chosen;
    }
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
