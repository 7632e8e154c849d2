// Recorded passes: the same bits as without a record, gradients that depend on nothing but their row, and what is
// recorded. Oracle: the same pass unrecorded, a row alone, sums of gradients that must agree.
import * as assert from 'uvu/assert';
import { openDevice } from '../../../src/engine/device.js';
import { crossEntropy } from '../../../src/engine/ops/cross_entropy.js';
import { Tensor } from '../../../src/engine/ops/tensor.js';
import { atPositions } from '../../../src/transformer/at_positions.js';
import { AtLayers, AutoencoderHooks, TransformerHooks } from '../../../src/transformer/hooks.js';
import { finalPoints, firstPoint, layerPoints } from '../../../src/transformer/location.js';
import { prepInputAndPad } from '../../../src/transformer/padding.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { close, relativeError } from '../../support/close.js';
import { openGolden } from '../../support/goldens.js';
import { rejects, suite } from '../../support/harness.js';

const test = suite('recorded passes');

const points = [firstPoint, ...layerPoints, ...finalPoints];
const g = await openGolden('tiny');
const rows = g.rows('tokens');
const device = openDevice('cpu');
const xf = await Transformer.load(g.folder, { device });

type Seen = Map<string, Promise<ArrayLike<number>>>;

/** Hooks that note the gradient at points, by point and layer. */
function noting(seen: Seen, at: readonly string[] = points): TransformerHooks {
  const hooks = new TransformerHooks();
  for (const point of at) {
    hooks.appendToPath(`${point}.bwd`, (gradient, { layer }) => {
      seen.set(`${point} ${layer}`, gradient.read());
    });
  }
  return hooks;
}

async function valuesOf(seen: Seen): Promise<Map<string, ArrayLike<number>>> {
  return new Map(await Promise.all([...seen].map(async ([key, value]) => [key, await value] as const)));
}

/** Goes back from the sum of the losses of all next tokens, and frees all. */
async function goBack(
  model: Transformer,
  tokens: number[][],
  hooks: TransformerHooks,
  options: { pad?: Tensor } = {},
): Promise<void> {
  const { logits, kvCaches } = await model.forward(tokens, { ...options, hooks, grad: true });
  kvCaches.dispose();
  using owned = logits;
  const pad = options.pad ? { pad: options.pad.slice(1, 1) } : {};
  using loss = crossEntropy(
    owned.slice(1, 0, -1),
    tokens.map((row) => row.slice(1)),
    { reduction: 'sum', ...pad },
  );
  await loss.backward();
}

const bitsOf = (values: ArrayLike<number>) => new Uint8Array(Float32Array.from(values).buffer);

test('the values are those of an unrecorded pass, bit for bit, in each dtype', async () => {
  const { tokens, pad } = prepInputAndPad(g.json.prompts, 'left', device);
  const edit = (hooks: TransformerHooks) => hooks.mlp.preAct.appendFwd(new AtLayers(1).append((x) => x.mul(1.5)));
  const inside = points.filter((point) => /ln_|attn\.(qk|[qkv]$)|pre_act|delta/.test(point));
  for (const dtype of ['float32', 'bfloat16', 'float16'] as const) {
    using model = await Transformer.load(g.folder, { device, dtype });
    const logitsOf = async (grad: boolean | 'parameters', prepare: (hooks: TransformerHooks) => unknown = () => {}) => {
      const hooks = new TransformerHooks();
      prepare(hooks);
      const first = await model.forward(tokens, { pad, hooks, grad });
      const next = await model.forward([[5], [6], [7]], { hooks, grad, kvCaches: first.kvCaches });
      const both = [bitsOf(await first.logits.read()), bitsOf(await next.logits.read())];
      for (const t of [first.logits, next.logits, first.kvCaches]) t.dispose();
      first.record?.dispose();
      next.record?.dispose();
      return both;
    };
    const plain = await logitsOf(false);
    const watch = (at: readonly string[]) => (hooks: TransformerHooks) => {
      for (const point of at) hooks.appendToPath(`${point}.bwd`, () => {});
    };
    assert.equal(await logitsOf(true), plain, dtype);
    assert.equal(await logitsOf('parameters'), plain, dtype);
    for (const at of [points, inside, ['attn.qk_probs'], ['mlp.pre_act'], ['resid.torso.delta_mlp']]) {
      assert.equal(await logitsOf(true, watch(at)), plain, `${dtype} ${at}`);
    }
    const edited = await logitsOf(false, edit);
    assert.not.equal(edited, plain);
    const both = (hooks: TransformerHooks) => {
      edit(hooks);
      watch(points)(hooks);
    };
    assert.equal(await logitsOf(true, both), edited, dtype);
  }
  tokens.dispose();
  pad.dispose();
});

