// A sparse autoencoder: latents = activation((x - pre_bias) W_enc + latent_bias), reconstruction = latents W_dec +
// pre_bias. Weights are packed once; a tied autoencoder decodes with its encoder's. With `normalize`, x is normalised
// first, and the reconstruction is scaled back.
import {
  checkBoolean,
  checkDTypeName,
  checkFloat,
  checkInteger,
  checkObject,
  checkOperands,
  checkOptions,
  checkText,
  describe,
  type OptionNames,
  wrong,
} from '../engine/check.js';
import { checkDevice, type Device, getDefaultDevice } from '../engine/device.js';
import type { DType } from '../engine/dtype.js';
import { linear } from '../engine/ops/linear.js';
import { matmul } from '../engine/ops/matmul.js';
import { type PackedMatrix, packWeights } from '../engine/ops/pack_weights.js';
import { sparseDecode } from '../engine/ops/sparse_decode.js';
import { type SparseLatents, sparseEncode } from '../engine/ops/sparse_encode.js';
import { Tensor } from '../engine/ops/tensor.js';
import { toHost } from '../engine/ops/to_host.js';
import { updateLastNonzero } from '../engine/ops/update_last_nonzero.js';
import { disposeAll } from '../engine/scope.js';
import { rowCount, type Shape, sameShape, showShape, sizeOf } from '../engine/shape.js';
import { checkFetchOptions, type FetchOptions, fetchOptionNames, openBlob } from '../files/blob/blob.js';
import { type HostTensor, isHostTensor, mismatch, type StateDict } from '../files/host_tensor.js';
import { digestTensors } from '../files/tensor_digest.js';
import { loadTorch } from '../files/torch/torch.js';
import {
  type AutoencoderActivation,
  activationFromState,
  activations,
  activationToState,
  checkActivation,
  jump,
  thresholdTensor,
} from './activation.js';
import { denormalize, denormalizeBackward, normalized } from './normalization.js';
import { hasPublishedShape, publishedNormalize } from './published.js';
import { Selection, SharedEncoder } from './selection.js';

export interface AutoencoderOptions {
  nLatents: number;
  /** Width of the activations it encodes. */
  nInputs: number;
  activation?: AutoencoderActivation;
  /** Decode with the encoder's weights. */
  tied?: boolean;
  /** Normalise each row of the inputs, as openai/sparse_autoencoder's v5 autoencoders do. */
  normalize?: boolean;
  /**
   * Let encodeSparse() leave out sums that cannot matter, where that is faster (default). On such a processor, the encoder
   * takes a quarter more memory than its float32 values, from the first encodeSparse() on. No bit of a result changes.
   */
  filter?: boolean;
  device?: Device;
  /** Storage type of the weights. Default float32. */
  dtype?: DType;
  /** The seed of a new autoencoder's random weights. */
  seed?: number;
}

export interface StateOptions {
  /** Refuse missing statistics and unexpected entries, by name. Missing weights are always refused. Default true. */
  strict?: boolean;
  /**
   * Whether inputs are normalised, which files do not say. What stateDict() gives says it, and the published v5 files
   * are known by the address or path that loadTorch read them from. It must be given for others of their shape (TopK,
   * 32,768 or 131,072 latents); the rest are not normalised unless it is given.
   */
  normalize?: boolean;
  /** As of AutoencoderOptions. Default true. */
  filter?: boolean;
  device?: Device;
  dtype?: DType;
}

export interface DecodeOptions {
  /**
   * The activations that were encoded: an autoencoder that normalises them scales its reconstruction back with them.
   */
  inputs?: Tensor;
}

export interface EncodePreActOptions {
  /** From which latent on, and before which. */
  latentSlice?: readonly [number, number];
}

export interface EncodeSparseOptions {
  /** 0 or more: latents up to it are left out. Default 0. */
  threshold?: number;
}

