// Passes that begin at a layer. Oracle: the whole pass that their residual stream is from, bit for bit.
import * as assert from 'uvu/assert';
import { openDevice } from '../../src/engine/device.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { disposeAll } from '../../src/engine/scope.js';
import { atPositions } from '../../src/transformer/at_positions.js';
import { appendAt } from '../../src/transformer/hook_places.js';
import { AtLayers, ConditionalHooks, TransformerHooks } from '../../src/transformer/hooks.js';
import { finalPoints, formatLocation, layerPoints } from '../../src/transformer/location.js';
import { prepInputAndPad } from '../../src/transformer/padding.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { close, relativeError } from '../support/close.js';
import { emulated, testDevice } from '../support/device.js';
import { openGolden } from '../support/goldens.js';
import { rejects, suite, throws } from '../support/harness.js';

const test = suite('passes that begin at a layer');
const g = await openGolden('tiny');
const device = testDevice();
const xf = await Transformer.load(g.folder, { device });
const { nLayers, dModel } = xf.config; // 3 layers
const rows = g.rows('tokens');
const seq = (rows[0] as number[]).length;
const layers = Array.from({ length: nLayers + 1 }, (_, layer) => layer);

/** Where the residual stream that goes into a layer is. */
const below = (layer: number): string => (layer === 0 ? 'resid/post_emb' : `${layer - 1}/resid/post_mlp`);
/** What a pass from a layer on computes. */
const above = (first: number): string[] => [
  ...layers.slice(first, -1).flatMap((layer) => layerPoints.map((point) => formatLocation({ point, layer }))),
  ...finalPoints.map((point) => formatLocation({ point })),
];

async function residualAt(model: Transformer, layer: number, options = {}): Promise<Tensor> {
  const values = await model.activations(rows, [below(layer)], options);
  return values.get(below(layer)) as Tensor;
}

test('from each layer, and behind the last one: the bits of the whole pass, everywhere', async () => {
  for (const dtype of ['float32', 'bfloat16', 'float16'] as const) {
    using model = await Transformer.load(g.folder, { device, dtype });
    for (const layer of emulated() ? [1, nLayers] : layers) {
      using residual = await residualAt(model, layer);
      const kept = await residual.read();
      const from = { layer, residual };
      const whole = await model.forward(rows);
      const part = await model.forward(rows, { from });
      close(await part.logits.read(), await whole.logits.read(), { label: `${dtype}, layer ${layer}` });
      for (let own = layer; own < nLayers; own++) {
        for (const side of ['keys', 'values'] as const) {
          close(await part.kvCaches[side](own).read(), await whole.kvCaches[side](own).read(), { label: side });
        }
      }
      for (const locations of [above(layer), ['logits'], above(layer).filter((name) => /mlp|logits/.test(name))]) {
        const expected = await model.activations(rows, locations);
        const values = await model.activations(rows, locations, { from });
        assert.equal([...values.keys()], [...expected.keys()]);
        for (const [name, x] of values)
          close(await x.read(), await (expected.get(name) as Tensor).read(), { label: name });
        disposeAll(...expected.values(), ...values.values());
      }
      close(await residual.read(), kept, { label: 'the residual stream itself' });
      disposeAll(whole.logits, whole.kvCaches, part.logits, part.kvCaches);
    }
  }
});

test('a sweep that begins where it edits has the bits of hooks there', async () => {
  using clean = await residualAt(xf, 1);
  const corrupted = rows.map((row) => row.map((token) => (token * 7 + 3) % xf.nVocab));
  const before = await xf.activations(corrupted, [below(1)]);
  const stream = before.get(below(1)) as Tensor;
  for (let position = 0; position < seq; position++) {
    using residual = stream.clone();
    residual.select(1, position).copyFrom(clean.select(1, position));
    const hooks = new TransformerHooks();
    const patch = atPositions(position, (x) => x.copyFrom(clean.slice(1, position, position + 1)));
    hooks.resid.torso.postMlp.appendFwd(new AtLayers(0).append(patch));
    const hooked = await xf.forward(corrupted, { hooks });
    const swept = await xf.forward(corrupted, { from: { layer: 1, residual }, logitsAt: 'last' });
    close(await swept.logits.select(1, 0).read(), await hooked.logits.select(1, -1).read());
    disposeAll(hooked.logits, swept.logits);
  }
  stream.dispose();
});

