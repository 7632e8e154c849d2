// Devices: where tensors live and operations run, each with one in-order queue.
import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { checkInteger, checkOptions, describe, wrong } from './check.js';
import { dtypeCode } from './dtype.js';
import { DeviceError } from './errors.js';
import {
  type BufferHandle,
  type DeviceHandle,
  type FilterCounts,
  type NativeOperations,
  type NativeTiming,
  native,
  packageRoot,
  type ViewArgument,
} from './native.js';
import { argumentNumbers, type NativeArgument, writeArguments } from './native_arguments.js';
import type { Recording } from './repeated_work.js';
import { Storage } from './storage.js';

export type DeviceName = 'cpu' | 'cuda' | `cuda:${number}`;

/**
 * What decides the bits of a device's results, by name: `cpu-float32-1`, `cpu-bfloat16-dot-1`, `cuda-9.0-2`. Where the
 * names are the same, the same calls on the same data give the same bits, on any machine and with any number of
 * threads; on a GPU, where one version of the CUDA toolkit has compiled the kernels. Where they differ, some bits may. There is a name for each dtype that weights and activations can have. What
 * is computed in several of them has the name for bfloat16 if that is one of them.
 *
 * A name ends with a version, which is raised whenever any bit of any result changes. A CPU has `cpu-float32-N` for
 * float32 and float16, whatever its instruction sets, and for bfloat16 as well unless it multiplies pairs of bfloat16
 * by itself, as processors with AVX512_BF16 do: then `cpu-bfloat16-dot-N`. A GPU has one name with its compute
 * capability.
 */
export interface Arithmetic {
  readonly float32: string;
  readonly float16: string;
  readonly bfloat16: string;
}

export interface DeviceDescription {
  readonly name: string;
  readonly description: string;
  readonly available: boolean;
  /** As `Device.arithmetic`; only where the device is available. */
  readonly arithmetic?: Arithmetic;
  /** Why it is not available, in one sentence. */
  readonly reason?: string;
}

const cudaFolder = join(packageRoot, 'build-cuda');
const cudaLibrary = process.env.SONDE_CUDA_LIBRARY ?? join(cudaFolder, 'Release', 'libsonde_cuda.so');
const syncEveryOperation = Boolean(process.env.SONDE_SYNC);

/** FLOP/s (a multiply-add counts two) and bytes read from memory per second. */
export interface Ceilings {
  readonly float32: number;
  readonly bfloat16: number;
  readonly bandwidth: number;
}

/** An operation that was carried out, in the order of the queue; times in seconds, `begin` from a fixed point. */
export interface ProfileEntry {
  readonly operation: string;
  /** Its tensors and packed matrices. */
  readonly arguments: NativeTiming['arguments'];
  /** The part of the model: `embedding`, `layer 3`, `end`. It is empty for an operation outside the model. */
  readonly section: string;
  readonly begin: number;
  readonly seconds: number;
  /** Of a sparseEncode with a filter: how many sums it left to compute. */
  readonly filter?: FilterCounts;
}

/** A processor with its own memory and one queue of operations, carried out in order, off the event loop. */
export class Device {
  readonly name: string;
  readonly kind: 'cpu' | 'cuda';
  /** A description of the processor: `AVX-512, 2 threads`. */
  readonly description: string;
  /** What decides the bits of this device's results, by name, for each float dtype. */
  readonly arithmetic: Arithmetic;
  /** @internal Whether its products read planes (ops/planes.ts) instead of some tensors. */
  readonly readsPlanes: boolean;
  readonly #handle: DeviceHandle;
  // Released buffers, which are used again: making one costs more than allocating memory for it.
  readonly #buffers: BufferHandle[] = [];
  #sections: string[] | undefined; // of the profile under way
  #recording: Recording | undefined; // of the work under way

  /** @internal Use openDevice. */
  constructor(name: string, kind: 'cpu' | 'cuda', handle: DeviceHandle, arithmetic: Arithmetic) {
    this.name = name;
    this.kind = kind;
    this.#handle = handle;
    this.description = native.describe(handle);
    this.arithmetic = arithmetic;
    this.readsPlanes = native.planesBytes(handle, 1, 64, dtypeCode('float32')) > 0;
  }

  /** @internal */
  get handle(): DeviceHandle {
    return this.#handle;
  }

  /** Compute threads; 0 for a GPU. */
  get threads(): number {
    return this.kind === 'cpu' ? Number(/(\d+) threads?$/.exec(this.description)?.[1]) : 0;
  }

  /** Resolves when all work queued so far is done; rejects with the first operation that failed since the last wait. */
  async synchronize(): Promise<void> {
    await this.settled(native.synchronize(this.handle));
  }

