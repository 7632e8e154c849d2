// New tensors of given values, as functions; Tensor has the same as static methods.
import type { RangeArguments } from '../arange.js';
import { type EyeArguments, Tensor, type TensorOptions } from './tensor.js';

/** Tensor.full: a tensor of one value. */
export const full = (shape: number[], value: number | boolean, options: TensorOptions = {}): Tensor =>
  Tensor.filled('full', shape, value, options);

/** Tensor.ones: a tensor of ones. */
export const ones = (shape: number[], options: TensorOptions = {}): Tensor => Tensor.filled('ones', shape, 1, options);

/** Tensor.arange: numbers at equal distances. */
export const arange = (...args: RangeArguments): Tensor => Tensor.range('arange', args);

/** Tensor.eye: ones on the diagonal of a matrix of zeros. */
export const eye = (...args: EyeArguments): Tensor => Tensor.identity('eye', args);
