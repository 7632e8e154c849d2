// Tensors beside each other, in a dimension that they have or in a new one.
import { checkedDim, checkedShape, checkOperands, checkRank, checkShape, describe, wrong } from '../check.js';
import { promote } from '../dtype.js';
import { showShape } from '../shape.js';
import { copy } from './copy.js';
import type { Tensor } from './tensor.js';
import { checkNewDim, unsqueeze } from './view_operations.js';

/** Demands a list of tensors of one device; returns the first. */
function checkList(operation: string, tensors: readonly Tensor[]): Tensor {
  if (!Array.isArray(tensors)) throw new TypeError(wrong(operation, 'tensors', 'a list of tensors', describe(tensors)));
  const [first] = tensors;
  if (first === undefined && tensors.length === 0) {
    throw new RangeError(wrong(operation, 'tensors', 'a list of one tensor or more', 'empty'));
  }
  checkOperands(operation, Object.fromEntries(Array.from(tensors, (t, i) => [`tensors[${i}]`, t])));
  return first as Tensor;
}

function joined(operation: string, tensors: readonly Tensor[], d: number): Tensor {
  const first = tensors[0] as Tensor;
  const shape = first.shape.with(
    d,
    tensors.reduce((sum, t) => sum + (t.shape[d] as number), 0),
  );
  const out = first.make(
    checkedShape(operation, shape),
    tensors.reduce((dtype, t) => promote(dtype, t.dtype), first.dtype),
  );
  let from = 0;
  for (const t of tensors) {
    const to = from + (t.shape[d] as number);
    copy(operation, out.slice(d, from, to), t);
    from = to;
  }
  return out;
}

/**
 * Tensors one after the other in dimension `dim`: [2, 3] and [4, 3] -> [6, 3] for 0. The other sizes are equal. dtypes
 * are promoted, as PyTorch does: floats win over int32, int32 over bool, and two different floats meet in float32.
 * @throws RangeError for an empty list, scalars and other shapes; TypeError for other devices. An error of one tensor
 * names its place in the list.
 */
export function cat(tensors: readonly Tensor[], dim = 0): Tensor {
  const first = checkList('cat', tensors);
  checkRank('cat', 'tensors[0]', first, 1);
  const d = checkedDim('cat', 'dim', dim, first.shape);
  for (const [i, { shape }] of tensors.entries()) {
    if (shape.length === first.shape.length && shape.every((n, other) => other === d || n === first.shape[other])) {
      continue;
    }
    const sizes = first.shape.map((n, other) => (other === d ? '…' : n));
    throw new RangeError(wrong('cat', `tensors[${i}]`, `[${sizes.join(', ')}] (as tensors[0] is)`, showShape(shape)));
  }
  return joined('cat', tensors, d);
}

/**
 * Tensors of one shape one after the other in a new dimension: two of [3, 4] -> [3, 2, 4] for 1. dtypes as in cat.
 * @throws RangeError for an empty list, other shapes and a ninth dimension; TypeError for other devices.
 */
export function stack(tensors: readonly Tensor[], dim = 0): Tensor {
  const first = checkList('stack', tensors);
  const d = checkNewDim('stack', dim, first);
  for (const [i, t] of tensors.entries()) {
    checkShape('stack', `tensors[${i}]`, t.shape, first.shape, 'as tensors[0] is');
  }
  checkedShape('stack', first.shape.toSpliced(d, 0, tensors.length));
  const parts = tensors.map((t) => unsqueeze(t, d));
  return joined('stack', parts, d);
}
