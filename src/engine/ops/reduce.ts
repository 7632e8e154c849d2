// Sums, means and maxima, over one dimension or all.
import { checkBoolean, checkedDim, checkOperands, checkOptions, type OptionNames, wrong } from '../check.js';
import { floatDType } from '../dtype.js';
import { showShape } from '../shape.js';
import type { Tensor } from './tensor.js';
import { dimLast } from './views.js';

export interface ReduceOptions {
  /** Keep the dimension, with size 1. */
  keepDim?: boolean;
}
const reduceOptions: OptionNames<ReduceOptions> = { keepDim: true };

const kinds = { sum: 0, mean: 1, max: 2 } as const; // ReduceKind in native/ops.h
type Kind = keyof typeof kinds;

function reduce(kind: Kind, x: Tensor, dim: number | undefined, options: ReduceOptions = {}): Tensor {
  checkOptions(kind, options, reduceOptions);
  const { keepDim = false } = options;
  checkBoolean(kind, 'keepDim', keepDim);
  const device = checkOperands(kind, { tensor: x });
  const d = dim === undefined ? undefined : checkedDim(kind, 'dim', dim, x.shape);
  if (kind === 'max' && x.size === 0) {
    throw new RangeError(wrong(kind, 'the tensor', 'of at least one element', showShape(x.shape)));
  }
  if (x.dtype === 'bool') {
    using integers = x.to('int32');
    return reduce(kind, integers, dim, { keepDim });
  }
  if (d === undefined) {
    const flat = x.reshape(-1);
    const all = reduce(kind, flat, 0);
    if (flat.storage !== x.storage) flat.dispose();
    return keepDim ? all.transferTo(x.shape.map(() => 1)) : all;
  }
  const out = x.make(
    x.shape.filter((_, other) => other !== d),
    kind === 'mean' ? floatDType(x.dtype) : x.dtype,
  );
  device.run('reduce', out.handle, dimLast(x, d).handle, kinds[kind], 0);
  return keepDim ? out.transferTo(x.shape.map((n, other) => (other === d ? 1 : n))) : out;
}

export const sum = (x: Tensor, dim?: number, options?: ReduceOptions): Tensor => reduce('sum', x, dim, options);
export const mean = (x: Tensor, dim?: number, options?: ReduceOptions): Tensor => reduce('mean', x, dim, options);
export const max = (x: Tensor, dim?: number, options?: ReduceOptions): Tensor => reduce('max', x, dim, options);
