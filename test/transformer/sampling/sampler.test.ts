// Choosing tokens by logits on a device. Oracle: softmax in doubles; the limits of temperatures by hand; and for what
// no token can be chosen by, the words that an error must have.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../../src/engine/native.js';
import { Tensor } from '../../../src/engine/ops/tensor.js';
import { TransformerHooks } from '../../../src/transformer/hooks.js';
import { Sampler } from '../../../src/transformer/sampling/sampler.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { close } from '../../support/close.js';
import { emulated, testDevice } from '../../support/device.js';
import { rejects, suite } from '../../support/harness.js';

const test = suite('sampler');
const device = testDevice();
const allocated = () => device.memory().allocated;
const temperatures = [0, 5e-324, 1e-300, 1e-45, 1e-38, 1e-30, 1e-3, 0.7, 1, 2, 1e30, 1e38, 3.4e38, 1e300, Infinity];
const nuclei = [undefined, 0, 0.5, 1];
const { NaN: nan, POSITIVE_INFINITY: inf } = Number;

/** The next token of each row. */
async function next(rows: number[][], temperature: number, topP?: number, step = 0) {
  using logits = Tensor.from(rows, { device });
  const seeds = rows.map((_, row) => row);
  return await new Sampler(seeds, rows[0]?.length ?? 0, temperature, topP).next(logits, step);
}

const softmaxOf = (logits: number[], temperature: number): number[] => {
  const largest = Math.max(...logits);
  const weights = logits.map((x) => Math.exp((x - largest) / temperature));
  const sum = weights.reduce((a, b) => a + b);
  return weights.map((w) => w / sum);
};

test('logits that are NaN, +inf or nothing but -inf: an error with row and step, whatever the options', async () => {
  const fine = [1, 2, 3, 4, -1, 0, 5, 2, 1];
  const bad: [number[], RegExp][] = [
    [[...fine.slice(0, 8), nan], /hold a NaN, at token 8/],
    [[nan, ...fine.slice(1)], /hold a NaN, at token 0/],
    [[1, inf, -inf, nan, 0, 0, 0, 0, 0], /hold a NaN, at token 3/],
    [[1, 2, inf, 0, 0, 0, 0, 0, 0], /hold a \+inf, at token 2/],
    [[-inf, 2, inf, 0, inf, 0, 0, 0, 0], /hold a \+inf, at token 2/],
    [new Array(9).fill(inf), /hold a \+inf, at token 0/],
    [new Array(9).fill(-inf), /hold nothing but -inf/],
    [new Array(9).fill(nan), /hold a NaN, at token 0/],
  ];
  const before = allocated();
  for (const temperature of temperatures) {
    for (const topP of nuclei) {
      for (const [row, held] of bad) {
        for (const [rows, at] of [
          [[row], 0],
          [[fine, row, fine], 1],
        ] as const) {
          const error = await rejects(next([...rows], temperature, topP, 7), RangeError, held);
          const place = `sample: logits must be finite, or -inf for tokens that are forbidden, but at row ${at}, step 7, `;
          assert.ok(error.message.startsWith(place), error.message);
        }
      }
    }
  }
  assert.is(allocated(), before);
});

test('a row of which the problem lies far behind, in every dtype', async () => {
  for (const dtype of ['float32', 'bfloat16', 'float16'] as const) {
    for (const [value, held] of [
      [nan, /a NaN, at token 4998/],
      [inf, /a \+inf, at token 4998/],
    ] as const) {
      using logits = Tensor.zeros([2, 5000], { device, dtype });
      logits.select(0, 1).slice(0, 4998, 4999).fill(value);
      for (const temperature of [0, 1, 0.5]) {
        await rejects(new Sampler([1, 2], 5000, temperature).next(logits, 0), RangeError, held);
      }
    }
  }
});

test('-inf forbids a token at every temperature', async () => {
  const row = [-inf, 1, -inf, 1, -inf];
  const rows = Array.from({ length: 50 }, () => row);
  for (const temperature of temperatures) {
    for (const topP of nuclei) {
      const drawn = new Set(await next(rows, temperature, topP));
      assert.ok(
        [...drawn].every((token) => token === 1 || token === 3),
        `${temperature}, ${topP}: ${[...drawn]}`,
      );
      assert.equal(await next([[-inf, -inf, -3e38]], temperature, topP), [2], 'the only one that is left');
    }
  }
});