const shared = { device: true, dtype: true, normalize: true, filter: true } as const;
const constructorNames: OptionNames<AutoencoderOptions> = {
  ...{ ...shared, nLatents: true, nInputs: true },
  ...{ activation: true, tied: true, seed: true },
};
const stateNames: OptionNames<StateOptions> = { ...shared, strict: true };
const loadNames: OptionNames<StateOptions & FetchOptions> = { ...stateNames, ...fetchOptionNames };
const decodeNames: OptionNames<DecodeOptions> = { inputs: true };
const preActNames: OptionNames<EncodePreActOptions> = { latentSlice: true };
const sparseNames: OptionNames<EncodeSparseOptions> = { threshold: true };

/** How many values decodeSparseBackward() takes out of the decoder at a time. */
const gatheredValues = 2 ** 20;

interface Parts {
  encoder: SharedEncoder;
  decoder: PackedMatrix | undefined; // [latents, inputs]; undefined for a tied one: it is the encoder's, transposed
  preBias: Tensor;
  /** Of a TopK autoencoder whose latents are some of another's. */
  selection?: Selection | undefined;
  lastNonzero: Tensor; // int32 [latents]
  frequency: Tensor;
  meanSquare: Tensor;
}

/** The tensors of a state dict by the original's names; a tied autoencoder has no decoder of its own. */
const required = ['pre_bias', 'latent_bias', 'encoder.weight'] as const;
const buffers = ['stats_last_nonzero', 'latents_activation_frequency', 'latents_mean_square'] as const;
const tiedWeight = 'decoder.linear.weight';
// torch repeats the state of an activation here; only activation_state_dict counts
const repeated = ['activation.k', 'activation.postact_fn', 'activation.threshold'];
/**
 * What a selection of a TopK autoencoder has besides: the encoder of all latents, by which they are ranked, and which of
 * them it has. Other readers refuse these entries, as they must: without them, other latents would survive.
 */
const ranking = { weight: 'ranking.encoder.weight', bias: 'ranking.latent_bias', indices: 'ranking.indices' } as const;

export class Autoencoder {
  readonly nLatents: number;
  readonly nInputs: number;
  readonly activation: AutoencoderActivation;
  readonly tied: boolean;
  /** Whether each row of the inputs is normalised before it is encoded. */
  readonly normalize: boolean;
  /** Whether encodeSparse() leaves out sums that cannot matter, where that is faster. */
  readonly filter: boolean;
  readonly device: Device;
  readonly dtype: DType;
  readonly #parts: Parts;
  readonly #decoder: PackedMatrix;
  /** Of a JumpReLU autoencoder: float32 [latents]. */
  readonly #thresholds: Tensor | undefined;
  #digest: Promise<string> | undefined;
  #disposed = false;

  /**
   * An untrained autoencoder: normal weights with a standard deviation of 1/sqrt(inputs), seeded, and biases 0.
   * To load a trained one, see load and fromStateDict.
   */
  constructor(options: AutoencoderOptions);
  /** @internal */
  constructor(options: AutoencoderOptions, parts: Parts);
  constructor(options: AutoencoderOptions, parts?: Parts) {
    checkOptions('Autoencoder', options, constructorNames);
    const { activation = activations.relu(), tied = false, normalize = false, filter = true, seed = 0 } = options;
    const { device = getDefaultDevice(), dtype = 'float32' } = options;
    this.nLatents = checkInteger('Autoencoder', 'nLatents', options.nLatents, 1);
    this.nInputs = checkInteger('Autoencoder', 'nInputs', options.nInputs, 1);
    checkPlace('Autoencoder', device, dtype);
    this.activation = checkActivation('Autoencoder', activation);
    const { thresholds } = activation;
    if (thresholds && thresholds.length !== this.nLatents) {
      const expected = `jumpReLU() of ${this.nLatents} thresholds (nLatents)`;
      throw new RangeError(wrong('Autoencoder', 'activation', expected, `of ${thresholds.length}`));
    }
    this.tied = checkBoolean('Autoencoder', 'tied', tied);
    this.normalize = checkBoolean('Autoencoder', 'normalize', normalize);
    this.filter = checkBoolean('Autoencoder', 'filter', filter);
    checkInteger('Autoencoder', 'seed', seed, 0, 2 ** 52 - 1);
    this.device = device;
    this.dtype = dtype;
    this.#parts = parts ?? untrained(this.nLatents, this.nInputs, tied, device, dtype, seed);
    this.#decoder = this.#parts.decoder ?? transposed(this.#parts.encoder.weights);
    this.#thresholds = thresholds && thresholdTensor(thresholds, device);
  }

