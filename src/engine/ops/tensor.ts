// Tensor: a window (shape, strides, offset) on a storage of one device. Operations on it are one-line calls into other
// files of ops/.
import { checkedDim, checkedShape, checkInteger, checkOperands, describe, wrong } from '../check.js';
import { Device, getDefaultDevice } from '../device.js';
import { byteWidth, type DType, dtypeCode, dtypes, type HostArray, hostArray, hostDType } from '../dtype.js';
import { fromHost, type HostData } from '../host_data.js';
import { native, type ViewHandle } from '../native.js';
import { contiguousStrides, isContiguous, type Shape, showShape, sizeOf } from '../shape.js';
import { Storage } from '../storage.js';
import { argmax } from './argmax.js';
import { add, addInPlace, div, divInPlace, mul, mulInPlace, type Operand, sub, subInPlace } from './binary.js';
import { copy } from './copy.js';
import { fill } from './fill.js';
import { randint, randn } from './random.js';
import { max, mean, type ReduceOptions, sum } from './reduce.js';
import { topK } from './top_k.js';

export interface TensorOptions {
  /** Where the tensor lives; the default device if left out. */
  device?: Device;
  dtype?: DType;
}

/**
 * An array of float32, bfloat16, float16, int32 or bool values on a device. Operations are queued and return
 * at once; `read()` waits. Memory is freed by `dispose()` or `using`, at the latest by garbage collection. Views
 * (select, slice, permute, and reshape where it can) share their owner's memory and end with it.
 */
export class Tensor {
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
   * @throws RangeError when the shape does not fit the number of values or the nesting is ragged; TypeError for other
   * data.
   */
  static from(data: HostData, options: TensorOptions & { shape?: number[] } = {}): Tensor {
    const host = fromHost('Tensor.from', data, options.shape, options.dtype);
    const out = Tensor.empty(host.shape, { ...options, dtype: host.dtype });
    if (host.stored === host.dtype) native.upload(out.device.handle, out.handle, host.data);
    else {
      using raw = Tensor.empty(host.shape, { ...options, dtype: host.stored });
      native.upload(raw.device.handle, raw.handle, host.data);
      copy('Tensor.from', out, raw);
    }
    return out;
  }

  /** Uninitialised memory: every element must be written before it is read. */
  static empty(shape: number[], { device = getDefaultDevice(), dtype = 'float32' }: TensorOptions = {}): Tensor {
    const own = checkedShape('Tensor.empty', shape);
    if (!dtypes.includes(dtype))
      throw new TypeError(wrong('Tensor.empty', 'dtype', dtypes.join(', '), describe(dtype)));
    if (!(device instanceof Device)) {
      const expected = 'what openDevice or getDefaultDevice gives';
      throw new TypeError(wrong('Tensor.empty', 'device', expected, describe(device)));
    }
    const storage = new Storage(device, sizeOf(own) * byteWidth(dtype));
    return new Tensor(storage, dtype, own, contiguousStrides(own), 0, true);
  }

  static zeros(shape: number[], options: TensorOptions = {}): Tensor {
    return Tensor.empty(shape, options).fill(0);
  }

  /** Independent normal values: mean 0 and standard deviation 1 unless given. Element i depends on seed and i alone. */
  static randn(shape: number[], options: TensorOptions & { seed: number; mean?: number; std?: number }): Tensor {
    return randn(Tensor.empty(shape, options), options);
  }

  /** int32 values, uniform in [low, high). */
  static randint(low: number, high: number, shape: number[], options: TensorOptions & { seed: number }): Tensor {
    return randint(Tensor.empty(shape, { ...options, dtype: 'int32' }), low, high, options);
  }

  /** @internal An uninitialised tensor on this one's device. */
  make(shape: Shape, dtype: DType = this.dtype): Tensor {
    return Tensor.empty(shape as number[], { device: this.device, dtype });
  }

  // ---- reading and lifetime

