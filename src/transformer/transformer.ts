// The transformer: loads weights, checks arguments, runs passes, samples.
import { stat } from 'node:fs/promises';
import {
  checkBoolean,
  checkDTypeName,
  checkOptions,
  checkText,
  describe,
  type OptionNames,
  wrong,
} from '../engine/check.js';
import { checkDevice, type Device, getDefaultDevice } from '../engine/device.js';
import type { DType } from '../engine/dtype.js';
import type { PackedMatrix } from '../engine/ops/pack_weights.js';
import type { Tensor } from '../engine/ops/tensor.js';
import { checkRecordable, GradientRecord, recordingIn } from '../engine/record.js';
import { checkFetchOptions, type FetchOptions, fetchBlobs } from '../files/blob/blob.js';
import { isBlobUrl } from '../files/blob/blob_address.js';
import type { HostTensor } from '../files/host_tensor.js';
import { digestTensors } from '../files/tensor_digest.js';
import { gpt2Tokenizer, type Tokenizer } from '../files/tokenizer/tokenizer.js';
import { type Gradients, type GradientsOptions, gradientsAt } from './gradients.js';
import { type PassOptions, runPass } from './graph.js';
import { checkHooks } from './hook_places.js';
import type { PartialHookContext, TransformerHooks } from './hooks.js';
import { KvCaches } from './kv_cache.js';
import { concreteLocations } from './location.js';
import { NextTokenPasses } from './next_token.js';
import { checkedStart, type Pad, type PassRange, passRange, prepareInput, type Tokens } from './padding.js';
import { type PassPlan, planPass, watchedPoint } from './pass_plan.js';
import { type Prompts, type SampleModel, type SampleOptions, type Samples, sample } from './sample_run.js';
import { joined } from './token_positions.js';
import type { Loaded } from './weights/build_weights.js';
import { loadCheckpoint, saveCheckpoint } from './weights/checkpoint.js';
import { dAttn, type TransformerConfig } from './weights/config.js';
import { foldNorms } from './weights/fold_norms.js';
import { openModelFiles, randomModel, tokenizerOfModel } from './weights/model_files.js';
import { modelBase, modelNames, shownModelName } from './weights/names.js';
import { randomWeights } from './weights/random_weights.js';
import { hostParameters, parameterGradients, parameterOf } from './weights/state_dict.js';
import { disposeWeights, type Weights, watchedWeights } from './weights/weights.js';

export interface LoadOptions extends FetchOptions {
  device?: Device;
  /**
   * Storage type of weights and activations; layer norm and softmax compute in float32 whatever it is. Default float32.
   */
  dtype?: DType;
  /** Fold the layer norms into the linear layers that follow. */
  simplify?: boolean;
}

export interface ForwardOptions extends PassRange {
  /** The caches that an earlier pass returned: their sequences are continued, and they are extended in place. */
  kvCaches?: KvCaches;
  /**
   * Tokens to ignore: 1 in a bool tensor [batch, seq], or in rows of numbers like those of tokens. Padding's own
   * activations are computed all the same. A token's position is the number of the row's tokens before it, in the
   * caches too, padding left out.
   */
  pad?: Pad;
  hooks?: TransformerHooks;
  /**
   * Record the pass, so that backward() of a scalar made of its tensors calls the backward hooks and reaches leaves; with
   * 'parameters', backward() also returns the gradient of every parameter. The values of the pass stay the same, bit for
   * bit. What earlier passes put into the caches is a constant. On the CPU alone.
   */
  grad?: boolean | 'parameters';
}

export interface ForwardResult {
  /** [batch, seq, vocabulary], or [batch, chosen, vocabulary] with `logitsAt`; the caller's to free. */
  readonly logits: Tensor;
  /**
   * The caller owns and frees the caches once the property is read. Caches that are not read are freed a few passes
   * later.
   */
  readonly kvCaches: KvCaches;
  /**
   * Of a pass with `grad`: what backward() needs of it, and its memory. backward() frees it unless `retain` is true;
   * where there is none, dispose() does, or at last the garbage collector.
   */
  readonly record?: GradientRecord;
}

