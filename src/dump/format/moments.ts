// Mean and central moments of many series at once, in float64. New values are first summed around their own mean, and
// two such sums are merged exactly (Pébay, "Formulas for Robust, One-Pass Parallel Computation of Covariances and
// Arbitrary-Order Statistical Moments", SAND2008-6212), so nothing large is ever subtracted from something large.

import { canonical } from '../../engine/dtype.js';

export interface Summary {
  readonly mean: number;
  /** The variance of the population: the sum is divided by the count. */
  readonly variance: number;
  /** The third central moment over the variance to the power of 1.5; NaN where that is 0. */
  readonly skewness: number;
  /** The fourth central moment over the variance squared: 3 for a normal distribution. */
  readonly kurtosis: number;
}

export class Moments {
  readonly #count: Float64Array;
  readonly #mean: Float64Array;
  readonly #m2: Float64Array;
  readonly #m3: Float64Array;
  readonly #m4: Float64Array;

  constructor(series: number) {
    this.#count = new Float64Array(series);
    this.#mean = new Float64Array(series);
    this.#m2 = new Float64Array(series);
    this.#m3 = new Float64Array(series);
    this.#m4 = new Float64Array(series);
  }

  count(series: number): number {
    return this.#count[series] as number;
  }

  /**
   * Adds n values with that mean to a series; m2, m3 and m4 are the sums of the powers of their distances from it. Of a
   * series with values that are not finite, the mean is that of a plain sum: infinite with infinities of one sign, else
   * NaN. Its other moments are NaN.
   */
  merge(series: number, n: number, mean: number, m2: number, m3: number, m4: number): void {
    if (n === 0) return;
    const a = this.#count[series] as number;
    const [a2, a3] = [this.#m2[series] as number, this.#m3[series] as number];
    const all = a + n;
    const part = n / all;
    const rest = a / all;
    const delta = mean - (this.#mean[series] as number);
    const square = delta * delta;
    this.#count[series] = all;
    if (!Number.isFinite(delta)) {
      this.#mean[series] = (this.#mean[series] as number) + mean;
      this.#m2[series] = this.#m3[series] = this.#m4[series] = Number.NaN;
      return;
    }
    this.#mean[series] = (this.#mean[series] as number) + delta * part;
    this.#m2[series] = a2 + m2 + square * a * part;
    this.#m3[series] = a3 + m3 + square * delta * a * part * (rest - part) + 3 * delta * (rest * m2 - part * a2);
    this.#m4[series] =
      (this.#m4[series] as number) +
      m4 +
      square * square * a * part * (rest * rest - rest * part + part * part) +
      6 * square * (rest * rest * m2 + part * part * a2) +
      4 * delta * (rest * m3 - part * a3);
  }

  /** All NaN for a series without values. */
  summary(series: number): Summary {
    const n = this.#count[series] as number;
    const variance = (this.#m2[series] as number) / n;
    // a root, as the last bits of a power that is no whole number depend on the machine
    return {
      mean: canonical(n === 0 ? Number.NaN : (this.#mean[series] as number)),
      variance: canonical(variance),
      skewness: canonical((this.#m3[series] as number) / n / (variance * Math.sqrt(variance))),
      kurtosis: canonical((this.#m4[series] as number) / n / (variance * variance)),
    };
  }
}
