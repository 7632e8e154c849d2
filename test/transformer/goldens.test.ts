// Every reference activation and gradient of the original in PyTorch, within test/fixtures/README.md's bounds: with all
// points watched, with one at a time, and with none.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { Autoencoder } from '../../src/autoencoder/autoencoder.js';
import { openDevice } from '../../src/engine/device.js';
import { crossEntropy } from '../../src/engine/ops/cross_entropy.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { AtLayers, AutoencoderHooks, TransformerHooks } from '../../src/transformer/hooks.js';
import { finalPoints, firstPoint, layerPoints } from '../../src/transformer/location.js';
import { prepInputAndPad } from '../../src/transformer/padding.js';
import { nucleus } from '../../src/transformer/sampling/sampling.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { close, relativeError } from '../support/close.js';
import { type Golden, goldenNames, openGolden } from '../support/goldens.js';
import { rejects, suite, throws } from '../support/harness.js';

const logitsBound = 2e-5;
const pointBound = 5e-5;
const gradientBound = 2e-4;

// the original has no point for the output of each head
const points = [firstPoint, ...layerPoints, ...finalPoints].filter((point) => point !== 'attn.head_out');
const boundOf = (key: string) => (key.endsWith('logits') && !key.includes('qk_logits') ? logitsBound : pointBound);

/** A golden's key for a value seen at a point. */
const keyOf = (point: string, layer?: number) => `fwd/${layer === undefined ? '' : `${layer}.`}${point}`;

/** Hooks that note every value at the given points. */
function watching(points: readonly string[], seen: Map<string, Promise<ArrayLike<number>>>): TransformerHooks {
  const hooks = new TransformerHooks();
  for (const point of points) {
    hooks.appendToPath(`${point}.fwd`, (x, { layer }) => {
      seen.set(keyOf(point, layer), x.read());
    });
  }
  return hooks;
}

/** Hooks that note the gradient at the given points. */
function watchingGradients(points: readonly string[], seen: Map<string, Promise<ArrayLike<number>>>): TransformerHooks {
  const hooks = new TransformerHooks();
  for (const point of points) {
    hooks.appendToPath(`${point}.bwd`, (gradient, { layer }) => {
      seen.set(keyOf(point, layer).replace('fwd/', 'bwd/'), gradient.read());
    });
  }
  return hooks;
}

/** The mean loss of the next tokens, gone back from; what backward() returns. */
async function goneBack(
  xf: Transformer,
  g: Golden,
  options: { hooks?: TransformerHooks; grad: true | 'parameters' },
): Promise<Map<string, Tensor>> {
  const rows = g.rows('tokens');
  const { logits } = await xf.forward(rows, options);
  using owned = logits;
  using loss = crossEntropy(
    owned.slice(1, 0, -1),
    rows.map((row) => row.slice(1)),
  );
  g.agrees('loss', await loss.read(), logitsBound);
  g.agrees('logits', await logits.read(), logitsBound);
  return loss.backward();
}

/** Compares a gradient; those of the keys' biases are 0 but for rounding, as softmax does not see a shift. */
function gradientAgrees(g: Golden, key: string, actual: ArrayLike<number>, label: string): void {
  if (key.endsWith('attn.k_proj.bias')) {
    assert.is(actual.length, g.values(key).length);
    assert.ok(Math.hypot(...Array.from(actual)) < 1e-5, `${g.name} ${key} ${label}`);
  } else {
    g.agrees(key, actual, gradientBound, label);
  }
}

async function logitsOf(xf: Transformer, g: Golden, hooks?: TransformerHooks): Promise<Float32Array> {
  const { logits } = await xf.forward(g.rows('tokens'), hooks ? { hooks } : {});
  try {
    return (await logits.read()) as Float32Array;
  } finally {
    logits.dispose();
  }
}