test('padding, on either side', async () => {
  for (const side of ['left', 'right'] as const) {
    const { tokens, pad } = prepInputAndPad(g.json.prompts, side, device);
    const whole = await xf.forward(tokens, { pad });
    for (const layer of layers) {
      const values = await xf.activations(tokens, [below(layer)], { pad });
      const residual = values.get(below(layer)) as Tensor;
      const part = await xf.forward(tokens, { pad, from: { layer, residual } });
      close(await part.logits.read(), await whole.logits.read(), { label: `${side}, layer ${layer}` });
      disposeAll(part.logits, residual);
    }
    disposeAll(whole.logits, tokens, pad);
  }
});

test('a view as the residual stream, changed or disposed as soon as the pass is under way', async () => {
  using residual = await residualAt(xf, 1);
  const whole = await xf.forward(rows);
  const expected = await whole.logits.read();
  using turned = residual.permute([2, 1, 0]).clone();
  const strided = await xf.forward(rows, { from: { layer: 1, residual: turned.permute([2, 1, 0]) } });
  close(await strided.logits.read(), expected);
  const mine = residual.clone();
  const hooks = new TransformerHooks();
  hooks.resid.torso.postLnAttn.appendFwd(
    new AtLayers(1).append(() => {
      mine.fill(0).dispose();
    }),
  );
  const changed = await xf.forward(rows, { hooks, from: { layer: 1, residual: mine } });
  close(await changed.logits.read(), expected);
  disposeAll(whole.logits, strided.logits, changed.logits);
});

test('hooks above are called, and see what they see in a whole pass', async () => {
  const run = async (options: { residual?: Tensor; prepare?: (hooks: TransformerHooks) => void } = {}) => {
    const seen: string[] = [];
    const hooks = new TransformerHooks();
    for (const location of above(1)) {
      appendAt(hooks, location, 'fwd', async (x, { layer, point, positions }) => {
        const values = Array.from(await x.read()).reduce((sum, value) => sum + (value === -Infinity ? 1 : value), 0);
        seen.push(`${layer} ${point} ${x.shape} ${values} ${await positions.read()}`);
      });
    }
    const { residual } = options;
    const { logits } = await xf.forward(rows, { hooks, ...(residual && { from: { layer: 1, residual } }) });
    logits.dispose();
    return seen;
  };
  using residual = await residualAt(xf, 1);
  const whole = await run();
  assert.is(whole.length, above(1).length);
  assert.equal(await run({ residual }), whole);
});

test('caches hold the layers of their passes, and are continued by passes that begin there', async () => {
  const whole = await xf.forward(rows);
  using residual = await residualAt(xf, 1);
  const [first, rest] = [rows.map((row) => row.slice(0, 3)), rows.map((row) => row.slice(3))];
  const part = (from: number, to?: number) => ({ layer: 1, residual: residual.slice(1, from, to) });
  const begun = await xf.forward(first, { from: part(0, 3) });
  const { kvCaches } = begun;
  const held = /^kvCaches: layer must be from 1 to 2, as the pass began at layer 1, but is 0$/;
  throws(() => kvCaches.keys(0), RangeError, held);
  for (const [name, caches] of [
    ['caches', kvCaches],
    ['a clone', kvCaches.clone()],
    ['a choice', kvCaches.select([0, 1])],
  ] as const) {
    const refused =
      /^(forward|sample): kvCaches must be of passes that begin at layer 0, as this one does, but are of passes that begin at layer 1$/;
    await rejects(xf.forward(rest, { kvCaches: caches }), RangeError, refused);
    await rejects(
      xf.sample(
        rows.map(() => [1]),
        { kvCaches: caches },
      ),
      RangeError,
      refused,
    );
    const next = await xf.forward(rest, { kvCaches: caches, from: part(3) });
    close(await next.logits.read(), await whole.logits.slice(1, 3).clone().read(), {
      rtol: 1e-4,
      atol: 1e-4,
      label: name,
    });
    close(await caches.keys(1).read(), await whole.kvCaches.keys(1).read(), { label: name });
    next.logits.dispose();
  }
  // those of a whole pass hold what lies below
  const refused =
    /^forward: kvCaches must be of passes that begin at layer 1, as this one does, but are of passes that begin at layer 0$/;
  await rejects(xf.forward(rest, { kvCaches: whole.kvCaches, from: part(3) }), RangeError, refused);
  assert.is(whole.kvCaches.length, seq);
  // from layer 0 on, they hold all
  using embedded = await residualAt(xf, 0);
  const all = await xf.forward(rows, { from: { layer: 0, residual: embedded } });
  const next = await xf.forward(
    rows.map(() => [1]),
    { kvCaches: all.kvCaches },
  );
  const expected = await xf.forward(
    rows.map(() => [1]),
    { kvCaches: whole.kvCaches },
  );
  close(await next.logits.read(), await expected.logits.read());
  // behind the last layer, there is none to hold
  using last = await residualAt(xf, nLayers);
  const none = await xf.forward(rows, { from: { layer: nLayers, residual: last } });
  throws(
    () => none.kvCaches.keys(0),
    RangeError,
    /^kvCaches: no layer is held, as the pass began behind the last one$/,
  );
  for (const t of [whole, begun, all, none]) disposeAll(t.logits, t.kvCaches);
  disposeAll(next.logits, expected.logits);
});

