// Arithmetic of two sides, out of place and in place, with broadcasting.
import { checkOperands, describe, wrong } from '../check.js';
import type { Device } from '../device.js';
import { type DType, floatDType, isFloat, promote } from '../dtype.js';
import { type Backward, hasHistory, type Keep, record, recordWrite } from '../record.js';
import { withTemporaries } from '../scope.js';
import { checkWritable, withSafeInput } from './overlap.js';
import type { Tensor } from './tensor.js';
import { broadcastTo, broadcastTogether } from './views.js';
import { where } from './where.js';

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

/** The derivatives of a kind x; those of maximum and minimum are half of the gradient each where both sides are equal. */
function backwardOf(kind: Kind, a: Tensor, x: Side, keep: Keep<Tensor>, needs: readonly boolean[]): Backward<Tensor> {
  const [ofA, ofX] = needs;
  const kept = (side: Side): (() => Side) => {
    if (typeof side === 'number') return () => side;
    const value = keep(side);
    return () => value.tensor;
  };
  if (kind === 'add') return (g) => [g, g];
  if (kind === 'sub') return (g) => [g, ofX ? g?.neg() : undefined];
  const right = ofA || kind !== 'mul' ? kept(x) : undefined;
  const left = ofX || kind === 'maximum' || kind === 'minimum' ? kept(a) : undefined;
  if (kind === 'mul') return (g) => [right && g?.mul(right()), left && g?.mul(left())];
  if (kind === 'div') {
    return (g) => [
      ofA ? g?.div((right as () => Side)()) : undefined,
      left &&
        withTemporaries((own) => {
          const over = (t: Tensor) => t.div((right as () => Side)());
          return over(own(over(own((g as Tensor).mul(left()))))).neg_();
        }),
    ];
  }
  return (g) =>
    withTemporaries((own) => {
      const [one, other] = [(left as () => Side)() as Tensor, (right as () => Side)()];
      const shared = own(where(own(one.eq(other)), own((g as Tensor).mul(0.5)), g as Tensor));
      const isLess = kind === 'maximum' ? [one.lt(other), one.gt(other)] : [one.gt(other), one.lt(other)];
      const [lessA, lessX] = isLess.map(own) as [Tensor, Tensor];
      return [ofA ? where(lessA, 0, shared) : undefined, ofX ? where(lessX, 0, shared) : undefined];
    });
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
    if (hasHistory(a)) record(kind, [out], [a], (keep, needs) => backwardOf(kind, a, x, keep, needs));
    return out;
  }
  if (dtype === 'int32' && x.dtype === 'bool') {
    using right = x.to('int32');
    return outOfPlace(kind, a, right);
  }
  const [left, right] = broadcastTogether(kind, { tensor: a, x }) as [Tensor, Tensor];
  const out = a.make(left.shape, dtype);
  device.run('binary', out, left, right, kinds[kind]);
  if (hasHistory(left, right)) {
    record(kind, [out], [left, right], (keep, needs) => backwardOf(kind, left, right, keep, needs));
  }
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
    recordWrite(operation, a, [a], (keep, needs) => backwardOf(kind, a, x, keep, needs));
    device.run('binaryScalar', a, a, x, kinds[kind]);
    return;
  }
  if (dtype === 'int32' && x.dtype === 'bool') {
    using right = x.to('int32');
    inPlace(kind, a, right);
    return;
  }
  const other = broadcastTo(operation, 'x', x, a);
  recordWrite(operation, a, [a, other], (keep, needs) => backwardOf(kind, a, other, keep, needs));
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
