// A sparse autoencoder: latents = activation((x - pre_bias) W_enc + latent_bias), reconstruction = latents W_dec +
// pre_bias. Weights are packed once; a tied autoencoder decodes with its encoder's. With `normalize`, x is normalised
// first, and the reconstruction is scaled back.
import { checkFloat, checkInteger, checkOperands, describe, wrong } from '../engine/check.js';
import { type Device, getDefaultDevice } from '../engine/device.js';
import { type DType, isFloat } from '../engine/dtype.js';
import { embedding } from '../engine/ops/embedding.js';
import { linear } from '../engine/ops/linear.js';
import { type PackedMatrix, packWeights } from '../engine/ops/pack_weights.js';
import { sparseDecode } from '../engine/ops/sparse_decode.js';
import { type SparseLatents, sparseEncode } from '../engine/ops/sparse_encode.js';
import { Tensor } from '../engine/ops/tensor.js';
import { toHost } from '../engine/ops/to_host.js';
import { updateLastNonzero } from '../engine/ops/update_last_nonzero.js';
import { disposeAll } from '../engine/scope.js';
import { rowCount, type Shape, sameShape, showShape, sizeOf } from '../engine/shape.js';
import { type FetchOptions, openBlob } from '../files/blob/blob.js';
import { type HostTensor, isHostTensor, type StateDict } from '../files/host_tensor.js';
import { digestTensors } from '../files/tensor_digest.js';
import { loadTorch } from '../files/torch/torch.js';
import { type AutoencoderActivation, activationFromState, activationToState, relu } from './activation.js';
import { denormalize, normalized } from './normalization.js';

export interface AutoencoderOptions {
  nLatents: number;
  /** Width of the activations it encodes. */
  nInputs: number;
  activation?: AutoencoderActivation;
  /** Decode with the encoder's weights. */
  tied?: boolean;
  /** Normalise each row of the inputs, as openai/sparse_autoencoder's v5 autoencoders do. */
  normalize?: boolean;
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
   * Whether inputs are normalised, which files do not say. The default is true for the published v5 files, by their
   * address, and for the stateDict() of such an autoencoder.
   */
  normalize?: boolean;
  device?: Device;
  dtype?: DType;
}

export interface DecodeOptions {
  /**
   * The activations that were encoded: an autoencoder that normalises them scales its reconstruction back with them.
   */
  inputs?: Tensor;
}

interface Parts {
  encoder: PackedMatrix; // [inputs, latents]
  decoder: PackedMatrix | undefined; // [latents, inputs]; undefined for a tied one: it is the encoder's, transposed
  preBias: Tensor;
  latentBias: Tensor;
  lastNonzero: Tensor; // int32 [latents]
  frequency: Tensor;
  meanSquare: Tensor;
}

/** The tensors of a state dict by the original's names; a tied autoencoder has no decoder of its own. */
const required = ['pre_bias', 'latent_bias', 'encoder.weight'] as const;
const buffers = ['stats_last_nonzero', 'latents_activation_frequency', 'latents_mean_square'] as const;
const tiedWeight = 'decoder.linear.weight';
// torch repeats the state of a TopK here; only activation_state_dict counts
const repeated = ['activation.k', 'activation.postact_fn'];

/** The published files of openai/sparse_autoencoder whose inputs are normalised. */
const normalizedFiles = /_v5_(32k|128k)\/autoencoders\/\d+\.pt$/;

export class Autoencoder {
  readonly nLatents: number;
  readonly nInputs: number;
  readonly activation: AutoencoderActivation;
  readonly tied: boolean;
  /** Whether each row of the inputs is normalised before it is encoded. */
  readonly normalize: boolean;
  readonly device: Device;
  readonly dtype: DType;
  readonly #parts: Parts;
  readonly #decoder: PackedMatrix;
  #digest: Promise<string> | undefined;

