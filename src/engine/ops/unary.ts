// Functions of one element, out of place and in place.
import { checkFloat, checkNumber, checkOperands, wrong } from '../check.js';
import { type DType, floatDType, isFloat } from '../dtype.js';
import { type Backward, hasHistory, type Keep, record, recordWrite } from '../record.js';
import { withTemporaries } from '../scope.js';
import { checkWritable } from './overlap.js';
import type { Tensor } from './tensor.js';

// UnaryKind in native/ops.h
const kinds = {
  ...{ relu: 0, gelu: 1, exp: 2, log: 3, sqrt: 4, abs: 5 },
  ...{ neg: 6, sign: 7, tanh: 8, sigmoid: 9, pow: 10, clamp: 11 },
} as const;
type Kind = keyof typeof kinds;
type Own = <T extends { dispose(): void }>(t: T) => T;

/** Those that give integers for integers. The others give float32. */
const ofIntegers: ReadonlySet<Kind> = new Set(['abs', 'neg', 'sign', 'pow', 'clamp']);

const isInteger = (x: number): boolean => (x | 0) === x;

/** The dtype of kind(x): a bool counts as 0 or 1. `whole`: whether the parameters leave integers integers. */
function resultDType(kind: Kind, x: Tensor, whole: boolean): DType {
  if (isFloat(x.dtype)) return x.dtype;
  return ofIntegers.has(kind) && whole ? 'int32' : floatDType(x.dtype);
}

/** The input in a dtype that the kernel takes: a float, or int32 where the result is int32. */
function withInput(x: Tensor, dtype: DType, body: (x: Tensor) => void): void {
  using converted = isFloat(x.dtype) || x.dtype === dtype ? undefined : x.to(dtype);
  body(converted ?? x);
}

/** sigmoid(x) (1 - sigmoid(x)), without the cancellation. */
const slopeOfSigmoid = (x: Tensor, own: Own): Tensor => own(x.sigmoid()).mul_(own(x.neg()).sigmoid_());

/** The gradients of x, float32, from those of kind(x). */
const derivatives: Record<
  Exclude<Kind, 'neg' | 'sign' | 'relu' | 'gelu'>,
  (g: Tensor, x: Tensor, own: Own, a: number, b: number) => Tensor
> = {
  exp: (g, x, own) => g.mul(own(x.exp())),
  log: (g, x) => g.div(x),
  sqrt: (g, x, own) => g.div(own(x.sqrt()).mul_(2)),
  abs: (g, x, own) => g.mul(own(x.sign())),
  tanh: (g, x, own) => g.mul(slopeOfSigmoid(own(x.mul(2)), own)).mul_(4),
  sigmoid: (g, x, own) => g.mul(slopeOfSigmoid(x, own)),
  pow: (g, x, own, p) => (p === 0 ? g.make(g.shape).fill(0) : g.mul(own(x.pow(p - 1)).mul_(p))),
  clamp: (g, x, own, low, high) =>
    own(x.ge(low))
      .and_(own(x.le(high)))
      .where(g, 0),
};

function backwardOf(kind: Kind, x: Tensor, a: number, b: number, keep: Keep<Tensor>): Backward<Tensor> {
  if (kind === 'neg') return (g) => [g?.neg()];
  if (kind === 'sign') return (g) => [g?.make(g.shape).fill(0)];
  const kept = keep(x);
  if (kind === 'relu' || kind === 'gelu') {
    return (given) => {
      const g = given as Tensor;
      g.device.run('unaryBackward', g, g, kept.tensor, kinds[kind]);
      return [g];
    };
  }
  return (g) =>
    withTemporaries((own) => {
      const value = kept.tensor.dtype === 'float32' ? kept.tensor : own(kept.tensor.to('float32'));
      return [derivatives[kind](g as Tensor, value, own, a, b)];
    });
}

function outOfPlace(kind: Kind, x: Tensor, a = 0, b = 0, whole = true): Tensor {
  const device = checkOperands(kind, { x });
  const dtype = resultDType(kind, x, whole);
  const out = x.make(x.shape, dtype);
  withInput(x, dtype, (input) => device.run('unary', out, input, kinds[kind], a, b));
  if (hasHistory(x)) record(kind, [out], [x], (keep) => backwardOf(kind, x, a, b, keep));
  return out;
}

function inPlace(kind: Kind, x: Tensor, a = 0, b = 0, whole = true): void {
  const operation = `${kind}_`;
  const device = checkOperands(operation, { x });
  checkWritable(operation, 'x', x);
  const dtype = resultDType(kind, x, whole);
  if (dtype !== x.dtype) throw new TypeError(wrong(operation, 'x', `${dtype}, as the result is`, x.dtype));
  recordWrite(operation, x, [x], (keep) => backwardOf(kind, x, a, b, keep));
  device.run('unary', x, x, kinds[kind], a, b);
}

