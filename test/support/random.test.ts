// Oracle: the published algorithm, in exact integers, and the moments of the distributions.
import * as assert from 'uvu/assert';
import { suite } from './harness.js';
import { random } from './random.js';

const test = suite('random');

test('the same seed gives the same values, another seed others', () => {
  const draw = (seed: number) => Array.from({ length: 8 }, random(seed).next);
  assert.equal(draw(7), draw(7));
  assert.not.equal(draw(7), draw(8));
});

test('next is uniform in [0, 1), normal has mean 0 and deviation 1', () => {
  const r = random(1);
  const n = 20_000;
  const uniform = Array.from({ length: n }, r.next);
  const normal = Array.from({ length: n }, r.normal);
  const mean = (values: number[]) => values.reduce((sum, x) => sum + x, 0) / n;
  assert.ok(uniform.every((x) => x >= 0 && x < 1));
  // bounds of five standard errors
  assert.ok(Math.abs(mean(uniform) - 0.5) < 5 * Math.sqrt(1 / 12 / n));
  assert.ok(Math.abs(mean(normal)) < 5 / Math.sqrt(n));
  assert.ok(Math.abs(mean(normal.map((x) => x * x)) - 1) < 5 * Math.sqrt(2 / n));
  const tenths = new Set(uniform.map((x) => Math.floor(x * 10)));
  assert.is(tenths.size, 10);
});

test('integer reaches low and never high', () => {
  const r = random(2);
  const seen = new Set(Array.from({ length: 200 }, () => r.integer(-2, 2)));
  assert.equal([...seen].sort(), [-1, -2, 0, 1]);
});

test('shapes stay within their bounds and are awkward', () => {
  const r = random(3);
  const shapes = Array.from({ length: 300 }, () => r.shape(3, { min: 1, max: 40, elements: 2000 }));
  for (const shape of shapes) {
    assert.is(shape.length, 3);
    assert.ok(shape.every((n) => n >= 1 && n <= 40) && shape.reduce((a, b) => a * b) <= 2000, String(shape));
  }
  const sizes = new Set(shapes.flat());
  for (const n of [1, 15, 16, 17, 31, 32, 33]) assert.ok(sizes.has(n), `${n} never came`);
  assert.ok(Array.from({ length: 100 }, () => r.shape(2)).some((shape) => shape.includes(0)));
});

test.run();