test('temperatures near 0 take the likeliest token, whatever the size of the logits', async () => {
  for (const size of [1e-20, 1, 100, 1e20, 3e38]) {
    for (const sign of [1, -1]) {
      const row = [0.25, 0.5, 1, 0.75].map((x) => x * size * sign);
      for (const temperature of [5e-324, 1e-300, 1e-45, 1e-38, 1e-30, size * 1e-4]) {
        for (const topP of nuclei) {
          assert.equal(await next([row, row], temperature, topP), sign > 0 ? [2, 2] : [0, 0]);
        }
      }
    }
  }
});

test('draws have the probabilities of softmax, for logits and temperatures of any size', async () => {
  const n = emulated() ? 400 : 4000;
  const cases: [number[], number][] = [
    [[1, 2, 0, -inf], 1],
    [[1, 2, 0, -inf], 0.5],
    [[1e30, 2e30, 0, -inf], 1e30],
    [[3e38, -3e38, 1e38, 0], 3e38],
    [[3e38, -3e38, 1e38, 0], 1e300],
    [[1, 2, 0, -inf], 1e38],
    [[3e38, -3e38, 0, -inf], Infinity],
    [[-3e38, -2e38, -3e38, -inf], 1e38],
    [[2e-38, 1e-38, 0, -inf], 1e-38],
  ];
  for (const [row, temperature] of cases) {
    const counts = new Float64Array(4);
    const drawn = await next(
      Array.from({ length: n }, () => row),
      temperature,
    );
    for (const token of drawn) counts[token] = (counts[token] as number) + 1 / n;
    const expected = temperature === Infinity ? [1 / 3, 1 / 3, 1 / 3, 0] : softmaxOf(row, temperature);
    close(counts, expected, { atol: 2.5 / Math.sqrt(n), label: `${row} at ${temperature}` }); // five deviations
    for (const [i, p] of expected.entries()) if (p === 0) assert.is(counts[i], 0);
  }
});

test('through the model: a float16 pass that overflows, and hooks on logits', async () => {
  const tiny = join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny');
  using half = await Transformer.load(tiny, { device, dtype: 'float16' });
  const overflowing = new TransformerHooks();
  overflowing.resid.torso.postMlp.appendFwd((x) => x.mul_(1e5));
  using xf = await Transformer.load(tiny, { device });
  const poisoned = (value: number, row: number, from: number) => {
    let step = 0;
    const hooks = new TransformerHooks();
    hooks.logits.appendFwd((x) => {
      if (step++ >= from) x.select(0, row).slice(-1, 3, 5).fill(value);
    });
    return hooks;
  };
  const prompts = [[1, 2, 3], [4], [5, 6]];
  const before = allocated();
  for (const options of [
    {},
    { temperature: 0 },
    { temperature: 0.5, topP: 0.9 },
    { topP: 0 },
    { temperature: 1e-30 },
  ]) {
    const name = JSON.stringify(options);
    for (const some of [prompts, [[7]]]) {
      await rejects(
        half.sample(some, { ...options, hooks: overflowing }),
        RangeError,
        /at row 0, step 0, they hold a (NaN|\+inf), at token/,
      );
    }
    const sample = (value: number) => xf.sample(prompts, { ...options, seed: 1, hooks: poisoned(value, 1, 2) });
    await rejects(sample(nan), RangeError, /at row 1, step 2, they hold a NaN, at token 3/);
    await rejects(sample(inf), RangeError, /at row 1, step 2, they hold a \+inf, at token 3/);
    const { tokens } = await sample(-inf);
    assert.ok(
      tokens[1]?.slice(2).every((token) => token !== 3 && token !== 4),
      name,
    );
    const all = new TransformerHooks();
    all.logits.appendFwd((x) => x.fill(-inf));
    await rejects(
      xf.sample(prompts, { ...options, hooks: all }),
      RangeError,
      /row 0, step 0, they hold nothing but -inf/,
    );
  }
  assert.is(allocated(), before, 'a sample that failed frees what it made');
});

test.run();
