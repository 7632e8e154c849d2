// Oracle: differences worked out by hand, and what must not pass: one wrong value, one that is missing (NaN), one other
// bit.
import * as assert from 'uvu/assert';
import { Figures } from '../../../bench/gpu/checks.js';
import { difference, different, farthest, farthestOf, sameBytes } from '../../../bench/gpu/whole.js';
import { Tensor } from '../../../src/engine/ops/tensor.js';
import { suite, throws } from '../../support/harness.js';

const test = suite('bench/gpu: whole results');
const expected = Float32Array.of(3, 0, -100, 4, 1, 2);

const both = async (values: ArrayLike<number>, least: number) => {
  using got = Tensor.from(Float32Array.from(values), { shape: [2, 3] });
  using wanted = Tensor.from(expected, { shape: [2, 3] });
  const onHost = farthestOf(values, expected, least);
  const onDevice = await farthest(got, wanted, least);
  assert.ok(Object.is(onDevice, onHost) || Math.abs(onDevice - onHost) <= 1e-6);
  return onHost;
};

test('the error of a value, as a part of the value or of the least one', async () => {
  assert.is(await both(expected, 1), 0);
  assert.is(await both([3, 0.5, -100, 4, 1, 2], 1), 0.5);
  assert.is(await both([3, 0, -100, 9, 1, 2], 3), 1);
  assert.ok((await both([3, 0, -101, 4, 1, 2], 1)) < 0.01);
});

test('NaN and infinity are never near', async () => {
  assert.ok(Number.isNaN(await both([3, 0, -100, NaN, 1, 2], 1)));
  assert.ok(!((await both([3, 0, -100, Infinity, 1, 2], 1)) < 1));
  assert.ok(Number.isNaN(farthestOf([3, 0], expected, 1)));
});

test('repetitions: one changed value, one NaN, one bit', async () => {
  const make = (values: number[], dtype: 'float32' | 'bfloat16' = 'float32') =>
    Tensor.from(Float32Array.from(values), { shape: [2, 2], dtype });
  using first = make([1, 2, 3, 0]);
  using same = make([1, 2, 3, 0]);
  using other = make([1, 2, 3 + 2 ** -22, 0]);
  using hole = make([1, NaN, 3, 0]);
  using negative = make([1, 2, 3, -0]);
  assert.is(await different([difference(same, first), difference(other, first), difference(hole, first)]), 2);
  assert.is(await different([difference(first, first), difference(hole, hole)]), 1);
  assert.ok(await sameBytes(first, same));
  assert.not(await sameBytes(first, other));
  assert.not(await sameBytes(first, negative));
  using half = make([1, 2, 3, 0], 'bfloat16');
  using changed = make([1, 2, 3 + 2 ** -6, 0], 'bfloat16');
  assert.ok(await sameBytes(half, half));
  assert.not(await sameBytes(half, changed));
});

test('figures above their bounds, or NaN, fail with all figures in the message', () => {
  const figures = new Figures();
  figures.add('error', 1.5e-7, 3e-7);
  figures.add('differ', 0, 0);
  figures.add('beside it', 5);
  assert.is(figures.line(), 'error 1.5e-7, differ 0, beside it 5');
  figures.add('norm', NaN, 1);
  throws(() => figures.line(), Error, /^error 1\.5e-7, differ 0, beside it 5, norm NaN \(at most 1\)$/);
});

test.run();
