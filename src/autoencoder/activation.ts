// The activation functions of sparse autoencoders, under the names that files give them.
import { checkFloat, checkInteger, checkNumber, checkObject, checkOperands, describe, wrong } from '../engine/check.js';
import type { Device } from '../engine/device.js';
import { le } from '../engine/ops/compare.js';
import { Tensor } from '../engine/ops/tensor.js';
import { topKMask } from '../engine/ops/top_k.js';
import { relu as reluOf } from '../engine/ops/unary.js';
import { where } from '../engine/ops/where.js';
import { showShape } from '../engine/shape.js';
import { isHostTensor, mismatch, type StateDict, toFloat32 } from '../files/host_tensor.js';

export interface AutoencoderActivation {
  /** The name in files: ReLU, TopK, Identity, JumpReLU. */
  readonly name: 'ReLU' | 'TopK' | 'Identity' | 'JumpReLU';
  /** TopK: how many latents of each row survive; 0 otherwise. */
  readonly k: number;
  /** Whether negative values become 0. */
  readonly positive: boolean;
  /** JumpReLU: what each latent has to be above, float32 numbers [latents]; left out otherwise. */
  readonly thresholds?: readonly number[];
  /** preAct [..., latents] -> a new tensor like it. */
  apply(preAct: Tensor): Tensor;
}

/** The activation functions that an autoencoder may have. */
export const activations = Object.freeze({
  /** max(x, 0); NaN stays NaN. */
  relu: (): AutoencoderActivation => ({
    name: 'ReLU',
    k: 0,
    positive: true,
    apply: (preAct) => reluOf(checked(preAct)),
  }),

  /** x itself. */
  identity: (): AutoencoderActivation => ({
    name: 'Identity',
    k: 0,
    positive: false,
    apply: (preAct) => checked(preAct).clone(),
  }),

  /**
   * Keeps each row's k largest (of equals, the lower indices) and sets the rest to 0; survivors go through relu or
   * identity.
   */
  topK(k: number, after: AutoencoderActivation = activations.relu()): AutoencoderActivation {
    checkInteger('topK', 'k', k, 1);
    if (checkActivation('topK', after, 'after').k > 0)
      throw new TypeError('topK: what comes after it must be relu() or identity()');
    const { positive } = after;
    return {
      name: 'TopK',
      k,
      positive,
      apply: (preAct) => topKMask(checked(preAct), Math.min(k, preAct.shape.at(-1) ?? 0), { relu: positive }),
    };
  },

  /**
   * x where it is above its latent's threshold, else 0; NaN stays NaN (Rajamanoharan et al., arXiv 2407.14435). x of any
   * dtype of floats is compared as float32. The derivative is 1 where x is kept, and 0 elsewhere.
   * @param thresholds [latents], numbers of 0 or more, rounded to float32. A latent whose threshold is infinite is never
   *   active.
   * @throws RangeError that names a threshold that is negative or NaN.
   */
  jumpReLU(thresholds: readonly number[] | Float32Array): AutoencoderActivation {
    if (!Array.isArray(thresholds) && !(thresholds instanceof Float32Array)) {
      throw new TypeError(wrong('jumpReLU', 'thresholds', 'an array or a Float32Array', describe(thresholds)));
    }
    if (thresholds.length === 0) throw new RangeError('jumpReLU: thresholds must have one number at least');
    const rounded = Object.freeze(Array.from(thresholds, (value, i) => roundedThreshold('jumpReLU', i, value)));
    return {
      name: 'JumpReLU',
      k: 0,
      positive: true,
      thresholds: rounded,
      apply: (preAct) => {
        using own = thresholdTensor(rounded, checked(preAct).device);
        return jump(preAct, own);
      },
    };
  },
});

function roundedThreshold(operation: string, index: number, value: number): number {
  const argument = `thresholds[${index}]`;
  if (!(checkNumber(operation, argument, value) >= 0)) {
    throw new RangeError(wrong(operation, argument, '0 or more', String(value)));
  }
  return Math.fround(value) + 0; // -0 becomes 0
}

/** A JumpReLU's thresholds as a tensor, float32 [latents]. */
export const thresholdTensor = (thresholds: readonly number[], device: Device): Tensor =>
  Tensor.from(Float32Array.from(thresholds), { device });