export interface ActivationsOptions extends PassRange {
  /** Tokens to ignore, as for forward(). */
  pad?: Pad;
  /** Hooks at points behind the last location are not called: the pass ends there. */
  hooks?: TransformerHooks;
}

const loadOptions: OptionNames<LoadOptions> = {
  device: true,
  dtype: true,
  simplify: true,
  onProgress: true,
  signal: true,
};
const forwardOptions: OptionNames<ForwardOptions> = {
  ...passRange,
  kvCaches: true,
  pad: true,
  hooks: true,
  grad: true,
};
const activationsOptions: OptionNames<ActivationsOptions> = { ...passRange, pad: true, hooks: true };

/** Passes that may be queued ahead of the device: enough to keep it busy, few enough to bound memory. */
const passesAhead = 2;

/** The most caches, and bytes of caches, that are kept while no caller has read them; the latest one is always kept. */
const mostUnread = 16;
const mostUnreadBytes = 256 * 2 ** 20;

/** GPT-2 with a hook point on every internal. */
export class Transformer {
  /** The name it was loaded by. */
  readonly name: string;
  readonly config: TransformerConfig;
  /** Rows of the token embedding. */
  readonly nVocab: number;
  readonly device: Device;
  readonly dtype: DType;
  /**
   * The tokenizer: GPT-2's, with a placeholder such as `<|50300|>` as the text of a token beyond GPT-2's 50,257. Of a
   * model whose files have another vocabulary the name is 'unknown', all texts of tokens are placeholders, and encode()
   * is an error that says which file is different.
   */
  readonly enc: Tokenizer;
  readonly #weights: Weights;
  #layers: Weights['layers'];
  /** The plan of a pass without hooks. */
  readonly #plain: PassPlan;
  #digest: Promise<string> | undefined;
  #passes: Promise<void>[] = [];
  #unread: KvCaches[] = [];

  private constructor(name: string, { loaded, enc }: Found, device: Device, dtype: DType) {
    const { config, nVocab, weights } = loaded;
    this.name = name;
    this.enc = enc;
    this.config = config;
    this.nVocab = nVocab;
    this.#plain = planPass(config.nLayers);
    this.device = device;
    this.dtype = dtype;
    this.#weights = weights;
    this.#layers = weights.layers;
  }

  /**
   * Loads 'demo' (it ships with the package); 'gpt2-small', 'gpt2-medium', 'gpt2-large' or 'gpt2-xl' (also
   * 'gpt2/small', …) from the original's public files; a folder, `az://…` or `https://…` in the original's checkpoint
   * layout (config.json and model_pieces/NAME.pt) or in Hugging Face's (config.json and safetensors files); or
   * 'random:gpt2-small' and its siblings (and 'random:tiny'), random weights of that size (a seed may follow,
   * 'random:tiny?7').
   * @throws Error that says what is missing or does not fit, and where.
   */
  static async load(name: string, options: LoadOptions = {}): Promise<Transformer> {
    checkLoadOptions('Transformer.load', options);
    const { device = getDefaultDevice(), dtype = 'float32', simplify = false } = options;
    checkText('Transformer.load', 'name', name, "a model's name, folder or address");
    const { onProgress, signal } = options;
    const fetching = { ...(onProgress && { onProgress }), ...(signal && { signal }) };
    const xf = new Transformer(shownModelName(name), await find(name, device, dtype, fetching), device, dtype);
    if (simplify) xf.simplify();
    return xf;
  }

  /**
   * One pass over a batch. tokens: int32 tensor [batch, seq], or rows of numbers of one length; for unequal lengths see
   * prepInputAndPad.
   * @throws RangeError or TypeError, before anything is computed, for tokens that do not fit the model or its window, and
   *   for hooks that can never run: AtLayers at a layer that the model lacks.
   */
  async forward(tokens: Tokens, options: ForwardOptions = {}): Promise<ForwardResult> {
    checkOptions('forward', options, forwardOptions);
    const { kvCaches, grad = false } = options;
    if (grad !== 'parameters' && typeof grad !== 'boolean') {
      throw new TypeError(wrong('forward', 'grad', "true, false or 'parameters'", describe(grad)));
    }
    if (grad) checkRecordable('forward', this.device);
    const from = checkedStart('forward', options.from, this.config);
    checkHooks('forward', options.hooks, this.config, from?.layer);
    this.#reserve('forward', kvCaches, from?.layer);
    try {
      return await this.#forward('forward', tokens, { ...options, ...(from && { from }) });
    } finally {
      kvCaches?.end();
    }
  }

