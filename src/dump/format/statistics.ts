// Statistics of features, gathered while a shard is made. Features are the columns of a location (neurons, dimensions
// of the residual stream) or latents. Each has the number of positions where it is not 0, the mean, the variance and
// the maximum. Each row is summed by itself, in float64, and then merged (moments.ts). The order of the rows does not
// depend on how many are computed at a time, so the results do not depend on it either.
import { canonical } from '../../engine/dtype.js';
import { Moments } from './moments.js';

export interface Statistics {
  /** The number of positions. */
  readonly count: number;
  /** The number of positions where each feature is not 0, [features]. NaN is not 0. */
  readonly active: Float64Array;
  /**
   * The mean over all positions; NaN when there are none. Of a feature that is NaN somewhere it is NaN, and of one with
   * infinities that of a plain sum: infinite with infinities of one sign, else NaN.
   */
  readonly mean: Float64Array;
  /** The variance of the population: the sum is divided by the count. NaN where a value is not finite. */
  readonly variance: Float64Array;
  /** NaN where a value is NaN; -Infinity when there are no positions. */
  readonly maximum: Float64Array;
}

export class FeatureStatistics {
  readonly #features: number;
  readonly #moments: Moments;
  readonly #active: Float64Array;
  readonly #maximum: Float64Array;
  #count = 0;
  // sums of the current row
  readonly #sum: Float64Array;
  readonly #squares: Float64Array;
  readonly #positions: Uint32Array;

  constructor(features: number) {
    this.#features = features;
    this.#moments = new Moments(features);
    this.#active = new Float64Array(features);
    this.#maximum = new Float64Array(features).fill(Number.NEGATIVE_INFINITY);
    this.#sum = new Float64Array(features);
    this.#squares = new Float64Array(features);
    this.#positions = new Uint32Array(features);
  }

  /** Adds a row of a dense location: the given positions of `values` [seq, features]. */
  addDense(values: Float32Array, positions: readonly number[]): void {
    const [sum, squares] = [this.#sum.fill(0), this.#squares.fill(0)];
    const [active, maximum, features] = [this.#active, this.#maximum, this.#features];
    for (const position of positions) {
      const start = position * features;
      for (let i = 0; i < features; i++) {
        const x = values[start + i] as number;
        // A product of two float32 is exact in float64, and a row is short: the mean can be subtracted last.
        sum[i] = (sum[i] as number) + x;
        squares[i] = (squares[i] as number) + x * x;
        if (x !== 0) active[i] = (active[i] as number) + 1;
        if (x > (maximum[i] as number) || Number.isNaN(x)) maximum[i] = x; // nothing is larger than NaN
      }
    }
    this.#count += positions.length;
    for (let i = 0; i < features; i++) this.#merge(i, positions.length);
  }

  /** Adds a row of latents: the ranges of the entries of its positions, a range for each. */
  addSparse(indices: Int32Array, values: Float32Array, ranges: readonly (readonly [number, number])[]): void {
    const [sum, squares, positions] = [this.#sum, this.#squares, this.#positions];
    const [active, maximum] = [this.#active, this.#maximum];
    const touched: number[] = [];
    for (const [from, to] of ranges) {
      for (let at = from; at < to; at++) {
        const [latent, x] = [indices[at] as number, values[at] as number];
        if (positions[latent] === 0) {
          touched.push(latent);
          sum[latent] = squares[latent] = 0;
        }
        positions[latent] = (positions[latent] as number) + 1;
        sum[latent] = (sum[latent] as number) + x;
        squares[latent] = (squares[latent] as number) + x * x;
        if (x !== 0) active[latent] = (active[latent] as number) + 1;
        if (x > (maximum[latent] as number) || Number.isNaN(x)) maximum[latent] = x;
      }
    }
    this.#count += ranges.length;
    for (const latent of touched) {
      this.#merge(latent, positions[latent] as number);
      positions[latent] = 0;
    }
  }

  #merge(i: number, n: number): void {
    if (n === 0) return;
    const sum = this.#sum[i] as number;
    this.#moments.merge(i, n, sum / n, Math.max(0, (this.#squares[i] as number) - (sum * sum) / n), 0, 0);
  }

  /** Must be called only once. It counts latents that were not stored at a position as 0 there. */
  finish(): Statistics {
    const [mean, variance] = [new Float64Array(this.#features), new Float64Array(this.#features)];
    for (let i = 0; i < this.#features; i++) {
      const zeros = this.#count - this.#moments.count(i);
      if (zeros > 0) {
        this.#moments.merge(i, zeros, 0, 0, 0, 0);
        this.#maximum[i] = Math.max(0, this.#maximum[i] as number);
      }
      this.#maximum[i] = canonical(this.#maximum[i] as number);
      const summary = this.#moments.summary(i);
      mean[i] = summary.mean;
      variance[i] = summary.variance;
    }
    return { count: this.#count, active: this.#active, mean, variance, maximum: this.#maximum };
  }
}

/** The statistics of several shards together, added in their order. */
export class MergedStatistics {
  readonly #moments: Moments;
  readonly #active: Float64Array;
  readonly #maximum: Float64Array;
  #count = 0;

  constructor(features: number) {
    this.#moments = new Moments(features);
    this.#active = new Float64Array(features);
    this.#maximum = new Float64Array(features).fill(Number.NEGATIVE_INFINITY);
  }

  add({ count, active, mean, variance, maximum }: Statistics): void {
    this.#count += count;
    for (let i = 0; i < active.length; i++) {
      this.#moments.merge(i, count, mean[i] as number, (variance[i] as number) * count, 0, 0);
      this.#active[i] = (this.#active[i] as number) + (active[i] as number);
      this.#maximum[i] = canonical(Math.max(this.#maximum[i] as number, maximum[i] as number));
    }
  }

  get(): Statistics {
    const [mean, variance] = [new Float64Array(this.#active.length), new Float64Array(this.#active.length)];
    for (let i = 0; i < mean.length; i++) {
      const summary = this.#moments.summary(i);
      mean[i] = summary.mean;
      variance[i] = summary.variance;
    }
    return { count: this.#count, active: this.#active, mean, variance, maximum: this.#maximum };
  }
}
