// The context of a model: its sizes, its weights in standard shapes and its tokenizer, before the model is loaded or
// without loading it. Subclasses add other kinds of models.
import {
  checkInteger,
  checkOptions,
  checkString,
  checkText,
  describe,
  type OptionNames,
  wrong,
} from '../engine/check.js';
import { checkDevice, type Device, getDefaultDevice } from '../engine/device.js';
import { rootMeanSquare } from '../engine/ops/root_mean_square.js';
import { Tensor } from '../engine/ops/tensor.js';
import { toHost } from '../engine/ops/to_host.js';
import { sameShape, showShape } from '../engine/shape.js';
import type { Tokenizer } from '../files/tokenizer/tokenizer.js';
import type { SubjectModel } from '../transformer/subject_model.js';
import { checkLoadOptions, type LoadOptions, Transformer } from '../transformer/transformer.js';
import { configToJson, dFf, dHead, type TransformerConfig } from '../transformer/weights/config.js';
import { describeModel, type ModelDescription, readWeight } from '../transformer/weights/model_files.js';
import { shownModelName } from '../transformer/weights/names.js';
import { checkDimension, Dimension } from './dimensions.js';
import { indexOfDimension, WeightLocationType, weightHasNoLayers, weightSpec } from './weight_locations.js';

/** Thrown for a text that is not one token where one is required. */
export class InvalidTokenException extends Error {}

export interface GetWeightOptions {
  /** The layer, for weights that each layer has. */
  layer?: number;
  /** Divide by the Euclidean norm along this dimension. */
  normalizeDim?: Dimension;
  /** The tensor's device; the context's when left out. */
  device?: Device;
}

const getWeightOptions: OptionNames<GetWeightOptions> = { layer: true, normalizeDim: true, device: true };

/** Demands a model's name, and options that are at most a device. */
function checkModel(operation: string, name: string, options: { device?: Device }): void {
  checkText(operation, 'name', name, "a model's name, folder or address");
  checkOptions(operation, options, { device: true });
  checkDevice(operation, options.device);
}

function checkArray(operation: string, argument: string, value: readonly unknown[], of: string): void {
  if (Array.isArray(value)) return;
  throw new TypeError(wrong(operation, argument, `an array of ${of}`, describe(value)));
}

/** Typed arrays are welcome too. */
function checkTokens(operation: string, tokens: Iterable<number>): void {
  if (typeof tokens === 'object' && typeof tokens?.[Symbol.iterator] === 'function') return;
  throw new TypeError(wrong(operation, 'tokens', 'an array of tokens', describe(tokens)));
}

export abstract class ModelContext {
  readonly modelName: string;
  readonly device: Device;

  constructor(modelName: string, device: Device) {
    checkText('ModelContext', 'modelName', modelName, "a model's name");
    if (device === undefined) throw new TypeError('ModelContext: a device is missing');
    checkDevice('ModelContext', device);
    this.modelName = modelName;
    this.device = device;
  }

  /**
   * The context of a model by its name, folder or address, as Transformer.load takes it. Reads its sizes, not its
   * weights.
   */
  static async fromModelType(name: string, options: { device?: Device } = {}): Promise<ModelContext> {
    checkModel('ModelContext.fromModelType', name, options);
    return StandardModelContext.load(name, options);
  }

  /**
   * A weight in its standard shape (weightShapeSpec): a tensor of the caller's to free.
   * @throws RangeError for a layer that the model does not have, a missing or superfluous one, or a dimension that the
   *   weight does not have; Error when the model's tensor has another shape.
   */
  async getWeight(type: WeightLocationType, options: GetWeightOptions = {}): Promise<Tensor> {
    checkOptions('getWeight', options, getWeightOptions);
    const spec = weightSpec('getWeight', type);
    const { layer, normalizeDim, device = this.device } = options;
    checkDevice('getWeight', device);
    this.#checkLayer(type, layer);
    const dim =
      normalizeDim === undefined ? undefined : indexOfDimension('getWeight', type, normalizeDim, 'normalizeDim');
    const weight = await this.weight(type, layer, device);
    const expected = this.getShapeFromSpec(spec);
    if (!sameShape(weight.shape, expected)) {
      const shapes = `${showShape(expected)} (${spec.join(', ')}), but is ${showShape(weight.shape)}`;
      weight.dispose();
      throw new Error(`${this.modelName}: ${type}${layer === undefined ? '' : ` of layer ${layer}`} must be ${shapes}`);
    }
    if (dim === undefined) return weight;
    using unscaled = weight;
    return divideByNorm(unscaled, dim);
  }