test('gradients of 16-bit models are float32, and those of float32 but for the rounding', async () => {
  const reference: Seen = new Map();
  await goBack(xf, rows, noting(reference));
  const expected = await valuesOf(reference);
  for (const [dtype, bound] of [
    ['bfloat16', 0.1],
    ['float16', 0.02],
  ] as const) {
    using model = await Transformer.load(g.folder, { device, dtype });
    const seen: Seen = new Map();
    await goBack(model, rows, noting(seen));
    for (const [key, values] of await valuesOf(seen)) {
      const error = relativeError(values, expected.get(key) as ArrayLike<number>);
      assert.ok(error < bound, `${dtype} ${key}: ${error}`);
    }
  }
});

test('a row has the gradients that it has alone, with any number of threads, bit for bit', async () => {
  const batch = [...rows, (rows[0] as number[]).toReversed(), rows[1] as number[]];
  const together: Seen = new Map();
  await goBack(xf, batch, noting(together));
  const all = await valuesOf(together);
  for (const [r, row] of batch.entries()) {
    const alone: Seen = new Map();
    await goBack(xf, [row], noting(alone));
    for (const [key, values] of await valuesOf(alone)) {
      const whole = all.get(key) as Float32Array;
      const own = whole.subarray(r * values.length, (r + 1) * values.length);
      assert.equal(bitsOf(own), bitsOf(values), `row ${r}, ${key}`);
    }
  }
  for (const threads of [1, 3]) {
    using model = await Transformer.load(g.folder, { device: openDevice('cpu', { threads }) });
    const seen: Seen = new Map();
    await goBack(model, batch, noting(seen));
    for (const [key, values] of await valuesOf(seen)) {
      assert.equal(bitsOf(values), bitsOf(all.get(key) as ArrayLike<number>), `${threads} threads, ${key}`);
    }
  }
});

test('with padding on either side, the gradients of the tokens are those without it', async () => {
  for (const side of ['left', 'right'] as const) {
    const { tokens, pad } = prepInputAndPad(g.json.prompts, side, device);
    const flat = Array.from(await tokens.read());
    const [batch, seq] = tokens.shape as [number, number];
    const padded = Array.from({ length: batch }, (_, r) => flat.slice(r * seq, (r + 1) * seq));
    const seen: Seen = new Map();
    const at = ['resid.post_emb', 'mlp.post_act', 'resid.torso.ln_mlp.scale', 'attn.q', 'attn.v_out'];
    await goBack(xf, padded, noting(seen, at), { pad });
    for (const [r, prompt] of g.json.prompts.entries()) {
      const alone: Seen = new Map();
      const shift = side === 'left' ? seq - prompt.length : 0;
      await goBack(xf, [prompt], noting(alone, at));
      for (const [key, values] of await valuesOf(alone)) {
        const whole = (await seen.get(key)) as Float32Array;
        const width = values.length / prompt.length;
        const from = (r * seq + shift) * width;
        const own = whole.subarray(from, from + values.length);
        close(own, values, { rtol: 1e-4, atol: 1e-6, label: `${side} ${key}` });
      }
    }
    tokens.dispose();
    pad.dispose();
  }
});