for (const name of goldenNames) {
  const test = suite(`goldens ${name}`);
  let g: Golden;
  let xf: Transformer;
  let onCpu: Transformer; // for gradients
  test.before(async () => {
    g = await openGolden(name);
    xf = await Transformer.load(g.folder);
    onCpu = await Transformer.load(g.folder, { device: openDevice('cpu') });
  });

  test('with no point watched', async () => {
    assert.is(xf.nVocab, g.json.n_vocab);
    const logits = await logitsOf(xf, g);
    g.agrees('logits', logits, logitsBound);
    g.agrees('fwd/logits', logits, logitsBound);
    const V = xf.nVocab;
    const losses = g.rows('tokens').flatMap((row, r) =>
      row.slice(1).map((target, i) => {
        const at = (r * row.length + i) * V;
        const own = Array.from(logits.subarray(at, at + V));
        const largest = Math.max(...own);
        return Math.log(own.reduce((sum, x) => sum + Math.exp(x - largest), 0)) + largest - (own[target] as number);
      }),
    );
    g.agrees('loss', [losses.reduce((a, b) => a + b) / losses.length], logitsBound);
  });

  test('with all points watched at once', async () => {
    const seen = new Map<string, Promise<ArrayLike<number>>>();
    g.agrees('logits', await logitsOf(xf, g, watching(points, seen)), logitsBound);
    const expected = g.keys.filter((key) => key.startsWith('fwd/'));
    assert.equal([...seen.keys()].sort(), expected.sort());
    for (const [key, value] of seen) g.agrees(key, await value, boundOf(key), 'all watched');
  });

  test('with one point watched at a time', async () => {
    for (const point of points) {
      const seen = new Map<string, Promise<ArrayLike<number>>>();
      g.agrees('logits', await logitsOf(xf, g, watching([point], seen)), logitsBound, `${point} watched`);
      const layered = (layerPoints as readonly string[]).includes(point);
      assert.is(seen.size, layered ? xf.config.nLayers : 1);
      for (const [key, value] of seen) g.agrees(key, await value, boundOf(key), `${point} alone`);
    }
  });

  test('gradients with all points watched at once, and forward as well', async () => {
    const expected = g.keys.filter((key) => key.startsWith('bwd/')).sort();
    for (const forward of [false, true]) {
      const seen = new Map<string, Promise<ArrayLike<number>>>();
      const hooks = watchingGradients(points, seen);
      if (forward) for (const point of points) hooks.appendToPath(`${point}.fwd`, () => {});
      assert.is((await goneBack(onCpu, g, { hooks, grad: true })).size, 0);
      assert.equal([...seen.keys()].sort(), expected);
      for (const [key, value] of seen)
        g.agrees(key, await value, gradientBound, forward ? 'open steps' : 'all watched');
    }
  });

  test('gradients with one point watched at a time', async () => {
    for (const point of points) {
      const seen = new Map<string, Promise<ArrayLike<number>>>();
      await goneBack(onCpu, g, { hooks: watchingGradients([point], seen), grad: true });
      const layered = (layerPoints as readonly string[]).includes(point);
      assert.is(seen.size, layered ? xf.config.nLayers : 1);
      for (const [key, value] of seen) g.agrees(key, await value, gradientBound, `${point} alone`);
    }
  });

  test('gradients of all parameters, with no point watched and with all', async () => {
    const names = g.keys.filter((key) => key.startsWith('grad/')).map((key) => key.slice('grad/'.length));
    for (const watched of [[], points]) {
      const seen = new Map<string, Promise<ArrayLike<number>>>();
      const hooks = watchingGradients(watched, seen);
      const gradients = await goneBack(onCpu, g, { hooks, grad: 'parameters' });
      assert.equal([...gradients.keys()].sort(), names.sort());
      for (const [name, gradient] of gradients) {
        assert.equal(gradient.shape, g.tensor(`grad/${name}`).shape, name);
        gradientAgrees(g, `grad/${name}`, await gradient.read(), `${watched.length} points watched`);
        gradient.dispose();
      }
      for (const [key, value] of seen) g.agrees(key, await value, gradientBound, 'with parameters');
    }
  });

  test('the gradient of a latent at points before its autoencoder', async () => {
    using ae = await Autoencoder.load(join(g.folder, 'ae_relu.pt'), { device: onCpu.device });
    const keys = g.keys.filter((key) => key.startsWith('ae_latent11_grad/'));
    const seen = new Map<string, Promise<ArrayLike<number>>>();
    const hooks = new TransformerHooks();
    let latent: Tensor | undefined;
    hooks.mlp.postAct.appendFwd(
      new AtLayers(1).append((x) => {
        using latents = ae.encode(x);
        latent = latents.select(-1, 11).clone();
      }),
    );
    for (const key of keys) {
      const [, layer, point] = /\/(?:(\d+)\.)?(.*)$/.exec(key) as unknown as [string, string | undefined, string];
      const note = (gradient: Tensor) => {
        seen.set(key, gradient.read());
      };
      hooks.appendToPath(`${point}.bwd`, layer === undefined ? note : new AtLayers(Number(layer)).append(note));
    }
    const { logits, record } = await onCpu.forward(g.rows('tokens'), { hooks, grad: true });
    await (latent as unknown as Tensor).sum().backward();
    assert.equal([...seen.keys()].sort(), keys.sort());
    for (const [key, value] of seen) g.agrees(key, await value, gradientBound);
    logits.dispose();
    record?.dispose();
  });

  test('on a GPU, what wants gradients is refused', async () => {
    if (xf.device.kind === 'cpu') return;
    const why = /: gradients are computed on the CPU alone so far, and this is on cuda:0$/;
    for (const grad of [true, 'parameters'] as const) await rejects(xf.forward([[1]], { grad }), Error, why);
    await rejects(xf.gradients([[1]], { of: ({ logits }) => logits.sum(), at: ['logits'] }), Error, why);
    throws(() => Tensor.zeros([2]).requireGrad(), Error, why);
  });

  test('activations() gives each, alone and together, and computes no further', async () => {
    const all = [...points];
    const names = all.map((point) =>
      (layerPoints as readonly string[]).includes(point)
        ? `*/${point.replaceAll('.', '/')}`
        : point.replaceAll('.', '/'),
    );
    const values = await xf.activations(g.rows('tokens'), names);
    for (const [location, t] of values) {
      const [, layer, rest] = /^(?:(\d+)\/)?(.*)$/.exec(location) as unknown as [string, string | undefined, string];
      const point = all.find((p) => p.replaceAll('.', '/').replace('/torso/', '/') === rest) as string;
      const key = keyOf(point, layer === undefined ? undefined : Number(layer));
      g.agrees(key, await t.read(), boundOf(key), 'activations');
      const alone = await xf.activations(g.rows('tokens'), [location]);
      assert.equal([...alone.keys()], [location]);
      close(await (alone.get(location) as Tensor).read(), await t.read(), { rtol: 1e-4, atol: 1e-4, label: location });
      for (const x of [t, ...alone.values()]) x.dispose();
    }
  });

  test('key-value caches, and decoding with them', async () => {
    const rows = g.rows('tokens');
    const whole = await xf.forward(rows);
    for (let layer = 0; layer < xf.config.nLayers; layer++) {
      g.agrees(`kv/${layer}.K`, await whole.kvCaches.keys(layer).read(), pointBound);
      g.agrees(`kv/${layer}.V`, await whole.kvCaches.values(layer).read(), pointBound);
    }
    whole.logits.dispose();
    whole.kvCaches.dispose();
    const seq = rows[0]?.length as number;
    const first = await xf.forward(rows.map((row) => row.slice(0, seq - 4)));
    const parts = [first.logits];
    let caches = first.kvCaches;
    for (let i = seq - 4; i < seq; i++) {
      const next = await xf.forward(
        rows.map((row) => [row[i] as number]),
        { kvCaches: caches },
      );
      caches = next.kvCaches;
      parts.push(next.logits);
    }
    const joined = new Float32Array(g.values('logits_incremental').length);
    let at = 0;
    for (const part of parts) {
      const V = xf.nVocab;
      const own = await part.read();
      const n = part.shape[1] as number;
      for (let row = 0; row < rows.length; row++)
        joined.set(own.subarray(row * n * V, (row + 1) * n * V), (row * seq + at) * V);
      at += n;
      part.dispose();
    }
    g.agrees('logits_incremental', joined, logitsBound);
    caches.dispose();
  });

  test('padding on either side', async () => {
    for (const side of ['left', 'right'] as const) {
      const { tokens, pad } = prepInputAndPad(g.json.prompts, side);
      close(await tokens.read(), g.values(`${side}_pad/tokens`));
      close(await pad.read(), g.values(`${side}_pad/pad`));
      for (const watched of [true, false]) {
        const seen = new Map<string, Promise<ArrayLike<number>>>();
        const hooks = watching(watched ? ['attn.qk_probs', 'resid.torso.post_mlp'] : ['resid.torso.post_mlp'], seen);
        const { logits } = await xf.forward(tokens, { pad, hooks });
        g.agrees(
          `${side}_pad/logits`,
          await logits.read(),
          logitsBound,
          `probabilities ${watched ? '' : 'not '}watched`,
        );
        const last = xf.config.nLayers - 1;
        for (const key of [...(watched ? ['0.attn.qk_probs'] : []), `${last}.resid.torso.post_mlp`]) {
          g.agrees(`${side}_pad/${key}`, await (seen.get(`fwd/${key}`) as Promise<ArrayLike<number>>), pointBound);
        }
        logits.dispose();
      }
    }
  });

  test('greedy sampling and the nucleus', async () => {
    const { tokens } = await xf.sample(g.json.prompts, { numTokens: 8, temperature: 0 });
    assert.equal(tokens, g.json.greedy_tokens);
    const V = xf.nVocab;
    const seq = g.rows('tokens')[0]?.length as number;
    const last = g.values('logits').slice((seq - 1) * V, seq * V);
    const weights = Float64Array.from(last, Math.exp);
    const sum = weights.reduce((a, b) => a + b);
    const probs = weights.map((x) => x / sum);
    for (const p of [0.1, 0.5, 0.9]) g.agrees(`nucleus/${p}`, nucleus(probs, p), 1e-5);
  });

  test('edits', async () => {
    const cases: Record<string, (hooks: TransformerHooks) => void> = {
      ablate_l1_n5: (hooks) =>
        hooks.mlp.postAct.appendFwd((x, { layer }) => {
          if (layer === 1) x.select(-1, 5).fill(0);
        }),
      zero_probs_l0_h0: (hooks) =>
        hooks.attn.qkProbs.appendFwd(
          new AtLayers([0]).append((x) => {
            x.select(-1, 0).fill(0);
          }),
        ),
      double_ln_mlp_scale: (hooks) => hooks.resid.torso.lnMlp.scale.appendFwd((x) => x.mul(2)),
      double_softmax_denominator: (hooks) => hooks.attn.qkSoftmaxDenominator.appendFwd(async (x) => x.mul(2)),
      add_resid_post_emb: (hooks) => hooks.resid.postEmb.appendFwd((x) => x.add_(0.25)),
      logits_minus_one: (hooks) => hooks.logits.appendFwd2((x) => x.sub(1)),
    };
    assert.equal(
      g.keys.filter((k) => k.startsWith('intervene/')).sort(),
      Object.keys(cases)
        .map((k) => `intervene/${k}.logits`)
        .sort(),
    );
    for (const [edit, attach] of Object.entries(cases)) {
      const hooks = new TransformerHooks();
      attach(hooks);
      g.agrees(`intervene/${edit}.logits`, await logitsOf(xf, g, hooks), logitsBound);
    }
  });

  test('bfloat16: no further from the reference than bfloat16 itself is from float32', async () => {
    using half = await Transformer.load(g.folder, { dtype: 'bfloat16' });
    const logits = await logitsOf(half, g);
    const bound = relativeError(g.values('bf16/logits'), g.values('logits'));
    g.agrees('bf16/logits', logits, bound);
    const seen = new Map<string, Promise<ArrayLike<number>>>();
    g.agrees('bf16/logits', await logitsOf(half, g, watching(points, seen)), bound, 'all watched');
  });

  test('simplify', async () => {
    using folded = await Transformer.load(g.folder, { simplify: true });
    g.agrees('simplify/logits', await logitsOf(folded, g), logitsBound);
    const state = await folded.stateDict();
    for (const parameter of ['xf_layers.0.attn.q_proj.bias', 'xf_layers.0.mlp.in_layer.weight']) {
      g.agrees(`simplify/${parameter}`, state[parameter]?.data as Float32Array, pointBound);
    }
  });

  test('autoencoders', async () => {
    const input = g.tensor('ae/input');
    using x = Tensor.from(input);
    for (const kind of ['relu', 'topk', 'identity', 'tied', 'relu_tensors', 'relu_legacy', 'relu_half']) {
      using ae = await Autoencoder.load(join(g.folder, `ae_${kind}.pt`));
      const base = kind === 'relu_tensors' || kind === 'relu_legacy' ? 'relu' : kind;
      const { preAct, latents, reconstruction } = await ae.forward(x);
      using encoded = ae.encode(x);
      g.agrees(`ae/${base}.latents`, await latents.read(), pointBound, kind);
      close(await encoded.read(), await latents.read());
      const sparse = await ae.encodeSparse(x);
      const dense = await latents.read();
      const expected = [...dense.entries()].filter(([, v]) => v !== 0);
      close(
        sparse.values,
        expected.map(([, v]) => v),
        { label: `${kind} sparse` },
      );
      close(
        sparse.indices,
        expected.map(([i]) => i % ae.nLatents),
      );
      assert.is(Number(sparse.rowPtr.at(-1)), expected.length);
      using decoded = ae.decodeSparse(sparse);
      close(await decoded.read(), await reconstruction.read(), { rtol: 1e-4, atol: 1e-5 });
      for (const t of [preAct, latents, reconstruction]) t.dispose;
      if (base === 'relu_half') continue;
      g.agrees(`ae/${base}.pre_act`, await preAct.read(), pointBound, kind);
      g.agrees(`ae/${base}.recons`, await reconstruction.read(), pointBound, kind);
      using slice = ae.encodePreAct(x, { latentSlice: [10, 20] });
      g.agrees(`ae/${base}.pre_act_slice_10_20`, await slice.read(), pointBound, kind);
      close(await ae.statsLastNonzero.read(), g.values(`ae/${base}.stats_last_nonzero_after`), { label: kind });
    }
  });

  test('an autoencoder in the pass', async () => {
    using ae = await Autoencoder.load(join(g.folder, 'ae_relu.pt'));
    for (const addError of [true, false]) {
      const inside = new AutoencoderHooks({ encode: (x) => ae.encode(x), decode: (l) => ae.decode(l), addError });
      inside.latents.appendFwd((latents) => {
        latents.select(-1, 3).fill(0);
      });
      const hooks = new TransformerHooks();
      hooks.mlp.postAct.appendFwd(new AtLayers(1).append(inside));
      g.agrees(`ae_hooks/add_error_${addError ? 'True' : 'False'}.logits`, await logitsOf(xf, g, hooks), logitsBound);
    }
  });

  test('no golden value was left out', () => {
    assert.equal(g.left(), []);
  });

  test.run();
}
