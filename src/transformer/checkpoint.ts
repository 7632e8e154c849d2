// Checkpoints in the original's layout (config.json and model_pieces/NAME.pt, a tensor each), seeded random weights, and the
// way between a state dict's tensors and the packed weights of the graph.
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Device } from '../engine/device.js';
import type { DType } from '../engine/dtype.js';
import { type PackedMatrix, packWeights } from '../engine/packed_matrix.js';
import { sameShape, showShape } from '../engine/shape.js';
import { Tensor } from '../engine/tensor.js';
import { toHost } from '../engine/to_host.js';
import { writeFileAtomically } from '../files/atomic_write.js';
import { type HostTensor, isHostTensor } from '../files/host_tensor.js';
import { loadTorchValue, saveTorch } from '../files/torch.js';
import { configFromJson, configToJson, dAttn, dFf, type TransformerConfig } from './config.js';
import type { LayerWeights, Linear, Norm, Weights } from './weights.js';

/** Gives the tensor of a name, of that shape, in the model's dtype and on its device: the caller's to free. */
type Source = (name: string, shape: number[]) => Tensor | Promise<Tensor>;

/** Weights from tensors under the original's names; freed again if one of them fails. */
async function buildWeights(config: TransformerConfig, nVocab: number, device: Device, dtype: DType, source: Source) {
  const D = config.dModel;
  const A = dAttn(config);
  const made: { dispose(): void }[] = [];
  const own = <T extends { dispose(): void }>(t: T): T => {
    made.push(t);
    return t;
  };
  const tensor = async (name: string, shape: number[]) => own(await source(name, shape));
  const norm = async (name: string): Promise<Norm> => ({
    gain: await tensor(`${name}.weight`, [D]),
    bias: await tensor(`${name}.bias`, [D]),
  });
  // a linear layer's weight is [out, in]
  const packed = async (name: string, n: number, k: number): Promise<PackedMatrix> => {
    using weight = await source(name, [n, k]);
    return own(packWeights(weight, { transposeB: true }));
  };
  const linear = async (name: string, n: number, k: number): Promise<Linear> => ({
    w: await packed(`${name}.weight`, n, k),
    bias: await tensor(`${name}.bias`, [n]),
  });
  const joint = async (prefix: string): Promise<Linear> => {
    using weight = Tensor.empty([3 * A, D], { device, dtype });
    const bias = own(Tensor.empty([3 * A], { device, dtype }));
    for (const [i, name] of ['q_proj', 'k_proj', 'v_proj'].entries()) {
      using w = await source(`${prefix}.${name}.weight`, [A, D]);
      using b = await source(`${prefix}.${name}.bias`, [A]);
      weight.slice(0, i * A, (i + 1) * A).copyFrom(w);
      bias.slice(0, i * A, (i + 1) * A).copyFrom(b);
    }
    return { w: own(packWeights(weight, { transposeB: true })), bias };
  };
  try {
    const tokEmbed = await tensor('tok_embed.weight', [nVocab, D]);
    const posEmbed = await tensor('pos_embed.weight', [config.ctxWindow, D]);
    const layers: LayerWeights[] = [];
    for (let i = 0; i < config.nLayers; i++) {
      const prefix = `xf_layers.${i}`;
      layers.push({
        ln1: await norm(`${prefix}.ln_1`),
        qkv: await joint(`${prefix}.attn`),
        out: await linear(`${prefix}.attn.out_proj`, D, A),
        ln2: await norm(`${prefix}.ln_2`),
        mlpIn: await linear(`${prefix}.mlp.in_layer`, dFf(config), D),
        mlpOut: await linear(`${prefix}.mlp.out_layer`, D, dFf(config)),
      });
      await device.synchronize(); // what was uploaded is packed: its copies go before the next layer's come
    }
    const lnF = await norm('final_ln');
    const unembed = await packed('unembed.weight', nVocab, D);
    await device.synchronize();
    return { tokEmbed, posEmbed, layers, lnF, unembed } satisfies Weights;
  } catch (error) {
    for (const t of made) t.dispose();
    throw error;
  }
}

/** A model's parts. */
export interface Loaded {
  readonly config: TransformerConfig;
  readonly nVocab: number;
  readonly weights: Weights;
}

