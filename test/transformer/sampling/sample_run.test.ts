// Sampling with stop tokens, callbacks and signals. Oracles: each row alone; the run without stop tokens, cut; hooks
// that forbid what minTokens forbids; softmax in doubles; and the decoder's whole strings.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../../src/engine/native.js';
import { TransformerHooks } from '../../../src/transformer/hooks.js';
import type { SampledToken, SampleOptions } from '../../../src/transformer/sample_run.js';
import { derivedSeeds, draw, nucleus, seededRandom } from '../../../src/transformer/sampling/sampling.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { emulated, testDevice } from '../../support/device.js';
import { rejects, suite } from '../../support/harness.js';
import { type Random, random } from '../../support/random.js';

const test = suite('stop tokens, callbacks and signals of sampling');
const device = testDevice();
const allocated = () => device.memory().allocated;
const { NEGATIVE_INFINITY: minusInfinity } = Number;
const tiny = join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny');
let xf: Transformer;
let nVocab = 0;
test.before(async () => {
  xf = await Transformer.load(tiny, { device });
  nVocab = xf.nVocab;
});

const numbers = (rng: Random, most: number, high: number): number[] =>
  Array.from({ length: rng.integer(1, most + 1) }, () => rng.integer(0, high));

/** Up to and with the first stop token that comes at or after `from`. */
function cut(tokens: readonly number[], stopTokens: readonly number[], from = 0): number[] {
  const at = tokens.findIndex((token, i) => i >= from && stopTokens.includes(token));
  return at < 0 ? [...tokens] : tokens.slice(0, at + 1);
}

/** Hooks that count passes, and set the logits of these tokens to `value` in the first `steps` of them. */
function forbidding(tokens: readonly number[], steps: number, value = minusInfinity) {
  const seen = { passes: 0 };
  const hooks = new TransformerHooks();
  hooks.logits.appendFwd((logits) => {
    if (seen.passes++ >= steps) return;
    for (const token of tokens) logits.slice(-1, token, token + 1).fill(value);
  });
  return { hooks, seen };
}

/** Random prompts and options of a batch. */
function batchOf(rng: Random) {
  const [most, longest, steps] = emulated() ? [2, 3, 4] : [5, 20, 13];
  const prompts = Array.from({ length: rng.integer(1, most + 1) }, () => numbers(rng, longest, nVocab));
  const options: SampleOptions & { numTokens: number; temperature: number } = {
    numTokens: rng.integer(1, steps + 1), // with the longest prompts, the whole window of 32
    temperature: [0, 0.5, 1, 1, 2][rng.integer(0, 5)] as number,
    seed: rng.integer(0, 1e9),
  };
  if (rng.integer(0, 2)) options.topP = 0.9;
  return { prompts, options, stopTokens: numbers(rng, 25, nVocab) };
}

test(
  'random batches: each row is that of the run without stop tokens, cut, and that of its prompt alone',
  async () => {
    const rng = random(41);
    const before = allocated();
    let [stopped, early] = [0, 0];
    for (let i = 0; i < (emulated() ? 2 : 200); i++) {
      const { prompts, options, stopTokens } = batchOf(rng);
      const whole = await xf.sample(prompts, options);
      const { hooks, seen } = forbidding([], 0);
      const events: SampledToken[] = [];
      const onToken = (event: SampledToken) => void events.push(event);
      const { tokens, strings } = await xf.sample(prompts, { ...options, stopTokens, hooks, onToken });
      const expected = whole.tokens.map((row) => cut(row, stopTokens));
      assert.equal(tokens, expected, `batch ${i}`);
      assert.equal(strings, xf.enc.decodeBatch(expected));
      const steps = Math.max(...expected.map(({ length }) => length));
      assert.is(seen.passes, steps, 'no pass after all rows have ended');
      const inOrder = Array.from({ length: steps }, (_, step) =>
        expected.flatMap((row, r) => (step < row.length ? [[r, step, row[step]]] : [])),
      );
      assert.equal(
        events.map(({ row, step, token }) => [row, step, token]),
        inOrder.flat(),
      );
      const seeds = derivedSeeds(options.seed as number, prompts.length);
      const { seed: _, ...others } = options;
      for (const [row, prompt] of prompts.entries()) {
        const alone = await xf.sample([prompt], { ...others, seeds: [seeds[row] as number], stopTokens });
        assert.equal(alone.tokens, [expected[row]], `batch ${i}, row ${row}`);
        if ((expected[row] as number[]).length < options.numTokens) stopped++;
      }
      if (steps < options.numTokens) early++;
    }
    assert.ok(emulated() || (stopped > 150 && early > 20), `${stopped} rows, ${early} batches`);
    assert.is(allocated(), before);
  },
  { limit: 180_000 },
);

