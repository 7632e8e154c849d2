// Checks of arguments. An error names the operation and the argument, what it must be and why, and what it is.
import { closestMatch } from 'leven';
import type { Device } from './device.js';
import { type DType, dtypes, isFloat } from './dtype.js';
import { Operand } from './operand.js';
import { maxRank, type Shape, sameShape, showShape } from './shape.js';

interface Typed {
  readonly dtype: DType;
}

/** `matmul: b must be [768, N] (the width of a [4, 768]), but is [3072, 768]`. */
export function wrong(operation: string, argument: string, expected: string, actual: string): string {
  return `${operation}: ${argument} must be ${expected}, but is ${actual}`;
}

export function describe(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (typeof value === 'string') return value.length > 60 ? `'${value.slice(0, 60)}…'` : `'${value}'`;
  if (typeof value === 'number' || typeof value === 'bigint' || typeof value === 'boolean') return String(value);
  if (Array.isArray(value)) return `an array of length ${value.length}`;
  if (typeof value === 'function') return 'a function';
  return `a ${(value as object).constructor?.name ?? 'object'}`;
}

/** The names of an options type. The compiler demands every one of them, and no other. */
export type OptionNames<Options> = { readonly [Name in keyof Required<Options>]: true };

/**
 * Demands that `options` is an object whose keys are all in `known`. A function that takes options calls this first, so
 * that a misspelt one is never ignored. Values are not looked at.
 * @throws TypeError that names the first unknown key and the known one that is nearest to it.
 */
export function checkOptions<Options extends object>(
  operation: string,
  options: Options,
  known: OptionNames<Options>,
  argument = 'options',
): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw new TypeError(wrong(operation, argument, 'an object', describe(options)));
  }
  const unknown = Object.keys(options).find((name) => !Object.hasOwn(known, name));
  if (unknown === undefined) return;
  const where = argument === 'options' ? '' : ` of ${argument}`;
  const names = Object.keys(known);
  const plain = (name: string) => name.replaceAll(/[_-]/g, '').toLowerCase();
  const nearest = closestMatch(plain(unknown), names.map(plain));
  const advice =
    nearest === undefined ? 'there are none' : `the nearest one is '${names.find((name) => plain(name) === nearest)}'`;
  throw new TypeError(`${operation}: ${describe(unknown)} is no option${where}; ${advice}`);
}

export function checkShape(operation: string, argument: string, actual: Shape, expected: Shape, why = ''): void {
  if (sameShape(actual, expected)) return;
  throw new RangeError(wrong(operation, argument, showShape(expected) + (why && ` (${why})`), showShape(actual)));
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
  { optional = {}, packed = {} }: OtherOperands = {},
): Device {
  const all = { ...tensors, ...packed, ...optional };
  let first: [string, Operand] | undefined;
  for (const [argument, operand] of Object.entries(all)) {
    if (operand === undefined && Object.hasOwn(optional, argument)) continue;
    const expected = Object.hasOwn(packed, argument) ? 'a packed matrix' : 'a tensor';
    if (Operand.kindOf(operand) !== expected) {
      throw new TypeError(wrong(operation, argument, expected, describe(operand)));
    }
    const { ended, device } = operand as Operand;
    if (ended) throw new Error(`${operation}: ${argument} cannot be used: ${ended}`);
    first ??= [argument, operand as Operand];
    if (device !== first[1].device) {
      throw new TypeError(wrong(operation, argument, `on ${first[1].device}, where ${first[0]} is`, `on ${device}`));
    }
  }
  if (!first) throw new TypeError(`${operation}: a tensor is missing`);
  return first[1].device;
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

export function checkInteger(operation: string, argument: string, value: unknown, low: number, high = 2 ** 53): number {
  if (Number.isSafeInteger(value) && (value as number) >= low && (value as number) <= high) return value as number;
  const range = high === 2 ** 53 ? `an integer of ${low} or more` : `an integer from ${low} to ${high}`;
  throw new RangeError(wrong(operation, argument, range, describe(value)));
}

export function checkNumber(operation: string, argument: string, value: unknown): number {
  if (typeof value === 'number') return value;
  throw new TypeError(wrong(operation, argument, 'a number', describe(value)));
}

export function checkBoolean(operation: string, argument: string, value: unknown): boolean {
  if (typeof value === 'boolean') return value;
  throw new TypeError(wrong(operation, argument, 'true or false', describe(value)));
}

/** Demands that `dtype` is one, of floats where `floats` is set. */
export function checkDTypeName(operation: string, dtype: unknown, { floats = false } = {}): DType {
  const allowed = floats ? dtypes.filter(isFloat) : dtypes;
  if (allowed.includes(dtype as DType)) return dtype as DType;
  throw new TypeError(wrong(operation, 'dtype', allowed.join(', '), describe(dtype)));
}

/** A copy of `shape`, if it is one: at most 8 dimensions, integers of 0 or more, fewer than 2^51 elements. */
export function checkedShape(operation: string, shape: unknown): number[] {
  if (!Array.isArray(shape)) throw new TypeError(wrong(operation, 'shape', 'an array of integers', describe(shape)));
  if (shape.length > maxRank) {
    throw new RangeError(wrong(operation, 'shape', `of at most ${maxRank} dimensions`, showShape(shape)));
  }
  if (!shape.every((n) => Number.isSafeInteger(n) && n >= 0)) {
    throw new RangeError(wrong(operation, 'shape', 'integers of 0 or more', showShape(shape)));
  }
  if (!Number.isSafeInteger(shape.reduce((product, n) => product * Math.max(n, 1), 4))) {
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
  throw new RangeError(
    wrong(operation, argument, `a dimension of ${showShape(shape)}, from ${-rank} to ${rank - 1}`, describe(dim)),
  );
}
