// Arithmetic of two sides, out of place and in place, with broadcasting.
import { checkOperands, describe, wrong } from '../check.js';
import type { Device } from '../device.js';
import { type DType, floatDType, isFloat, promote } from '../dtype.js';
import { checkWritable, withSafeInput } from './overlap.js';
import type { Tensor } from './tensor.js';
import { broadcastTo, broadcastTogether } from './views.js';

/** The other side of an arithmetic operation: a number, or a tensor that broadcasts. */
export type Side = number | Tensor;

const kinds = { add: 0, sub: 1, mul: 2, div: 3, maximum: 4, minimum: 5 } as const; // BinaryKind in native/ops.h
type Kind = keyof typeof kinds;

/** The dtype of a kind x. A number leaves integers integers where it is an integer of 32 bits. */
function resultDType(kind: Kind, a: Tensor, x: Side): DType {
  let dtype = typeof x === 'number' ? a.dtype : promote(a.dtype, x.dtype);
  if (dtype === 'bool') dtype = 'int32';
  const fractional = typeof x === 'number' && (x | 0) !== x;
  return kind === 'div' || fractional ? floatDType(dtype) : dtype;
}

/** Demands that both sides are operands; returns their device. */
export function checkSides(operation: string, a: Tensor, x: Side): Device {
  if (typeof x === 'number') return checkOperands(operation, { tensor: a });
  if (typeof x === 'object' && x !== null) return checkOperands(operation, { tensor: a, x });
  throw new TypeError(wrong(operation, 'x', 'a number or a tensor', describe(x)));
}

function outOfPlace(kind: Kind, a: Tensor, x: Side): Tensor {
  const device = checkSides(kind, a, x);
  const dtype = resultDType(kind, a, x);
  // a bool counts as 0 or 1; beside an integer it is converted to int32, so that integers stay exact
  if (dtype === 'int32' && a.dtype === 'bool') {
    using left = a.to('int32');
    return outOfPlace(kind, left, x);
  }
  if (typeof x === 'number') {
    const out = a.make(a.shape, dtype);
    device.run('binaryScalar', out, a, x, kinds[kind]);
    return out;
  }
  if (dtype === 'int32' && x.dtype === 'bool') {
    using right = x.to('int32');
    return outOfPlace(kind, a, right);
  }
  const [left, right] = broadcastTogether(kind, { tensor: a, x }) as [Tensor, Tensor];
  const out = a.make(left.shape, dtype);
  device.run('binary', out, left, right, kinds[kind]);
  return out;
}

function inPlace(kind: Kind, a: Tensor, x: Side): void {
  const operation = `${kind}_`;
  const device = checkSides(operation, a, x);
  checkWritable(operation, 'the tensor', a);
  const dtype = resultDType(kind, a, x);
  if (dtype !== a.dtype && !isFloat(a.dtype)) {
    throw new TypeError(wrong(operation, 'the tensor', `${dtype}, as the result is`, a.dtype));
  }
  if (typeof x === 'number') {
    device.run('binaryScalar', a, a, x, kinds[kind]);
    return;
  }
  if (dtype === 'int32' && x.dtype === 'bool') {
    using right = x.to('int32');
    inPlace(kind, a, right);
    return;
  }
  const other = broadcastTo(operation, 'x', x, a);
  withSafeInput(a, other, (safe) => device.run('binary', a, a, safe, kinds[kind]));
}

export const add = (a: Tensor, x: Side): Tensor => outOfPlace('add', a, x);
export const sub = (a: Tensor, x: Side): Tensor => outOfPlace('sub', a, x);
export const mul = (a: Tensor, x: Side): Tensor => outOfPlace('mul', a, x);
export const div = (a: Tensor, x: Side): Tensor => outOfPlace('div', a, x);
/** The larger of each two elements, NaN where one of them is. */
export const maximum = (a: Tensor, x: Side): Tensor => outOfPlace('maximum', a, x);
/** The smaller of each two elements, NaN where one of them is. */
export const minimum = (a: Tensor, x: Side): Tensor => outOfPlace('minimum', a, x);
export const addInPlace = (a: Tensor, x: Side): void => inPlace('add', a, x);
export const subInPlace = (a: Tensor, x: Side): void => inPlace('sub', a, x);
export const mulInPlace = (a: Tensor, x: Side): void => inPlace('mul', a, x);
export const divInPlace = (a: Tensor, x: Side): void => inPlace('div', a, x);
export const maximumInPlace = (a: Tensor, x: Side): void => inPlace('maximum', a, x);
export const minimumInPlace = (a: Tensor, x: Side): void => inPlace('minimum', a, x);
