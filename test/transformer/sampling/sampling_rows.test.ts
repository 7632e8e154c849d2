// Each prompt of a batch draws from a stream of its own. Oracle: the same prompt alone; for seeds, the published outputs
// of splitmix64, and the statistics of independent uniform numbers.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../../src/engine/native.js';
import type { SampleOptions } from '../../../src/transformer/sample_run.js';
import { derivedSeeds, seededRandom } from '../../../src/transformer/sampling/sampling.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { rejects, suite, throws } from '../../support/harness.js';
import { random } from '../../support/random.js';

const test = suite('sampling by row');
const tiny = join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny');

test('derived seeds: the seed itself, then the numbers of splitmix64 from it on', () => {
  // the first outputs of splitmix64 with the states 0 and 1234567, as its authors' program prints them
  const known: [number, bigint[]][] = [
    [0, [0xe220a8397b1dcdafn, 0x6e789e6aa1b965f4n, 0x06c45d188009454fn]],
    [1234567, [6457827717110365317n, 3203168211198807973n, 9817491932198370423n, 4593380528125082431n]],
  ];
  for (const [seed, outputs] of known) {
    assert.equal(derivedSeeds(seed, outputs.length + 1), [seed, ...outputs.map((x) => Number(x >> 11n))]);
  }
  assert.equal(derivedSeeds(5, 0), []);
  assert.equal(derivedSeeds(2 ** 53 - 1, 1), [2 ** 53 - 1]);
  assert.equal(derivedSeeds(9, 100).slice(0, 7), derivedSeeds(9, 7), 'the number of rows has no influence');
  throws(() => derivedSeeds(-1, 2), RangeError, /derivedSeeds: seed must be an integer of 0 or more, but is -1/);
  throws(() => derivedSeeds(1, 2.5), RangeError, /derivedSeeds: count must be an integer of 0 or more, but is 2\.5/);
});

test('derived seeds are safe integers, all different, within a seed and between neighbours', () => {
  const all = new Set<number>();
  let count = 0;
  for (const [seed, rows] of [...Array.from({ length: 300 }, (_, seed) => [seed, 300]), [2 ** 40, 50_000]] as const) {
    const seeds = derivedSeeds(seed as number, rows as number);
    count += seeds.length;
    for (const derived of seeds) {
      assert.ok(Number.isSafeInteger(derived) && derived >= 0);
      all.add(derived);
    }
  }
  assert.is(all.size, count);
});

test('streams of rows are uniform, and independent of each other', () => {
  const rows = 20_000;
  for (const seed of [0, 1, 7, 2 ** 50 + 3]) {
    const drawn = derivedSeeds(seed, rows).map((derived) => {
      const next = seededRandom(derived);
      return [next(), next(), next()];
    });
    for (let i = 0; i < 3; i++) {
      const counts = new Float64Array(50);
      for (const values of drawn) {
        const bucket = Math.floor((values[i] as number) * 50);
        counts[bucket] = (counts[bucket] as number) + 1;
      }
      const chi = counts.reduce((sum, n) => sum + (n - rows / 50) ** 2 / (rows / 50), 0);
      assert.ok(chi < 49 + 5 * Math.sqrt(98), `seed ${seed}, draw ${i}: chi-square ${chi} of 49`);
      // the correlation of one row's draw with the next row's, and of a row's draw with its next
      for (const [label, of] of [
        ['rows', (row: number) => drawn[(row + 1) % rows]?.[i]],
        ['draws', (row: number) => drawn[row]?.[(i + 1) % 3]],
      ] as const) {
        const products = drawn.reduce((sum, v, row) => sum + ((v[i] as number) - 0.5) * ((of(row) as number) - 0.5), 0);
        const correlation = (12 * products) / rows;
        assert.ok(Math.abs(correlation) < 5 / Math.sqrt(rows), `seed ${seed}, ${label}: correlation ${correlation}`);
      }
    }
  }
});

