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
import { type Backward, hasHistory, type Keep, record } from '../record.js';
import { withTemporaries } from '../scope.js';
import { type Shape, showShape } from '../shape.js';
import { gradientOfGathered } from './gather.js';
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

/** The gradients of x. `isOne`: whether the gradient of an extreme is that of one element, or of all that equal it. */
function backwardOf(
  kind: Kind,
  x: Tensor,
  out: Tensor,
  dims: readonly number[],
  isOne: boolean,
  correction: number,
  keep: Keep<Tensor>,
): Backward<Tensor> {
  const { shape } = x;
  const keptShape = shape.map((n, d) => (dims.includes(d) ? 1 : n));
  const n = dims.reduce((product, d) => product * (shape[d] as number), 1);
  if (kind === 'sum' || x.size === 0) return (g) => [g?.reshape(keptShape)];
  if (kind === 'mean') return (g) => [g?.reshape(keptShape).div(n)];
  if (kind === 'any' || kind === 'all') return () => [];
  if (isOne && (kind === 'max' || kind === 'min')) {
    const [d] = dims as [number];
    const rows = x.detach();
    using at = kind === 'max' ? rows.argmax(d, { keepDim: true }) : rows.argmin(d, { keepDim: true });
    const index = keep(at);
    return (g) => [gradientOfGathered(shape, d, index.tensor, (g as Tensor).reshape(keptShape))];
  }
  const input = keep(x);
  const extreme = kind === 'max' || kind === 'min' ? keep(out.reshape(keptShape)) : undefined;
  return (g) =>
    withTemporaries((own) => {
      const gradient = (g as Tensor).reshape(keptShape);
      if (extreme) {
        const isExtreme = own(input.tensor.eq(extreme.tensor));
        const count = own(isExtreme.sum(dims, { keepDim: true }));
        return [isExtreme.mul(own(gradient.div(count)))];
      }
      const value = input.tensor.dtype === 'float32' ? input.tensor : own(input.tensor.to('float32'));
      /** gradient / by, and 0 where that is 0. */
      const over = (by: Tensor) => own(own(by.eq(0)).where(0, own(gradient.div(by))));
      const keepDim = true;
      if (kind === 'norm') return [value.mul(over(own(value.norm(dims, { keepDim }))))];
      if (kind === 'logSumExp') {
        const powers = own(value.sub(own(value.max(dims, { keepDim })))).exp_();
        return [powers.mul(own(gradient.div(own(powers.sum(dims, { keepDim })))))];
      }
      const distances = own(value.sub(own(value.mean(dims, { keepDim }))));
      const divisor = Math.max(0, n - correction);
      if (kind === 'var') return [distances.mul(own(gradient.mul(2 / divisor)))];
      return [distances.mul(over(own(value.std(dims, { keepDim, correction }))).div_(divisor))];
    });
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
  const result = keepDim ? out.transferTo(x.shape.map((n, d) => (dims.includes(d) ? 1 : n))) : out;
  if (hasHistory(x)) {
    const isOne = typeof dim === 'number';
    record(kind, [result], [x], (keep) => backwardOf(kind, x, out, dims, isOne, correction, keep));
  }
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
 * The largest element, NaN where there is one; of a bool tensor, an int32. Where several are equal, its gradient is
 * that of the first one along a dimension that is given as a number, and shared equally over a list or all.
 * @throws RangeError for an empty tensor.
 */
export const max = (x: Tensor, dim?: Dims, options?: ReduceOptions): Tensor => reduce('max', x, dim, options);

/**
 * The smallest element, NaN where there is one; of a bool tensor, an int32. Its gradient is as that of max.
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

/** The standard deviation: the square root of the variance. Where it is 0, its gradient is 0. */
export const std = (x: Tensor, dim?: Dims, options?: VarianceOptions): Tensor => reduce('std', x, dim, options);

/**
 * The square root of the sum of squares, in double precision: 0 of nothing. That of integers is float32. Where it
 * is 0, its gradient is 0.
 */
export const norm = (x: Tensor, dim?: Dims, options?: ReduceOptions): Tensor => reduce('norm', x, dim, options);

/** log(sum(exp(x))), which does not overflow: -Infinity of nothing. That of integers is float32. */
export const logSumExp = (x: Tensor, dim?: Dims, options?: ReduceOptions): Tensor =>
  reduce('logSumExp', x, dim, options);
