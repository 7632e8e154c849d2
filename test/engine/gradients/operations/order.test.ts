// Gradients of sorted values, of the largest of a row and of triangles, against central differences, and where values
// are equal against what PyTorch gives.

import type { Tensor } from '../../../../src/engine/ops/tensor.js';
import { topKMask } from '../../../../src/engine/ops/top_k.js';
import { close } from '../../../support/close.js';
import { rejects, suite } from '../../../support/harness.js';
import { product } from '../../../support/operations/cases.js';
import { type Check, distinct, drawn, gradientAt, gradients, onCpu, smallShape } from './differences.js';

const test = suite('gradients of order');

/** f of each row along dimension d, which gives `k` values. */
function alongDim(
  x: Float64Array,
  shape: readonly number[],
  d: number,
  k: number,
  f: (row: number[]) => number[],
): Float64Array {
  const n = shape[d] as number;
  const inner = product(shape.slice(d + 1));
  const rows = product(shape.toSpliced(d, 1));
  const out = new Float64Array(rows * k);
  for (let row = 0; row < rows; row++) {
    const [outer, at] = [Math.floor(row / inner), row % inner];
    const values = f(Array.from({ length: n }, (_, i) => x[(outer * n + i) * inner + at] as number));
    for (const [i, value] of values.entries()) out[(outer * k + i) * inner + at] = value;
  }
  return out;
}

test('sort', async () => {
  await gradients(250, (rng): Check => {
    const shape = smallShape(rng, 1);
    const d = rng.integer(0, shape.length);
    const descending = rng.next() < 0.5;
    return {
      operation: `sort over ${d}${descending ? ', descending' : ''}`,
      inputs: [distinct(rng, shape)],
      ours: (own, x) => {
        const { values, indices } = x.sort(rng.pick([d, d - shape.length]), { descending });
        own(indices);
        return values;
      },
      oracle: (x) =>
        alongDim(x, shape, d, shape[d] as number, (row) => row.sort((a, b) => (descending ? b - a : a - b))),
      views: 'distinct',
    };
  });
});

test('topk', async () => {
  await gradients(250, (rng): Check => {
    const shape = smallShape(rng, 1);
    const n = shape.at(-1) as number;
    const k = rng.integer(0, n + 1);
    return {
      operation: `topk ${k}`,
      inputs: [distinct(rng, shape)],
      ours: (own, x) => {
        const { values, indices } = x.topk(k);
        own(indices);
        return values;
      },
      oracle: (x) => alongDim(x, shape, shape.length - 1, k, (row) => row.sort((a, b) => b - a).slice(0, k)),
      views: 'distinct',
    };
  });
});

test('topKMask, with relu and without', async () => {
  await gradients(250, (rng): Check => {
    const shape = smallShape(rng, 1);
    const n = shape.at(-1) as number;
    const k = rng.integer(0, n + 1);
    const relu = rng.next() < 0.5;
    return {
      operation: `topKMask ${k}${relu ? ' with relu' : ''}`,
      // no value is 0, where relu has a kink
      inputs: [distinct(rng, shape, 1 / 64)],
      ours: (_, x) => (relu && rng.next() < 0.5 ? topKMask(x, k) : topKMask(x, k, { relu })),
      oracle: (x) =>
        alongDim(x, shape, shape.length - 1, n, (row) => {
          const least = row.toSorted((a, b) => b - a)[k - 1] ?? Infinity;
          return row.map((v) => (v >= least && (!relu || v > 0) ? v : 0));
        }),
      views: 'distinct',
    };
  });
});

test('tril and triu, in place as well', async () => {
  await gradients(440, (rng): Check => {
    const shape = smallShape(rng, 2);
    const [m, n] = shape.slice(-2) as [number, number];
    const name = rng.pick(['tril', 'triu'] as const);
    const diagonal = rng.integer(-m - 1, n + 2);
    const inPlace = rng.next() < 0.5;
    return {
      operation: `${name}${inPlace ? '_' : ''} ${diagonal}`,
      inputs: [drawn(rng, shape)],
      ours: (_, x) => (inPlace ? x.clone()[`${name}_`](diagonal) : x[name](diagonal)),
      oracle: (x) =>
        x.map((v, i) => {
          const at = (i % n) - (Math.floor(i / n) % m);
          return (name === 'tril' ? at <= diagonal : at >= diagonal) ? v : 0;
        }),
      views: 'any',
    };
  });
});

test('of equal values the order is that of their indices, and each gradient goes to where its value was', async () => {
  const x = [3, 1, 3, 2];
  close(await gradientAt(x, (t) => t.sort().values, [1, 10, 100, 1000]), [100, 1, 1000, 10]);
  close(await gradientAt(x, (t) => t.sort(0, { descending: true }).values, [1, 10, 100, 1000]), [1, 1000, 10, 100]);
  close(await gradientAt(x, (t) => t.topk(2).values, [1, 10]), [1, 0, 10, 0]);
  close(await gradientAt(x, (t) => t.topk(1).values, [1]), [1, 0, 0, 0]);
  close(await gradientAt(x, (t) => topKMask(t, 1), [1, 1, 1, 1]), [1, 0, 0, 0]);
  close(await gradientAt(x, (t) => topKMask(t, 3, { relu: false }), [1, 10, 100, 1000]), [1, 0, 100, 1000]);
});

test('a survivor of topKMask that is 0 has a gradient without relu alone', async () => {
  close(await gradientAt([0, -1, 2], (t) => topKMask(t, 2)), [0, 0, 1]);
  close(await gradientAt([0, -1, 2], (t) => topKMask(t, 2, { relu: false })), [1, 0, 1]);
  close(await gradientAt([-1, -2], (t) => topKMask(t, 1)), [0, 0]);
  close(await gradientAt([-1, -2], (t) => topKMask(t, 1, { relu: false })), [1, 0]);
});

test('edits of the values afterwards, and of the input, change no gradient', async () => {
  const edited = (x: Tensor): Tensor => {
    const y = x.mul(2);
    const { values, indices } = y.topk(2);
    const masked = topKMask(y, 2, { relu: false });
    indices.fill(0);
    y.fill(0);
    masked.mul_(3);
    return values.mul_(10).add_(masked.slice(0, 0, 2));
  };
  close(await gradientAt([1, 4, 2, 3], edited), [0, 26, 0, 20]);
});

test('indices have no gradients, and backward() says so', async () => {
  using x = onCpu([1, -2, 3]).requireGrad();
  await rejects(
    x.sort().indices.to('float32').sum().backward(),
    Error,
    /by way of sort, which cannot be differentiated/,
  );
  await rejects(x.topk(2).indices.to('float32').sum().backward(), Error, /by way of topk, which cannot be/);
});

test.run();