  #checkLayer(type: WeightLocationType, layer: number | undefined): void {
    if (!weightHasNoLayers(type)) {
      if (layer === undefined) throw new RangeError(`getWeight: ${type} needs a layer from 0 to ${this.nLayers - 1}`);
      checkInteger('getWeight', 'layer', layer, 0, this.nLayers - 1);
    } else if (layer !== undefined) {
      throw new RangeError(`getWeight: ${type} is in no layer, but layer ${describe(layer)} was asked for`);
    }
  }

  /** A weight in its standard shape, on a device: a tensor that getWeight may give away. */
  protected abstract weight(type: WeightLocationType, layer: number | undefined, device: Device): Promise<Tensor>;

  /** The size of a dimension. @throws RangeError for one that the model alone does not decide. */
  abstract getDimSize(dimension: Dimension): number;

  /** The sizes of dimensions, in order. @throws RangeError for one that the model alone does not decide. */
  getShapeFromSpec(spec: readonly Dimension[]): number[] {
    checkArray('getShapeFromSpec', 'spec', spec, 'dimensions');
    for (const [i, dimension] of spec.entries()) checkDimension('getShapeFromSpec', dimension, `spec[${i}]`);
    return spec.map((dimension) => (dimension === Dimension.singleton ? 1 : this.getDimSize(dimension)));
  }

  /** The model to run. The first call loads it, later ones give the same. */
  abstract getOrCreateModel(options?: object): Promise<SubjectModel>;

  /** The sizes under the names that its files use. */
  abstract getModelConfigAsDict(): Record<string, unknown>;

  // ---- tokens

  abstract getEncoding(): Tokenizer;

  /** `<|endoftext|>` in the text is the token of that name. */
  encode(text: string): number[] {
    checkString('encode', 'text', text, 'a text');
    return this.getEncoding().encode(text);
  }

  decode(tokens: readonly number[]): string {
    checkTokens('decode', tokens);
    return this.getEncoding().decode(
      Array.from(tokens, (token, i) => checkInteger('decode', `tokens[${i}]`, token, 0)),
    );
  }

  decodeToken(token: number): string {
    return this.getEncoding().decode([checkInteger('decodeToken', 'token', token, 0)]);
  }

  decodeTokenList(tokens: readonly number[]): string[] {
    checkTokens('decodeTokenList', tokens);
    return Array.from(tokens, (token, i) => {
      return this.getEncoding().decode([checkInteger('decodeTokenList', `tokens[${i}]`, token, 0)]);
    });
  }

  /** @throws InvalidTokenException unless the text is exactly one token. */
  encodeTokenStr(text: string): number {
    return this.#token('encodeTokenStr', 'text', text);
  }

  encodeTokenStrList(texts: readonly string[]): number[] {
    checkArray('encodeTokenStrList', 'texts', texts, 'texts');
    return Array.from(texts, (text, i) => this.#token('encodeTokenStrList', `texts[${i}]`, text));
  }

  #token(operation: string, argument: string, text: string): number {
    checkString(operation, argument, text, 'a text');
    const tokens = this.encode(text);
    if (tokens.length === 1) return tokens[0] as number;
    const actual = `${tokens.length}: [${tokens.slice(0, 20).join(', ')}]`;
    throw new InvalidTokenException(`${operation}: ${JSON.stringify(text)} must be one token, but is ${actual}`);
  }

  // ---- sizes

  /** MLP neurons of a layer. */
  get nNeurons(): number {
    return this.getDimSize(Dimension.mlpActs);
  }

  /** Heads of a layer. */
  get nAttentionHeads(): number {
    return this.getDimSize(Dimension.attnHeads);
  }

  get nLayers(): number {
    return this.getDimSize(Dimension.layers);
  }

  get nResidualStreamChannels(): number {
    return this.getDimSize(Dimension.residualStreamChannels);
  }

  /** Rows of the token embedding. */
  get nVocab(): number {
    return this.getDimSize(Dimension.vocabSize);
  }

  /** Tokens that a sequence may have. */
  get nContext(): number {
    return this.getDimSize(Dimension.maxContextLength);
  }
}