test('hooks below are refused by name, forward and backward', async () => {
  using residual = await residualAt(xf, 1);
  const from = { layer: 1, residual };
  for (const list of ['fwd', 'bwd', 'fwd2']) {
    const at = (path: string, hook: Parameters<TransformerHooks['appendToPath']>[1]) =>
      new TransformerHooks().appendToPath(`${path}.${list}`, hook);
    const why = 'would not be called, as the pass begins at layer 1 (from)';
    for (const [hooks, place] of [
      [at('resid.post_emb', () => {}), 'resid.post_emb'],
      [at('mlp.post_act', () => {}), 'mlp.post_act, layer 0'],
      [
        at(
          'attn.head_out',
          new AtLayers(0).append(() => {}),
        ),
        'attn.head_out, layer 0',
      ],
      [
        at(
          'resid.torso.post_mlp',
          new AtLayers([0, 1]).append(() => {}),
        ),
        'resid.torso.post_mlp, layer 0',
      ],
      [
        at(
          'attn.q',
          new ConditionalHooks(() => false).append(() => {}),
        ),
        'attn.q, layer 0',
      ],
    ] as [TransformerHooks, string][]) {
      const hint = place === 'resid.post_emb' ? '' : '; AtLayers(…) names the layers of hooks';
      const message = `hooks at ${place} ${why}${hint}`;
      for (const [operation, call] of [
        ['forward', () => xf.forward(rows, { hooks, from })],
        ['activations', () => xf.activations(rows, ['logits'], { hooks, from })],
      ] as const) {
        assert.is(
          (await rejects((call as () => Promise<unknown>)(), RangeError, /./)).message,
          `${operation}: ${message}`,
        );
      }
    }
    // above, and where nothing is appended, they are not in the way
    const hooks = at(
      'mlp.post_act',
      new AtLayers(1).append(() => {}),
    );
    hooks.appendToPath(`logits.${list}`, () => {});
    hooks.appendToPath(`attn.q.${list}`, new AtLayers(0));
    (await xf.forward(rows, { hooks, from })).logits.dispose();
  }
});

test('locations below are refused by name', async () => {
  using residual = await residualAt(xf, 1);
  const from = { layer: 1, residual };
  for (const [location, named] of [
    ['resid/post_emb', 'resid/post_emb'],
    ['0/resid/post_mlp', '0/resid/post_mlp'],
    ['*/mlp/post_act', '0/mlp/post_act'],
  ] as const) {
    const message = `location '${named}' is not computed, as the pass begins at layer 1 (from)`;
    const failed = await rejects(xf.activations(rows, ['1/attn/q', location], { from }), RangeError, /./);
    assert.is(failed.message, `activations: ${message}`);
    if (device.kind !== 'cpu') continue;
    const of = ({ logits }: { logits: Tensor }) => logits.sum();
    const gone = await rejects(xf.gradients(rows, { at: [location], of, from }), RangeError, /./);
    assert.is(gone.message, `gradients: ${message}`);
  }
});

