// Sets of autoencoders, one for each layer of a model, loaded when they are first needed.
import { Autoencoder } from '../autoencoder/autoencoder.js';
import { describe, wrong } from '../engine/check.js';
import { Device, getDefaultDevice } from '../engine/device.js';
import type { Tensor } from '../engine/ops/tensor.js';
import { Dimension, NodeType } from './dimensions.js';
import { type DerivedScalarType, findAutoencoderSpec, listAutoencoderNames } from './registry.js';

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

export class AutoencoderContext implements Disposable {
  readonly config: AutoencoderConfig;
  readonly device: Device;
  readonly omitDeadLatents: boolean;
  readonly #loading = new Map<LayerIndex, Promise<Autoencoder>>();
  readonly #loaded = new Map<LayerIndex, Autoencoder>();

  constructor({ config, device = getDefaultDevice(), omitDeadLatents = false }: AutoencoderContextOptions) {
    const layers = [...config.pathByLayerIndex.keys()];
    if (layers.length === 0) throw new RangeError('AutoencoderContext: config must have a file for one layer at least');
    if (layers.length > 1 && layers.includes(undefined)) {
      throw new RangeError('AutoencoderContext: several files must each have a layer');
    }
    if (!(device instanceof Device)) {
      const expected = 'what openDevice or getDefaultDevice gives';
      throw new TypeError(wrong('AutoencoderContext', 'device', expected, describe(device)));
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
      throw new RangeError(`getAutoencoder: there is none for layer ${layer}; there are for ${known}`);
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
   * @throws Error before anything is loaded.
   */
  get numAutoencoderDirections(): number {
    for (const { nLatents } of this.#loaded.values()) return nLatents;
    throw new Error('numAutoencoderDirections: no autoencoder is loaded yet; call warmup() first');
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
    this.autoencoderContextByNodeType = autoencoderContextByNodeType;
  }

  static fromContextOrMultiContext(
    input: AutoencoderContext | MultiAutoencoderContext | undefined,
  ): MultiAutoencoderContext | undefined {
    return input instanceof AutoencoderContext ? MultiAutoencoderContext.fromAutoencoderContextList([input]) : input;
  }

  /** @throws RangeError for two of one type of node, or one whose latents have no type. */
  static fromAutoencoderContextList(contexts: readonly AutoencoderContext[]): MultiAutoencoderContext {
    const byNodeType = new Map<NodeType, AutoencoderContext>();
    for (const context of contexts) {
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

/**
 * The published autoencoders of a name: makeAutoencoderContext({ modelName: 'gpt2-small', autoencoderName:
 * 'ae-mlp-post-act-v4' }). Nothing is loaded yet.
 * @throws RangeError for an unknown name; it lists those that the model has.
 */
export function makeAutoencoderContext(options: {
  modelName: string;
  autoencoderName: string;
  device?: Device;
  omitDeadLatents?: boolean;
}): AutoencoderContext {
  const { modelName, autoencoderName, device, omitDeadLatents = false } = options;
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

/** A latent is dead below this frequency; it is rounded to float32, the dtype of frequencies. */
const deadBelow = Math.fround(1e-8);

/** The number of latents that are active less than once in 100 million tokens. @throws Error when all of them are. */
export async function countDeadLatents(autoencoder: Autoencoder): Promise<number> {
  const frequencies = await autoencoder.latentsActivationFrequency.read();
  if (frequencies.every((frequency) => frequency === 0)) {
    throw new Error('countDeadLatents: all latents are dead: latents_activation_frequency is 0 everywhere');
  }
  return frequencies.filter((frequency) => frequency < deadBelow).length;
}

/**
 * A smaller autoencoder of `nLatentsToKeep` latents: the first ones, so that indices do not change, or with
 * preserveIndices false the most active ones, in their order. The same autoencoder when there is nothing to omit.
 */
export async function omitLeastActiveLatents(
  autoencoder: Autoencoder,
  nLatentsToKeep: number,
  { preserveIndices = true }: { preserveIndices?: boolean } = {},
): Promise<Autoencoder> {
  if (nLatentsToKeep >= autoencoder.nLatents) return autoencoder;
  const all = Array.from({ length: autoencoder.nLatents }, (_, latent) => latent);
  if (preserveIndices) return autoencoder.selectLatents(all.slice(0, nLatentsToKeep));
  const frequencies = await autoencoder.latentsActivationFrequency.read();
  const order = all.sort((a, b) => (frequencies[b] as number) - (frequencies[a] as number));
  return autoencoder.selectLatents(order.slice(0, nLatentsToKeep).sort((a, b) => a - b));
}
