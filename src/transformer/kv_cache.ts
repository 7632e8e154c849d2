// Keys and values of earlier tokens, so that sequences can be continued without computing them again. Buffers have
// spare capacity and are written in place: continuing a sequence copies only the new tokens.
import { inspect } from 'node:util';
import { describe, wrong } from '../engine/check.js';
import type { Device } from '../engine/device.js';
import type { DType } from '../engine/dtype.js';
import { Tensor } from '../engine/ops/tensor.js';

interface Buffers {
  k: Tensor; // [B, capacity, attention width], before heads are split and before scaling
  v: Tensor;
}

/** The key-value caches of a batch of sequences, as `forward` returns them. Free with dispose() or `using`. */
export class KvCaches {
  readonly batch: number;
  readonly #device: Device;
  readonly #dtype: DType;
  readonly #width: number;
  readonly #layers: Buffers[] = [];
  #capacity = 0;
  #length = 0;
  #pad: Uint8Array[];
  #lengths: number[];
  #ended: string | undefined;
  #busy = false;
  #handedOver = false;

  /** @internal */
  constructor(device: Device, dtype: DType, batch: number, width: number) {
    this.#device = device;
    this.#dtype = dtype;
    this.batch = batch;
    this.#width = width;
    this.#pad = Array.from({ length: batch }, () => new Uint8Array());
    this.#lengths = new Array<number>(batch).fill(0);
  }

  /** Tokens held for each sequence, padding included. */
  get length(): number {
    return this.#length;
  }

  /** @internal Tokens of each sequence, padding left out. */
  get lengths(): readonly number[] {
    return this.#lengths;
  }

  /** @internal Padding of all tokens held, by sequence. */
  get pad(): readonly Uint8Array[] {
    return this.#pad;
  }

  /**
   * Keys of a layer [batch, length, width], before scaling: a view, valid until the caches are continued or freed.
   */
  keys(layer: number): Tensor {
    return this.#buffers(layer).k.slice(1, 0, this.#length);
  }

  values(layer: number): Tensor {
    return this.#buffers(layer).v.slice(1, 0, this.#length);
  }

  #buffers(layer: number): Buffers {
    this.check();
    const buffers = Number.isInteger(layer) ? this.#layers[layer] : undefined;
    if (buffers) return buffers;
    throw new RangeError(wrong('kvCaches', 'layer', `from 0 to ${this.#layers.length - 1}`, describe(layer)));
  }

  /** @internal @throws Error when the caches can no longer be used. */
  check(): void {
    if (this.#ended) throw new Error(`kvCaches cannot be used: ${this.#ended}`);
  }

  /** @internal Whether a model's keys and values fit in. */
  fits(device: Device, dtype: DType, width: number, layers: number): boolean {
    return this.#device === device && this.#dtype === dtype && this.#width === width && this.#layers.length === layers;
  }

  /** @internal Reserves the caches for one pass. */
  begin(): void {
    this.check();
    if (this.#busy) throw new Error('forward: kvCaches are in use by another pass; wait for it first');
    this.#busy = true;
  }

  /** @internal Writes the new tokens' keys and values behind the old ones; gives views of all [B, T, width]. */
  extend(layer: number, k: Tensor, v: Tensor): { k: Tensor; v: Tensor } {
    const added = k.shape[1] as number;
    const total = this.#length + added;
    // the first pass allocates only what it needs, as most sequences are never continued
    if (total > this.#capacity) this.#capacity = this.#length === 0 ? total : Math.max(total, 2 * this.#capacity);
    const held = this.#layers[layer];
    const buffers = held && (held.k.shape[1] as number) >= total ? held : this.#grown(held);
    this.#layers[layer] = buffers;
    buffers.k.slice(1, this.#length, total).copyFrom(k);
    buffers.v.slice(1, this.#length, total).copyFrom(v);
    return { k: buffers.k.slice(1, 0, total), v: buffers.v.slice(1, 0, total) };
  }

  /**
   * Larger buffers with the contents of `held`, which is freed last: nothing is lost when there is no memory for them.
   */
  #grown(held: Buffers | undefined): Buffers {
    const shape = [this.batch, this.#capacity, this.#width];
    const options = { device: this.#device, dtype: this.#dtype };
    const k = Tensor.empty(shape, options);
    let v: Tensor;
    try {
      v = Tensor.empty(shape, options);
    } catch (error) {
      k.dispose();
      throw error;
    }
    if (held && this.#length) {
      k.slice(1, 0, this.#length).copyFrom(held.k.slice(1, 0, this.#length));
      v.slice(1, 0, this.#length).copyFrom(held.v.slice(1, 0, this.#length));
    }
    held?.k.dispose();
    held?.v.dispose();
    return { k, v };
  }

  /** @internal The pass has succeeded: its tokens count from now on. */
  commit(pad: readonly Uint8Array[], lengths: readonly number[]): void {
    this.#length += pad[0]?.length ?? 0;
    this.#pad = this.#pad.map((old, row) => Uint8Array.from([...old, ...(pad[row] as Uint8Array)]));
    this.#lengths = [...lengths];
    this.#busy = false;
  }

  /** @internal The pass has failed: its tokens are beyond the length and do not count. */
  abandon(): void {
    this.#busy = false;
  }

  /** @internal */
  release(reason: string): void {
    if (this.#ended) return;
    this.#ended = reason;
    for (const { k, v } of this.#layers) {
      k.release(reason);
      v.release(reason);
    }
  }

  /** @internal The caller of forward() has read the caches from its result, and owns them from now on. */
  handOver(): void {
    this.#handedOver = true;
  }

  /** @internal Whether the caller of forward() owns the caches. */
  get handedOver(): boolean {
    return this.#handedOver;
  }

  /** @internal */
  get bytes(): number {
    return this.#layers.reduce((sum, { k, v }) => sum + k.storage.bytes + v.storage.bytes, 0);
  }

  dispose(): void {
    this.release('they were disposed');
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** `KvCaches [2, 5] float32 on cpu`: 5 tokens of each of 2 sequences. */
  toString(): string {
    const ended = this.#ended ? ' (ended)' : '';
    return `KvCaches [${this.batch}, ${this.#length}] ${this.#dtype} on ${this.#device}${ended}`;
  }

  /** @internal What console.log shows. */
  [inspect.custom](): string {
    return this.toString();
  }
}
