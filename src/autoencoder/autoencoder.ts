// A sparse autoencoder: latents = activation((x - pre_bias) W_enc + latent_bias), reconstruction = latents W_dec + pre_bias.
// Weights are packed once; a tied autoencoder decodes with its encoder's.
import { createHash } from 'node:crypto';
import { checkFloat, checkInteger, checkOperands, describe, wrong } from '../engine/check.js';
import { type Device, getDefaultDevice } from '../engine/device.js';
import { type DType, isFloat } from '../engine/dtype.js';
import { linear } from '../engine/ops/matmul.js';
import { type SparseLatents, sparseDecode, sparseEncode, updateLastNonzero } from '../engine/ops/sparse.js';
import { type PackedMatrix, packWeights } from '../engine/packed_matrix.js';
import { disposeAll } from '../engine/scope.js';
import { sameShape, showShape } from '../engine/shape.js';
import { Tensor } from '../engine/tensor.js';
import { toHost } from '../engine/to_host.js';
import { type HostTensor, isHostTensor, type StateDict } from '../files/host_tensor.js';
import { loadTorch } from '../files/torch.js';
import { type AutoencoderActivation, activationFromState, activationToState, relu } from './activation.js';

export interface AutoencoderOptions {
  nLatents: number;
  /** Width of the activations it encodes. */
  nInputs: number;
  activation?: AutoencoderActivation;
  /** Decode with the encoder's weights. */
  tied?: boolean;
  device?: Device;
  /** Storage type of the weights. Default float32. */
  dtype?: DType;
  /** Of the random weights of a new autoencoder. */
  seed?: number;
}

export interface StateOptions {
  /** Refuse missing statistics and unexpected entries, by name. Missing weights are always refused. Default true. */
  strict?: boolean;
  device?: Device;
  dtype?: DType;
}

interface Parts {
  encoder: PackedMatrix; // [inputs, latents]
  decoder: PackedMatrix | undefined; // [latents, inputs]; a tied one is `encoderTurned`
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
// torch repeats a TopK's own state here; activation_state_dict is what counts
const repeated = ['activation.k', 'activation.postact_fn'];

export class Autoencoder {
  readonly nLatents: number;
  readonly nInputs: number;
  readonly activation: AutoencoderActivation;
  readonly tied: boolean;
  readonly device: Device;
  readonly dtype: DType;
  readonly #parts: Parts;
  readonly #decoder: PackedMatrix;
  #digest: Promise<string> | undefined;

  /**
   * An untrained autoencoder: weights uniform in scale with 1/sqrt(width) (normal, seeded), biases 0.
   * To load a trained one, see load and fromStateDict.
   */
  constructor(options: AutoencoderOptions);
  /** @internal */
  constructor(options: AutoencoderOptions, parts: Parts);
  constructor(options: AutoencoderOptions, parts?: Parts) {
    const { activation = relu(), tied = false, device = getDefaultDevice(), dtype = 'float32', seed = 0 } = options;
    this.nLatents = checkInteger('Autoencoder', 'nLatents', options.nLatents, 1);
    this.nInputs = checkInteger('Autoencoder', 'nInputs', options.nInputs, 1);
    if (!isFloat(dtype))
      throw new TypeError(wrong('Autoencoder', 'dtype', 'float32, bfloat16 or float16', describe(dtype)));
    this.activation = activation;
    this.tied = tied;
    this.device = device;
    this.dtype = dtype;
    this.#parts = parts ?? untrained(this.nLatents, this.nInputs, tied, device, dtype, seed);
    this.#decoder = this.#parts.decoder ?? turned(this.#parts.encoder);
  }

  /** Reads a state dict saved by torch.save. @throws Error that names the file and what is wrong with it. */
  static async load(path: string, options: StateOptions = {}): Promise<Autoencoder> {
    const state = await loadTorch(path);
    try {
      return Autoencoder.fromStateDict(state, options);
    } catch (cause) {
      throw new Error(`${path}: ${(cause as Error).message}`, { cause });
    }
  }

