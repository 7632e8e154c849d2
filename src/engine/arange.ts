// The arguments and values of arange.
import { checkDTypeName, checkedShape, checkNumber, checkOptions, describe, type OptionNames, wrong } from './check.js';
import type { Device } from './device.js';
import type { DType } from './dtype.js';

export interface RangeOptions {
  /** Where the tensor lives; the default device if left out. */
  device?: Device;
  dtype?: DType;
}
const rangeOptions: OptionNames<RangeOptions> = { device: true, dtype: true };

/** `end`, or `start`, `end` and maybe `step`; then options, which may be left out. */
export type RangeArguments =
  | [end: number, options?: RangeOptions]
  | [start: number, end: number, options?: RangeOptions]
  | [start: number, end: number, step: number | undefined, options?: RangeOptions];

/** The options, where they are the last of the arguments that were given. */
export function splitOptions<Options>(args: readonly unknown[]): [numbers: unknown[], options: Options] {
  const given = args.slice(0, args.findLastIndex((value) => value !== undefined) + 1);
  const last = given.at(-1);
  const hasOptions = given.length > 1 && typeof last !== 'number';
  return [hasOptions ? given.slice(0, -1) : given, (hasOptions ? last : {}) as Options];
}

const isInt32 = (x: number): boolean => (x | 0) === x;

interface Range {
  readonly length: number;
  readonly dtype: DType;
  readonly device: Device | undefined;
  /**
   * The values from index `first` up to `last` without it, as an array that rounds each once when it becomes `dtype`.
   */
  part(first: number, last: number): Int32Array | Float32Array;
}

/** The range that the arguments of arange say. */
export function rangeOf(operation: string, args: readonly unknown[]): Range {
  const [numbers, options] = splitOptions<RangeOptions>(args);
  checkOptions(operation, options, rangeOptions);
  if (numbers.length > 3) {
    throw new TypeError(wrong(operation, 'options', 'an object after start, end and step', describe(numbers.at(-1))));
  }
  const [start, end, step] = numbers.length < 2 ? [0, numbers[0], 1] : [numbers[0], numbers[1], numbers[2] ?? 1];
  const [from, to, by] = Object.entries({ start, end, step }).map(([argument, value]) => {
    if (Number.isFinite(checkNumber(operation, argument, value))) return value;
    throw new RangeError(wrong(operation, argument, 'finite', describe(value)));
  }) as [number, number, number];
  const whole = [from, to, by].every(isInt32);
  const { dtype = whole ? 'int32' : 'float32', device } = options;
  checkDTypeName(operation, dtype);
  if (dtype === 'bool') throw new TypeError(wrong(operation, 'dtype', 'float32, bfloat16, float16 or int32', dtype));
  if (dtype === 'int32' && !whole) {
    throw new RangeError(
      wrong(operation, 'start, end and step', 'integers of 32 bits for int32', [from, to, by].join(', ')),
    );
  }
  if (by === 0 || (to - from) / by < 0) {
    const expected = by === 0 ? 'another number than 0' : 'of the sign of end - start';
    throw new RangeError(wrong(operation, 'step', expected, `${by} (from ${from} to ${to})`));
  }
  const length = Math.ceil((to - from) / by) + 0; // no -0
  checkedShape(operation, [length]);
  const round = dtype === 'bfloat16' || dtype === 'float16' ? roundedToOdd : (x: number) => x;
  const part: Range['part'] = (first, last) => {
    const out = dtype === 'int32' ? new Int32Array(last - first) : new Float32Array(last - first);
    for (let i = first; i < last; i++) out[i - first] = round(from + i * by);
    return out;
  };
  return { length, dtype, device, part };
}

const float = new Float32Array(1);
const bits = new Int32Array(float.buffer);

/**
 * x, or of the two float32 values around it the one whose last bit is 1: rounded once more, to 16 bits, this gives what
 * x itself gives (Boldo and Melquiond, IEEE Transactions on Computers 57(4), 2008).
 */
export function roundedToOdd(x: number): number {
  float[0] = x;
  const near = float[0] as number;
  const last = bits[0] as number;
  if (near === x || (last & 1) === 1) return near;
  // one step towards x: the bits of a float32 without its sign are in the order of its magnitude
  bits[0] = Math.abs(near) < Math.abs(x) ? last + 1 : last - 1;
  return float[0] as number;
}