test('tokens behind those of a cache have the gradients that they have in one pass', async () => {
  const from = 6;
  const seq = (rows[0] as number[]).length;
  const at = ['resid.post_emb', 'mlp.pre_act', 'attn.q', 'resid.torso.post_attn'];
  const lossOf = (logits: Tensor, begin: number) =>
    crossEntropy(
      logits.slice(1, begin, -1),
      rows.map((row) => row.slice(from + 1)),
      { reduction: 'sum' },
    );
  const whole: Seen = new Map();
  const one = await xf.forward(rows, { hooks: noting(whole, at), grad: true });
  await lossOf(one.logits, from).backward();
  const first = await xf.forward(rows.map((row) => row.slice(0, from)));
  const seen: Seen = new Map();
  const keys: Promise<ArrayLike<number>>[] = [];
  const hooks = noting(seen, at);
  hooks.attn.k.appendBwd((gradient) => {
    assert.is(gradient.shape[1], seq);
    keys.push(gradient.read());
  });
  const second = await xf.forward(
    rows.map((row) => row.slice(from)),
    { hooks, grad: true, kvCaches: first.kvCaches },
  );
  await lossOf(second.logits, 0).backward();
  for (const [key, values] of await valuesOf(seen)) {
    const expected = (await whole.get(key)) as Float32Array;
    const width = values.length / rows.length;
    const long = expected.length / rows.length;
    for (const r of rows.keys()) {
      const own = expected.subarray((r + 1) * long - width, (r + 1) * long);
      close(Array.from(values).slice(r * width, (r + 1) * width), own, { rtol: 1e-4, atol: 1e-6, label: key });
    }
  }
  assert.is(keys.length, xf.config.nLayers);
  for (const key of keys) assert.ok(Array.from(await key).some((x) => x !== 0));
  // the caches hold values alone: they can be continued, and neither pass hears of the other
  const third = await xf.forward([[1], [2]], { kvCaches: first.kvCaches, hooks: noting(new Map(), at), grad: true });
  await third.logits.sum().backward();
  await rejects(second.logits.sum().backward(), Error, /backward\(\) has freed/);
});

test('caches do not remember that what a hook used can no longer be gone back over', async () => {
  using v = Tensor.randn([xf.config.dModel], { device, seed: 3 }).requireGrad();
  using stale = v.mul(2);
  await stale.sum().backward();
  const hooks = new TransformerHooks();
  hooks.resid.postEmb.appendFwd((x) => x.add(stale));
  const first = await xf.forward(rows, { hooks, grad: true });
  const { kvCaches } = first;
  await rejects(first.logits.sum().backward(), Error, /is gone: backward\(\) has freed it.*detach\(\)$/);
  const seen: Seen = new Map();
  const second = await xf.forward([[1], [2]], { kvCaches, hooks: noting(seen), grad: true });
  await second.logits.sum().backward();
  assert.is(seen.size, layerPoints.length * xf.config.nLayers + points.length - layerPoints.length);
  kvCaches.dispose();
});

test('a leaf in a hook: its gradient is the sum of those at the point', async () => {
  for (const layer of [0, 2]) {
    using v = Tensor.randn([xf.config.dModel], { device, seed: 3, std: 0.1 }).requireGrad();
    const seen: Seen = new Map();
    const hooks = new TransformerHooks();
    hooks.resid.torso.postMlp.appendFwd(new AtLayers(layer).append((x) => x.add_(v)));
    hooks.resid.torso.postMlp.appendBwd(
      new AtLayers(layer).append((gradient) => {
        seen.set('here', gradient.sum([0, 1]).read());
      }),
    );
    await goBack(xf, rows, hooks);
    close(await (v.grad as Tensor).read(), (await seen.get('here')) as ArrayLike<number>, { rtol: 1e-5, atol: 1e-6 });
    v.zeroGrad();
    assert.is(v.grad, undefined);
  }
});

test('without grad nothing is recorded, and no backward hook is called, whatever leaves are there', async () => {
  using v = Tensor.randn([xf.config.dModel], { device, seed: 3 }).requireGrad();
  const hooks = new TransformerHooks();
  let kept: Tensor | undefined;
  hooks.resid.torso.postMlp.appendFwd(async (x) => {
    await new Promise((resolve) => setImmediate(resolve));
    kept = v.mul(2);
    x.add_(kept);
  });
  hooks.appendAll(new AtLayers([0, 1, 2]).append((x) => x));
  hooks.resid.torso.postMlp.appendBwd(() => assert.unreachable());
  const { logits, record } = await xf.forward(rows, { hooks });
  assert.is(record, undefined);
  for (const t of [logits, kept as unknown as Tensor]) {
    await rejects(t.sum().backward(), Error, /backward: the tensor depends on nothing that is recorded/);
  }
  await xf.activations(rows, ['1/resid/post_mlp'], { hooks });
  await xf.sample([1, 2], { numTokens: 2, hooks });
  assert.is(v.grad, undefined);
});

