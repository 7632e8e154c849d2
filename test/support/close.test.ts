// Oracle: hand-computed values.
import * as assert from 'uvu/assert';
import { close, relativeError } from './close.js';
import { suite, throws } from './harness.js';

const test = suite('close');

test('NaN equals NaN, an infinity itself, and a zero a zero of the other sign', () => {
  close([NaN, Infinity, -Infinity, -0], Float32Array.of(NaN, Infinity, -Infinity, 0));
});

test('allows exactly atol + rtol |expected|', () => {
  close([3.5], [2], { rtol: 0.5, atol: 0.5 });
  throws(() => close([3.625], [2], { rtol: 0.5, atol: 0.5 }), Error, /off by 1\.625, allowed 1\.5/);
});

test('names the worst element, not the first', () => {
  const expected = [1, 1, 1000];
  throws(
    () => close([1.1, 1.5, 1000.6], expected, { rtol: 1e-3, label: 'latents' }),
    Error,
    /^close: latents: 2 of 3 elements differ, the worst at index 1: 1\.5, but expected 1 /,
  );
  throws(() => close([1.5, 0, 1000], expected), Error, /worst at index 1: 0, but/);
  throws(
    () => close([2, NaN, 1000], expected),
    Error,
    /2 of 3 elements differ, the worst at index 1: NaN, but expected 1 /,
  );
});

test('relativeError is the ratio of norms', () => {
  assert.is(relativeError([3, 4], [3, 4]), 0);
  assert.is(relativeError([3, 4.5], [3, 4]), 0.1);
  assert.is(relativeError([-Infinity, 4.5, 3], [-Infinity, 4, 3]), 0.1);
  assert.is(relativeError([1], [0]), Infinity);
  assert.is(relativeError([0, 0], [0, 0]), 0);
  assert.ok(Number.isNaN(relativeError([Infinity], [-Infinity])));
});

test.run();
