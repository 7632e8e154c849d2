// Sets of autoencoders, one for each layer of a model, loaded when they are first needed.
import { Autoencoder } from '../autoencoder/autoencoder.js';
import {
  checkBoolean,
  checkInteger,
  checkOptions,
  checkText,
  describe,
  type OptionNames,
  wrong,
} from '../engine/check.js';
import { checkDevice, type Device, getDefaultDevice } from '../engine/device.js';
import type { Tensor } from '../engine/ops/tensor.js';
import { checkMember, checkNodeType, Dimension, NodeType } from './dimensions.js';
import { DerivedScalarType, findAutoencoderSpec, listAutoencoderNames } from './registry.js';

/** A layer; undefined outside of layers. */
export type LayerIndex = number | undefined;

export interface AutoencoderConfig {
  /** The activations that the autoencoders encode. */
  readonly dst: DerivedScalarType;
  /** The path or address of each layer's file; one entry alone may have the layer undefined. */
  readonly pathByLayerIndex: ReadonlyMap<LayerIndex, string>;
  /** Whether inputs are normalised; where it is left out, the files decide (Autoencoder.load). */
  readonly normalize?: boolean;
}

export interface AutoencoderContextOptions {
  config: AutoencoderConfig;
  device?: Device;
  /**
   * At warmup, drop the last latents of each autoencoder: as many as the fewest dead latents that any of them has. So
   * all have one size, and the indices of latents do not change.
   */
  omitDeadLatents?: boolean;
}

const contextOptions: OptionNames<AutoencoderContextOptions> = { config: true, device: true, omitDeadLatents: true };
const configOptions: OptionNames<AutoencoderConfig> = { dst: true, pathByLayerIndex: true, normalize: true };

function checkAutoencoder(operation: string, autoencoder: Autoencoder): void {
  if (autoencoder instanceof Autoencoder) return;
  throw new TypeError(wrong(operation, 'autoencoder', 'an Autoencoder', describe(autoencoder)));
}

function checkConfig(operation: string, config: AutoencoderConfig): void {
  checkOptions(operation, config, configOptions, 'config');
  const { dst, pathByLayerIndex, normalize } = config;
  checkMember(operation, 'config.dst', dst, DerivedScalarType);
  if (!(pathByLayerIndex instanceof Map)) {
    const expected = 'a Map of the file of each layer';
    throw new TypeError(wrong(operation, 'config.pathByLayerIndex', expected, describe(pathByLayerIndex)));
  }
  for (const [layer, path] of pathByLayerIndex) {
    if (layer !== undefined) checkInteger(operation, 'a layer of config.pathByLayerIndex', layer, 0);
    checkText(operation, `the path of layer ${layer} in config.pathByLayerIndex`, path, 'a path or address');
  }
  checkBoolean(operation, 'config.normalize', normalize);
}

export class AutoencoderContext implements Disposable {
  readonly config: AutoencoderConfig;
  readonly device: Device;
  readonly omitDeadLatents: boolean;
  readonly #loading = new Map<LayerIndex, Promise<Autoencoder>>();
  readonly #loaded = new Map<LayerIndex, Autoencoder>();

  constructor(options: AutoencoderContextOptions) {
    checkOptions('AutoencoderContext', options, contextOptions);
    const { config, device = getDefaultDevice(), omitDeadLatents = false } = options;
    checkConfig('AutoencoderContext', config);
    checkDevice('AutoencoderContext', device);
    checkBoolean('AutoencoderContext', 'omitDeadLatents', omitDeadLatents);
    const layers = [...config.pathByLayerIndex.keys()];
    if (layers.length === 0) throw new RangeError('AutoencoderContext: config must have a file for one layer at least');
    if (layers.length > 1 && layers.includes(undefined)) {
      throw new RangeError('AutoencoderContext: several files must each have a layer');
    }
    this.config = config;
    this.device = device;
    this.omitDeadLatents = omitDeadLatents;
  }

  get dst(): DerivedScalarType {
    return this.config.dst;
  }

  get layerIndices(): Set<LayerIndex> {
    return new Set(this.config.pathByLayerIndex.keys());
  }

  /** The node type of its latents; undefined for autoencoders of the residual stream itself. */
  get autoencoderNodeType(): NodeType | undefined {
    return nodeTypes[this.dst];
  }

