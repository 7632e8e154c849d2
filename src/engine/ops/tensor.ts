// Tensor: a window (shape, strides, offset) on a storage of one device. Operations on it are one-line calls into other
// files of ops/.
import {
  checkDTypeName,
  checkedDim,
  checkedShape,
  checkInteger,
  checkNumber,
  checkOperands,
  checkOptions,
  describe,
  type OptionNames,
  wrong,
} from '../check.js';
import { checkDevice, type Device, getDefaultDevice } from '../device.js';
import { byteWidth, type DType, dtypeCode, type HostArray, hostArray, hostDType } from '../dtype.js';
import { fromHost, type HostData } from '../host_data.js';
import { native, type ViewHandle } from '../native.js';
import { Operand } from '../operand.js';
import { contiguousStrides, isContiguous, type Shape, showShape, sizeOf } from '../shape.js';
import { Storage } from '../storage.js';
import { argmax, argmin } from './argmax.js';
import { add, addInPlace, div, divInPlace, mul, mulInPlace, type Side, sub, subInPlace } from './binary.js';
import { copy } from './copy.js';
import { cumsum } from './cumsum.js';
import { fill } from './fill.js';
import { randint, randn } from './random.js';
import {
  all,
  any,
  type Dims,
  logSumExp,
  max,
  mean,
  min,
  norm,
  type ReduceOptions,
  std,
  sum,
  type VarianceOptions,
  variance,
} from './reduce.js';
import { logSoftmax, softmax } from './softmax.js';
import { topK } from './top_k.js';

export interface TensorOptions {
  /** Where the tensor lives; the default device if left out. */
  device?: Device;
  dtype?: DType;
}
interface FromOptions extends TensorOptions {
  /** As many elements as the data has; its own shape if left out. */
  shape?: number[];
}
interface RandintOptions {
  device?: Device;
  seed: number;
  /** Nothing but int32. */
  dtype?: 'int32';
}
interface RandnOptions extends TensorOptions {
  /** 0 or more. */
  seed: number;
  mean?: number;
  std?: number;
}
const tensorOptions: OptionNames<TensorOptions> = { device: true, dtype: true };

/**
 * An array of float32, bfloat16, float16, int32 or bool values on a device. Operations are queued and return
 * at once; `read()` waits. Memory is freed by `dispose()` or `using`, at the latest by garbage collection. Views
 * (select, slice, permute, and reshape where it can) share their owner's memory and end with it.
 */
export class Tensor extends Operand {
  readonly shape: Shape;
  readonly dtype: DType;
  readonly device: Device;
  /** Number of elements. */
  readonly size: number;
  /** @internal In elements. */
  readonly strides: Shape;
  /** @internal In elements. */
  readonly offset: number;
  /** @internal */
  readonly storage: Storage;
  #owner: boolean;
  #ended: string | undefined;
  #handle: ViewHandle | undefined;

  /** @internal Use Tensor.from, zeros, empty, randn or randint. */
  constructor(storage: Storage, dtype: DType, shape: Shape, strides: Shape, offset: number, owner: boolean) {
    super('a tensor');
    this.storage = storage;
    this.device = storage.device;
    this.dtype = dtype;
    this.shape = shape;
    this.strides = strides;
    this.offset = offset;
    this.size = sizeOf(shape);
    this.#owner = owner;
  }

  // ---- creation

  /**
   * A tensor of the values of a typed array, of nested number arrays, or of `{ data, shape, dtype }` as files give
   * them. Without dtype: float arrays become float32, integers int32, Uint8Array and booleans bool, nested numbers
   * float32. A Uint16Array with dtype bfloat16 or float16 is taken as raw bits.
   * @throws RangeError when the shape does not fit the number of values, the nesting is ragged, or int32 is asked for
   * and does not hold a value; TypeError for other data.
   */
  static from(data: HostData, options: FromOptions = {}): Tensor {
    checkOptions('Tensor.from', options, { ...tensorOptions, shape: true });
    return Tensor.upload('Tensor.from', data, options);
  }

