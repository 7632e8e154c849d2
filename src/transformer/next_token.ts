// Passes of one new token for each sequence, as sampling needs them: without hooks and without padding, they are the same
// operations each time.
import type { Device } from '../engine/device.js';
import { Tensor } from '../engine/ops/tensor.js';
import { RepeatedWork } from '../engine/repeated_work.js';
import { disposeAll, makeAll } from '../engine/scope.js';
import { type PassOptions, runPlainPass } from './graph.js';
import type { KvCaches } from './kv_cache.js';
import { hasPadding, joined } from './token_positions.js';

/** What such a pass needs of a model; weights as they are when it runs. */
export type PlainModel = () => Pick<PassOptions, 'config' | 'weights' | 'plan'>;

export class NextTokenPasses {
  /** int32 [2, batch], as chooseIndex writes it: the first row holds the tokens that the next pass takes. */
  readonly chosen: Tensor;
  readonly #device: Device;
  readonly #model: PlainModel;
  readonly #caches: KvCaches;
  readonly #positions: Tensor;
  readonly #passes: RepeatedWork<unknown>;

  /** The caches must be without padding. */
  constructor(device: Device, model: PlainModel, caches: KvCaches) {
    this.#device = device;
    this.#model = model;
    this.#caches = caches;
    this.#passes = new RepeatedWork(device);
    const make = (shape: number[]) => () => Tensor.empty(shape, { device, dtype: 'int32' });
    [this.chosen, this.#positions] = makeAll(make([2, caches.batch]), make([caches.batch, 1]));
  }

  /** Whether caches can be continued so. */
  static fit(caches: KvCaches): boolean {
    return !hasPadding(caches.positions);
  }

  /** The tokens that the next pass takes. */
  put(tokens: readonly number[]): void {
    this.#device.upload(this.chosen, Int32Array.from([...tokens, ...tokens]));
  }

  /**
   * Continues each sequence by a token; `expected` are still to come, this one included. `use` queues what is made of the
   * logits [batch, 1, vocabulary], which is the same each time. Its result is valid until the next pass or dispose().
   */
  run<T>(expected: number, use: (logits: Tensor) => T): T {
    const caches = this.#caches;
    if (caches.makeRoom(expected)) this.#passes.end();
    const before = caches.lengths;
    this.#device.upload(this.#positions, Int32Array.from(before));
    const tokenPositions = before.map((length) => Int32Array.of(length));
    const lengths = before.map((length) => length + 1);
    const keyPositions = joined(caches.positions, tokenPositions);
    const result = this.#passes.run(() => {
      // the pass frees what it is given: views leave the memory here
      const tokens = this.chosen.slice(0, 0, 1).reshape(caches.batch, 1);
      const positions = this.#positions.slice(0);
      const input = { batch: caches.batch, seq: 1, tokens, positions, tokenPositions, lengths };
      return use(runPlainPass({ ...this.#model(), input, caches, keyPositions }));
    });
    caches.commit(keyPositions, lengths);
    return result as T;
  }

  /** Takes back the last passes: the tokens that they took no longer count. */
  takeBack(passes: number): void {
    this.#passes.end();
    this.#caches.takeBack(passes);
  }

  dispose(): void {
    this.#passes.end();
    disposeAll(this.chosen, this.#positions);
  }
}