  /**
   * Reads a state dict saved by torch.save: a path, `az://account/container/path` or `https://…`.
   * @throws Error that names the file and what is wrong with it.
   */
  static async load(path: string, options: StateOptions & FetchOptions = {}): Promise<Autoencoder> {
    checkOptions('Autoencoder.load', options, loadNames);
    checkFetchOptions('Autoencoder.load', options);
    const { onProgress, signal, ...how } = options;
    checkStateOptions('Autoencoder.load', how);
    checkText('Autoencoder.load', 'path', path, 'a path or an address');
    await using file = await openBlob(path, { ...(onProgress && { onProgress }), ...(signal && { signal }) });
    const state = await loadTorch(file);
    try {
      return Autoencoder.fromStateDict(state, how);
    } catch (cause) {
      throw new Error(`${file.name}: ${(cause as Error).message}`, { cause });
    }
  }

  /**
   * From a state dict as the original saves it: pre_bias [inputs], encoder.weight [latents, inputs], latent_bias
   * [latents], decoder.weight [inputs, latents] (unless tied), statistics, activation (ReLU, TopK, Identity or JumpReLU)
   * and activation_state_dict: of TopK, k and postact_fn; of JumpReLU, threshold [latents]. Files with tensors alone are
   * read as ReLU.
   * @throws Error that names the entry that is missing, unexpected or does not fit; or says that `normalize` must be
   *   given.
   */
  static fromStateDict(state: StateDict, options: StateOptions = {}): Autoencoder {
    checkObject('Autoencoder.fromStateDict', 'state', state, 'a state dict');
    checkOptions('Autoencoder.fromStateDict', options, stateNames);
    checkStateOptions('Autoencoder.fromStateDict', options);
    const { strict = true, filter = true, device = getDefaultDevice(), dtype = 'float32' } = options;
    const tied = isHostTensor(state[tiedWeight]);
    const isSelection = Object.values(ranking).some((name) => state[name] !== undefined);
    const expected: string[] = [...required, ...(tied ? [] : ['decoder.weight'])];
    if (isSelection) expected.push(...Object.values(ranking));
    const known = new Set([...expected, ...buffers, tiedWeight, 'activation', 'activation_state_dict', ...repeated]);
    const missing = expected.filter((name) => !isHostTensor(state[name]));
    const unexpected = Object.keys(state).filter((name) => !known.has(name));
    if (missing.length > 0) throw new Error(`Autoencoder: the state dict lacks ${missing.join(', ')}`);
    const statistics = buffers.filter((name) => !isHostTensor(state[name]));
    if (strict && statistics.length > 0) {
      const lacks = `lacks the statistics ${statistics.join(', ')} (strict: false starts them afresh)`;
      throw new Error(`Autoencoder: the state dict ${lacks}`);
    }
    if (strict && unexpected.length > 0) {
      throw new Error(
        `Autoencoder: the state dict has unexpected entries: ${unexpected.join(', ')} (strict: false ignores them)`,
      );
    }
    const encoder = state['encoder.weight'] as HostTensor;
    const [nLatents = 0, nInputs = 0] = encoder.shape;
    if (encoder.shape.length !== 2 || nLatents === 0 || nInputs === 0) {
      throw new Error(`Autoencoder: encoder.weight must be [latents, inputs], but is ${showShape(encoder.shape)}`);
    }
    const nRanked = isSelection ? ((state[ranking.weight] as HostTensor).shape[0] ?? 0) : 0;
    const shapes: Record<string, number[]> = {
      'encoder.weight': [nLatents, nInputs],
      'decoder.weight': [nInputs, nLatents],
      [tiedWeight]: [nLatents, nInputs],
      pre_bias: [nInputs],
      latent_bias: [nLatents],
      ...Object.fromEntries(buffers.map((name) => [name, [nLatents]])),
      ...(isSelection && {
        [ranking.weight]: [nRanked, nInputs],
        [ranking.bias]: [nRanked],
        [ranking.indices]: [nLatents],
      }),
    };
    for (const [name, shape] of Object.entries(shapes)) {
      const tensor = state[name];
      if (tensor === undefined) continue;
      if (!isHostTensor(tensor) || !sameShape(tensor.shape, shape)) {
        const actual = isHostTensor(tensor) ? showShape(tensor.shape) : describe(tensor);
        throw new Error(
          `Autoencoder: ${name} must be ${showShape(shape)} (encoder.weight is ${showShape(encoder.shape)}), but is ${actual}`,
        );
      }
      const misfit = mismatch(tensor);
      if (misfit !== undefined) throw new Error(`Autoencoder: ${name}: ${misfit}`);
      if (name === 'stats_last_nonzero') checkIntegers(name, tensor, -(2 ** 31), 2 ** 31 - 1);
      else if (name === ranking.indices) checkIntegers(name, tensor, 0, nRanked - 1);
      else if (!/float/.test(tensor.dtype)) {
        throw new Error(`Autoencoder: ${name} must be of floats, but is ${tensor.dtype}`);
      }
    }
    const activation = activationFromState(state.activation, state.activation_state_dict, nLatents);
    if (isSelection && activation.name !== 'TopK') {
      throw new Error(
        `Autoencoder: activation must be TopK where there is ${ranking.weight}, but is ${activation.name}`,
      );
    }
    const all = isSelection ? (state[ranking.weight] as HostTensor) : encoder;
    const normalize =
      options.normalize ?? saysNormalize(state) ?? publishedNormalize('Autoencoder', all, activation.name);
    const tensor = (name: string, as: DType): Tensor | undefined =>
      isHostTensor(state[name]) ? Tensor.from(state[name] as HostTensor, { device, dtype: as }) : undefined;
    const pack = (name: string): PackedMatrix => {
      using weight = tensor(name, dtype) as Tensor;
      return packWeights(weight, { transposeB: true });
    };
    const encoderOf = (weight: string, bias: string): SharedEncoder =>
      new SharedEncoder(pack(weight), tensor(bias, dtype) as Tensor);
    const statistic = (name: string, as: DType, value: number): Tensor =>
      tensor(name, as) ?? Tensor.zeros([nLatents], { device, dtype: as }).fill(value);
    return new Autoencoder(
      { nLatents, nInputs, activation, tied, normalize, filter, device, dtype },
      {
        encoder: encoderOf('encoder.weight', 'latent_bias'),
        decoder: tied ? undefined : pack('decoder.weight'),
        preBias: tensor('pre_bias', dtype) as Tensor,
        selection: isSelection
          ? new Selection(
              encoderOf(ranking.weight, ranking.bias),
              Int32Array.from((state[ranking.indices] as HostTensor).data as Int32Array, Number),
            )
          : undefined,
        lastNonzero: statistic('stats_last_nonzero', 'int32', 0),
        frequency: statistic('latents_activation_frequency', 'float32', 1),
        meanSquare: statistic('latents_mean_square', 'float32', 0),
      },
    );
  }

