// Random inputs of the operations whose gradients are checked.
import type { DType } from '../../../../src/engine/dtype.js';
import { product } from '../../../support/operations/cases.js';
import type { Random } from '../../../support/random.js';
import type { Input } from './differences.js';

/** Normal values. */
export const normal = (rng: Random, shape: readonly number[], dtype: DType = 'float32', scale = 1): Input => ({
  shape,
  values: rng.floats(product(shape), scale),
  dtype,
});

export const maybe = (rng: Random, probability = 0.5): boolean => rng.next() < probability;