  /** @internal The same, in the name of another operation. */
  static upload(operation: string, data: HostData, options: FromOptions): Tensor {
    const { device = getDefaultDevice(), dtype, shape } = options;
    checkDevice(operation, device);
    const host = fromHost(operation, data, shape, dtype);
    const out = Tensor.create(host.shape, device, host.dtype);
    if (host.stored === host.dtype) native.upload(device.handle, out.handle, host.data);
    else {
      using raw = Tensor.create(host.shape, device, host.stored);
      native.upload(device.handle, raw.handle, host.data);
      copy(operation, out, raw);
    }
    return out;
  }

  /** Uninitialised memory: every element must be written before it is read. */
  static empty(shape: number[], options: TensorOptions = {}): Tensor {
    return Tensor.create(...created('Tensor.empty', shape, options, tensorOptions));
  }

  static zeros(shape: number[], options: TensorOptions = {}): Tensor {
    return Tensor.create(...created('Tensor.zeros', shape, options, tensorOptions)).fill(0);
  }

  /** Independent normal values: mean 0 and standard deviation 1 unless given. Element i depends on seed and i alone. */
  static randn(shape: number[], options: RandnOptions): Tensor {
    const known = { ...tensorOptions, seed: true, mean: true, std: true } as const;
    const [own, device, dtype] = created('Tensor.randn', shape, options, known);
    const { seed, mean = 0, std = 1 } = options;
    checkDTypeName('Tensor.randn', dtype, { floats: true });
    checkInteger('Tensor.randn', 'seed', seed, 0);
    checkNumber('Tensor.randn', 'mean', mean);
    checkNumber('Tensor.randn', 'std', std);
    return randn(Tensor.create(own, device, dtype), seed, mean, std);
  }

  /** int32 values, uniform in [low, high). */
  static randint(low: number, high: number, shape: number[], options: RandintOptions): Tensor {
    const known = { ...tensorOptions, seed: true } as const;
    const [own, device] = created('Tensor.randint', shape, options, known);
    const { seed, dtype = 'int32' } = options;
    if (dtype !== 'int32') throw new TypeError(wrong('Tensor.randint', 'dtype', 'int32', describe(dtype)));
    checkInteger('Tensor.randint', 'seed', seed, 0);
    checkInteger('Tensor.randint', 'low', low, -(2 ** 31), 2 ** 31 - 1);
    checkInteger('Tensor.randint', 'high', high, low + 1, 2 ** 31);
    return randint(Tensor.create(own, device, 'int32'), seed, low, high);
  }

  /** @internal An uninitialised tensor; nothing is checked. */
  static create(shape: Shape, device: Device, dtype: DType): Tensor {
    const storage = new Storage(device, sizeOf(shape) * byteWidth(dtype));
    return new Tensor(storage, dtype, shape, contiguousStrides(shape), 0, true);
  }

  /** @internal An uninitialised tensor on this one's device; nothing is checked. */
  make(shape: Shape, dtype: DType = this.dtype): Tensor {
    return Tensor.create(shape, this.device, dtype);
  }

  // ---- reading and lifetime

  /**
   * A host copy in row-major order: bfloat16 and float16 widened to Float32Array, int32 as Int32Array, bool as
   * Uint8Array.
   */
  async read(): Promise<HostArray> {
    checkOperands('read', { tensor: this });
    const host = hostArray(this.dtype, this.size);
    await this.readInto(host);
    return host;
  }

  /**
   * The same as read(), but into an array of the caller: one of the kind read() gives, or a Uint16Array for the raw
   * bits of bfloat16 or float16. It must not be transferred or changed until the promise settles.
   */
  async readInto(host: HostArray | Uint16Array): Promise<void> {
    await this.#readInto(host, null);
  }