test('probes on activations of an unrecorded pass are recorded', async () => {
  const values = await xf.activations(rows, ['1/resid/post_mlp']);
  using x = values.get('1/resid/post_mlp') as Tensor;
  using probe = Tensor.randn([xf.config.dModel], { device, seed: 1 }).requireGrad();
  await x.mul(probe).sum().backward();
  close(await (probe.grad as Tensor).read(), await x.sum([0, 1]).read(), { rtol: 1e-5, atol: 1e-5 });
});

test('backward hooks: the last one first, with the context of forward hooks, and conditions on the gradient', async () => {
  const order: string[] = [];
  const hooks = new TransformerHooks();
  const note = (name: string) => async (gradient: Tensor, context: { layer?: number }) => {
    await new Promise((resolve) => setImmediate(resolve));
    order.push(`${name} ${context.layer}`);
    return gradient;
  };
  const { deltaMlp, postMlp } = hooks.resid.torso;
  deltaMlp
    .appendBwd(note('a'))
    .appendBwd(new AtLayers(1).append(note('b')).append(note('c')))
    .appendBwd(note('d'));
  postMlp.appendBwd(note('e')).appendFwd2(() => {});
  await goBack(xf, rows, hooks);
  const layer = (l: number, names: string[]) => names.map((name) => `${name} ${l}`);
  assert.equal(order, [
    ...layer(2, ['e', 'd', 'a']),
    ...layer(1, ['e', 'd', 'b', 'c', 'a']),
    ...layer(0, ['e', 'd', 'a']),
  ]);

  const others = new TransformerHooks();
  const contexts: unknown[] = [];
  others.attn.qkProbs.bwd.bind({ mine: 7 });
  others.attn.qkProbs.appendBwd(async (gradient, { point, layer, mine, positions, keyPositions }) => {
    contexts.push([point, layer, mine, gradient.shape, await positions.toArray(), (keyPositions as Tensor).shape]);
  });
  await goBack(xf, [[4, 5, 6]], others);
  const H = xf.config.nHeads;
  const context = (l: number) => ['attn.qk_probs', l, 7, [1, 3, 3, H], [[0, 1, 2]], [1, 3]];
  assert.equal(contexts, [2, 1, 0].map(context));
});

test('the gradient is that of the value between the hooks of fwd and those of fwd2', async () => {
  const seen: Seen[] = [];
  for (const list of ['fwd', 'fwd2']) {
    const own: Seen = new Map();
    const hooks = noting(own, ['mlp.post_act']);
    hooks.appendToPath(
      `mlp.post_act.${list}`,
      new AtLayers(2).append((x) => x.mul(3)),
    );
    await goBack(xf, rows, hooks);
    seen.push(own);
  }
  const [after, before] = seen.map((own) => own.get('mlp.post_act 2'));
  close(
    (await before) as Float32Array,
    Array.from((await after) as Float32Array, (x) => 3 * x),
    { rtol: 1e-6 },
  );
});

test('a gradient is edited at some positions, and the hook may keep a clone alone', async () => {
  const plain: Seen = new Map();
  await goBack(xf, rows, noting(plain, ['mlp.post_act']));
  const seen: Seen = new Map();
  const hooks = noting(seen, ['mlp.post_act']);
  let given: Tensor | undefined;
  hooks.mlp.postAct.bwd.append(new AtLayers(2).append(atPositions([3, 5], (gradient) => gradient.fill(0))));
  hooks.mlp.postAct.bwd.append((gradient) => {
    given = gradient;
  });
  const all = hooks.clone();
  // the first hook appended sees what the later ones left
  await goBack(xf, rows, all);
  const [before, after] = [await plain.get('mlp.post_act 2'), await seen.get('mlp.post_act 2')] as Float32Array[];
  const seq = (rows[0] as number[]).length;
  const width = (before as Float32Array).length / rows.length / seq;
  const expected = Float32Array.from(before as Float32Array, (x, i) =>
    [3, 5].includes(Math.floor(i / width) % seq) ? 0 : x,
  );
  assert.equal(after, expected);
  await rejects((given as unknown as Tensor).read(), Error, /the hook it was given to has ended; keep a clone/);
});