function ofFloats(kind: 'relu' | 'gelu', x: Tensor): Tensor {
  checkOperands(kind, { x });
  checkFloat(kind, 'x', x);
  return outOfPlace(kind, x);
}

function ofFloatsInPlace(kind: 'relu' | 'gelu', x: Tensor): void {
  checkOperands(`${kind}_`, { x });
  checkFloat(`${kind}_`, 'x', x);
  inPlace(kind, x);
}

/** max(x, 0), any shape, floats; NaN stays NaN. */
export const relu = (x: Tensor): Tensor => ofFloats('relu', x);
export const reluInPlace = (x: Tensor): void => ofFloatsInPlace('relu', x);

/**
 * 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): GPT-2's GELU (Hendrycks and Gimpel, arXiv 1606.08415), any shape,
 * floats.
 */
export const gelu = (x: Tensor): Tensor => ofFloats('gelu', x);
export const geluInPlace = (x: Tensor): void => ofFloatsInPlace('gelu', x);

/** e^x, any shape; of integers, float32. */
export const exp = (x: Tensor): Tensor => outOfPlace('exp', x);
export const expInPlace = (x: Tensor): void => inPlace('exp', x);

/** ln x, any shape: -inf of 0, NaN of what is below; of integers, float32. */
export const log = (x: Tensor): Tensor => outOfPlace('log', x);
export const logInPlace = (x: Tensor): void => inPlace('log', x);

/** The square root, any shape: NaN of what is below 0; of integers, float32. */
export const sqrt = (x: Tensor): Tensor => outOfPlace('sqrt', x);
export const sqrtInPlace = (x: Tensor): void => inPlace('sqrt', x);

/**
 * |x|, any shape. int32 stays int32: -2^31, whose result int32 does not hold, fails the operation, and the next read()
 * or synchronize() rejects.
 */
export const abs = (x: Tensor): Tensor => outOfPlace('abs', x);
export const absInPlace = (x: Tensor): void => inPlace('abs', x);

/** -x, any shape. int32 stays int32: -2^31 fails the operation, as in abs. */
export const neg = (x: Tensor): Tensor => outOfPlace('neg', x);
export const negInPlace = (x: Tensor): void => inPlace('neg', x);

/** -1, 0 or 1, any shape; 0 of NaN, as PyTorch has it. int32 stays int32. */
export const sign = (x: Tensor): Tensor => outOfPlace('sign', x);
export const signInPlace = (x: Tensor): void => inPlace('sign', x);

/** The hyperbolic tangent, any shape; of integers, float32. */
export const tanh = (x: Tensor): Tensor => outOfPlace('tanh', x);
export const tanhInPlace = (x: Tensor): void => inPlace('tanh', x);

/** 1 / (1 + e^-x), any shape; of integers, float32. */
export const sigmoid = (x: Tensor): Tensor => outOfPlace('sigmoid', x);
export const sigmoidInPlace = (x: Tensor): void => inPlace('sigmoid', x);

function checkPower(operation: string, x: Tensor, power: number): boolean {
  checkNumber(operation, 'power', power);
  const whole = isInteger(power);
  checkOperands(operation, { x });
  if (!isFloat(x.dtype) && whole && power < 0) {
    const expected = `0 or more, as x is ${x.dtype}; x.to('float32') takes others`;
    throw new RangeError(wrong(operation, 'power', expected, String(power)));
  }
  return whole;
}

/**
 * x to the power p, a number; any shape. Integers stay int32 where p is an integer of 0 or more (a result that int32
 * does not hold fails the operation, as in abs), and become float32 where it is not whole.
 * @throws RangeError for integers and a p that is a negative integer.
 */
export const pow = (x: Tensor, p: number): Tensor => outOfPlace('pow', x, p, 0, checkPower('pow', x, p));
export const powInPlace = (x: Tensor, p: number): void => inPlace('pow', x, p, 0, checkPower('pow_', x, p));

function checkBounds(operation: string, low: number, high: number): boolean {
  checkNumber(operation, 'low', low);
  checkNumber(operation, 'high', high);
  return (low === -Infinity || isInteger(low)) && (high === Infinity || isInteger(high));
}

/**
 * The nearest value from low to high (high, where low is above it), any shape; NaN stays NaN. -Infinity and Infinity
 * leave a side open. int32 stays int32 if the other bounds are integers of 32 bits.
 */
export const clamp = (x: Tensor, low: number, high: number): Tensor =>
  outOfPlace('clamp', x, low, high, checkBounds('clamp', low, high));
export const clampInPlace = (x: Tensor, low: number, high: number): void =>
  inPlace('clamp', x, low, high, checkBounds('clamp_', low, high));
