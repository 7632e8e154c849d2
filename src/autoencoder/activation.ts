// The activation functions of sparse autoencoders, under the names that files give them.
import { checkInteger, checkObject, describe, wrong } from '../engine/check.js';
import { Tensor } from '../engine/ops/tensor.js';
import { topKMask } from '../engine/ops/top_k.js';
import { relu as reluOf } from '../engine/ops/unary.js';

export interface AutoencoderActivation {
  /** The name in files: ReLU, TopK, Identity. */
  readonly name: 'ReLU' | 'TopK' | 'Identity';
  /** TopK: how many latents of each row survive; 0 otherwise. */
  readonly k: number;
  /** Whether negative values become 0. */
  readonly positive: boolean;
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
});

/** The same as those of `activations`. */
export const { identity, topK } = activations;

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
  const expected = 'what relu(), identity() or topK() gives';
  checkObject(operation, argument, activation, expected);
  const { name, k, positive, apply } = activation;
  const isOne = ['ReLU', 'TopK', 'Identity'].includes(name) && typeof positive === 'boolean';
  if (isOne && Number.isSafeInteger(k) && k >= 0 && typeof apply === 'function') return activation;
  throw new TypeError(wrong(operation, argument, expected, describe(activation)));
}

/** An activation from a state dict's `activation` and `activation_state_dict`. */
export function activationFromState(name: unknown, state: unknown): AutoencoderActivation {
  if (name === undefined || name === 'ReLU') return activations.relu();
  if (name === 'Identity') return activations.identity();
  if (name !== 'TopK')
    throw new Error(`Autoencoder: activation must be ReLU, TopK or Identity, but is ${describe(name)}`);
  const { k, postact_fn: after } = (state ?? {}) as { k?: unknown; postact_fn?: unknown };
  return activations.topK(
    k as number,
    after === undefined ? activations.relu() : activationFromState(after, undefined),
  );
}

/** The `activation_state_dict` of an activation. */
export function activationToState(activation: AutoencoderActivation): Record<string, number | string> {
  if (activation.name !== 'TopK') return {};
  return { k: activation.k, postact_fn: activation.positive ? 'ReLU' : 'Identity' };
}
