// gradients(): values and gradients at locations, latents among them. Oracle: the original in PyTorch, and the derivative
// along a direction, measured.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { Autoencoder } from '../../../src/autoencoder/autoencoder.js';
import { openDevice } from '../../../src/engine/device.js';
import { crossEntropy } from '../../../src/engine/ops/cross_entropy.js';
import { Tensor } from '../../../src/engine/ops/tensor.js';
import type { GradientsOptions } from '../../../src/transformer/gradients.js';
import { AtLayers, AutoencoderHooks, TransformerHooks } from '../../../src/transformer/hooks.js';
import { prepInputAndPad } from '../../../src/transformer/padding.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { close, relativeError } from '../../support/close.js';
import { openGolden } from '../../support/goldens.js';
import { rejects, suite } from '../../support/harness.js';

const test = suite('gradients');

const g = await openGolden('tiny');
const rows = g.rows('tokens');
const device = openDevice('cpu');
const xf = await Transformer.load(g.folder, { device });
const nextTokens = rows.map((row) => row.slice(1));
const loss = ({ logits }: { logits: Tensor }) => crossEntropy(logits.slice(1, 0, -1), nextTokens);

test('each location: its value and its gradient', async () => {
  const at = [
    'logits',
    '*/mlp/pre_act',
    'resid/post_emb',
    '1/attn/qk_probs',
    '2/resid/delta_attn',
    '0/attn/q',
    '2/resid/ln_mlp/scale',
  ];
  const { values, gradients } = await xf.gradients(rows, { of: loss, at });
  const names = at.flatMap((name) =>
    name.startsWith('*') ? [0, 1, 2].map((l) => name.replace('*', String(l))) : name,
  );
  assert.equal([...values.keys()], names);
  assert.equal([...gradients.keys()], names);
  for (const name of names) {
    const [value, gradient] = [values.get(name), gradients.get(name)] as [Tensor, Tensor];
    const [, layer, rest] = /^(?:(\d)\/)?(.*)$/.exec(name) as unknown as [string, string | undefined, string];
    const point = rest.replaceAll('/', '.').replace(/^resid\.(?!post_emb)/, 'resid.torso.');
    const key = layer === undefined ? point : `${layer}.${point}`;
    g.agrees(`fwd/${key}`, await value.read(), 5e-5);
    g.agrees(`bwd/${key}`, await gradient.read(), 2e-4);
    await rejects(value.sum().backward(), Error, /depends on nothing that is recorded/);
  }
  for (const t of [...values.values(), ...gradients.values()]) t.dispose();
});

test('latents of a float32 autoencoder in a model of 16 bits', async () => {
  const at = ['1/mlp/post_act/latents', '0/resid/post_mlp'];
  using ae = await Autoencoder.load(join(g.folder, 'ae_relu.pt'), { device });
  const autoencoders = { '1/mlp/post_act': ae };
  const expected = await xf.gradients(rows, { of: loss, at, autoencoders });
  for (const [dtype, bound] of [
    ['float16', 0.02],
    ['bfloat16', 0.2],
  ] as const) {
    const narrow = await Transformer.load(g.folder, { device, dtype });
    const { values, gradients } = await narrow.gradients(rows, { of: loss, at, autoencoders });
    for (const name of at) {
      const [ours, wide] = [gradients.get(name), expected.gradients.get(name)] as [Tensor, Tensor];
      assert.is(ours.dtype, 'float32');
      const error = relativeError((await ours.read()) as Float32Array, (await wide.read()) as Float32Array);
      assert.ok(error < bound, `${dtype}, ${name}: ${error}`);
    }
    for (const t of [...values.values(), ...gradients.values()]) t.dispose();
    narrow.dispose();
  }
  for (const t of [...expected.values.values(), ...expected.gradients.values()]) t.dispose();
});