test('a point that the loss does not depend on is not called, nor one whose value became a constant', async () => {
  const called: string[] = [];
  const hooks = new TransformerHooks();
  for (const point of ['mlp.pre_act', 'mlp.post_act', 'resid.torso.delta_mlp', 'resid.torso.post_mlp']) {
    hooks.appendToPath(`${point}.bwd`, (_, { layer }) => {
      called.push(`${point} ${layer}`);
    });
  }
  let early: Tensor | undefined;
  hooks.mlp.postAct.appendFwd(new AtLayers(2).append((x) => Tensor.zeros([...x.shape], { device })));
  hooks.resid.torso.postMlp.appendFwd2(
    new AtLayers(1).append((x) => {
      early = x.clone();
    }),
  );
  const { logits, record } = await xf.forward(rows, { hooks, grad: true });
  await logits.sum().backward({ retain: true });
  const downTo = (l: number) => ['post_mlp', 'delta_mlp'].map((name) => `resid.torso.${name} ${l}`);
  const through = (l: number) => [...downTo(l), `mlp.post_act ${l}`, `mlp.pre_act ${l}`];
  assert.equal(called.splice(0), [...downTo(2), ...through(1), ...through(0)]);
  await (early as unknown as Tensor).sum().backward({ retain: true });
  assert.equal(called, [...through(1), ...through(0)]);
  record?.dispose();
  await rejects(logits.sum().backward(), Error, /its record is gone|record .* disposed/);
});

test('what a backward hook throws names its place, and ends the record', async () => {
  const hooks = new TransformerHooks();
  hooks.mlp.preAct.appendBwd(
    new AtLayers(1).append(() => {
      throw new RangeError('no');
    }),
  );
  const { logits } = await xf.forward(rows, { hooks, grad: true });
  using loss = logits.sum();
  await rejects(
    loss.backward({ retain: true }),
    Error,
    /^mlp\.pre_act, layer 1, gradient: a hook threw RangeError: no$/,
  );
  await rejects(loss.backward(), Error, /a backward\(\) over it has failed/);
  const wrong = new TransformerHooks();
  wrong.attn.q.appendBwd((gradient) => gradient.select(0, 0));
  const other = await xf.forward(rows, { hooks: wrong, grad: true });
  await rejects(
    other.logits.sum().backward(),
    TypeError,
    /attn\.q, layer 2, gradient: a hook must return a tensor of shape/,
  );
});

test('hooks that change between forward and backward: backward calls those that were there', async () => {
  for (const point of ['mlp.pre_act', 'mlp.post_act', 'attn.qk_probs']) {
    const seen: Seen = new Map();
    const hooks = noting(seen, [point]);
    hooks.bind({ mine: 1 });
    const bound: unknown[] = [];
    hooks.appendToPath(`${point}.bwd`, (_, { mine }) => {
      bound.push(mine);
    });
    const { logits } = await xf.forward(rows, { hooks, grad: true });
    hooks.unbind(['mine']);
    hooks.appendToPath(`${point}.fwd`, (x) => x.mul_(0));
    hooks.appendToPath(`${point}.bwd`, () => assert.unreachable());
    await logits.sum().backward();
    assert.equal(bound, [1, 1, 1], point);
    const plain: Seen = new Map();
    const again = await xf.forward(rows, { hooks: noting(plain, [point]), grad: true });
    await again.logits.sum().backward();
    for (const [key, value] of await valuesOf(plain)) assert.equal(await seen.get(key), value, key);
  }
});

test('an autoencoder at some positions: its backward hooks have the context of these', async () => {
  for (const [point, positions] of [
    ['mlp.post_act', [1, 3]],
    ['attn.k', [2]],
    ['mlp.post_act', [4, 0, 9]],
  ] as const) {
    const inside = new AutoencoderHooks({ encode: (x) => x.mul(2), decode: (x) => x.mul(0.5) });
    const contexts: unknown[] = [];
    inside.latents.appendBwd(async (gradient, context) => {
      const own = (point === 'attn.k' ? context.keyPositions : context.positions) as Tensor;
      contexts.push([gradient.shape.slice(0, 2), await own.toArray()]);
    });
    const hooks = new TransformerHooks();
    hooks.appendToPath(`${point}.fwd`, new AtLayers(1).append(atPositions(positions, inside)));
    await goBack(xf, rows, hooks);
    const all = rows.map(() => [...positions]);
    assert.equal(contexts, [[[rows.length, positions.length], all]], point);
  }
});

