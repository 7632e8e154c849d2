// Keys and values of earlier tokens, so that sequences can be continued without computing them again. Buffers have
// spare capacity and are written in place: continuing a sequence copies only the new tokens.
import { inspect } from 'node:util';
import { checkInteger, describe, wrong } from '../engine/check.js';
import type { Device } from '../engine/device.js';
import type { DType } from '../engine/dtype.js';
import { indexSelectInto } from '../engine/ops/index_select.js';
import { Tensor } from '../engine/ops/tensor.js';
import { makeAll } from '../engine/scope.js';
import { lengthsOf, type Positions } from './token_positions.js';

interface Buffers {
  k: Tensor; // [B, capacity, attention width], before heads are split and before scaling
  v: Tensor;
}

/**
 * The key-value caches of a batch of sequences, as `forward` returns them. Free with dispose() or `using`.
 *
 * forward() and sample() extend caches in place. To continue one prefix several times, extend a clone() each time, or
 * truncate() the caches afterwards; select() makes caches of chosen rows: beams in a new order, or one row many times.
 *
 * Caches of a pass that began at a layer hold the layers from there on, and are continued by passes that begin there.
 */
export class KvCaches {
  readonly batch: number;
  readonly #device: Device;
  readonly #dtype: DType;
  readonly #width: number;
  /** @internal The first layer that is held, at which the passes begin. */
  readonly firstLayer: number;
  readonly #layers: Buffers[] = []; // from the first one on
  #capacity = 0;
  #length = 0;
  #positions: Positions;
  #lengths: readonly number[];
  #ended: string | undefined;
  #user: string | undefined;
  #handedOver = false;

