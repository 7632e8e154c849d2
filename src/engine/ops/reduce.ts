// Reductions of rows to one value each, over one dimension, several or all.
import {
  checkBoolean,
  checkedDim,
  checkNumber,
  checkOperands,
  checkOptions,
  type OptionNames,
  wrong,
} from '../check.js';
import { type DType, floatDType } from '../dtype.js';
import { hasHistory, record } from '../record.js';
import { type Shape, showShape } from '../shape.js';
import type { Tensor } from './tensor.js';
import { dimsLast } from './views.js';

/**
 * A dimension, or several in any order; all of them where it is left out or the list is empty. Negative ones count from
 * the end.
 */
export type Dims = number | readonly number[];

export interface ReduceOptions {
  /** Keep the dimensions, with size 1. */
  keepDim?: boolean;
}
export interface VarianceOptions extends ReduceOptions {
  /** What is subtracted from the number of elements before the division: 1 unless given, and 0 for a population's. */
  correction?: number;
}
export const reduceOptions: OptionNames<ReduceOptions> = { keepDim: true };
const varianceOptions: OptionNames<VarianceOptions> = { ...reduceOptions, correction: true };

// ReduceKind in native/ops.h
const kinds = {
  ...{ sum: 0, mean: 1, max: 2, min: 3, any: 4, all: 5 },
  ...{ var: 6, std: 7, norm: 8, logSumExp: 9 },
} as const;
type Kind = keyof typeof kinds;

/** The dimensions, ascending and counted from 0. */
function checkedDims(operation: string, dim: Dims | undefined, shape: Shape): number[] {
  if (dim === undefined) return [...shape.keys()];
  if (!Array.isArray(dim)) return [checkedDim(operation, 'dim', dim, shape)];
  if (dim.length === 0) return [...shape.keys()];
  const dims = Array.from(dim, (one, i) => checkedDim(operation, `dim[${i}]`, one, shape));
  if (new Set(dims).size < dims.length) {
    throw new RangeError(wrong(operation, 'dim', 'dimensions that differ', showShape(dim)));
  }
  return dims.sort((a, b) => a - b);
}

function resultDType(kind: Kind, { dtype }: Tensor): DType {
  if (kind === 'any' || kind === 'all') return 'bool';
  if (kind === 'sum' || kind === 'max' || kind === 'min') return dtype === 'bool' ? 'int32' : dtype;
  return floatDType(dtype);
}

function reduce(kind: Kind, x: Tensor, dim: Dims | undefined, options: VarianceOptions = {}): Tensor {
  checkOptions(kind, options, kind === 'var' || kind === 'std' ? varianceOptions : reduceOptions);
  const { keepDim = false, correction = 1 } = options;
  checkBoolean(kind, 'keepDim', keepDim);
  checkNumber(kind, 'correction', correction);
  if (!Number.isFinite(correction)) {
    throw new RangeError(wrong(kind, 'correction', 'finite', String(correction)));
  }
  const device = checkOperands(kind, { tensor: x });
  const dims = checkedDims(kind, dim, x.shape);
  if ((kind === 'max' || kind === 'min') && x.size === 0) {
    throw new RangeError(wrong(kind, 'the tensor', 'of at least one element', showShape(x.shape)));
  }
  const out = x.make(
    x.shape.filter((_, d) => !dims.includes(d)),
    resultDType(kind, x),
  );
  const run = (rows: Tensor) => device.run('reduce', out, dimsLast(rows, dims), kinds[kind], correction);
  if (x.dtype !== 'bool' || out.dtype === 'bool') run(x);
  else {
    using integers = x.to('int32');
    run(integers);
  }
  const kept = x.shape.map((n, d) => (dims.includes(d) ? 1 : n));
  const result = keepDim ? out.transferTo(kept) : out;
  if (hasHistory(x)) record(kind, [result], [x], () => (g) => [g?.reshape(kept)]);
  return result;
}

// Each: x [...], any dtype -> the dimensions that are left (with keepDim, the others as 1).

/**
 * The sum in double precision, rounded once; 0 of nothing. One of integers is an exact int32: if int32 does not hold
 * it, the operation fails, and the next read() or synchronize() rejects.
 */
export const sum = (x: Tensor, dim?: Dims, options?: ReduceOptions): Tensor => reduce('sum', x, dim, options);

/** The sum over all dimensions but the last: the gradient of what an operation added to every row. */
export function sumOfRows(x: Tensor): Tensor {
  const dims = [...x.shape.keys()].slice(0, -1);
  return dims.length > 0 ? sum(x, dims) : x.clone();
}

/** The sum, in double precision, over the number of elements: NaN of nothing. That of integers is float32. */
export const mean = (x: Tensor, dim?: Dims, options?: ReduceOptions): Tensor => reduce('mean', x, dim, options);

/**
 * The largest element, NaN where there is one; of a bool tensor, an int32.
 * @throws RangeError for an empty tensor.
 */
export const max = (x: Tensor, dim?: Dims, options?: ReduceOptions): Tensor => reduce('max', x, dim, options);

/**
 * The smallest element, NaN where there is one; of a bool tensor, an int32.
 * @throws RangeError for an empty tensor.
 */
export const min = (x: Tensor, dim?: Dims, options?: ReduceOptions): Tensor => reduce('min', x, dim, options);

/** bool: whether an element is not 0, as NaN is; false of nothing. */
export const any = (x: Tensor, dim?: Dims, options?: ReduceOptions): Tensor => reduce('any', x, dim, options);

/** bool: whether no element is 0; true of nothing. */
export const all = (x: Tensor, dim?: Dims, options?: ReduceOptions): Tensor => reduce('all', x, dim, options);

/**
 * The variance: the sum of the squares of the distances from the mean, over the number of elements less `correction`
 * (or over 0, where that is negative: NaN of one element). In double precision; that of integers is float32.
 */
export const variance = (x: Tensor, dim?: Dims, options?: VarianceOptions): Tensor => reduce('var', x, dim, options);

/** The standard deviation: the square root of the variance. */
export const std = (x: Tensor, dim?: Dims, options?: VarianceOptions): Tensor => reduce('std', x, dim, options);

/** The square root of the sum of squares, in double precision: 0 of nothing. That of integers is float32. */
export const norm = (x: Tensor, dim?: Dims, options?: ReduceOptions): Tensor => reduce('norm', x, dim, options);

/** log(sum(exp(x))), which does not overflow: -Infinity of nothing. That of integers is float32. */
export const logSumExp = (x: Tensor, dim?: Dims, options?: ReduceOptions): Tensor =>
  reduce('logSumExp', x, dim, options);