test('random batches: minTokens forbids what a hook forbids that sets logits to -inf, in bits', async () => {
  const rng = random(43);
  let stopped = 0;
  for (let i = 0; i < (emulated() ? 1 : 100); i++) {
    const { prompts, options, stopTokens } = batchOf(rng);
    const minTokens = rng.integer(0, options.numTokens + 1);
    // with a hook at the logits, those of all positions are computed
    const watched = i % 2 ? { hooks: forbidding([], 0).hooks } : {};
    const { tokens } = await xf.sample(prompts, { ...options, ...watched, stopTokens, minTokens });
    const { hooks } = forbidding(stopTokens, minTokens);
    const whole = await xf.sample(prompts, { ...options, hooks });
    const expected = whole.tokens.map((row) => cut(row, stopTokens));
    assert.equal(tokens, expected, `batch ${i}`);
    for (const row of tokens) {
      assert.ok(row.length > minTokens || row.length === options.numTokens);
      assert.ok(row.slice(0, minTokens).every((token) => !stopTokens.includes(token)));
      if (row.length < options.numTokens) stopped++;
    }
    assert.equal(
      expected,
      whole.tokens.map((row) => cut(row, stopTokens, minTokens)),
    );
  }
  assert.ok(emulated() || stopped > 50, `${stopped} rows`);
});

test('minTokens in every dtype', async () => {
  for (const dtype of ['bfloat16', 'float16'] as const) {
    using model = await Transformer.load(tiny, { device, dtype });
    const stopTokens = Array.from({ length: 60 }, (_, i) => i);
    for (const temperature of [0, 1]) {
      const options = { seed: 4, temperature, numTokens: emulated() ? 2 : 6 };
      const { tokens } = await model.sample([[1, 2], [3]], { ...options, stopTokens, minTokens: 2 });
      const { hooks } = forbidding(stopTokens, 2);
      const whole = await model.sample([[1, 2], [3]], { ...options, hooks });
      assert.equal(
        tokens,
        whole.tokens.map((row) => cut(row, stopTokens)),
      );
    }
  }
});

test('minTokens: the distribution without the stop tokens, scaled to 1; the likeliest of the others at 0', async () => {
  const rng = random(47);
  for (let i = 0; i < (emulated() ? 2 : 30); i++) {
    const prompt = numbers(rng, 10, nVocab);
    const { logits, kvCaches } = await xf.forward([prompt]);
    const values = [...(await logits.select(1, -1).read())];
    logits.dispose();
    kvCaches.dispose();
    const likeliest = [...values.keys()].sort((a, b) => (values[b] as number) - (values[a] as number));
    const stopTokens = likeliest.slice(0, rng.integer(1, 90));
    const options = { numTokens: 1, minTokens: 1, stopTokens };
    const sample = async (more: object) => (await xf.sample(prompt, { ...options, ...more })).tokens[0]?.[0];
    assert.is(await sample({ temperature: 0 }), likeliest[stopTokens.length]);
    assert.is(await sample({ topP: 0, seed: 1 }), likeliest[stopTokens.length]);
    const weights = values.map((x, token) => (stopTokens.includes(token) ? 0 : Math.exp(x)));
    const sum = weights.reduce((a, b) => a + b);
    const probs = weights.map((w) => w / sum);
    for (let seed = 0; seed < (emulated() ? 2 : 20); seed++) {
      assert.is(await sample({ seed }), draw(probs, seededRandom(seed)), `batch ${i}, seed ${seed}`);
      assert.is(await sample({ seed, topP: 0.7 }), draw(nucleus(probs, 0.7), seededRandom(seed)));
    }
  }
});

