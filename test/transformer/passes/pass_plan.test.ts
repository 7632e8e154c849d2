// Plans of passes, and locations, without a device. The oracle is the title of each test.
import * as assert from 'uvu/assert';
import { appendAt } from '../../../src/transformer/hook_places.js';
import { AtLayers, ConditionalHooks, TransformerHooks } from '../../../src/transformer/hooks.js';
import {
  expandLocations,
  formatLocation,
  layerPoints,
  locationNames,
  locationShape,
  parseLocation,
} from '../../../src/transformer/location.js';
import { planPass } from '../../../src/transformer/pass_plan.js';
import { sizes } from '../../../src/transformer/weights/config.js';
import { suite, throws } from '../../support/harness.js';

const test = suite('pass plan');
const fused = {
  lnAttn: 'fused',
  attention: 'fused',
  probs: false,
  softmax: 'fused',
  heads: 'fused',
  addAttn: 'product',
  lnMlp: 'fused',
  gelu: 'fused',
  addMlp: 'product',
};
const nothing = () => undefined;

test('without hooks, everything is fused, to the end', () => {
  for (const hooks of [undefined, new TransformerHooks()]) {
    const plan = planPass(2, hooks);
    assert.equal(plan.layers, [fused, fused]);
    assert.equal([plan.lnF, plan.last, plan.choosesAt], ['fused', undefined, 'mix']);
  }
});

test('a point opens its section at the layers that are watched, and no other section', () => {
  const hooks = new TransformerHooks();
  hooks.mlp.preAct.appendFwd(new AtLayers(1).append(nothing));
  hooks.attn.qkProbs.appendFwd(new AtLayers([0, 2]).append(nothing));
  hooks.attn.q.appendFwd2(new AtLayers(1).append(nothing));
  hooks.resid.torso.lnMlp.scale.appendFwd(new ConditionalHooks(() => false).append(nothing));
  hooks.attn.qkLogits.appendBwd(nothing);
  hooks.resid.torso.lnAttn.scale.appendFwd(new AtLayers(0));
  const plan = planPass(3, hooks);
  assert.equal(plan.layers, [
    { ...fused, lnMlp: 'open', attention: 'open' },
    { ...fused, lnMlp: 'open', attention: 'split', gelu: 'open' },
    { ...fused, lnMlp: 'open', attention: 'open' },
  ]);
});

test('points that are seen in every version of a section open nothing', () => {
  const hooks = new TransformerHooks();
  for (const point of [
    'mlp.post_act',
    'attn.v_out',
    'resid.post_emb',
    'resid.torso.post_attn',
    'resid.torso.post_ln_mlp',
    'resid.torso.post_mlp',
  ]) {
    hooks.appendToPath(`${point}.fwd`, nothing);
  }
  assert.equal(planPass(1, hooks).layers, [fused]);
});

test('positions are chosen as early as nothing behind is watched, forward or backward', () => {
  const at = (list: 'fwd' | 'bwd' | 'fwd2', ...locations: string[]) => {
    const hooks = new TransformerHooks();
    for (const location of locations) appendAt(hooks, location, list, nothing);
    return planPass(2, hooks).choosesAt;
  };
  const end = ['resid/ln_f/post_mean_subtraction', 'resid/ln_f/scale', 'resid/ln_f/post_scale', 'resid/post_ln_f'];
  for (const list of ['fwd', 'bwd', 'fwd2'] as const) {
    assert.is(at(list, 'logits'), 'mix');
    assert.is(at(list, '0/resid/post_mlp', '0/mlp/post_act', '1/attn/v_out', '1/attn/q', 'resid/post_emb'), 'mix');
    for (const name of layerPoints.slice(layerPoints.indexOf('attn.head_out'))) {
      assert.is(at(list, `1/${name.replaceAll('.', '/')}`), 'stream', name);
    }
    for (const name of end) assert.is(at(list, name), 'normed', name);
  }
  // the last update is added by the final layer norm, and backward hooks at the sum see all positions
  const hooks = new TransformerHooks();
  hooks.resid.torso.deltaMlp.appendFwd(nothing);
  assert.is(planPass(2, hooks).choosesAt, 'stream');
  appendAt(hooks, '0/resid/post_mlp', 'bwd', nothing);
  assert.is(planPass(2, hooks).choosesAt, 'stream');
  appendAt(hooks, '1/resid/post_mlp', 'bwd', nothing);
  assert.is(planPass(2, hooks).choosesAt, 'normed');
});

