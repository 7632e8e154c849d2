// Gradients of softmax, its logarithm and its numerator, and of losses, against central differences.
import * as assert from 'uvu/assert';
import { type CrossEntropyOptions, crossEntropy } from '../../../../src/engine/ops/cross_entropy.js';
import { logSoftmax, softmax, softmaxNumerator } from '../../../../src/engine/ops/softmax.js';
import { Tensor } from '../../../../src/engine/ops/tensor.js';
import { close } from '../../../support/close.js';
import { rejects, suite } from '../../../support/harness.js';
import { eachRow, product } from '../../../support/operations/cases.js';
import { random } from '../../../support/random.js';
import { type Check, distinct, drawn, gradientAt, gradients, onCpu, smallShape } from './differences.js';

const test = suite('gradients of softmax and of losses');

const softmaxed = (row: readonly number[]): number[] => {
  const max = Math.max(...row);
  const powers = row.map((v) => Math.exp(v - max));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((p) => p / sum);
};

const kinds = {
  softmax: { ours: softmax, row: softmaxed },
  logSoftmax: { ours: logSoftmax, row: (row: readonly number[]) => softmaxed(row).map(Math.log) },
};

for (const [name, { ours, row }] of Object.entries(kinds)) {
  test(name, async () => {
    await gradients(250, (rng): Check => {
      const shape = smallShape(rng, 1);
      const d = rng.integer(0, shape.length);
      const scale = rng.pick([1, 4]);
      return {
        operation: `${name} over ${d}`,
        inputs: [drawn(rng, shape, () => scale * rng.normal())],
        ours: (_, x) => ours(x, rng.pick([d, d - shape.length])),
        oracle: (x) => alongDim(x, shape, d, row),
        views: 'distinct',
      };
    });
  });
}

/** f of each row along dimension d. */
function alongDim(x: Float64Array, shape: readonly number[], d: number, f: (row: number[]) => number[]): Float64Array {
  const n = shape[d] as number;
  const inner = product(shape.slice(d + 1));
  const out = new Float64Array(x.length);
  if (n === 0) return out;
  for (let row = 0; row < x.length / n; row++) {
    const base = Math.floor(row / inner) * n * inner + (row % inner);
    const values = Array.from({ length: n }, (_, i) => x[base + i * inner] as number);
    for (const [i, value] of f(values).entries()) out[base + i * inner] = value;
  }
  return out;
}

test('softmaxNumerator: the maximum is a constant', async () => {
  await gradients(250, (rng): Check => {
    const shape = smallShape(rng, 1);
    const d = rng.integer(0, shape.length);
    return {
      operation: `softmaxNumerator over ${d}`,
      inputs: [distinct(rng, shape)],
      ours: (_, x) => softmaxNumerator(x, rng.pick([d, d - shape.length])),
      oracle: (x) =>
        alongDim(x, shape, d, (row) => {
          // as it is before the small steps of the differences
          const max = Math.round(Math.max(...row) * 32) / 32;
          return row.map((v) => Math.exp(v - max));
        }),
      views: 'distinct',
    };
  });
});

test('softmax of its numerator over its sum is softmax', async () => {
  await gradients(200, (rng): Check => {
    const shape = smallShape(rng, 1);
    return {
      operation: 'softmaxNumerator over its sum',
      // a numerator of 16 bits is rounded before it is divided
      inputs: [{ ...drawn(rng, shape), dtype: 'float32' }],
      ours: (own, x) => {
        const numerator = own(softmaxNumerator(x));
        return numerator.div(own(numerator.sum(-1, { keepDim: true })));
      },
      oracle: (x) => alongDim(x, shape, shape.length - 1, softmaxed),
      views: 'distinct',
    };
  });
});

test('what is masked by -Infinity has the gradient 0', async () => {
  const x = [-Infinity, 1, 2];
  const p = softmaxed(x);
  const mean = p.reduce((sum, v, i) => sum + v * (i + 1), 0);
  close(
    await gradientAt(x, softmax, [1, 2, 3]),
    p.map((v, i) => v * (i + 1 - mean)),
    { rtol: 1e-5, atol: 0 },
  );
  close(
    await gradientAt(x, (t) => logSoftmax(t).slice(0, 1)),
    p.map((v, i) => (i > 0 ? 1 : 0) - 2 * v),
    { rtol: 1e-5 },
  );
  close(await gradientAt(x, softmaxNumerator), [0, Math.exp(-1), 1], { rtol: 1e-6 });
});

