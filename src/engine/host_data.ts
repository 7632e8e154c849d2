// Converts the data that Tensor.from accepts to one typed array, a shape, the dtype stored and the dtype asked for.
import { checkDTypeName, checkedShape, describe, wrong } from './check.js';
import { canonical, type DType, isFloat } from './dtype.js';
import { flattened, nestedShape } from './nested.js';
import { type Shape, showShape, sizeOf } from './shape.js';

type Nested = number | boolean | readonly Nested[];

type NumericArray =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array;

/** A tensor in host memory, as files give it: float16 and bfloat16 as raw bits in a Uint16Array. */
interface HostTensorLike {
  readonly dtype: string;
  readonly shape: Shape;
  readonly data: NumericArray;
}

export type HostData = NumericArray | Nested | HostTensorLike;

interface Host {
  data: Float32Array | Int32Array | Uint8Array | Uint16Array;
  shape: number[];
  /** The dtype of `data`. */
  stored: DType;
  /** The dtype that was asked for. */
  dtype: DType;
}

const isNumericArray = (x: unknown): x is NumericArray =>
  ArrayBuffer.isView(x) && !(x instanceof DataView) && !(x instanceof BigUint64Array);

export function fromHost(operation: string, data: HostData, shape?: number[], dtype?: DType): Host {
  if (dtype !== undefined) checkDTypeName(operation, dtype);
  if (shape !== undefined) checkedShape(operation, shape);
  if (isNumericArray(data)) return fromArray(operation, data, shape ?? [data.length], dtype);
  if (Array.isArray(data) || typeof data === 'number' || typeof data === 'boolean') {
    return fromNested(operation, data as Nested, shape, dtype);
  }
  const host = data as HostTensorLike;
  if (!isNumericArray(host?.data) || !Array.isArray(host.shape)) {
    throw new TypeError(
      wrong(operation, 'data', 'a typed array, nested arrays of numbers or { data, shape, dtype }', describe(data)),
    );
  }
  checkHostDType(operation, host);
  const sixteen = host.dtype === 'float16' || host.dtype === 'bfloat16' ? host.dtype : undefined;
  const from = fromArray(
    operation,
    host.data,
    shape ?? [...host.shape],
    sixteen ?? (host.dtype === 'bool' ? 'bool' : undefined),
  );
  if (host.dtype === 'uint8' && host.data instanceof Uint8Array) {
    return { ...from, data: Int32Array.from(host.data), stored: 'int32', dtype: dtype ?? 'int32' };
  }
  return { ...from, dtype: dtype ?? from.dtype };
}

// The arrays that hold a dtype in a file; one of 16 bits may also come widened.
const hostArrays: Record<string, readonly (abstract new (...all: never[]) => NumericArray)[]> = {
  float64: [Float64Array],
  float32: [Float32Array],
  float16: [Uint16Array, Float32Array],
  bfloat16: [Uint16Array, Float32Array],
  int64: [BigInt64Array],
  int32: [Int32Array],
  uint32: [Uint32Array],
  int16: [Int16Array],
  uint16: [Uint16Array],
  int8: [Int8Array],
  uint8: [Uint8Array],
  bool: [Uint8Array],
};

function checkHostDType(operation: string, { dtype, data }: HostTensorLike): void {
  if (dtype === undefined) return;
  if (typeof dtype !== 'string' || !Object.hasOwn(hostArrays, dtype)) {
    throw new TypeError(wrong(operation, 'data.dtype', Object.keys(hostArrays).join(', '), describe(dtype)));
  }
  const classes = hostArrays[dtype] as (typeof hostArrays)[string];
  if (classes.some((array) => data instanceof array)) return;
  const expected = `a ${classes.map(({ name }) => name).join(' or a ')}, as its dtype is ${dtype}`;
  throw new TypeError(wrong(operation, 'data.data', expected, describe(data)));
}