  /**
   * The autoencoder of a layer: the first call loads it, later ones return the same, and it is freed with the context.
   * @throws RangeError for a layer without one.
   */
  async getAutoencoder(layer?: LayerIndex): Promise<Autoencoder> {
    const path = this.config.pathByLayerIndex.get(layer);
    if (path === undefined) {
      const known = [...this.layerIndices].join(', ');
      throw new RangeError(`getAutoencoder: there is none for layer ${describe(layer)}; there are for ${known}`);
    }
    const there = this.#loaded.get(layer);
    if (there) return there;
    let loading = this.#loading.get(layer);
    if (!loading) {
      loading = this.#load(layer, path).finally(() => this.#loading.delete(layer));
      this.#loading.set(layer, loading);
    }
    return loading;
  }

  async #load(layer: LayerIndex, path: string): Promise<Autoencoder> {
    const { device } = this;
    const { normalize } = this.config;
    // the published files lack statistics
    const autoencoder = await Autoencoder.load(path, {
      device,
      strict: false,
      ...(normalize !== undefined && { normalize }),
    });
    this.#loaded.set(layer, autoencoder);
    return autoencoder;
  }

  /** Loads all; with omitDeadLatents, drops latents. */
  async warmup(): Promise<void> {
    for (const layer of this.layerIndices) await this.getAutoencoder(layer);
    if (!this.omitDeadLatents) return;
    const counts = await Promise.all([...this.#loaded.values()].map(countDeadLatents));
    const dead = Math.min(...counts);
    const kept = this.numAutoencoderDirections - dead;
    for (const [layer, autoencoder] of this.#loaded) {
      const smaller = await omitLeastActiveLatents(autoencoder, kept);
      if (smaller === autoencoder) continue;
      this.#loaded.set(layer, smaller);
      autoencoder.dispose();
    }
  }

  /**
   * Latents of each autoencoder; fewer after a warmup that omits dead ones.
   * @throws Error before anything is loaded; RangeError where the loaded ones have different numbers of them.
   */
  get numAutoencoderDirections(): number {
    const [first, ...others] = this.#loaded;
    if (!first) throw new Error('numAutoencoderDirections: no autoencoder is loaded yet; call warmup() first');
    const [layer, { nLatents }] = first;
    const other = others.find(([, autoencoder]) => autoencoder.nLatents !== nLatents);
    if (!other) return nLatents;
    throw new RangeError(
      `numAutoencoderDirections: autoencoders must have one number of latents, but that of layer ${layer} has ${nLatents}, that of layer ${other[0]} ${other[1].nLatents}`,
    );
  }

  getParameterizedDimensionSizes(): Partial<Record<Dimension, number>> {
    return { [Dimension.autoencoderLatents]: this.numAutoencoderDirections };
  }

  /** The output directions of latents by layer: the decoders' weights [latents, inputs], which the caller frees. */
  async getOutputWeights(): Promise<Map<LayerIndex, Tensor>> {
    const weights = new Map<LayerIndex, Tensor>();
    for (const layer of this.layerIndices) weights.set(layer, (await this.getAutoencoder(layer)).decoderWeight());
    return weights;
  }

  /** Frees the autoencoders. */
  dispose(): void {
    for (const autoencoder of this.#loaded.values()) autoencoder.dispose();
    this.#loaded.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

const nodeTypes: Partial<Record<DerivedScalarType, NodeType>> = {
  mlp_post_act: NodeType.mlpAutoencoderLatent,
  resid_delta_mlp_from_mlp_post_act: NodeType.mlpAutoencoderLatent,
  resid_delta_mlp: NodeType.mlpAutoencoderLatent,
  resid_delta_attn: NodeType.attentionAutoencoderLatent,
  attn_write: NodeType.attentionAutoencoderLatent,
};

/** Several sets of autoencoders, at most one for each type of node. */
export class MultiAutoencoderContext implements Disposable {
  readonly autoencoderContextByNodeType: ReadonlyMap<NodeType, AutoencoderContext>;

  constructor(autoencoderContextByNodeType: ReadonlyMap<NodeType, AutoencoderContext>) {
    const argument = 'autoencoderContextByNodeType';
    if (!(autoencoderContextByNodeType instanceof Map)) {
      const expected = 'a Map of AutoencoderContexts by node type';
      throw new TypeError(wrong('MultiAutoencoderContext', argument, expected, describe(autoencoderContextByNodeType)));
    }
    for (const [nodeType, context] of autoencoderContextByNodeType) {
      checkNodeType('MultiAutoencoderContext', nodeType, `a key of ${argument}`);
      checkContext('MultiAutoencoderContext', `${argument} at ${nodeType}`, context);
    }
    this.autoencoderContextByNodeType = autoencoderContextByNodeType;
  }

  /** A context as one of several, and nothing as nothing. */
  static fromContextOrMultiContext(
    input: AutoencoderContext | MultiAutoencoderContext | undefined,
  ): MultiAutoencoderContext | undefined {
    if (input === undefined || input instanceof MultiAutoencoderContext) return input;
    checkContext('MultiAutoencoderContext.fromContextOrMultiContext', 'input', input);
    return MultiAutoencoderContext.fromAutoencoderContextList([input]);
  }

  /** @throws RangeError for two of one type of node, or one whose latents have no type. */
  static fromAutoencoderContextList(contexts: readonly AutoencoderContext[]): MultiAutoencoderContext {
    const operation = 'MultiAutoencoderContext.fromAutoencoderContextList';
    if (!Array.isArray(contexts)) {
      throw new TypeError(wrong(operation, 'contexts', 'an array of AutoencoderContexts', describe(contexts)));
    }
    const byNodeType = new Map<NodeType, AutoencoderContext>();
    for (const [i, context] of contexts.entries()) {
      checkContext(operation, `contexts[${i}]`, context);
      const nodeType = context.autoencoderNodeType;
      if (nodeType === undefined) {
        throw new RangeError(
          `MultiAutoencoderContext: latents of ${context.dst} are no nodes of the MLP or of attention`,
        );
      }
      if (byNodeType.has(nodeType)) {
        throw new RangeError(`MultiAutoencoderContext: two of the autoencoders have the node type ${nodeType}`);
      }
      byNodeType.set(nodeType, context);
    }
    return new MultiAutoencoderContext(byNodeType);
  }

  /** The set for a type of node; for none, or for latents in general, the only set there is. */
  getAutoencoderContext(nodeType?: NodeType): AutoencoderContext | undefined {
    if (nodeType !== undefined) checkNodeType('getAutoencoderContext', nodeType);
    if (nodeType !== undefined && nodeType !== NodeType.autoencoderLatent) {
      return this.autoencoderContextByNodeType.get(nodeType);
    }
    return this.getSingleAutoencoderContext();
  }

  get hasSingleAutoencoderContext(): boolean {
    return this.autoencoderContextByNodeType.size === 1;
  }

  /** @throws RangeError unless there is exactly one. */
  getSingleAutoencoderContext(): AutoencoderContext {
    const [only, ...others] = this.autoencoderContextByNodeType.values();
    if (only && others.length === 0) return only;
    const there = [...this.autoencoderContextByNodeType.keys()].join(', ') || 'none';
    throw new RangeError(`getSingleAutoencoderContext: there must be one set of autoencoders, but there are: ${there}`);
  }

  async getAutoencoder(layer?: LayerIndex, nodeType?: NodeType): Promise<Autoencoder> {
    if (nodeType !== undefined) checkNodeType('getAutoencoder', nodeType);
    const context = this.getAutoencoderContext(nodeType);
    if (context) return context.getAutoencoder(layer);
    const there = [...this.autoencoderContextByNodeType.keys()].join(', ');
    throw new RangeError(`getAutoencoder: there is no set for ${nodeType}; there are: ${there}`);
  }

  /** Loads all autoencoders of all sets. */
  async warmup(): Promise<void> {
    for (const context of this.autoencoderContextByNodeType.values()) await context.warmup();
  }

  dispose(): void {
    for (const context of this.autoencoderContextByNodeType.values()) context.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function checkContext(operation: string, argument: string, context: AutoencoderContext): void {
  if (context instanceof AutoencoderContext) return;
  throw new TypeError(wrong(operation, argument, 'an AutoencoderContext', describe(context)));
}

export interface MakeAutoencoderContextOptions {
  /** A model that has autoencoders by name: 'gpt2-small' or 'demo'. */
  modelName: string;
  /** One of listAutoencoderNames(modelName). */
  autoencoderName: string;
  device?: Device;
  /** As for AutoencoderContext. */
  omitDeadLatents?: boolean;
}

const makeOptions: OptionNames<MakeAutoencoderContextOptions> = {
  modelName: true,
  autoencoderName: true,
  device: true,
  omitDeadLatents: true,
};

/**
 * The published autoencoders of a name: makeAutoencoderContext({ modelName: 'gpt2-small', autoencoderName:
 * 'ae-mlp-post-act-v4' }). Nothing is loaded yet.
 * @throws RangeError for an unknown name; it lists those that the model has.
 */
export function makeAutoencoderContext(options: MakeAutoencoderContextOptions): AutoencoderContext {
  checkOptions('makeAutoencoderContext', options, makeOptions);
  const { modelName, autoencoderName, device, omitDeadLatents = false } = options;
  checkText('makeAutoencoderContext', 'modelName', modelName, "a model's name");
  checkText('makeAutoencoderContext', 'autoencoderName', autoencoderName, 'a name of autoencoders');
  checkDevice('makeAutoencoderContext', device);
  checkBoolean('makeAutoencoderContext', 'omitDeadLatents', omitDeadLatents);
  const names = listAutoencoderNames(modelName);
  const spec = names.includes(autoencoderName) ? findAutoencoderSpec(modelName, autoencoderName) : undefined;
  if (!spec) {
    const known = names.length > 0 ? `; it has ${names.join(', ')}` : '';
    throw new RangeError(`makeAutoencoderContext: ${modelName} has no autoencoders '${autoencoderName}'${known}`);
  }
  const layers = Array.from({ length: spec.nLayers }, (_, layer) => layer);
  const pathByLayerIndex = new Map(layers.map((layer) => [layer, spec.path.replace('{layer}', String(layer))]));
  const { dst, normalize } = spec;
  return new AutoencoderContext({
    config: { dst, pathByLayerIndex, ...(normalize !== undefined && { normalize }) },
    omitDeadLatents,
    ...(device && { device }),
  });
}

/** How often each latent is active. @throws RangeError for a frequency that is none, on behalf of an operation. */
async function frequenciesOf(operation: string, autoencoder: Autoencoder): Promise<ArrayLike<number>> {
  const frequencies = await autoencoder.latentsActivationFrequency.read();
  const odd = frequencies.findIndex((frequency) => !(frequency >= 0 && frequency < Infinity));
  if (odd < 0) return frequencies;
  const argument = `latents_activation_frequency of latent ${odd}`;
  throw new RangeError(wrong(operation, argument, 'a number of 0 or more', describe(frequencies[odd])));
}

/** A latent is dead below this frequency; it is rounded to float32, the dtype of frequencies. */
const deadBelow = Math.fround(1e-8);

/**
 * The number of latents that are active less than once in 100 million tokens.
 * @throws Error when all of them are; RangeError for a frequency that is not finite, or below 0.
 */
export async function countDeadLatents(autoencoder: Autoencoder): Promise<number> {
  checkAutoencoder('countDeadLatents', autoencoder);
  const frequencies = Array.from(await frequenciesOf('countDeadLatents', autoencoder));
  if (frequencies.every((frequency) => frequency === 0)) {
    throw new Error('countDeadLatents: all latents are dead: latents_activation_frequency is 0 everywhere');
  }
  return frequencies.filter((frequency) => frequency < deadBelow).length;
}

export interface OmitLatentsOptions {
  /** Keep the first latents, so that their indices do not change. Default true. */
  preserveIndices?: boolean;
}

/**
 * A smaller autoencoder of `nLatentsToKeep` latents: the first ones, so that indices do not change, or with
 * preserveIndices false the most active ones, in their order. The same autoencoder when there is nothing to omit.
 * @throws RangeError where the most active ones are wanted and a frequency is not finite, or below 0.
 */
export async function omitLeastActiveLatents(
  autoencoder: Autoencoder,
  nLatentsToKeep: number,
  options: OmitLatentsOptions = {},
): Promise<Autoencoder> {
  checkOptions('omitLeastActiveLatents', options, { preserveIndices: true });
  const { preserveIndices = true } = options;
  checkAutoencoder('omitLeastActiveLatents', autoencoder);
  checkInteger('omitLeastActiveLatents', 'nLatentsToKeep', nLatentsToKeep, 1);
  checkBoolean('omitLeastActiveLatents', 'preserveIndices', preserveIndices);
  if (nLatentsToKeep >= autoencoder.nLatents) return autoencoder;
  const all = Array.from({ length: autoencoder.nLatents }, (_, latent) => latent);
  if (preserveIndices) return autoencoder.selectLatents(all.slice(0, nLatentsToKeep));
  const frequencies = await frequenciesOf('omitLeastActiveLatents', autoencoder);
  const order = all.sort((a, b) => (frequencies[b] as number) - (frequencies[a] as number));
  return autoencoder.selectLatents(order.slice(0, nLatentsToKeep).sort((a, b) => a - b));
}