/** Samples random batches, and each of their prompts alone; returns the number of rows. */
async function compare(xf: Transformer, batches: number, longest: number, numTokens: number): Promise<number> {
  const rng = random(31);
  let rows = 0;
  for (let i = 0; i < batches; i++) {
    const length = rng.integer(1, longest + 1);
    const prompts = Array.from({ length: rng.integer(1, 5) }, () =>
      Array.from({ length: i % 2 ? length : rng.integer(1, longest + 1) }, () => rng.integer(0, xf.nVocab)),
    );
    const options: SampleOptions = { numTokens };
    options.temperature = [0, 0.5, 1, 1, 2][rng.integer(0, 5)] as number;
    if (rng.integer(0, 2)) options.topP = 0.9;
    const seed = rng.integer(0, 1e9);
    const seeds = derivedSeeds(seed, prompts.length);
    const { tokens } = await xf.sample(prompts, { ...options, seed });
    if (i % 10 === 0) assert.equal((await xf.sample(prompts, { ...options, seeds })).tokens, tokens);
    for (const [row, prompt] of prompts.entries()) {
      const alone = await xf.sample([prompt], { ...options, seeds: [seeds[row] as number] });
      assert.equal(alone.tokens[0], tokens[row], `batch ${i}, row ${row}`);
    }
    if (i % 10 === 1) {
      const first = await xf.sample(prompts[0] as number[], { ...options, seed });
      assert.equal(first.tokens[0], tokens[0], 'a prompt alone with the seed is row 0');
    }
    rows += prompts.length;
  }
  return rows;
}

test(
  '500 random batches: each prompt has the tokens that it has alone',
  async () => {
    using xf = await Transformer.load(tiny);
    assert.ok((await compare(xf, 500, 20, 5)) > 1000);
  },
  { limit: 180_000 },
);

for (const [name, batches] of [
  ['demo', 20],
  ['random:tiny', 4],
] as const) {
  test(`${name}: each prompt of a batch has the tokens that it has alone`, async () => {
    using xf = await Transformer.load(name);
    await compare(xf, batches, 16, 5);
  });
}

test('texts, one seed and its neighbour, other prompts beside', async () => {
  using xf = await Transformer.load('demo');
  const sample = async (prompts: string[], options: SampleOptions) =>
    (await xf.sample(prompts, { numTokens: 8, ...options })).strings;
  const alone = await sample(['Kate found'], { seed: 7 });
  for (const beside of [['Tom'], ['Once there was a dog', 'Tom']]) {
    assert.is((await sample(['Kate found', ...beside], { seed: 7 }))[0], alone[0]);
  }
  const same = await sample(['Kate found', 'Kate found', 'Kate found'], { seed: 7 });
  assert.is(new Set(same).size, 3, 'the same prompt is continued in different ways');
  assert.equal(await sample(['Kate found', 'Kate found'], { seeds: [7, 7] }), [alone[0], alone[0]]);
  assert.not.equal(await sample(['Kate found'], { seed: 8 }), alone);
});

test('seeds that do not fit are refused', async () => {
  using xf = await Transformer.load(tiny);
  const refused = (seeds: unknown, type: typeof TypeError | typeof RangeError, pattern: RegExp, more: object = {}) =>
    rejects(xf.sample([[1], [2]], { seeds: seeds as number[], ...more }), type, pattern);
  await refused([1, 2], TypeError, /sample: seed and seeds exclude each other, but both are given/, { seed: 1 });
  await refused([1], RangeError, /sample: seeds must be as long as there are prompts, 2, but is an array of length 1/);
  await refused([1, 2, 3], RangeError, /seeds must be as long as there are prompts, 2, but is an array of length 3/);
  await refused([1, 1.5], RangeError, /sample: seeds\[1\] must be an integer of 0 or more, but is 1\.5/);
  await refused([-1, 1], RangeError, /sample: seeds\[0\] must be an integer of 0 or more, but is -1/);
  await refused([1, 2 ** 53], RangeError, /seeds\[1\] must be an integer/);
  await refused(new Array(2), RangeError, /seeds\[0\] must be an integer of 0 or more, but is undefined/);
  await refused([1, 1n], RangeError, /seeds\[1\] must be an integer of 0 or more, but is 1n/);
  await refused(7, TypeError, /sample: seeds must be an array of a seed for each prompt, but is 7/);
  await refused(null, TypeError, /sample: seeds must be an array of a seed for each prompt, but is null/);
  await rejects(xf.sample([[1]], { seed: -1 }), RangeError, /sample: seed must be an integer of 0 or more, but is -1/);
  assert.equal(await xf.sample([], { seeds: [] }), { tokens: [], strings: [] });
});

test('without a seed, tokens differ from call to call', async () => {
  using xf = await Transformer.load(tiny);
  const runs = await Promise.all([0, 1].map(() => xf.sample([1, 2], { numTokens: 20 })));
  assert.not.equal(runs[0]?.tokens, runs[1]?.tokens);
});

test.run();
