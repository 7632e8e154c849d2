// Passes of one new token for each sequence, as sampling needs them: without hooks and without padding, they are the same
// operations each time.
import type { Device } from '../engine/device.js';
import { Tensor } from '../engine/ops/tensor.js';
import { RepeatedWork } from '../engine/repeated_work.js';
import { disposeAll } from '../engine/scope.js';
import { type PassOptions, runPlainPass } from './graph.js';
import type { KvCaches } from './kv_cache.js';
import { hasPadding, joined } from './token_positions.js';

/** What such a pass needs of a model; weights as they are when it runs. */
export type PlainModel = () => Pick<PassOptions, 'config' | 'weights' | 'plan'>;

export class NextTokenPasses {
  readonly #model: PlainModel;
  readonly #caches: KvCaches;
  readonly #tokens: Tensor;
  readonly #positions: Tensor;
  readonly #passes: RepeatedWork<Tensor>;

  /** The caches must be without padding. */
  constructor(device: Device, model: PlainModel, caches: KvCaches) {
    this.#model = model;
    this.#caches = caches;
    const [shape, options] = [[caches.batch, 1], { device, dtype: 'int32' } as const];
    this.#tokens = Tensor.empty(shape, options);
    try {
      this.#positions = Tensor.empty(shape, options);
    } catch (error) {
      this.#tokens.dispose();
      throw error;
    }
    this.#passes = new RepeatedWork(device);
  }

  /** Whether caches can be continued so. */
  static fit(caches: KvCaches): boolean {
    return !hasPadding(caches.positions);
  }

  /**
   * Continues each sequence by a token; `expected` are still to come, this one included. Returns the logits [batch, 1,
   * vocabulary], which are valid until the next pass or dispose().
   */
  run(tokens: readonly number[], expected: number): Tensor {
    const caches = this.#caches;
    if (caches.makeRoom(expected)) this.#passes.end();
    const before = caches.lengths;
    this.#tokens.device.upload(this.#tokens, Int32Array.from(tokens));
    this.#tokens.device.upload(this.#positions, Int32Array.from(before));
    const tokenPositions = before.map((length) => Int32Array.of(length));
    const lengths = before.map((length) => length + 1);
    const keyPositions = joined(caches.positions, tokenPositions);
    const logits = this.#passes.run(() =>
      runPlainPass({
        ...this.#model(),
        input: {
          batch: caches.batch,
          seq: 1,
          // the pass frees what it is given: views leave the memory here
          tokens: viewOf(this.#tokens),
          positions: viewOf(this.#positions),
          tokenPositions,
          lengths,
        },
        caches,
        keyPositions,
        lastOnly: true,
      }),
    );
    caches.commit(keyPositions, lengths);
    return viewOf(logits);
  }

  dispose(): void {
    this.#passes.end();
    disposeAll(this.#tokens, this.#positions);
  }
}

const viewOf = (t: Tensor): Tensor => t.window(t.shape, t.strides);