test('latents of autoencoders of each kind, whose errors are added back', async () => {
  for (const kind of ['relu', 'topk', 'identity', 'tied']) {
    using ae = await Autoencoder.load(join(g.folder, `ae_${kind}.pt`), { device });
    const at = ['1/mlp/post_act/latents', '1/mlp/post_act', '0/resid/post_mlp'];
    const { values, gradients } = await xf.gradients(rows, { of: loss, at, autoencoders: { '1/mlp/post_act': ae } });
    assert.equal([...gradients.keys()], at);
    const plain = await xf.activations(rows, ['1/mlp/post_act']);
    using x = plain.get('1/mlp/post_act') as Tensor;
    using latents = ae.encode(x);
    const [ofLatents, ofX] = at.map((name) => gradients.get(name)) as [Tensor, Tensor];
    close(await (values.get(at[0] as string) as Tensor).read(), await latents.read());
    close(await (values.get(at[1] as string) as Tensor).read(), await x.read(), { rtol: 1e-4, atol: 1e-5 });
    g.agrees('bwd/1.mlp.post_act', await ofX.read(), 2e-4);
    // the reconstruction is linear in the latents: their gradient is the decoder's part of that of x
    const decoded = async (t: Tensor) => (await ae.decode(t).read()) as Float32Array;
    using zeros = Tensor.zeros([...latents.shape], { device });
    const origin = await decoded(zeros);
    for (const i of [0, 7, ae.nLatents - 1]) {
      using one = zeros.clone();
      one.select(-1, i).fill(1);
      const direction = (await decoded(one)).map((value, j) => value - (origin[j] as number));
      const flat = (await ofX.read()) as Float32Array;
      const n = ae.nInputs;
      const sums = Array.from({ length: flat.length / n }, (_, r) =>
        direction.subarray(r * n, (r + 1) * n).reduce((sum, value, j) => sum + value * (flat[r * n + j] as number), 0),
      );
      close(await ofLatents.select(-1, i).read(), sums, { rtol: 1e-3, atol: 1e-6, label: `${kind} ${i}` });
    }
    for (const t of [...values.values(), ...gradients.values()]) t.dispose();
  }
});

test('hooks, padding, a scalar of values, one that comes later', async () => {
  const { tokens, pad } = prepInputAndPad(g.json.prompts, 'left', device);
  using v = Tensor.randn([xf.config.dModel], { device, seed: 5 }).requireGrad();
  const hooks = new TransformerHooks();
  const seen: string[] = [];
  hooks.resid.torso.postMlp.appendFwd(new AtLayers(0).append((x) => x.add(v)));
  hooks.mlp.postAct.appendBwd((gradient, { layer }) => {
    seen.push(`bwd ${layer}`);
    return gradient;
  });
  const { gradients } = await xf.gradients(tokens, {
    pad,
    hooks,
    at: ['1/mlp/post_act', '2/mlp/post_act'],
    of: async ({ values }) => {
      await new Promise((resolve) => setImmediate(resolve));
      return (values.get('1/mlp/post_act') as Tensor).select(-1, 3).sum();
    },
  });
  assert.equal(seen, ['bwd 1', 'bwd 0']);
  const one = gradients.get('1/mlp/post_act') as Tensor;
  using expected = one.mul(0);
  expected.select(-1, 3).fill(1);
  assert.equal(await one.read(), await expected.read());
  // the scalar does not depend on what comes later
  const later = gradients.get('2/mlp/post_act') as Tensor;
  assert.equal(later.shape, one.shape);
  assert.ok((await later.read()).every((x) => x === 0));
  assert.ok((await (v.grad as Tensor).read()).some((x) => x !== 0));
  assert.is(hooks.mlp.postAct.bwd.inner.length, 1, 'the hooks of the caller are as they were');
});