/** Reads a folder in the original's layout. @throws Error that names the file or tensor that is missing or does not fit. */
export async function loadCheckpoint(folder: string, device: Device, dtype: DType): Promise<Loaded> {
  const file = join(folder, 'config.json');
  const config = configFromJson(parseJson(await readText(file), file), file);
  const piece = async (name: string): Promise<HostTensor> => {
    const path = join(folder, 'model_pieces', `${name}.pt`);
    const value = await loadTorchValue(path);
    if (!isHostTensor(value)) throw new Error(`${path}: must hold one tensor`);
    if (!/^(float|bfloat)/.test(value.dtype))
      throw new Error(`${path}: ${name} must be of floats, but is ${value.dtype}`);
    return value;
  };
  // files are read ahead while the one before is packed; a failed read is told when its turn comes
  const ahead = new Map<string, Promise<HostTensor>>();
  const names = pieceNames(config);
  const readAhead = () => {
    while (ahead.size < 4 && names.length > 0) {
      const name = names.shift() as string;
      const reading = piece(name);
      reading.catch(() => {});
      ahead.set(name, reading);
    }
  };
  const take = async (name: string): Promise<HostTensor> => {
    readAhead();
    const host = await (ahead.get(name) as Promise<HostTensor>);
    ahead.delete(name);
    readAhead();
    return host;
  };
  const vocabulary = await take('tok_embed.weight');
  ahead.set('tok_embed.weight', Promise.resolve(vocabulary)); // its turn is yet to come
  const nVocab = vocabulary.shape[0] ?? 0;
  if (vocabulary.shape.length !== 2 || nVocab === 0) {
    throw new Error(
      `${folder}: tok_embed.weight must be [vocabulary, ${config.dModel}], but is ${showShape(vocabulary.shape)}`,
    );
  }
  const weights = await buildWeights(config, nVocab, device, dtype, async (name, shape) => {
    const host = await take(name);
    if (!sameShape(host.shape, shape)) {
      throw new Error(
        `${folder}: ${name} must be ${showShape(shape)} to fit config.json, but is ${showShape(host.shape)}`,
      );
    }
    return Tensor.from(host, { device, dtype });
  });
  return { config, nVocab, weights };
}

/** Seeded random weights of GPT-2's initialisation: normal with 0.02, residual projections scaled by 1/sqrt(2 layers). */
export async function randomWeights(
  config: TransformerConfig,
  nVocab: number,
  device: Device,
  dtype: DType,
  seed: number,
): Promise<Loaded> {
  let count = 0;
  const weights = await buildWeights(config, nVocab, device, dtype, (name, shape) => {
    if (name.endsWith('.bias')) return Tensor.zeros(shape, { device, dtype });
    if (/(ln_1|ln_2|final_ln)\.weight$/.test(name)) return Tensor.zeros(shape, { device, dtype }).fill(1);
    const residual = /(out_proj|out_layer)\.weight$/.test(name) ? Math.sqrt(2 * config.nLayers) : 1;
    // GPT-2 unembeds with its embedding: the same seed gives the same matrix
    const part = name === 'unembed.weight' ? 1 : ++count;
    return Tensor.randn(shape, { device, dtype, seed: (seed % 2 ** 32) * 2 ** 16 + part, std: 0.02 / residual });
  });
  return { config, nVocab, weights };
}

/** The names of a checkpoint's pieces, in the order in which they are loaded. */
export function pieceNames({ nLayers }: TransformerConfig): string[] {
  const both = (name: string) => [`${name}.weight`, `${name}.bias`];
  const layer = (i: number) =>
    [
      'ln_1',
      'attn.q_proj',
      'attn.k_proj',
      'attn.v_proj',
      'attn.out_proj',
      'ln_2',
      'mlp.in_layer',
      'mlp.out_layer',
    ].flatMap((name) => both(`xf_layers.${i}.${name}`));
  return [
    'tok_embed.weight',
    'pos_embed.weight',
    ...Array.from({ length: nLayers }, (_, i) => layer(i)).flat(),
    ...both('final_ln'),
    'unembed.weight',
  ];
}

