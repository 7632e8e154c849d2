// Chooses the next tokens of a batch from its logits: probabilities on the device, the choice on the host.
import { softmax } from '../engine/ops/softmax.js';
import type { Tensor } from '../engine/ops/tensor.js';
import { draw, greedy, nucleus, problemOf, seededRandom } from './sampling.js';

export class Sampler {
  readonly #temperature: number;
  readonly #topP: number | undefined;
  readonly #random: readonly (() => number)[];
  readonly #host: Float32Array;

  /** One seed for each row. */
  constructor(seeds: readonly number[], nVocab: number, temperature: number, topP?: number) {
    this.#temperature = temperature;
    this.#topP = topP;
    this.#random = seeds.map(seededRandom);
    this.#host = new Float32Array(seeds.length * nVocab);
  }

  /**
   * The next token of each row, by logits [rows, vocabulary]. A logit of -inf forbids its token.
   * @throws RangeError that names the row and the step where logits hold a NaN, a +inf, or nothing but -inf.
   */
  async next(logits: Tensor, step: number): Promise<number[]> {
    if (this.#temperature === 0) await logits.readInto(this.#host);
    else await readProbs(logits, this.#temperature, this.#host);
    const chosen = this.#random.map((random, row) => this.#choose(this.#row(row), random));
    const failed = chosen.indexOf(undefined);
    if (failed < 0) return chosen as number[];
    await logits.readInto(this.#host);
    throw new RangeError(
      `sample: logits must be finite, or -inf for tokens that are forbidden, but at row ${failed}, step ${step}, they ${problemOf(this.#row(failed))}`,
    );
  }

  #row(row: number): Float32Array {
    const nVocab = this.#host.length / this.#random.length;
    return this.#host.subarray(row * nVocab, (row + 1) * nVocab);
  }

  #choose(values: Float32Array, random: () => number): number | undefined {
    if (this.#temperature === 0) return greedy(values);
    // softmax makes all of a row NaN if its sum is, which is so for each problem that logits can have
    if (Number.isNaN(values[0])) return undefined;
    return draw(this.#topP === undefined ? values : nucleus(values, this.#topP), random);
  }
}

/** The normal numbers of float32 lie between this and its inverse, and so do divisors. */
const smallest = 2 ** -126;
const within = (x: number): number => Math.min(Math.max(x, smallest), 1 / smallest);

/**
 * Reads softmax(logits / temperature) of [rows, vocabulary] into `host`. For any temperature above 0 it is right for
 * logits of any size: the largest one is subtracted before the division, which could overflow.
 */
async function readProbs(logits: Tensor, temperature: number, host: Float32Array): Promise<void> {
  using wide = logits.to('float32');
  // differences that are beyond float32 matter only where so large a temperature divides them
  const half = temperature > 2 ** 100;
  if (half) wide.mul_(0.5);
  using largest = wide.max(-1, { keepDim: true });
  wide.sub_(largest);
  // a temperature outside of float32 divides in two steps
  const divisor = half ? temperature / 2 : temperature;
  const first = within(divisor);
  for (const part of [first, within(divisor / first)]) if (part !== 1) wide.div_(part);
  using probs = softmax(wide, -1);
  await probs.readInto(host);
}
