// Sampling whose passes are queued in one call. Oracle: the same sampling with a hook that does nothing, whose passes are
// queued operation by operation.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { OutOfMemoryError } from '../../../src/engine/errors.js';
import { native, packageRoot } from '../../../src/engine/native.js';
import { Tensor } from '../../../src/engine/ops/tensor.js';
import { TransformerHooks } from '../../../src/transformer/hooks.js';
import { KvCaches } from '../../../src/transformer/kv_cache.js';
import type { SampleOptions } from '../../../src/transformer/sample_run.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { emulated, queuedTogether, testDevice } from '../../support/device.js';
import { rejects, suite } from '../../support/harness.js';
import { type Random, random } from '../../support/random.js';

const test = suite('passes of one token');
const device = testDevice();
const isEmulated = emulated();
const model = isEmulated ? 'narrow-attn' : 'tiny';
const load = () => Transformer.load(join(packageRoot, 'test', 'fixtures', 'goldens', model), { device });
let xf: Transformer;
test.before(async () => {
  xf = await load();
});
const allocated = () => device.memory().allocated;
const nothing = () => new TransformerHooks().appendToPath('resid.post_emb.fwd', (x) => x);

const tokensOf = (rng: Random, count: number) => Array.from({ length: count }, () => rng.integer(0, xf.nVocab));

async function cachesOf(rows: number[][]): Promise<KvCaches> {
  const result = await xf.forward(rows);
  result.logits.dispose();
  return result.kvCaches;
}

/** The keys and values of all layers. */
async function contents(caches: KvCaches): Promise<number[][]> {
  const layers = Array.from({ length: xf.config.nLayers }, (_, layer) => layer);
  const all = layers.flatMap((layer) => [caches.keys(layer), caches.values(layer)]);
  return Promise.all(all.map(async (t) => [...(await t.read())]));
}

const count = isEmulated ? 3 : 60;

test(`${count} random samplings have the same tokens and caches, bit for bit`, async () => {
  const before = allocated();
  let all = 0;
  for (let seed = 0; seed < count; seed++) {
    const rng = random(seed);
    const rows = rng.integer(1, 4);
    const long = rng.integer(1, 5);
    const prompts = Array.from({ length: rows }, () => tokensOf(rng, long));
    const options: SampleOptions = { numTokens: rng.integer(1, 9), temperature: rng.pick([0, 1e-300, 0.7, 1]), seed };
    if (rng.integer(0, 2)) {
      options.stopTokens = tokensOf(rng, 20);
      options.minTokens = rng.integer(0, 3) % ((options.numTokens as number) + 1);
    }
    const first = rng.integer(0, 2) ? Array.from({ length: rows }, () => tokensOf(rng, long)) : undefined;
    const [ours, theirs] = first ? [await cachesOf(first), await cachesOf(first)] : [];
    const { result, calls } = await queuedTogether(() =>
      xf.sample(prompts, { ...options, ...(ours && { kvCaches: ours }) }),
    );
    const hooks = nothing();
    const plain = await queuedTogether(() =>
      xf.sample(prompts, { ...options, hooks, ...(theirs && { kvCaches: theirs }) }),
    );
    assert.equal(result, plain.result, `seed ${seed}`);
    assert.is(plain.calls, 0);
    all += calls;
    if (!ours || !theirs) continue;
    assert.is(ours.length, theirs.length);
    assert.equal(await contents(ours), await contents(theirs), `caches of seed ${seed}`);
    ours.dispose();
    theirs.dispose();
  }
  assert.ok(all > count, `${all} passes were queued in one call`);
  assert.is(allocated(), before);
});

test('from the third new pass on, they are queued in one call, also where caches grow', async () => {
  const { makeRoom } = KvCaches.prototype;
  const options = { numTokens: 14, temperature: 0 };
  const prompt = [3, 1, 4];
  const plain = await xf.sample(prompt, { ...options, hooks: nothing() });
  const once = await queuedTogether(() => xf.sample(prompt, options));
  assert.equal(once.result, plain);
  assert.is(once.calls, 11, 'all but the prompt and two passes');
  KvCaches.prototype.makeRoom = function (expected) {
    return makeRoom.call(this, Math.min(expected, 4));
  };
  try {
    const growing = await queuedTogether(() => xf.sample(prompt, options));
    assert.equal(growing.result, plain);
    assert.is(growing.calls, 6, 'two of each four');
  } finally {
    KvCaches.prototype.makeRoom = makeRoom;
  }
});

test('a step for which the device cannot choose is taken by the host, and so are those behind it', async () => {
  const prompts = [
    [1, 2, 3],
    [6, 5, 4],
  ];
  const { read } = Tensor.prototype;
  const before = allocated();
  for (const temperature of [0, 1]) {
    const options = { numTokens: 7, temperature, seed: 3 };
    const expected = await cachesOf(prompts);
    const plain = await xf.sample(prompts, { ...options, hooks: nothing(), kvCaches: expected });
    for (let failing = 1; failing < 7; failing++) {
      const caches = await cachesOf(prompts);
      let reads = 0;
      Tensor.prototype.read = async function () {
        const values = await read.call(this);
        // what the device has chosen, and whether it could
        if (this.dtype === 'int32' && this.shape.length === 2 && ++reads >= failing) values.fill(0, 2 + (reads % 2));
        return values;
      };
      try {
        assert.equal(await xf.sample(prompts, { ...options, kvCaches: caches }), plain, `at step ${failing}`);
      } finally {
        Tensor.prototype.read = read;
      }
      assert.ok(reads >= failing && reads <= failing + 1, `${reads} reads`);
      assert.equal(await contents(caches), await contents(expected));
      caches.dispose();
    }
    expected.dispose();
  }
  assert.is(allocated(), before);
});