test('a backward hook that a forward hook of its point appends is called', async () => {
  const hooks = new TransformerHooks();
  let calls = 0;
  hooks.mlp.postAct.appendFwd(
    new AtLayers(1).append(() => {
      hooks.mlp.postAct.appendBwd(() => {
        calls++;
      });
    }),
  );
  using v = Tensor.zeros([xf.config.dModel], { device }).requireGrad();
  hooks.resid.postEmb.appendFwd((x) => x.add(v));
  await goBack(xf, rows, hooks);
  assert.is(calls, 2); // in layers 1 and 2
});

test('gradients of parameters add up over the passes of a loss; those of two models cannot be joined', async () => {
  const shorter = rows.map((row) => row.slice(4));
  const lossOf = async (model: Transformer, tokens: number[][]) => {
    const { logits } = await model.forward(tokens, { grad: 'parameters' });
    return logits.sum();
  };
  const name = 'xf_layers.1.attn.k_proj.weight';
  const gradientOf = async (loss: Tensor) => ((await loss.backward()).get(name) as Tensor).read();
  const both = await gradientOf((await lossOf(xf, rows)).add(await lossOf(xf, shorter)));
  const [one, other] = [await gradientOf(await lossOf(xf, rows)), await gradientOf(await lossOf(xf, shorter))];
  close(
    both,
    Array.from(one, (x, i) => x + (other[i] as number)),
    { rtol: 1e-5, atol: 1e-6 },
  );
  using model = await Transformer.load(g.folder, { device });
  const [a, b] = [await lossOf(xf, rows), await lossOf(model, rows)];
  assert.throws(() => a.add(b), /parameters of two models/);
});

test('several recorded passes at a time do not hear of one another', async () => {
  const inputs = [rows, rows.map((row) => row.toReversed()), rows.map((row) => row.slice(3))];
  const wait = () => new Promise((resolve) => setImmediate(resolve));
  const run = async (tokens: number[][]) => {
    const v = Tensor.randn([xf.config.dModel], { device, seed: 9 }).requireGrad();
    const hooks = new TransformerHooks();
    hooks.resid.torso.deltaAttn.appendFwd(async (x) => {
      await wait();
      return x.add(v);
    });
    hooks.mlp.postAct.appendBwd(async () => {
      await wait();
    });
    await goBack(xf, tokens, hooks);
    return (v.grad as Tensor).read();
  };
  const alone: ArrayLike<number>[] = [];
  for (const tokens of inputs) alone.push(await run(tokens));
  const together = await Promise.all(inputs.map(run));
  for (const [i, values] of together.entries()) assert.equal(values, alone[i]);
});

test('weights that are gone before backward are an error by name', async () => {
  for (const [how, end] of Object.entries({
    disposed: (model: Transformer) => model.dispose(),
    folded: (model: Transformer) => model.simplify(),
  })) {
    const model = await Transformer.load(g.folder, { device });
    const why = how === 'folded' ? /cannot be used: simplify\(\) has put another/ : /cannot be used: it was disposed/;
    const losses: Tensor[] = [];
    for (const point of ['mlp.post_act', 'mlp.pre_act', 'resid.torso.ln_mlp.scale']) {
      const hooks = new TransformerHooks();
      hooks.appendToPath(`${point}.bwd`, () => {});
      losses.push((await model.forward(rows, { hooks, grad: true })).logits.sum());
    }
    end(model);
    for (const loss of losses) {
      const error: Error = await loss.backward().then(
        () => assert.unreachable(),
        (thrown) => thrown,
      );
      assert.match(error.message, /backward needs a packed matrix \[\d+, \d+\]|backward needs PackedMatrix \[/i);
      assert.match(error.message, why);
    }
    if (how === 'folded') model.dispose();
  }
});

test('what is not a kind of gradients is refused', async () => {
  await rejects(
    xf.forward(rows, { grad: 'all' as never }),
    TypeError,
    /forward: grad must be true, false or 'parameters'/,
  );
  await rejects(xf.forward(rows, { grad: 1 as never }), TypeError, /forward: grad must be true, false or 'parameters'/);
});

test.run();
