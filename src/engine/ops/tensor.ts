// Tensor: a window (shape, strides, offset) on a storage of one device. Operations on it are one-line calls into other
// files of ops/.
import { type RangeArguments, rangeOf, splitOptions } from '../arange.js';
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
import { writeView } from '../native_arguments.js';
import { type NestedNumbers, nested } from '../nested.js';
import { Operand, type OperandWindow } from '../operand.js';
import { type BackwardOptions, backward, gradientOf, leafOf, requireGradient } from '../record.js';
import { contiguousStrides, isContiguous, type Shape, shapeOf, showShape, sizeOf, viewStrides } from '../shape.js';
import type { Storage } from '../storage.js';
import { argmax, argmin } from './argmax.js';
import {
  add,
  addInPlace,
  div,
  divInPlace,
  maximum,
  maximumInPlace,
  minimum,
  minimumInPlace,
  mul,
  mulInPlace,
  type Side,
  sub,
  subInPlace,
} from './binary.js';
import { and, andInPlace, eq, ge, gt, le, lt, ne, not, notInPlace, or, orInPlace } from './compare.js';
import { copy } from './copy.js';
import { type CrossEntropyOptions, crossEntropy, type NestedTargets } from './cross_entropy.js';
import { cumsum } from './cumsum.js';
import { checkFillValue, fill } from './fill.js';
import { gather } from './gather.js';
import { indexCopy, indexCopyInPlace } from './index_copy.js';
import { indexSelect } from './index_select.js';
import type { IndexList, Indices } from './indices.js';
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
import { scatterAdd, scatterAddInPlace } from './scatter_add.js';
import { logSoftmax, softmax } from './softmax.js';
import { type SortOptions, sort } from './sort.js';
import { topK } from './top_k.js';
import { tril, trilInPlace, triu, triuInPlace } from './triangle.js';
import {
  abs,
  absInPlace,
  clamp,
  clampInPlace,
  exp,
  expInPlace,
  gelu,
  geluInPlace,
  log,
  logInPlace,
  neg,
  negInPlace,
  pow,
  powInPlace,
  relu,
  reluInPlace,
  sigmoid,
  sigmoidInPlace,
  sign,
  signInPlace,
  sqrt,
  sqrtInPlace,
  tanh,
  tanhInPlace,
} from './unary.js';
import { dot, outer } from './vector_products.js';
import { diagonal, expand, flatten, split, squeeze, transpose, unsqueeze } from './view_operations.js';
import { where } from './where.js';

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

/** The most elements that arange holds on the host at a time. */
const partOfRange = 2 ** 20;

/** Rows and columns, as many as rows if they are left out; then options, which may be left out. */
export type EyeArguments =
  | [n: number, options?: TensorOptions]
  | [n: number, m?: number | undefined, options?: TensorOptions];

