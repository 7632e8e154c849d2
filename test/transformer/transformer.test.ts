// The transformer's checks: arguments, failing hooks, caches, memory, checkpoints. The oracle is the title of each
// test.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { DeviceError } from '../../src/engine/errors.js';
import { packageRoot } from '../../src/engine/native.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { saveTorch } from '../../src/files/torch/torch.js';
import { AtLayers, ConditionalHooks, TransformerHooks } from '../../src/transformer/hooks.js';
import { prepInputAndPad } from '../../src/transformer/padding.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { close } from '../support/close.js';
import { testDevice } from '../support/device.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite, throws } from '../support/harness.js';

const test = suite('transformer');
const tiny = join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny');
let xf: Transformer;
test.before(async () => {
  xf = await Transformer.load(tiny);
});
const allocated = () => xf.device.memory().allocated;

test('a model that cannot be loaded: the error says why, and which models can', async () => {
  await rejects(
    Transformer.load('/no/such/folder'),
    Error,
    /'\/no\/such\/folder' is no folder; it must be 'demo', gpt2-small, gpt2-medium, gpt2-large, gpt2-xl, 'random:gpt2-small'/,
  );
  await rejects(Transformer.load('random:gpt5'), Error, /there are random:gpt2-small, random:gpt2-medium/);
  await rejects(
    Transformer.load(tiny, { dtype: 'int32' }),
    TypeError,
    /dtype must be float32, bfloat16 or float16, but is 'int32'/,
  );
});

test('a checkpoint that does not fit its config names the tensor and both shapes', () =>
  withFolder(async (folder) => {
    mkdirSync(join(folder, 'model_pieces'));
    const config = JSON.parse(readFileSync(join(tiny, 'config.json'), 'utf8'));
    const write = (changes: object) =>
      writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, ...changes }));
    for (const file of readdirSync(join(tiny, 'model_pieces'))) {
      writeFileSync(join(folder, 'model_pieces', file), readFileSync(join(tiny, 'model_pieces', file)));
    }
    const before = allocated();
    write({ m_mlp: 3 });
    await rejects(
      Transformer.load(folder),
      Error,
      /xf_layers\.0\.mlp\.in_layer\.weight must be \[144, 48\] to fit config\.json, but is \[192, 48\]/,
    );
    write({ n_layers: 4 });
    await rejects(Transformer.load(folder), Error, /xf_layers\.3/);
    write({ n_heads: 5 });
    await rejects(Transformer.load(folder), Error, /n_heads must divide the attention width 48, but is 5/);
    for (const bad of [{ d_model: -1 }, { n_layers: 1.5 }, { ctx_window: '9' }, { n_heads: 1e9 }, { enc: 'cl100k' }]) {
      write(bad);
      await rejects(Transformer.load(folder), Error, new RegExp(`config\\.json: ${Object.keys(bad)[0]} must be`));
    }
    write({});
    await saveTorch(join(folder, 'model_pieces', 'final_ln.bias.pt'), {
      dtype: 'int64',
      shape: [48],
      data: new BigInt64Array(48),
    });
    await rejects(Transformer.load(folder), Error, /final_ln\.bias must be of floats, but is int64/);
    writeFileSync(join(folder, 'config.json'), '{');
    await rejects(Transformer.load(folder), Error, /config\.json: is not JSON/);
    assert.is(allocated(), before, 'what was loaded before the failure is freed');
  }));

