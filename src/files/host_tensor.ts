// Tensors in host memory, as files hold them. JavaScript has no arrays of float16 and bfloat16: those are held as their
// raw bits. Formats: IEEE 754-2008 binary16, and bfloat16 as the upper half of a binary32. Rounding is to nearest, ties
// to even.
import { shown } from './text.js';

export type HostDType =
  | 'float64'
  | 'float32'
  | 'float16'
  | 'bfloat16'
  | 'int64'
  | 'int32'
  | 'int16'
  | 'int8'
  | 'uint16'
  | 'uint8'
  | 'bool';

export type TypedArray =
  | Float64Array
  | Float32Array
  | BigInt64Array
  | Int32Array
  | Int16Array
  | Int8Array
  | Uint16Array
  | Uint8Array;

/**
 * Row-major and contiguous. float16 and bfloat16 are raw bits in a Uint16Array, int64 is a BigInt64Array, bool a
 * Uint8Array of 0 and 1. Tensors that share memory in a file (tied weights, slices of one block) share it here, too.
 */
export interface HostTensor {
  readonly dtype: HostDType;
  readonly shape: readonly number[];
  readonly data: TypedArray;
}

/** A tensor that stays in its file until it is asked for; it can be read until the file is closed. */
export interface StoredTensor {
  readonly dtype: HostDType;
  readonly shape: readonly number[];
  read(): Promise<HostTensor>;
  /**
   * The elements in row-major order, slice by slice. A slice lies in `buffer` (a multiple of 8 bytes long) and is valid
   * until the next one is asked for; an element order that the file does not have takes an array of its own.
   */
  slices(buffer: ArrayBuffer): AsyncGenerator<TypedArray>;
}

/** A value in a checkpoint. Objects have no prototype, so that no key is special. */
export type StateValue = HostTensor | number | string | boolean | null | bigint | StateDict | StateValue[];

export interface StateDict {
  [key: string]: StateValue;
}

interface ArrayOf {
  readonly BYTES_PER_ELEMENT: number;
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): TypedArray;
}

const arrays: ReadonlyMap<string, ArrayOf> = new Map<HostDType, ArrayOf>([
  ['float64', Float64Array],
  ['float32', Float32Array],
  ['float16', Uint16Array],
  ['bfloat16', Uint16Array],
  ['int64', BigInt64Array],
  ['int32', Int32Array],
  ['int16', Int16Array],
  ['int8', Int8Array],
  ['uint16', Uint16Array],
  ['uint8', Uint8Array],
  ['bool', Uint8Array],
]);

const arrayOf = (dtype: HostDType): ArrayOf => arrays.get(dtype) as ArrayOf;

export const hostDTypes = [...arrays.keys()] as readonly HostDType[];

/** Bytes per element. */
export const bytesPerElement = (dtype: HostDType): number => arrayOf(dtype).BYTES_PER_ELEMENT;

/** More dimensions than any tensor of the field; PyTorch's own limit. */
export const maxRank = 64;

/**
 * Number of elements of a shape, or undefined when it is none: a size is negative or fractional, there are too many, or
 * the product is no exact number.
 */
export function elementCount(shape: readonly unknown[]): number | undefined {
  if (shape.length > maxRank) return undefined;
  let count = 1;
  for (const size of shape) {
    if (!Number.isSafeInteger(size) || (size as number) < 0) return undefined;
    count *= size as number;
  }
  if (shape.includes(0)) return 0; // where other sizes alone may overflow
  return Number.isSafeInteger(count) ? count : undefined;
}

/** A typed array over `count` elements of a dtype; bytes are shared, and byteOffset must suit the dtype. */
export function viewAs(dtype: HostDType, buffer: ArrayBufferLike, byteOffset: number, count: number): TypedArray {
  return new (arrayOf(dtype))(buffer, byteOffset, count);
}

/** True for an object with the members of a HostTensor; a state dict with keys of these names is none. */
export function isHostTensor(x: unknown): x is HostTensor {
  if (typeof x !== 'object' || x === null) return false;
  const { dtype, shape, data } = x as Partial<HostTensor>;
  return typeof dtype === 'string' && arrays.has(dtype) && Array.isArray(shape) && ArrayBuffer.isView(data);
}

