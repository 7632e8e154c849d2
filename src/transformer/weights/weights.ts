// The weights of a transformer as the graph uses them: packed matrices, the three projections of attention as one.

import type { PackedMatrix } from '../../engine/ops/pack_weights.js';
import type { Tensor } from '../../engine/ops/tensor.js';
import type { GradientRecord } from '../../engine/record.js';
import { disposeAll } from '../../engine/scope.js';

export interface Norm {
  readonly gain: Tensor;
  readonly bias: Tensor;
}

export interface Linear {
  readonly w: PackedMatrix;
  readonly bias: Tensor;
}

export interface LayerWeights {
  readonly ln1: Norm;
  /** Queries, keys and values side by side: [D, 3 * attention width]. */
  readonly qkv: Linear;
  readonly out: Linear;
  readonly ln2: Norm;
  readonly mlpIn: Linear;
  readonly mlpOut: Linear;
}

export interface Weights {
  readonly tokEmbed: Tensor;
  readonly posEmbed: Tensor;
  readonly layers: LayerWeights[];
  readonly lnF: Norm;
  /** [D, V] */
  readonly unembed: PackedMatrix;
}

/** The same weights in a pass that wants their gradients: they are watched in its record alone. */
export function watchedWeights(weights: Weights, record: GradientRecord): Weights {
  const watched = <T extends Tensor | PackedMatrix>(weight: T): T => {
    const view = weight.detach() as T;
    record.watch(view);
    return view;
  };
  const norm = ({ gain, bias }: Norm): Norm => ({ gain: watched(gain), bias: watched(bias) });
  const linear = ({ w, bias }: Linear): Linear => ({ w: watched(w), bias: watched(bias) });
  return {
    tokEmbed: watched(weights.tokEmbed),
    posEmbed: watched(weights.posEmbed),
    layers: weights.layers.map(({ ln1, qkv, out, ln2, mlpIn, mlpOut }) => ({
      ...{ ln1: norm(ln1), qkv: linear(qkv), out: linear(out) },
      ...{ ln2: norm(ln2), mlpIn: linear(mlpIn), mlpOut: linear(mlpOut) },
    })),
    lnF: norm(weights.lnF),
    unembed: watched(weights.unembed),
  };
}

export function disposeWeights({ tokEmbed, posEmbed, layers, lnF, unembed }: Weights): void {
  disposeAll(tokEmbed, posEmbed, lnF.gain, lnF.bias, unembed);
  for (const { ln1, qkv, out, ln2, mlpIn, mlpOut } of layers) {
    for (const norm of [ln1, ln2]) disposeAll(norm.gain, norm.bias);
    for (const linear of [qkv, out, mlpIn, mlpOut]) disposeAll(linear.w, linear.bias);
  }
}