test('stop tokens that are all, none, the same twice; numTokens and minTokens at their limits', async () => {
  const prompts = [[1, 2, 3], [4]];
  const all = Array.from({ length: nVocab }, (_, token) => token);
  const whole = await xf.sample(prompts, { seed: 2 });
  assert.equal((await xf.sample(prompts, { seed: 2, stopTokens: [] })).tokens, whole.tokens);
  assert.equal((await xf.sample(prompts, { seed: 2, stopTokens: [], minTokens: 5 })).tokens, whole.tokens);
  assert.equal((await xf.sample(prompts, { seed: 2, minTokens: 5 })).tokens, whole.tokens, 'without stop tokens');
  const stop = whole.tokens[0]?.[1] as number;
  const once = await xf.sample(prompts, { seed: 2, stopTokens: [stop] });
  assert.equal((await xf.sample(prompts, { seed: 2, stopTokens: [stop, stop, stop] })).tokens, once.tokens);
  assert.equal(
    (await xf.sample(prompts, { seed: 2, stopTokens: all })).tokens,
    whole.tokens.map((row) => row.slice(0, 1)),
  );
  const { tokens } = await xf.sample(prompts, { seed: 2, stopTokens: all.slice(1), minTokens: 3, temperature: 1e9 });
  assert.equal(
    tokens.map((row) => row.slice(0, 3)),
    [
      [0, 0, 0],
      [0, 0, 0],
    ],
    'the only token that is left',
  );
  assert.ok(tokens.every((row) => row.length === 4 && row[3] !== 0));
  const none = { numTokens: 0, minTokens: 0, stopTokens: [1], onToken: () => assert.unreachable() };
  assert.equal(await xf.sample(prompts, none), { tokens: [[], []], strings: ['', ''] });
  assert.equal(await xf.sample([], { stopTokens: [1], minTokens: 2 }), { tokens: [], strings: [] });
});

test('a row that has ended goes on as padding: its position stays', async () => {
  const prompts = [[1, 2, 3], [4]];
  const options = { seed: 1, numTokens: 5 };
  const whole = await xf.sample(prompts, options);
  const stop = whole.tokens[1]?.[0] as number;
  assert.not.ok(whole.tokens[0]?.includes(stop), 'row 0 goes on');
  const embedded: number[][][] = [[], []];
  const hooks = new TransformerHooks();
  hooks.resid.postEmb.appendFwd(async (x) => {
    const last = [...(await x.select(1, -1).read())];
    for (const [row, of] of embedded.entries())
      of.push(last.slice(row * xf.config.dModel, (row + 1) * xf.config.dModel));
  });
  await xf.sample(prompts, { ...options, stopTokens: [stop], hooks });
  const [first, second] = embedded as [number[][], number[][]];
  assert.equal([first.length, second.length], [5, 5]);
  assert.equal(second.slice(2), [second[1], second[1], second[1]], 'the sum of one token and one position');
  for (let i = 1; i < 5; i++) assert.not.equal(first[i], first[i - 1]);
});