  /**
   * Demands caches of this model, and of passes that begin at this layer, if they are given; keeps others from using them
   * until end().
   */
  #reserve(operation: string, kvCaches: KvCaches | undefined, firstLayer = 0): void {
    if (kvCaches === undefined) return;
    if (!(kvCaches instanceof KvCaches)) {
      throw new TypeError(wrong(operation, 'kvCaches', 'what an earlier forward returned', describe(kvCaches)));
    }
    kvCaches.check();
    if (!kvCaches.fits(this.device, this.dtype, dAttn(this.config), this.config.nLayers)) {
      throw new TypeError(
        `${operation}: kvCaches must be of this model, but are of one of another size, dtype or device`,
      );
    }
    if (kvCaches.firstLayer !== firstLayer) {
      throw new RangeError(
        `${operation}: kvCaches must be of passes that begin at layer ${firstLayer}, as this one does, but are of passes that begin at layer ${kvCaches.firstLayer}`,
      );
    }
    kvCaches.begin(operation);
  }

  /** One pass. Caches that are given are reserved for it. */
  async #forward(
    operation: string,
    tokens: Tokens,
    { kvCaches, pad, hooks, grad = false, ...range }: ForwardOptions,
    context: PartialHookContext = {},
  ): Promise<ForwardResult> {
    await this.#waitForDevice();
    const plan = hooks === undefined ? this.#plain : planPass(this.config.nLayers, hooks);
    kvCaches?.check();
    let caches = kvCaches;
    const record = grad ? new GradientRecord() : undefined;
    try {
      const input = await prepareInput(tokens, pad, kvCaches?.lengths, range, this, operation);
      caches ??= new KvCaches(this.device, this.dtype, input.batch, dAttn(this.config), range.from?.layer);
      const keyPositions = joined(caches.positions, input.tokenPositions);
      const { logits } = await run({
        config: this.config,
        weights: grad === 'parameters' && record ? this.#watched(record) : this.#current,
        plan,
        input,
        caches,
        keyPositions,
        context,
        ...(hooks ? { hooks } : {}),
        ...(record ? { record } : {}),
      });
      this.#queued();
      try {
        caches.commit(keyPositions, input.lengths);
      } catch (error) {
        logits?.dispose();
        throw error;
      }
      return this.#result(logits as Tensor, caches, kvCaches === undefined, record);
    } catch (error) {
      record?.end('its pass failed');
      if (caches !== kvCaches) caches?.dispose();
      throw error;
    }
  }

  /**
   * The caches belong to the caller once the property is read. Most callers never read it, and caches must not pile up.
   */
  #result(logits: Tensor, caches: KvCaches, fresh: boolean, record: GradientRecord | undefined): ForwardResult {
    if (fresh) this.#unread.push(caches);
    return {
      logits,
      ...(record ? { record } : {}),
      get kvCaches(): KvCaches {
        caches.check();
        caches.handOver();
        return caches;
      },
    };
  }

  /**
   * The values at the given locations ('5/mlp/post_act', '* /resid/delta_mlp' without the space, 'logits'), by
   * location, in the order of the pass; the caller's to free. Nothing after the last of them is computed, and hooks there
   * are not called.
   */
  async activations(
    tokens: Tokens,
    locations: readonly string[],
    options: ActivationsOptions = {},
  ): Promise<Map<string, Tensor>> {
    checkOptions('activations', options, activationsOptions);
    const { hooks } = options;
    const from = checkedStart('activations', options.from, this.config);
    const wanted = concreteLocations('activations', locations, this.config, from?.layer);
    checkHooks('activations', hooks, this.config, from?.layer);
    if (wanted.length === 0) return new Map();
    const plan = planPass(this.config.nLayers, hooks, wanted);
    const { logits, values } = await this.#values(
      'activations',
      tokens,
      { ...options, ...(from && { from }) },
      plan,
      wanted,
    );
    logits?.dispose();
    return values;
  }

  /** One pass without caches. */
  async #values(
    operation: string,
    tokens: Tokens,
    { pad, hooks, ...range }: ActivationsOptions,
    plan: PassPlan,
    wanted: readonly string[] | undefined,
    record?: GradientRecord,
  ): ReturnType<typeof runPass> {
    await this.#waitForDevice();
    const input = await prepareInput(tokens, pad, undefined, range, this, operation);
    const results = await run({
      config: this.config,
      weights: this.#current,
      plan,
      input,
      keyPositions: input.tokenPositions,
      ...(wanted ? { wanted: new Set(wanted) } : {}),
      ...(hooks ? { hooks } : {}),
      ...(record ? { record } : {}),
    });
    this.#queued();
    return results;
  }

  /**
   * The gradients of a scalar at the given locations, and the values there. Where the scalar does not depend on a
   * location, its gradient is 0.
   * @throws Error where the scalar depends on nothing in the pass; what `of` throws, as it is.
   */
  async gradients(tokens: Tokens, options: GradientsOptions): Promise<Gradients> {
    checkRecordable('gradients', this.device);
    return gradientsAt(this.config, options, async (hooks, record, from) => {
      const plan = planPass(this.config.nLayers, hooks);
      const how = { ...options, hooks, ...(from && { from }) };
      const { logits } = await this.#values('gradients', tokens, how, plan, undefined, record);
      return logits as Tensor;
    });
  }

  /**
   * Continues prompts: a text, texts, tokens, or rows of tokens, which may be of unequal length.
   * @throws RangeError for an empty prompt, or one that with the new tokens exceeds the window; and for logits that hold
   *   a NaN, a +inf or nothing but -inf, with the row and the step. A logit of -inf forbids its token. What onToken
   *   throws, and the reason of a signal that is aborted, are thrown as they are.
   */
  async sample(prompts: Prompts, options: SampleOptions = {}): Promise<Samples> {
    const { config, nVocab, enc, device } = this;
    const model: SampleModel = {
      ...{ config, nVocab, enc, device },
      checkHooks: (hooks) => checkHooks('sample', hooks, config),
      reserve: (kvCaches) => this.#reserve('sample', kvCaches),
      pass: (tokens, rest, step) => {
        // hooks at the logits see all positions of a prompt
        const seen = watchedPoint(rest.hooks, 'logits') !== undefined;
        return this.#forward('sample', tokens, { ...rest, ...(!seen && { logitsAt: 'last' }) }, { step });
      },
      nextTokens: (caches) => {
        const plain = () => ({ config, weights: this.#current, plan: this.#plain });
        return new NextTokenPasses(device, plain, caches);
      },
    };
    return sample(model, prompts, options);
  }

  /**
   * One weight under the original's name, `xf_layers.3.mlp.in_layer.weight` [out, in]: a copy on the device, in the
   * model's dtype, the caller's to free.
   * @throws RangeError for a name that the model does not have.
   */
  weight(name: string): Tensor {
    checkText('weight', 'name', name);
    return parameterOf(this.#current, this.config, this.nVocab, name);
  }

  /** All weights under the original's names, in host memory, in the model's dtype. */
  async stateDict(): Promise<Record<string, HostTensor>> {
    const out: Record<string, HostTensor> = Object.create(null);
    for await (const [name, tensor] of hostParameters(this.#current, this.config, this.nVocab)) out[name] = tensor;
    return out;
  }

  /** Writes a folder that load() reads, in the original's layout. A folder that holds something else is refused. */
  async saveCheckpoint(folder: string): Promise<void> {
    checkText('saveCheckpoint', 'folder', folder);
    const { config, nVocab } = this;
    await saveCheckpoint(folder, { config, nVocab, weights: this.#current }, this.enc.name);
  }

  /** Folds each layer's norms into the linear layers that follow them. The function computed stays the same. */
  simplify(): void {
    const before = this.#layers;
    this.#layers = foldNorms(before);
    for (const { ln1, qkv, ln2, mlpIn } of before) {
      for (const weight of [ln1.gain, ln1.bias, qkv.w, qkv.bias, ln2.gain, ln2.bias, mlpIn.w, mlpIn.bias]) {
        weight.release('simplify() has put another one in its place');
      }
    }
    this.#digest = undefined;
  }

  /** sha256 of all weights with their names, dtypes and shapes, in hexadecimal. */
  digest(): Promise<string> {
    this.#digest ??= digestTensors(hostParameters(this.#current, this.config, this.nVocab));
    return this.#digest;
  }

  /** Frees the weights. */
  dispose(): void {
    for (const caches of this.#unread) if (!caches.handedOver) caches.dispose();
    disposeWeights(this.#current);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  get #current(): Weights {
    return { ...this.#weights, layers: this.#layers };
  }

  /** The weights in a pass that wants the gradients of all parameters. */
  #watched(record: GradientRecord): Weights {
    const weights = watchedWeights(this.#current, record);
    const { config, nVocab } = this;
    record.willReturn(this, (gradientOf) => {
      const ofWeight = (weight: Tensor | PackedMatrix) => gradientOf(weight) as Tensor | undefined;
      return parameterGradients(weights, config, nVocab, ofWeight);
    });
    return weights;
  }

  /** Waits until the device is at most a few passes behind, and frees caches that no caller has read. */
  async #waitForDevice(): Promise<void> {
    while (this.#passes.length >= passesAhead) await this.#passes.shift();
    this.#unread = this.#unread.filter((caches) => !caches.handedOver);
    let bytes = this.#unread.reduce((sum, caches) => sum + caches.bytes, 0);
    while (this.#unread.length > mostUnread || (bytes > mostUnreadBytes && this.#unread.length > 1)) {
      const oldest = this.#unread.shift() as KvCaches;
      bytes -= oldest.bytes;
      oldest.release('nobody had asked for them many passes later; read kvCaches right after forward()');
    }
  }

  #queued(): void {
    this.#passes.push(this.device.reached());
  }
}

/** Runs a pass; only what its record has a part in is recorded meanwhile, by hooks and of a residual stream as well. */
const run = (options: PassOptions): ReturnType<typeof runPass> =>
  options.record || options.hooks || options.input.from
    ? recordingIn(options.record, () => runPass(options))
    : runPass(options);

/** Checks what load() takes besides the name, on behalf of an operation. */
export function checkLoadOptions(operation: string, options: LoadOptions): void {
  checkOptions(operation, options, loadOptions);
  const { device, dtype = 'float32', simplify } = options;
  checkDevice(operation, device);
  checkDTypeName(operation, dtype, { floats: true });
  checkBoolean(operation, 'simplify', simplify);
  checkFetchOptions(operation, options);
}

interface Found {
  readonly loaded: Loaded;
  readonly enc: Tokenizer;
}

async function find(name: string, device: Device, dtype: DType, fetching: FetchOptions): Promise<Found> {
  const random = randomModel(name);
  if (random) {
    const enc = gpt2Tokenizer();
    return { loaded: await randomWeights(random.config, enc.nVocab, device, dtype, random.seed), enc };
  }
  const base = modelBase(name);
  if (!isBlobUrl(base) && !(await stat(base).catch(() => undefined))?.isDirectory()) {
    throw new Error(
      `Transformer.load: '${name}' is no folder; it must be 'demo', ${modelNames.join(', ')}, 'random:gpt2-small', or the folder or address of a checkpoint`,
    );
  }
  const files = await openModelFiles(base);
  try {
    await fetchBlobs(files.addresses, fetching);
    const loaded = await loadCheckpoint(files, device, dtype);
    return { loaded, enc: await tokenizerOfModel(files, loaded.nVocab) };
  } finally {
    await files.close();
  }
}
