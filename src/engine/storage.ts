// A block of device memory and whether it may still be used. Tensors are windows on a storage; one of them owns it.
import type { Device } from './device.js';
import { OutOfMemoryError } from './errors.js';
import { type BufferHandle, native } from './native.js';

export class Storage {
  readonly device: Device;
  readonly bytes: number;
  readonly #buffer: BufferHandle;
  #ended: string | undefined;

  /** @throws OutOfMemoryError, with the bytes asked for and the bytes held. */
  constructor(device: Device, bytes: number) {
    this.device = device;
    this.bytes = bytes;
    try {
      this.#buffer = native.allocate(device.handle, bytes);
    } catch (cause) {
      if ((cause as { code?: string }).code !== 'OUT_OF_MEMORY') throw cause;
      const { allocated } = device.memory();
      throw new OutOfMemoryError(
        `${device}: out of memory: asked for ${bytes} bytes while tensors hold ${allocated} bytes`,
        { cause },
      );
    }
  }

  get buffer(): BufferHandle {
    return this.#buffer;
  }

  /** Why it can no longer be used, or undefined while it can. */
  get ended(): string | undefined {
    return this.#ended;
  }

  /** Gives the memory back. Queued operations that use it are carried out first. */
  release(reason: string): void {
    if (this.#ended !== undefined) return;
    this.#ended = reason;
    native.release(this.#buffer);
  }
}