/**
 * An array of float32, bfloat16, float16, int32 or bool values on a device. Operations are queued and return
 * at once; `read()` waits. Memory is freed by `dispose()` or `using`, at the latest by garbage collection. Views
 * (select, slice, permute, expand and the like; reshape and flatten where they can) share their owner's memory and end
 * with it.
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
    if (host.stored === host.dtype) device.upload(out, host.data);
    else {
      using raw = Tensor.create(host.shape, device, host.stored);
      device.upload(raw, host.data);
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

  /**
   * A tensor of one value: bool for true and false, else float32, unless dtype is given.
   * @throws RangeError for a value that the dtype does not hold, as fill.
   */
  static full(shape: number[], value: number | boolean, options: TensorOptions = {}): Tensor {
    return Tensor.filled('Tensor.full', shape, value, options);
  }

  static ones(shape: number[], options: TensorOptions = {}): Tensor {
    return Tensor.filled('Tensor.ones', shape, 1, options);
  }

  /** @internal The same, in the name of another operation. */
  static filled(operation: string, shape: number[], value: number | boolean, options: TensorOptions): Tensor {
    const isFlag = typeof value === 'boolean';
    const [own, device, dtype] = created(operation, shape, options, tensorOptions, isFlag ? 'bool' : 'float32');
    const number = checkFillValue(operation, dtype, isFlag ? Number(value) : value);
    return Tensor.create(own, device, dtype).fill(number);
  }

  /**
   * start, start + step, …, up to end without it: ceil((end - start) / step) numbers. `arange(end)` starts at 0, and
   * step is 1 if it is left out. int32 where all three are integers of 32 bits, else float32, unless dtype is given.
   * Each value is computed in double precision and rounded once.
   * @throws RangeError for a step of 0 or away from end, and for what int32 does not hold.
   */
  static arange(...args: RangeArguments): Tensor {
    return Tensor.range('Tensor.arange', args);
  }

  /** @internal The same, in the name of another operation. */
  static range(operation: string, args: RangeArguments): Tensor {
    const { length, dtype, device = getDefaultDevice(), part } = rangeOf(operation, args);
    checkDevice(operation, device);
    const out = Tensor.create([length], device, dtype);
    for (let from = 0; from < length; from += partOfRange) {
      const to = Math.min(length, from + partOfRange);
      using values = Tensor.upload(operation, part(from, to), { device });
      copy(operation, out.slice(0, from, to), values);
    }
    return out;
  }

  /** A matrix [n, m], [n, n] without m: 1 on its diagonal and 0 elsewhere; float32 unless dtype is given. */
  static eye(...args: EyeArguments): Tensor {
    return Tensor.identity('Tensor.eye', args);
  }

  /** @internal The same, in the name of another operation. */
  static identity(operation: string, args: EyeArguments): Tensor {
    const [[n, m = n, more], options] = splitOptions<TensorOptions>(args);
    if (more !== undefined) throw new TypeError(wrong(operation, 'options', 'an object', describe(more)));
    const shape = [checkInteger(operation, 'n', n, 0), checkInteger(operation, 'm', m, 0)];
    const out = Tensor.create(...created(operation, shape, options, tensorOptions)).fill(0);
    out.diagonal().fill(1);
    return out;
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
    const storage = device.storage(sizeOf(shape) * byteWidth(dtype));
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
    return this.device.read(this, host, dtypeCode(dtype), as);
  }

  /**
   * The number of a tensor of one element, of any shape; 0 or 1 of a bool.
   * @throws RangeError, as a rejection, unless it has one element.
   */
  async item(): Promise<number> {
    checkOperands('item', { tensor: this });
    if (this.size !== 1) {
      throw new RangeError(wrong('item', 'the tensor', 'of one element', `${showShape(this.shape)} of ${this.size}`));
    }
    return (await this.read())[0] as number;
  }

  /** Nested arrays of its numbers, in its shape; a number, where it has no dimension. A bool gives 0 or 1. */
  async toArray(): Promise<NestedNumbers> {
    checkOperands('toArray', { tensor: this });
    return nested(await this.read(), this.shape);
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
    if (this.#owner) {
      leafOf(this)?.clear();
      this.storage.release(reason);
    }
    this.#ended ??= reason;
  }

  /** @internal Why it can no longer be used, or undefined while it can. */
  override get ended(): string | undefined {
    return this.#ended ?? this.storage.ended;
  }

  /** @internal */
  get argument(): 'view' {
    return 'view';
  }

  /** @internal */
  write(numbers: Float64Array, at: number): number {
    const { ended } = this;
    if (ended) throw new Error(`a tensor ${showShape(this.shape)} cannot be used: ${ended}`);
    return writeView(numbers, at, this.storage, this.dtype, this.offset, this.shape, this.strides);
  }

  // ---- gradients

  /**
   * Makes this tensor a leaf: `grad` is the sum of its gradients over backward passes. Operations on it are recorded,
   * but for those in a pass without `grad`. Returns this tensor.
   * @throws TypeError unless it is of floats; Error for a view, a recorded tensor, or one on a GPU.
   */
  requireGrad(): this {
    checkOperands('requireGrad', { tensor: this });
    requireGradient(this);
    return this;
  }

  /**
   * The gradient of a leaf, float32 and of its shape: the sum over all backward() calls since the last zeroGrad().
   * undefined before the first one. It is the leaf's, and ends with it. Of a view of a leaf, the same view of it.
   */
  get grad(): Tensor | undefined {
    return gradientOf(this) as Tensor | undefined;
  }

  /** Gives up the gradient of a leaf: the next backward() begins with 0. */
  zeroGrad(): void {
    leafOf(this)?.clear();
  }

  /** A view that is not recorded: a constant, as far as gradients are concerned. It may be changed in place. */
  detach(): Tensor {
    checkOperands('detach', { tensor: this });
    return new Tensor(this.storage.detached(), this.dtype, this.shape, this.strides, this.offset, false);
  }

  /**
   * Computes the gradients of this tensor, a scalar, and calls the backward hooks of the passes that it depends on. Adds
   * to `grad` of each leaf, and returns what the pass asked for: of one with `grad: 'parameters'` the gradient of every
   * parameter by its name, else nothing. The record of the operations is freed, unless `retain` is true.
   * @throws Error, as a rejection, where the tensor depends on nothing that is recorded, or its record was freed; and
   *   what a hook throws, in an Error that names its place.
   */
  async backward(options: BackwardOptions = {}): Promise<Map<string, Tensor>> {
    return (await backward(this, options)) as Map<string, Tensor>;
  }

  /** @internal */
  get gradientWindow(): OperandWindow {
    const { storage, shape, strides, offset } = this;
    return { storage, shape, strides, offset, elements: this.elements };
  }

  /** @internal Of its whole storage. */
  get elements(): number {
    return this.storage.bytes / byteWidth(this.dtype);
  }

  /** @internal Whether it has its storage for itself, and shows all of it. */
  get ownsAll(): boolean {
    return this.#owner && this.size === this.elements;
  }

  /** @internal The same window in a storage of its own on the same memory, which is given back after both. */
  shared(): Tensor {
    return new Tensor(this.storage.shared(), this.dtype, this.shape, this.strides, this.offset, true);
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
    const wanted = shapeOf(shape);
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
    const strides = viewStrides(this.shape, this.strides, target);
    return strides ? this.window(target, strides) : this.clone().transferTo(target);
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

  /** The view with a new dimension of size 1 at `dim`. */
  unsqueeze(dim: number): Tensor {
    return unsqueeze(this, dim);
  }
  /** The view without the dimensions of `dim` that have size 1, one or a list; without any of size 1, if left out. */
  squeeze(dim?: number | readonly number[]): Tensor {
    return squeeze(this, dim);
  }
  /** The view in a shape it broadcasts to, for reading only: dimensions of size 1 repeat. -1 keeps a size. */
  expand(...shape: number[] | [readonly number[]]): Tensor {
    return expand(this, ...shape);
  }
  /** The view with two dimensions exchanged. */
  transpose(a: number, b: number): Tensor {
    return transpose(this, a, b);
  }
  /** The dimensions `from` to `to`, both included, as one: a view, or a copy where strides forbid one. */
  flatten(from?: number, to?: number): Tensor {
    return flatten(this, from, to);
  }
  /** The view of the elements at j - i = offset, for i in dim1 and j in dim2 (0 and 1 if left out); it comes last. */
  diagonal(offset?: number, dim1?: number, dim2?: number): Tensor {
    return diagonal(this, offset, dim1, dim2);
  }
  /** Views of the parts of a dimension: of `size`, the last one maybe smaller, or of the sizes of a list. */
  split(size: number | readonly number[], dim?: number): Tensor[] {
    return split(this, size, dim);
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

  // ---- arithmetic: x is a number, or a tensor that broadcasts. In float32, or in int32 where both sides are integers:
  // a result that int32 does not hold fails the operation, and the next read() or synchronize() rejects.

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
  /** The larger of each two elements, NaN where one of them is. */
  maximum(x: Side): Tensor {
    return maximum(this, x);
  }
  minimum(x: Side): Tensor {
    return minimum(this, x);
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

  maximum_(x: Side): this {
    maximumInPlace(this, x);
    return this;
  }
  minimum_(x: Side): this {
    minimumInPlace(this, x);
    return this;
  }

  // ---- functions of one element, any shape: a new tensor of the same shape, or with _ in place. A bool counts as 0 or
  // 1.

  /** e^x. Of integers, float32. */
  exp(): Tensor {
    return exp(this);
  }
  /** ln x: -inf of 0, NaN of what is below. Of integers, float32. */
  log(): Tensor {
    return log(this);
  }
  /** NaN of what is below 0. Of integers, float32. */
  sqrt(): Tensor {
    return sqrt(this);
  }
  /** int32 stays int32; -2^31 fails the operation. */
  abs(): Tensor {
    return abs(this);
  }
  /** int32 stays int32; -2^31 fails the operation. */
  neg(): Tensor {
    return neg(this);
  }
  /** -1, 0 or 1; 0 of NaN. int32 stays int32. */
  sign(): Tensor {
    return sign(this);
  }
  /** Of integers, float32. */
  tanh(): Tensor {
    return tanh(this);
  }
  /** 1 / (1 + e^-x). Of integers, float32. */
  sigmoid(): Tensor {
    return sigmoid(this);
  }
  /** max(x, 0), of floats. */
  relu(): Tensor {
    return relu(this);
  }
  /** GPT-2's GELU, of floats. */
  gelu(): Tensor {
    return gelu(this);
  }
  /** x to the power p, a number. int32 stays int32 where p is an integer of 0 or more. */
  pow(p: number): Tensor {
    return pow(this, p);
  }
  /** The nearest value from low to high; -Infinity and Infinity leave a side open. */
  clamp(low: number, high: number): Tensor {
    return clamp(this, low, high);
  }
  exp_(): this {
    expInPlace(this);
    return this;
  }
  log_(): this {
    logInPlace(this);
    return this;
  }
  sqrt_(): this {
    sqrtInPlace(this);
    return this;
  }
  abs_(): this {
    absInPlace(this);
    return this;
  }
  neg_(): this {
    negInPlace(this);
    return this;
  }
  sign_(): this {
    signInPlace(this);
    return this;
  }
  tanh_(): this {
    tanhInPlace(this);
    return this;
  }
  sigmoid_(): this {
    sigmoidInPlace(this);
    return this;
  }
  relu_(): this {
    reluInPlace(this);
    return this;
  }
  gelu_(): this {
    geluInPlace(this);
    return this;
  }
  pow_(p: number): this {
    powInPlace(this, p);
    return this;
  }
  clamp_(low: number, high: number): this {
    clampInPlace(this, low, high);
    return this;
  }

  // ---- comparisons and logic, as bool; x is a number or a tensor that broadcasts. NaN is unequal to all.

  eq(x: Side): Tensor {
    return eq(this, x);
  }
  ne(x: Side): Tensor {
    return ne(this, x);
  }
  lt(x: Side): Tensor {
    return lt(this, x);
  }
  le(x: Side): Tensor {
    return le(this, x);
  }
  gt(x: Side): Tensor {
    return gt(this, x);
  }
  ge(x: Side): Tensor {
    return ge(this, x);
  }
  /** Whether both are true. What is not 0 is true in any dtype, NaN as well. */
  and(x: Tensor): Tensor {
    return and(this, x);
  }
  or(x: Tensor): Tensor {
    return or(this, x);
  }
  not(): Tensor {
    return not(this);
  }
  and_(x: Tensor): this {
    andInPlace(this, x);
    return this;
  }
  or_(x: Tensor): this {
    orInPlace(this, x);
    return this;
  }
  not_(): this {
    notInPlace(this);
    return this;
  }
  /** a where this (bool) is true, else b; numbers, or tensors that broadcast with it. */
  where(a: Side, b: Side): Tensor {
    return where(this, a, b);
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
  /**
   * This tensor as logits [..., N] of targets [...], int32 or nested integers: the mean loss [], the 'sum', or with
   * reduction 'none' that of each target, float32. See crossEntropy().
   */
  crossEntropy(targets: Tensor | NestedTargets, options?: CrossEntropyOptions): Tensor {
    return crossEntropy(this, targets, options);
  }
  /** The k largest of the last dimension, largest first; of equals, lower indices first. */
  topk(k: number): { values: Tensor; indices: Tensor } {
    return topK(this, k);
  }

  // ---- indexing and order

  /**
   * The elements of [A, B, C] that `index` names along `dim`, any dtype: for dim 1, out[i, j, k] = this[i, index[i, j,
   * k], k]. The result has the shape of `index`: an int32 tensor or nested integers, with as many dimensions, and but
   * for `dim` at most of this tensor's sizes. See gather().
   */
  gather(dim: number, index: Indices): Tensor {
    return gather(this, dim, index);
  }
  /** The slices of [A, N, C] at K indices of `dim`, any dtype: for dim 1, [A, K, C]. See indexSelect(). */
  indexSelect(dim: number, indices: IndexList): Tensor {
    return indexSelect(this, dim, indices);
  }
  /**
   * A copy of [A, N, C] with `source` assigned at K indices of `dim`, any dtype: for dim 1, out[:, indices[j]] =
   * source[:, j]. `source` is [A, K, C] or broadcasts to it, and is converted as copyFrom does. See indexCopy().
   */
  indexCopy(dim: number, indices: IndexList, source: Tensor): Tensor {
    return indexCopy(this, dim, indices, source);
  }
  /** The same in place. */
  indexCopy_(dim: number, indices: IndexList, source: Tensor): this {
    indexCopyInPlace(this, dim, indices, source);
    return this;
  }
  /**
   * A copy of [A, B, C] with terms added, floats or int32: for dim 1, out[i, index[i, j, k], k] += source[i, j, k]. In
   * double precision and rounded once, or exact. See scatterAdd().
   */
  scatterAdd(dim: number, index: Indices, source: Tensor): Tensor {
    return scatterAdd(this, dim, index, source);
  }
  /** The same in place. */
  scatterAdd_(dim: number, index: Indices, source: Tensor): this {
    scatterAddInPlace(this, dim, index, source);
    return this;
  }
  /**
   * The values of a dimension in order, NaN the largest, and int32 the index of each; both of this shape, any dtype.
   * Equal values keep their order. See sort().
   */
  sort(dim = -1, options?: SortOptions): { values: Tensor; indices: Tensor } {
    return sort(this, dim, options);
  }
  /** [..., M, N], any dtype: a copy that is 0 (false) where column - row is more than `diagonal`. See tril(). */
  tril(diagonal = 0): Tensor {
    return tril(this, diagonal);
  }
  /** The same in place. */
  tril_(diagonal = 0): this {
    trilInPlace(this, diagonal);
    return this;
  }
  /** [..., M, N], any dtype: a copy that is 0 (false) where column - row is less than `diagonal`. See triu(). */
  triu(diagonal = 0): Tensor {
    return triu(this, diagonal);
  }
  /** The same in place. */
  triu_(diagonal = 0): this {
    triuInPlace(this, diagonal);
    return this;
  }

  // ---- products

  /** The sum of this[i] x[i], of two vectors. */
  dot(x: Tensor): Tensor {
    return dot(this, x);
  }
  /** this[i] x[j], of two vectors. */
  outer(x: Tensor): Tensor {
    return outer(this, x);
  }

  override toString(): string {
    return `Tensor ${showShape(this.shape)} ${this.dtype} on ${this.device}${this.ended ? ' (ended)' : ''}`;
  }
}

/** The checked shape, device and dtype (`natural` unless it is given) of a tensor that `operation` creates. */
function created<Options extends TensorOptions>(
  operation: string,
  shape: number[],
  options: Options,
  known: OptionNames<Options>,
  natural: DType = 'float32',
): [shape: number[], device: Device, dtype: DType] {
  checkOptions(operation, options, known);
  const own = checkedShape(operation, shape);
  const { device = getDefaultDevice(), dtype = natural } = options;
  checkDTypeName(operation, dtype);
  checkDevice(operation, device);
  return [own, device, dtype];
}
