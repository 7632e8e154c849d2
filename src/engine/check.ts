// Checks of the arguments of operations, beside those that need no tensor (src/checks/).
import { describe, wrong } from '../checks/arguments.js';
import type { Device } from './device.js';
import { type DType, dtypes, isFloat } from './dtype.js';
import { Operand } from './operand.js';
import { maxRank, type Shape, sameShape, showShape } from './shape.js';

export {
  checkBoolean,
  checkCallback,
  checkInteger,
  checkNumber,
  checkObject,
  checkOptions,
  checkSignal,
  checkString,
  checkText,
  describe,
  type OptionNames,
  wrong,
} from '../checks/arguments.js';

interface Typed {
  readonly dtype: DType;
}

/** `why` follows what is expected. A function is called for the text of an error alone. */
export function checkShape(
  operation: string,
  argument: string,
  actual: Shape,
  expected: Shape,
  why: string | (() => string) = '',
): void {
  if (sameShape(actual, expected)) return;
  const reason = typeof why === 'string' ? why : why();
  throw new RangeError(wrong(operation, argument, showShape(expected) + (reason && ` (${reason})`), showShape(actual)));
}

export function checkDType(operation: string, argument: string, tensor: Typed, ...allowed: DType[]): void {
  if (allowed.includes(tensor.dtype)) return;
  throw new TypeError(wrong(operation, argument, allowed.join(' or '), tensor.dtype));
}

export function checkFloat(operation: string, argument: string, tensor: Typed): void {
  if (isFloat(tensor.dtype)) return;
  throw new TypeError(wrong(operation, argument, 'float32, bfloat16 or float16', tensor.dtype));
}

/** The arguments of an operation that are no plain tensors: those that may be undefined, and packed matrices. */
interface OtherOperands {
  readonly optional?: Record<string, Operand | undefined>;
  readonly packed?: Record<string, Operand>;
}

/**
 * Demands that every argument is a tensor (or a packed matrix) that may still be used, all on one device. Returns the
 * device.
 */
export function checkOperands(
  operation: string,
  tensors: Record<string, Operand>,
  { optional, packed }: OtherOperands = {},
): Device {
  let device: Device | undefined;
  let at = ''; // the argument that is on it
  // for…in over each: every operation of a pass comes through here
  const check = (argument: string, operand: Operand | undefined, expected: 'a tensor' | 'a packed matrix') => {
    if (Operand.kindOf(operand) !== expected) {
      throw new TypeError(wrong(operation, argument, expected, describe(operand)));
    }
    const { ended, device: here } = operand as Operand;
    if (ended) throw new Error(`${operation}: ${argument} cannot be used: ${ended}`);
    if (device === undefined) [device, at] = [here, argument];
    else if (here !== device) {
      throw new TypeError(wrong(operation, argument, `on ${device}, where ${at} is`, `on ${here}`));
    }
  };
  for (const argument in tensors) check(argument, tensors[argument], 'a tensor');
  for (const argument in packed) check(argument, packed[argument], 'a packed matrix');
  for (const argument in optional) {
    if (optional[argument] !== undefined) check(argument, optional[argument], 'a tensor');
  }
  if (device === undefined) throw new TypeError(`${operation}: a tensor is missing`);
  return device;
}

export function checkRank(
  operation: string,
  argument: string,
  { shape }: { readonly shape: Shape },
  least: number,
): void {
  if (shape.length >= least) return;
  throw new RangeError(
    wrong(operation, argument, `of ${least} or more dimensions`, `${showShape(shape)} of ${shape.length}`),
  );
}

/** Demands that `dtype` is one, of floats where `floats` is set. */
export function checkDTypeName(operation: string, dtype: unknown, { floats = false } = {}): DType {
  const allowed = floats ? dtypes.filter(isFloat) : dtypes;
  if (allowed.includes(dtype as DType)) return dtype as DType;
  const expected = floats ? 'float32, bfloat16 or float16' : allowed.join(', ');
  throw new TypeError(wrong(operation, 'dtype', expected, describe(dtype)));
}

/** A copy of `shape`, if it is one: at most 8 dimensions, integers of 0 or more, fewer than 2^51 elements. */
export function checkedShape(operation: string, shape: unknown): number[] {
  if (!Array.isArray(shape)) throw new TypeError(wrong(operation, 'shape', 'an array of integers', describe(shape)));
  if (shape.length > maxRank) {
    throw new RangeError(wrong(operation, 'shape', `of at most ${maxRank} dimensions`, showShape(shape)));
  }
  let bytes = 4;
  for (const n of shape) {
    if (!Number.isSafeInteger(n) || n < 0) {
      throw new RangeError(wrong(operation, 'shape', 'integers of 0 or more', showShape(shape)));
    }
    bytes *= Math.max(n, 1);
  }
  if (!Number.isSafeInteger(bytes)) {
    throw new RangeError(wrong(operation, 'shape', 'of fewer than 2^51 elements', showShape(shape)));
  }
  return [...shape];
}

/** A dimension counted from 0; negative ones count from the end. */
export function checkedDim(operation: string, argument: string, dim: unknown, shape: Shape): number {
  const rank = shape.length;
  if (Number.isInteger(dim) && (dim as number) >= -rank && (dim as number) < rank) {
    return (dim as number) < 0 ? (dim as number) + rank : (dim as number);
  }
  const range = rank > 0 ? `from ${-rank} to ${rank - 1}` : 'which has none';
  throw new RangeError(wrong(operation, argument, `a dimension of ${showShape(shape)}, ${range}`, describe(dim)));
}