/** x divided by its norm along dim: a new tensor. */
function divideByNorm(x: Tensor, dim: number): Tensor {
  const n = x.shape[dim] as number;
  const order = [...x.shape.keys()].filter((d) => d !== dim).concat(dim); // the dimension last
  using wide = x.to('float32');
  const permuted = wide.permute(order);
  // the original divides by 1e-12 at least; eps in the square root prevents a division by 0 as well
  using norm = rootMeanSquare(permuted, { eps: 1e-24 / n });
  permuted.div_(norm.mul_(Math.sqrt(n)));
  return wide.to(x.dtype);
}

/** The context of a GPT-2 in files: by name, folder or address, or `random:gpt2-small`. */
export class StandardModelContext extends ModelContext {
  readonly #description: ModelDescription;
  #model: Promise<Transformer> | undefined;
  #loaded: Transformer | undefined;

  private constructor(description: ModelDescription, device: Device) {
    super(shownModelName(description.address), device);
    this.#description = description;
  }

  /** Reads the model's sizes. @throws Error that says what is missing or wrong, and where. */
  static async load(name: string, options: { device?: Device } = {}): Promise<StandardModelContext> {
    checkModel('StandardModelContext.load', name, options);
    return new StandardModelContext(await describeModel(name), options.device ?? getDefaultDevice());
  }

  /** The folder or address of its files; undefined for random weights. */
  get loadPath(): string | undefined {
    return this.#description.base;
  }

  getDimSize(dimension: Dimension): number {
    const { config, nVocab } = this.#description;
    const sizes = sizesOf(config, nVocab);
    const size = sizes[checkDimension('getDimSize', dimension)];
    if (size !== undefined) return size;
    throw new RangeError(
      `getDimSize: the model does not decide the size of '${dimension}'; it does of ${Object.keys(sizes).join(', ')}`,
    );
  }

  /** The model; `options` count for the call that loads it. */
  async getOrCreateModel(options: LoadOptions = {}): Promise<Transformer> {
    checkLoadOptions('getOrCreateModel', options);
    this.#model ??= Transformer.load(this.#description.address, { device: this.device, ...options });
    try {
      this.#loaded = await this.#model;
      return this.#loaded;
    } catch (error) {
      this.#model = undefined;
      throw error;
    }
  }

  getEncoding(): Tokenizer {
    return this.#description.enc;
  }

  getModelConfigAsDict(): Record<string, unknown> {
    const { config, enc } = this.#description;
    return configToJson({ ...config, enc: enc.name });
  }

  protected async weight(type: WeightLocationType, layer: number | undefined, device: Device): Promise<Tensor> {
    const { nHeads } = this.#description.config;
    using stored = await this.#stored(storedNames[type].replace('{layer}', String(layer)), device);
    switch (type) {
      case WeightLocationType.mlpToHidden:
      case WeightLocationType.mlpToResidual:
      case WeightLocationType.unembedding:
        return stored.permute([1, 0]).clone();
      case WeightLocationType.attnToQuery:
      case WeightLocationType.attnToKey:
      case WeightLocationType.attnToValue: // [H * C, D] -> [H, D, C]
        return stored
          .reshape(nHeads, -1, stored.shape[1] as number)
          .permute([0, 2, 1])
          .clone();
      case WeightLocationType.attnToResidual: // [D, H * C] -> [H, C, D]
        return stored
          .reshape(stored.shape[0] as number, nHeads, -1)
          .permute([1, 2, 0])
          .clone();
      case WeightLocationType.layerNormGainFinal: // a single number stands for all
        return stored.size === 1
          ? Tensor.empty([this.nResidualStreamChannels], { device: stored.device, dtype: stored.dtype }).copyFrom(
              stored,
            )
          : stored.clone();
      default:
        return stored.clone();
    }
  }