test('a scalar of values: at a probability, at a latent, at a constant that a hook put there', async () => {
  const ones = (x: Tensor) => x.mul(0).add(1);
  using ae = await Autoencoder.load(join(g.folder, 'ae_identity.pt'), { device });
  const latents = '1/mlp/post_act/latents';
  const at = ['1/attn/qk_probs', latents, '2/mlp/post_act', '0/mlp/post_act'];
  const hooks = new TransformerHooks();
  hooks.mlp.postAct.appendFwd(new AtLayers(2).append((x) => Tensor.randn([...x.shape], { device, seed: 1 })));
  const options = { at, hooks, autoencoders: { '1/mlp/post_act': ae } };
  for (const name of at.slice(0, 3)) {
    const { values, gradients } = await xf.gradients(rows, {
      ...options,
      of: ({ values }) => (values.get(name) as Tensor).sum(),
    });
    using expected = ones(values.get(name) as Tensor);
    assert.equal(await (gradients.get(name) as Tensor).read(), await expected.read(), name);
    const before = await (gradients.get('0/mlp/post_act') as Tensor).read();
    // a constant depends on nothing; what a latent or a probability depends on is in the layer before
    assert.is(
      before.some((x) => x !== 0),
      name !== '2/mlp/post_act',
      name,
    );
  }
  // the logits and a value together: the sum of both
  const of = async (share: number) => {
    const { gradients } = await xf.gradients(rows, {
      ...options,
      of: ({ logits, values }) =>
        loss({ logits }).add((values.get('1/attn/qk_probs') as Tensor).pow(2).sum().mul(share)),
    });
    return (gradients.get('0/mlp/post_act') as Tensor).read();
  };
  const [none, half, one] = [await of(0), await of(0.5), await of(1)];
  close(
    half,
    Array.from(one, (x, i) => (x + (none[i] as number)) / 2),
    { rtol: 1e-3, atol: 1e-6 },
  );
  assert.not.equal(none, one);
  // through the constant, the logits have a gradient
  const { gradients } = await xf.gradients(rows, { ...options, of: loss });
  assert.ok((await (gradients.get('2/mlp/post_act') as Tensor).read()).some((x) => x !== 0));
});

test('values and gradients are those behind all forward hooks', async () => {
  const hooks = new TransformerHooks();
  hooks.mlp.postAct.appendFwd2(new AtLayers(1).append((x) => x.mul(2)));
  hooks.mlp.postAct.appendBwd(new AtLayers(1).append((gradient) => gradient.mul(100)));
  const at = ['1/mlp/post_act'];
  const { values, gradients } = await xf.gradients(rows, { hooks, at, of: loss });
  const plain = await xf.activations(rows, at);
  const [value, original] = [values.get(at[0] as string), plain.get(at[0] as string)] as [Tensor, Tensor];
  close(await value.read(), await original.mul(2).read(), { rtol: 1e-6 });
  const doubled = new TransformerHooks();
  doubled.mlp.postAct.appendFwd(new AtLayers(1).append((x) => x.mul(2)));
  const other = await xf.gradients(rows, { hooks: doubled, at, of: loss });
  assert.equal(await gradients.get(at[0] as string)?.read(), await other.gradients.get(at[0] as string)?.read());
});

test('inside a hook of another pass, and with a scalar that is not to be freed', async () => {
  const at = ['0/mlp/post_act'];
  const expected = await (await xf.gradients(rows, { at, of: loss })).gradients.get(at[0] as string)?.read();
  using v = Tensor.ones([], { device }).requireGrad();
  for (const grad of [false, true]) {
    const found: unknown[] = [];
    const hooks = new TransformerHooks();
    hooks.resid.postEmb.appendFwd(async (x) => {
      const { gradients } = await xf.gradients(rows, { at, of: ({ logits }) => loss({ logits }).mul(v) });
      found.push(await gradients.get(at[0] as string)?.read());
      return x.mul(v);
    });
    const { logits } = await xf.forward(rows, { hooks, grad });
    assert.equal(found, [expected]);
    if (grad) await logits.sum().backward();
    else await rejects(logits.sum().backward(), Error, /depends on nothing that is recorded/);
  }
  const scale = '0/resid/ln_attn/scale';
  const { values } = await xf.gradients([[3]], { at: [scale], of: ({ values }) => values.get(scale) as Tensor });
  assert.is((await (values.get(scale) as Tensor).read()).length, 1);
  v.zeroGrad();
  await xf.gradients([[3]], { at, of: () => v });
  assert.is(await (v.grad as Tensor).item(), 1);
});