test('wanted locations count as watched, and the last one ends the pass', () => {
  const plan = planPass(3, undefined, ['0/mlp/pre_act', '1/attn/qk_softmax_denominator']);
  assert.equal(plan.layers, [{ ...fused, gelu: 'open' }, { ...fused, attention: 'open', softmax: 'open' }, fused]);
  assert.equal(plan.last, { point: 'attn.qk_softmax_denominator', layer: 1 });
});

test('an update that is watched is added by the layer norm that follows, unless that or the sum is watched', () => {
  const additions = (...locations: string[]) => {
    const hooks = new TransformerHooks();
    for (const location of locations) {
      const { point, layer } = parseLocation(location);
      const hook = layer === undefined ? nothing : new AtLayers(layer as number).append(nothing);
      hooks.appendToPath(`${point}.fwd`, hook);
    }
    // wanted locations count as watched
    const [plan, wanted] = [planPass(2, hooks), planPass(2, undefined, locations)];
    assert.equal(wanted.layers, plan.layers);
    return plan.layers.flatMap(({ addAttn, addMlp }) => [addAttn, addMlp]);
  };
  assert.equal(additions('0/resid/post_attn', '1/resid/post_mlp'), ['product', 'product', 'product', 'product']);
  assert.equal(additions('0/resid/delta_attn', '0/resid/delta_mlp'), ['norm', 'norm', 'product', 'product']);
  assert.equal(additions('1/resid/delta_attn', '1/resid/delta_mlp'), ['product', 'product', 'norm', 'norm']);
  const both = ['0/resid/delta_attn', '0/resid/delta_mlp', '1/resid/delta_mlp'];
  assert.equal(additions(...both, '0/resid/post_attn'), ['apart', 'norm', 'product', 'norm']);
  assert.equal(additions(...both, '0/resid/ln_mlp/scale'), ['apart', 'norm', 'product', 'norm']);
  assert.equal(additions(...both, '1/resid/ln_attn/post_scale'), ['norm', 'apart', 'product', 'norm']);
  assert.equal(additions(...both, '0/resid/post_mlp'), ['norm', 'apart', 'product', 'norm']);
  assert.equal(additions(...both, 'resid/ln_f/post_mean_subtraction'), ['norm', 'norm', 'product', 'apart']);
  assert.equal(additions(...both, '1/resid/post_mlp'), ['norm', 'norm', 'product', 'apart']);
});

test('probabilities that are wanted but not hooked come from the fused kernel', () => {
  const probs = '0/attn/qk_probs';
  const plan = (hooks: TransformerHooks | undefined, ...locations: string[]) => {
    const { attention, probs } = planPass(1, hooks, locations).layers[0] as ReturnType<typeof planPass>['layers'][0];
    return [attention, probs];
  };
  assert.equal(plan(undefined, probs), ['fused', true]);
  assert.equal(plan(undefined, probs, '0/attn/v'), ['split', true]);
  assert.equal(plan(undefined, probs, '0/attn/qk_logits'), ['open', false]);
  assert.equal(plan(undefined, probs, '0/attn/qk_softmax_denominator'), ['open', false]);
  const hooked = (point: string) => new TransformerHooks().appendToPath(`${point}.fwd`, nothing);
  assert.equal(plan(hooked('attn.q'), probs), ['split', true]);
  assert.equal(plan(hooked('attn.qk_probs'), probs), ['open', false]);
  assert.equal(plan(hooked('attn.qk_probs'), 'logits'), ['open', false]);
});

