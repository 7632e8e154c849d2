// Oracle: the definitions, over all values at once, in double precision.
import * as assert from 'uvu/assert';
import { Moments } from '../../../src/dump/format/moments.js';
import { close } from '../../support/close.js';
import { suite } from '../../support/harness.js';
import { random } from '../../support/random.js';

const test = suite('moments');

const mean = (values: number[]): number => values.reduce((sum, x) => sum + x, 0) / values.length;
const central = (values: number[], power: number): number => {
  const middle = mean(values);
  return mean(values.map((x) => (x - middle) ** power));
};
const summary = (values: number[]): number[] => {
  const variance = central(values, 2);
  return [mean(values), variance, central(values, 3) / variance ** 1.5, central(values, 4) / variance ** 2];
};

const merge = (moments: Moments, series: number, values: number[]): void => {
  const n = values.length;
  const [m2, m3, m4] = [2, 3, 4].map((power) => n * central(values, power)) as [number, number, number];
  if (n === 0) moments.merge(series, 0, Number.NaN, Number.NaN, Number.NaN, Number.NaN);
  else moments.merge(series, n, mean(values), m2, m3, m4);
};

test('blocks of any size, far from zero', () => {
  const r = random(7);
  for (const offset of [0, 1e6]) {
    const values = Array.from({ length: 1000 }, () => offset + Math.exp(r.normal()));
    for (const most of [1, 2, 17, 1000]) {
      const moments = new Moments(3);
      for (let at = 0; at < values.length; ) {
        const size = r.integer(0, most + 1);
        merge(moments, 1, values.slice(at, at + size));
        at += size;
      }
      const found = Object.values(moments.summary(1));
      close(found, summary(values), { rtol: 1e-9, label: `offset ${offset}, blocks up to ${most}` });
      assert.is(moments.count(1), 1000);
      assert.is(moments.count(0), 0);
    }
  }
});

test('a normal distribution has kurtosis 3 and no skewness', () => {
  const r = random(8);
  const moments = new Moments(1);
  for (let i = 0; i < 50; i++) {
    merge(
      moments,
      0,
      Array.from({ length: 2000 }, () => 5 + 2 * r.normal()),
    );
  }
  close(Object.values(moments.summary(0)), [5, 4, 0, 3], { atol: 0.05 });
});

test('without values, and without variance', () => {
  const moments = new Moments(2);
  assert.equal(moments.summary(0), { mean: NaN, variance: NaN, skewness: NaN, kurtosis: NaN });
  moments.merge(1, 3, 2, 0, 0, 0);
  moments.merge(1, 5, 2, 0, 0, 0);
  assert.equal(moments.summary(1), { mean: 2, variance: 0, skewness: NaN, kurtosis: NaN });
});

test('values that are not finite: the mean of a plain sum, no other moments', () => {
  const [infinite, nan] = [Number.POSITIVE_INFINITY, Number.NaN];
  const undefinedMoments = { variance: NaN, skewness: NaN, kurtosis: NaN };
  for (const [means, expected] of [
    [[infinite], infinite],
    [[1, infinite, 2], infinite],
    [[infinite, infinite, 0], infinite],
    [[3, -infinite], -infinite],
    [[infinite, 1, -infinite], nan],
    [[1, nan, 2], nan],
    [[nan, infinite], nan],
    [[infinite, nan], nan],
  ] as const) {
    const moments = new Moments(1);
    for (const mean of means) moments.merge(0, 2, mean, Number.isFinite(mean) ? 1 : nan, 0, 0);
    assert.equal(moments.summary(0), { mean: expected, ...undefinedMoments }, String(means));
  }
});

test.run();
