// Comparisons, and the logic of what they give, with broadcasting.
import { checkDType, checkOperands } from '../check.js';
import { promote } from '../dtype.js';
import { hasHistory, noGradients, record, recordWrite } from '../record.js';
import { checkSides, type Side } from './binary.js';
import { checkWritable, withSafeInput } from './overlap.js';
import type { Tensor } from './tensor.js';
import { broadcastTo, broadcastTogether } from './views.js';

const kinds = { eq: 0, ne: 1, lt: 2, le: 3, gt: 4, ge: 5, and: 6, or: 7 } as const; // CompareKind in native/ops.h
type Kind = keyof typeof kinds;

function compare(kind: Kind, a: Tensor, x: Side, operation: string = kind): Tensor {
  const device = checkSides(kind, a, x);
  if (typeof x === 'number') {
    const out = a.make(a.shape, 'bool');
    device.run('compareScalar', out, a, x, kinds[kind]);
    if (hasHistory(a)) record(operation, [out], [a], noGradients);
    return out;
  }
  // a bool beside an int32 is converted to int32, so that integers stay exact
  if (a.dtype !== x.dtype && promote(a.dtype, x.dtype) === 'int32') {
    using left = a.to('int32');
    using right = x.to('int32');
    return compare(kind, left, right);
  }
  const [left, right] = broadcastTogether(kind, { tensor: a, x }) as [Tensor, Tensor];
  const out = a.make(left.shape, 'bool');
  device.run('compare', out, left, right, kinds[kind]);
  if (hasHistory(left, right)) record(operation, [out], [left, right], noGradients);
  return out;
}

function inPlace(kind: Kind, a: Tensor, x: Tensor): void {
  const operation = `${kind}_`;
  const device = checkOperands(operation, { tensor: a, x });
  checkDType(operation, 'the tensor', a, 'bool');
  checkWritable(operation, 'the tensor', a);
  const other = broadcastTo(operation, 'x', x, a);
  recordWrite(operation, a, [a, other], noGradients);
  withSafeInput(a, other, (safe) => device.run('compare', a, a, safe, kinds[kind]));
}

// Both sides in float32, or exact where both are integers or bools; NaN is unequal to all. A number is rounded to the
// dtype of a tensor of floats, and compared exactly with the elements of others.
export const eq = (a: Tensor, x: Side): Tensor => compare('eq', a, x);
export const ne = (a: Tensor, x: Side): Tensor => compare('ne', a, x);
export const lt = (a: Tensor, x: Side): Tensor => compare('lt', a, x);
export const le = (a: Tensor, x: Side): Tensor => compare('le', a, x);
export const gt = (a: Tensor, x: Side): Tensor => compare('gt', a, x);
export const ge = (a: Tensor, x: Side): Tensor => compare('ge', a, x);

/** Whether both are true, as bool, with broadcasting. What is not 0 is true in any dtype, NaN as well. */
export function and(a: Tensor, x: Tensor): Tensor {
  checkOperands('and', { tensor: a, x });
  return compare('and', a, x);
}
export const andInPlace = (a: Tensor, x: Tensor): void => inPlace('and', a, x);

/** Whether one of them is true, or both, as in `and`. */
export function or(a: Tensor, x: Tensor): Tensor {
  checkOperands('or', { tensor: a, x });
  return compare('or', a, x);
}
export const orInPlace = (a: Tensor, x: Tensor): void => inPlace('or', a, x);

/** Whether it is not true, as bool, any shape: true of 0 alone. */
export function not(x: Tensor): Tensor {
  checkOperands('not', { x });
  return compare('eq', x, 0, 'not');
}
export function notInPlace(x: Tensor): void {
  const device = checkOperands('not_', { x });
  checkDType('not_', 'x', x, 'bool');
  checkWritable('not_', 'x', x);
  recordWrite('not_', x, [x], noGradients);
  device.run('compareScalar', x, x, 0, kinds.eq);
}
