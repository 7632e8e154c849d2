// Errors of hooks: what a hook throws says where, once, with its own error as the cause; and hooks that can never run
// fail a pass before it begins. Oracle: the points and layers where the hooks were put.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { getDefaultDevice } from '../../src/engine/device.js';
import { OutOfMemoryError } from '../../src/engine/errors.js';
import { packageRoot } from '../../src/engine/native.js';
import type { Tensor } from '../../src/engine/ops/tensor.js';
import {
  AtLayers,
  AutoencoderHooks,
  ConditionalHooks,
  type Hook,
  type HookContext,
  type HookRunner,
  Hooks,
  TransformerHooks,
} from '../../src/transformer/hooks.js';
import { finalPoints, firstPoint, isLayerPoint, layerPoints, type Point } from '../../src/transformer/location.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { rejects, suite, throws } from '../support/harness.js';

const test = suite('places of hooks');
const allocated = () => getDefaultDevice().memory().allocated;
const points: Point[] = [firstPoint, ...layerPoints, ...finalPoints];
let xf: Transformer; // 3 layers
test.before(async () => {
  xf = await Transformer.load(join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny'));
  assert.is(xf.config.nLayers, 3);
});

const at = (path: string, hook: Hook): TransformerHooks => new TransformerHooks().appendToPath(path, hook);

/** Every way to begin a pass with hooks. */
const passes: Record<string, (hooks: TransformerHooks) => Promise<unknown>> = {
  forward: (hooks) => xf.forward([[1, 2]], { hooks }),
  activations: (hooks) => xf.activations([[1, 2]], ['logits'], { hooks }),
  sample: (hooks) => xf.sample([[1, 2], [3]], { hooks, seed: 1 }),
};

const nothing = () => undefined;

const throwing = (thrown: unknown) => () => {
  throw thrown;
};

test('what a hook throws names the point and the layer, at every point and for every pass', async () => {
  const before = allocated();
  for (const point of points) {
    for (const [list, run] of [
      ['fwd', passes.forward],
      ['fwd2', passes.activations],
      ['fwd', passes.sample],
    ] as const) {
      const thrown = new RangeError('mine');
      const layered = isLayerPoint(point);
      const hook = throwing(thrown);
      const hooks = at(`${point}.${list}`, layered ? new AtLayers(2).append(hook) : hook);
      const error = await rejects(run?.(hooks) as Promise<unknown>, Error, /: a hook threw RangeError: mine$/);
      assert.ok(error.message.startsWith(layered ? `${point}, layer 2: ` : `${point}: `), error.message);
      assert.is(error.cause, thrown);
    }
  }
  assert.is(allocated(), before);
});

test('hooks in hooks, promises, and what is no Error: the place once, the cause as it was thrown', async () => {
  const own = new Error('mine');
  const abort = AbortSignal.abort().reason;
  class Custom extends Error {
    override name = 'Custom';
    code = 5;
  }
  const custom = new Custom('detail');
  for (const [thrown, said] of [
    [own, 'Error: mine'],
    [custom, 'Custom: detail'],
    [abort, 'AbortError: This operation was aborted'],
    ['x', "'x'"],
    [undefined, 'undefined'],
    [null, 'null'],
    [5n, '5n'],
    [Symbol('s'), 'a Symbol'],
    [Object.create(null), 'a object'],
  ] as [unknown, string][]) {
    const hook = throwing(thrown);
    const ways: Record<string, Hook> = {
      plain: hook,
      async: async () => hook(),
      'a rejection later': () => new Promise((_, reject) => setTimeout(() => reject(thrown), 1)),
      nested: new Hooks().append(new Hooks().append(new AtLayers([0, 1]).append(hook))),
      conditional: new ConditionalHooks(() => true).append(hook),
      'a runner': { run: hook },
      'a runner of hooks': { run: (x, context, where) => new Hooks().append(hook).run(x, context, where) },
      'hooks that the hook runs with its context': (x, context) => new Hooks().append(hook).run(x, context),
      cloned: new Hooks().append(hook).clone(),
    };
    for (const [way, nested] of Object.entries(ways)) {
      const error = await rejects(xf.forward([[1]], { hooks: at('mlp.post_act.fwd', nested) }), Error, /./);
      assert.is(error.message, `mlp.post_act, layer 0: a hook threw ${said}`, way);
      assert.ok(Object.hasOwn(error, 'cause'));
      assert.is(error.cause, thrown, way);
    }
  }
});

test('conditions, encode, decode, watches and the points of an autoencoder are named', async () => {
  const mine = new Error('mine');
  const fail = throwing(mine) as never;
  const clone = (x: Tensor) => x.clone();
  const inside = (edit: (hooks: AutoencoderHooks) => unknown) => {
    const hooks = new AutoencoderHooks({ encode: clone, decode: clone, addError: true });
    edit(hooks);
    return hooks;
  };
  const place = 'attn.v_out, layer 1';
  for (const [hook, message] of [
    [new ConditionalHooks(fail).append(() => {}), `${place}: a condition threw Error: mine`],
    [
      new ConditionalHooks(() => true).append(new ConditionalHooks(fail).append(nothing)),
      `${place}: a condition threw Error: mine`,
    ],
    [new AutoencoderHooks({ encode: fail, decode: clone }), `${place}, autoencoder: encode threw Error: mine`],
    [new AutoencoderHooks({ encode: clone, decode: fail }), `${place}, autoencoder: decode threw Error: mine`],
    [inside((ae) => ae.latents.appendFwd(fail)), `${place}, autoencoder latents: a hook threw Error: mine`],
    [
      inside((ae) => ae.reconstruction.appendFwd2(fail)),
      `${place}, autoencoder reconstruction: a hook threw Error: mine`,
    ],
    [inside((ae) => ae.error.appendFwd(fail)), `${place}, autoencoder error: a hook threw Error: mine`],
    [
      inside((ae) => ae.latents.appendFwd(inside((inner) => inner.latents.appendFwd(fail)))),
      `${place}, autoencoder latents, autoencoder latents: a hook threw Error: mine`,
    ],
  ] as [Hook, string][]) {
    const before = allocated();
    const error = await rejects(
      xf.forward([[1]], { hooks: at('attn.v_out.fwd', new AtLayers(1).append(hook)) }),
      Error,
      /./,
    );
    assert.is(error.message, message);
    assert.is(error.cause, mine);
    assert.is(allocated(), before);
  }
  const odd: HookRunner = { run: () => undefined, watches: fail };
  const error = await rejects(xf.forward([[1]], { hooks: at('attn.v_out.fwd', odd) }), Error, /./);
  assert.is(error.message, 'attn.v_out, layer 0: watches() of a hook threw Error: mine');
});

test("the library's own words are not repeated, and an error of a pass within a hook has both places", async () => {
  const result = await rejects(
    xf.forward([[1]], { hooks: at('mlp.pre_act.fwd', new Hooks().append(new AtLayers(2).append(() => 5 as never))) }),
    TypeError,
    /./,
  );
  assert.is(result.message, 'mlp.pre_act, layer 2: a hook must return a tensor or nothing, but returned 5');
  const freed = await rejects(xf.forward([[1]], { hooks: at('attn.k.fwd', (x) => x.dispose()) }), TypeError, /./);
  const words = 'a hook must return another tensor where x may not be used any more: it was disposed';
  assert.is(freed.message, `attn.k, layer 0: ${words}`);
  const inner = at('logits.fwd', throwing(new Error('deep')));
  const outer = await rejects(
    xf.forward([[1]], { hooks: at('resid.post_emb.fwd', () => xf.forward([[2]], { hooks: inner }) as never) }),
    Error,
    /./,
  );
  assert.is(outer.message, 'resid.post_emb: a hook threw Error: logits: a hook threw Error: deep');
  assert.is(((outer.cause as Error).cause as Error).message, 'deep');
  const misuse = await rejects(xf.forward([[1]], { hooks: at('logits.fwd', (x) => x.select(7, 0)) }), Error, /./);
  assert.match(misuse.message, /^logits: a hook threw RangeError: select: dim must be a dimension of/);
  const full = new OutOfMemoryError('no memory');
  const memory = await rejects(xf.forward([[1]], { hooks: at('logits.fwd', throwing(full)) }), Error, /./);
  assert.is(memory.cause, full);
});

test('an error leaves caches and the model usable', async () => {
  const { kvCaches, logits } = await xf.forward([[1, 2]]);
  for (const point of ['resid.post_emb', 'attn.v', 'logits']) {
    await rejects(xf.forward([[3]], { kvCaches, hooks: at(`${point}.fwd`, throwing('x')) }), Error, /threw 'x'/);
    assert.is(kvCaches.length, 2);
  }
  (await xf.forward([[3]], { kvCaches })).logits.dispose();
  assert.is(kvCaches.length, 3);
  for (const t of [kvCaches, logits]) t.dispose();
});

test('AtLayers with a layer that the model lacks: an error before the pass, wherever it is', async () => {
  const lacking = () => new AtLayers([1, 3]).append(nothing);
  const ae = (edit: (hooks: AutoencoderHooks) => unknown) => {
    const hooks = new AutoencoderHooks({ encode: (x) => x.clone(), decode: (x) => x.clone() });
    edit(hooks);
    return hooks;
  };
  const ways: Record<string, () => Hook> = {
    plain: lacking,
    empty: () => new AtLayers(3),
    'in hooks': () => new Hooks().append(nothing).append(new Hooks().append(lacking())),
    'in a condition': () => new ConditionalHooks(() => false).append(lacking()),
    'in other layers': () => new AtLayers([1, 2]).append(lacking()),
    'in an autoencoder': () => ae((hooks) => hooks.latents.appendFwd(lacking())),
    'in an autoencoder in one': () =>
      ae((hooks) => hooks.error.appendFwd(ae((inner) => inner.reconstruction.appendFwd2(lacking())))),
    cloned: () => new Hooks().append(lacking()).clone(),
  };
  let calls = 0;
  for (const [operation, run] of Object.entries(passes)) {
    for (const [way, make] of Object.entries(ways)) {
      for (const path of ['mlp.post_act.fwd', 'resid.torso.ln_mlp.scale.fwd2', 'attn.k.bwd']) {
        const hooks = at(path, make());
        hooks.resid.postEmb.appendFwd(() => {
          calls++;
        });
        const error = await rejects(
          run(hooks),
          RangeError,
          /must be from 0 to 2, as the model has 3 layers, but is 3$/,
        );
        const point = path.replace(/\.\w+$/, '');
        assert.ok(
          error.message.startsWith(`${operation}: a layer of AtLayers at ${point}`),
          `${way}: ${error.message}`,
        );
      }
    }
  }
  assert.is(calls, 0, 'the passes had not begun');
  const named = await rejects(
    xf.forward([[1]], { hooks: at('mlp.post_act.fwd', (ways['in an autoencoder'] as () => Hook)()) }),
    RangeError,
    /at mlp\.post_act, autoencoder latents must be/,
  );
  assert.match(named.message, /^forward: /);
  (
    await xf.forward([[1]], { hooks: at('mlp.post_act.fwd', new AtLayers([0, 1, 2]).append(nothing)) })
  ).logits.dispose();
});

test('AtLayers at a point without layers, or inside other layers, can never run', async () => {
  for (const point of points.filter((name) => !isLayerPoint(name))) {
    for (const hook of [new AtLayers(1).append(nothing), new Hooks().append(new AtLayers([0, 1]).append(nothing))]) {
      const error = await rejects(xf.forward([[1]], { hooks: at(`${point}.fwd`, hook) }), RangeError, /can never run/);
      assert.match(
        error.message,
        new RegExp(`^forward: AtLayers\\(.*\\) at ${point} can never run: ${point} is in no layer$`),
      );
    }
  }
  await rejects(
    xf.activations([[1]], ['logits'], {
      hooks: at(
        'attn.q.fwd',
        new AtLayers(0).append(new ConditionalHooks(() => true).append(new AtLayers(1).append(nothing))),
      ),
    }),
    RangeError,
    /^activations: AtLayers\(1\) at attn\.q can never run: it is inside AtLayers\(0\)$/,
  );
  throws(() => new AtLayers([]), RangeError, /AtLayers: layers must be at least one layer, but is an empty list/);
});

test('AtLayers at all points runs at those that have layers', async () => {
  for (const tree of [new TransformerHooks(), new TransformerHooks().appendAll(nothing)]) {
    const seen: (number | undefined)[] = [];
    tree.appendAll(
      new AtLayers(1).append((_, { layer }) => {
        seen.push(layer);
      }),
    );
    for (const hooks of [tree, tree.clone(), tree.clone().clone()]) {
      seen.length = 0;
      (await xf.forward([[1]], { hooks })).logits.dispose();
      assert.equal(seen, new Array(2 * layerPoints.length).fill(1));
    }
  }
  const end = new TransformerHooks();
  end.resid.lnF.appendAll(new AtLayers(1).append(nothing));
  await rejects(xf.forward([[1]], { hooks: end }), RangeError, /resid\.ln_f\.post_mean_subtraction is in no layer/);
  const above = new TransformerHooks();
  above.resid.appendAll(new AtLayers(1).append(nothing));
  (await xf.forward([[1]], { hooks: above })).logits.dispose();
});

test('hooks behind the last location of activations(), and gradient hooks, are not called', async () => {
  const seen: unknown[] = [];
  const hooks = new TransformerHooks().appendAll((_: Tensor, { layer }: HookContext) => {
    seen.push(layer);
  });
  for (const value of (await xf.activations([[1]], ['0/attn/v_out'], { hooks })).values()) value.dispose();
  assert.is(seen.length, 2 * (1 + 11));
});

test('lists that would contain themselves, and clones that are no hooks, are refused', () => {
  const outer = new Hooks();
  const inner = new Hooks();
  outer.append(inner);
  const own = /hook must not contain the list that it is appended to/;
  throws(() => outer.append(outer), Error, own);
  throws(() => inner.append(outer), Error, own);
  const ae = new AutoencoderHooks({ encode: (x) => x.clone(), decode: (x) => x.clone() });
  throws(() => ae.latents.appendFwd(ae), Error, /appendFwd: hook must not contain/);
  throws(() => ae.appendAll(new Hooks().append(ae)), Error, /appendAll: hook must not contain/);
  assert.ok(ae.isEmpty(), 'nothing was appended');
  const odd = new Hooks().append({ run: () => undefined, clone: () => undefined as never });
  throws(() => odd.clone(), TypeError, /clone\(\) of a hook must return hooks, but returned undefined/);
});

test('bind and unbind do all or nothing', () => {
  const tree = new TransformerHooks();
  tree.logits.fwd.bind({ by: 1 });
  throws(() => tree.bind({ other: 2, by: 3 }), Error, /bind: by is already bound/);
  throws(() => tree.unbind(['by']), Error, /unbind: by is not bound/);
  tree.mlp.bind({ other: 4 });
  tree.logits.fwd.unbind(['by']);
  throws(() => tree.bind({ layer: 3 }), Error, /bind: layer is what the pass gives, and cannot be bound/);
  throws(() => new Hooks().bind({ outLayer: undefined as never }), Error, /bind: outLayer is what the pass gives/);
  throws(() => tree.unbind('by' as never), TypeError, /unbind: names must be an array of names, but is 'by'/);
  throws(() => tree.bind([1] as never), TypeError, /bind: values must be an object of names and values/);
});

test.run();