  /** @internal Resolves when all work queued so far is done, even if it failed: the next wait reports the error. */
  reached(): Promise<void> {
    return native.reached(this.handle);
  }

  /** Bytes held by tensors now, and the most there ever were. */
  memory(): { allocated: number; peak: number } {
    return native.memory(this.handle);
  }

  /**
   * The most that this device can do, measured now, in about a second: the yardstick for a profile. A figure that
   * cannot be measured is 0. On GPUs all are.
   */
  async ceilings(): Promise<Ceilings> {
    const measure = (kind: number) => this.settled(native.ceiling(this.handle, kind));
    return { float32: await measure(0), bfloat16: await measure(1), bandwidth: await measure(2) };
  }

  /**
   * Calls `run` and reports how long each operation took that this device carried out meanwhile. On a GPU, each
   * operation is waited for. There is one profile at a time.
   */
  async profile(run: () => Promise<unknown>): Promise<ProfileEntry[]> {
    if (typeof run !== 'function') throw new TypeError(wrong('profile', 'run', 'a function', describe(run)));
    if (this.#sections) throw new Error(`profile: ${this.name} is being profiled already`);
    await this.synchronize();
    const sections = [''];
    let timings: NativeTiming[] = [];
    this.#sections = sections;
    native.setSection(this.handle, 0);
    native.startProfile(this.handle);
    try {
      await run();
    } finally {
      timings = native.takeProfile(this.handle);
      this.#sections = undefined;
    }
    return timings.map(({ section, ...timing }) => ({ ...timing, section: sections[section] as string }));
  }

  /** @internal Names the section of the operations that are queued from here on, for a profile under way. */
  section(name: string): void {
    const sections = this.#sections;
    if (!sections) return;
    const known = sections.indexOf(name);
    native.setSection(this.handle, known >= 0 ? known : sections.push(name) - 1);
  }

  toString(): string {
    return this.name;
  }

  /** @internal What console.log shows. */
  [inspect.custom](): string {
    return `Device ${this.name} (${this.description})`;
  }

  /** @internal Queues an operation and returns at once. */
  run<Name extends keyof NativeOperations>(operation: Name, ...args: Parameters<NativeOperations[Name]>): void {
    const csr = writeArguments(args as readonly NativeArgument[]);
    native[operation](this.#handle, argumentNumbers, csr);
    this.#recording?.add(operation, args as readonly NativeArgument[]);
    if (!syncEveryOperation) return;
    const failure = native.wait(this.handle);
    if (failure) throw new DeviceError(this.name, failure);
  }

  /** @internal Copies `host` now and queues its way to `out`, which is contiguous and has as many bytes. */
  upload(out: ViewArgument, host: ArrayBufferView): void {
    writeArguments([out]);
    native.upload(this.#handle, argumentNumbers, host);
    if (this.#recording) this.#recording.isUnique = true;
  }

  /** @internal Calls `work`, and notes the operations that it queues and the memory that it makes. */
  record<T>(recording: Recording, work: () => T): T {
    this.#recording = recording;
    try {
      return work();
    } finally {
      this.#recording = undefined;
    }
  }

  /** @internal Whether operations may be queued together: not while each is timed or waited for. */
  get queuesTogether(): boolean {
    return !this.#sections && !syncEveryOperation;
  }

  /** @internal Memory for a tensor. */
  storage(bytes: number): Storage {
    return this.#recording?.storage(this, bytes) ?? new Storage(this, bytes);
  }

  /**
   * @internal Fills `host`, whose elements are of a dtype of code `dtype`, when all work before it is done. With `as`,
   * resolves to 1 if one of the values is not finite when it is rounded to that dtype, else to 0.
   */
  read(x: ViewArgument, host: ArrayBufferView, dtype: number, as: number | null): Promise<number | undefined> {
    writeArguments([x]);
    return this.settled(native.read(this.#handle, argumentNumbers, host, dtype, as));
  }

  /** @internal A buffer without memory. */
  takeBuffer(): BufferHandle {
    return this.#buffers.pop() ?? native.buffer(this.#handle);
  }

  /** @internal Takes back a buffer that was released, which its user must forget. */
  giveBuffer(buffer: BufferHandle): void {
    this.#buffers.push(buffer);
  }

  /**
   * @internal Converts the native reason of a rejected wait into a DeviceError with the stack of the waiting caller.
   */
  async settled<T>(promise: Promise<T>): Promise<T> {
    const here = new Error();
    try {
      return await promise;
    } catch (cause) {
      const error = new DeviceError(this.name, (cause as Error).message);
      const callers = (here.stack ?? '').split('\n').slice(1);
      error.stack = [`${error.name}: ${error.message}`, ...callers].join('\n');
      throw error;
    }
  }
}

/** A description of each GPU that the CUDA backend can use, or one sentence that says why it can use none. */
function cudaDevices(): { reason: string } | { devices: string[] } {
  if (existsSync(cudaLibrary)) return native.cudaDevices(cudaLibrary);
  if (process.env.SONDE_CUDA_LIBRARY) return { reason: `SONDE_CUDA_LIBRARY is ${cudaLibrary}, which is not there` };
  const reason = 'the CUDA backend is not built';
  const cure =
    'to turn it on: install the CUDA toolkit (12.4 or newer) and CMake (3.18 or newer), then run: npm run build:cuda';
  try {
    const status: unknown = JSON.parse(readFileSync(join(cudaFolder, 'status.json'), 'utf8'));
    const why = (status as { reason?: unknown }).reason;
    return { reason: typeof why === 'string' ? why : `${reason}; ${cure}` };
  } catch {
    return { reason: `${reason}; ${cure}` };
  }
}

/** The names of the CPU, or of a GPU by its number, opened or not. */
function arithmeticOf(gpu?: number): Arithmetic {
  const library = gpu === undefined ? null : cudaLibrary;
  const named = (dtype: keyof Arithmetic) => native.arithmetic(library, gpu ?? 0, dtypeCode(dtype));
  return Object.freeze({ float32: named('float32'), float16: named('float16'), bfloat16: named('bfloat16') });
}

const opened = new Map<string, Device>();

/**
 * The device of that name; opened once, so that every caller gets the same one. `cuda` is `cuda:0`.
 * @param options.threads compute threads of a CPU device, from 1 to 1024; by default one per physical core.
 *   Another number gives another device, with its own queue and memory.
 * @throws Error when the device is not available, with the reason; RangeError for a name that is none.
 */
export function openDevice(name: DeviceName = 'cpu', options: { threads?: number } = {}): Device {
  checkOptions('openDevice', options, { threads: true });
  const gpu = typeof name === 'string' ? /^cuda(?::(\d+))?$/.exec(name) : null;
  if (!gpu && name !== 'cpu') {
    throw new RangeError(wrong('openDevice', 'name', "'cpu', 'cuda' or 'cuda:N'", describe(name)));
  }
  const threads = options.threads === undefined ? 0 : checkInteger('openDevice', 'threads', options.threads, 1, 1024);
  if (gpu && threads) {
    throw new RangeError(wrong('openDevice', 'threads', `left out for ${name}, which has none`, String(threads)));
  }
  const index = gpu ? Number(gpu[1] ?? 0) : 0;
  const fullName = gpu ? `cuda:${index}` : 'cpu';
  const key = gpu ? fullName : `cpu ${threads}`;
  const known = opened.get(key);
  if (known) return known;
  if (gpu) {
    const found = cudaDevices();
    if ('reason' in found) throw new Error(`openDevice: ${name}: ${found.reason}`);
    if (index >= found.devices.length) {
      const there = found.devices.map((_, i) => `cuda:${i}`).join(', ');
      throw new Error(`openDevice: ${name}: there is no such GPU, only ${there}`);
    }
  }
  const handle = native.open(gpu ? cudaLibrary : null, index, threads);
  const device = new Device(fullName, gpu ? 'cuda' : 'cpu', handle, arithmeticOf(gpu ? index : undefined));
  opened.set(key, device);
  return device;
}

/** `cuda:0` when there is a GPU that can be used, else `cpu`; SONDE_DEVICE names another. */
export function getDefaultDevice(): Device {
  const wanted = process.env.SONDE_DEVICE;
  if (wanted) return openDevice(wanted as DeviceName);
  return openDevice('devices' in cudaDevices() ? 'cuda:0' : 'cpu');
}

/** Every device sonde knows of, the missing ones with the reason. */
export function listDevices(): DeviceDescription[] {
  const cpu = openDevice('cpu');
  const found = cudaDevices();
  const gpus =
    'reason' in found
      ? [{ name: 'cuda', description: 'NVIDIA GPU', available: false, reason: found.reason }]
      : found.devices.map((description, i) => {
          return { name: `cuda:${i}`, description, available: true, arithmetic: arithmeticOf(i) };
        });
  const description = `${cpu.description} of ${availableParallelism()} processors`;
  return [{ name: 'cpu', description, available: true, arithmetic: cpu.arithmetic }, ...gpus];
}

/** Demands a device, or that the argument was left out. */
export function checkDevice(operation: string, device: unknown): void {
  if (device === undefined || device instanceof Device) return;
  throw new TypeError(wrong(operation, 'device', 'what openDevice or getDefaultDevice gives', describe(device)));
}