  /** Forward passes since each latent was last active: int32 [latents]. */
  get statsLastNonzero(): Tensor {
    return this.#parts.lastNonzero;
  }

  /** How often each latent is active: float32 [latents], as in the file. */
  get latentsActivationFrequency(): Tensor {
    return this.#parts.frequency;
  }

  /** The mean square of each latent: float32 [latents], as in the file. */
  get latentsMeanSquare(): Tensor {
    return this.#parts.meanSquare;
  }

  /** x [..., inputs], as the model has it -> latents before the activation [..., latents], or a slice of them. */
  encodePreAct(x: Tensor, options: EncodePreActOptions = {}): Tensor {
    checkOptions('encodePreAct', options, preActNames);
    this.#check('encodePreAct', x, this.nInputs);
    const { weights, bias } = this.#parts.encoder;
    const { latentSlice } = options;
    if (latentSlice === undefined) {
      using centred = this.#centred(x);
      return linear(centred, weights, { bias });
    }
    if (!Array.isArray(latentSlice) || latentSlice.length !== 2) {
      throw new TypeError(wrong('encodePreAct', 'latentSlice', '[from, to]', describe(latentSlice)));
    }
    const [from, to] = latentSlice;
    checkInteger('encodePreAct', 'latentSlice[0]', from, 0, this.nLatents);
    checkInteger('encodePreAct', 'latentSlice[1]', to, from, this.nLatents);
    using centred = this.#centred(x);
    using all = weights.unpack();
    // as linear() with a packed slice, bit for bit; that would have to outlive what gradients need of it
    const rows = centred.reshape(rowCount(x.shape), this.nInputs);
    const preAct = matmul(rows, all.slice(1, from, to), { bias: bias.slice(0, from, to) });
    return preAct.transferTo([...x.shape.slice(0, -1), to - from]);
  }

