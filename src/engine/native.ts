// Finds and loads the addon, and types it. Each operation of native/ops.h is a method here. One file in ops/ calls it,
// the one that has its name or its family's.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Storage } from './storage.js';

declare const brand: unique symbol;
type Handle<Kind extends string> = { readonly [brand]: Kind };
export type DeviceHandle = Handle<'device'>;
export type BufferHandle = Handle<'buffer'>;
export type CsrHandle = Handle<'csr'>;

type RawArray = ArrayBufferView;

/**
 * A tensor, or a view of one, as an argument of an operation. It writes itself into the numbers from `at` on, as
 * native/addon/arguments.h reads them, and returns where it ended.
 */
export interface ViewArgument {
  readonly argument: 'view';
  /** Where its elements lie. */
  readonly storage: Storage;
  write(numbers: Float64Array, at: number): number;
}

/** The same for a packed matrix. */
export interface PackedArgument {
  readonly argument: 'packed';
  readonly storage: Storage;
  write(numbers: Float64Array, at: number): number;
}

/**
 * Operations by their name in native/ops.h in camelCase; arguments in the order given there, null for one that is left
 * out. Device.run calls them.
 */
export interface NativeOperations {
  copy(out: ViewArgument, x: ViewArgument): void;
  fill(out: ViewArgument, value: number): void;
  unary(out: ViewArgument, x: ViewArgument, kind: number, a: number, b: number): void;
  binary(out: ViewArgument, a: ViewArgument, b: ViewArgument, kind: number): void;
  binaryScalar(out: ViewArgument, a: ViewArgument, b: number, kind: number): void;
  compare(out: ViewArgument, a: ViewArgument, b: ViewArgument, kind: number): void;
  compareScalar(out: ViewArgument, a: ViewArgument, b: number, kind: number): void;
  where(out: ViewArgument, condition: ViewArgument, a: ViewArgument, b: ViewArgument): void;
  reduce(out: ViewArgument, x: ViewArgument, kind: number, correction: number): void;
  argmax(out: ViewArgument, x: ViewArgument, smallest: boolean): void;
  cumsum(out: ViewArgument, x: ViewArgument): void;
  sort(values: ViewArgument, indices: ViewArgument, x: ViewArgument, descending: boolean): void;
  topK(values: ViewArgument, indices: ViewArgument, x: ViewArgument): void;
  topKMask(out: ViewArgument, x: ViewArgument, k: number, relu: boolean): void;
  softmax(out: ViewArgument, x: ViewArgument, kind: number): void;
  crossEntropy(losses: ViewArgument, logits: ViewArgument, targets: ViewArgument, pad: ViewArgument | null): void;
  layerNorm(
    out: ViewArgument,
    planes: ViewArgument | null,
    x: ViewArgument,
    gain: ViewArgument,
    bias: ViewArgument,
    eps: number,
  ): void;
  addLayerNorm(
    sum: ViewArgument,
    out: ViewArgument,
    planes: ViewArgument | null,
    a: ViewArgument,
    b: ViewArgument,
    gain: ViewArgument,
    bias: ViewArgument,
    eps: number,
  ): void;
  rootMeanSquare(out: ViewArgument, x: ViewArgument, eps: number): void;
  embedding(out: ViewArgument, indices: ViewArgument, table: ViewArgument, accumulate: boolean): void;
  gather(out: ViewArgument, x: ViewArgument, index: ViewArgument, dim: number): void;
  indexSelect(out: ViewArgument, x: ViewArgument, indices: ViewArgument): void;
  indexCopy(out: ViewArgument, indices: ViewArgument, source: ViewArgument): void;
  scatterAdd(out: ViewArgument, index: ViewArgument, source: ViewArgument, dim: number): void;
  triangle(out: ViewArgument, x: ViewArgument, diagonal: number, upper: boolean): void;
  attention(
    out: ViewArgument,
    planes: ViewArgument | null,
    probs: ViewArgument | null,
    q: ViewArgument,
    k: ViewArgument,
    v: ViewArgument,
    pad: ViewArgument | null,
    causal: boolean,
    scale: number,
  ): void;
  maskLogits(logits: ViewArgument, pad: ViewArgument | null, causal: boolean): void;
  packWeights(packed: PackedArgument, b: ViewArgument): void;
  unpackWeights(b: ViewArgument, packed: PackedArgument): void;
  linear(
    out: ViewArgument,
    planes: ViewArgument | null,
    x: ViewArgument,
    xPlanes: ViewArgument | null,
    w: PackedArgument,
    bias: ViewArgument | null,
    residual: ViewArgument | null,
    activation: number,
    precision: number,
  ): void;
  matmul(out: ViewArgument, a: ViewArgument, b: ViewArgument, bias: ViewArgument | null, precision: number): void;
  random(out: ViewArgument, kind: number, seed: number, a: number, b: number): void;
  packFilter(filter: ViewArgument, w: PackedArgument): void;
  sparseEncode(
    out: CsrHandle,
    x: ViewArgument,
    w: PackedArgument,
    filter: ViewArgument | null,
    bias: ViewArgument | null,
    thresholds: ViewArgument | null,
    threshold: number,
    k: number,
    relu: boolean,
    precision: number,
  ): void;
  sparseDecode(
    out: ViewArgument,
    rowPtr: ViewArgument,
    indices: ViewArgument,
    values: ViewArgument,
    w: PackedArgument,
    bias: ViewArgument | null,
  ): void;
  updateLastNonzero(stats: ViewArgument, latents: ViewArgument): void;
  chooseIndex(out: ViewArgument, x: ViewArgument, random: ViewArgument | null): void;
  unaryBackward(out: ViewArgument, g: ViewArgument, x: ViewArgument, kind: number): void;
  crossEntropyBackward(
    out: ViewArgument,
    g: ViewArgument,
    logits: ViewArgument,
    targets: ViewArgument,
    pad: ViewArgument | null,
  ): void;
  layerNormBackward(
    out: ViewArgument | null,
    products: ViewArgument | null,
    g: ViewArgument,
    x: ViewArgument,
    gain: ViewArgument,
    added: ViewArgument | null,
    eps: number,
  ): void;
  attentionBackward(
    dq: ViewArgument | null,
    dk: ViewArgument | null,
    dv: ViewArgument | null,
    g: ViewArgument,
    q: ViewArgument,
    k: ViewArgument,
    v: ViewArgument,
    pad: ViewArgument | null,
    causal: boolean,
    scale: number,
  ): void;
  linearBackward(out: ViewArgument, g: ViewArgument, w: PackedArgument): void;
}

