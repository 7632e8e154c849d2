// Gradients of reductions and of sums along a dimension: against central differences, and where elements are equal or
// results 0 against what PyTorch gives.
import type { Tensor } from '../../../../src/engine/ops/tensor.js';
import { close } from '../../../support/close.js';
import { rejects, suite } from '../../../support/harness.js';
import { coordinates, product } from '../../../support/operations/cases.js';
import type { Random } from '../../../support/random.js';
import { type Check, distinct, drawn, gradientAt, gradients, type Input, onCpu, smallShape } from './differences.js';

const test = suite('gradients of reductions');

type Kind = 'sum' | 'mean' | 'max' | 'min' | 'var' | 'std' | 'norm' | 'logSumExp';

const total = (row: readonly number[]): number => row.reduce((a, b) => a + b, 0);
const variance = (row: readonly number[], correction: number): number => {
  const mean = total(row) / row.length;
  return total(row.map((v) => (v - mean) ** 2)) / Math.max(0, row.length - correction);
};

/** Of one row; `correction` is given to var and std. */
const kinds: Record<Kind, (row: readonly number[], correction: number) => number> = {
  sum: total,
  mean: (row) => total(row) / row.length,
  max: (row) => Math.max(...row),
  min: (row) => Math.min(...row),
  var: variance,
  std: (row, correction) => Math.sqrt(variance(row, correction)),
  norm: (row) => Math.sqrt(total(row.map((v) => v * v))),
  logSumExp: (row) => {
    const max = Math.max(...row);
    return max + Math.log(total(row.map((v) => Math.exp(v - max))));
  },
};

/** In which row each element lies, where the dimensions `dims` are reduced, and how many rows there are. */
function rowsOf(shape: readonly number[], dims: readonly number[]): { rowOf: number[]; count: number } {
  const left = [...shape.keys()].filter((d) => !dims.includes(d));
  const rowOf = Array.from({ length: product(shape) }, (_, i) => {
    const at = coordinates(shape, i);
    return left.reduce((row, d) => row * (shape[d] as number) + (at[d] as number), 0);
  });
  return { rowOf, count: product(left.map((d) => shape[d] as number)) };
}

/** One dimension, several, or all, as it is given to an operation; and those that are meant. */
function anyDims(rng: Random, rank: number): { dim: number | number[] | undefined; dims: number[] } {
  const all = [...Array(rank).keys()];
  const negative = (d: number) => (rng.next() < 0.5 ? d : d - rank);
  if (rank > 0 && rng.next() < 0.5) {
    const d = rng.integer(0, rank);
    return { dim: negative(d), dims: [d] };
  }
  const some = all.filter(() => rng.next() < 0.5);
  if (some.length > 0) return { dim: some.toReversed().map(negative), dims: some };
  return { dim: rng.pick([undefined, []]), dims: all };
}

for (const [name, f] of Object.entries(kinds)) {
  const kind = name as Kind;
  const isExtreme = kind === 'max' || kind === 'min';

  test(`${name}, of one dimension, several and all`, async () => {
    await gradients(250, (rng): Check => {
      const isSpread = kind === 'var' || kind === 'std';
      let shape = smallShape(rng, isSpread ? 1 : 0);
      const { dim, dims } = anyDims(rng, shape.length);
      const reduced = () => product(dims.map((d) => shape[d] as number));
      const correction = rng.pick([1, 1, 0, 0.5, 2]);
      // where rows are too short, there is no derivative
      if (isExtreme && product(shape) === 0) shape = shape.map((n) => Math.max(n, 1));
      if (isSpread && product(shape) > 0 && reduced() <= correction + 1) {
        shape = shape.map((n, d) => (d === dims[0] ? n + 4 : n));
      }
      const { rowOf, count } = rowsOf(shape, dims);
      const keepDim = rng.next() < 0.5;
      const scale = kind === 'logSumExp' ? 3 : 1;
      const shift = isSpread ? rng.pick([0, 3]) : 0;
      const options = { keepDim, ...(isSpread && { correction }) };
      const input: Input = isExtreme ? distinct(rng, shape) : drawn(rng, shape, () => scale * rng.normal() + shift);
      return {
        operation: `${name} over ${JSON.stringify(dim)} ${JSON.stringify(options)}`,
        inputs: [input],
        ours: (_, x) => x[kind](dim, options),
        oracle: (x) => {
          const rows = Array.from({ length: count }, (): number[] => []);
          for (const [i, row] of rowOf.entries()) rows[row]?.push(x[i] as number);
          // of no elements at all there is nothing that could be differentiated
          return Float64Array.from(rows, (row) => (x.length === 0 ? 0 : f(row, correction)));
        },
        views: 'distinct',
      };
    });
  });
}

test('an expanded view: an element that is shown several times adds up', async () => {
  const sums = (x: Tensor) => x.unsqueeze(1).expand(3, 4).norm(1);
  close(await gradientAt([1, -2, 3], sums), [2, -2, 2]);
  close(await gradientAt([1, -2, 3], (x) => x.expand(2, 3).sum()), [2, 2, 2]);
  close(await gradientAt([1, 3, 2], (x) => x.expand(2, 3).max()), [0, 1, 0]);
  close(await gradientAt([1, 3, 2], (x) => x.expand(2, 3).cumsum(0)), [3, 3, 3]);
});