  /**
   * A host copy in row-major order: bfloat16 and float16 widened to Float32Array, int32 as Int32Array, bool as
   * Uint8Array.
   */
  async read(): Promise<HostArray> {
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
    const expected = hostArray(this.dtype, 0).constructor;
    if (!raw && host?.constructor !== expected) {
      throw new TypeError(wrong('readInto', 'host', `a ${expected.name} for ${this.dtype}`, describe(host)));
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
  get ended(): string | undefined {
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
    const target = (Array.isArray(shape[0]) ? [...shape[0]] : [...shape]) as number[];
    const hole = target.indexOf(-1);
    if (hole >= 0) {
      const rest = target.reduce((product, n, d) => (d === hole ? product : product * n), 1);
      target[hole] = rest > 0 && this.size % rest === 0 ? this.size / rest : -1;
    }
    if (target.some((n) => !Number.isSafeInteger(n) || n < 0) || sizeOf(target) !== this.size) {
      const wanted = showShape(Array.isArray(shape[0]) ? shape[0] : (shape as number[]));
      throw new RangeError(wrong('reshape', 'shape', `of ${this.size} elements (${showShape(this.shape)})`, wanted));
    }
    checkedShape('reshape', target);
    if (this.isContiguous) return this.window(target, contiguousStrides(target));
    return this.clone().transferTo(target);
  }

  /** The view at index i of a dimension, which is dropped. */
  select(dim: number, i: number): Tensor {
    const d = checkedDim('select', 'dim', dim, this.shape);
    const n = this.shape[d] as number;
    const at = checkInteger('select', 'i', i, -n, n - 1);
    const drop = (list: Shape) => list.filter((_, other) => other !== d);
    return this.window(drop(this.shape), drop(this.strides), this.offset + (at < 0 ? at + n : at) * this.stride(d));
  }

  /** The view of [from, to) of a dimension; negative bounds count from the end. */
  slice(dim: number, from = 0, to?: number): Tensor {
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
    return copy('clone', this.make(this.shape), this);
  }

  /** A copy in another dtype. Floats to int32 are truncated, to bool compared with 0. */
  to(dtype: DType): Tensor {
    return copy('to', this.make(this.shape, dtype), this);
  }

  fill(value: number): this {
    fill(this, value);
    return this;
  }

  /** Copies other into this tensor, converting its dtype; it must broadcast to this shape. */
  copyFrom(other: Tensor): this {
    copy('copyFrom', this, other);
    return this;
  }

  // ---- arithmetic: x is a number, or a tensor that broadcasts

  add(x: Operand): Tensor {
    return add(this, x);
  }
  sub(x: Operand): Tensor {
    return sub(this, x);
  }
  mul(x: Operand): Tensor {
    return mul(this, x);
  }
  /** True division: of integers, float32. */
  div(x: Operand): Tensor {
    return div(this, x);
  }
  add_(x: Operand): this {
    addInPlace(this, x);
    return this;
  }
  sub_(x: Operand): this {
    subInPlace(this, x);
    return this;
  }
  mul_(x: Operand): this {
    mulInPlace(this, x);
    return this;
  }
  div_(x: Operand): this {
    divInPlace(this, x);
    return this;
  }

  // ---- reductions, over one dimension or, without it, over all

  sum(dim?: number, options?: ReduceOptions): Tensor {
    return sum(this, dim, options);
  }
  /** The mean; that of integers is float32. */
  mean(dim?: number, options?: ReduceOptions): Tensor {
    return mean(this, dim, options);
  }
  max(dim?: number, options?: ReduceOptions): Tensor {
    return max(this, dim, options);
  }
  /** int32: the lowest index of the largest value. */
  argmax(dim: number): Tensor {
    return argmax(this, dim);
  }
  /** The k largest of the last dimension, largest first; of equals, lower indices first. */
  topk(k: number): { values: Tensor; indices: Tensor } {
    return topK(this, k);
  }

  toString(): string {
    return `Tensor ${showShape(this.shape)} ${this.dtype} on ${this.device}${this.ended ? ' (ended)' : ''}`;
  }
}