  /** A weight of the loaded model, as it is now, or else from its file. */
  async #stored(name: string, device: Device): Promise<Tensor> {
    const { base } = this.#description;
    if (this.#loaded === undefined && base !== undefined) return readWeight(base, name, device);
    const model = this.#loaded ?? (await this.getOrCreateModel());
    const weight = model.weight(name);
    if (weight.device === device) return weight;
    using elsewhere = weight;
    return Tensor.from(await toHost(elsewhere), { device });
  }
}

const storedNames: Readonly<Record<WeightLocationType, string>> = {
  'mlp.to_hidden': 'xf_layers.{layer}.mlp.in_layer.weight',
  'mlp.to_residual': 'xf_layers.{layer}.mlp.out_layer.weight',
  embedding: 'tok_embed.weight',
  unembedding: 'unembed.weight',
  position_embedding: 'pos_embed.weight',
  'attn.to_query': 'xf_layers.{layer}.attn.q_proj.weight',
  'attn.to_key': 'xf_layers.{layer}.attn.k_proj.weight',
  'attn.to_value': 'xf_layers.{layer}.attn.v_proj.weight',
  'attn.to_residual': 'xf_layers.{layer}.attn.out_proj.weight',
  'layer_norm_gain.final': 'final_ln.weight',
  'layer_norm_bias.final': 'final_ln.bias',
  'layer_norm_gain.pre_attn': 'xf_layers.{layer}.ln_1.weight',
  'layer_norm_gain.pre_mlp': 'xf_layers.{layer}.ln_2.weight',
};

const sizesOf = (config: TransformerConfig, nVocab: number): Partial<Record<Dimension, number>> => ({
  max_context_length: config.ctxWindow,
  residual_stream_channels: config.dModel,
  vocab_size: nVocab,
  attn_heads: config.nHeads,
  query_and_key_channels: dHead(config),
  value_channels: dHead(config),
  mlp_acts: dFf(config),
  layers: config.nLayers,
});

const stubSizes = Object.fromEntries(Object.values(Dimension).map((dimension) => [dimension, true])) as OptionNames<
  Record<Dimension, number>
>;

/** A context that has only sizes, for tests of code that needs no more. */
export class StubModelContext extends ModelContext {
  readonly #sizes: Readonly<Partial<Record<Dimension, number>>>;

  constructor(sizes: Partial<Record<Dimension, number>>) {
    super('stub', getDefaultDevice());
    checkOptions('StubModelContext', sizes, stubSizes, 'sizes');
    for (const [dimension, size] of Object.entries(sizes)) checkInteger('StubModelContext', dimension, size, 0);
    this.#sizes = { ...sizes };
  }

  getDimSize(dimension: Dimension): number {
    const size = this.#sizes[checkDimension('getDimSize', dimension)];
    if (size !== undefined) return size;
    throw new RangeError(`getDimSize: this stub has no size for '${dimension}'`);
  }

  getOrCreateModel(): Promise<SubjectModel> {
    return this.#refuse('model');
  }

  getModelConfigAsDict(): Record<string, unknown> {
    return this.#refuse('config');
  }

  getEncoding(): Tokenizer {
    return this.#refuse('tokenizer');
  }

  protected weight(): Promise<Tensor> {
    return this.#refuse('weights');
  }

  #refuse(what: string): never {
    throw new Error(`StubModelContext: a stub has sizes alone, no ${what}`);
  }
}

/** The unembedding with the final norm's gain multiplied in: [residual stream, vocabulary], the caller's to free. */
export async function getUnembeddingWithLnGain(context: ModelContext): Promise<Tensor> {
  checkContext('getUnembeddingWithLnGain', context);
  const unembedding = await context.getWeight(WeightLocationType.unembedding);
  using gain = await context.getWeight(WeightLocationType.layerNormGainFinal);
  return unembedding.mul_(gain.reshape(-1, 1));
}

/** The token embedding: [vocabulary, residual stream], the caller's to free. */
export async function getEmbedding(context: ModelContext): Promise<Tensor> {
  checkContext('getEmbedding', context);
  return context.getWeight(WeightLocationType.embedding);
}

function checkContext(operation: string, context: ModelContext): void {
  if (context instanceof ModelContext) return;
  throw new TypeError(wrong(operation, 'context', 'a ModelContext', describe(context)));
}
