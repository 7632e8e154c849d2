// Sampling that continues caches. Oracle: the whole prompts, each alone and without caches.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../../src/engine/native.js';
import { TransformerHooks } from '../../../src/transformer/hooks.js';
import type { KvCaches } from '../../../src/transformer/kv_cache.js';
import type { SampleOptions } from '../../../src/transformer/sample_run.js';
import { derivedSeeds } from '../../../src/transformer/sampling/sampling.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { close } from '../../support/close.js';
import { emulated, testDevice } from '../../support/device.js';
import { rejects, suite } from '../../support/harness.js';
import { type Random, random } from '../../support/random.js';

const test = suite('sampling with caches');
const device = testDevice();
const within = { rtol: 1e-4, atol: 2e-5 };
const isEmulated = emulated();
const model = isEmulated ? 'narrow-attn' : 'tiny'; // with fewer layers and heads
let xf: Transformer;
test.before(async () => {
  xf = await Transformer.load(join(packageRoot, 'test', 'fixtures', 'goldens', model), { device });
});
const allocated = () => device.memory().allocated;

async function cachesOf(tokens: number[][], pad?: number[][], kvCaches?: KvCaches): Promise<KvCaches> {
  const result = await xf.forward(tokens, { ...(pad ? { pad } : {}), ...(kvCaches ? { kvCaches } : {}) });
  result.logits.dispose();
  return result.kvCaches;
}

/** Caches of a few passes with padding anywhere, and the rows' own tokens. */
async function prefix(rng: Random, batch: number): Promise<{ caches: KvCaches; own: number[][] }> {
  const own: number[][] = Array.from({ length: batch }, () => []);
  let caches: KvCaches | undefined;
  for (let pass = rng.integer(1, 4); pass > 0; pass--) {
    const seq = rng.integer(1, 5);
    const pad = own.map(() => Array.from({ length: seq }, () => rng.integer(0, 2)));
    const tokens = pad.map((row) => row.map(() => rng.integer(0, xf.nVocab)));
    for (const [r, row] of pad.entries()) {
      for (const [i, ignored] of row.entries()) if (!ignored) own[r]?.push(tokens[r]?.[i] as number);
    }
    caches = await cachesOf(tokens, pad, caches);
  }
  return { caches: caches as KvCaches, own };
}

const count = isEmulated ? 4 : 200;

test(
  `${count} random prefixes: each row has the tokens of its whole prompt, and its caches go on`,
  async () => {
    const before = allocated();
    for (let seed = 0; seed < count; seed++) {
      const rng = random(seed);
      const { caches, own } = await prefix(rng, rng.integer(1, 5));
      const prompts = own.map(() => Array.from({ length: rng.integer(1, 4) }, () => rng.integer(0, xf.nVocab)));
      const options: SampleOptions = { numTokens: rng.integer(1, 7), temperature: rng.pick([0, 0.7, 1]) };
      if (rng.integer(0, 2)) options.stopTokens = Array.from({ length: 20 }, () => rng.integer(0, xf.nVocab));
      const seeds = derivedSeeds(seed, own.length);
      const held = caches.length;
      const given: KvCaches[] = [caches.clone(), caches];
      const results: number[][][] = [];
      for (const kvCaches of given) {
        const { tokens, strings } = await xf.sample(prompts, { ...options, seeds, kvCaches });
        assert.equal(strings, xf.enc.decodeBatch(tokens));
        results.push(tokens);
      }
      const [tokens] = results as [number[][]];
      assert.equal(results[1], tokens, 'a clone gives the same');
      for (const [r, row] of own.entries()) {
        const whole = [...row, ...(prompts[r] as number[])];
        const alone = await xf.sample([whole], { ...options, seeds: [seeds[r] as number] });
        assert.equal(tokens[r], alone.tokens[0], `seed ${seed}, row ${r}`);
      }
      // the last token of a row is in no caches yet
      const last = tokens.map((row) => [row.at(-1) as number]);
      const { logits } = await xf.forward(last, { kvCaches: caches });
      const got = (await logits.read()) as Float32Array;
      logits.dispose();
      for (const [r, row] of own.entries()) {
        const whole = [...row, ...(prompts[r] as number[]), ...(tokens[r] as number[])];
        const { logits, kvCaches } = await xf.forward([whole]);
        const want = (await logits.read()) as Float32Array;
        for (const t of [logits, kvCaches]) t.dispose();
        const V = xf.nVocab;
        close(got.subarray(r * V, (r + 1) * V), want.subarray((whole.length - 1) * V), within);
      }
      assert.is(caches.truncate(held), caches);
      const again = await xf.sample(prompts, { ...options, seeds, kvCaches: caches });
      assert.equal(again.tokens, tokens, 'truncated caches give the same again');
      for (const kvCaches of given) kvCaches.dispose();
    }
    assert.is(allocated(), before);
  },
  { limit: 120_000 },
);

test('rows of one prefix, with prompts and seeds of their own', async () => {
  using one = await cachesOf([[5, 6, 7, 8]]);
  using many = one.select([0, 0, 0]);
  const prompts = [[1], [2, 3], [1]];
  const { tokens } = await xf.sample(prompts, { seeds: [1, 2, 3], numTokens: 6, kvCaches: many });
  for (const [r, prompt] of prompts.entries()) {
    const alone = await xf.sample([[5, 6, 7, 8, ...prompt]], { seeds: [r + 1], numTokens: 6 });
    assert.equal(tokens[r], alone.tokens[0]);
  }
  assert.not.equal(tokens[0], tokens[2]);
  assert.equal([one.length, many.length], [4, 4 + 2 + 5]);
});

