// Choosing tokens: frequencies against probabilities, nuclei counted by hand; through the model, messages for bad
// options.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../../src/engine/native.js';
import { draw, greedy, nucleus, seededRandom } from '../../../src/transformer/sampling/sampling.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { close } from '../../support/close.js';
import { rejects, suite } from '../../support/harness.js';

const test = suite('sampling');
const probs = Float32Array.of(0.5, 0.25, 0.125, 0.125);

test('the likeliest token', () => {
  assert.is(greedy([1, 3, 3, 2]), 1, 'of equals, the first');
});

test('the nucleus: up to topP in all, the likeliest one at least', () => {
  close(nucleus(probs, 0), [1, 0, 0, 0]);
  close(nucleus(probs, 0.3), [1, 0, 0, 0], { rtol: 1e-12 });
  close(nucleus(probs, 0.76), [2 / 3, 1 / 3, 0, 0], { rtol: 1e-12 });
  close(nucleus(probs, 0.88), [4 / 7, 2 / 7, 1 / 7, 0], { rtol: 1e-12 }); // of equals, the lower index first
  close(nucleus(probs, 1), [0.5, 0.25, 0.125, 0.125], { rtol: 1e-12 });
});

test('the nucleus of many equals, and of a long tail', () => {
  const even = new Float32Array(50_000).fill(1 / 50_000);
  assert.is(nucleus(even, 0.5).filter((p) => p > 0).length, 25_000);
  const tail = Float32Array.from({ length: 30 }, (_, i) => 2 ** -(i + 1)).reverse();
  for (const [topP, kept] of [
    [0.875, 3],
    [1 - 2 ** -12, 12],
    [1, 30],
  ] as const) {
    assert.is(nucleus(tail, topP).filter((p) => p > 0).length, kept, `top ${topP}`);
  }
});

test('draws are as frequent as they are likely, and nothing impossible is drawn', () => {
  const random = seededRandom(11);
  const counts = new Float64Array(5);
  const n = 40_000;
  const likely = Float64Array.from([0.5, 0, 0.25, 0.125, 0.125]);
  for (let i = 0; i < n; i++) {
    const drawn = draw(likely, random);
    counts[drawn] = (counts[drawn] as number) + 1;
  }
  assert.is(counts[1], 0);
  close(
    counts.map((c) => c / n),
    likely,
    { atol: 0.0125 }, // five standard deviations of the largest
  );
});

test('the generator is uniform, and depends only on its seed', () => {
  const values = Array.from({ length: 20_000 }, seededRandom(3));
  assert.ok(values.every((x) => x >= 0 && x < 1));
  close([values.reduce((a, b) => a + b) / values.length], [0.5], { atol: 0.0103 });
  const [a, b] = [seededRandom(2 ** 40 + 1), seededRandom(2 ** 40 + 1)];
  assert.is(a(), b());
  assert.is.not(seededRandom(1)(), seededRandom(2 ** 32 + 1)(), 'all of the seed counts');
});

test('bad options are named; a temperature of almost 0 is 0', async () => {
  using xf = await Transformer.load(join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny'));
  await rejects(xf.sample([[1]], { topP: '0.5' as never }), TypeError, /topP must be a number, but is '0\.5'/);
  await rejects(xf.sample([[1]], { topP: Number.NaN }), RangeError, /topP must be a probability/);
  await rejects(xf.sample([[1]], { numTokens: 1.5 }), RangeError, /numTokens must be an integer of 0 or more/);
  await rejects(xf.sample([[1]], { hooks: {} as never }), TypeError, /hooks must be TransformerHooks/);
  await rejects(xf.sample(5 as never), TypeError, /prompts must be a text, texts, tokens or rows of tokens/);
  const best = await xf.sample([[1, 2]], { temperature: 0 });
  assert.equal((await xf.sample([[1, 2]], { temperature: 1e-300, seed: 1 })).tokens, best.tokens);
});

test('strings are decoded as a whole: a character of several tokens comes out as itself', async () => {
  using xf = await Transformer.load('demo');
  const flag = '🏴';
  const tokens = xf.enc.encode(flag);
  assert.ok(tokens.length > 1);
  assert.not.equal(tokens.map((token) => xf.enc.decode([token])).join(''), flag);
  const { tokens: rows, strings } = await xf.sample(['Once', 'There was'], { numTokens: 6, seed: 4 });
  assert.equal(strings, xf.enc.decodeBatch(rows));
});

test('an index of probability 0 is never drawn, at either end of the range', () => {
  assert.is(
    draw([0, 0.5, 0.5, 0], () => 0),
    1,
  );
  // rounding can leave the sum short of 1
  assert.is(
    draw([0.25, 0.5, 0.2, 0, 0], () => 1 - 2 ** -53),
    2,
  );
});

test.run();