test('from layer 0 on, the embedding is below', async () => {
  using residual = await residualAt(xf, 0);
  const from = { layer: 0, residual };
  const hooks = new TransformerHooks();
  hooks.resid.postEmb.appendFwd(() => {});
  const why = /^forward: hooks at resid\.post_emb would not be called, as the pass begins at layer 0 \(from\)$/;
  await rejects(xf.forward(rows, { hooks, from }), RangeError, why);
  const not = /^activations: location 'resid\/post_emb' is not computed, as the pass begins at layer 0 \(from\)$/;
  await rejects(xf.activations(rows, ['resid/post_emb'], { from }), RangeError, not);
});

test('the same of gradients(): hooks, autoencoders and layers that there are not', async () => {
  const onCpu = await Transformer.load(g.folder, { device: openDevice('cpu') });
  const values = await onCpu.activations(rows, [below(1)]);
  const residual = values.get(below(1)) as Tensor;
  const hooks = new TransformerHooks();
  hooks.mlp.postAct.appendFwd(new AtLayers(0).append(() => {}));
  const autoencoder = { encode: (x: Tensor) => x.clone(), decode: (x: Tensor) => x.clone() };
  for (const [options, message] of [
    [{ hooks }, /^gradients: hooks at mlp\.post_act, layer 0 would not be called, as the pass begins at layer 1/],
    [{ autoencoders: { '0/mlp/post_act': autoencoder } }, /^gradients: location '0\/mlp\/post_act' is not computed/],
    [{ from: { layer: nLayers + 1, residual } }, /^gradients: from\.layer must be an integer from 0 to 3, but is 4$/],
    [{ from: { layer: 1, residual: [1] } }, /^gradients: from\.residual must be a tensor/],
  ] as [object, RegExp][]) {
    const of = ({ logits }: { logits: Tensor }) => logits.sum();
    const given = { of, at: ['1/mlp/post_act'], from: { layer: 1, residual }, ...options };
    await rejects(onCpu.gradients(rows, given), Error, message);
  }
  residual.dispose();
  onCpu.dispose();
});

test('where it begins is what it was when the pass was asked for', async () => {
  const streams = [await residualAt(xf, 0), await residualAt(xf, 1), await residualAt(xf, nLayers)];
  const whole = await xf.forward(rows);
  const expected = await whole.logits.read();
  const from = { layer: 0, residual: streams[0] as Tensor };
  const passes: Promise<Tensor>[] = [];
  for (const [i, layer] of [0, 1, nLayers].entries()) {
    Object.assign(from, { layer, residual: streams[i] });
    passes.push(xf.forward(rows, { from }).then(({ logits }) => logits));
    const values = xf.activations(rows, ['logits'], { from });
    passes.push(values.then((found) => found.get('logits') as Tensor));
  }
  Object.assign(from, { layer: 99, residual: undefined });
  for (const pass of passes) {
    using logits = await pass;
    close(await logits.read(), expected);
  }
  disposeAll(whole.logits, ...streams);
});

test('without grad, nothing is recorded, whatever the residual stream is', async () => {
  const onCpu = await Transformer.load(g.folder, { device: openDevice('cpu') });
  const values = await onCpu.activations(rows, [below(1)]);
  const leaf = (values.get(below(1)) as Tensor).requireGrad();
  const recorded = leaf.mul(2);
  for (const residual of [leaf, recorded]) {
    const from = { layer: 1, residual };
    const { logits } = await onCpu.forward(rows, { from });
    const found = await onCpu.activations(rows, ['1/mlp/post_act', 'logits'], { from });
    for (const x of [logits, ...found.values()]) assert.is(x.storage.history, undefined);
    await rejects(logits.sum().backward(), Error, /depends on nothing/);
    disposeAll(logits, ...found.values());
  }
  assert.is(leaf.grad, undefined);
  disposeAll(recorded, leaf);
  onCpu.dispose();
});

