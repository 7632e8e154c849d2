// attribute(): oracles are the values and gradients of gradients(), multiplied and sorted in double precision; the
// derivative along each feature, measured; and, for what an attribution estimates, the same pass with the feature ablated.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { Autoencoder } from '../../../src/autoencoder/autoencoder.js';
import { openDevice } from '../../../src/engine/device.js';
import { packageRoot } from '../../../src/engine/native.js';
import type { Tensor } from '../../../src/engine/ops/tensor.js';
import {
  type AttributeOptions,
  type AttributionDirection,
  attribute,
} from '../../../src/transformer/attribution/attribute.js';
import { TransformerHooks } from '../../../src/transformer/hooks.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { close } from '../../support/close.js';
import { openGolden } from '../../support/goldens.js';
import { rejects, suite } from '../../support/harness.js';
import { agreementOf, type Ends, scoreOf, scoreWith, withinTwo } from './ablated.js';

const test = suite('attribute');
test.limit(180_000);
const device = openDevice('cpu');
const demo = await Transformer.load('demo', { device });
const golden = await openGolden('tiny');
const tiny = await Transformer.load(golden.folder, { device });
const inDemo = (place: string, layer: number) =>
  Autoencoder.load(join(packageRoot, 'assets', 'demo', 'autoencoders', place, `${layer}.pt`), { device });
const layers = Array.from({ length: demo.config.nLayers }, (_, layer) => layer);
const autoencoders: Record<string, Autoencoder> = Object.fromEntries(
  await Promise.all(layers.map(async (l) => [`${l}/resid/delta_mlp`, await inDemo('resid_delta_mlp', l)])),
);

const story = 'When David and Tom went to the kitchen, David gave the box to';
const tokens = demo.enc.encode(story);
const [target, instead] = [demo.enc.encode(' Tom')[0] as number, demo.enc.encode(' David')[0] as number];