test('options that do not fit are refused before anything runs', async () => {
  const before = allocated();
  const { hooks, seen } = forbidding([], 0);
  const last = nVocab - 1;
  const all = Array.from({ length: nVocab }, (_, token) => token);
  const cases: [object, typeof TypeError | typeof RangeError, string][] = [
    [{ stopTokens: 5 }, TypeError, 'stopTokens must be an array of tokens, but is 5'],
    [{ stopTokens: null }, TypeError, 'stopTokens must be an array of tokens, but is null'],
    [{ stopTokens: '.' }, TypeError, "stopTokens must be an array of tokens, but is '.'"],
    [{ stopTokens: new Set([1]) }, TypeError, 'stopTokens must be an array of tokens, but is a Set'],
    [{ stopTokens: [0, nVocab] }, RangeError, `stopTokens[1] must be a token from 0 to ${last}, but is ${nVocab}`],
    [{ stopTokens: [-1] }, RangeError, `stopTokens[0] must be a token from 0 to ${last}, but is -1`],
    [{ stopTokens: [1, 2, 0.5] }, RangeError, `stopTokens[2] must be a token from 0 to ${last}, but is 0.5`],
    [{ stopTokens: ['.'] }, RangeError, `stopTokens[0] must be a token from 0 to ${last}, but is '.'`],
    [{ stopTokens: [1n] }, RangeError, `stopTokens[0] must be a token from 0 to ${last}, but is 1n`],
    [{ stopTokens: new Array(2) }, RangeError, `stopTokens[0] must be a token from 0 to ${last}, but is undefined`],
    [{ minTokens: 6 }, RangeError, 'minTokens must be an integer from 0 to 5, but is 6'],
    [{ minTokens: 3, numTokens: 2 }, RangeError, 'minTokens must be an integer from 0 to 2, but is 3'],
    [{ minTokens: -1 }, RangeError, 'minTokens must be an integer from 0 to 5, but is -1'],
    [{ minTokens: 1.5 }, RangeError, 'minTokens must be an integer from 0 to 5, but is 1.5'],
    [{ minTokens: null }, RangeError, 'minTokens must be an integer from 0 to 5, but is null'],
    [
      { minTokens: 1, stopTokens: [...all, 3] },
      RangeError,
      `stopTokens must leave tokens to choose from while minTokens (1) forbids them, but are all ${nVocab} of the vocabulary`,
    ],
    [{ onToken: 'x' }, TypeError, "onToken must be a function, but is 'x'"],
    [{ onToken: null }, TypeError, 'onToken must be a function, but is null'],
    [{ signal: {} }, TypeError, 'signal must be an AbortSignal, but is a Object'],
    [{ signal: new AbortController() }, TypeError, 'signal must be an AbortSignal, but is a AbortController'],
    [{ stopToken: [1] }, TypeError, "'stopToken' is no option; the nearest one is 'stopTokens'"],
    [{ on_token: () => {} }, TypeError, "'on_token' is no option; the nearest one is 'onToken'"],
  ];
  for (const [options, type, message] of cases) {
    const error = await rejects(xf.sample([[1], [2]], { hooks, ...options }), type, /^/);
    assert.is(error.message, `sample: ${message}`);
  }
  assert.is(seen.passes, 0);
  assert.is(allocated(), before);
});

