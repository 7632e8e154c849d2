// How a model's files hold its weights: what each layout says of where a weight lies, and the way from there to the weight
// as the graph wants it.

import type { Tensor } from '../../engine/ops/tensor.js';
import { showShape } from '../../engine/shape.js';
import type { StoredTensor } from '../../files/host_tensor.js';
import type { TransformerConfig } from './config.js';

/** Where a weight lies in a model's files, and how. */
export interface StoredWeight {
  /** As messages name it. */
  readonly name: string;
  /** A linear layer's weight is stored as [in, out]. */
  readonly transposed: boolean;
  /** One of queries, keys and values, which are stored side by side in this order. */
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
  /** Every file that read() may want. */
  readonly addresses: readonly string[];
  /** By the original's name. @throws Error when the files have no such weight. */
  locate(name: string): StoredWeight;
  /** What is stored, as it is stored, to be read and closed. */
  open(stored: StoredWeight): Promise<OpenWeight>;
  close(): Promise<void>;
}

/** The shape in which a weight of `shape` is stored. */
export function storedShape(shape: readonly number[], { transposed, third }: StoredWeight): number[] {
  const [first = 0, ...rest] = shape;
  const whole = [third === undefined ? first : 3 * first, ...rest];
  return transposed ? whole.reverse() : whole;
}

/** The weight [out, in] or [out] as a view of what is stored. */
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
