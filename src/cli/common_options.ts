// Options that several commands share, and the parsers of their arguments.
import { type Command, InvalidArgumentError } from 'commander';
import type { DumpOptions } from '../dump/shards/options.js';
import { type Device, type DeviceName, getDefaultDevice, listDevices, openDevice } from '../engine/device.js';
import type { DType } from '../engine/dtype.js';
import { Transformer } from '../transformer/transformer.js';
import { modelNames } from '../transformer/weights/names.js';
import { UsageError } from './failure.js';
import { fetchProgressView } from './fetch_progress.js';

export interface ModelOptions {
  model: string;
  device?: DeviceName;
  threads?: number;
  precision?: DType;
  dtype?: DType;
}

const precisions = ['float32', 'bfloat16', 'float16'];

export function integer(low: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && Number.isSafeInteger(value) && value >= low) return value;
    throw new InvalidArgumentError(`It must be a whole number of ${low} or more.`);
  };
}

const isDecimal = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

export function number(low: number, high = Number.POSITIVE_INFINITY): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (isDecimal.test(text) && Number.isFinite(value) && value >= low && value <= high) return value;
    throw new InvalidArgumentError(
      `It must be a number ${high < Infinity ? `from ${low} to ${high}` : `of ${low} or more`}.`,
    );
  };
}

export function oneOf<T extends string>(...allowed: readonly T[]): (text: string) => T {
  return (text) => {
    if ((allowed as readonly string[]).includes(text)) return text as T;
    throw new InvalidArgumentError(`It must be one of ${allowed.join(', ')}.`);
  };
}

/** Collects the arguments of an option that may be repeated, and that takes several arguments each time. */
export const collected = (text: string, before: string[] | undefined): string[] => [...(before ?? []), text];

function deviceName(text: string): DeviceName {
  if (/^(cpu|cuda|cuda:\d+)$/.test(text)) return text as DeviceName;
  throw new InvalidArgumentError('It must be cpu, cuda or cuda:N. `sonde devices` lists what is there.');
}

/** `cuda:0,cuda:1` */
function deviceNames(text: string): DeviceName[] {
  const names = text.split(',').map(deviceName);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice === undefined) return names;
  throw new InvalidArgumentError(`It names ${twice} twice.`);
}

export const addModel = (command: Command, model = 'demo'): Command =>
  command.option(
    '--model <model>',
    `demo, ${modelNames.join(', ')}, random:gpt2-small, or the folder or address of a checkpoint`,
    model,
  );

const addThreads = (command: Command): Command =>
  command.option('--threads <n>', 'threads of the CPU device (default: one per core)', integer(1));

/** The options of a command that works on one device. `standard` is the device without `--device`. */
export const addDevice = (command: Command, standard = 'a GPU if there is one'): Command =>
  addThreads(command.option('--device <device>', `cpu, cuda or cuda:N (default: ${standard})`, deviceName));

export const addModelOptions = (command: Command, model = 'demo'): Command => addDevice(addModel(command, model));

/** The options of a command that can share its work between devices. */
export const addModelAndWorkers = (command: Command, model = 'demo'): Command =>
  addThreads(
    addModel(command, model)
      .option(
        '--device <devices>',
        'cpu, cuda or cuda:N (default: a GPU if there is one); of cuda:0,cuda:1 each gets a process',
        deviceNames,
      )
      .option('--workers <n>', 'processes that share the work, on as many GPUs or parts of the cores', integer(1)),
  );

/**
 * The option for the dtype that the model computes with: `--dtype`, or `--precision` where `--dtype` says how values are
 * stored.
 */
export const addPrecision = (command: Command, flag: '--dtype' | '--precision'): Command =>
  command.option(
    `${flag} <dtype>`,
    `what the model computes with: ${precisions.join(', ')}`,
    oneOf(...(precisions as DType[])),
  );

/**
 * The device of this process, or those of the processes that share the work. `--threads` is the number of threads of all
 * processes together.
 */
export function chosenWorkers(options: {
  device?: DeviceName[];
  workers?: number;
  threads?: number;
}): Pick<DumpOptions, 'device' | 'workers'> {
  const { device: given, workers: count = given?.length ?? 1, threads } = options;
  const single = { ...(given && { device: given[0] as DeviceName }), ...(threads !== undefined && { threads }) };
  if (count === 1 && (given?.length ?? 1) === 1) return { device: chosenDevice(single) };
  // As without workers, threads mean the CPU.
  const devices = given ?? (threads === undefined ? workerDevices(count) : ['cpu']);
  checkThreads(devices, threads);
  if (count < devices.length)
    throw new UsageError(`--workers ${count} is fewer than the devices (${devices.join(', ')})`);
  const onCpu = Array.from({ length: count }, (_, i) => devices[i % devices.length]).filter((d) => d === 'cpu').length;
  const all = threads ?? openDevice('cpu').threads;
  return {
    workers: Array.from({ length: count }, (_, i) => {
      const device = devices[i % devices.length] as DeviceName;
      return device === 'cpu' ? { device, threads: Math.max(1, Math.floor(all / onCpu)) } : { device };
    }),
  };
}

// The GPUs, at most one per process; the CPU where there are none.
function workerDevices(count: number): DeviceName[] {
  const { kind } = getDefaultDevice();
  if (kind === 'cpu') return ['cpu'];
  const gpus = listDevices().filter(({ name, available }) => available && name !== 'cpu');
  return gpus.slice(0, count).map(({ name }) => name as DeviceName);
}

export function chosenDevice({ device, threads }: Pick<ModelOptions, 'device' | 'threads'>): Device {
  if (threads === undefined) return device === undefined ? getDefaultDevice() : openDevice(device);
  checkThreads([device ?? 'cpu'], threads);
  return openDevice(device ?? 'cpu', { threads });
}

function checkThreads(devices: readonly (DeviceName | undefined)[], threads: number | undefined): void {
  if (threads === undefined || devices.includes('cpu')) return;
  throw new UsageError(`--threads is for the CPU, and the work is done on ${devices.join(', ')}`);
}

/** Loads the model, and shows the progress of what has to be fetched. */
export async function loadModel(options: ModelOptions, signal?: AbortSignal): Promise<Transformer> {
  const dtype = options.precision ?? options.dtype;
  const view = fetchProgressView();
  try {
    return await Transformer.load(options.model, {
      device: chosenDevice(options),
      onProgress: view.onProgress,
      ...(dtype && { dtype }),
      ...(signal && { signal }),
    });
  } finally {
    view.stop();
  }
}

/** Converts `LOCATION=NAME` and `LOCATION=FILE` to the notation of dump(), `LOCATION -> NAME`. */
export function autoencoderLocation(text: string): string {
  const at = text.indexOf('=');
  if (at > 0 && at < text.length - 1) return `${text.slice(0, at)} -> ${text.slice(at + 1)}`;
  throw new InvalidArgumentError('It must read LOCATION=NAME or LOCATION=FILE.');
}
