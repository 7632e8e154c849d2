// Work that queues the same operations again and again, such as the passes of sampling: from the third time on, they are
// queued in one call, as JavaScript takes longer for an operation than a small one takes.
import type { Device } from './device.js';
import { native } from './native.js';
import { movedNumbers, type NativeArgument, writtenNumbers } from './native_arguments.js';
import { Storage } from './storage.js';

interface Call {
  /** The number of the operation. */
  readonly operation: number;
  readonly numbers: Float64Array;
}

const operationNumbers = new Map(native.operations.map((name, number) => [name, number]));

/** The operations that were queued while a device made it (Device.record), and the memory of their tensors. */
export class Recording {
  readonly calls: Call[] = [];
  /** What was made meanwhile. It is kept when its tensor is released. */
  readonly made: Storage[] = [];
  /** Whether something was queued that cannot be queued again. */
  isUnique = false;
  readonly #used = new Set<Storage>();
  readonly #earlier: readonly Storage[];

  /** The memory of an earlier recording is used again. */
  constructor(earlier: readonly Storage[]) {
    this.#earlier = earlier;
  }

  /** Notes the operation whose arguments were just written. */
  add(operation: string, args: readonly NativeArgument[]): void {
    for (const argument of args) {
      if (typeof argument !== 'object' || argument === null) continue;
      if ('storage' in argument) this.#used.add(argument.storage);
      else this.isUnique = true; // a CSR result
    }
    this.calls.push({ operation: operationNumbers.get(operation) as number, numbers: writtenNumbers().slice() });
  }

  /** Memory for a tensor that is made meanwhile. */
  storage(device: Device, bytes: number): Storage {
    const earlier = this.#earlier[this.made.length];
    const storage = earlier?.bytes === bytes ? earlier : new Storage(device, bytes);
    storage.keep();
    this.made.push(storage);
    return storage;
  }

  /** Whether all memory that the operations use is still there. */
  get isUsable(): boolean {
    for (const storage of this.#used) if (storage.ended) return false;
    return true;
  }
}

/** Operations to be queued in one call, each time with the windows of their tensors moved on by as much. */
class Program {
  readonly #numbers: Float64Array;
  readonly #moved: readonly number[];
  readonly #by: readonly number[];

  private constructor(numbers: readonly number[], moved: readonly number[], by: readonly number[]) {
    this.#numbers = Float64Array.from(numbers);
    this.#moved = moved;
    this.#by = by;
  }

  /** What comes after two recordings; undefined where they are not of the same operations. */
  static after(a: Recording, b: Recording): Program | undefined {
    if (a.isUnique || b.isUnique || a.calls.length !== b.calls.length) return undefined;
    const numbers: number[] = [];
    const moved: number[] = [];
    const by: number[] = [];
    for (const [i, call] of b.calls.entries()) {
      const before = a.calls[i] as Call;
      const places = before.operation === call.operation ? movedNumbers(before.numbers, call.numbers) : undefined;
      if (!places) return undefined;
      numbers.push(call.operation);
      for (const place of places) {
        moved.push(numbers.length + place);
        by.push((call.numbers[place] as number) - (before.numbers[place] as number));
      }
      for (const number of call.numbers) numbers.push(number);
    }
    return new Program(numbers, moved, by);
  }

  queue(device: Device): void {
    for (const [i, place] of this.#moved.entries()) {
      this.#numbers[place] = (this.#numbers[place] as number) + (this.#by[i] as number);
    }
    native.enqueueAll(device.handle, this.#numbers.buffer);
  }
}

/**
 * Work on one device that comes again and again. Each time it must queue the same operations on the same tensors, or on
 * tensors that it makes, where windows on memory (offsets, shapes) move on by as much as the time before: as those of
 * key-value caches do. What it makes is memory of this object, and is written again the next time. end() frees it.
 */
export class RepeatedWork<T> {
  readonly #device: Device;
  #last: Recording | undefined; // of the last call of the work
  #isLatest = false; // whether its operations are those that were queued last
  #program: Program | undefined;
  #result: T | undefined;

  constructor(device: Device) {
    this.#device = device;
  }

  /** Calls `work`, or queues what it would queue. Returns its result, which is valid until the next call or end(). */
  run(work: () => T): T {
    try {
      // while operations are waited for or timed one by one, each is queued by itself
      if (!this.#program || !this.#last?.isUsable || !this.#device.queuesTogether) return this.#call(work);
      this.#isLatest = false;
      this.#program.queue(this.#device);
      return this.#result as T;
    } catch (error) {
      this.end();
      throw error;
    }
  }

  #call(work: () => T): T {
    const last = this.#last;
    const recording = new Recording(last?.made ?? []);
    try {
      this.#result = this.#device.record(recording, work);
    } catch (error) {
      letGo(recording.made);
      throw error;
    }
    const kept = new Set(recording.made);
    letGo(last?.made.filter((storage) => !kept.has(storage)) ?? []);
    // windows move on from one time to the next: a recording from before other times does not say by how much
    this.#program = last && this.#isLatest ? Program.after(last, recording) : undefined;
    this.#last = recording;
    this.#isLatest = true;
    return this.#result;
  }

  /** The next work is another one. Frees the memory of the last. */
  end(): void {
    letGo(this.#last?.made ?? []);
    this.#last = undefined;
    this.#program = undefined;
    this.#result = undefined;
  }
}

function letGo(storages: readonly Storage[]): void {
  for (const storage of storages) storage.letGo('the work that made it has ended or gone on');
}
