// Who owns the tensors that hooks return: at every point, for every caller. Oracle: the same values written into x in
// place, the bytes that the device has allocated, and the hook's own tensors, which must stay as they were.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import {
  AtLayers,
  AutoencoderHooks,
  ConditionalHooks,
  type Hook,
  type HookFunction,
  Hooks,
  TransformerHooks,
} from '../../src/transformer/hooks.js';
import { finalPoints, firstPoint, isLayerPoint, layerPoints, type Point } from '../../src/transformer/location.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { close } from '../support/close.js';
import { emulated, testDevice } from '../support/device.js';
import { suite } from '../support/harness.js';

const test = suite('tensors of hooks');
const device = testDevice();
const allocated = () => device.memory().allocated;
const points: Point[] = [firstPoint, ...layerPoints, ...finalPoints];
const some: Point[] = emulated() ? ['resid.post_emb', 'attn.k', 'mlp.post_act', 'logits'] : points;
const places = emulated() ? [some] : [...some.map((point) => [point]), some];
let xf: Transformer;
test.before(async () => {
  xf = await Transformer.load(join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny'), { device });
});

/** The tensors of a hook: one of each shape, which it makes when it first needs it. */
class Own {
  readonly tensors = new Map<string, Tensor>();

  for(x: Tensor): Tensor {
    const key = x.shape.join();
    let mine = this.tensors.get(key);
    if (!mine) {
      mine = Tensor.randn([...x.shape], { device, seed: x.size, std: 0.3, mean: 0.5 });
      this.tensors.set(key, mine);
    }
    return mine;
  }

  /** They may still be used, and their values are the first ones. */
  async check(label: string): Promise<void> {
    for (const mine of this.tensors.values()) {
      using fresh = Tensor.randn([...mine.shape], { device, seed: mine.size, std: 0.3, mean: 0.5 });
      close(await mine.read(), await fresh.read(), { label });
    }
  }

  dispose(): void {
    for (const mine of this.tensors.values()) mine.dispose();
  }
}

const identity = () => new AutoencoderHooks({ encode: (x) => x.clone(), decode: (latents) => latents.clone() });

/**
 * Ways to replace x by a tensor of the hook's own, or by what has its values; `extra` takes tensors that a hook makes
 * anew each time.
 */
const ways: Record<string, (own: Own, extra: Tensor[]) => Hook[]> = {
  'its own': (own) => [(x) => own.for(x)],
  'a view of its own': (own) => [(x) => own.for(x).slice(0)],
  'its own, as a promise': (own) => [async (x) => own.for(x)],
  'a new tensor': (own, extra) => [
    (x) => {
      extra.push(own.for(x).clone());
      return extra.at(-1);
    },
  ],
  'a view of x': (own) => [(x) => x.copyFrom(own.for(x)).slice(0)],
  'x itself': (own) => [(x) => x.copyFrom(own.for(x))],
  'another, then its own': (own, extra) => [
    (x) => {
      extra.push(x.clone());
      return extra.at(-1);
    },
    (x) => own.for(x),
  ],
  'its own, then changed in place and back': (own) => [(x) => own.for(x), (x) => x.fill(9), (x) => own.for(x)],
  'its own, then a view': (own) => [(x) => own.for(x), (x) => x.slice(0)],
  'in hooks in hooks': (own) => [new Hooks().append(new ConditionalHooks(() => true).append((x) => own.for(x)))],
  'a runner of the user': (own) => [{ run: (x) => own.for(x) }],
  'before an autoencoder': (own) => [(x) => own.for(x), identity()],
  'after an autoencoder': (own) => [identity(), (x) => own.for(x)],
  'an autoencoder, then a view': (own) => [(x) => own.for(x), identity(), (x) => x.slice(0)],
  'within an autoencoder': (own) => {
    const inside = identity();
    inside.latents.appendFwd((x) => own.for(x));
    inside.reconstruction.appendFwd((x) => own.for(x));
    inside.reconstruction.appendFwd2((x) => x.slice(0));
    return [inside];
  },
  'an autoencoder called by the hook': () => [],
};
// with its context, the chain of hooks owns the result; without it, the hook does
ways['an autoencoder called by the hook'] = (own, extra) => [
  (x) => own.for(x),
  (x, context) => identity().run(x, context),
  async (x) => {
    extra.push(await identity().run(x));
    return extra.at(-1);
  },
];

function hooksAt(where: readonly Point[], hooks: readonly Hook[]): TransformerHooks {
  const tree = new TransformerHooks();
  for (const point of where) for (const hook of hooks) tree.appendToPath(`${point}.fwd`, hook);
  return tree;
}

const tokens = [
  [1, 2, 3],
  [4, 5, 6],
];

/** Values that a forward pass, its continuation, and a pass for activations give; what they return is changed and freed. */
async function results(hooks: TransformerHooks, where: readonly Point[]): Promise<ArrayLike<number>[]> {
  const out: ArrayLike<number>[] = [];
  const take = async (t: Tensor) => {
    out.push(await t.read());
    t.fill(77);
    t.dispose();
  };
  const { logits, kvCaches } = await xf.forward(tokens, { hooks });
  await take(logits);
  await take((await xf.forward([[7], [8]], { hooks, kvCaches })).logits);
  kvCaches.dispose();
  const locations = where.flatMap((point) => {
    const name = point.replaceAll('.', '/');
    return isLayerPoint(point) ? [`0/${name}`, `1/${name}`] : [name];
  });
  for (const wanted of emulated() ? [locations] : [locations, [...locations, 'logits']]) {
    for (const value of (await xf.activations(tokens, wanted, { hooks })).values()) await take(value);
  }
  return out;
}

const inPlace =
  (own: Own): HookFunction =>
  (x) =>
    void x.copyFrom(own.for(x));

for (const [way, make] of Object.entries(ways)) {
  test(
    `${way}: at every point, and at all of them`,
    async () => {
      for (const where of places) {
        const own = new Own();
        const extra: Tensor[] = [];
        const expected = await results(hooksAt(where, [inPlace(own)]), where);
        const hooks = hooksAt(where, make(own, extra));
        const before = allocated();
        for (let round = 0; round < (emulated() ? 1 : 2); round++) {
          const got = await results(hooks, where);
          assert.is(got.length, expected.length);
          for (const [i, values] of expected.entries()) {
            close(got[i] as ArrayLike<number>, values, { label: `${way} at ${where}, ${i}` });
          }
          for (const t of extra.splice(0)) t.dispose();
          assert.is(allocated(), before, `${way} at ${where}: memory`);
        }
        await own.check(`${way} at ${where}`);
        own.dispose();
      }
    },
    { limit: 120_000 },
  );
}

test('samples with a hook that returns its own logits, again and again', async () => {
  const own = new Own();
  const expected = await xf.sample(tokens, { numTokens: 4, seed: 3, hooks: hooksAt(['logits'], [inPlace(own)]) });
  for (const [way, make] of Object.entries(ways)) {
    const extra: Tensor[] = [];
    const before = allocated();
    const got = await xf.sample(tokens, { numTokens: 4, seed: 3, hooks: hooksAt(['logits'], make(own, extra)) });
    assert.equal(got.tokens, expected.tokens, way);
    for (const t of extra) t.dispose();
    assert.is(allocated(), before, way);
  }
  await own.check('sample');
  own.dispose();
});

test('what a pass returns has memory of its own', async () => {
  for (const point of ['logits', 'resid.post_emb'] as const) {
    const own = new Own();
    const hooks = hooksAt([point], [(x) => own.for(x)]);
    const value = (await xf.activations(tokens, [point.replaceAll('.', '/')], { hooks })).values().next()
      .value as Tensor;
    const { logits } = await xf.forward(tokens, { hooks });
    const handed = [await value.read(), await logits.read()];
    for (const mine of own.tensors.values()) mine.fill(-4);
    assert.equal([await value.read(), await logits.read()], handed, 'the hook changed its tensor afterwards');
    for (const t of [value, logits]) t.fill(5);
    for (const mine of own.tensors.values()) assert.is((await mine.read())[0], -4);
    own.dispose();
    assert.is((await logits.read())[0], 5, 'the hook freed its tensor afterwards');
    for (const t of [value, logits]) t.dispose();
  }
});

test('a hook may change its own tensor while the pass goes on: what it has given stays', async () => {
  using mine = Tensor.zeros([2, 3, xf.config.dModel], { device });
  const run = async (give: (x: Tensor) => Tensor | undefined) => {
    const hooks = new TransformerHooks();
    hooks.resid.postEmb.appendFwd(() => mine.fill(1));
    hooks.resid.torso.postLnAttn.appendFwd(give); // the stream of resid.post_emb is still used after this
    const { logits } = await xf.forward(tokens, { hooks });
    using all = logits;
    return all.read();
  };
  assert.equal(await run(() => mine.fill(2)), await run((x) => void x.fill(2)));
});

test('a value of another point that the pass still needs is copied', async () => {
  let kept: Tensor | undefined;
  const run = async (give: () => Tensor) => {
    const made: Tensor[] = [];
    const hooks = new TransformerHooks();
    hooks.resid.postEmb.appendFwd((x) => {
      kept = x;
    });
    hooks.resid.torso.postLnAttn.appendFwd(
      new AtLayers(0).append(() => {
        made.push(give());
        return made.at(-1);
      }),
    );
    const { logits, kvCaches } = await xf.forward(tokens, { hooks });
    const values = await logits.read();
    for (const t of [logits, kvCaches, ...made]) t.dispose();
    return values;
  };
  const expected = await run(() => (kept as Tensor).clone());
  const before = allocated();
  assert.equal(await run(() => kept as Tensor), expected);
  assert.is(allocated(), before);
});

test('hooks that are run without a pass: the result is x, a view of it, or the caller has to free it', async () => {
  using x = Tensor.zeros([2, 3], { device }).fill(1);
  using mine = Tensor.zeros([2, 3], { device }).fill(2);
  const before = allocated();
  for (const [hooks, expected] of [
    [new Hooks().append(() => mine).append((t) => t.add_(1)), 3],
    [new Hooks().append(identity()).append(() => mine), 2],
    [
      new Hooks()
        .append(identity())
        .append(identity())
        .append((t) => t.reshape(2, 3)),
      1,
    ],
    [new Hooks().append(() => mine).append(new ConditionalHooks(() => true).append(identity())), 2],
    [identity(), 1],
  ] as const) {
    const result = await hooks.run(x);
    assert.is.not(result, mine);
    close(await result.read(), new Array(6).fill(expected));
    result.dispose();
    assert.is(allocated(), before);
  }
  close(await mine.read(), new Array(6).fill(2));
  close(await x.read(), new Array(6).fill(1));
});

test('encode and decode that give what is there already: x, the latents, one tensor twice', async () => {
  using x = Tensor.zeros([2, 3], { device }).fill(1);
  const before = allocated();
  for (const options of [
    { encode: (t: Tensor) => t, decode: (latents: Tensor) => latents },
    { encode: (t: Tensor) => t.clone(), decode: (_: Tensor, t: Tensor) => t },
    { encode: (t: Tensor) => t.reshape(3, 2), decode: (_: Tensor, t: Tensor) => t.reshape(2, 3) },
  ]) {
    for (const addError of [true, false]) {
      const hooks = new AutoencoderHooks({ ...options, addError });
      hooks.latents.appendFwd((latents) => latents.mul_(3));
      hooks.reconstruction.appendFwd((t) => t.add_(1));
      const result = await hooks.run(x);
      close(await x.read(), new Array(6).fill(1), { label: 'x' });
      result.dispose();
      assert.is(allocated(), before);
    }
  }
});

test.run();
