// What the products of a device read instead of a left operand of float32: the operation whose result that is writes it
// as well, so that the product that follows needs no pass of its own over the result.
import { describe, wrong } from '../check.js';
import type { Device } from '../device.js';
import { type DType, dtypeCode } from '../dtype.js';
import { native, type ViewArgument } from '../native.js';
import { writeView } from '../native_arguments.js';
import { type Shape, showShape, sizeOf } from '../shape.js';
import type { Storage } from '../storage.js';

/** A tensor, or what it will be. */
interface Like {
  readonly device: Device;
  readonly dtype: DType;
  readonly shape: Shape;
}

/** A tensor, as far as its planes are concerned. */
interface Held {
  readonly storage: Storage;
  readonly offset: number;
  readonly isContiguous: boolean;
}

/**
 * Planes of a tensor seen as rows of k: what it held when it was made, in the order of the device's products. They change
 * no bit of a result.
 */
export class Planes implements ViewArgument {
  readonly argument = 'view';
  readonly device: Device;
  readonly rows: number;
  readonly k: number;
  readonly storage: Storage;
  #of: Storage | undefined; // the memory of the tensor
  #offset = 0;

  /** Use planesFor. */
  constructor(device: Device, rows: number, k: number, bytes: number) {
    this.device = device;
    this.rows = rows;
    this.k = k;
    this.storage = device.storage(bytes);
  }

  write(numbers: Float64Array, at: number): number {
    return writeView(numbers, at, this.storage, 'bool', 0, [this.storage.bytes], [1]);
  }

  /** Notes that an operation writes something else where they were written with a result. */
  forget(): void {
    this.#of = undefined;
  }

  /** Notes that an operation has written them with its result. */
  hold({ storage, offset }: Held): void {
    this.#of = storage;
    this.#offset = offset;
  }

  /** Demands that an operation has written them with x, or with a tensor that x shows in another shape. */
  checkHolds(operation: string, x: Held): void {
    if (this.#of === x.storage && this.#offset === x.offset && x.isContiguous) return;
    throw new Error(`${operation}: xPlanes ${this.#of ? 'were written with another tensor than x' : 'hold nothing'}`);
  }

  /** Ends them; using them afterwards throws `reason`. */
  release(reason: string): void {
    this.storage.release(reason);
  }

  dispose(): void {
    this.release('they were disposed');
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Planes of so many rows of k elements; undefined where the device's products read none. They are the caller's to free. */
export function planesFor(device: Device, dtype: DType, rows: number, k: number): Planes | undefined {
  if (!device.readsPlanes || dtype !== 'float32') return undefined;
  const bytes = native.planesBytes(device.handle, rows, k, dtypeCode(dtype));
  return bytes > 0 ? new Planes(device, rows, k, bytes) : undefined;
}

/** Demands that an option is left out, or planes that fit to a tensor seen as rows of k. */
export function checkPlanes(operation: string, argument: string, planes: unknown, of: Like, k: number): void {
  if (planes === undefined) return;
  if (!(planes instanceof Planes)) throw new TypeError(wrong(operation, argument, 'planes', describe(planes)));
  const { ended } = planes.storage;
  if (ended) throw new Error(`${operation}: ${argument} cannot be used: ${ended}`);
  if (of.device !== planes.device) {
    throw new TypeError(wrong(operation, argument, `on ${of.device}`, `on ${planes.device}`));
  }
  if (of.dtype !== 'float32') throw new TypeError(wrong(operation, argument, `left out for ${of.dtype}`, 'given'));
  if (k !== planes.k || sizeOf(of.shape) !== planes.rows * k) {
    const expected = `of ${showShape([sizeOf(of.shape) / k, k])}`;
    throw new RangeError(wrong(operation, argument, expected, showShape([planes.rows, planes.k])));
  }
}