/** What the filter of a sparseEncode did. */
export interface FilterCounts {
  /** Groups of columns, each for up to a thousand rows. */
  readonly groups: number;
  /** The groups in which all sums were computed, for some rows at least, as too many of them could pass. */
  readonly fellBack: number;
  /** Sums that were computed singly, as they could pass. */
  readonly candidates: number;
}

/** An operation as it was carried out; times in seconds. `section` is the number that setSection gave. */
export interface NativeTiming {
  readonly operation: string;
  readonly arguments: readonly { readonly name: string; readonly dtype: string; readonly shape: readonly number[] }[];
  readonly section: number;
  readonly begin: number;
  readonly seconds: number;
  /** Of a sparseEncode with a filter. */
  readonly filter?: FilterCounts;
}

/** An operation as the addon has it: `numbers` holds the arguments, all but a CSR result. */
type NativeOperation = (d: DeviceHandle, numbers: ArrayBufferLike, csr: CsrHandle | undefined) => void;

export interface Native extends Record<keyof NativeOperations, NativeOperation> {
  /** The names of all operations; an operation's number is its place. */
  readonly operations: readonly string[];
  /**
   * Queues operations together. The numbers hold the number of each and its arguments. Where one of them cannot be read,
   * none is queued.
   */
  enqueueAll(d: DeviceHandle, numbers: ArrayBufferLike): void;
  /** Describes each device of the CUDA backend whose library lies at `path`, or gives the reason why there are none. */
  cudaDevices(path: string): { reason: string } | { devices: string[] };
  /** The name of the arithmetic of a device, opened or not. path as for open; dtype: the code of a float dtype. */
  arithmetic(path: string | null, index: number, dtype: number): string;
  /**
   * path: the CUDA backend's library, null for the CPU. threads 0: one per physical core. Throws with the reason when
   * the device cannot be had.
   */
  open(path: string | null, index: number, threads: number): DeviceHandle;
  describe(d: DeviceHandle): string;
  memory(d: DeviceHandle): { allocated: number; peak: number };
  /** A buffer without memory. */
  buffer(d: DeviceHandle): BufferHandle;
  /**
   * Gives memory to a buffer, and its number, by which arguments name it. Throws an Error whose code is OUT_OF_MEMORY
   * when there is not enough.
   */
  allocate(buffer: BufferHandle, bytes: number): number;
  /** Gives a buffer's memory back. Other memory can be allocated for it. */
  release(buffer: BufferHandle): void;
  packedBytes(d: DeviceHandle, k: number, n: number, dtype: number): number;
  /** Bytes of planes of a result [rows, k]; 0 where products of this device read none. */
  planesBytes(d: DeviceHandle, rows: number, k: number, dtype: number): number;
  /** Bytes of the filter of a packed matrix [k, n]; 0 where sparseEncode of so many rows uses none. */
  filterBytes(d: DeviceHandle, rows: number, k: number, n: number, dtype: number): number;
  /** Copies `host` now and queues its way to the tensor in `numbers` (contiguous, as many bytes). */
  upload(d: DeviceHandle, numbers: ArrayBufferLike, host: RawArray): void;
  /**
   * Fills `host`, whose elements are of `dtype`, with the tensor in `numbers` when all work before it is done. Rejects
   * with the device's first error. With `as`, both dtypes are floats, and the result is 1 if one of the values is not
   * finite when it is rounded to `as`, else 0.
   */
  read(
    d: DeviceHandle,
    numbers: ArrayBufferLike,
    host: RawArray,
    dtype: number,
    as: number | null,
  ): Promise<number | undefined>;
  csr(rows: number): CsrHandle;
  readCsr(
    d: DeviceHandle,
    csr: CsrHandle,
  ): Promise<{ rowPtr: BigInt64Array; indices: Int32Array; values: Float32Array }>;
  synchronize(d: DeviceHandle): Promise<void>;
  /** Resolves when all work before it is done. The next wait reports the first error. */
  reached(d: DeviceHandle): Promise<void>;
  /**
   * The most that the device can do per second. kind 0: float32 FLOP, 1: bfloat16 FLOP, 2: bytes read. The result is 0
   * where the backend cannot measure it.
   */
  ceiling(d: DeviceHandle, kind: number): Promise<number>;
  /** The operations that are queued from here on belong to this section of a profile. */
  setSection(d: DeviceHandle, section: number): void;
  startProfile(d: DeviceHandle): void;
  /** Ends the profile; blocks until all queued work is done. */
  takeProfile(d: DeviceHandle): NativeTiming[];
  /** Blocks until the queue is empty; gives the first error's text. For SONDE_SYNC alone. */
  wait(d: DeviceHandle): string | null;
}

/** The nearest folder above this file that holds binding.gyp: src, dist and the compiled tests all find it. */
export const packageRoot = ((): string => {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'binding.gyp'))) return folder;
    if (folder === dirname(folder)) throw new Error('sonde: the package is incomplete: binding.gyp is missing');
  }
})();

function load(): Native {
  const path = process.env.SONDE_ADDON ?? join(packageRoot, 'build', 'Release', 'sonde.node');
  try {
    return createRequire(import.meta.url)(path) as Native;
  } catch (cause) {
    const why = existsSync(path) ? (cause as Error).message : 'it is not there';
    throw new Error(
      `sonde: the native addon did not load from ${path}: ${why}\n` +
        `  It is built by the package's install script, from source, with python3, make and a C++20 compiler (g++ 11 or newer).\n` +
        `  To build it now:            npm rebuild sonde --foreground-scripts   (in a checkout: npm install)\n` +
        `  If npm held scripts back:   npm install-scripts approve sonde`,
      { cause },
    );
  }
}

export const native: Native = load();
