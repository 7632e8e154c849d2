// Hooks that know where they are: the positions in their context, and atPositions. Oracles: positions counted by hand; an
// edit of one position in a single pass of a row alone, by slice().
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { atPositions } from '../../src/transformer/at_positions.js';
import {
  AtLayers,
  AutoencoderHooks,
  type Hook,
  type HookContext,
  Hooks,
  TransformerHooks,
} from '../../src/transformer/hooks.js';
import { finalPoints, firstPoint, layerPoints, type Point } from '../../src/transformer/location.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { close } from '../support/close.js';
import { emulated, testDevice } from '../support/device.js';
import { rejects, suite, throws } from '../support/harness.js';
import { random } from '../support/random.js';

const test = suite('positions of hooks');
const device = testDevice();
const points: Point[] = [firstPoint, ...layerPoints, ...finalPoints];
let xf: Transformer; // 3 layers, a window of 32 tokens
test.before(async () => {
  xf = await Transformer.load(join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny'), { device });
});

const allocated = () => device.memory().allocated;
const at = (path: string, hook: Hook): TransformerHooks => new TransformerHooks().appendToPath(path, hook);
/** Probabilities of keys that are not seen stay 0. */
const editOf = (path: string) => (x: Tensor) =>
  path.startsWith('attn.qk_probs') ? x.mul_(0.5) : x.mul_(0.5).add_(0.25);
const within = { rtol: 1e-4, atol: 2e-5 };

/** Frees what a pass returned. */
function free(result: unknown): void {
  const { logits, kvCaches } = result as { logits?: Tensor; kvCaches?: { dispose(): void } };
  for (const t of result instanceof Map ? result.values() : [logits, kvCaches]) t?.dispose();
}

/** What each hook point's context says in a pass, by point. */
async function seen(run: (hooks: TransformerHooks) => Promise<unknown>): Promise<Map<string, Record<string, unknown>>> {
  const found = new Map<string, Record<string, unknown>>();
  const hooks = new TransformerHooks();
  const nested = async (tensor: Tensor | undefined) => {
    if (!tensor) return undefined;
    assert.is(tensor.dtype, 'int32');
    const [rows, length] = tensor.shape as [number, number];
    const values = [...(await tensor.read())];
    return Array.from({ length: rows }, (_, row) => values.slice(row * length, (row + 1) * length));
  };
  for (const point of points) {
    hooks.appendToPath(`${point}.fwd`, async (x, context) => {
      assert.is(context.point, point);
      assert.is(x.shape[0], context.positions.shape[0]);
      const { step, rows } = context;
      const [positions, keyPositions] = [await nested(context.positions), await nested(context.keyPositions)];
      found.set(point, { positions, keyPositions, step, rows });
    });
  }
  free(await run(hooks));
  assert.is(found.size, points.length);
  return found;
}

const withKeys = new Set<string>(['attn.k', 'attn.v', 'attn.qk_logits', 'attn.qk_probs']);

function expectAll(found: Map<string, Record<string, unknown>>, positions: number[][], keyPositions: number[][]): void {
  for (const [point, context] of found) {
    assert.equal(context.positions, positions, point);
    assert.equal(context.keyPositions, withKeys.has(point) ? keyPositions : undefined, point);
  }
}

test('the context of every hook has the positions of its tokens, -1 for padding', async () => {
  const plain = [[0, 1, 2]];
  expectAll(await seen((hooks) => xf.forward([[4, 5, 6]], { hooks })), plain, plain);
  const padded = [
    [-1, 0, 1],
    [0, -1, 1],
    [0, 1, -1],
    [-1, -1, -1],
  ];
  const tokens = padded.map(() => [7, 8, 9]);
  const pad = padded.map((row) => row.map((position) => position < 0));
  expectAll(await seen((hooks) => xf.forward(tokens, { hooks, pad })), padded, padded);
  expectAll(await seen((hooks) => xf.activations(tokens, ['logits'], { hooks, pad })), padded, padded);
  using tensor = Tensor.from(pad, { device });
  expectAll(await seen((hooks) => xf.activations(tokens, ['logits'], { hooks, pad: tensor })), padded, padded);
});

test('with caches, positions go on, and keys have those of the caches too', async () => {
  const first = await xf.forward([[1], [2]]);
  first.logits.dispose();
  using kvCaches = first.kvCaches;
  const pass = async (...args: Parameters<Transformer['forward']>) => ({ logits: (await xf.forward(...args)).logits });
  const more = {
    kvCaches,
    pad: [
      [1, 0],
      [1, 1],
    ],
  } as const;
  const keys = [
    [0, -1, 1],
    [0, -1, -1],
  ];
  expectAll(
    await seen((hooks) =>
      pass(
        [
          [0, 3],
          [0, 0],
        ],
        { ...more, hooks },
      ),
    ),
    [
      [-1, 1],
      [-1, -1],
    ],
    keys,
  );
  const next = keys.map((row, i) => [...row, 2 - i]);
  expectAll(await seen((hooks) => pass([[3], [4]], { kvCaches, hooks })), [[2], [1]], next);
});

test('in sample, the context has the step', async () => {
  const steps: unknown[] = [];
  const hooks = at('mlp.post_act.fwd', async (_, { layer, step, positions }) => {
    if (layer === 0) steps.push([step, positions.shape, [...(await positions.read())]]);
  });
  await xf.sample([[1, 2, 3], [4]], { numTokens: 3, seed: 1, hooks });
  assert.equal(steps, [
    [0, [2, 3], [0, 1, 2, -1, -1, 0]],
    [1, [2, 1], [3, 1]],
    [2, [2, 1], [4, 2]],
  ]);
  free(await xf.forward([[1]], { hooks: at('logits.fwd', (_, context) => assert.not('step' in context)) }));
});

/** The logits of a row alone, in one pass, with position 3 (and others) edited at a point. */
async function alone(row: number[], path: string, positions: readonly number[]): Promise<Float32Array> {
  const hooks = at(path, (x) => {
    for (const position of positions) if (position < row.length) editOf(path)(x.slice(1, position, position + 1));
  });
  const { logits, kvCaches } = await xf.forward([row], { hooks });
  kvCaches.dispose();
  using _ = logits;
  return (await logits.read()) as Float32Array;
}

const logitsOf = async (tokens: number[][], options: Parameters<Transformer['forward']>[1]) => {
  const result = await xf.forward(tokens, options);
  const values = (await result.logits.read()) as Float32Array;
  result.logits.dispose();
  return { values, kvCaches: result.kvCaches };
};

test('an edit of a position is one hook: in a pass, with padding, with caches, at every point', async () => {
  const rng = random(5);
  const before = allocated();
  const rows = [6, 4, 2].map((n) => Array.from({ length: n }, () => rng.integer(0, xf.nVocab)));
  const V = xf.nVocab;
  for (const point of emulated() ? points.filter((_, i) => i % 4 === 0) : points) {
    const path = `${point}.fwd`;
    for (const positions of [[3], [1, 3, 2]]) {
      const hooks = at(path, atPositions(positions, editOf(path)));
      const want = await Promise.all(rows.map((row) => alone(row, path, positions)));
      // one pass, padded on the left, the right and in the middle
      for (const slots of [
        rows.map((row) => [...new Array<number>(6 - row.length).fill(-1), ...row]),
        rows.map((row) => [...row, ...new Array<number>(7 - row.length).fill(-1)]),
        rows.map((row) => [...row.slice(0, 1), ...new Array<number>(7 - row.length).fill(-1), ...row.slice(1)]),
      ]) {
        const tokens = slots.map((row) => row.map((token) => Math.max(token, 0)));
        const pad = slots.map((row) => row.map((token) => token < 0));
        const { values, kvCaches } = await logitsOf(tokens, { hooks, pad });
        kvCaches.dispose();
        for (const [r, row] of slots.entries()) {
          const length = row.length;
          const places = row.flatMap((token, i) => (token < 0 ? [] : [i]));
          for (const [n, i] of places.entries()) {
            const from = (r * length + i) * V;
            close(values.subarray(from, from + V), (want[r] as Float32Array).subarray(n * V, (n + 1) * V), within);
          }
        }
      }
      // token by token
      const row = rows[0] as number[];
      let kvCaches: Awaited<ReturnType<typeof logitsOf>>['kvCaches'] | undefined;
      for (const [i, token] of row.entries()) {
        const step = await logitsOf([[token]], { hooks, ...(kvCaches ? { kvCaches } : {}) });
        kvCaches = step.kvCaches;
        close(step.values, (want[0] as Float32Array).subarray(i * V, (i + 1) * V), within);
      }
      kvCaches?.dispose();
    }
  }
  assert.is(allocated(), before);
});

test('an edit of a position while sampling gives the tokens of whole passes with that edit', async () => {
  const prompts = [[5, 6, 7, 8, 9], [10, 11], [12]];
  for (const path of ['resid.torso.post_mlp.fwd', 'attn.k.fwd', 'attn.qk_logits.fwd', 'logits.fwd']) {
    const change = (x: Tensor) => x.mul_(3).add_(0.5);
    const hooks = at(path, new AtLayers([0, 1, 2]).append(atPositions(3, change)));
    const plain = path === 'logits.fwd' ? at(path, atPositions(3, change)) : hooks;
    const { tokens } = await xf.sample(prompts, { numTokens: 5, temperature: 0, hooks: plain });
    for (const [r, prompt] of prompts.entries()) {
      const row = [...prompt];
      for (let step = 0; step < 5; step++) {
        const whole = at(path, (x) => {
          if ((x.shape[1] as number) > 3) change(x.slice(1, 3, 4));
        });
        const { logits, kvCaches } = await xf.forward([row], { hooks: whole });
        using best = logits.select(0, 0).select(0, -1).argmax(0);
        row.push((await best.read())[0] as number);
        for (const t of [logits, kvCaches]) t.dispose();
      }
      assert.equal(tokens[r], row.slice(prompt.length), `${path}, prompt ${r}`);
    }
  }
});

test('the hook sees [rows, positions, …]: one call where all rows have them, else one for rows that have the same', async () => {
  const calls: unknown[] = [];
  const record = async (x: Tensor, { rows, positions, layer }: HookContext) => {
    if (layer === 1) calls.push([rows, x.shape.slice(0, 2), [...(await positions.read())]]);
  };
  const run = async (positions: number | number[], tokens: number[][], pad?: number[][]) => {
    calls.length = 0;
    const hooks = at('resid.torso.post_mlp.fwd', atPositions(positions, record));
    free(await xf.forward(tokens, { hooks, ...(pad ? { pad } : {}) }));
    return calls;
  };
  const tokens = [
    [1, 2, 3, 4],
    [5, 6, 7, 8],
    [9, 1, 2, 3],
  ];
  const pad = [
    [1, 0, 0, 0],
    [0, 0, 0, 0],
    [0, 0, 0, 1],
  ];
  assert.equal(await run([2, 0], tokens), [
    [
      [0, 1, 2],
      [3, 2],
      [2, 0, 2, 0, 2, 0],
    ],
  ]);
  assert.equal(await run([2, 0], tokens, pad), [
    [
      [0, 1, 2],
      [3, 2],
      [2, 0, 2, 0, 2, 0],
    ],
  ]);
  assert.equal(await run([3, 0], tokens, pad), [
    [
      [0, 2],
      [2, 1],
      [0, 0],
    ],
    [[1], [1, 2], [3, 0]],
  ]);
  assert.equal(await run(3, tokens, pad), [[[1], [1, 1], [3]]]);
  assert.equal(await run([4, 9], tokens, pad), []);
});

test('what the hook returns is put in its place: a new tensor, a part of x in another order, nothing', async () => {
  const before = allocated();
  const [D, rows] = [xf.config.dModel, 3];
  const tokens = Array.from({ length: rows }, (_, r) => [r, r + 1, r + 2, r + 3]);
  const pads = [
    undefined,
    [
      [1, 0, 0, 0],
      [0, 0, 0, 1],
      [0, 1, 0, 0],
    ],
  ];
  for (const pad of pads) {
    const kept: Float32Array[] = [];
    const keep: Hook = async (x) => void kept.push(((await x.read()) as Float32Array).slice());
    using mine = Tensor.randn([rows, 2, D], { seed: 3, device });
    const own: Tensor[] = [];
    const owned = (t: Tensor): Tensor => {
      own.push(t);
      return t;
    };
    for (const hook of [
      () => mine,
      (x: Tensor) => owned(x.mul(2)),
      (x: Tensor) => owned(x.add(x.slice(1, 1, 2))),
      (x: Tensor) => x.window(x.shape, [x.strides[0] as number, 0, x.strides[2] as number]),
    ]) {
      kept.length = 0;
      const hooks = new TransformerHooks();
      const point = hooks.resid.postEmb;
      const parts: [Float32Array, Float32Array][] = [];
      point.appendFwd(keep);
      point.appendFwd(
        atPositions([2, 1], async (x, context) => {
          const given = ((await x.read()) as Float32Array).slice();
          const result = await hook(x);
          parts.push([given, ((await result.read()) as Float32Array).slice()]);
          assert.equal(context.rows, [0, 1, 2]);
          return result;
        }),
      );
      point.appendFwd(keep);
      free(await xf.activations(tokens, ['resid/post_emb'], { hooks, ...(pad ? { pad } : {}) }));
      const [was, is] = kept as [Float32Array, Float32Array];
      const [given, result] = parts[0] as [Float32Array, Float32Array];
      for (let r = 0; r < rows; r++) {
        const seen = [0, 1, 2, 3].filter((i) => !pad?.[r]?.[i]);
        for (let i = 0; i < 4; i++) {
          const from = (r * 4 + i) * D;
          const n = [2, 1].indexOf(seen.indexOf(i));
          const part = (of: Float32Array) => of.subarray((r * 2 + n) * D, (r * 2 + n + 1) * D);
          close(is.subarray(from, from + D), n < 0 ? was.subarray(from, from + D) : part(result));
          if (n >= 0) close(was.subarray(from, from + D), part(given));
        }
      }
    }
    using same = Tensor.randn([rows, 2, D], { seed: 3, device });
    close(await mine.read(), await same.read());
    for (const t of own) t.dispose();
  }
  assert.is(allocated(), before);
});

test('x is a view of the whole where rows have the positions at the same places', async () => {
  let whole: Tensor | undefined;
  const seen: unknown[] = [];
  const hooks = new TransformerHooks();
  hooks.resid.postEmb.appendFwd((x) => {
    whole = x;
  });
  hooks.resid.postEmb.appendFwd(
    atPositions([1, 3], (x) => void seen.push(x.storage === whole?.storage, x.strides, x.offset)),
  );
  const D = xf.config.dModel;
  free(
    await xf.forward(
      [
        [1, 2, 3, 4],
        [5, 6, 7, 8],
      ],
      { hooks },
    ),
  );
  assert.equal(seen, [true, [4 * D, 2 * D, 1], D]);
  seen.length = 0;
  free(
    await xf.forward(
      [
        [1, 2, 3, 4, 0],
        [0, 5, 6, 7, 8],
      ],
      {
        hooks,
        pad: [
          [0, 0, 0, 0, 1],
          [1, 0, 0, 0, 0],
        ],
      },
    ),
  );
  assert.is(seen[0], false);
});

test('a part of the whole that overlaps with its place is copied as it was', async () => {
  let whole: Tensor | undefined;
  const kept: Float32Array[] = [];
  const keep: Hook = async (x) => {
    whole = x;
    kept.push(((await x.read()) as Float32Array).slice());
  };
  const hooks = new TransformerHooks();
  hooks.resid.postEmb
    .appendFwd(keep)
    .appendFwd(atPositions([1, 2], () => whole?.slice(1, 0, 2)))
    .appendFwd(keep);
  free(
    await xf.forward(
      [
        [1, 2, 3],
        [4, 5, 6],
      ],
      { hooks },
    ),
  );
  const D = xf.config.dModel;
  const [was, is] = kept as [Float32Array, Float32Array];
  for (const row of [0, 3 * D]) {
    close(is.subarray(row, row + D), was.subarray(row, row + D));
    close(is.subarray(row + D, row + 3 * D), was.subarray(row, row + 2 * D));
  }
});

test('inside layers, conditions, autoencoders and each other', async () => {
  const D = xf.config.dModel;
  const shapes: unknown[] = [];
  const note =
    (name: string): Hook =>
    (x, { rows, layer, positions }) => {
      shapes.push([name, layer, x.shape, rows, positions.shape]);
    };
  const ae = new AutoencoderHooks({ encode: (x) => x.mul(2), decode: (latents) => latents.mul(0.5) });
  ae.latents.appendFwd(atPositions([0], note('inner')));
  ae.latents.appendFwd(note('latents'));
  const hooks = new TransformerHooks();
  hooks.mlp.postAct.appendFwd(new AtLayers(1).append(atPositions([2, 0], note('layer'))));
  hooks.resid.torso.postMlp.appendFwd(
    atPositions([0, 2], new AtLayers(2).append(new Hooks().append(note('hooks')).append(ae))),
  );
  hooks.resid.torso.postMlp.appendFwd(new AtLayers(0).append(atPositions([0, 1], atPositions(1, note('nested')))));
  const copy = hooks.clone();
  const pad = [
    [0, 0, 1],
    [0, 0, 0],
  ];
  for (const tree of [hooks, copy]) {
    shapes.length = 0;
    const { logits, kvCaches } = await xf.forward(
      [
        [1, 2, 3],
        [4, 5, 6],
      ],
      { hooks: tree, pad },
    );
    for (const t of [logits, kvCaches]) t.dispose();
    assert.equal(shapes, [
      ['nested', 0, [2, 1, D], [0, 1], [2, 1]],
      ['layer', 1, [1, 1, 4 * D], [0], [1, 1]],
      ['layer', 1, [1, 2, 4 * D], [1], [1, 2]],
      ['hooks', 2, [1, 1, D], [0], [1, 1]],
      ['inner', 2, [1, 1, D], [0], [1, 1]],
      ['latents', 2, [1, 1, D], [0], [1, 1]],
      ['hooks', 2, [1, 2, D], [1], [1, 2]],
      ['inner', 2, [1, 1, D], [1], [1, 1]],
      ['latents', 2, [1, 2, D], [1], [1, 2]],
    ]);
  }
  assert.match(hooks.toString(), /atPositions\(2, 0\)/);
});

test('keys of the caches at attn.k, queries at qk_logits', async () => {
  const first = await xf.forward(
    [
      [1, 2],
      [3, 4],
    ],
    {
      pad: [
        [0, 0],
        [1, 0],
      ],
    },
  );
  using kvCaches = first.kvCaches;
  first.logits.dispose();
  const seenAt: unknown[] = [];
  const note =
    (name: string): Hook =>
    async (x, { rows, positions, keyPositions }) => {
      const of = async (t: Tensor | undefined) => t && [t.shape, [...(await t.read())]];
      seenAt.push([name, rows, x.shape.slice(0, 3), await of(positions), await of(keyPositions)]);
    };
  const hooks = new TransformerHooks();
  for (const id of ['k', 'qk_logits']) {
    hooks.appendToPath(`attn.${id}.fwd`, new AtLayers(0).append(atPositions([1, 2], note(id))));
  }
  const { logits } = await xf.forward([[5], [6]], { kvCaches, hooks });
  logits.dispose();
  const H = xf.config.nHeads;
  assert.equal(seenAt, [
    [
      'k',
      [0],
      [1, 2, H],
      [[1, 1], [2]],
      [
        [1, 2],
        [1, 2],
      ],
    ],
    ['k', [1], [1, 1, H], [[1, 1], [1]], [[1, 1], [1]]],
    [
      'qk_logits',
      [0],
      [1, 1, 3],
      [[1, 1], [2]],
      [
        [1, 3],
        [0, 1, 2],
      ],
    ],
    [
      'qk_logits',
      [1],
      [1, 1, 3],
      [[1, 1], [1]],
      [
        [1, 3],
        [-1, 0, 1],
      ],
    ],
  ]);
});

test('positions that are none, or beyond the window, and values without positions, are refused', async () => {
  const nothing = () => undefined;
  throws(
    () => atPositions(-1, nothing),
    RangeError,
    /atPositions: positions must be an integer of 0 or more, but is -1/,
  );
  throws(
    () => atPositions([1, 1.5], nothing),
    RangeError,
    /atPositions: positions\[1\] must be an integer of 0 or more, but is 1\.5/,
  );
  throws(() => atPositions([], nothing), RangeError, /positions must be at least one position, but is an empty list/);
  throws(() => atPositions([3, 1, 3], nothing), RangeError, /must be different ones, but 3 is there more than once/);
  throws(() => atPositions({} as never, nothing), TypeError, /a position or an array of positions, but is a Object/);
  throws(() => atPositions('3' as never, nothing), RangeError, /positions must be an integer of 0 or more, but is '3'/);
  throws(() => atPositions(3, 'x' as never), TypeError, /atPositions: hook must be a function or hooks, but is x/);
  const beyond = at('mlp.post_act.fwd', new AtLayers(1).append(atPositions([3, 32], nothing)));
  const message =
    /forward: a position of atPositions at mlp\.post_act must be from 0 to 31, as the model's context window is 32, but is 32/;
  await rejects(xf.forward([[1]], { hooks: beyond }), RangeError, message);
  await rejects(xf.sample([[1]], { hooks: beyond }), RangeError, /sample: a position of atPositions/);
  using x = Tensor.zeros([2, 3, 4], { device });
  const hook = atPositions(1, (x) => x.fill(1));
  await rejects(
    hook.run(x),
    TypeError,
    /^atPositions: the context of atPositions must have positions, an int32 tensor \[batch, seq\], but has undefined/,
  );
  using positions = Tensor.from(Int32Array.of(0, 1, 2, -1, 0, 1), { shape: [2, 3], device });
  assert.is(await hook.run(x, { positions }), x);
  assert.equal([...(await x.select(2, 0).read())], [0, 1, 0, 0, 0, 1]);
  const refused = (context: object, pattern: RegExp) => rejects(hook.run(x, context), TypeError, pattern);
  await refused({ positions: [[0, 1, 2]] }, /must have positions, an int32 tensor \[batch, seq\], but has an array of/);
  await refused({ positions: 5 }, /must have positions, an int32 tensor \[batch, seq\], but has 5/);
  await refused({ positions: x.select(2, 0) }, /but has Tensor \[2, 3\] float32 on/);
  await refused({ positions: positions.select(0, 0) }, /but has Tensor \[3\] int32 on/);
  await refused(
    { positions, point: 'attn.k' },
    /must have keyPositions, an int32 tensor \[batch, seq\], but has undef/,
  );
  using flat = Tensor.zeros([6, 4], { device });
  await rejects(
    hook.run(flat, { positions }),
    TypeError,
    /^atPositions: x must be \[2, 3, …\] for atPositions, as the positions of the pass, but is \[6, 4\]/,
  );
  const flattening = new AutoencoderHooks({
    encode: (x) => x.reshape(-1, 48),
    decode: (l, x) => l.reshape(...x.shape),
  });
  flattening.latents.appendFwd(atPositions(0, nothing));
  const place = /^resid\.post_emb, autoencoder latents: x must be \[1, 2, …\] for atPositions/;
  await rejects(xf.forward([[1, 2]], { hooks: at('resid.post_emb.fwd', flattening) }), TypeError, place);
  const unfit = at(
    'mlp.post_act.fwd',
    atPositions(1, () => Tensor.zeros([1, 2, 192], { device })),
  );
  await rejects(
    xf.forward([[1, 2]], { hooks: unfit }),
    TypeError,
    /^mlp\.post_act, layer 0: a hook must return a tensor of shape \[1, 1, 192\], but returned \[1, 2, 192\]/,
  );
  for (const name of ['point', 'positions', 'keyPositions', 'step', 'rows']) {
    throws(() => new Hooks().bind({ [name]: 1 }), Error, new RegExp(`bind: ${name} is what the pass gives`));
  }
});

test('any layout of the tensor: row by row, position by position, with gaps', async () => {
  // row 0 has the positions at indices 3 and 0, row 1 at 1 and 4
  using positions = Tensor.from(
    [
      [2, 1, 0, 5, 4],
      [1, 5, 0, 3, 2],
    ],
    { dtype: 'int32', device },
  );
  const base = () =>
    Tensor.from(
      Float32Array.from({ length: 64 }, (_, i) => i),
      { device },
    );
  const layouts = [
    [15, 3, 1], // rows one after the other
    [3, 6, 1], // positions one after the other
    [31, 6, 2], // gaps that are no whole number of rows
  ] as const;
  for (const strides of layouts) {
    using whole = base();
    const x = whole.window([2, 5, 3], strides);
    const expected = Array.from(await whole.read());
    for (const [row, indices] of [
      [0, [3, 0]],
      [1, [1, 4]],
    ] as const) {
      for (const [i, index] of indices.entries()) {
        for (let j = 0; j < 3; j++)
          expected[row * strides[0] + index * strides[1] + j * strides[2]] = 100 * (i + 1) + j;
      }
    }
    const hook = atPositions([5, 2], (part) => {
      assert.equal([...part.shape], [2, 2, 3]);
      const rows = Tensor.from(
        [
          [100, 101, 102],
          [200, 201, 202],
        ],
        { device },
      );
      return part.mul(0).add_(rows);
    });
    await hook.run(x, { positions });
    assert.equal([...(await whole.read())], expected, String(strides));
  }
});

test.run();
