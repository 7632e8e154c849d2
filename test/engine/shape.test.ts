// Strides of views, against a search of all elements: a view exists if the elements lie where some strides put them.
import * as assert from 'uvu/assert';
import { contiguousStrides, viewStrides } from '../../src/engine/shape.js';
import { suite } from '../support/harness.js';
import { coordinates, product } from '../support/operations/cases.js';
import { random } from '../support/random.js';

const test = suite('shape');

/** Where the elements lie, in row-major order. */
const places = (shape: readonly number[], strides: readonly number[]): number[] =>
  Array.from({ length: product(shape) }, (_, i) =>
    coordinates(shape, i).reduce((sum, at, d) => sum + at * (strides[d] as number), 0),
  );

/** Whether any strides show the elements as `target`. Those of dimensions longer than 1 follow from two elements. */
function exists(all: readonly number[], target: readonly number[]): boolean {
  const steps = contiguousStrides(target);
  const strides = target.map((n, d) => (n > 1 ? (all[steps[d] as number] as number) : 0));
  return places(target, strides).every((place, i) => place === all[i]);
}

/** Random sizes with the same product, ones among them. */
function factors(n: number, pick: (low: number, high: number) => number): number[] {
  const out: number[] = [];
  for (let rest = n; rest > 1; ) {
    const choices = Array.from({ length: rest }, (_, i) => i + 1).filter((d) => d > 1 && rest % d === 0);
    const factor = choices[pick(0, choices.length)] as number;
    out.splice(pick(0, out.length + 1), 0, factor);
    rest /= factor;
  }
  while (out.length < 8 && pick(0, 3) === 0) out.splice(pick(0, out.length + 1), 0, 1);
  return out;
}

test('2000 random views: strides wherever there are some, and undefined where there are none', () => {
  const found = { views: 0, copies: 0 };
  const rng = random(1);
  for (let i = 0; i < 2000; i++) {
    const shape = Array.from({ length: rng.integer(0, 5) }, () => rng.pick([1, 1, 2, 3, 4, 6]));
    // in the order of memory with gaps between some, with strides of 0, or in another order
    const order = [...shape.keys()];
    if (rng.next() < 0.4) order.reverse();
    const strides = shape.map(() => 0);
    let step = rng.pick([1, 1, 3]);
    for (const d of order.toReversed()) {
      strides[d] = rng.next() < 0.1 ? 0 : shape[d] === 1 ? rng.integer(0, 99) : step;
      step *= (shape[d] as number) + (rng.next() < 0.2 ? 1 : 0);
    }
    const target = factors(product(shape), rng.integer);
    const all = places(shape, strides);
    const got = viewStrides(shape, strides, target);
    const where = `[${shape}] of strides [${strides}] as [${target}]`;
    assert.is(got !== undefined, exists(all, target), where);
    if (got) assert.equal(places(target, got), all, where);
    found[got ? 'views' : 'copies']++;
  }
  assert.ok(found.views > 500 && found.copies > 300, JSON.stringify(found));
});

test('shapes without elements, scalars, ones', () => {
  assert.equal(viewStrides([0, 3], [7, 2], [3, 0]), [0, 1]);
  assert.equal(viewStrides([], [], []), []);
  assert.equal(viewStrides([], [], [1, 1]), [1, 1]);
  assert.equal(viewStrides([1, 1], [5, 9], []), []);
  assert.equal(viewStrides([1, 6, 1], [99, 2, 77], [2, 3]), [6, 2]);
  assert.equal(viewStrides([2, 3], [3, 1], [6, 1]), [1, 1]);
  assert.equal(viewStrides([2, 3], [1, 2], [6]), undefined);
  assert.equal(viewStrides([4], [0], [2, 2]), [0, 0]);
});

test.run();