test('a row has the same gradient, bit for bit, whatever rows are beside it', async () => {
  const rows = [7, 33];
  const values = [...random(1).floats(product(rows))];
  const weights = [...random(2).floats(product(rows))];
  const targets = [3, 32, 0, 1, 5, 8, 31];
  const losses = (from: number, to: number) => (x: Tensor) =>
    crossEntropy(x.reshape(to - from, 33), targets.slice(from, to), { reduction: 'sum' });
  for (const f of [softmax, logSoftmax, softmaxNumerator] as const) {
    const shaped = (n: number) => (x: Tensor) => f(x.reshape(n, 33)).reshape(-1);
    const all = await gradientAt(values, shaped(7), weights);
    const alone = await gradientAt(values.slice(66, 99), shaped(1), weights.slice(66, 99));
    assert.equal(alone, all.slice(66, 99));
  }
  const all = await gradientAt(values, losses(0, 7));
  assert.equal(await gradientAt(values.slice(66, 99), losses(2, 3)), all.slice(66, 99));
});

test('crossEntropy, with and without padding', async () => {
  await gradients(300, (rng): Check => {
    const shape = smallShape(rng, 1);
    const n = Math.max(1, shape.at(-1) as number);
    shape[shape.length - 1] = n;
    const lead = shape.slice(0, -1);
    const count = product(lead);
    const isPadded = rng.next() < 0.5;
    const pad = Array.from({ length: count }, () => isPadded && rng.next() < 0.3);
    const reduction = rng.pick(['mean', 'sum', 'none', undefined] as const);
    const counted = pad.filter((flag) => !flag).length;
    // the mean of nothing is NaN
    const isMean = reduction !== 'sum' && reduction !== 'none';
    const used = isMean && counted === 0 ? 'sum' : reduction;
    // a target of padding may be any number
    const targets = pad.map((flag) => (flag ? rng.pick([-100, 0, n]) : rng.integer(0, n)));
    const isTensor = rng.next() < 0.5;
    const nested = (list: readonly (number | boolean)[]): unknown =>
      lead.reduceRight<unknown[]>(
        (rows, size, d) =>
          d === 0
            ? rows
            : Array.from({ length: product(lead.slice(0, d)) }, (_, i) => rows.slice(i * size, (i + 1) * size)),
        [...list],
      );
    const shaped = (list: readonly (number | boolean)[]) => (lead.length === 0 ? list[0] : nested(list));
    return {
      operation: `crossEntropy, ${used}${isPadded ? ' with padding' : ''}`,
      inputs: [drawn(rng, shape, () => 2 * rng.normal())],
      ours: (own, x) => {
        const { device } = x;
        const options = {
          ...(used && { reduction: used }),
          ...(isPadded && {
            pad: isTensor
              ? own(Tensor.from(Uint8Array.from(pad, Number), { shape: lead, dtype: 'bool', device }))
              : shaped(pad),
          }),
        } as CrossEntropyOptions;
        return isTensor
          ? x.crossEntropy(own(Tensor.from(Int32Array.from(targets), { shape: lead, device })), options)
          : x.crossEntropy(shaped(targets) as number[], options);
      },
      oracle: (x) => {
        const losses = new Float64Array(count);
        eachRow(shape, (row, offset) => {
          if (pad[row]) return;
          losses[row] = -Math.log(softmaxed([...x.slice(offset, offset + n)])[targets[row] as number] as number);
        });
        if (used === 'none') return losses;
        const sum = losses.reduce((a, b) => a + b, 0);
        return Float64Array.of(used === 'sum' ? sum : sum / counted);
      },
      views: 'distinct',
    };
  });
});

test('padding has the gradient 0 whatever its logits are', async () => {
  const loss = (x: Tensor) => crossEntropy(x.reshape(2, 2), [0, 99], { pad: [false, true] });
  close(await gradientAt([0, 0, NaN, Infinity], loss), [-0.5, 0.5, 0, 0]);
});

test('targets that argmax chose of the logits are constants', async () => {
  close(await gradientAt([0, 0], (x) => crossEntropy(x, x.argmax(-1))), [-0.5, 0.5]);
  using x = onCpu([[1, 2]]).requireGrad();
  const constant = onCpu([[1, 2]]);
  await rejects(crossEntropy(constant, x.argmax(-1)).backward(), Error, /by way of argmax, which cannot be/);
});

test.run();