test('a sampling that fails or is aborted leaves the caches as they were', async () => {
  using caches = await cachesOf([
    [1, 2, 3],
    [4, 5, 6],
  ]);
  const prompts = [[7], [8, 9]];
  const failures: [SampleOptions, RegExp][] = [];
  const stop = (step: number) => {
    if (step === 2) throw new Error('enough');
  };
  failures.push([{ onToken: ({ step }) => stop(step) }, /^enough$/]);
  const hooks = new TransformerHooks();
  hooks.logits.appendFwd((x, { step }) => {
    if (step === 3) x.fill(Number.NaN);
  });
  failures.push([{ hooks }, /at row 0, step 3, they hold a NaN/]);
  const controller = new AbortController();
  failures.push([
    { signal: controller.signal, onToken: ({ step }) => step === 1 && controller.abort(new Error('aborted by me')) },
    /^aborted by me$/,
  ] as [SampleOptions, RegExp]);
  failures.push([{ signal: AbortSignal.abort(new Error('before')) }, /^before$/]);
  failures.push([{ seeds: [1] }, /seeds must be as long as there are prompts, 2/]);
  using other = caches.clone();
  const want = await xf.sample(prompts, { seed: 5, kvCaches: other });
  // the caches grow once, and keep their memory
  await rejects(xf.sample(prompts, { numTokens: 6, onToken: ({ step }) => stop(step), kvCaches: caches }), Error);
  const before = allocated();
  for (const [options, pattern] of failures) {
    await rejects(xf.sample(prompts, { numTokens: 6, ...options, kvCaches: caches }), Error, pattern);
    assert.equal([caches.length, allocated()], [3, before]);
    using clone = caches.clone();
    assert.equal(await xf.sample(prompts, { seed: 5, kvCaches: clone }), want);
  }
  await xf.sample(prompts, { numTokens: 0, kvCaches: caches });
  assert.equal([caches.length, allocated()], [3, before]);
});

test('caches in use by sample() can be copied, but nothing else', async () => {
  using caches = await cachesOf([[1, 2, 3]]);
  const forks: KvCaches[] = [];
  const refused: string[] = [];
  const { tokens } = await xf.sample([[4]], {
    numTokens: 4,
    seed: 2,
    kvCaches: caches,
    async onToken() {
      forks.push(caches.clone());
      for (const use of [
        () => xf.forward([[1]], { kvCaches: caches }),
        () => xf.sample([[1]], { kvCaches: caches }),
        async () => caches.truncate(1),
      ]) {
        refused.push((await rejects(use(), Error, /kvCaches are in use by sample\(\); wait for it first/)).message);
      }
    },
  });
  assert.equal(
    refused.slice(0, 3).map((text) => text.split(':')[0]),
    ['forward', 'sample', 'truncate'],
  );
  assert.equal(
    forks.map(({ length }) => length),
    [4, 5, 6, 7],
  );
  // a fork goes on where it was made
  for (const [i, fork] of forks.entries()) {
    const { logits } = await xf.forward([[tokens[0]?.[i] as number]], { kvCaches: fork });
    const whole = await xf.forward([[1, 2, 3, 4, ...(tokens[0] as number[]).slice(0, i + 1)]]);
    const want = whole.logits.slice(1, -1);
    close(await logits.read(), await want.read(), within);
    for (const t of [logits, fork, whole.logits, whole.kvCaches]) t.dispose();
  }
});

test('prompts that do not fit the caches are refused, and the caches are free again', async () => {
  using caches = await cachesOf([
    [1, 2, 3],
    [4, 5, 6],
  ]);
  const refused = (prompts: never, options: SampleOptions, type: typeof RangeError, pattern: RegExp) =>
    rejects(xf.sample(prompts, { kvCaches: caches, ...options }), type, pattern);
  await refused(
    [[1]] as never,
    {},
    RangeError,
    /sample: the number of prompts must be 2, one for each row of kvCaches, but is 1/,
  );
  await refused([] as never, {}, RangeError, /the number of prompts must be 2/);
  await refused([[1], []] as never, {}, RangeError, /prompts\[1\] must be at least one token, but is empty/);
  await refused(
    [[1], [2]] as never,
    { numTokens: xf.config.ctxWindow - 2 },
    RangeError,
    /must fit the context window of \d+ tokens, but prompts\[0\] takes \d+, 3 of kvCaches included/,
  );
  await refused(
    [[1], [2]] as never,
    { kvCaches: {} as never },
    TypeError as never,
    /sample: kvCaches must be what an earlier forward returned, but is a Object/,
  );
  using other = await Transformer.load('random:tiny', { device });
  await rejects(other.sample([[1], [2]], { kvCaches: caches }), TypeError, /sample: kvCaches must be of this model/);
  const numTokens = xf.config.ctxWindow - 3;
  assert.is((await xf.sample([[1], [2]], { numTokens, kvCaches: caches })).tokens[0]?.length, numTokens);
  caches.dispose();
  await rejects(xf.sample([[1], [2]], { kvCaches: caches }), Error, /kvCaches cannot be used: they were disposed/);
});

test.run();