/** preAct [..., latents] where it is above its latent's threshold, float32 [latents], else 0; NaN stays NaN. */
export function jump(preAct: Tensor, thresholds: Tensor): Tensor {
  checkOperands('apply', { preAct, thresholds });
  checkFloat('apply', 'preAct', preAct);
  const [latents] = thresholds.shape;
  if (preAct.shape.at(-1) !== latents) {
    const expected = `[..., ${latents}] (a latent for each threshold)`;
    throw new RangeError(wrong('apply', 'preAct', expected, showShape(preAct.shape)));
  }
  using isOff = le(preAct, thresholds);
  return where(isOff, 0, preAct);
}

/** The same as those of `activations`. */
export const { identity, topK, jumpReLU } = activations;

/** The same as activations.relu(). */
export function relu(): AutoencoderActivation;
/** max(x, 0); NaN stays NaN. */
export function relu(x: Tensor): Tensor;
export function relu(...operands: [] | [x: Tensor]): AutoencoderActivation | Tensor {
  return operands.length === 0 ? activations.relu() : reluOf(operands[0]);
}

function checked(preAct: Tensor): Tensor {
  if (preAct instanceof Tensor) return preAct;
  throw new TypeError(wrong('apply', 'preAct', 'a tensor', describe(preAct)));
}

/** @throws TypeError for what is no activation of an autoencoder. */
export function checkActivation(
  operation: string,
  activation: AutoencoderActivation,
  argument = 'activation',
): AutoencoderActivation {
  const expected = 'what relu(), identity(), topK() or jumpReLU() gives';
  checkObject(operation, argument, activation, expected);
  const { name, k, positive, thresholds, apply } = activation;
  const isOne = ['ReLU', 'TopK', 'Identity', 'JumpReLU'].includes(name) && typeof positive === 'boolean';
  const fits = name === 'JumpReLU' ? Array.isArray(thresholds) && thresholds.every((x) => x >= 0) : !thresholds;
  if (isOne && fits && Number.isSafeInteger(k) && k >= 0 && typeof apply === 'function') return activation;
  throw new TypeError(wrong(operation, argument, expected, describe(activation)));
}

/** An activation of `latents` latents from a state dict's `activation` and `activation_state_dict`. */
export function activationFromState(name: unknown, state: unknown, latents: number): AutoencoderActivation {
  const { k, postact_fn: after, threshold } = (state ?? {}) as Record<string, unknown>;
  const plain = plainActivation(name);
  if (plain) return plain;
  if (name === 'JumpReLU') return activations.jumpReLU(thresholdsFromState(threshold, latents));
  if (name !== 'TopK') {
    throw new Error(wrong('Autoencoder', 'activation', 'ReLU, TopK, JumpReLU or Identity', describe(name)));
  }
  const then = plainActivation(after);
  if (then) return activations.topK(k as number, then);
  throw new Error(wrong('Autoencoder', 'activation_state_dict.postact_fn', 'ReLU or Identity', describe(after)));
}

/** The activation of that name if it has no parameters: ReLU where none is given. */
function plainActivation(name: unknown): AutoencoderActivation | undefined {
  if (name === undefined || name === 'ReLU') return activations.relu();
  return name === 'Identity' ? activations.identity() : undefined;
}

/** @throws Error that names the entry of the state dict, unless it is a tensor of thresholds [latents]. */
function thresholdsFromState(threshold: unknown, latents: number): number[] {
  const entry = 'activation_state_dict.threshold';
  if (!isHostTensor(threshold) || !(threshold.shape.length === 1 && threshold.shape[0] === latents)) {
    const actual = isHostTensor(threshold) ? showShape(threshold.shape) : describe(threshold);
    throw new Error(wrong('Autoencoder', entry, `[${latents}] (a number for each latent)`, actual));
  }
  const misfit = mismatch(threshold);
  if (misfit !== undefined) throw new Error(`Autoencoder: ${entry}: ${misfit}`);
  if (!/float/.test(threshold.dtype)) throw new Error(wrong('Autoencoder', entry, 'of floats', threshold.dtype));
  const values = Array.from(threshold.dtype === 'float64' ? (threshold.data as Float64Array) : toFloat32(threshold));
  const bad = values.findIndex((value) => !(value >= 0));
  if (bad >= 0) throw new RangeError(wrong('Autoencoder', `${entry}[${bad}]`, '0 or more', String(values[bad])));
  return values;
}

/** The `activation_state_dict` of an activation. */
export function activationToState({ name, k, positive, thresholds }: AutoencoderActivation): StateDict {
  if (thresholds) {
    const data = Float32Array.from(thresholds);
    return { threshold: { dtype: 'float32', shape: [data.length], data } };
  }
  return name === 'TopK' ? { k, postact_fn: positive ? 'ReLU' : 'Identity' } : {};
}