/** Why data cannot be a tensor of this dtype and shape; undefined when it can. */
export function mismatch({ dtype, shape, data }: HostTensor): string | undefined {
  if (!arrays.has(dtype)) return `dtype must be one of ${hostDTypes.join(', ')}, but is ${shown(dtype)}`;
  if (!Array.isArray(shape)) return `shape must be a list of sizes, but is ${named(shape)}`;
  const count = elementCount(shape);
  if (count === undefined) return `shape must be whole sizes from 0 on, but is [${shape.map(shown).join(', ')}]`;
  const wanted = arrayOf(dtype) as unknown as { name: string } & (new () => unknown);
  if (!(data instanceof wanted)) return `data of dtype ${dtype} must be a ${wanted.name}, but is ${named(data)}`;
  if (data.length === count) return undefined;
  return `data must have ${count} elements for shape [${shape.join(', ')}], but has ${data.length}`;
}

const named = (x: unknown): string => (x as object | undefined)?.constructor?.name ?? typeof x;

/** The elements as float32 [size], widened or rounded as needed. float32 data is returned as it is, not copied. */
export function toFloat32(t: HostTensor): Float32Array {
  const wrong = mismatch(t);
  if (wrong) throw new TypeError(`toFloat32: ${wrong}`);
  const { data, dtype } = t;
  if (data instanceof Float32Array) return data;
  if (data instanceof BigInt64Array) return Float32Array.from(data, Number);
  if (dtype === 'float16') return gathered(data, float16Values());
  if (dtype === 'bfloat16') return widened(data as Uint16Array);
  return Float32Array.from(data);
}

const single = new Float32Array(1);
const singleBits = new Uint32Array(single.buffer);

function bitsOf(value: number): number {
  single[0] = value;
  return singleBits[0] as number;
}

/** The value of a bfloat16. */
export function bfloat16ToFloat(bits: number): number {
  singleBits[0] = bits << 16;
  return single[0] as number;
}

/** A value rounded to bfloat16, as bits; NaN as on a device, 0x7fc0. */
export function floatToBfloat16(value: number): number {
  const bits = singleToOdd(value);
  if (Number.isNaN(value)) return 0x7fc0;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** The value of a float16. */
export function float16ToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** A value rounded to float16, as bits; magnitudes from 65520 on become infinite; NaN as on a device, 0x7e00. */
export function floatToFloat16(value: number): number {
  const bits = singleToOdd(value);
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) return sign | nearestEven(Math.abs(value) * 2 ** 24); // subnormal: a multiple of 2^-24
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}

// The bits of a number truncated to float32, with the last bit set when something was cut off (rounding to odd).
// Rounding those once more gives the same as rounding the double; rounding to nearest twice would not.
function singleToOdd(value: number): number {
  const bits = bitsOf(value);
  const rounded = single[0] as number;
  if (rounded === value || Number.isNaN(value)) return bits;
  const towardsZero = Math.abs(rounded) > Math.abs(value) ? bits - 1 : bits;
  return (towardsZero | 1) >>> 0;
}

// value is below 2^10, so that its whole part and its fraction are exact.
function nearestEven(value: number): number {
  const whole = Math.floor(value);
  const rest = value - whole;
  return rest > 0.5 || (rest === 0.5 && whole % 2 === 1) ? whole + 1 : whole;
}

let float16Table: Float32Array | undefined;

function float16Values(): Float32Array {
  float16Table ??= Float32Array.from({ length: 65_536 }, (_, bits) => float16ToFloat(bits));
  return float16Table;
}

function gathered(indices: ArrayLike<number>, values: Float32Array): Float32Array {
  const out = new Float32Array(indices.length);
  for (let i = 0; i < out.length; i++) out[i] = values[indices[i] as number] as number;
  return out;
}

function widened(bits: Uint16Array): Float32Array {
  const out = new Uint32Array(bits.length);
  for (let i = 0; i < out.length; i++) out[i] = (bits[i] as number) << 16;
  return new Float32Array(out.buffer);
}