  /**
   * From a state dict as the original saves it: pre_bias [inputs], encoder.weight [latents, inputs], latent_bias [latents],
   * decoder.weight [inputs, latents] (unless tied), statistics, activation and activation_state_dict. Files with tensors
   * alone are read as ReLU.
   */
  static fromStateDict(
    state: StateDict,
    { strict = true, device = getDefaultDevice(), dtype = 'float32' }: StateOptions = {},
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
      { nLatents, nInputs, activation, tied, device, dtype },
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

  /** float32 [latents], as found in the file. */
  get latentsActivationFrequency(): Tensor {
    return this.#parts.frequency;
  }

  /** float32 [latents], as found in the file. */
  get latentsMeanSquare(): Tensor {
    return this.#parts.meanSquare;
  }

  /** x [..., inputs] -> latents before the activation [..., latents], or a slice of them. */
  encodePreAct(x: Tensor, { latentSlice }: { latentSlice?: readonly [number, number] } = {}): Tensor {
    this.#check('encodePreAct', x, this.nInputs);
    using centred = x.sub(this.#parts.preBias);
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

  /** latents [..., latents] -> reconstruction [..., inputs]. */
  decode(latents: Tensor): Tensor {
    this.#check('decode', latents, this.nLatents);
    return linear(latents, this.#decoder, { bias: this.#parts.preBias });
  }

  /** Encodes and decodes, and counts in statsLastNonzero the passes since each latent was last active. */
  async forward(x: Tensor): Promise<{ preAct: Tensor; latents: Tensor; reconstruction: Tensor }> {
    const preAct = this.encodePreAct(x);
    const latents = this.activation.apply(preAct);
    const reconstruction = this.decode(latents);
    updateLastNonzero(this.#parts.lastNonzero, latents);
    return { preAct, latents, reconstruction };
  }

  /**
   * The active latents of x [..., inputs] in CSR form, a row for each of x's rows, indices ascending: those above the
   * threshold (in magnitude, for an activation that leaves negative values). The dense latents are never stored.
   */
  async encodeSparse(x: Tensor, { threshold = 0 }: { threshold?: number } = {}): Promise<SparseLatents> {
    this.#check('encodeSparse', x, this.nInputs);
    using centred = x.sub(this.#parts.preBias);
    const { k, positive } = this.activation;
    return await sparseEncode(centred, this.#parts.encoder, {
      bias: this.#parts.latentBias,
      threshold,
      k: Math.min(k, this.nLatents),
      relu: positive,
    });
  }

  /** What decode gives for the latents that `sparse` stands for: [rows, inputs]. */
  decodeSparse(sparse: SparseLatents): Tensor {
    return sparseDecode(sparse, this.#decoder, { bias: this.#parts.preBias });
  }

  /** Under the original's names; weights in the stored dtype. */
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
    out.activation_state_dict = Object.assign(Object.create(null), activationToState(this.activation));
    return out;
  }

  /** sha256 of the weights and the activation, in hexadecimal; statistics do not count. */
  digest(): Promise<string> {
    this.#digest ??= (async () => {
      const state = await this.stateDict();
      const hash = createHash('sha256');
      hash.update(`${JSON.stringify([state.activation, state.activation_state_dict, this.tied])}\n`);
      for (const name of [...required, 'decoder.weight']) {
        const tensor = state[name];
        if (!isHostTensor(tensor)) continue;
        hash.update(`${name} ${tensor.dtype} [${tensor.shape.join(', ')}]\n`);
        hash.update(new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength));
      }
      return hash.digest('hex');
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

  #check(operation: string, x: Tensor, width: number): void {
    checkOperands(operation, { x, encoder: this.#parts.encoder });
    checkFloat(operation, 'x', x);
    if (x.shape.at(-1) === width) return;
    const of = width === this.nInputs ? 'inputs' : 'latents';
    throw new RangeError(wrong(operation, 'x', `[..., ${width}] (the autoencoder's ${of})`, showShape(x.shape)));
  }
}

/** A matrix [K, N] as [N, K]. */
function turned(matrix: PackedMatrix): PackedMatrix {
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
