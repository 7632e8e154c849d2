// Gradients of functions of one element, choices and copies: against central differences, and at kinks against what
// PyTorch gives.
import * as assert from 'uvu/assert';
import type { Side } from '../../../../src/engine/ops/binary.js';
import { Tensor } from '../../../../src/engine/ops/tensor.js';
import { gelu } from '../../../../src/engine/ops/unary.js';
import { where } from '../../../../src/engine/ops/where.js';
import { close } from '../../../support/close.js';
import { rejects, suite, throws } from '../../../support/harness.js';
import { product } from '../../../support/operations/cases.js';
import type { Random } from '../../../support/random.js';
import { anyFloat, type Check, drawn, gradientAt, gradients, onCpu, smallShape } from './differences.js';
import { anyPart, isInsidePart, partShape, thinned, underneath, viewOf } from './parts.js';

const test = suite('gradients of element-by-element operations');

// ---- functions of one element

interface Unary {
  f(x: number, ...parameters: number[]): number;
  parameters?(rng: Random): number[];
  /** Where the derivative jumps. */
  kinks?(...parameters: number[]): number[];
  draw?(rng: Random): number;
}

const positive = (rng: Random) => Math.exp(rng.normal());
const erf = (x: number) => Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3));

const unary: Record<string, Unary> = {
  relu: { f: (x) => Math.max(0, x), kinks: () => [0] },
  gelu: { f: (x) => 0.5 * x * (1 + erf(x)), draw: (rng) => 2 * rng.normal() },
  exp: { f: Math.exp },
  log: { f: Math.log, draw: positive },
  sqrt: { f: Math.sqrt, draw: positive },
  abs: { f: Math.abs, kinks: () => [0] },
  neg: { f: (x) => -x },
  sign: { f: Math.sign, kinks: () => [0] },
  tanh: { f: Math.tanh, draw: (rng) => 2 * rng.normal() },
  sigmoid: { f: (x) => 1 / (1 + Math.exp(-x)), draw: (rng) => 3 * rng.normal() },
  pow: {
    f: (x, p) => x ** p,
    parameters: (rng) => [rng.pick([0, 1, 2, 3, -1, -2])],
    kinks: () => [0],
  },
  'pow, not whole': {
    f: (x, p) => x ** p,
    parameters: (rng) => [rng.pick([0.5, 1.5, -0.5, 2.75])],
    draw: (rng) => 0.2 + positive(rng),
  },
  clamp: {
    f: (x, low, high) => Math.min(high, Math.max(low, x)),
    parameters: (rng) => [
      rng.pick([-1, -0.5, 0.25, Number.NEGATIVE_INFINITY]),
      rng.pick([0.5, 1, -0.75, Number.POSITIVE_INFINITY]),
    ],
    kinks: (low, high) => [low, high],
  },
};

for (const [name, { f, parameters, kinks, draw }] of Object.entries(unary)) {
  test(name, async () => {
    await gradients(200, (rng) => {
      const kind = name.split(',')[0] as 'clamp';
      const shape = smallShape(rng);
      const given = parameters?.(rng) ?? [];
      const avoided = kinks?.(...given) ?? [];
      const input = drawn(rng, shape, () => {
        let x: number;
        do x = draw?.(rng) ?? rng.normal();
        while (avoided.some((kink) => Math.abs(x - kink) < 0.1));
        return x;
      });
      if (rng.next() < 0.5) {
        return {
          operation: name,
          inputs: [input],
          ours: (_, x) => x[kind](...(given as [number, number])),
          oracle: (x) => x.map((v) => f(v, ...given)),
          views: 'any',
        };
      }
      const part = anyPart(rng, shape);
      const isInside = isInsidePart(part, shape);
      return {
        operation: `${name}_`,
        inputs: [input],
        ours: (_, x) => {
          const out = x.clone();
          viewOf(out, part)[`${kind}_`](...(given as [number, number]));
          return out;
        },
        oracle: (x) => x.map((v, i) => (isInside[i] ? f(v, ...given) : v)),
        views: 'any',
      };
    });
  });
}