test('the derivative along the gradient, measured', async () => {
  const at = ['1/resid/delta_mlp'];
  const { gradients } = await xf.gradients(rows, { of: loss, at });
  using gradient = gradients.get(at[0] as string) as Tensor;
  const lossAt = async (step: number) => {
    const hooks = new TransformerHooks();
    hooks.resid.torso.deltaMlp.appendFwd(new AtLayers(1).append((x) => x.add_(gradient.mul(step))));
    const { logits } = await xf.forward(rows, { hooks });
    using owned = logits;
    using value = loss({ logits: owned });
    return value.item();
  };
  const squares = await gradient.mul(gradient).sum().item();
  const h = 0.05 / Math.sqrt(squares);
  const slope = ((await lossAt(h)) - (await lossAt(-h))) / (2 * h);
  close([slope], [squares], { rtol: 0.01 });
});

test('memory: nothing is left but what is handed out, also where it fails', async () => {
  using ae = await Autoencoder.load(join(g.folder, 'ae_relu.pt'), { device });
  const at = ['1/mlp/post_act/latents', '0/mlp/pre_act'];
  const autoencoders = { '1/mlp/post_act': ae };
  const throwing = new TransformerHooks();
  throwing.resid.postLnF.appendFwd(() => {
    throw new Error('on purpose');
  });
  const throwingBack = new TransformerHooks();
  throwingBack.resid.torso.postMlp.appendBwd(() => {
    throw new Error('on purpose');
  });
  const of = ({ logits }: { logits: Tensor }) => logits.sum();
  const cases: Partial<GradientsOptions>[] = [
    {},
    { hooks: throwing },
    { hooks: throwingBack },
    { of: () => Promise.reject(new Error('on purpose')) },
    { of: () => 1 as never },
  ];
  const before = device.memory().allocated;
  for (const options of cases) {
    const result = await xf.gradients(rows, { of, at, autoencoders, ...options }).catch((error: Error) => error);
    if (result instanceof Error) assert.match(result.message, /on purpose|of must be a function that returns a scalar/);
    else for (const t of [...result.values.values(), ...result.gradients.values()]) t.dispose();
    assert.is(device.memory().allocated, before, JSON.stringify(options));
  }
});

test('wrong arguments are refused by name', async () => {
  const of = loss;
  const at = ['1/mlp/post_act'];
  const refused: [unknown, RegExp][] = [
    [undefined, /gradients: options/],
    [{ at }, /gradients: of must be a function/],
    [{ of }, /gradients: at must be an array of locations/],
    [{ of, at: 'logits' }, /gradients: at must be an array of locations/],
    [{ of, at: [7] }, /gradients: locations\[0\] must be/],
    [{ of, at: ['9/mlp/post_act'] }, /the layer must be from 0 to 2/],
    [{ of, at: ['1/mlp/middle'] }, /is not known/],
    [
      { of, at: ['1/mlp/post_act/latents'] },
      /gradients: at '1\/mlp\/post_act\/latents' must be at a location of autoenc/,
    ],
    [{ of, at, autoencoders: 3 }, /gradients: autoencoders must be an object/],
    [{ of, at, autoencoders: { '1/mlp/post_act': {} } }, /autoencoders\['1\/mlp\/post_act'\] must be an autoencoder/],
    [
      { of, at, autoencoders: { here: new AutoencoderHooks({ encode: (x) => x, decode: (x) => x }) } },
      /must be an auto/,
    ],
    [{ of, at, hooks: 3 }, /gradients: hooks must be TransformerHooks/],
    [{ of, at, other: 1 }, /gradients: .*other/],
    [{ of: () => Tensor.zeros([2], { device }), at }, /backward: the tensor must be a scalar/],
    [{ of: () => Tensor.zeros([], { device }), at }, /depends on nothing that is recorded/],
  ];
  for (const [options, message] of refused) await rejects(xf.gradients(rows, options as never), Error, message);
});

test.run();