test('logits that are not finite: errors at rows that go on, whatever is forbidden, and none at rows that have ended', async () => {
  const before = allocated();
  let rowsNamed = 0;
  for (const temperature of emulated() ? [1] : [0, 1]) {
    const options = { seed: 3, temperature, numTokens: 6 };
    const stopTokens = [5, 6];
    for (const [value, held] of [
      [Number.NaN, 'a NaN'],
      [Number.POSITIVE_INFINITY, 'a +inf'],
    ] as const) {
      const { hooks } = forbidding([6], 9, value);
      const error = await rejects(
        xf.sample([[1], [2]], { ...options, hooks, stopTokens, minTokens: 2 }),
        RangeError,
        /^/,
      );
      assert.ok(error.message.endsWith(`row 0, step 0, they hold ${held}, at token 6`), error.message);
    }
    const others = Array.from({ length: nVocab }, (_, token) => token).filter((token) => !stopTokens.includes(token));
    await rejects(
      xf.sample([[1], [2]], { ...options, hooks: forbidding(others, 9).hooks, stopTokens, minTokens: 2 }),
      RangeError,
      /at row 0, step 0, they hold nothing but -inf beside the stop tokens, which minTokens forbids$/,
    );
    // row 0 of three ends at once, and from then on its logits are NaN
    const prompts = [[1], [2], [3, 4]];
    const whole = await xf.sample(prompts, options);
    const first = whole.tokens[0]?.[0] as number;
    let pass = 0;
    const hooks = new TransformerHooks();
    hooks.logits.appendFwd((logits) => {
      if (pass++ > 0) logits.select(0, 0).fill(Number.NaN);
    });
    const { tokens } = await xf.sample(prompts, { ...options, stopTokens: [first], hooks });
    assert.equal(
      tokens,
      whole.tokens.map((row) => cut(row, [first])),
    );
    const other = [1, 2].find((row) => !whole.tokens[row]?.slice(0, 2).includes(first));
    if (other === undefined) continue; // all rows have ended
    rowsNamed++;
    let late = 0;
    const failing = new TransformerHooks();
    failing.logits.appendFwd((logits) => {
      if (late++ === 2) logits.select(0, other).fill(Number.NaN);
    });
    await rejects(
      xf.sample(prompts, { ...options, stopTokens: [first], hooks: failing }),
      RangeError,
      new RegExp(`at row ${other}, step 2, they hold a NaN`),
    );
  }
  assert.ok(rowsNamed > 0);
  assert.is(allocated(), before);
});

/** The texts of each row, and of all its tokens at once. */
async function textsOf(model: Transformer, prompts: number[][], options: SampleOptions) {
  const texts = prompts.map(() => [] as string[]);
  const onToken = ({ row, text }: SampledToken) => void texts[row]?.push(text);
  const { tokens, strings } = await model.sample(prompts, { ...options, onToken });
  assert.equal(
    texts.map((row) => row.join('')),
    strings,
  );
  assert.equal(strings, model.enc.decodeBatch(tokens));
  return { texts, tokens, strings };
}

// the texts do not depend on the device, and a vocabulary of this size is slow where a GPU is emulated
if (!emulated()) {
  test('texts of rows of bytes, of which many are parts of characters', async () => {
    using model = await Transformer.load('random:tiny', { device });
    const hooks = new TransformerHooks();
    hooks.logits.appendFwd((logits) => void logits.slice(-1, 256).fill(minusInfinity)); // GPT-2's other tokens
    const prompts = [[1], [2, 3], [4]];
    const isCut = (tokens: number[]) => model.enc.decode(tokens).endsWith('\ufffd');
    let [waiting, stopped] = [0, 0];
    for (let seed = 0; seed < 8; seed++) {
      const options = { seed, numTokens: 20, temperature: 2, hooks };
      const { texts, tokens } = await textsOf(model, prompts, options);
      waiting += texts.flat().filter((text) => text === '').length;
      // row 0 stops within a character, while the others go on
      const row = tokens[0] as number[];
      const stop = row.find((token, i) => row.indexOf(token) === i && isCut(row.slice(0, i + 1)));
      if (stop === undefined) continue;
      const early = await textsOf(model, prompts, { ...options, stopTokens: [stop] });
      assert.equal(early.tokens[0], cut(row, [stop]));
      assert.ok(early.texts[0]?.at(-1)?.endsWith('\ufffd'));
      stopped++;
    }
    assert.ok(waiting > 20 && stopped > 4, `${waiting} tokens wait, ${stopped} rows stop within a character`);
  });
}

test('onToken is waited for: the next pass and the next call come afterwards', async () => {
  const log: string[] = [];
  const hooks = new TransformerHooks();
  hooks.logits.appendFwd(() => void log.push('pass'));
  await xf.sample([[1], [2]], {
    numTokens: 3,
    hooks,
    async onToken({ row, step }) {
      log.push(`${row} begins`);
      for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
      log.push(`${row} ends at ${step}`);
    },
  });
  const step = (i: number) => ['pass', '0 begins', `0 ends at ${i}`, '1 begins', `1 ends at ${i}`];
  assert.equal(log, [...step(0), ...step(1), ...step(2)]);
});

