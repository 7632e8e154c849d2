// Folds layer norms into the linear layers that follow them.
import { packWeights } from '../../engine/ops/pack_weights.js';
import type { LayerWeights, Linear, Norm } from './weights.js';

/**
 * Folds each layer's norms into the linear layers that follow: W' = W diag(gain), b' = b + W bias, gain 1 and bias 0.
 * The final norm stays, as the unembedding has no bias. The products are in float32. Returns new weights for the
 * layers.
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