test('of equal extremes along one dimension the first has the gradient; over several or all they share it', async () => {
  const x = [1, 3, 3, 2, 3, 1];
  const rows = (body: (t: Tensor) => Tensor) => gradientAt(x, (t) => body(t.reshape(2, 3)));
  close(await rows((t) => t.max(1)), [0, 1, 0, 0, 1, 0]);
  close(await rows((t) => t.max(-1, { keepDim: true })), [0, 1, 0, 0, 1, 0]);
  close(await rows((t) => t.max([1])), [0, 0.5, 0.5, 0, 1, 0]);
  close(await rows((t) => t.max([0, 1])), [0, 1 / 3, 1 / 3, 0, 1 / 3, 0], { rtol: 1e-7 });
  close(await rows((t) => t.max()), [0, 1 / 3, 1 / 3, 0, 1 / 3, 0], { rtol: 1e-7 });
  close(await rows((t) => t.min(1)), [1, 0, 0, 0, 0, 1]);
  close(await rows((t) => t.min(0)), [1, 1, 0, 0, 0, 1]);
  close(await rows((t) => t.min()), [0.5, 0, 0, 0, 0, 0.5]);
  close(await gradientAt([2, 2, 2, 2], (t) => t.min(0)), [1, 0, 0, 0]);
  close(await gradientAt([1, NaN, NaN], (t) => t.max(0)), [0, 1, 0]);
  close(await gradientAt([1, NaN, NaN], (t) => t.max([0])), [NaN, NaN, NaN]);
  // 16-bit values that are equal once they are rounded
  close(await gradientAt([1, 1.0001, 0], (t) => t.max(), undefined, 'bfloat16'), [0.5, 0.5, 0]);
});

test('results that are 0, and rows that are too short', async () => {
  close(await gradientAt([0, 0], (x) => x.norm()), [0, 0]);
  close(await gradientAt([0, 0, 3, 4], (x) => x.reshape(2, 2).norm(1)), [0, 0, 0.6, 0.8], { rtol: 1e-6 });
  close(await gradientAt([2, 2, 2], (x) => x.std()), [0, 0, 0]);
  close(await gradientAt([2], (x) => x.std(0, { correction: 0 })), [0]);
  close(await gradientAt([2], (x) => x.std()), [NaN]);
  close(await gradientAt([2], (x) => x.var()), [NaN]);
  for (const correction of [3, 5]) {
    close(await gradientAt([2, 3, 4], (x) => x.var(0, { correction })), [-Infinity, NaN, Infinity]);
  }
  close(await gradientAt([-Infinity, 1], (x) => x.logSumExp()), [0, 1]);
  close(await gradientAt([-Infinity, -Infinity], (x) => x.logSumExp()), [NaN, NaN]);
});

test('far from 0, logSumExp loses nothing, and var and std what float32 loses of the mean', async () => {
  const x = [1000, 1001, 999.5];
  const powers = x.map((v) => Math.exp(v - 1000));
  close(
    await gradientAt(x, (t) => t.logSumExp()),
    powers.map((p) => p / total(powers)),
    { rtol: 1e-6 },
  );
  const distances = x.map((v) => v - total(x) / 3);
  close(await gradientAt(x, (t) => t.var()), distances, { rtol: 2e-4 });
  const std = Math.sqrt(variance(x, 1));
  close(
    await gradientAt(x, (t) => t.std()),
    distances.map((d) => d / std / 2),
    { rtol: 2e-4 },
  );
});

test('any, all, argmax and argmin have no gradients, and backward() says so', async () => {
  for (const name of ['any', 'all', 'argmax', 'argmin'] as const) {
    for (const dim of [0, undefined]) {
      using x = onCpu([[1, -2, 0]]).requireGrad();
      const why = new RegExp(`^backward: the tensor depends on nothing .* by way of ${name}, which cannot be`);
      await rejects(x[name](dim, { keepDim: true }).to('float32').sum().backward(), Error, why);
    }
  }
});

test('cumsum', async () => {
  await gradients(250, (rng): Check => {
    const shape = smallShape(rng, 1);
    const d = rng.integer(0, shape.length);
    const { rowOf, count } = rowsOf(shape, [d]);
    return {
      operation: `cumsum over ${d}`,
      inputs: [drawn(rng, shape)],
      ours: (_, x) => x.cumsum(rng.pick([d, d - shape.length])),
      oracle: (x) => {
        const sums = new Float64Array(count);
        return x.map((v, i) => {
          const row = rowOf[i] as number;
          sums[row] = (sums[row] as number) + v;
          return sums[row] as number;
        });
      },
      views: 'any',
    };
  });
});

test('cumsum: what comes late in a long row has a gradient without the error of what comes early', async () => {
  const n = 3000;
  const weights = Array.from({ length: n }, (_, i) => (i < n - 1 ? 1e4 : 1));
  const x = new Array<number>(n).fill(1);
  const gradient = await gradientAt(x, (t) => t.cumsum(0), weights);
  close(gradient.slice(-2), [1e4 + 1, 1]);
});

test.run();