  /**
   * @internal The same as readInto, for a tensor of floats. Resolves to whether one of the values is not finite, or is
   * not when it is rounded to `as`. This costs less than a look at each value in JavaScript.
   */
  async readChecked(host: HostArray | Uint16Array, as: DType): Promise<boolean> {
    return (await this.#readInto(host, dtypeCode(as))) === 1;
  }

  async #readInto(host: HostArray | Uint16Array, as: number | null): Promise<number | undefined> {
    checkOperands('readInto', { tensor: this });
    const raw = host instanceof Uint16Array && byteWidth(this.dtype) === 2;
    const expected = hostArray(this.dtype, 0).constructor as new () => HostArray;
    if (!raw && !(host instanceof expected)) {
      throw new TypeError(wrong('readInto', 'host', `a ${expected.name} for ${this.dtype}`, describe(host)));
    }
    if (host.buffer instanceof SharedArrayBuffer) {
      throw new TypeError(wrong('readInto', 'host', 'in memory of its own', 'in a SharedArrayBuffer'));
    }
    if (host.length !== this.size) {
      throw new RangeError(
        wrong('readInto', 'host', `${this.size} long (${showShape(this.shape)})`, `${host.length} long`),
      );
    }
    const dtype = raw ? this.dtype : hostDType(this.dtype);
    return this.device.settled(native.read(this.device.handle, this.handle, host, dtypeCode(dtype), as));
  }

