// The four arithmetic operations, out of place and in place, with broadcasting.
import { checkedShape, checkOperands, describe, wrong } from '../check.js';
import type { Device } from '../device.js';
import { type DType, floatDType, isFloat, promote } from '../dtype.js';
import { broadcastShape, broadcastStrides, showShape } from '../shape.js';
import { withSafeInput } from './overlap.js';
import type { Tensor } from './tensor.js';
import { broadcastTo } from './views.js';

/** The other side of an arithmetic operation: a number, or a tensor that broadcasts. */
export type Side = number | Tensor;

const kinds = { add: 0, sub: 1, mul: 2, div: 3 } as const; // BinaryKind in native/ops.h
type Kind = keyof typeof kinds;

function resultDType(kind: Kind, a: Tensor, x: Side): DType {
  let dtype = typeof x === 'number' ? a.dtype : promote(a.dtype, x.dtype);
  if (dtype === 'bool') dtype = 'int32';
  const fractional = typeof x === 'number' && (x | 0) !== x;
  return kind === 'div' || fractional ? floatDType(dtype) : dtype;
}

/** Demands that both sides are operands; returns their device. */
function checkSides(operation: string, a: Tensor, x: Side): Device {
  if (typeof x === 'number') return checkOperands(operation, { tensor: a });
  if (typeof x === 'object' && x !== null) return checkOperands(operation, { tensor: a, x });
  throw new TypeError(wrong(operation, 'x', 'a number or a tensor', describe(x)));
}

function outOfPlace(kind: Kind, a: Tensor, x: Side): Tensor {
  const device = checkSides(kind, a, x);
  if (typeof x === 'number') {
    const out = a.make(a.shape, resultDType(kind, a, x));
    device.run('binaryScalar', out.handle, a.handle, x, kinds[kind]);
    return out;
  }
  // a bool counts as 0 or 1; beside an int32 it is converted to int32, so that integers stay exact
  if (a.dtype !== x.dtype && (a.dtype === 'bool' || x.dtype === 'bool') && resultDType(kind, a, x) === 'int32') {
    using left = a.to('int32');
    using right = x.to('int32');
    return outOfPlace(kind, left, right);
  }
  const shape = broadcastShape(a.shape, x.shape);
  if (!shape) throw new RangeError(wrong(kind, 'x', `broadcastable with ${showShape(a.shape)}`, showShape(x.shape)));
  checkedShape(kind, shape);
  const out = a.make(shape, resultDType(kind, a, x));
  const side = (t: Tensor) => t.window(shape, broadcastStrides(t.shape, t.strides, shape));
  device.run('binary', out.handle, side(a).handle, side(x).handle, kinds[kind]);
  return out;
}

function inPlace(kind: Kind, a: Tensor, x: Side): void {
  const operation = `${kind}_`;
  const device = checkSides(operation, a, x);
  const dtype = resultDType(kind, a, x);
  if (dtype !== a.dtype && !isFloat(a.dtype)) {
    throw new TypeError(wrong(operation, 'the tensor', `${dtype}, as the result is`, a.dtype));
  }
  if (typeof x === 'number') {
    device.run('binaryScalar', a.handle, a.handle, x, kinds[kind]);
    return;
  }
  const other = broadcastTo(operation, 'x', x, a);
  withSafeInput(a, other, (safe) => device.run('binary', a.handle, a.handle, safe.handle, kinds[kind]));
}

export const add = (a: Tensor, x: Side): Tensor => outOfPlace('add', a, x);
export const sub = (a: Tensor, x: Side): Tensor => outOfPlace('sub', a, x);
export const mul = (a: Tensor, x: Side): Tensor => outOfPlace('mul', a, x);
export const div = (a: Tensor, x: Side): Tensor => outOfPlace('div', a, x);
export const addInPlace = (a: Tensor, x: Side): void => inPlace('add', a, x);
export const subInPlace = (a: Tensor, x: Side): void => inPlace('sub', a, x);
export const mulInPlace = (a: Tensor, x: Side): void => inPlace('mul', a, x);
export const divInPlace = (a: Tensor, x: Side): void => inPlace('div', a, x);