test('what does not fit is refused, and nothing is left behind', async () => {
  using residual = await residualAt(xf, 1);
  const before = device.memory().allocated;
  const shape = [rows.length, seq, dModel];
  using narrow = Tensor.zeros([...shape.slice(0, 2), dModel - 1], { device });
  using short = residual.slice(1, 1);
  using half = Tensor.zeros(shape, { device, dtype: 'bfloat16' });
  const gone = residual.clone();
  gone.dispose();
  const expected = `[${shape.join(', ')}] (the shape of tokens, and the model width)`;
  const bad: [unknown, string | RegExp][] = [
    [null, 'from must be an object, but is null'],
    [{}, `from.layer must be an integer from 0 to ${nLayers}, but is undefined`],
    [{ layer: nLayers + 1, residual }, `from.layer must be an integer from 0 to ${nLayers}, but is ${nLayers + 1}`],
    [{ layer: -1, residual }, `from.layer must be an integer from 0 to ${nLayers}, but is -1`],
    [{ layer: 1 }, 'from.residual must be a tensor, but is undefined'],
    [{ layer: 1, residual: [[[1]]] }, 'from.residual must be a tensor, but is an array of length 1'],
    [{ layer: 1, residual: narrow }, `from.residual must be ${expected}, but is [${narrow.shape.join(', ')}]`],
    [{ layer: 1, residual: short }, `from.residual must be ${expected}, but is [${short.shape.join(', ')}]`],
    [{ layer: 1, residual: half }, 'from.residual must be float32, but is bfloat16'],
    [{ layer: 1, residual: gone }, /from\.residual .*disposed/],
    [{ layer: 1, residual, layers: 1 }, "'layers' is no option of from; the nearest one is 'layer'"],
  ];
  for (const [from, message] of bad) {
    for (const [operation, call] of [
      ['forward', () => xf.forward(rows, { from: from as never })],
      ['activations', () => xf.activations(rows, ['logits'], { from: from as never })],
    ] as const) {
      const failed = await rejects((call as () => Promise<unknown>)(), Error, /./);
      if (typeof message === 'string') assert.is(failed.message, `${operation}: ${message}`);
      else assert.match(failed.message, message);
    }
  }
  if (device.kind !== 'cpu') {
    using elsewhere = Tensor.zeros(shape, { device: openDevice('cpu') });
    await rejects(
      xf.forward(rows, { from: { layer: 1, residual: elsewhere } }),
      TypeError,
      /from\.residual must be on cuda:0/,
    );
  }
  assert.is(device.memory().allocated, before + narrow.storage.bytes + half.storage.bytes);
});

test('gradients reach the residual stream, and the parameters above', async () => {
  const onCpu = await Transformer.load(g.folder, { device: openDevice('cpu') });
  const of = (logits: Tensor) => logits.mul(logits).mean();
  for (const layer of layers) {
    const { values, gradients } = await onCpu.gradients(rows, { at: [below(layer)], of: ({ logits }) => of(logits) });
    const expected = await (gradients.get(below(layer)) as Tensor).read();
    const leaf = (values.get(below(layer)) as Tensor).detach().clone().requireGrad();
    const { logits } = await onCpu.forward(rows, { from: { layer, residual: leaf }, grad: 'parameters' });
    const parameters = await of(logits).backward();
    const error = relativeError(await (leaf.grad as Tensor).read(), expected);
    assert.ok(error < 1e-6, `layer ${layer}: ${error}`);
    for (const [name, gradient] of parameters) {
      const own = /^xf_layers\.(\d+)/.exec(name)?.[1];
      const isAbove = own === undefined ? /final_ln|unembed/.test(name) : Number(own) >= layer;
      const largest = Array.from(await gradient.read()).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      if (!name.endsWith('k_proj.bias')) assert.is(largest > 0, isAbove, `${name}, from layer ${layer}`);
    }
    if (layer < nLayers) {
      const at = [`${nLayers - 1}/mlp/post_act`, `${layer}/attn/head_out`];
      const whole = await onCpu.gradients(rows, { at, of: ({ logits }) => of(logits) });
      const residual = leaf.detach();
      const part = await onCpu.gradients(rows, { at, of: ({ logits }) => of(logits), from: { layer, residual } });
      for (const [name, gradient] of part.gradients) {
        const wanted = await (whole.gradients.get(name) as Tensor).read();
        assert.ok(relativeError(await gradient.read(), wanted) < 1e-6, name);
      }
      for (const { values, gradients } of [whole, part]) disposeAll(...values.values(), ...gradients.values());
    }
    disposeAll(logits, leaf, ...parameters.values(), ...values.values(), ...gradients.values());
  }
  onCpu.dispose();
});

test.run();
