// Finds and loads the addon, and types it. Each operation of native/ops.h is a method here. One file in ops/ calls it,
// the one that has its name or its family's.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

declare const brand: unique symbol;
type Handle<Kind extends string> = { readonly [brand]: Kind };
export type DeviceHandle = Handle<'device'>;
export type BufferHandle = Handle<'buffer'>;
export type ViewHandle = Handle<'view'>;
export type PackedHandle = Handle<'packed'>;
export type CsrHandle = Handle<'csr'>;

type RawArray = ArrayBufferView;

/**
 * Operations by their name in native/ops.h in camelCase; arguments in the order given there, null for one that is left
 * out.
 */
export interface NativeOperations {
  copy(d: DeviceHandle, out: ViewHandle, x: ViewHandle): void;
  fill(d: DeviceHandle, out: ViewHandle, value: number): void;
  unary(d: DeviceHandle, out: ViewHandle, x: ViewHandle, kind: number, a: number, b: number): void;
  binary(d: DeviceHandle, out: ViewHandle, a: ViewHandle, b: ViewHandle, kind: number): void;
  binaryScalar(d: DeviceHandle, out: ViewHandle, a: ViewHandle, b: number, kind: number): void;
  compare(d: DeviceHandle, out: ViewHandle, a: ViewHandle, b: ViewHandle, kind: number): void;
  compareScalar(d: DeviceHandle, out: ViewHandle, a: ViewHandle, b: number, kind: number): void;
  where(d: DeviceHandle, out: ViewHandle, condition: ViewHandle, a: ViewHandle, b: ViewHandle): void;
  reduce(d: DeviceHandle, out: ViewHandle, x: ViewHandle, kind: number, correction: number): void;
  argmax(d: DeviceHandle, out: ViewHandle, x: ViewHandle, smallest: boolean): void;
  cumsum(d: DeviceHandle, out: ViewHandle, x: ViewHandle): void;
  sort(d: DeviceHandle, values: ViewHandle, indices: ViewHandle, x: ViewHandle, descending: boolean): void;
  topK(d: DeviceHandle, values: ViewHandle, indices: ViewHandle, x: ViewHandle): void;
  topKMask(d: DeviceHandle, out: ViewHandle, x: ViewHandle, k: number, relu: boolean): void;
  softmax(d: DeviceHandle, out: ViewHandle, x: ViewHandle, kind: number): void;
  crossEntropy(
    d: DeviceHandle,
    losses: ViewHandle,
    logits: ViewHandle,
    targets: ViewHandle,
    pad: ViewHandle | null,
  ): void;
  layerNorm(d: DeviceHandle, out: ViewHandle, x: ViewHandle, gain: ViewHandle, bias: ViewHandle, eps: number): void;
  addLayerNorm(
    d: DeviceHandle,
    sum: ViewHandle,
    out: ViewHandle,
    a: ViewHandle,
    b: ViewHandle,
    gain: ViewHandle,
    bias: ViewHandle,
    eps: number,
  ): void;
  rootMeanSquare(d: DeviceHandle, out: ViewHandle, x: ViewHandle, eps: number): void;
  embedding(d: DeviceHandle, out: ViewHandle, indices: ViewHandle, table: ViewHandle, accumulate: boolean): void;
  gather(d: DeviceHandle, out: ViewHandle, x: ViewHandle, index: ViewHandle, dim: number): void;
  indexSelect(d: DeviceHandle, out: ViewHandle, x: ViewHandle, indices: ViewHandle): void;
  indexCopy(d: DeviceHandle, out: ViewHandle, indices: ViewHandle, source: ViewHandle): void;
  scatterAdd(d: DeviceHandle, out: ViewHandle, index: ViewHandle, source: ViewHandle, dim: number): void;
  triangle(d: DeviceHandle, out: ViewHandle, x: ViewHandle, diagonal: number, upper: boolean): void;
  attention(
    d: DeviceHandle,
    out: ViewHandle,
    probs: ViewHandle | null,
    q: ViewHandle,
    k: ViewHandle,
    v: ViewHandle,
    pad: ViewHandle | null,
    causal: boolean,
    scale: number,
  ): void;
  maskLogits(d: DeviceHandle, logits: ViewHandle, pad: ViewHandle | null, causal: boolean): void;
  packWeights(d: DeviceHandle, packed: PackedHandle, b: ViewHandle): void;
  unpackWeights(d: DeviceHandle, b: ViewHandle, packed: PackedHandle): void;
  linear(
    d: DeviceHandle,
    out: ViewHandle,
    x: ViewHandle,
    w: PackedHandle,
    bias: ViewHandle | null,
    residual: ViewHandle | null,
    activation: number,
    precision: number,
  ): void;
  matmul(
    d: DeviceHandle,
    out: ViewHandle,
    a: ViewHandle,
    b: ViewHandle,
    bias: ViewHandle | null,
    precision: number,
  ): void;
  random(d: DeviceHandle, out: ViewHandle, kind: number, seed: number, a: number, b: number): void;
  sparseEncode(
    d: DeviceHandle,
    out: CsrHandle,
    x: ViewHandle,
    w: PackedHandle,
    bias: ViewHandle | null,
    threshold: number,
    k: number,
    relu: boolean,
    precision: number,
  ): void;
  sparseDecode(
    d: DeviceHandle,
    out: ViewHandle,
    rowPtr: ViewHandle,
    indices: ViewHandle,
    values: ViewHandle,
    w: PackedHandle,
    bias: ViewHandle | null,
  ): void;
  updateLastNonzero(d: DeviceHandle, stats: ViewHandle, latents: ViewHandle): void;
}

/** An operation as it was carried out; times in seconds. `section` is the number that setSection gave. */
export interface NativeTiming {
  readonly operation: string;
  readonly arguments: readonly { readonly name: string; readonly dtype: string; readonly shape: readonly number[] }[];
  readonly section: number;
  readonly begin: number;
  readonly seconds: number;
}

export interface Native extends NativeOperations {
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
  /** Throws an Error whose code is OUT_OF_MEMORY when there is not enough. */
  allocate(d: DeviceHandle, bytes: number): BufferHandle;
  release(buffer: BufferHandle): void;
  view(buffer: BufferHandle, dtype: number, offset: number, shape: number[], strides: number[]): ViewHandle;
  packed(d: DeviceHandle, buffer: BufferHandle, dtype: number, k: number, n: number): PackedHandle;
  packedBytes(d: DeviceHandle, k: number, n: number, dtype: number): number;
  /** Copies `host` now and queues its way to `out` (contiguous, as many bytes). */
  upload(d: DeviceHandle, out: ViewHandle, host: RawArray): void;
  /**
   * Fills `host`, whose elements are of `dtype`, when all work before it is done. Rejects with the device's first
   * error. With `as`, both dtypes are floats, and the result is 1 if one of the values is not finite when it is rounded
   * to `as`, else 0.
   */
  read(d: DeviceHandle, x: ViewHandle, host: RawArray, dtype: number, as: number | null): Promise<number | undefined>;
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