function fromArray(operation: string, data: NumericArray, shape: number[], dtype?: DType): Host {
  const own = checkedShape(operation, shape);
  if (sizeOf(own) !== data.length) {
    throw new RangeError(wrong(operation, 'shape', `of ${data.length} elements, as many as data has`, showShape(own)));
  }
  if (data.buffer instanceof SharedArrayBuffer) return fromArray(operation, data.slice(), own, dtype); // a copy of its own
  const sixteen = dtype === 'bfloat16' || dtype === 'float16';
  if (data instanceof Uint16Array && sixteen) return { data, shape: own, stored: dtype, dtype };
  const isFloats = data instanceof Float32Array || data instanceof Float64Array;
  if (isFloats && dtype === 'int32') {
    return { data: wholeNumbers(operation, data), shape: own, stored: 'int32', dtype };
  }
  if (data instanceof Float32Array) return { data, shape: own, stored: 'float32', dtype: dtype ?? 'float32' };
  if (data instanceof Float64Array) {
    return { data: Float32Array.from(data, canonical), shape: own, stored: 'float32', dtype: dtype ?? 'float32' };
  }
  if (data instanceof Uint8Array && (dtype === undefined || dtype === 'bool')) {
    return { data: data.map((x) => (x ? 1 : 0)), shape: own, stored: 'bool', dtype: 'bool' };
  }
  return { data: integers(operation, data), shape: own, stored: 'int32', dtype: dtype ?? 'int32' };
}

function integers(operation: string, data: NumericArray): Int32Array {
  if (data instanceof Int32Array) return data;
  const out = new Int32Array(data.length);
  for (let i = 0; i < out.length; i++) {
    out[i] = Number(data[i]);
    if (out[i] !== Number(data[i])) {
      throw new RangeError(wrong(operation, `data[${i}]`, 'in the range of int32', String(data[i])));
    }
  }
  return out;
}

function wholeNumbers(operation: string, data: ArrayLike<number | boolean>): Int32Array {
  const out = new Int32Array(data.length);
  for (let i = 0; i < out.length; i++) {
    const x = Number(data[i]);
    out[i] = x;
    if (out[i] !== x) throw new RangeError(wrong(operation, `data[${i}]`, 'an integer of 32 bits', String(data[i])));
  }
  return out;
}

function fromNested(operation: string, data: Nested, shape: number[] | undefined, dtype: DType | undefined): Host {
  const nesting = checkedShape(operation, nestedShape(data));
  const flat = flattened(data, nesting, (actual, path) => {
    const [length, before] = [nesting[path.length], path.map((i, depth) => i * sizeOf(nesting.slice(depth + 1)))];
    const where = `data, near element ${before.reduce((sum, n) => sum + n, 0)},`;
    throw new RangeError(
      wrong(operation, where, `an array of length ${length}, as the first one of that depth`, describe(actual)),
    );
  }) as (number | boolean)[];
  const odd = flat.findIndex((x) => typeof x !== 'number' && typeof x !== 'boolean');
  if (odd >= 0) throw new TypeError(wrong(operation, `data, element ${odd},`, 'a number', describe(flat[odd])));
  const other = dtype ? -1 : flat.findIndex((x) => typeof x !== typeof flat[0]);
  if (other >= 0) {
    const expected = `a ${typeof flat[0]}, as the first one`;
    throw new TypeError(wrong(operation, `data, element ${other},`, expected, describe(flat[other])));
  }
  const kind = dtype ?? (typeof flat[0] === 'boolean' ? 'bool' : 'float32');
  const target = shape ?? nesting;
  if (kind === 'bool')
    return fromArray(
      operation,
      Uint8Array.from(flat, (x) => (Number(x) === 0 ? 0 : 1)), // as from floats, NaN is not 0
      target,
      'bool',
    );
  if (isFloat(kind))
    return fromArray(
      operation,
      Float32Array.from(flat, (x) => canonical(Number(x))),
      target,
      kind,
    );
  return fromArray(operation, wholeNumbers(operation, flat), target, kind);
}
