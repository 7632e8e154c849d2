// Gradients of arithmetic of two sides, against central differences, and where both are equal against what PyTorch gives.
import { close } from '../../../support/close.js';
import { suite } from '../../../support/harness.js';
import { product } from '../../../support/operations/cases.js';
import type { Random } from '../../../support/random.js';
import { type Check, distinct, drawn, gradientAt, gradients, type Input, onCpu, smallShape } from './differences.js';
import { anyPart, isInsidePart, partShape, thinned, underneath, viewOf } from './parts.js';

const test = suite('gradients of arithmetic');

const binary: Record<string, (a: number, b: number) => number> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  maximum: Math.max,
  minimum: Math.min,
};
type BinaryKind = 'add' | 'sub' | 'mul' | 'div' | 'maximum' | 'minimum';

for (const [name, f] of Object.entries(binary)) {
  const kind = name as BinaryKind;
  const kindInPlace = `${kind}_` as const;
  const hasKink = kind === 'maximum' || kind === 'minimum';
  const side = (rng: Random, shape: readonly number[], shift = 0): Input => {
    if (hasKink) return distinct(rng, shape, shift);
    const nonzero = () => (0.5 + Math.abs(rng.normal())) * rng.pick([-1, 1]);
    return drawn(rng, shape, kind === 'div' ? nonzero : rng.normal);
  };

  test(`${name}: two tensors that broadcast, and a number`, async () => {
    await gradients(200, (rng): Check => {
      const shape = smallShape(rng);
      if (rng.next() < 0.2) {
        const number = (rng.integer(1, 40) / 32 + 1 / 64) * rng.pick([-1, 1]);
        return {
          operation: `${name} of ${number}`,
          inputs: [side(rng, shape)],
          ours: (_, a) => a[kind](number),
          oracle: (a) => a.map((v) => f(v, number)),
          views: 'any',
        };
      }
      const [own, other] = rng.next() < 0.5 ? [shape, thinned(rng, shape)] : [thinned(rng, shape), shape];
      const [left, right] = [underneath(own, shape), underneath(other, shape)];
      return {
        operation: name,
        inputs: [side(rng, own), side(rng, other, 1 / 64)],
        ours: (_, a, b) => a[kind](b),
        oracle: (a, b) => Float64Array.from(left, (at, i) => f(a[at] as number, b[right[i] as number] as number)),
        views: 'any',
      };
    });
  });

  test(`${name}_: in all or a part of a tensor`, async () => {
    await gradients(200, (rng): Check => {
      const shape = smallShape(rng);
      const part = anyPart(rng, shape);
      const isInside = isInsidePart(part, shape);
      if (rng.next() < 0.2) {
        const number = (rng.integer(1, 40) / 32 + 1 / 64) * rng.pick([-1, 1]);
        return {
          operation: `${name}_ of ${number}`,
          inputs: [side(rng, shape)],
          ours: (_, a) => {
            const out = a.clone();
            viewOf(out, part)[kindInPlace](number);
            return out;
          },
          oracle: (a) => a.map((v, i) => (isInside[i] ? f(v, number) : v)),
          views: 'any',
        };
      }
      const inside = partShape(part, shape);
      const other = thinned(rng, inside);
      const right = underneath(other, inside);
      return {
        operation: `${name}_`,
        inputs: [side(rng, shape), side(rng, other, 1 / 64)],
        ours: (_, a, b) => {
          const out = a.clone();
          viewOf(out, part)[kindInPlace](b);
          return out;
        },
        oracle: (a, b) => {
          let next = 0;
          return a.map((v, i) => (isInside[i] ? f(v, b[right[next++] as number] as number) : v));
        },
        views: 'any',
      };
    });
  });

  test(`${name}: both sides the same tensor, or overlapping views of one, in place as well`, async () => {
    await gradients(200, (rng): Check => {
      const shape = smallShape(rng, 1);
      const n = shape[0] as number;
      const by = rng.integer(0, Math.min(3, n) + 1);
      const count = n - by;
      const width = product(shape.slice(1));
      const inPlace = rng.next() < 0.5;
      return {
        operation: `${name}${inPlace ? '_' : ''}, ${by} rows apart`,
        inputs: [side(rng, shape)],
        ours: (own, x) => {
          const t = inPlace ? x.clone() : x;
          const [a, b] = [t.slice(0, 0, count), by === 0 && rng.next() < 0.5 ? t : t.slice(0, by)];
          if (!inPlace) return a[kind](b);
          a[kindInPlace](b);
          own(t);
          return t;
        },
        oracle: (x) => {
          const result = Float64Array.from({ length: count * width }, (_, i) =>
            f(x[i] as number, x[i + by * width] as number),
          );
          return inPlace ? Float64Array.from(x, (v, i) => result[i] ?? v) : result;
        },
        views: 'distinct',
      };
    });
  });
}

test('maximum and minimum share the gradient where both sides are equal, as PyTorch does', async () => {
  for (const [kind, ofA, ofB] of [
    ['maximum', [0.5, 0, 1], [0.5, 1, 0]],
    ['minimum', [0.5, 1, 0], [0.5, 0, 1]],
  ] as const) {
    using a = onCpu([1, 2, 3]).requireGrad();
    using b = onCpu([1, 3, 2]).requireGrad();
    await a[kind](b).sum().backward();
    close((await a.grad?.read()) ?? [], ofA);
    close((await b.grad?.read()) ?? [], ofB);
    close(await gradientAt([1, 2, 3], (x) => x.clone()[`${kind}_`](2)), kind === 'maximum' ? [0, 0.5, 1] : [1, 0.5, 0]);
  }
});

test('arithmetic with integers and bools', async () => {
  const integers = onCpu([3, 0, -2], { dtype: 'int32' });
  const flags = onCpu([true, false, true]);
  const x = [1, 2, 4];
  close(await gradientAt(x, (t) => t.mul(integers)), [3, 0, -2]);
  close(await gradientAt(x, (t) => integers.div(t)), [-3, 0, 2 / 16]);
  close(await gradientAt(x, (t) => flags.sub(t)), [-1, -1, -1]);
  close(await gradientAt(x, (t) => t.clone().mul_(flags)), [1, 0, 1]);
});

test.run();
