// The loss of predictions: cross-entropy of logits and the indices that were right.
import {
  checkDType,
  checkFloat,
  checkOperands,
  checkOptions,
  checkRank,
  checkShape,
  describe,
  wrong,
} from '../check.js';
import type { DType } from '../dtype.js';
import { flattened } from '../nested.js';
import { Operand } from '../operand.js';
import { type Backward, hasHistory, type Keep, record } from '../record.js';
import { rowCount, type Shape, showShape } from '../shape.js';
import { addInPlace, divInPlace, mulInPlace } from './binary.js';
import { mean, sum } from './reduce.js';
import type { Tensor } from './tensor.js';

type Nested<T> = T | readonly Nested<T>[];
/** An integer for each row, in nested arrays. */
export type NestedTargets = Nested<number>;
const reductions = ['mean', 'sum', 'none'] as const;

export interface CrossEntropyOptions {
  /** Positions that do not count: bool [...], or nested booleans (or 0 and 1) of that shape. */
  pad?: Tensor | Nested<number | boolean>;
  /** What becomes of the losses: their mean over the positions that count, their sum, or nothing. */
  reduction?: (typeof reductions)[number];
}

/** The values of an argument that is not a tensor, in row-major order: nested arrays of `shape`. */
function valuesOf(argument: string, value: unknown, shape: Shape): unknown[] {
  return flattened(value, shape, (actual, { length: depth }) => {
    if (!Array.isArray(actual)) {
      const expected = `a tensor or nested arrays of shape ${showShape(shape)}`;
      throw new TypeError(wrong('crossEntropy', argument, expected, describe(actual)));
    }
    const expected = `of shape ${showShape(shape)}, ${shape[depth]} long at depth ${depth}`;
    throw new RangeError(wrong('crossEntropy', argument, expected, `${actual.length} long`));
  });
}

function flags(values: readonly unknown[]): Uint8Array {
  return Uint8Array.from(values, (value, i) => {
    if (typeof value === 'boolean' || value === 0 || value === 1) return Number(value);
    throw new TypeError(wrong('crossEntropy', `pad at position ${i}`, 'a boolean, 0 or 1', describe(value)));
  });
}

/** `pad`: whether a position is padding, and its target any number then; undefined where that is not known here. */
function targetsOf(values: readonly unknown[], n: number, pad: (i: number) => boolean | undefined): Int32Array {
  return Int32Array.from(values, (value, i) => {
    const argument = `targets at position ${i}`;
    if (typeof value !== 'number') {
      throw new TypeError(wrong('crossEntropy', argument, 'an integer', describe(value)));
    }
    if (pad(i) !== false) {
      if ((value | 0) === value) return value;
      throw new RangeError(wrong('crossEntropy', argument, 'an integer of 32 bits', describe(value)));
    }
    if (Number.isInteger(value) && value >= 0 && value < n) return value;
    throw new RangeError(wrong('crossEntropy', argument, `an integer in [0, ${n})`, describe(value)));
  });
}

/**
 * The gradients of the logits: their probabilities, less 1 at the targets; 0 in padding. They take the place of logits that
 * nobody needs any more, as both are large.
 */
function backwardOf(logits: Tensor, targets: Tensor, pad: Tensor | undefined, keep: Keep<Tensor>): Backward<Tensor> {
  const [kept, right, ignored] = [keep(logits), keep(targets), pad && keep(pad)];
  return (given) => {
    const g = given as Tensor;
    const { tensor, isFree } = kept;
    const isPlain = tensor.dtype === 'float32' && tensor.ownsAll && tensor.isContiguous;
    const out = isFree && isPlain ? tensor.shared() : g.make(tensor.shape);
    g.device.run('crossEntropyBackward', out, g, tensor, right.tensor, ignored?.tensor ?? null);
    return [out];
  };
}

const isTensor = (x: unknown): x is Tensor => Operand.kindOf(x) !== undefined;

/**
 * The cross-entropy in nats: log(sum(exp(row))) - row[target] of each row of logits, which is -log of the probability
 * that softmax gives the target. logits [..., N] of floats; targets int32 [...], or nested numbers of that shape ->
 * float32 [...] with reduction 'none', else a scalar. A row is read once and no probability is stored. Powers are
 * computed in float32 and added up in double precision, four at a time. Losses of padding are 0, whatever their target
 * is; the mean is over the others, NaN where there are none.
 * @throws RangeError for a target outside [0, N), which is named. One in a tensor fails the operation: the next read()
 * or synchronize() rejects.
 */
export function crossEntropy(
  logits: Tensor,
  targets: Tensor | NestedTargets,
  options: CrossEntropyOptions = {},
): Tensor {
  checkOptions('crossEntropy', options, { pad: true, reduction: true });
  const { pad, reduction = 'mean' } = options;
  if (!reductions.includes(reduction)) {
    throw new TypeError(wrong('crossEntropy', 'reduction', "'mean', 'sum' or 'none'", describe(reduction)));
  }
  const device = checkOperands(
    'crossEntropy',
    { logits, ...(isTensor(targets) && { targets }) },
    { optional: { pad: isTensor(pad) ? pad : undefined } },
  );
  checkFloat('crossEntropy', 'logits', logits);
  checkRank('crossEntropy', 'logits', logits, 1);
  const shape = logits.shape.slice(0, -1);
  const n = logits.shape.at(-1) as number;
  const like = `one for each row of logits ${showShape(logits.shape)}`;
  const given = (argument: string, t: Tensor, dtype: DType) => {
    checkDType('crossEntropy', argument, t, dtype);
    checkShape('crossEntropy', argument, t.shape, shape, like);
  };
  if (isTensor(pad)) given('pad', pad, 'bool');
  if (isTensor(targets)) given('targets', targets, 'int32');
  const padding = pad === undefined || isTensor(pad) ? undefined : flags(valuesOf('pad', pad, shape));
  const isPadding = (i: number) => (padding ? padding[i] === 1 : pad === undefined ? false : undefined);
  const indices = isTensor(targets) ? undefined : targetsOf(valuesOf('targets', targets, shape), n, isPadding);

  const made: Tensor[] = [];
  const upload = (data: Int32Array | Uint8Array) => {
    const t = logits.make(shape, data instanceof Int32Array ? 'int32' : 'bool');
    device.upload(t, data);
    made.push(t);
    return t;
  };
  try {
    const right = indices ? upload(indices) : (targets as Tensor);
    const ignored = padding ? upload(padding) : (pad as Tensor | undefined);
    const losses = logits.make(shape, 'float32');
    device.run('crossEntropy', losses, logits, right, ignored ?? null);
    if (hasHistory(logits, right)) {
      record('crossEntropy', [losses], [logits, right], (keep) => backwardOf(logits, right, ignored, keep));
    }
    if (reduction === 'none') return losses;
    made.push(losses);
    const out = reduction === 'sum' || ignored ? sum(losses) : mean(losses);
    if (reduction === 'mean' && ignored) {
      const count = sum(ignored);
      made.push(count);
      mulInPlace(count, -1);
      addInPlace(count, rowCount(logits.shape));
      divInPlace(out, count);
    }
    return out;
  } finally {
    for (const t of made) t.dispose();
  }
}