test('heads are computed where they are wanted, and each before their sum where hooks may change them', () => {
  const plan = (hooks: TransformerHooks | undefined, ...locations: string[]) =>
    planPass(2, hooks, locations).layers.flatMap(({ heads, addAttn }) => [heads, addAttn]);
  const hooks = new TransformerHooks();
  appendAt(hooks, '1/attn/head_out', 'fwd', nothing);
  assert.equal(plan(undefined, '0/attn/head_out'), ['aside', 'product', 'fused', 'product']);
  assert.equal(plan(hooks, '0/attn/head_out'), ['aside', 'product', 'open', 'norm']);
  assert.equal(plan(hooks, '1/attn/head_out', '1/resid/post_attn'), ['fused', 'product', 'open', 'apart']);
  const backward = new TransformerHooks();
  backward.attn.headOut.appendBwd(nothing);
  assert.equal(plan(backward, 'logits'), ['fused', 'product', 'fused', 'product']);
});

test('locations are read and written', () => {
  assert.equal(parseLocation('5/mlp/post_act'), { point: 'mlp.post_act', layer: 5 });
  assert.equal(parseLocation('*/resid/delta_mlp'), { point: 'resid.torso.delta_mlp', layer: '*' });
  assert.equal(parseLocation('3/resid/torso/ln_attn/scale'), { point: 'resid.torso.ln_attn.scale', layer: 3 });
  assert.equal(parseLocation('resid/post_emb'), { point: 'resid.post_emb' });
  assert.equal(parseLocation('resid/ln_f/scale'), { point: 'resid.ln_f.scale' });
  assert.equal(parseLocation('logits'), { point: 'logits' });
  for (const name of locationNames) {
    const text = /^(logits|resid\/(post_emb|ln_f|post_ln_f))/.test(name) ? name : `7/${name}`;
    assert.is(formatLocation(parseLocation(text)), text);
  }
  assert.is(locationNames.length, layerPoints.length + 6);
  throws(() => parseLocation('5/mlp/post'), Error, /location '5\/mlp\/post' is not known; .* one of resid\/ln_attn/);
  throws(() => parseLocation('mlp/post_act'), Error, /must begin with a layer, as in '0\/mlp\/post_act'/);
  throws(() => parseLocation('1/logits'), Error, /must have no layer: 'logits'/);
  throws(() => parseLocation('-1/mlp/post_act'), Error, /is not known/);
});

test('locations are expanded in the order of the pass, once each', () => {
  const config = { ...(sizes.tiny as (typeof sizes)[string]), nLayers: 2 };
  assert.equal(
    expandLocations(
      ['logits', '*/mlp/post_act', 'resid/post_emb', '1/mlp/post_act', '0/attn/q', '1/resid/torso/post_mlp'],
      config,
    ),
    ['resid/post_emb', '0/attn/q', '0/mlp/post_act', '1/mlp/post_act', '1/resid/post_mlp', 'logits'],
  );
  throws(() => expandLocations(['2/mlp/post_act'], config), Error, /the layer must be from 0 to 1/);
  assert.equal(locationShape('0/attn/qk_probs', config, 100, 3, 5), [3, 5, 5, 4]);
  assert.equal(locationShape('0/attn/qk_softmax_denominator', config, 100, 3, 5), [3, 5, 1, 4]);
  assert.equal(locationShape('1/resid/ln_mlp/scale', config, 100, 3, 5), [3, 5, 1]);
  assert.equal(locationShape('0/mlp/pre_act', config, 100, 3, 5), [3, 5, 256]);
  assert.equal(locationShape('logits', config, 100, 3, 5), [3, 5, 100]);
});

test.run();
