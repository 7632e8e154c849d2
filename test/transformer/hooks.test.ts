// Hooks without a model: their order, their results, and who frees these. The oracle is arithmetic on small tensors.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { getDefaultDevice } from '../../src/engine/device.js';
import { packageRoot } from '../../src/engine/native.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { AtLayers, AutoencoderHooks, ConditionalHooks, Hooks, TransformerHooks } from '../../src/transformer/hooks.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { close } from '../support/close.js';
import { rejects, suite, throws } from '../support/harness.js';

const test = suite('hooks');
const allocated = () => getDefaultDevice().memory().allocated;
const ones = () => Tensor.zeros([2, 3]).fill(1);

/** An "autoencoder" of latents 2 x and reconstruction latents / 4: half of x, and an error of half of x. */
const halving = (addError: boolean) =>
  new AutoencoderHooks({ encode: (x) => x.mul(2), decode: (latents) => latents.mul(0.25), addError });

test('functions, nested hooks and other runners run in order, sync and async', async () => {
  using x = ones();
  const hooks = new Hooks()
    .append((t) => t.add_(1))
    .append(new Hooks().append(async (t) => t.mul(3)))
    .append({ run: (t) => t.sub(1) })
    .append({ run: () => undefined });
  using result = await hooks.run(x);
  close(await result.read(), new Array(6).fill(5));
  assert.ok(hooks.watches(7), 'a runner that does not say is run at every layer');
  assert.not.ok(new Hooks().append(new AtLayers([1, 2])).watches(1), 'nothing inside');
});

test('bound values reach inner hooks and conditions', async () => {
  using x = ones();
  const seen: unknown[] = [];
  const inner = new ConditionalHooks((_, { by }) => by === 'me').append((_, { layer, by }) => {
    seen.push([layer, by]);
  });
  const hooks = new Hooks().append(inner).bind({ by: 'me' });
  await hooks.run(x, { layer: 3 });
  await hooks.unbind(['by']).run(x, { layer: 4 });
  assert.equal(seen, [[3, 'me']]);
});

test('a clone has lists of its own, at any depth', async () => {
  const calls: string[] = [];
  const inside = halving(false);
  const tree = new TransformerHooks();
  tree.mlp.postAct.appendFwd(new AtLayers(0).append(inside));
  const copy = tree.clone();
  inside.latents.appendFwd(() => {
    calls.push('later');
  });
  using x = ones();
  (await copy.mlp.postAct.run(x, { layer: 0 }, 'mlp.post_act')).dispose();
  assert.equal(calls, []);
  (await tree.mlp.postAct.run(x, { layer: 0 }, 'mlp.post_act')).dispose();
  assert.equal(calls, ['later']);
  assert.is(copy.mlp.postAct.watches(1), false);
});

test('values that cannot be a hook or a layer are refused', () => {
  throws(() => new Hooks().append('f' as never), TypeError, /append: hook must be a function or hooks, but is f/);
  throws(() => new AtLayers('3' as never), RangeError, /AtLayers: layers must be an integer of 0 or more, but is '3'/);
  throws(() => new AtLayers([0, -1]), RangeError, /but is -1/);
});

test('an autoencoder in between gives the reconstruction, or with the error added its input', async () => {
  for (const addError of [true, false]) {
    using x = ones();
    using result = await halving(addError).run(x);
    close(await result.read(), new Array(6).fill(addError ? 1 : 0.5));
    const edited = halving(addError);
    edited.latents.appendFwd((latents) => latents.fill(0));
    edited.error.appendFwd((error) => error.mul_(10)); // the error is half of x where it is added, else all of x
    using after = await edited.run(x);
    close(await after.read(), new Array(6).fill(addError ? 5 : 0));
    close(await x.read(), new Array(6).fill(1), { label: 'x itself' });
  }
});

test('edits of latents do not reach x or the error, even where encode and decode give views', async () => {
  using x = ones();
  const views = new AutoencoderHooks({
    encode: (t) => t.reshape(2, 3),
    decode: (t) => t.reshape(2, 3),
    addError: true,
  });
  views.latents.appendFwd((latents) => latents.fill(0));
  using result = await views.run(x);
  close(await result.read(), new Array(6).fill(0));
  close(await x.read(), new Array(6).fill(1));
});

test('the result of an autoencoder is checked like that of any hook', async () => {
  using x = ones();
  const run = (decode: (latents: Tensor) => Tensor) =>
    new AutoencoderHooks({ encode: (t) => t.clone(), decode }).run(x, {}, 'mlp.post_act, layer 1');
  const before = allocated();
  await rejects(
    run((latents) => latents.slice(-1, 0, 2).clone()),
    TypeError,
    /mlp\.post_act, layer 1, autoencoder: a hook must return a tensor of shape \[2, 3\], but returned \[2, 2\]/,
  );
  await rejects(
    run((latents) => latents.to('bfloat16')),
    TypeError,
    /a tensor of float32, but returned bfloat16/,
  );
  await rejects(
    run(() => 5 as never),
    TypeError,
    /autoencoder: decode must return a tensor, but returned 5/,
  );
  assert.is(allocated(), before);
});

test('all tensors that an autoencoder makes in a pass are freed: its result, a view of it, one that another hook replaces', async () => {
  using xf = await Transformer.load(join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny'));
  const mine = Tensor.zeros([1, 2, 192]);
  const cases: Record<string, (inside: AutoencoderHooks, outside: TransformerHooks) => void> = {
    plain: () => {},
    'a view': (inside) => inside.reconstruction.appendFwd((x) => x.reshape([...x.shape])),
    nested: (inside) => inside.latents.appendFwd(halving(true)),
    replaced: (_, outside) => outside.mlp.postAct.appendFwd(() => mine).appendFwd2(halving(false)),
  };
  const pass = async (hooks: TransformerHooks) => {
    (await xf.activations([[1, 2]], ['resid/ln_f/scale'], { hooks })).get('resid/ln_f/scale')?.dispose();
  };
  for (const [name, attach] of Object.entries(cases)) {
    const inside = halving(true);
    const hooks = new TransformerHooks();
    hooks.mlp.postAct.appendFwd(inside);
    attach(inside, hooks);
    await pass(hooks);
    const before = allocated();
    for (let i = 0; i < 5; i++) await pass(hooks);
    assert.is(allocated(), before, name);
  }
  close(await mine.read(), new Array(384).fill(0), { label: "the user's own tensor" });
  mine.dispose();
});

test.run();
