// Blocks of device memory and whether they may still be used. Tensors are windows on a storage; one of them owns it.
import type { Device } from './device.js';
import { OutOfMemoryError } from './errors.js';
import { type BufferHandle, native } from './native.js';
import type { History, KeptValue } from './record.js';

/** Memory of a device. It is given back when the last storage on it is released. */
class Memory {
  readonly number: number;
  /** Values that a record of gradients has kept: what overwrites one has it copied before. */
  kept: WeakRef<KeptValue>[] | undefined;
  /** How many of these were in use when the list was last cleared. */
  heldBefore = 0;
  readonly #device: Device;
  // When this object is collected, its buffer is, and gives the memory back. Once released, the buffer is another one's.
  #buffer: BufferHandle | undefined;
  #storages = 1;

  constructor(device: Device, bytes: number) {
    const buffer = device.takeBuffer();
    try {
      this.number = native.allocate(buffer, bytes);
    } catch (cause) {
      device.giveBuffer(buffer);
      if ((cause as { code?: string }).code !== 'OUT_OF_MEMORY') throw cause;
      const { allocated } = device.memory();
      throw new OutOfMemoryError(
        `${device}: out of memory: asked for ${bytes} bytes while tensors hold ${allocated} bytes`,
        { cause },
      );
    }
    this.#device = device;
    this.#buffer = buffer;
  }

  share(): this {
    this.#storages++;
    return this;
  }

  /** Whether several storages are on it. */
  get isShared(): boolean {
    return this.#storages > 1;
  }

  /** Queued operations that use it are carried out first. */
  release(): void {
    if (--this.#storages > 0 || this.#buffer === undefined) return;
    native.release(this.#buffer);
    this.#device.giveBuffer(this.#buffer);
    this.#buffer = undefined;
  }
}

// What is shared with a storage that was collected must not wait for it.
const collected = new FinalizationRegistry<Memory>((memory) => memory.release());

export class Storage {
  readonly device: Device;
  readonly bytes: number;
  /** @internal What overlaps on the same memory, whatever storage shows it. */
  readonly memory: Memory;
  /** @internal How its contents came about, where gradients are wanted. */
  history: History | undefined;
  readonly #parent: Storage | undefined;
  #ended: string | undefined;
  #isKept = false;
  #isShare = false;

  /** @throws OutOfMemoryError, with the bytes asked for and the bytes held. */
  constructor(device: Device, bytes: number, memory = new Memory(device, bytes), parent?: Storage) {
    this.device = device;
    this.bytes = bytes;
    this.memory = memory;
    this.#parent = parent;
  }

  /** The same memory without its history, for the lifetime of this storage. */
  detached(): Storage {
    return new Storage(this.device, this.bytes, this.memory, this);
  }

  /** The same memory without its history: it is given back when both storages are released. */
  shared(): Storage {
    const storage = new Storage(this.device, this.bytes, this.memory.share());
    collected.register(storage, this.memory, storage);
    storage.#isShare = true;
    return storage;
  }

  /** By which arguments of operations name the memory. Other memory may have the number once this one has ended. */
  get number(): number {
    const { ended } = this;
    if (ended) throw new Error(`memory of ${this.device} cannot be used: ${ended}`);
    return this.memory.number;
  }

  /** Why it can no longer be used, or undefined while it can. */
  get ended(): string | undefined {
    return this.#ended ?? this.#parent?.ended;
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

  /** Gives the memory back, unless another storage shares it. */
  release(reason: string): void {
    if (this.#ended !== undefined || this.#isKept || this.#parent) return;
    this.#ended = reason;
    if (this.#isShare) collected.unregister(this);
    this.memory.release();
  }
}
