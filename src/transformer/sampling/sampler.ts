// Chooses the next tokens of a batch from its logits: on the device, or by probabilities of the device on the host.
import { chooseIndex } from '../../engine/ops/choose_index.js';
import { softmax } from '../../engine/ops/softmax.js';
import type { Tensor } from '../../engine/ops/tensor.js';
import { draw, greedy, nucleus, problemOf, seededRandom } from './sampling.js';

/** Options of one step. */
interface StepOptions {
  /** The rows to choose for; all if left out. The logits of the others are not looked at. */
  rows?: readonly number[];
  /** float32 [vocabulary], added to the logits: -inf for stop tokens that are forbidden, 0 elsewhere. */
  mask?: Tensor;
}

export class Sampler {
  readonly #temperature: number;
  readonly #topP: number | undefined;
  readonly #random: readonly (() => number)[];
  readonly #all: readonly number[];
  readonly #host: Float32Array;
  readonly #numbers: number[][] = []; // random numbers of each step, one for each row

  /** One seed for each row. */
  constructor(seeds: readonly number[], nVocab: number, temperature: number, topP?: number) {
    this.#temperature = temperature;
    this.#topP = topP;
    this.#random = seeds.map(seededRandom);
    this.#all = [...seeds.keys()];
    this.#host = new Float32Array(seeds.length * nVocab);
  }

  /** Whether choose() can do what next() does. */
  get choosesOnDevice(): boolean {
    return this.#topP === undefined;
  }

  /** What choose() needs for a step: int32 [rows, 2], as chooseIndex takes it; undefined where nothing is drawn. */
  randomOf(step: number): Int32Array | undefined {
    if (this.#temperature === 0) return undefined;
    const halves = this.#numbersOf(step).flatMap((u) => [Math.floor(u * 2 ** 27), (u * 2 ** 53) % 2 ** 26]);
    return Int32Array.from(halves);
  }

  /**
   * Queues the choice of the token of each row, by logits [all rows, vocabulary], as next() makes it: out int32 [2, rows]
   * holds the tokens, then 1 for each, or 0 for a row for which next() has to be asked.
   */
  choose(out: Tensor, logits: Tensor, random: Tensor | undefined): void {
    if (!random) {
      using wide = logits.dtype === 'float32' ? undefined : logits.to('float32');
      chooseIndex(out, wide ?? logits);
      return;
    }
    using probs = probsOf(logits, this.#temperature);
    chooseIndex(out, probs, random);
  }

  #numbersOf(step: number): readonly number[] {
    while (this.#numbers.length <= step) this.#numbers.push(this.#random.map((random) => random()));
    return this.#numbers[step] as number[];
  }

  /**
   * The next token of each of the rows, by logits [all rows, vocabulary]. A logit of -inf forbids its token.
   * @throws RangeError that names the row and the step where logits hold a NaN, a +inf, or nothing but -inf.
   */
  async next(logits: Tensor, step: number, { rows = this.#all, mask }: StepOptions = {}): Promise<number[]> {
    using masked = mask && logits.add(mask);
    await this.#read(masked ?? logits, rows);
    const chosen = rows.map((row) => this.#choose(row, step));
    const failed = rows.find((_, i) => chosen[i] === undefined);
    if (failed === undefined) return chosen as number[];
    await logits.readInto(this.#host);
    const problem = problemOf(this.#row(failed), { stopped: mask !== undefined });
    throw new RangeError(
      `sample: logits must be finite, or -inf for tokens that are forbidden, but at row ${failed}, step ${step}, they ${problem}`,
    );
  }

  /** Reads the probabilities; for a temperature of 0, the logits. */
  async #read(logits: Tensor, rows: readonly number[]): Promise<void> {
    if (this.#temperature === 0) return logits.readInto(this.#host);
    using probs = probsOf(logits, this.#temperature);
    await probs.readInto(this.#host);
    const without = rows.filter((row) => hasNoProbs(this.#row(row)));
    if (without.length === 0) return;
    // the other rows keep what they have: what a row gets does not depend on those beside it
    const others = new Float32Array(this.#host.length);
    await readProbsOfAnySize(logits, this.#temperature, others);
    for (const row of without) this.#row(row).set(this.#row(row, others));
  }

  #row(row: number, values = this.#host): Float32Array {
    const nVocab = values.length / this.#random.length;
    return values.subarray(row * nVocab, (row + 1) * nVocab);
  }

  #choose(row: number, step: number): number | undefined {
    const values = this.#row(row);
    if (this.#temperature === 0) return greedy(values);
    if (hasNoProbs(values)) return undefined;
    const probs = this.#topP === undefined ? values : nucleus(values, this.#topP);
    return draw(probs, () => this.#numbersOf(step)[row] as number);
  }
}

/** Whether softmax found no probabilities for a row: then all of it is NaN, and so is its first value. */
const hasNoProbs = (probs: Float32Array): boolean => Number.isNaN(probs[0]);

/**
 * softmax(logits / temperature) of [rows, vocabulary], float32. A row is NaN where a logit is NaN or +inf, or all are
 * -inf, and also where the division has led to that.
 */
function probsOf(logits: Tensor, temperature: number): Tensor {
  using wide = logits.dtype === 'float32' && temperature === 1 ? undefined : logits.to('float32');
  if (temperature !== 1) wide?.div_(temperature);
  return softmax(wide ?? logits, -1);
}

/** The normal numbers of float32 lie between this and its inverse, and so do divisors. */
const smallest = 2 ** -126;
const within = (x: number): number => Math.min(Math.max(x, smallest), 1 / smallest);

/**
 * Reads softmax(logits / temperature) into `host`, for any logits and any temperature above 0: nothing overflows that has
 * an influence.
 */
async function readProbsOfAnySize(logits: Tensor, temperature: number, host: Float32Array): Promise<void> {
  using wide = logits.to('float32');
  // half of each, as differences can be twice as large as the largest float32
  wide.mul_(0.5);
  using largest = wide.max(-1, { keepDim: true });
  wide.sub_(largest);
  // in two steps, as the temperature can be out of float32's range
  const first = within(temperature / 2);
  for (const divisor of [first, within(temperature / 2 / first)]) wide.div_(divisor);
  using probs = softmax(wide, -1);
  await probs.readInto(host);
}