  /** x [..., inputs] -> latents [..., latents]. */
  encode(x: Tensor): Tensor {
    const { selection } = this.#parts;
    if (selection === undefined) {
      using preAct = this.encodePreAct(x);
      return this.#activated(preAct);
    }
    this.#check('encode', x, this.nInputs);
    const { weights, bias } = selection.ranking;
    using centred = this.#centred(x);
    using preAct = linear(centred, weights, { bias });
    using latents = this.activation.apply(preAct);
    return selection.columns(latents);
  }

  /** The activation of all latents [..., latents]. */
  #activated(preAct: Tensor): Tensor {
    return this.#thresholds ? jump(preAct, this.#thresholds) : this.activation.apply(preAct);
  }

  /** The operand that is multiplied with the encoder. */
  #centred(x: Tensor): Tensor {
    if (!this.normalize) return x.sub(this.#parts.preBias);
    using inputs = normalized(x);
    return inputs.sub(this.#parts.preBias);
  }

  /**
   * latents [..., latents] -> reconstruction [..., inputs]. An autoencoder that normalises needs the `inputs` that were
   * encoded.
   */
  decode(latents: Tensor, options: DecodeOptions = {}): Tensor {
    checkOptions('decode', options, decodeNames);
    this.#check('decode', latents, this.nLatents);
    return this.#scaledBack('decode', options.inputs, latents.shape.slice(0, -1), () =>
      linear(latents, this.#decoder, { bias: this.#parts.preBias }),
    );
  }

  /** Decodes, and undoes the normalisation of inputs [..., inputs], whose leading sizes are those of the latents. */
  #scaledBack(operation: string, inputs: Tensor | undefined, rows: Shape, decoded: () => Tensor): Tensor {
    if (inputs !== undefined && !(inputs instanceof Tensor)) {
      throw new TypeError(wrong(operation, 'inputs', 'a tensor', describe(inputs)));
    }
    if (!this.normalize) return decoded();
    if (inputs === undefined) {
      throw new TypeError(
        `${operation}: inputs must be what was encoded, as this autoencoder normalises it, but are ${describe(inputs)}`,
      );
    }
    this.#check(operation, inputs, this.nInputs, 'inputs');
    if (rowCount(inputs.shape) !== sizeOf(rows)) {
      const expected = `${showShape([...rows, this.nInputs])} (what was encoded)`;
      throw new RangeError(wrong(operation, 'inputs', expected, showShape(inputs.shape)));
    }
    const out = decoded();
    return denormalize(out, inputs.reshape([...rows, this.nInputs]));
  }

  /** Encodes and decodes, and counts in statsLastNonzero the passes since each latent was last active. */
  async forward(x: Tensor): Promise<{ preAct: Tensor; latents: Tensor; reconstruction: Tensor }> {
    const preAct = this.encodePreAct(x);
    const latents = this.#parts.selection ? this.encode(x) : this.#activated(preAct);
    const reconstruction = this.decode(latents, { inputs: x });
    updateLastNonzero(this.#parts.lastNonzero, latents);
    return { preAct, latents, reconstruction };
  }

  /**
   * The active latents of x [..., inputs] in CSR format, a row for each of x's rows, indices ascending: those above the
   * threshold (in magnitude, for an activation that leaves negative values); with JumpReLU, also above the latent's own.
   * The dense latents are never stored.
   */
  async encodeSparse(x: Tensor, options: EncodeSparseOptions = {}): Promise<SparseLatents> {
    checkOptions('encodeSparse', options, sparseNames);
    const { threshold = 0 } = options;
    if (!(typeof threshold === 'number' && threshold >= 0)) {
      throw new RangeError(wrong('encodeSparse', 'threshold', '0 or more', describe(threshold)));
    }
    this.#check('encodeSparse', x, this.nInputs);
    const { encoder, selection } = this.#parts;
    const { weights, bias } = selection?.ranking ?? encoder;
    const { k, positive } = this.activation;
    const own = this.#thresholds && { thresholds: this.#thresholds };
    const how = { bias, threshold, ...own, k: Math.min(k, weights.n), relu: positive, filter: this.filter };
    using centred = this.#centred(x);
    const sparse = await sparseEncode(centred, weights, how);
    return selection?.sparseColumns(sparse) ?? sparse;
  }

  /** The same as decode for the latents in `sparse`: [rows, inputs]. */
  decodeSparse(sparse: SparseLatents, options: DecodeOptions = {}): Tensor {
    checkOptions('decodeSparse', options, decodeNames);
    if (!(sparse?.rowPtr instanceof BigInt64Array)) {
      throw new TypeError(wrong('decodeSparse', 'sparse', 'what encodeSparse gives', describe(sparse)));
    }
    return this.#scaledBack('decodeSparse', options.inputs, [sparse.rowPtr.length - 1], () =>
      sparseDecode(sparse, this.#decoder, { bias: this.#parts.preBias }),
    );
  }

  /**
   * @internal Backward of decodeSparse: the gradient of each entry of `sparse`, [entries], from that of the
   * reconstruction, float32 [..., inputs]. Products are in float32 and their sums in double precision, so that an entry's
   * does not depend on the others. The dense gradients are never stored.
   */
  async decodeSparseBackward(
    sparse: SparseLatents,
    gradient: Tensor,
    options: Required<DecodeOptions>,
  ): Promise<Float32Array> {
    const { device, nInputs } = this;
    const { indices } = sparse;
    const gradients = new Float32Array(indices.length);
    if (indices.length === 0) return gradients;
    const rows = rowsOfEntries(sparse);
    const atOnce = Math.max(1, Math.floor(gatheredValues / nInputs));
    const flat = (x: Tensor) => x.reshape(-1, nInputs);
    using scaled = this.normalize ? denormalizeBackward(flat(gradient), flat(options.inputs)) : flat(gradient);
    using directions = this.decoderWeight();
    using out = Tensor.empty([indices.length], { device });
    for (let from = 0; from < indices.length; from += atOnce) {
      const to = Math.min(indices.length, from + atOnce);
      using latents = Tensor.from(indices.subarray(from, to), { device });
      using positions = Tensor.from(rows.subarray(from, to), { device });
      using ofLatents = directions.indexSelect(0, latents);
      using ofPositions = scaled.indexSelect(0, positions);
      using products = ofPositions.mul(ofLatents);
      using sums = products.sum(-1);
      out.slice(0, from, to).copyFrom(sums);
    }
    await out.readInto(gradients);
    return gradients;
  }

  /**
   * A new autoencoder of some of the latents, in the order of `indices`, statistics and thresholds included. Its latents
   * have the values that they have in this one: of a TopK autoencoder, all latents are ranked, those that were not
   * selected, too.
   * @throws RangeError for an index that is no latent, or for none at all.
   */
  selectLatents(indices: readonly number[] | Int32Array): Autoencoder {
    if (!Array.isArray(indices) && !(indices instanceof Int32Array)) {
      throw new TypeError(wrong('selectLatents', 'indices', 'an array or an Int32Array', describe(indices)));
    }
    if (indices.length === 0) throw new RangeError('selectLatents: indices must name one latent at least');
    for (const i of indices) checkInteger('selectLatents', 'indices', i, 0, this.nLatents - 1);
    const { encoder, decoder, preBias, selection, lastNonzero, frequency, meanSquare } = this.#parts;
    const { device, dtype } = this;
    const positions = Int32Array.from(indices);
    using chosen = Tensor.from(positions, { device });
    const values = (t: Tensor): Tensor => t.indexSelect(0, chosen);
    using encoderRows = encoder.weights.unpack({ transposeB: true }); // [latents, inputs]
    using kept = encoderRows.indexSelect(0, chosen);
    using decoderRows = decoder?.unpack();
    using keptBack = decoderRows?.indexSelect(0, chosen);
    const { thresholds } = this.activation;
    const activation = thresholds
      ? activations.jumpReLU(Array.from(positions, (i) => thresholds[i] as number))
      : this.activation;
    const ranked = () => selection?.select(positions) ?? new Selection(encoder.share(), positions);
    return new Autoencoder(
      { ...this.#options, activation, nLatents: indices.length, device, dtype },
      {
        encoder: new SharedEncoder(packWeights(kept, { transposeB: true }), values(encoder.bias)),
        decoder: keptBack && packWeights(keptBack),
        preBias: preBias.clone(),
        selection: this.activation.name === 'TopK' ? ranked() : undefined,
        lastNonzero: values(lastNonzero),
        frequency: values(frequency),
        meanSquare: values(meanSquare),
      },
    );
  }

  /** The output direction of each latent: the decoder's weight [latents, inputs], a tensor that the caller frees. */
  decoderWeight(): Tensor {
    return this.#decoder.unpack();
  }

  /**
   * The state dict under the original's names; weights in the stored dtype. A selection of a TopK autoencoder also has
   * the encoder of all latents, by which they are ranked: only fromStateDict() reads that.
   */
  async stateDict(): Promise<StateDict> {
    const { encoder, decoder, preBias, selection, lastNonzero, frequency, meanSquare } = this.#parts;
    const weightOf = async ({ weights }: SharedEncoder): Promise<HostTensor> => {
      using weight = weights.unpack({ transposeB: true });
      return toHost(weight);
    };
    const integers = (values: Int32Array): HostTensor => {
      return { dtype: 'int64', shape: [values.length], data: BigInt64Array.from(values, BigInt) };
    };
    const out: StateDict = Object.create(null);
    out.pre_bias = await toHost(preBias);
    out.latent_bias = await toHost(encoder.bias);
    out.stats_last_nonzero = integers((await lastNonzero.read()) as Int32Array);
    out.latents_activation_frequency = await toHost(frequency);
    out.latents_mean_square = await toHost(meanSquare);
    out['encoder.weight'] = await weightOf(encoder);
    if (decoder) {
      using decoderWeight = decoder.unpack({ transposeB: true });
      out['decoder.weight'] = await toHost(decoderWeight);
    } else {
      out[tiedWeight] = out['encoder.weight'];
    }
    if (selection) {
      out[ranking.weight] = await weightOf(selection.ranking);
      out[ranking.bias] = await toHost(selection.ranking.bias);
      out[ranking.indices] = integers(selection.indices);
    }
    out.activation = this.activation.name;
    out.activation_state_dict = Object.assign(Object.create(null), activationToState(this.activation), {
      ...(this.#saysNormalize && { normalize: this.normalize }), // Python's reader ignores it
    });
    return out;
  }

  /** Whether the state dict must say if inputs are normalised. */
  get #saysNormalize(): boolean {
    const { name } = this.activation;
    const nRanked = this.#parts.selection?.ranking.weights.n ?? this.nLatents;
    return this.normalize || hasPublishedShape(name, this.nLatents) || hasPublishedShape(name, nRanked);
  }

  /** sha256 of the weights and the activation, in hexadecimal; statistics do not count. */
  digest(): Promise<string> {
    this.#digest ??= (async () => {
      const state = await this.stateDict();
      const weights = [...required, 'decoder.weight', ...Object.values(ranking)].flatMap(
        (name): [string, HostTensor][] => {
          const tensor = state[name];
          return isHostTensor(tensor) ? [[name, tensor]] : [];
        },
      );
      // tensors among the activation's state are hashed as the weights are
      const own = Object.entries(activationToState(this.activation));
      for (const [name, value] of own) if (isHostTensor(value)) weights.push([`activation.${name}`, value]);
      const numbers = Object.fromEntries(own.filter(([, value]) => !isHostTensor(value)));
      const how = { ...numbers, ...(this.normalize && { normalize: true }) };
      return digestTensors(weights, `${JSON.stringify([this.activation.name, how, this.tied])}\n`);
    })();
    return this.#digest;
  }

  /** Frees the weights, and a JumpReLU's thresholds. */
  dispose(): void {
    const { encoder, preBias, selection, lastNonzero, frequency, meanSquare } = this.#parts;
    if (this.#disposed) return;
    this.#disposed = true;
    encoder.release();
    selection?.release();
    disposeAll(this.#decoder, preBias, lastNonzero, frequency, meanSquare);
    this.#thresholds?.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #check(operation: string, x: Tensor, width: number, argument = 'x'): void {
    checkOperands(operation, { [argument]: x }, { packed: { encoder: this.#parts.encoder.weights } });
    checkFloat(operation, argument, x);
    if (x.shape.at(-1) === width) return;
    const of = width === this.nInputs ? 'inputs' : 'latents';
    throw new RangeError(wrong(operation, argument, `[..., ${width}] (the autoencoder's ${of})`, showShape(x.shape)));
  }

  get #options(): Pick<AutoencoderOptions, 'nInputs' | 'activation' | 'tied' | 'normalize' | 'filter'> {
    const { nInputs, activation, tied, normalize, filter } = this;
    return { nInputs, activation, tied, normalize, filter };
  }
}

function checkPlace(operation: string, device: Device, dtype: DType): void {
  checkDevice(operation, device);
  checkDTypeName(operation, dtype, { floats: true });
}

function checkStateOptions(operation: string, options: StateOptions): void {
  const { strict, normalize, filter, device = getDefaultDevice(), dtype = 'float32' } = options;
  checkBoolean(operation, 'strict', strict);
  checkBoolean(operation, 'normalize', normalize);
  checkBoolean(operation, 'filter', filter);
  checkPlace(operation, device, dtype);
}

/** The row of each entry. */
function rowsOfEntries({ rowPtr, indices }: SparseLatents): Int32Array {
  const rows = new Int32Array(indices.length);
  for (let row = 0; row + 1 < rowPtr.length; row++) rows.fill(row, Number(rowPtr[row]), Number(rowPtr[row + 1]));
  return rows;
}

/** @throws Error unless an entry of a state dict has integers in that range. Files have them as int64. */
function checkIntegers(name: string, { dtype, data }: HostTensor, low: number, high: number): void {
  if (!/^u?int/.test(dtype)) throw new Error(`Autoencoder: ${name} must be of integers, but is ${dtype}`);
  for (let i = 0; i < data.length; i++) {
    const value = data[i] as number | bigint;
    if (value >= low && value <= high) continue;
    throw new RangeError(`Autoencoder: ${name}[${i}] must be an integer from ${low} to ${high}, but is ${value}`);
  }
}

/** Whether the inputs are normalised, where the state dict says it. */
function saysNormalize({ activation_state_dict: state }: StateDict): boolean | undefined {
  const { normalize } = (typeof state === 'object' && state !== null ? state : {}) as { normalize?: unknown };
  if (normalize === undefined || typeof normalize === 'boolean') return normalize;
  throw new Error(
    `Autoencoder: normalize in activation_state_dict must be true or false, but is ${describe(normalize)}`,
  );
}

/** A matrix [K, N] as [N, K]. */
function transposed(matrix: PackedMatrix): PackedMatrix {
  using plain = matrix.unpack({ transposeB: true });
  return packWeights(plain);
}

function untrained(
  nLatents: number,
  nInputs: number,
  tied: boolean,
  device: Device,
  dtype: DType,
  seed: number,
): Parts {
  const weights = (k: number, n: number, part: number): PackedMatrix => {
    using w = Tensor.randn([k, n], { device, dtype, seed: seed * 2 + part, std: 1 / Math.sqrt(nInputs) });
    return packWeights(w);
  };
  const zeros = (n: number, as: DType) => Tensor.zeros([n], { device, dtype: as });
  return {
    encoder: new SharedEncoder(weights(nInputs, nLatents, 0), zeros(nLatents, dtype)),
    decoder: tied ? undefined : weights(nLatents, nInputs, 1),
    preBias: zeros(nInputs, dtype),
    lastNonzero: zeros(nLatents, 'int32'),
    frequency: zeros(nLatents, 'float32').fill(1),
    meanSquare: zeros(nLatents, 'float32'),
  };
}