test('kinks and the ends of domains are as in PyTorch', async () => {
  for (const dtype of ['float32', 'bfloat16', 'float16'] as const) {
    const at = (x: readonly number[], f: (x: Tensor) => Tensor) => gradientAt(x, f, undefined, dtype);
    close(await at([-1, 0, -0, 2, NaN], (x) => x.relu()), [0, 0, 0, 1, 1]);
    close(await at([-2, -1, 0, 2, 3, NaN], (x) => x.clamp(-1, 2)), [0, 1, 1, 1, 0, 0]);
    close(await at([0, 1, 1.5, 2, 3], (x) => x.clamp(2, 1)), [0, 0, 0, 0, 0]);
    close(await at([-2, 0, 3], (x) => x.abs()), [-1, 0, 1]);
    close(await at([-2, 0, 3], (x) => x.sign()), [0, 0, 0]);
    close(await at([0, 2, -1], (x) => x.pow(0)), [0, 0, 0]);
    close(await at([0, 2], (x) => x.pow(1)), [1, 1]);
    close(await at([0, -4], (x) => x.pow(2)), [0, -8]);
    close(await at([0, 4], (x) => x.pow(0.5)), [Infinity, 0.25]);
    close(await at([0, -4], (x) => x.pow(-1)), [-Infinity, -0.0625]);
    close(await at([0, 4, -1], (x) => x.sqrt()), [Infinity, 0.25, NaN]);
    close(await at([0, 4, -1], (x) => x.log()), [Infinity, 0.25, -1]);
  }
  close(await gradientAt([-1e30, -100, 0, 100, 1e30], gelu), [0, 0, 0.5, 1, 1], { atol: 1e-30 });
  close(await gradientAt([-100, 100], (x) => x.tanh()), [0, 0]);
  close(await gradientAt([-200, 0, 200], (x) => x.sigmoid()), [0, 0.25, 0]);
});

test('small slopes lose nothing', async () => {
  const x = [-12, -7, 7, 12];
  const sech = (v: number) => 1 / Math.cosh(v) ** 2;
  close(await gradientAt(x, (t) => t.tanh()), x.map(sech), { rtol: 1e-5 });
  const slope = (v: number) => 1 / (1 + Math.exp(-v)) / (1 + Math.exp(v));
  close(await gradientAt(x, (t) => t.sigmoid()), x.map(slope), { rtol: 1e-5 });
});

test('what is kept is the value from before a later edit', async () => {
  const given = [0.5, -1, 2];
  const edited = (x: Tensor): Tensor => {
    const y = x.mul(2);
    const out = y.exp();
    y.fill(7);
    return out.add_(y.mul_(x));
  };
  close(
    await gradientAt(given, edited),
    given.map((v) => 2 * Math.exp(2 * v) + 7),
    { rtol: 1e-6 },
  );
});

// ---- choices and comparisons

test('where', async () => {
  await gradients(300, (rng): Check => {
    const shape = smallShape(rng);
    const shapes = [0, 1, 2].map((i) => (i === 0 || rng.next() < 0.4 ? thinned(rng, shape) : shape)) as number[][];
    // one of the three has the whole shape
    shapes[rng.integer(0, 3)] = shape;
    const [ofCondition, ofA, ofB] = shapes as [number[], number[], number[]];
    const flags = Array.from({ length: product(ofCondition) }, () => rng.next() < 0.5);
    const condition = (device: Tensor['device']) =>
      Tensor.from(Uint8Array.from(flags, Number), { shape: ofCondition, dtype: 'bool', device });
    const chosen = (whole: readonly number[]) => underneath(ofCondition, whole).map((at) => flags[at] as boolean);
    const number = rng.pick([0, 2, 0.1]);
    const isNumber = rng.next() < 0.3;
    if (isNumber) {
      const whole = [...new Set([ofCondition, ofA])].find((s) => s === shape);
      if (whole) {
        const isFirst = rng.next() < 0.5;
        const [flagsOf, at] = [chosen(shape), underneath(ofA, shape)];
        return {
          operation: `where with ${number}`,
          inputs: [drawn(rng, ofA)],
          ours: (own, a) => {
            const sides: [Side, Side] = isFirst ? [number, a] : [a, number];
            return where(own(condition(a.device)), ...sides);
          },
          oracle: (a) =>
            Float64Array.from(flagsOf, (flag, i) => (flag === isFirst ? number : (a[at[i] as number] as number))),
          views: 'any',
        };
      }
    }
    const [flagsOf, atA, atB] = [chosen(shape), underneath(ofA, shape), underneath(ofB, shape)];
    return {
      operation: 'where',
      inputs: [drawn(rng, ofA), drawn(rng, ofB)],
      ours: (own, a, b) => own(condition(a.device)).where(a, b),
      oracle: (a, b) =>
        Float64Array.from(flagsOf, (flag, i) => (flag ? a[atA[i] as number] : b[atB[i] as number]) as number),
      views: 'any',
    };
  });
});

test('a choice by what is recorded: the sides alone have gradients', async () => {
  close(await gradientAt([-1, 2, 3], (x) => x.gt(0).where(x.mul(x), x.mul(5))), [5, 4, 6]);
});