  /**
   * An untrained autoencoder: normal weights with a standard deviation of 1/sqrt(inputs), seeded, and biases 0.
   * To load a trained one, see load and fromStateDict.
   */
  constructor(options: AutoencoderOptions);
  /** @internal */
  constructor(options: AutoencoderOptions, parts: Parts);
  constructor(options: AutoencoderOptions, parts?: Parts) {
    const { activation = relu(), tied = false, normalize = false, seed = 0 } = options;
    const { device = getDefaultDevice(), dtype = 'float32' } = options;
    this.nLatents = checkInteger('Autoencoder', 'nLatents', options.nLatents, 1);
    this.nInputs = checkInteger('Autoencoder', 'nInputs', options.nInputs, 1);
    if (!isFloat(dtype))
      throw new TypeError(wrong('Autoencoder', 'dtype', 'float32, bfloat16 or float16', describe(dtype)));
    this.activation = activation;
    this.tied = tied;
    this.normalize = normalize;
    this.device = device;
    this.dtype = dtype;
    this.#parts = parts ?? untrained(this.nLatents, this.nInputs, tied, device, dtype, seed);
    this.#decoder = this.#parts.decoder ?? transposed(this.#parts.encoder);
  }

  /**
   * Reads a state dict saved by torch.save: a path, `az://account/container/path` or `https://…`.
   * @throws Error that names the file and what is wrong with it.
   */
  static async load(path: string, options: StateOptions & FetchOptions = {}): Promise<Autoencoder> {
    const { onProgress, signal, ...how } = options;
    await using file = await openBlob(path, { ...(onProgress && { onProgress }), ...(signal && { signal }) });
    const state = await loadTorch(file);
    try {
      return Autoencoder.fromStateDict(state, normalizedFiles.test(file.name) ? { normalize: true, ...how } : how);
    } catch (cause) {
      throw new Error(`${file.name}: ${(cause as Error).message}`, { cause });
    }
  }