test('an error of onToken ends the sampling, and is what sample() rejects with', async () => {
  const before = allocated();
  for (const thrown of emulated() ? [undefined] : [new TypeError('enough'), 'no error', undefined]) {
    for (const [at, row] of [
      [0, 0],
      [2, 1],
      [4, 1],
    ] as const) {
      for (const asynchronous of emulated() ? [true] : [true, false]) {
        let calls = 0;
        const { hooks, seen } = forbidding([], 0);
        const onToken = (token: SampledToken): void | Promise<void> => {
          calls++;
          if (token.step !== at || token.row !== row) return;
          if (asynchronous) return Promise.reject(thrown);
          throw thrown;
        };
        const outcome = await xf.sample([[1], [2]], { hooks, onToken }).then(
          () => ['resolved'],
          (reason: unknown) => ['rejected', reason],
        );
        assert.is(outcome[0], 'rejected');
        assert.is(outcome[1], thrown);
        assert.equal([calls, seen.passes], [2 * at + row + 1, at + 1]);
        assert.is(allocated(), before);
      }
    }
  }
});

test('a signal: aborted before, between passes, during one, and after the last', async () => {
  const before = allocated();
  const run = async (options: SampleOptions, signal: AbortSignal) => {
    const { hooks, seen } = forbidding([], 0);
    const outcome = await xf.sample([[1], [2, 3]], { seed: 1, hooks, ...options, signal }).then(
      (samples) => samples,
      (reason: unknown) => ({ reason }),
    );
    assert.is(allocated(), before);
    return { ...outcome, passes: seen.passes };
  };
  const reason = new Error('a reason of my own');
  assert.equal(await run({}, AbortSignal.abort(reason)), { reason, passes: 0 });
  assert.equal(await run({ numTokens: 0 }, AbortSignal.abort(reason)), { reason, passes: 0 });
  await rejects(xf.sample([[1]], { signal: AbortSignal.abort() }), Error, /aborted/);
  await rejects(xf.sample([[]], { signal: AbortSignal.abort() }), RangeError, /at least one token/);
  for (const at of emulated() ? [1] : [0, 1, 3]) {
    const controller = new AbortController();
    let calls = 0;
    const onToken = ({ step }: SampledToken) => {
      calls++;
      if (step === at) controller.abort(reason);
    };
    const ended = await run({ onToken }, controller.signal);
    assert.equal(ended, { reason, passes: at + 1 }, 'the callbacks of the step are called, and no pass follows');
    assert.is(calls, 2 * (at + 1));
  }
  const during = new AbortController();
  const hooks = new TransformerHooks();
  let passes = 0;
  hooks.resid.postEmb.appendFwd(() => {
    if (++passes === 2) during.abort(reason);
  });
  assert.is(await xf.sample([[1]], { hooks, signal: during.signal }).catch((thrown: unknown) => thrown), reason);
  assert.is(passes, 2);
  const expected = await xf.sample([[1], [2, 3]], { seed: 1 });
  for (const options of [{}, { stopTokens: [expected.tokens[0]?.[2] as number, expected.tokens[1]?.[3] as number] }]) {
    const whole = await xf.sample([[1], [2, 3]], { seed: 1, ...options });
    const steps = Math.max(...whole.tokens.map(({ length }) => length));
    const late = new AbortController();
    const onToken = ({ step }: SampledToken) => step === steps - 1 && late.abort(reason);
    const done = await run({ ...options, onToken: (token) => void onToken(token) }, late.signal);
    assert.equal(done, { ...whole, passes: steps }, 'nothing is left to do');
  }
  assert.equal(await run({}, new AbortController().signal), { ...expected, passes: 5 });
});

test.run();