test('every group: the largest products of values and gradients, and the sum of all', async () => {
  const at = ['*/mlp/post_act', '1/attn/v_out', '3/attn/v_out', '2/resid/post_mlp', '1/resid/delta_mlp/latents'];
  const spliced = { '1/resid/delta_mlp': autoencoders['1/resid/delta_mlp'] as Autoencoder };
  const found = await attribute(demo, tokens, {
    target,
    instead,
    at,
    autoencoders: spliced,
    top: 25,
    direction: 'both',
  });
  const { values, gradients } = await demo.gradients([tokens], {
    at,
    autoencoders: spliced,
    of: ({ logits }) => logits.select(1, -1).select(1, target).sub(logits.select(1, -1).select(1, instead)).sum(),
  });
  type Expected = Map<string, { key: string; attribution: number; value: number; gradient: number }[]>;
  const expected: Expected = new Map();
  for (const [location, value] of values) {
    const gradient = gradients.get(location) as Tensor;
    const [, seq = 0, features = 0, channels = 1] = value.shape;
    const [x, g] = [await value.read(), await gradient.read()];
    const name = location.replace(/^\d\//, '');
    const list = expected.get(name) ?? [];
    expected.set(name, list);
    for (let i = 0; i < seq * features; i++) {
      const range = Array.from({ length: channels }, (_, c) => i * channels + c);
      const attribution = range.reduce((sum, c) => sum + (x[c] as number) * (g[c] as number), 0);
      const norm = Math.hypot(...range.map((c) => x[c] as number));
      const own = channels === 1 ? { value: x[i] as number, gradient: g[i] as number } : { value: norm, gradient: NaN };
      if (channels > 1) own.gradient = attribution / norm;
      list.push({ key: `${location} ${i % features} ${Math.floor(i / features)}`, attribution, ...own });
    }
    value.dispose();
    gradient.dispose();
  }
  assert.equal(
    found.groups.map(({ name, kind }) => [name, kind]),
    [
      ['mlp/post_act', 'neuron'],
      ['attn/v_out', 'head'],
      ['resid/post_mlp', 'channel'],
      ['resid/delta_mlp/latents', 'latent'],
    ],
  );
  for (const { name, sum, strongest } of found.groups) {
    const list = expected.get(name) ?? [];
    const total = list.reduce((all, { attribution }) => all + attribution, 0);
    const sizes = list.reduce((all, { attribution }) => all + Math.abs(attribution), 0);
    close([sum], [total], { atol: sizes * 1e-6, label: name });
    list.sort((a, b) => Math.abs(b.attribution) - Math.abs(a.attribution));
    assert.is(strongest.length, 25);
    const columns = ['attribution', 'value', 'gradient'] as const;
    assert.equal(
      strongest.map(({ location, index, position }) => `${location} ${index} ${position}`),
      list.slice(0, 25).map(({ key }) => key),
    );
    for (const column of columns) {
      const of = (all: readonly Record<typeof column, number>[]) => all.slice(0, 25).map((one) => one[column]);
      close(of(strongest), of(list), { rtol: 1e-4, atol: 1e-5, label: `${name} ${column}` });
    }
  }
});

test('the score, with and without another token, and what is listed when nothing is said', async () => {
  for (const other of [undefined, instead]) {
    const ends: Ends = { target, ...(other !== undefined && { instead: other }) };
    const found = await attribute(demo, tokens, { ...ends, autoencoders });
    close([found.score], [await scoreOf(demo, tokens, ends)], { rtol: 1e-5 });
    close([found.targetLogit], [await scoreOf(demo, tokens, { target })], { rtol: 1e-5 });
    if (other === undefined) assert.not.ok('insteadLogit' in found);
    else close([found.insteadLogit ?? NaN], [await scoreOf(demo, tokens, { target: other })], { rtol: 1e-5 });
    assert.equal(
      found.groups.map(({ name, strongest }) => [name, strongest.length]),
      [
        ['mlp/post_act', 10],
        ['attn/v_out', 10],
        ['resid/delta_mlp/latents', 10],
      ],
    );
    for (const { strongest } of found.groups) {
      assert.ok(new Set(strongest.map(({ location }) => location)).size > 1);
      assert.ok(
        strongest.every(
          ({ attribution }, i) => attribution > 0 && attribution <= (strongest[i - 1] ?? { attribution }).attribution,
        ),
      );
    }
  }
  const { groups } = await attribute(demo, tokens, { target });
  assert.equal(
    groups.map(({ name }) => name),
    ['mlp/post_act', 'attn/v_out'],
  );
});

test('the derivative along each feature, measured: of a neuron, a head, a channel and a latent', async () => {
  const at = ['*/mlp/post_act', '*/mlp/pre_act', '*/resid/post_mlp', '*/resid/delta_mlp/latents'];
  const heads = ['v_out', 'head_out', 'q', 'k', 'v'].map((name) => `*/attn/${name}`);
  const ends = { target, instead };
  const { groups } = await attribute(demo, tokens, {
    ...ends,
    autoencoders,
    at: [...at, ...heads],
    top: 4,
    direction: 'both',
  });
  assert.is(groups.length, 9);
  const h = 0.02;
  for (const { name, strongest } of groups) {
    assert.is(strongest.length, 4);
    const slopes: number[] = [];
    for (const feature of strongest) {
      const [up, down] = [
        await scoreWith(demo, tokens, ends, feature, 1 + h, autoencoders),
        await scoreWith(demo, tokens, ends, feature, 1 - h, autoencoders),
      ];
      slopes.push((up - down) / (2 * h));
    }
    const attributions = strongest.map(({ attribution }) => attribution);
    close(slopes, attributions, { rtol: 0.02, atol: 2e-3, label: name });
  }
});

test('directions: those that speak for the target, those against it, and both by size', async () => {
  const ends = { target, instead, autoencoders };
  const all = await attribute(demo, tokens, { ...ends, top: 1e6, direction: 'both' });
  assert.equal(await attribute(demo, tokens, ends), await attribute(demo, tokens, { ...ends, direction: 'for' }));
  for (const direction of ['for', 'against', 'both'] as const) {
    const { groups } = await attribute(demo, tokens, { ...ends, top: 60, direction });
    for (const [i, { strongest, ...group }] of groups.entries()) {
      const { strongest: others, ...rest } = all.groups[i] as (typeof groups)[number];
      const wanted = others.filter(
        ({ attribution }) => direction === 'both' || attribution > 0 === (direction === 'for'),
      );
      assert.equal(group, rest);
      assert.equal(strongest, wanted.slice(0, 60), `${group.name} ${direction}`);
    }
  }
  const [lowest] = all.groups[1]?.strongest.filter(({ attribution }) => attribution < 0) ?? [];
  const few = await attribute(demo, tokens, { target, instead, at: ['3/attn/v_out'], top: 1e6 });
  assert.ok(
    lowest && (few.groups[0]?.strongest.length ?? 0) <= 4,
    'of the last layer, the heads of the last token alone',
  );
});

test('heads have one attribution, whether before or behind their output projection', async () => {
  const at = ['*/attn/v_out', '*/attn/head_out'];
  const { groups } = await attribute(demo, tokens, { target, at, top: 1000, direction: 'both' });
  const [before, behind] = groups.map(({ strongest }) => {
    const entries = strongest.map((one): [string, number] => [
      `${one.location.slice(0, 1)} ${one.index} ${one.position}`,
      one.attribution,
    ]);
    return new Map(entries);
  }) as [Map<string, number>, Map<string, number>];
  // of the last layer, those of the last token alone
  assert.is(before.size, demo.config.nHeads * ((demo.config.nLayers - 1) * tokens.length + 1));
  const keys = [...before.keys()];
  close(
    keys.map((key) => before.get(key) as number),
    keys.map((key) => behind.get(key) as number),
    { rtol: 1e-3, atol: 1e-4 },
  );
});

test('where the rest is linear, attributions are exact', async () => {
  const given = golden.rows('tokens')[0] as number[];
  const ends = { target: 7, instead: 11 };
  const at = ['resid/post_ln_f'];
  const { groups, score } = await attribute(tiny, given, { ...ends, at, top: 5, direction: 'both' });
  const [{ sum, strongest } = { sum: NaN, strongest: [] }] = groups;
  for (const feature of strongest) {
    close([score - (await scoreWith(tiny, given, ends, feature, 0))], [feature.attribution], {
      rtol: 1e-3,
      atol: 1e-5,
    });
    assert.is(feature.position, given.length - 1, 'the logits are those of the last token');
  }
  const hooks = new TransformerHooks();
  hooks.resid.postLnF.appendFwd((x) => void x.fill(0));
  close([score - (await scoreOf(tiny, given, ends, hooks))], [sum], { rtol: 1e-3, atol: 1e-5 });
});

test('in bfloat16, and for a feature that has no effect', async () => {
  const half = await Transformer.load('demo', { device, dtype: 'bfloat16' });
  const options = { target, direction: 'both' } as const;
  const [exact, rounded] = [await attribute(demo, tokens, options), await attribute(half, tokens, options)];
  close([rounded.score], [exact.score], { rtol: 0.05 });
  const [first, second] = [exact, rounded].map(({ groups }) => groups[0]?.strongest[0]);
  assert.equal([first?.location, first?.index], [second?.location, second?.index]);
  half.dispose();
  // behind the last layer's neurons, only those of the last token have an effect
  const { groups } = await attribute(demo, tokens, { ...options, at: ['3/mlp/post_act'], top: 1e6 });
  const strongest = groups[0]?.strongest ?? [];
  assert.ok(strongest.length > 200 && strongest.every(({ position }) => position === tokens.length - 1));
});

test('memory: nothing is left, and a prompt of one token will do', async () => {
  const before = device.memory().allocated;
  await attribute(demo, tokens.slice(0, 1), { target, instead, autoencoders, top: 3 });
  assert.is(device.memory().allocated, before);
});

// Prompts of the demo's own kind, none of them chosen: every tenth story of the sample text, cut somewhere. The target is the
// token that follows there, and the other one the likeliest besides.
async function prompts(): Promise<{ cut: number[]; ends: Required<Ends> }[]> {
  const text = readFileSync(join(packageRoot, 'assets', 'demo', 'stories-sample.txt'), 'utf8');
  const stories = text.split('\n\n').filter((_, i) => i % 10 === 0);
  const all: { cut: number[]; ends: Required<Ends> }[] = [];
  for (const [i, story] of stories.slice(0, 24).entries()) {
    const whole = demo.enc.encode(story);
    const length = 5 + ((7 * i) % 37);
    const cut = whole.slice(0, length);
    const { logits } = await demo.forward([cut], { logitsAt: 'last' });
    const { values, indices } = logits.reshape(-1).topk(2);
    const [best = 0, second = 0] = await indices.read();
    for (const t of [logits, values, indices]) t.dispose();
    const next = whole[length] as number;
    all.push({ cut, ends: { target: next, instead: next === best ? second : best } });
  }
  return all;
}

test('ablations move the logit as attributions say, for 24 prompts that nobody chose', async () => {
  const all = await prompts();
  // by group: in how many of the 24 at least nine of ten signs are right, the sum of the sizes of all changes is right within
  // a factor of two, and so are the sum of those that raise the score and that of those that lower it
  const least: [what: 'difference' | 'logit', direction: AttributionDirection, Record<string, number[]>][] = [
    [
      'difference',
      'both',
      { 'mlp/post_act': [23, 23, 22], 'attn/v_out': [22, 22, 14], 'resid/delta_mlp/latents': [23, 23, 22] },
    ],
    [
      'logit',
      'both',
      { 'mlp/post_act': [21, 23, 18], 'attn/v_out': [14, 19, 2], 'resid/delta_mlp/latents': [22, 23, 18] },
    ],
    [
      'difference',
      'for',
      { 'mlp/post_act': [23, 23, 22], 'attn/v_out': [22, 20, 20], 'resid/delta_mlp/latents': [23, 23, 22] },
    ],
    [
      'logit',
      'for',
      { 'mlp/post_act': [23, 23, 22], 'attn/v_out': [22, 13, 13], 'resid/delta_mlp/latents': [23, 21, 21] },
    ],
  ];
  for (const [what, direction, bounds] of least) {
    const counts: Record<string, number[]> = {};
    for (const { cut, ends: both } of all) {
      const ends: Ends = what === 'logit' ? { target: both.target } : both;
      const { groups } = await attribute(demo, cut, { ...ends, autoencoders, direction });
      for (const { name, strongest } of groups) {
        const { count, signs, sizes, sides } = await agreementOf(demo, cut, ends, strongest, autoencoders);
        assert.is(count, 10);
        const good = [signs >= 9, withinTwo(sizes), sides.every(withinTwo)];
        counts[name] = good.map((yes, i) => (counts[name]?.[i] ?? 0) + (yes ? 1 : 0));
      }
    }
    for (const [name, bound] of Object.entries(bounds)) {
      const found = counts[name] ?? [];
      const enough = bound.every((n, i) => (found[i] as number) >= n);
      assert.ok(enough, `${what} ${direction} ${name}: ${found} of ${all.length}, expected ${bound} at least`);
    }
  }
});

test('wrong arguments are refused by name', async () => {
  const ok = { target, instead };
  const far = Array.from({ length: demo.config.ctxWindow + 1 }, () => 5);
  const refused: [tokens: unknown, options: unknown, RegExp][] = [
    [[], ok, /^attribute: the number of tokens must be an integer from 1 to 256, but is 0/],
    [far, ok, /the number of tokens must be an integer from 1 to 256, but is 257/],
    ['text', ok, /attribute: tokens must be an array of tokens/],
    [[demo.nVocab], ok, /attribute: tokens\[0\] must be an integer from 0 to 50256, but is 50257/],
    [tokens, undefined, /attribute: options must be an object/],
    [tokens, {}, /attribute: target must be an integer from 0 to 50256, but is undefined/],
    [tokens, { target: ' Tom' }, /attribute: target must be an integer/],
    [tokens, { target, instead: -1 }, /attribute: instead must be an integer/],
    [tokens, { target, instead: target }, /attribute: instead must be another token than target, but is/],
    [tokens, { ...ok, top: 0 }, /attribute: top must be an integer of 1 or more/],
    [tokens, { ...ok, direction: 'up' }, /attribute: direction must be 'for', 'against' or 'both', but is 'up'/],
    [tokens, { ...ok, direction: ['for'] }, /attribute: direction must be 'for', 'against' or 'both', but is an array/],
    [tokens, { ...ok, only: 'for' }, /attribute: 'only' is no option/],
    [tokens, { ...ok, at: [] }, /attribute: at must be an array of locations, one at least/],
    [tokens, { ...ok, at: 'logits' }, /attribute: at must be an array of locations/],
    [tokens, { ...ok, at: [3] }, /attribute: at\[0\] must be a text such as/],
    [tokens, { ...ok, at: ['4/mlp/post_act'] }, /location '4\/mlp\/post_act': the layer must be from 0 to 3/],
    [tokens, { ...ok, at: ['1/mlp/middle'] }, /location '1\/mlp\/middle' is not known/],
    [
      tokens,
      { ...ok, at: ['1/mlp/post_act/latents'] },
      /at\[0\] is '1\/mlp\/post_act\/latents', but 1\/mlp\/post_act has no/,
    ],
    [
      tokens,
      {
        ...ok,
        at: ['*/resid/delta_mlp/latents'],
        autoencoders: { '1/resid/delta_mlp': autoencoders['1/resid/delta_mlp'] },
      },
      /but 0\/resid\/delta_mlp has no autoencoder \(those that do: 1\/resid\/delta_mlp\)/,
    ],
    [tokens, { ...ok, autoencoders: { '1/resid/delta_mlp': {} } }, /autoencoders\['1\/resid\/delta_mlp'\] must be an/],
    [tokens, { ...ok, autoencoders: 5 }, /attribute: autoencoders must be an object/],
    [tokens, { ...ok, tops: 5 }, /attribute: 'tops' is no option; the nearest one is 'top'/],
  ];
  for (const [given, options, message] of refused) {
    await rejects(attribute(demo, given as number[], options as AttributeOptions), Error, message);
  }
  const none = ['logits', '1/attn/qk_probs', '1/attn/qk_logits', '1/attn/qk_softmax_denominator'];
  for (const at of [...none, '1/resid/ln_mlp/scale', 'resid/ln_f/scale', '1/attn/v_out/latents']) {
    const autoencoder = autoencoders['1/resid/delta_mlp'] as Autoencoder;
    const options = { ...ok, at: ['1/mlp/post_act', at], autoencoders: { '1/attn/v_out': autoencoder } };
    await rejects(attribute(demo, tokens, options), RangeError, /attribute: at\[1\] must be a location of neurons/);
  }
  await rejects(attribute({} as Transformer, tokens, ok), TypeError, /attribute: model must be a Transformer/);
});

test.run();