test('sequences of several rows of one length, and of those only while all go on', async () => {
  const two = [
    [1, 2],
    [3, 4],
  ];
  const together = async (prompts: number[][], options: SampleOptions = {}) =>
    (await queuedTogether(() => xf.sample(prompts, { numTokens: 6, temperature: 0, ...options }))).calls;
  assert.is(await together(two), 3);
  assert.is(await together([[1, 2], [3]]), 0, 'padding');
  const { tokens } = await xf.sample(two, { numTokens: 6, temperature: 0 });
  const stop = tokens[0]?.[4] as number;
  // the pass that gives a row its last token is the last one that has all rows
  const passes = Math.min(...tokens.map((row) => row.indexOf(stop)).filter((at) => at >= 0));
  assert.is(await together(two, { stopTokens: [stop] }), Math.max(0, Math.min(passes, 5) - 2));
});

test('weights that change or end between two tokens', async () => {
  const model = await load();
  const other = await load();
  const options = { numTokens: 10, temperature: 0 };
  const change = async (which: Transformer, hooks?: TransformerHooks) =>
    which.sample([5, 6, 7], {
      ...options,
      ...(hooks && { hooks }),
      onToken: ({ step }) => {
        if (step === 5) which.simplify();
      },
    });
  assert.equal(await change(model), await change(other, nothing()));
  other.dispose();
  const before = allocated();
  const sampling = model.sample([5, 6, 7], {
    ...options,
    onToken: ({ step }) => {
      if (step === 5) model.dispose();
    },
  });
  await rejects(sampling, Error, /cannot be used: it was disposed/);
  assert.ok(allocated() < before, 'the weights are gone, and nothing was left');
});

test('a sampling that is ended frees what it had', async () => {
  const before = allocated();
  const stop = new AbortController();
  const ended = xf.sample([1, 2, 3], {
    numTokens: 10,
    signal: stop.signal,
    onToken: ({ step }) => {
      if (step === 6) stop.abort(new Error('enough'));
    },
  });
  await rejects(ended, Error, /enough/);
  const thrown = xf.sample([1, 2, 3], {
    numTokens: 10,
    onToken: ({ step }) => {
      if (step === 6) throw new Error('no');
    },
  });
  await rejects(thrown, Error, /no/);
  const caches = await cachesOf([[1, 2]]);
  const held = allocated();
  const within = xf.sample([3], {
    numTokens: 10,
    kvCaches: caches,
    onToken: ({ step }) => {
      if (step === 6) caches.dispose();
    },
  });
  await rejects(within, Error, /kvCaches cannot be used: they were disposed/);
  assert.ok(allocated() < held);
  assert.is(allocated(), before);
});

/** Calls `body` with the first allocation failing, then with the second one, and so on, until none fails. */
async function withoutMemory(body: () => Promise<void>, after: (failing: number) => unknown): Promise<void> {
  const { allocate } = native;
  let failing = 0;
  for (let finished = false; !finished; failing += isEmulated ? 31 : 1) {
    let allocations = 0;
    native.allocate = (...args) => {
      if (allocations++ === failing) throw Object.assign(new Error('out of memory'), { code: 'OUT_OF_MEMORY' });
      return allocate(...args);
    };
    try {
      await body();
      finished = true;
    } catch (error) {
      if (!(error instanceof OutOfMemoryError)) throw error;
    } finally {
      native.allocate = allocate;
    }
    await after(failing);
  }
  assert.ok(failing > 30, `${failing} allocations`);
}

test('without memory for any one allocation: an error, nothing is held, and caches are as they were', async () => {
  const options = { numTokens: 5, seed: 1 };
  const expected = await xf.sample([1, 2, 3, 4], options);
  const before = allocated();
  const alone = async () => assert.equal(await xf.sample([1, 2, 3, 4], options), expected);
  await withoutMemory(alone, (failing) => assert.is(allocated(), before, `after allocation ${failing}`));
  const caches = await cachesOf([[1, 2, 3]]);
  const held = await contents(caches);
  const continued = async () => {
    assert.equal(await xf.sample([4], { ...options, kvCaches: caches }), expected);
    caches.truncate(3);
  };
  await withoutMemory(continued, async (failing) => {
    assert.is(caches.length, 3);
    assert.equal(await contents(caches), held, `caches after allocation ${failing}`);
  });
  caches.dispose();
  assert.is(allocated(), before);
});

test('other passes between two tokens keep to themselves', async () => {
  const options = { numTokens: 8, temperature: 0 };
  const expected = [await xf.sample([1, 2], options), await xf.sample([9, 8, 7], options)];
  const both = await Promise.all([xf.sample([1, 2], options), xf.sample([9, 8, 7], options)]);
  assert.equal(both, expected);
  const alone = await xf.sample([1, 2], {
    ...options,
    onToken: async () => {
      const { logits } = await xf.forward([[4, 4, 4]]);
      logits.dispose();
    },
  });
  assert.equal(alone, expected[0]);
});

test.run();
