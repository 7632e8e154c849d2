// A block of device memory and whether it may still be used. Tensors are windows on a storage; one of them owns it.
import type { Device } from './device.js';
import { OutOfMemoryError } from './errors.js';
import { type BufferHandle, native } from './native.js';

export class Storage {
  readonly device: Device;
  readonly bytes: number;
  // When this storage is collected, its buffer is, and gives the memory back.
  #buffer: BufferHandle | undefined;
  readonly #number: number;
  #ended: string | undefined;
  #isKept = false;

  /** @throws OutOfMemoryError, with the bytes asked for and the bytes held. */
  constructor(device: Device, bytes: number) {
    this.device = device;
    this.bytes = bytes;
    const buffer = device.takeBuffer();
    try {
      this.#number = native.allocate(buffer, bytes);
    } catch (cause) {
      device.giveBuffer(buffer);
      if ((cause as { code?: string }).code !== 'OUT_OF_MEMORY') throw cause;
      const { allocated } = device.memory();
      throw new OutOfMemoryError(
        `${device}: out of memory: asked for ${bytes} bytes while tensors hold ${allocated} bytes`,
        { cause },
      );
    }
    this.#buffer = buffer;
  }

  /** By which arguments of operations name the memory. Another storage may have the number once this one has ended. */
  get number(): number {
    if (this.#ended) throw new Error(`memory of ${this.device} cannot be used: ${this.#ended}`);
    return this.#number;
  }

  /** Why it can no longer be used, or undefined while it can. */
  get ended(): string | undefined {
    return this.#ended;
  }

  /** The memory outlives its tensors: it is not given back before letGo(), and ends only then. */
  keep(): void {
    this.#isKept = true;
  }

  /** Gives back the memory that was kept. */
  letGo(reason: string): void {
    this.#isKept = false;
    this.release(reason);
  }

  /** Gives the memory back. Queued operations that use it are carried out first. */
  release(reason: string): void {
    const buffer = this.#buffer;
    if (buffer === undefined || this.#isKept) return;
    this.#ended = reason;
    this.#buffer = undefined;
    native.release(buffer);
    this.device.giveBuffer(buffer);
  }
}