  /** @internal */
  constructor(device: Device, dtype: DType, batch: number, width: number, firstLayer = 0) {
    this.#device = device;
    this.#dtype = dtype;
    this.batch = batch;
    this.#width = width;
    this.firstLayer = firstLayer;
    this.#positions = Array.from({ length: batch }, () => new Int32Array());
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

  /** @internal The positions of all tokens held. */
  get positions(): Positions {
    return this.#positions;
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
    const buffers = Number.isInteger(layer) ? this.#layers[layer - this.firstLayer] : undefined;
    if (buffers) return buffers;
    const first = this.firstLayer;
    const beyond = first + this.#layers.length;
    if (beyond === first) throw new RangeError('kvCaches: no layer is held, as the pass began behind the last one');
    const because = first > 0 ? `, as the pass began at layer ${first}` : '';
    throw new RangeError(wrong('kvCaches', 'layer', `from ${first} to ${beyond - 1}${because}`, describe(layer)));
  }

  /** Caches of the same sequences in memory of their own: each of the two can be continued without the other. */
  clone(): KvCaches {
    return this.#copy(Array.from({ length: this.batch }, (_, row) => row));
  }

  /**
   * Drops all tokens but the first `length` of each sequence, padding included. The memory is kept for those that come.
   * Returns these caches.
   * @throws RangeError for more tokens than there are; Error while a pass uses the caches.
   */
  truncate(length: number): this {
    this.check();
    checkInteger('truncate', 'length', length, 0, this.#length);
    this.#demandFree('truncate');
    this.#cut(length);
    return this;
  }

  #cut(length: number): void {
    this.#length = length;
    this.#positions = this.#positions.map((row) => row.slice(0, length));
    this.#lengths = lengthsOf(this.#positions);
  }

  /**
   * Caches of these rows in memory of their own: row i of the result continues sequence rows[i]. A row may be named
   * several times; a negative one counts from the end.
   * @throws RangeError for an empty list, or a row that there is not.
   */
  select(rows: readonly number[]): KvCaches {
    this.check();
    if (!Array.isArray(rows)) throw new TypeError(wrong('select', 'rows', 'an array of rows', describe(rows)));
    if (rows.length === 0) throw new RangeError(wrong('select', 'rows', 'at least one row', 'an empty list'));
    const chosen = Array.from(rows, (row, i) => {
      const at = checkInteger('select', `rows[${i}]`, row, -this.batch, this.batch - 1);
      return at < 0 ? at + this.batch : at;
    });
    return this.#copy(chosen);
  }

  #copy(rows: readonly number[]): KvCaches {
    this.check();
    const copy = new KvCaches(this.#device, this.#dtype, rows.length, this.#width, this.firstLayer);
    const length = this.#length;
    copy.#length = length;
    copy.#capacity = length + Math.max(16, length >> 3); // copies are made to be continued
    copy.#positions = rows.map((row) => this.#positions[row] as Int32Array);
    copy.#lengths = rows.map((row) => this.#lengths[row] as number);
    using list = Tensor.from(Int32Array.from(rows), { device: this.#device });
    try {
      for (const held of this.#layers) {
        const buffers = copy.#allocated();
        copy.#layers.push(buffers);
        for (const side of ['k', 'v'] as const) {
          indexSelectInto(buffers[side].slice(1, 0, length), held[side].slice(1, 0, length), 0, list);
        }
      }
    } catch (error) {
      copy.dispose();
      throw error;
    }
    return copy;
  }

  /** @internal @throws Error when the caches can no longer be used. */
  check(): void {
    if (this.#ended) throw new Error(`kvCaches cannot be used: ${this.#ended}`);
  }

  /** @internal Whether a model's keys and values fit in. */
  fits(device: Device, dtype: DType, width: number, layers: number): boolean {
    const held = this.firstLayer + this.#layers.length;
    return this.#device === device && this.#dtype === dtype && this.#width === width && held === layers;
  }

  /** @internal Reserves the caches for an operation, until end(). @throws Error when another one has them. */
  begin(operation: string): void {
    this.check();
    this.#demandFree(operation);
    this.#user = operation;
  }

  #demandFree(operation: string): void {
    if (this.#user === undefined) return;
    const user = this.#user === 'sample' ? 'sample()' : 'another pass';
    throw new Error(`${operation}: kvCaches are in use by ${user}; wait for it first`);
  }

  /** @internal The operation that reserved the caches is done with them. All tokens beyond `length` are dropped. */
  end(length = this.#length): void {
    this.#user = undefined;
    if (length < this.#length) this.#cut(length);
  }

  /** @internal Drops the last `count` tokens of each sequence, for the operation that has reserved the caches. */
  takeBack(count: number): void {
    this.#cut(this.#length - count);
  }

  /** @internal Writes the new tokens' keys and values behind the old ones; gives views of all [B, T, width]. */
  extend(layer: number, k: Tensor, v: Tensor): { k: Tensor; v: Tensor } {
    this.check();
    const total = this.#length + (k.shape[1] as number);
    // the first pass allocates only what it needs, as most sequences are never continued
    if (total > this.#capacity) this.#capacity = this.#length === 0 ? total : Math.max(total, 2 * this.#capacity);
    const own = layer - this.firstLayer;
    const held = this.#layers[own];
    const buffers = held && this.#holds(held, total) ? held : this.#grown(held);
    this.#layers[own] = buffers;
    buffers.k.slice(1, this.#length, total).copyFrom(k);
    buffers.v.slice(1, this.#length, total).copyFrom(v);
    return { k: buffers.k.slice(1, 0, total), v: buffers.v.slice(1, 0, total) };
  }

  /**
   * @internal Makes room for the next token of each sequence; `expected` tokens are to come. Gives false where there was
   * room.
   */
  makeRoom(expected: number): boolean {
    this.check();
    const total = this.#length + 1;
    // at once for all that may come, but for no more than are likely: a sequence can end early
    const likely = Math.max(2 * this.#length, this.#length + 256);
    if (total > this.#capacity) this.#capacity = Math.max(total, Math.min(this.#length + expected, likely));
    let made = false;
    for (const [layer, held] of this.#layers.entries()) {
      if (this.#holds(held, total)) continue;
      this.#layers[layer] = this.#grown(held);
      made = true;
    }
    return made;
  }

  #holds({ k }: Buffers, tokens: number): boolean {
    return (k.shape[1] as number) >= tokens;
  }

  /**
   * Larger buffers with the contents of `held`, which is freed last: nothing is lost when there is no memory for them.
   */
  #grown(held: Buffers | undefined): Buffers {
    const { k, v } = this.#allocated();
    if (held && this.#length) {
      k.slice(1, 0, this.#length).copyFrom(held.k.slice(1, 0, this.#length));
      v.slice(1, 0, this.#length).copyFrom(held.v.slice(1, 0, this.#length));
    }
    held?.k.release('the caches were continued in other memory');
    held?.v.release('the caches were continued in other memory');
    return { k, v };
  }

  #allocated(): Buffers {
    const shape = [this.batch, this.#capacity, this.#width];
    const options = { device: this.#device, dtype: this.#dtype };
    const make = () => Tensor.empty(shape, options);
    const [k, v] = makeAll(make, make);
    return { k, v };
  }

  /**
   * @internal The pass has succeeded: its tokens count from now on. Those of one that failed are overwritten later.
   * `positions` are those of all tokens.
   */
  commit(positions: Positions, lengths: readonly number[]): void {
    this.check();
    this.#length = positions[0]?.length ?? 0;
    this.#positions = positions;
    this.#lengths = [...lengths];
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