  /**
   * From a state dict as the original saves it: pre_bias [inputs], encoder.weight [latents, inputs], latent_bias
   * [latents], decoder.weight [inputs, latents] (unless tied), statistics, activation and activation_state_dict. Files
   * with tensors alone are read as ReLU.
   */
  static fromStateDict(
    state: StateDict,
    { strict = true, normalize, device = getDefaultDevice(), dtype = 'float32' }: StateOptions = {},
  ): Autoencoder {
    const tied = isHostTensor(state[tiedWeight]);
    const expected: string[] = [...required, ...(tied ? [] : ['decoder.weight'])];
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
    const shapes: Record<string, number[]> = {
      'encoder.weight': [nLatents, nInputs],
      'decoder.weight': [nInputs, nLatents],
      [tiedWeight]: [nLatents, nInputs],
      pre_bias: [nInputs],
      latent_bias: [nLatents],
      ...Object.fromEntries(buffers.map((name) => [name, [nLatents]])),
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
      if (name !== 'stats_last_nonzero' && !/float/.test(tensor.dtype)) {
        throw new Error(`Autoencoder: ${name} must be of floats, but is ${tensor.dtype}`);
      }
    }
    const activation = activationFromState(state.activation, state.activation_state_dict);
    const tensor = (name: string, as: DType): Tensor | undefined =>
      isHostTensor(state[name]) ? Tensor.from(state[name] as HostTensor, { device, dtype: as }) : undefined;
    const pack = (name: string): PackedMatrix => {
      using weight = tensor(name, dtype) as Tensor;
      return packWeights(weight, { transposeB: true });
    };
    const statistic = (name: string, as: DType, value: number): Tensor =>
      tensor(name, as) ?? Tensor.zeros([nLatents], { device, dtype: as }).fill(value);
    return new Autoencoder(
      { nLatents, nInputs, activation, tied, normalize: normalize ?? saysNormalize(state), device, dtype },
      {
        encoder: pack('encoder.weight'),
        decoder: tied ? undefined : pack('decoder.weight'),
        preBias: tensor('pre_bias', dtype) as Tensor,
        latentBias: tensor('latent_bias', dtype) as Tensor,
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
  encodePreAct(x: Tensor, { latentSlice }: { latentSlice?: readonly [number, number] } = {}): Tensor {
    this.#check('encodePreAct', x, this.nInputs);
    using centred = this.#centred(x);
    if (!latentSlice) return linear(centred, this.#parts.encoder, { bias: this.#parts.latentBias });
    const [from, to] = latentSlice;
    checkInteger('encodePreAct', 'latentSlice[0]', from, 0, this.nLatents);
    checkInteger('encodePreAct', 'latentSlice[1]', to, from, this.nLatents);
    using all = this.#parts.encoder.unpack();
    using slice = packWeights(all.slice(1, from, to));
    return linear(centred, slice, { bias: this.#parts.latentBias.slice(0, from, to) });
  }

  /** x [..., inputs] -> latents [..., latents]. */
  encode(x: Tensor): Tensor {
    using preAct = this.encodePreAct(x);
    return this.activation.apply(preAct);
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
  decode(latents: Tensor, { inputs }: DecodeOptions = {}): Tensor {
    this.#check('decode', latents, this.nLatents);
    return this.#scaledBack('decode', inputs, latents.shape.slice(0, -1), () =>
      linear(latents, this.#decoder, { bias: this.#parts.preBias }),
    );
  }

  /** Decodes, and undoes the normalisation of inputs [..., inputs], whose leading sizes are those of the latents. */
  #scaledBack(operation: string, inputs: Tensor | undefined, rows: Shape, decoded: () => Tensor): Tensor {
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
    const latents = this.activation.apply(preAct);
    const reconstruction = this.decode(latents, { inputs: x });
    updateLastNonzero(this.#parts.lastNonzero, latents);
    return { preAct, latents, reconstruction };
  }

  /**
   * The active latents of x [..., inputs] in CSR format, a row for each of x's rows, indices ascending: those above the
   * threshold (in magnitude, for an activation that leaves negative values). The dense latents are never stored.
   */
  async encodeSparse(x: Tensor, { threshold = 0 }: { threshold?: number } = {}): Promise<SparseLatents> {
    this.#check('encodeSparse', x, this.nInputs);
    using centred = this.#centred(x);
    const { k, positive } = this.activation;
    return await sparseEncode(centred, this.#parts.encoder, {
      bias: this.#parts.latentBias,
      threshold,
      k: Math.min(k, this.nLatents),
      relu: positive,
    });
  }

  /** The same as decode for the latents in `sparse`: [rows, inputs]. */
  decodeSparse(sparse: SparseLatents, { inputs }: DecodeOptions = {}): Tensor {
    return this.#scaledBack('decodeSparse', inputs, [sparse.rowPtr.length - 1], () =>
      sparseDecode(sparse, this.#decoder, { bias: this.#parts.preBias }),
    );
  }

  /**
   * A new autoencoder of some of the latents, in the order of `indices`, statistics included.
   * @throws RangeError for an index that is no latent, or for none at all.
   */
  selectLatents(indices: readonly number[] | Int32Array): Autoencoder {
    if (indices.length === 0) throw new RangeError('selectLatents: indices must name one latent at least');
    for (const i of indices) checkInteger('selectLatents', 'indices', i, 0, this.nLatents - 1);
    const { encoder, decoder, preBias, latentBias, lastNonzero, frequency, meanSquare } = this.#parts;
    const { device, dtype } = this;
    using chosen = Tensor.from(Int32Array.from(indices), { device });
    const rows = (table: Tensor): Tensor => embedding(chosen, table);
    const values = (t: Tensor): Tensor => {
      using wide = t.to('float32');
      using some = rows(wide.reshape(-1, 1));
      return some.reshape(-1).to(t.dtype);
    };
    using encoderRows = encoder.unpack({ transposeB: true }); // [latents, inputs]
    using kept = rows(encoderRows);
    using decoderRows = decoder?.unpack();
    using keptBack = decoderRows && rows(decoderRows);
    return new Autoencoder(
      { ...this.#options, nLatents: indices.length, device, dtype },
      {
        encoder: packWeights(kept, { transposeB: true }),
        decoder: keptBack && packWeights(keptBack),
        preBias: preBias.clone(),
        latentBias: values(latentBias),
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

  /** The state dict under the original's names; weights in the stored dtype. */
  async stateDict(): Promise<StateDict> {
    const { encoder, decoder, preBias, latentBias, lastNonzero, frequency, meanSquare } = this.#parts;
    using encoderWeight = encoder.unpack({ transposeB: true });
    const out: StateDict = Object.create(null);
    out.pre_bias = await toHost(preBias);
    out.latent_bias = await toHost(latentBias);
    out.stats_last_nonzero = {
      dtype: 'int64',
      shape: [this.nLatents],
      data: BigInt64Array.from(await lastNonzero.read(), BigInt),
    };
    out.latents_activation_frequency = await toHost(frequency);
    out.latents_mean_square = await toHost(meanSquare);
    out['encoder.weight'] = await toHost(encoderWeight);
    if (decoder) {
      using decoderWeight = decoder.unpack({ transposeB: true });
      out['decoder.weight'] = await toHost(decoderWeight);
    } else {
      out[tiedWeight] = out['encoder.weight'];
    }
    out.activation = this.activation.name;
    out.activation_state_dict = Object.assign(Object.create(null), activationToState(this.activation), {
      ...(this.normalize && { normalize: true }), // Python's reader ignores it
    });
    return out;
  }

  /** sha256 of the weights and the activation, in hexadecimal; statistics do not count. */
  digest(): Promise<string> {
    this.#digest ??= (async () => {
      const state = await this.stateDict();
      const weights = [...required, 'decoder.weight'].flatMap((name): [string, HostTensor][] => {
        const tensor = state[name];
        return isHostTensor(tensor) ? [[name, tensor]] : [];
      });
      const { activation, activation_state_dict } = state;
      return digestTensors(weights, `${JSON.stringify([activation, activation_state_dict, this.tied])}\n`);
    })();
    return this.#digest;
  }

  /** Frees the weights. */
  dispose(): void {
    const { encoder, preBias, latentBias, lastNonzero, frequency, meanSquare } = this.#parts;
    disposeAll(encoder, this.#decoder, preBias, latentBias, lastNonzero, frequency, meanSquare);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #check(operation: string, x: Tensor, width: number, argument = 'x'): void {
    checkOperands(operation, { [argument]: x }, { packed: { encoder: this.#parts.encoder } });
    checkFloat(operation, argument, x);
    if (x.shape.at(-1) === width) return;
    const of = width === this.nInputs ? 'inputs' : 'latents';
    throw new RangeError(wrong(operation, argument, `[..., ${width}] (the autoencoder's ${of})`, showShape(x.shape)));
  }

  get #options(): Pick<AutoencoderOptions, 'nInputs' | 'activation' | 'tied' | 'normalize'> {
    const { nInputs, activation, tied, normalize } = this;
    return { nInputs, activation, tied, normalize };
  }
}

function saysNormalize({ activation_state_dict: state }: StateDict): boolean {
  return typeof state === 'object' && state !== null && (state as StateDict).normalize === true;
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
    encoder: weights(nInputs, nLatents, 0),
    decoder: tied ? undefined : weights(nLatents, nInputs, 1),
    preBias: zeros(nInputs, dtype),
    latentBias: zeros(nLatents, dtype),
    lastNonzero: zeros(nLatents, 'int32'),
    frequency: zeros(nLatents, 'float32').fill(1),
    meanSquare: zeros(nLatents, 'float32'),
  };
}