test('comparisons and logic have no gradients, and backward() says so', async () => {
  const operations: Record<string, (x: Tensor) => Tensor> = {
    ...{ eq: (x) => x.eq(1), ne: (x) => x.ne(x), lt: (x) => x.lt(0), le: (x) => x.le(x) },
    ...{ gt: (x) => x.gt(0), ge: (x) => x.ge(0), and: (x) => x.and(x), or: (x) => x.or(x), not: (x) => x.not() },
    and_: (x) => onCpu([true, false]).and_(x),
    or_: (x) => onCpu([true, false]).or_(x),
    to: (x) => x.to('bool').not_(),
  };
  for (const [name, f] of Object.entries(operations)) {
    using x = onCpu([1, -2]).requireGrad();
    const flags = f(x);
    const why = new RegExp(`^backward: the tensor depends on nothing .* by way of ${name}, which cannot be`);
    await rejects(flags.where(1, 0).sum().backward(), Error, why);
    await rejects(flags.to('float32').sum().backward(), Error, why);
    // beside what has a gradient they are constants
    await x.mul(flags).sum().backward();
    close((await x.grad?.read()) ?? [], await flags.to('float32').read());
  }
});

test('a condition that is edited afterwards', async () => {
  for (const edit of [
    (condition: Tensor) => condition.not_(),
    (condition: Tensor) => condition.and_(onCpu([false, false, false])),
    (condition: Tensor) => condition.slice(0, 1).fill(1),
  ]) {
    const chosen = (x: Tensor): Tensor => {
      const condition = x.gt(0);
      const out = condition.where(x.mul(x), 5);
      edit(condition);
      return out;
    };
    close(await gradientAt([-1, 2, -3], chosen), [0, 4, 0]);
  }
});

// ---- copies and fills

test('clone, and to other floats', async () => {
  await gradients(420, (rng) => {
    const shape = smallShape(rng);
    const dtype = rng.pick([undefined, 'float32', 'bfloat16', 'float16'] as const);
    return {
      operation: dtype ? `to ${dtype}` : 'clone',
      inputs: [drawn(rng, shape)],
      ours: (_, x) => (dtype ? x.to(dtype) : x.clone()),
      oracle: (x) => x,
      views: 'any',
    };
  });
});

test('to integers and bools cuts', async () => {
  for (const dtype of ['int32', 'bool'] as const) {
    using x = onCpu([1, -2]).requireGrad();
    await rejects(x.to(dtype).to('float32').sum().backward(), Error, /by way of to, which cannot be differentiated/);
    using integers = onCpu([0, 0], { dtype }).copyFrom(x.abs().clamp(0, 1));
    await rejects(integers.to('float32').sum().backward(), Error, /by way of copyFrom, which cannot/);
  }
});

test('copyFrom, with broadcasting, and fill, of all or a part', async () => {
  await gradients(420, (rng): Check => {
    const shape = smallShape(rng);
    const part = anyPart(rng, shape);
    const isInside = isInsidePart(part, shape);
    const inside = partShape(part, shape);
    const dtype = anyFloat(rng);
    if (rng.next() < 0.3) {
      return {
        operation: 'fill',
        inputs: [drawn(rng, shape)],
        ours: (_, x) => {
          const out = x.to(dtype);
          viewOf(out, part).fill(2.5);
          return out;
        },
        mayOverwrite: true,
        oracle: (x) => x.map((v, i) => (isInside[i] ? 2.5 : v)),
        views: 'any',
      };
    }
    const other = thinned(rng, inside);
    const at = underneath(other, inside);
    return {
      operation: 'copyFrom',
      inputs: [drawn(rng, shape), drawn(rng, other)],
      ours: (_, x, y) => {
        const out = x.to(dtype);
        viewOf(out, part).copyFrom(y);
        return out;
      },
      mayOverwrite: true,
      oracle: (x, y) => {
        let next = 0;
        return x.map((v, i) => (isInside[i] ? (y[at[next++] as number] as number) : v));
      },
      views: 'any',
    };
  });
});

test('copyFrom of an overlapping view', async () => {
  const shifted = (x: Tensor): Tensor => {
    const y = x.mul(2);
    y.slice(0, 0, 3).copyFrom(y.slice(0, 1, 4));
    return y;
  };
  close(await gradientAt([1, 2, 3, 4], shifted, [1, 10, 100, 1000]), [0, 2, 20, 2200]);
});

test('a leaf is not written', () => {
  using x = onCpu([1, 2]).requireGrad();
  const writes: Record<string, () => unknown> = {
    ...{ exp_: () => x.exp_(), clamp_: () => x.clamp_(0, 1), add_: () => x.add_(1), mul_: () => x.mul_(x) },
    ...{ fill: () => x.fill(0), copyFrom: () => x.slice(0, 1).copyFrom(x.slice(0, 0, 1)) },
  };
  for (const [name, write] of Object.entries(writes)) {
    throws(write, Error, new RegExp(`^${name}: the tensor must not be one whose gradient is wanted`));
  }
  assert.is(x.grad, undefined);
});

test.run();