/** Every tensor under the original's name, read to the host one at a time, in pieceNames' order. */
export async function* hostPieces(weights: Weights): AsyncGenerator<[string, HostTensor]> {
  const norm = function* (name: string, { gain, bias }: Norm): Generator<[string, Tensor]> {
    yield [`${name}.weight`, gain];
    yield [`${name}.bias`, bias];
  };
  const matrix = async function* (names: string[], { w, bias }: Linear): AsyncGenerator<[string, HostTensor]> {
    using all = w.unpack({ transposeB: true });
    const n = w.n / names.length;
    for (const [i, name] of names.entries()) {
      yield [`${name}.weight`, await toHost(all.slice(0, i * n, (i + 1) * n))];
      yield [`${name}.bias`, await toHost(bias.slice(0, i * n, (i + 1) * n))];
    }
  };
  const plain = async function* (pieces: Iterable<[string, Tensor]>): AsyncGenerator<[string, HostTensor]> {
    for (const [name, t] of pieces) yield [name, await toHost(t)];
  };
  yield ['tok_embed.weight', await toHost(weights.tokEmbed)];
  yield ['pos_embed.weight', await toHost(weights.posEmbed)];
  for (const [i, layer] of weights.layers.entries()) {
    const name = (part: string) => `xf_layers.${i}.${part}`;
    yield* plain(norm(name('ln_1'), layer.ln1));
    yield* matrix(
      ['q_proj', 'k_proj', 'v_proj'].map((part) => name(`attn.${part}`)),
      layer.qkv,
    );
    yield* matrix([name('attn.out_proj')], layer.out);
    yield* plain(norm(name('ln_2'), layer.ln2));
    yield* matrix([name('mlp.in_layer')], layer.mlpIn);
    yield* matrix([name('mlp.out_layer')], layer.mlpOut);
  }
  yield* plain(norm('final_ln', weights.lnF));
  using unembed = weights.unembed.unpack({ transposeB: true });
  yield ['unembed.weight', await toHost(unembed)];
}

/** Writes the original's layout; config.json comes last, so that a folder with one is whole. */
export async function saveCheckpoint(folder: string, config: TransformerConfig, weights: Weights): Promise<void> {
  const pieces = join(folder, 'model_pieces');
  const known = new Set(pieceNames(config).map((name) => `${name}.pt`));
  const foreign = [
    ...(await namesIn(folder)).filter((name) => name !== 'config.json' && name !== 'model_pieces'),
    ...(await namesIn(pieces)).filter((name) => !known.has(name)),
  ];
  if (foreign.length > 0)
    throw new Error(`saveCheckpoint: ${folder} holds something else: ${foreign.slice(0, 3).join(', ')}`);
  await mkdir(pieces, { recursive: true });
  await rm(join(folder, 'config.json'), { force: true }); // until the new pieces are there, the folder is no checkpoint
  for await (const [name, tensor] of hostPieces(weights)) await saveTorch(join(pieces, `${name}.pt`), tensor);
  await writeFileAtomically(join(folder, 'config.json'), [`${JSON.stringify(configToJson(config), null, 1)}\n`]);
}

/**
 * Folds each layer's norms into the linear layers that follow: W' = W diag(gain), b' = b + W bias, gain 1 and bias 0. The
 * final norm stays, as the unembedding has no bias to take it up. Computed in float32. Gives new weights for the layers.
 */
export function foldNorms(layers: readonly LayerWeights[]): LayerWeights[] {
  return layers.map((layer) => ({
    ...layer,
    ln1: plainNorm(layer.ln1),
    qkv: fold(layer.ln1, layer.qkv),
    ln2: plainNorm(layer.ln2),
    mlpIn: fold(layer.ln2, layer.mlpIn),
  }));
}

function plainNorm({ gain, bias }: Norm): Norm {
  return { gain: gain.clone().fill(1), bias: bias.clone().fill(0) };
}

function fold({ gain, bias: shift }: Norm, { w, bias }: Linear): Linear {
  using stored = w.unpack({ transposeB: true }); // [N, K]
  using weight = stored.to('float32');
  using wide = shift.to('float32');
  using terms = weight.mul(wide);
  using added = terms.sum(1);
  added.add_(bias);
  weight.mul_(gain);
  return { w: packWeights(weight, { transposeB: true, dtype: w.dtype }), bias: added.to(bias.dtype) };
}

/** What lies in a folder; nothing where there is none. */
async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    throw new Error(code === 'ENOENT' ? `${file}: there is no such file` : message, { cause });
  }
}

function parseJson(text: string, file: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new Error(`${file}: is not JSON: ${(cause as Error).message}`, { cause });
  }
}
