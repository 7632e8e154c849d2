// Weights for benchmarks, without a download.
import type { Device } from '../../engine/device.js';
import type { DType } from '../../engine/dtype.js';
import { Tensor } from '../../engine/ops/tensor.js';
import { buildWeights, type Loaded } from './build_weights.js';
import type { TransformerConfig } from './config.js';

/**
 * Seeded random weights of GPT-2's initialisation: normal with 0.02, residual projections scaled by 1/sqrt(2 layers).
 */
export async function randomWeights(
  config: TransformerConfig,
  nVocab: number,
  device: Device,
  dtype: DType,
  seed: number,
): Promise<Loaded> {
  let count = 0;
  const make = (name: string, shape: number[]): Tensor => {
    if (name.endsWith('.bias')) return Tensor.zeros(shape, { device, dtype });
    if (/(ln_1|ln_2|final_ln)\.weight$/.test(name)) return Tensor.zeros(shape, { device, dtype }).fill(1);
    const residual = /(out_proj|out_layer)\.weight$/.test(name) ? Math.sqrt(2 * config.nLayers) : 1;
    // GPT-2 unembeds with its embedding: the same seed gives the same matrix
    const part = name === 'unembed.weight' ? 1 : ++count;
    return Tensor.randn(shape, { device, dtype, seed: (seed % 2 ** 32) * 2 ** 16 + part, std: 0.02 / residual });
  };
  const weights = await buildWeights(config, nVocab, device, dtype, {
    tensor: async (name, shape) => make(name, shape),
    async lend(name, shape, use) {
      using weight = make(name, shape);
      use(weight);
    },
  });
  return { config, nVocab, weights };
}