test('tokens are checked before anything is queued', async () => {
  await rejects(xf.forward([[1, 2], [3]]), RangeError, /row 0 has 2 and row 1 has 1; prepInputAndPad makes them so/);
  await rejects(xf.forward([[1, 101]]), RangeError, /tokens\[0\]\[1\] must be an integer from 0 to 100, but is 101/);
  await rejects(xf.forward([[1, 0.5]]), RangeError, /tokens\[0\]\[1\]/);
  await rejects(xf.forward([]), RangeError, /at least one row of at least one token/);
  await rejects(xf.forward([[]]), RangeError, /at least one row of at least one token/);
  await rejects(
    xf.forward('text' as never),
    TypeError,
    /tokens must be an int32 tensor \[batch, seq\] or an array of rows/,
  );
  await rejects(xf.forward([new Array(33).fill(1)]), RangeError, /context window of 32 tokens, but one has 33/);
  await rejects(xf.forward(Tensor.zeros([1, 2])), TypeError, /tokens must be int32, but is float32/);
  await rejects(xf.forward([[1]], { grad: 'all' as never }), TypeError, /forward: grad must be true, false or 'para/);
  await rejects(xf.forward([[1]], { pad: Tensor.from([[true, false]]) }), RangeError, /pad must be \[1, 1\]/);
  await rejects(
    xf.forward([[1]], { kvCaches: {} as never }),
    TypeError,
    /kvCaches must be what an earlier forward returned/,
  );
  using beyond = Tensor.from([[1, 101]], { dtype: 'int32' });
  const { logits } = await xf.forward(beyond);
  await rejects(logits.read(), DeviceError, /embedding: index 101 at position 1 is outside \[0, 101\)/);
  logits.dispose();
});

test('a hook that returns the wrong thing fails the pass, naming point and layer', async () => {
  const run = async (hook: (x: Tensor) => unknown, path = 'mlp.post_act.fwd') => {
    const hooks = new TransformerHooks();
    hooks.appendToPath(path, new AtLayers([1]).append(hook as never));
    return xf.forward([[1, 2]], { hooks });
  };
  const before = allocated();
  await rejects(
    run((x) => x.slice(-1, 0, 5)),
    TypeError,
    /mlp\.post_act, layer 1: a hook must return a tensor of shape \[1, 2, 192\], but returned \[1, 2, 5\]/,
  );
  await rejects(
    run((x) => x.to('bfloat16')),
    TypeError,
    /a tensor of float32, but returned bfloat16/,
  );
  await rejects(
    run(() => 5),
    TypeError,
    /a tensor or nothing, but returned 5/,
  );
  await rejects(
    run((x) => {
      const y = x.clone();
      y.dispose();
      return y;
    }),
    TypeError,
    /which: it was disposed/,
  );
  const mine = new Error('mine');
  const thrown = await rejects(
    run(() => {
      throw mine;
    }, 'attn.qk_probs.fwd2'),
    Error,
    /^attn\.qk_probs, layer 1: a hook threw Error: mine$/,
  );
  assert.is(thrown.cause, mine);
  assert.ok(allocated() - before < 10_000, 'a failed pass frees what it made');
  const { logits } = await run((x) => x.reshape([...x.shape]));
  assert.is((await logits.read()).length, logits.size);
  logits.dispose();
});

test('x ends with the pass; a clone does not', async () => {
  const kept: Tensor[] = [];
  const hooks = new TransformerHooks();
  hooks.resid.torso.postMlp.appendFwd((x) => {
    kept.push(x, x.select(0, 0), x.clone());
  });
  const { logits } = await xf.forward([[1, 2]], { hooks });
  throws(
    () => kept[0]?.add(1),
    Error,
    /cannot be used: the pass it belonged to has ended or gone on; keep a clone\(\)/,
  );
  throws(() => kept[1]?.fill(0), Error, /the pass it belonged to has ended/);
  assert.is((await (kept[2] as Tensor).read()).length, 96);
  for (const t of [logits, ...kept]) t.dispose();
});

test('hooks: order, binding, conditions, clones, paths', async () => {
  const calls: string[] = [];
  const note =
    (name: string) =>
    (_: Tensor, { layer, by }: { layer?: number; by?: unknown }) => {
      calls.push(`${name}${layer ?? ''}${by ? ` ${by}` : ''}`);
    };
  const hooks = new TransformerHooks();
  assert.ok(hooks.isEmpty());
  hooks.mlp.preAct.appendFwd2(note('second')).appendFwd(note('first')).appendBwd(note('never'));
  hooks.logits.appendFwd(new ConditionalHooks((x) => x.shape[1] === 2).append(note('two')));
  hooks.bind({ by: 'me' });
  throws(() => hooks.bind({ by: 'you' }), Error, /bind: by is already bound/);
  const copy = hooks.clone();
  copy.logits.appendFwd(note('copy'));
  copy.unbind(['by']);
  throws(() => copy.unbind(['by']), Error, /unbind: by is not bound/);
  (await xf.forward([[1, 2]], { hooks })).logits.dispose();
  assert.equal(calls, ['first0 me', 'second0 me', 'first1 me', 'second1 me', 'first2 me', 'second2 me', 'two me']);
  calls.length = 0;
  (await xf.forward([[1]], { hooks: copy })).logits.dispose();
  assert.equal(calls.slice(-2), ['second2', 'copy']);
  throws(
    () => hooks.appendToPath('resid.torso.post_mpl.fwd', note('x')),
    Error,
    /after 'resid\.torso' must come one of ln_attn, post_ln_attn,/,
  );
  throws(() => hooks.appendToPath('mlp.pre_act', note('x')), Error, /must go on with fwd, bwd, fwd2/);
  throws(
    () => hooks.appendToPath('mlp.pre_act.fwd.more', note('x')),
    Error,
    /after 'mlp\.pre_act\.fwd' must come nothing more/,
  );
  const all = new TransformerHooks().appendAll(note('all'));
  calls.length = 0;
  (await xf.forward([[1]], { hooks: all })).logits.dispose();
  assert.is(calls.length, 2 * (3 * 22 + 6), 'fwd and fwd2 of each point');
  assert.match(String(hooks), /post_act/);
});

test('updates added in the product, with the layer norm and apart: the same bits, edits too', async () => {
  const tokens = [[1, 2, 3, 4, 5, 6, 7]];
  const deltas = ['resid.torso.delta_attn', 'resid.torso.delta_mlp'];
  const posts = ['resid.torso.post_attn', 'resid.torso.post_mlp'];
  for (const dtype of ['float32', 'bfloat16', 'float16'] as const) {
    using model = await Transformer.load(tiny, { dtype });
    const mine = Tensor.zeros([1, 7, 48], { dtype }).fill(0.25);
    const pass = async (watched: string[], edit?: (x: Tensor, context: { layer?: number }) => Tensor | undefined) => {
      const hooks = new TransformerHooks();
      for (const point of watched) hooks.appendToPath(`${point}.fwd`, () => undefined);
      if (edit) for (const point of deltas) hooks.appendToPath(`${point}.fwd2`, edit);
      const { logits } = await model.forward(tokens, { hooks });
      const values = await logits.read();
      logits.dispose();
      return values;
    };
    const plain = await pass([]);
    for (const watched of [deltas, posts, [...deltas, ...posts], ['resid.torso.delta_mlp', ...posts]]) {
      close(await pass(watched), plain, { label: `${dtype}, ${watched} watched` });
    }
    const edits = {
      'in place': (x: Tensor) => x.mul_(2),
      "the user's own": (_: Tensor, { layer }: { layer?: number }) => (layer === 1 ? mine : undefined),
    };
    for (const [name, edit] of Object.entries(edits)) {
      const edited = await pass(posts, edit); // apart
      assert.not.equal(edited, plain);
      close(await pass([], edit), edited, { label: `${dtype}, edited: ${name}` });
    }
    close(await mine.read(), new Array(7 * 48).fill(0.25), { label: "the user's own is left alone" });
    mine.dispose();
    // wanted: the added value is the seen one, and the stream before the next layer norm is their sum
    const names = ['1/resid/post_attn', '1/resid/delta_mlp', '2/resid/post_ln_attn', 'logits'];
    const values = await model.activations(tokens, names);
    close(await (values.get('logits') as Tensor).read(), plain, { label: `${dtype}, handed out` });
    const all = await model.activations(tokens, [...names, '1/resid/post_mlp']);
    for (const name of names) {
      close(await (values.get(name) as Tensor).read(), await (all.get(name) as Tensor).read(), { label: name });
    }
    using sum = (values.get('1/resid/post_attn') as Tensor).add(values.get('1/resid/delta_mlp') as Tensor);
    close(await (all.get('1/resid/post_mlp') as Tensor).read(), await sum.read(), { label: 'post_mlp' });
    for (const t of [...values.values(), ...all.values()]) t.dispose();
  }
});

test('sampling with an update left to the last layer norm', async () => {
  const options = { numTokens: 12, seed: 3 };
  const hooks = new TransformerHooks();
  hooks.resid.torso.deltaMlp.appendFwd(() => undefined);
  const prompts = [[1, 2, 3], [4]];
  assert.equal((await xf.sample(prompts, { ...options, hooks })).tokens, (await xf.sample(prompts, options)).tokens);
});

test('probabilities from the fused kernel are those that a hook sees, also with padding', async () => {
  const name = '1/attn/qk_probs';
  for (const side of ['left', 'right'] as const) {
    const { tokens, pad } = prepInputAndPad(
      [
        [5, 9, 2, 1, 7],
        [6, 7, 8],
      ],
      side,
    );
    for (const dtype of ['float32', 'bfloat16'] as const) {
      using model = await Transformer.load(tiny, { dtype });
      let seen: Promise<ArrayLike<number>> | undefined;
      const hooks = new TransformerHooks();
      hooks.attn.qkProbs.appendFwd(
        new AtLayers(1).append((x) => {
          seen = x.read();
        }),
      );
      (await model.forward(tokens, { pad, hooks })).logits.dispose();
      const expected = await (seen as Promise<ArrayLike<number>>);
      // with attn.k: the same kernel on scaled copies
      for (const locations of [[name], [name, '1/attn/k'], [name, 'logits']]) {
        const values = await model.activations(tokens, locations, { pad });
        const probs = values.get(name) as Tensor;
        assert.equal([[...probs.shape], probs.dtype], [[2, 5, 5, 4], dtype]);
        const got = await probs.read();
        const rtol = dtype === 'float32' ? 1e-5 : 2 ** -5;
        close(got, expected, { rtol, atol: rtol / 10, label: `${locations}, ${side}, ${dtype}` });
        for (let i = 0; i < got.length; i++) assert.is(got[i] === 0, expected[i] === 0, `${i} is masked`);
        for (const t of values.values()) t.dispose();
      }
    }
    for (const t of [tokens, pad]) t.dispose();
  }
});

test('an edit of attn.v or attn.k does not reach the cache', async () => {
  const edit = new TransformerHooks();
  edit.attn.v.appendFwd((x) => x.fill(0));
  edit.attn.k.appendFwd((x) => x.fill(0));
  const plain = await xf.forward([[1, 2, 3]]);
  const edited = await xf.forward([[1, 2, 3]], { hooks: edit });
  close(await edited.kvCaches.values(0).read(), await plain.kvCaches.values(0).read());
  close(await edited.kvCaches.keys(0).read(), await plain.kvCaches.keys(0).read());
  for (const { logits, kvCaches } of [plain, edited]) {
    logits.dispose();
    kvCaches.dispose();
  }
});

test('caches: continued, refused, released', async () => {
  const first = await xf.forward([[1, 2, 3]]);
  const caches = first.kvCaches;
  first.logits.dispose();
  await rejects(
    xf.forward([[1], [2]], { kvCaches: caches }),
    RangeError,
    /tokens must be of 1 rows, as kvCaches, but is 2 rows/,
  );
  const failing = new TransformerHooks();
  failing.mlp.postAct.appendFwd(() => {
    throw new Error('stop');
  });
  await rejects(xf.forward([[9]], { kvCaches: caches, hooks: failing }), Error, /stop/);
  assert.is(caches.length, 3, 'a failed pass leaves the caches as they were');
  const both = [xf.forward([[4]], { kvCaches: caches }), xf.forward([[5]], { kvCaches: caches })];
  const settled = await Promise.allSettled(both);
  assert.equal(settled.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
  assert.is(caches.length, 4);
  const next = await xf.forward([[5, 6]], { kvCaches: caches });
  assert.is(next.kvCaches, caches);
  const whole = await xf.forward([[1, 2, 3, 4, 5, 6]]);
  close(await next.logits.select(1, 1).read(), await whole.logits.select(1, 5).read(), { rtol: 1e-4, atol: 1e-4 });
  caches.dispose();
  await rejects(xf.forward([[1]], { kvCaches: caches }), Error, /kvCaches cannot be used: they were disposed/);
  const forgotten = await xf.forward([[1]]);
  const late = await xf.forward([[1]]);
  for (let i = 0; i < 16; i++) (await xf.forward([[1]])).logits.dispose();
  assert.is(late.kvCaches.length, 1, 'the caches of a few passes are kept for late askers');
  throws(() => forgotten.kvCaches, Error, /nobody had asked for them many passes later/);
});

test('padding prompts', async () => {
  const { tokens, pad } = prepInputAndPad([[5], [6, 7, 8]], 'left');
  assert.equal(
    [[...(await tokens.read())], [...(await pad.read())]],
    [
      [0, 0, 5, 6, 7, 8],
      [1, 1, 0, 0, 0, 0],
    ],
  );
  throws(() => prepInputAndPad([[1]], 'middle' as never), TypeError, /side must be 'left' or 'right'/);
  throws(() => prepInputAndPad([], 'left'), RangeError, /at least one prompt/);
  throws(() => prepInputAndPad([[]], 'left'), RangeError, /at least one token/);
});

test('sampling: seeds, temperature, nucleus, limits', async () => {
  const tokens = async (options: object) => (await xf.sample([[1, 2, 3], [4]], { numTokens: 12, ...options })).tokens;
  assert.equal(await tokens({ seed: 5 }), await tokens({ seed: 5 }));
  assert.not.equal(await tokens({ seed: 5 }), await tokens({ seed: 6 }));
  assert.equal(await tokens({ temperature: 1e-6, seed: 1 }), await tokens({ temperature: 0 }));
  assert.equal(
    await tokens({ topP: 0, seed: 1 }),
    await tokens({ temperature: 0 }),
    'a nucleus of nothing is the likeliest token',
  );
  assert.equal(await xf.sample([1, 2], { numTokens: 0 }), { tokens: [[]], strings: [''] });
  await rejects(xf.sample([[]]), RangeError, /prompts\[0\] must be at least one token/);
  await rejects(
    xf.sample([new Array(30).fill(1)], { numTokens: 4 }),
    RangeError,
    /context window of 32 tokens, but prompts\[0\] takes 33/,
  );
  await rejects(xf.sample([[1, 200]]), RangeError, /prompts\[0\]\[1\] must be a token from 0 to 100/);
  await rejects(xf.sample([[1]], { temperature: -1 }), RangeError, /temperature must be 0 or more/);
  await rejects(xf.sample([[1]], { topP: 2 }), RangeError, /topP must be a probability/);
  const full = await xf.sample([new Array(30).fill(1)], { numTokens: 3, temperature: 0 });
  assert.is(full.tokens[0]?.length, 3);
});

test('a checkpoint saved and loaded is the same model; a foreign folder is refused', () =>
  withFolder(async (outer) => {
    const folder = join(outer, 'copy');
    await xf.saveCheckpoint(folder);
    using again = await Transformer.load(folder);
    assert.is(await again.digest(), await xf.digest());
    const [a, b] = [await xf.stateDict(), await again.stateDict()];
    assert.equal(Object.keys(a), Object.keys(b));
    for (const [name, { data }] of Object.entries(a))
      close(b[name]?.data as Float32Array, data as Float32Array, { label: name });
    using half = await Transformer.load(tiny, { dtype: 'bfloat16' });
    await half.saveCheckpoint(join(folder, 'half'));
    using halfAgain = await Transformer.load(join(folder, 'half'), { dtype: 'bfloat16' });
    assert.is(await halfAgain.digest(), await half.digest());
    writeFileSync(join(folder, 'model_pieces', 'notes.txt'), '');
    await rejects(xf.saveCheckpoint(folder), Error, /holds something else: half, notes\.txt/);
  }));

test('a row gets the same bits alone, in a batch, and with any number of threads', async () => {
  const rows = [0, 1, 2].map((r) => Array.from({ length: 19 }, (_, i) => (r * 31 + i * 7) % 101));
  const run = async (threads: number, batch: number[][]) => {
    using model = await Transformer.load(tiny, { device: testDevice(threads) });
    const { logits } = await model.forward(batch);
    const values = await logits.read();
    logits.dispose();
    return values;
  };
  const whole = await run(1, rows);
  close(await run(3, rows), whole);
  close(await run(2, [rows[2] as number[]]), whole.slice(2 * 19 * 101));
  close(await run(1, [(rows[0] as number[]).slice(0, 5)]), whole.slice(0, 5 * 101), {
    label: 'what comes later has no influence',
  });
});

test('random models depend only on their seed', async () => {
  using a = await Transformer.load('random:tiny');
  using b = await Transformer.load('random:tiny?0');
  using c = await Transformer.load('random:tiny?1');
  assert.is(await a.digest(), await b.digest());
  assert.not.equal(await a.digest(), await c.digest());
  const { logits } = await a.forward([[1, 2, 3]]);
  assert.equal([...logits.shape], [1, 3, 50257]);
  logits.dispose();
});

test('1,000 passes leave memory where 50 left it', async () => {
  const hooks = new TransformerHooks();
  hooks.mlp.postAct.appendFwd((x) => {
    x.select(-1, 3).fill(0);
  });
  hooks.resid.torso.lnMlp.scale.appendFwd(() => undefined);
  const tokens = [[1, 2, 3, 4, 5, 6, 7, 8]];
  const pass = async (i: number) => {
    if (i % 4 === 1) {
      for (const t of (await xf.activations(tokens, ['1/mlp/post_act', '2/attn/qk_probs'])).values()) t.dispose();
      return;
    }
    const { logits } = await xf.forward(tokens, i % 4 === 2 ? { hooks } : {});
    logits.dispose();
  };
  const settle = async () => {
    await new Promise((resolve) => setTimeout(resolve, 5));
    await pass(0);
    await xf.device.synchronize();
  };
  for (let i = 0; i < 50; i++) await pass(i);
  await settle();
  const held = allocated();
  const resident = process.memoryUsage().rss;
  for (let i = 0; i < 1000; i++) await pass(i);
  await settle();
  assert.is(allocated(), held);
  const grown = (process.memoryUsage().rss - resident) / 2 ** 20;
  assert.ok(grown < 48, `the process grew by ${grown} MiB`);
});

test.run();
