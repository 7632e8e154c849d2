// The arguments of operations, as native/addon/arguments.h reads them: each call fills the same array of numbers. An
// object of native code for each tensor would cost more than a small operation takes.
import { type DType, dtypeCode } from './dtype.js';
import type { CsrHandle, PackedArgument, ViewArgument } from './native.js';
import type { Shape } from './shape.js';
import type { Storage } from './storage.js';

const kinds = { absent: 0, number: 1, view: 2, packed: 3, csr: 4 } as const; // Kind in native/addon/arguments.h

/** More than any operation needs: a tensor takes 21 at most. */
const numbers = new Float64Array(512);

/** What native code is given: the memory of the numbers. */
export const argumentNumbers: ArrayBufferLike = numbers.buffer;

/** How many of the numbers the arguments of the last call take. */
let used = 0;

export type NativeArgument = ViewArgument | PackedArgument | CsrHandle | number | boolean | null;

const isHandle = (argument: ViewArgument | PackedArgument | CsrHandle): argument is CsrHandle =>
  !('argument' in argument);

/** Writes the arguments of the next call, and gives the handle that is to be passed beside them. */
export function writeArguments(args: readonly NativeArgument[]): CsrHandle | undefined {
  let at = 0;
  let csr: CsrHandle | undefined;
  for (const argument of args) {
    if (typeof argument === 'number' || typeof argument === 'boolean') {
      numbers[at++] = kinds.number;
      numbers[at++] = Number(argument);
    } else if (argument === null) {
      numbers[at++] = kinds.absent;
    } else if (isHandle(argument)) {
      numbers[at++] = kinds.csr;
      csr = argument;
    } else {
      at = argument.write(numbers, at);
    }
  }
  used = at;
  return csr;
}

/** The numbers of the last call, until the next one. */
export const writtenNumbers = (): Float64Array => numbers.subarray(0, used);

/** How many numbers the argument takes that begins at `at`. */
function lengthOf(all: Float64Array, at: number): number {
  const kind = all[at];
  if (kind === kinds.number) return 2;
  if (kind === kinds.packed) return 5;
  return kind === kinds.view ? 5 + 2 * (all[at + 4] as number) : 1;
}

/**
 * Where the arguments of two calls of an operation differ, if they differ in nothing but the windows that tensors have on
 * their memory: offsets, shapes and strides. Otherwise undefined.
 */
export function movedNumbers(a: Float64Array, b: Float64Array): number[] | undefined {
  if (a.length !== b.length) return undefined;
  const moved: number[] = [];
  for (let at = 0, next = 0; at < a.length; at = next) {
    next = at + lengthOf(a, at);
    const isView = a[at] === kinds.view;
    for (let i = at; i < next; i++) {
      if (a[i] === b[i]) continue;
      if (!isView || (i !== at + 3 && i < at + 5)) return undefined;
      moved.push(i);
    }
  }
  return moved;
}

/** Writes a view of a storage; offset, shape and strides in elements. */
export function writeView(
  to: Float64Array,
  at: number,
  storage: Storage,
  dtype: DType,
  offset: number,
  shape: Shape,
  strides: Shape,
): number {
  const rank = shape.length;
  to[at++] = kinds.view;
  to[at++] = storage.number;
  to[at++] = dtypeCode(dtype);
  to[at++] = offset;
  to[at++] = rank;
  for (let d = 0; d < rank; d++) to[at++] = shape[d] as number;
  for (let d = 0; d < rank; d++) to[at++] = strides[d] as number;
  return at;
}

/** Writes a packed matrix [k, n], which fills a storage. */
export function writePacked(
  to: Float64Array,
  at: number,
  storage: Storage,
  dtype: DType,
  k: number,
  n: number,
): number {
  to[at++] = kinds.packed;
  to[at++] = storage.number;
  to[at++] = dtypeCode(dtype);
  to[at++] = k;
  to[at++] = n;
  return at;
}

interface ContiguousTensor {
  readonly storage: Storage;
  readonly dtype: DType;
  readonly offset: number;
}

/** A contiguous tensor as a matrix [rows, width], where an operation takes one: cheaper than a view that is a tensor. */
export class MatrixArgument implements ViewArgument {
  readonly argument = 'view';
  readonly #tensor: ContiguousTensor;
  readonly #rows: number;
  readonly #width: number;

  constructor(tensor: ContiguousTensor, rows: number, width: number) {
    this.#tensor = tensor;
    this.#rows = rows;
    this.#width = width;
  }

  get storage(): Storage {
    return this.#tensor.storage;
  }

  write(to: Float64Array, at: number): number {
    const { storage, dtype, offset } = this.#tensor;
    return writeView(to, at, storage, dtype, offset, [this.#rows, this.#width], [this.#width, 1]);
  }
}
