// The texts of argument errors, and the check of options. An error names the operation and the argument, what it must be
// and why, and what it is.
import { closestMatch } from 'leven';

/** `matmul: b must be [768, N] (the width of a [4, 768]), but is [3072, 768]`. */
export function wrong(operation: string, argument: string, expected: string, actual: string): string {
  return `${operation}: ${argument} must be ${expected}, but is ${actual}`;
}

export function describe(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (typeof value === 'string') return value.length > 60 ? `'${value.slice(0, 60)}…'` : `'${value}'`;
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  if (typeof value === 'bigint') return `${value}n`;
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
  if (Object.prototype.toString.call(options) !== '[object Object]') {
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

export function checkInteger(operation: string, argument: string, value: unknown, low: number, high = 2 ** 53): number {
  if (Number.isSafeInteger(value) && (value as number) >= low && (value as number) <= high) return value as number;
  const range = high === 2 ** 53 ? `an integer of ${low} or more` : `an integer from ${low} to ${high}`;
  throw new RangeError(wrong(operation, argument, range, describe(value)));
}

export function checkNumber(operation: string, argument: string, value: unknown): number {
  if (typeof value === 'number') return value;
  throw new TypeError(wrong(operation, argument, 'a number', describe(value)));
}

/** Demands true or false, or that the argument was left out. */
export function checkBoolean<Value>(operation: string, argument: string, value: Value): Value {
  if (value === undefined || typeof value === 'boolean') return value;
  throw new TypeError(wrong(operation, argument, 'true or false', describe(value)));
}

export function checkString(operation: string, argument: string, value: unknown, expected = 'a string'): string {
  if (typeof value === 'string') return value;
  throw new TypeError(wrong(operation, argument, expected, describe(value)));
}

/** Demands a string that is not empty. */
export function checkText(operation: string, argument: string, value: unknown, expected = 'a text'): string {
  if (typeof value === 'string' && value !== '') return value;
  throw new TypeError(wrong(operation, argument, expected, describe(value)));
}

/** An object that is no list. `expected` says which. */
export function checkObject(operation: string, argument: string, value: unknown, expected = 'an object'): void {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return;
  throw new TypeError(wrong(operation, argument, expected, describe(value)));
}

export function checkFunction(operation: string, argument: string, value: unknown): void {
  if (typeof value === 'function') return;
  throw new TypeError(wrong(operation, argument, 'a function', describe(value)));
}

/** Demands a function, or that the option was left out. */
export function checkCallback(operation: string, option: string, value: unknown): void {
  if (value !== undefined) checkFunction(operation, option, value);
}

/** Demands an AbortSignal, or that the option was left out. */
export function checkSignal(operation: string, signal: unknown): void {
  if (signal === undefined || signal instanceof AbortSignal) return;
  throw new TypeError(wrong(operation, 'signal', 'an AbortSignal', describe(signal)));
}