  /** Frees the memory once queued work is done with it; of a view, gives up the view alone. */
  dispose(): void {
    this.release('it was disposed');
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal */
  release(reason: string): void {
    if (this.#owner) this.storage.release(reason);
    this.#ended ??= reason;
    this.#handle = undefined;
  }

  /** @internal Why it can no longer be used, or undefined while it can. */
  override get ended(): string | undefined {
    return this.#ended ?? this.storage.ended;
  }

  /** @internal */
  get handle(): ViewHandle {
    const { ended } = this;
    if (ended) throw new Error(`a tensor ${showShape(this.shape)} cannot be used: ${ended}`);
    this.#handle ??= native.view(
      this.storage.buffer,
      dtypeCode(this.dtype),
      this.offset,
      this.shape as number[],
      this.strides as number[],
    );
    return this.#handle;
  }

  // ---- views

  /** @internal A window on the same storage. */
  window(shape: Shape, strides: Shape, offset = this.offset): Tensor {
    checkOperands('view', { tensor: this });
    return new Tensor(this.storage, this.dtype, shape, strides, offset, false);
  }

  /** @internal Hands the memory over to a tensor of another shape; this one becomes a view of it. */
  transferTo(shape: Shape, strides: Shape = contiguousStrides(shape)): Tensor {
    const heir = new Tensor(this.storage, this.dtype, shape, strides, this.offset, this.#owner);
    this.#owner = false;
    return heir;
  }

  get isContiguous(): boolean {
    return isContiguous(this.shape, this.strides);
  }

  /** A view of another shape with as many elements, a copy where strides forbid a view. One -1 is worked out. */
  reshape(...shape: number[] | [number[]]): Tensor {
    checkOperands('reshape', { tensor: this });
    const wanted = (Array.isArray(shape[0]) ? shape[0] : shape) as number[];
    const target = [...wanted];
    const hole = target.indexOf(-1);
    const whole = target.every((n, d) => d === hole || (Number.isSafeInteger(n) && n >= 0));
    if (hole >= 0 && whole) {
      const rest = target.reduce((product, n, d) => (d === hole ? product : product * n), 1);
      target[hole] = rest > 0 && this.size % rest === 0 ? this.size / rest : -1;
    }
    if (!whole || sizeOf(target) !== this.size) {
      const expected = `of ${this.size} elements (${showShape(this.shape)})`;
      throw new RangeError(wrong('reshape', 'shape', expected, showShape(wanted)));
    }
    checkedShape('reshape', target);
    if (this.isContiguous) return this.window(target, contiguousStrides(target));
    return this.clone().transferTo(target);
  }

  /** The view at index i of a dimension, which is dropped. */
  select(dim: number, i: number): Tensor {
    checkOperands('select', { tensor: this });
    const d = checkedDim('select', 'dim', dim, this.shape);
    const n = this.shape[d] as number;
    const at = checkInteger('select', 'i', i, -n, n - 1);
    const drop = (list: Shape) => list.filter((_, other) => other !== d);
    return this.window(drop(this.shape), drop(this.strides), this.offset + (at < 0 ? at + n : at) * this.stride(d));
  }

  /** The view of [from, to) of a dimension; negative bounds count from the end. */
  slice(dim: number, from = 0, to?: number): Tensor {
    checkOperands('slice', { tensor: this });
    const d = checkedDim('slice', 'dim', dim, this.shape);
    const n = this.shape[d] as number;
    const bound = (argument: string, value: number) => {
      const at = checkInteger('slice', argument, value, -n, n);
      return at < 0 ? at + n : at;
    };
    const start = bound('from', from);
    const end = to === undefined ? n : bound('to', to);
    if (end < start) throw new RangeError(wrong('slice', 'to', `${start} or more (from)`, String(end)));
    const shape = this.shape.map((size, other) => (other === d ? end - start : size));
    return this.window(shape, this.strides, this.offset + start * this.stride(d));
  }

  /** The view with its dimensions in another order. */
  permute(dims: number[]): Tensor {
    checkOperands('permute', { tensor: this });
    if (!Array.isArray(dims)) throw new TypeError(wrong('permute', 'dims', 'an array of dimensions', describe(dims)));
    const order = dims.map((dim) => checkedDim('permute', 'dims', dim, this.shape));
    if (new Set(order).size !== this.shape.length || order.length !== this.shape.length) {
      throw new RangeError(
        wrong('permute', 'dims', `each dimension of ${showShape(this.shape)} once`, showShape(dims)),
      );
    }
    return this.window(
      order.map((d) => this.shape[d] as number),
      order.map((d) => this.stride(d)),
    );
  }

  private stride(dim: number): number {
    return this.strides[dim] as number;
  }

  // ---- copying and filling

  /** A row-major copy in memory of its own. */
  clone(): Tensor {
    checkOperands('clone', { tensor: this });
    return copy('clone', this.make(this.shape), this);
  }

  /**
   * A copy in another dtype. Floats to int32 are truncated, to bool compared with 0. A NaN or a value that int32 does
   * not hold fails the operation: the next read() or synchronize() rejects.
   */
  to(dtype: DType): Tensor {
    checkOperands('to', { tensor: this });
    checkDTypeName('to', dtype);
    return copy('to', this.make(this.shape, dtype), this);
  }

  /**
   * Sets every element. An int32 tensor takes an integer of 32 bits, a bool tensor 0 or 1, one of floats any number,
   * which is rounded.
   */
  fill(value: number): this {
    fill(this, value);
    return this;
  }

  /** Copies other into this tensor, converting its dtype as `to` does; it must broadcast to this shape. */
  copyFrom(other: Tensor): this {
    copy('copyFrom', this, other);
    return this;
  }

  // ---- arithmetic: x is a number, or a tensor that broadcasts. In float32, or in int32 where both sides are integers: a
  // result that int32 does not hold fails the operation, and the next read() or synchronize() rejects.

  add(x: Side): Tensor {
    return add(this, x);
  }
  sub(x: Side): Tensor {
    return sub(this, x);
  }
  mul(x: Side): Tensor {
    return mul(this, x);
  }
  /** True division: of integers, float32. */
  div(x: Side): Tensor {
    return div(this, x);
  }
  add_(x: Side): this {
    addInPlace(this, x);
    return this;
  }
  sub_(x: Side): this {
    subInPlace(this, x);
    return this;
  }
  mul_(x: Side): this {
    mulInPlace(this, x);
    return this;
  }
  div_(x: Side): this {
    divInPlace(this, x);
    return this;
  }

  // ---- reductions: x [...] -> the dimensions that are left; those reduced are one, several (a list, in any order) or,
  // without `dim`, all. keepDim keeps them, as 1.

  /**
   * The sum, in double precision and rounded once. One of int32 is exact; if int32 does not hold it, the operation
   * fails: the next read() or synchronize() rejects. Of a bool tensor, int32.
   */
  sum(dim?: Dims, options?: ReduceOptions): Tensor {
    return sum(this, dim, options);
  }
  /** The sum, in double precision, over the number; that of integers is float32. */
  mean(dim?: Dims, options?: ReduceOptions): Tensor {
    return mean(this, dim, options);
  }
  /** The largest element, NaN where there is one; of a bool tensor, int32. A RangeError for an empty tensor. */
  max(dim?: Dims, options?: ReduceOptions): Tensor {
    return max(this, dim, options);
  }
  /** The smallest element, NaN where there is one; of a bool tensor, int32. A RangeError for an empty tensor. */
  min(dim?: Dims, options?: ReduceOptions): Tensor {
    return min(this, dim, options);
  }
  /** bool: whether an element is not 0, as NaN is. */
  any(dim?: Dims, options?: ReduceOptions): Tensor {
    return any(this, dim, options);
  }
  /** bool: whether no element is 0. */
  all(dim?: Dims, options?: ReduceOptions): Tensor {
    return all(this, dim, options);
  }
  /** The variance over n - correction (1 unless given), in double precision; of integers, float32. */
  var(dim?: Dims, options?: VarianceOptions): Tensor {
    return variance(this, dim, options);
  }
  /** The standard deviation: the square root of the variance. */
  std(dim?: Dims, options?: VarianceOptions): Tensor {
    return std(this, dim, options);
  }
  /** The square root of the sum of squares, in double precision; of integers, float32. */
  norm(dim?: Dims, options?: ReduceOptions): Tensor {
    return norm(this, dim, options);
  }
  /** log(sum(exp(x))), which does not overflow; of integers, float32. */
  logSumExp(dim?: Dims, options?: ReduceOptions): Tensor {
    return logSumExp(this, dim, options);
  }
  /** int32: the lowest index of the largest value, NaN above all; without `dim`, in x [...] in row-major order. */
  argmax(dim?: number, options?: ReduceOptions): Tensor {
    return argmax(this, dim, options);
  }
  /** int32: the lowest index of the smallest value, NaN below all; without `dim`, in x [...] in row-major order. */
  argmin(dim?: number, options?: ReduceOptions): Tensor {
    return argmin(this, dim, options);
  }
  /**
   * x [...] -> the same shape: the sums up to each element along dim, floats in double precision. Sums of int32 are
   * exact, or the operation fails, as in sum. Of a bool tensor, int32.
   */
  cumsum(dim: number): Tensor {
    return cumsum(this, dim);
  }
  /** x [...] of floats -> the same shape and dtype: exp(x - max) / sum of the same over dim, in float32. */
  softmax(dim = -1): Tensor {
    return softmax(this, dim);
  }
  /** x [...] of floats -> the same shape and dtype: the logarithm of softmax. */
  logSoftmax(dim = -1): Tensor {
    return logSoftmax(this, dim);
  }
  /** The k largest of the last dimension, largest first; of equals, lower indices first. */
  topk(k: number): { values: Tensor; indices: Tensor } {
    return topK(this, k);
  }

  override toString(): string {
    return `Tensor ${showShape(this.shape)} ${this.dtype} on ${this.device}${this.ended ? ' (ended)' : ''}`;
  }
}

/** The checked shape, device and dtype of a tensor that `operation` creates. */
function created<Options extends TensorOptions>(
  operation: string,
  shape: number[],
  options: Options,
  known: OptionNames<Options>,
): [shape: number[], device: Device, dtype: DType] {
  checkOptions(operation, options, known);
  const own = checkedShape(operation, shape);
  const { device = getDefaultDevice(), dtype = 'float32' } = options;
  checkDTypeName(operation, dtype);
  checkDevice(operation, device);
  return [own, device, dtype];
}
