// Finds weights in a model's files: each layout gives the location of a weight, and the stored tensor is converted to
// the weight that the graph uses.
import type { Tensor } from '../../engine/ops/tensor.js';
import { showShape } from '../../engine/shape.js';
import type { StoredTensor } from '../../files/host_tensor.js';
import type { ModelVocabulary } from '../../files/tokenizer/model_tokenizer.js';
import type { TransformerConfig } from './config.js';

/** The location of a weight in a model's files, and how it is stored. */
export interface StoredWeight {
  /** The stored tensor's name, also in messages. */
  readonly name: string;
  /** Whether it is stored transposed: a linear layer's weight as [in, out]. */
  readonly transposed: boolean;
  /** 0, 1 or 2 for a part of queries, keys and values, which are stored as one tensor in this order. */
  readonly third?: number;
}

/** A weight in its file. */
export interface OpenWeight extends StoredTensor {
  close(): Promise<void>;
}

export interface ModelFiles {
  /** The folder or address. */
  readonly base: string;
  readonly config: TransformerConfig;
  /** Rows of the token embedding. */
  nVocab(): Promise<number>;
  /** @throws Error that names tensors which are there and are no weights, or contradict config.json. */
  check(): Promise<void>;
  /** What the files say about the model's tokens, of which there are `nVocab`. */
  vocabulary(nVocab: number): Promise<ModelVocabulary>;
  /** Every file that open() may read. */
  readonly addresses: readonly string[];
  /** Where a weight is stored, by the original's name. @throws Error when the files have no such weight. */
  locate(name: string): StoredWeight;
  /** Opens a stored tensor, as it is stored; the caller reads and closes it. */
  open(stored: StoredWeight): Promise<OpenWeight>;
  close(): Promise<void>;
}

/** The shape in which a weight of `shape` is stored. */
function storedShape(shape: readonly number[], { transposed, third }: StoredWeight): number[] {
  const [first = 0, ...rest] = shape;
  const whole = [third === undefined ? first : 3 * first, ...rest];
  return transposed ? whole.reverse() : whole;
}

/** The weight [out, in] or [out] as a view of the stored tensor. */
export function weightView(whole: Tensor, { transposed, third }: StoredWeight): Tensor {
  const rows = transposed ? whole.permute([1, 0]) : whole;
  if (third === undefined) return rows;
  const n = (rows.shape[0] as number) / 3;
  return rows.slice(0, third * n, (third + 1) * n);
}

/** @throws Error with the weight's name and both shapes. */
export function checkStored(
  base: string,
  stored: StoredWeight,
  host: Pick<StoredTensor, 'dtype' | 'shape'>,
  shape: readonly number[],
): void {
  const expected = storedShape(shape, stored);
  if (!/^(float|bfloat)/.test(host.dtype)) {
    throw new Error(`${base}: ${stored.name} must be of floats, but is ${host.dtype}`);
  }
  if (showShape(host.shape) === showShape(expected)) return;
  throw new Error(
    `${base}: ${stored.name} must be ${showShape(expected)} to fit config.json, but is ${showShape(host.shape)}`,
  );
}
