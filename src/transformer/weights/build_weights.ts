// Builds the graph's weights from tensors under the original's names, wherever those come from.
import type { Device } from '../../engine/device.js';
import type { DType } from '../../engine/dtype.js';
import { type PackedMatrix, packWeights } from '../../engine/ops/pack_weights.js';
import { Tensor } from '../../engine/ops/tensor.js';
import { dAttn, type TransformerConfig } from './config.js';
import { parameterShape } from './state_dict.js';
import type { LayerWeights, Linear, Norm, Weights } from './weights.js';

/** A loaded model. */
export interface Loaded {
  readonly config: TransformerConfig;
  readonly nVocab: number;
  readonly weights: Weights;
}

/** Gives weights by the original's name, in the model's dtype and on its device. */
export interface WeightSource {
  /** A tensor of that shape, the caller's to free. */
  tensor(name: string, shape: number[]): Promise<Tensor>;
  /** Lends a tensor, or a view, of that shape until `use` returns. */
  lend(name: string, shape: number[], use: (weight: Tensor) => void): Promise<void>;
}

/** Weights from a source. If one of them fails, the others are freed. */
export async function buildWeights(
  config: TransformerConfig,
  nVocab: number,
  device: Device,
  dtype: DType,
  source: WeightSource,
): Promise<Weights> {
  const D = config.dModel;
  const A = dAttn(config);
  const made: { dispose(): void }[] = [];
  const own = <T extends { dispose(): void }>(t: T): T => {
    made.push(t);
    return t;
  };
  const tensor = async (name: string) => own(await source.tensor(name, parameterShape(name, config, nVocab)));
  const norm = async (name: string): Promise<Norm> => ({
    gain: await tensor(`${name}.weight`),
    bias: await tensor(`${name}.bias`),
  });
  const packed = async (name: string): Promise<PackedMatrix> => {
    let matrix: PackedMatrix | undefined;
    await source.lend(name, parameterShape(name, config, nVocab), (weight) => {
      matrix = own(packWeights(weight, { transposeB: true }));
    });
    return matrix as PackedMatrix;
  };
  const linear = async (name: string): Promise<Linear> => ({
    w: await packed(`${name}.weight`),
    bias: await tensor(`${name}.bias`),
  });
  const joint = async (prefix: string): Promise<Linear> => {
    using weight = Tensor.empty([3 * A, D], { device, dtype });
    const bias = own(Tensor.empty([3 * A], { device, dtype }));
    const parts = ['q_proj', 'k_proj', 'v_proj'];
    // weights first, then biases: where a file holds all three as one tensor, it is lent three times in a row
    for (const [kind, joined, rest] of [['weight', weight, [D]] as const, ['bias', bias, []] as const]) {
      for (const [i, name] of parts.entries()) {
        await source.lend(`${prefix}.${name}.${kind}`, [A, ...rest], (part) => {
          joined.slice(0, i * A, (i + 1) * A).copyFrom(part);
        });
      }
    }
    return { w: own(packWeights(weight, { transposeB: true })), bias };
  };
  try {
    // the largest first: the embedding reuses the memory in which the unembedding is uploaded before it is packed
    const unembed = await packed('unembed.weight');
    const tokEmbed = await tensor('tok_embed.weight');
    const posEmbed = await tensor('pos_embed.weight');
    const layers: LayerWeights[] = [];
    for (let i = 0; i < config.nLayers; i++) {
      const prefix = `xf_layers.${i}`;
      layers.push({
        ln1: await norm(`${prefix}.ln_1`),
        qkv: await joint(`${prefix}.attn`),
        out: await linear(`${prefix}.attn.out_proj`),
        ln2: await norm(`${prefix}.ln_2`),
        mlpIn: await linear(`${prefix}.mlp.in_layer`),
        mlpOut: await linear(`${prefix}.mlp.out_layer`),
      });
      await device.synchronize(); // packing is done: this layer's uploads are freed before the next layer's are made
    }
    const lnF = await norm('final_ln');
    await device.synchronize();
    return { tokEmbed, posEmbed, layers, lnF, unembed };
  } catch (error) {
    for (const t of made) t.dispose();
    throw error;
  }
}
