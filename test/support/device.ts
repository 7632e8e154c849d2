// The device that tests run on: the CPU, or the one that SONDE_DEVICE names.
import { type Arithmetic, type Device, type DeviceName, openDevice } from '../../src/engine/device.js';
import { native } from '../../src/engine/native.js';

const name = (process.env.SONDE_DEVICE || 'cpu') as DeviceName;

export const onCpu = name === 'cpu';

/** Whether the CPU emulates a GPU: everything takes a hundred times as long. */
export const emulated = (): boolean => !onCpu && testDevice().description.startsWith('emulated');

/** The device. Its number of compute threads can be chosen on the CPU only. */
export function testDevice(threads?: number): Device {
  return openDevice(name, onCpu && threads !== undefined ? { threads } : {});
}

/** The names of arithmetics. Their versions are those of the backends (`kArithmetic`), and are raised with them. */
export const arithmeticNames = {
  float32: 'cpu-float32-1',
  bfloat16Dot: 'cpu-bfloat16-dot-1',
  cuda: (capability: string) => `cuda-${capability}-2`,
};

/** Calls `body` while a device computes as before, but calls its arithmetic by other names. */
export async function withArithmetic<T>(
  device: Device,
  names: Partial<Arithmetic>,
  body: () => Promise<T>,
): Promise<T> {
  const { arithmetic } = device;
  const call = (value: Arithmetic) => Object.defineProperty(device, 'arithmetic', { value, configurable: true });
  call({ ...arithmetic, ...names });
  try {
    return await body();
  } finally {
    call(arithmetic);
  }
}

/** What `body` gives, and how often it queues several operations in one call. */
export async function queuedTogether<T>(body: () => T | Promise<T>): Promise<{ result: T; calls: number }> {
  const { enqueueAll } = native;
  let calls = 0;
  native.enqueueAll = (...args) => {
    calls++;
    enqueueAll(...args);
  };
  try {
    return { result: await body(), calls };
  } finally {
    native.enqueueAll = enqueueAll;
  }
}
