// What console.log shows of each kind of object that the library gives: the same as inspect(). Oracle: the texts, written
// out, and that none has a handle of native code.
import { join } from 'node:path';
import { format, inspect } from 'node:util';
import * as assert from 'uvu/assert';
import * as sonde from '../src/index.js';
import { testDevice } from './support/device.js';
import { withFolder } from './support/folders.js';
import { suite } from './support/harness.js';

const test = suite('console.log');
const device = testDevice();
const { Tensor } = sonde;
const shownDevice = `Device ${device.name} (${device.description})`;

// as it is, to any depth, with what is not enumerable, and as console.dir shows it
const ways = [{}, { depth: null }, { depth: 20, showHidden: true }, { customInspect: false, depth: null }] as const;

/** Demands that no way to show a value has a handle of native code, whatever it lies in. */
function checkNoHandles(value: unknown, name: string): void {
  for (const options of ways) {
    for (const holder of [value, { value }, [value]]) {
      assert.not.match(inspect(holder, options), /External|\[native/, name);
    }
  }
}

const onOneLine = { breakLength: Infinity };

/** Demands the text of a value of one line: alone, and the same in other objects, however deep. */
function checkLine(value: object, line: string): void {
  assert.is(inspect(value), line);
  assert.is(format(value), line); // what console.log prints
  assert.is(inspect([value, { value }], onOneLine), `[ ${line}, { value: ${line} } ]`);
  assert.is(inspect(new Map([['key', value]]), onOneLine), `Map(1) { 'key' => ${line} }`);
  assert.is(inspect({ a: { b: { c: value } } }, onOneLine), `{ a: { b: { c: ${line} } } }`);
  assert.is(inspect(value, { depth: -1 }), line);
  checkNoHandles(value, line);
}

test('a device', () => {
  checkLine(device, shownDevice);
  assert.is(String(device), device.name);
});

test('tensors: fresh ones, views, and those that have ended', () => {
  for (const dtype of ['float32', 'bfloat16', 'float16', 'int32', 'bool'] as const) {
    const t = Tensor.zeros([2, 3], { device, dtype });
    const view = t.select(0, 1);
    checkLine(t, `Tensor [2, 3] ${dtype} on ${device.name}`);
    checkLine(view, `Tensor [3] ${dtype} on ${device.name}`);
    assert.is(inspect(t), String(t));
    t.dispose();
    checkLine(t, `Tensor [2, 3] ${dtype} on ${device.name} (ended)`);
    checkLine(view, `Tensor [3] ${dtype} on ${device.name} (ended)`); // with its owner
  }
  using t = Tensor.zeros([2, 0], { device });
  const view = t.permute([1, 0]);
  view.dispose();
  checkLine(t, `Tensor [2, 0] float32 on ${device.name}`);
  checkLine(view, `Tensor [0, 2] float32 on ${device.name} (ended)`);
  using scalar = Tensor.zeros([], { device });
  checkLine(scalar, `Tensor [] float32 on ${device.name}`);
});

test('a packed matrix', () => {
  using weight = Tensor.zeros([4, 3], { device, dtype: 'float16' });
  const packed = sonde.packWeights(weight);
  checkLine(packed, `PackedMatrix [4, 3] float16 on ${device.name}`);
  assert.is(inspect(packed), String(packed));
  packed.dispose();
  checkLine(packed, `PackedMatrix [4, 3] float16 on ${device.name} (ended)`);
});

test('results of a pass, caches and the model', async () => {
  const xf = await sonde.Transformer.load('random:tiny', { device, dtype: 'bfloat16' });
  const rows = [
    [1, 2, 3],
    [4, 5, 6],
  ];
  const result = await xf.forward(rows);
  const logits = `Tensor [2, 3, ${xf.nVocab}] bfloat16 on ${device.name}`;
  assert.is(inspect(result, onOneLine), `{ logits: ${logits}, kvCaches: [Getter] }`);
  const { kvCaches } = result;
  checkLine(kvCaches, `KvCaches [2, 3] bfloat16 on ${device.name}`);
  assert.is(inspect(kvCaches), String(kvCaches));
  (await xf.forward([[7], [8]], { kvCaches })).logits.dispose();
  checkLine(kvCaches, `KvCaches [2, 4] bfloat16 on ${device.name}`);
  kvCaches.dispose();
  checkLine(kvCaches, `KvCaches [2, 4] bfloat16 on ${device.name} (ended)`);

  const values = await xf.activations(rows, ['0/mlp/pre_act', 'resid/post_emb']);
  const { mMlp, dModel } = xf.config;
  for (const text of [
    `'resid/post_emb' => Tensor [2, 3, ${dModel}] bfloat16 on ${device.name}`,
    `'0/mlp/pre_act' => Tensor [2, 3, ${mMlp * dModel}] bfloat16 on ${device.name}`,
  ]) {
    assert.ok(inspect(values).includes(text), inspect(values));
  }
  for (const t of [result.logits, ...values.values()]) t.dispose();

  for (const state of ['loaded', 'disposed']) {
    const text = inspect(xf);
    assert.match(text, /^Transformer \{/, state);
    for (const field of [
      "name: 'random:tiny'",
      `dModel: ${dModel}`,
      `nVocab: ${xf.nVocab}`,
      "dtype: 'bfloat16'",
      `device: ${shownDevice}`,
    ]) {
      assert.ok(text.includes(field), `${state}: ${field} in ${text}`);
    }
    assert.ok(text.split('\n').length < 30, text);
    checkNoHandles(xf, `a model, ${state}`);
    xf.dispose();
  }
});

const tinySizes = { enc: 'gpt2', ctxWindow: 8, dModel: 4, nLayers: 1, nHeads: 1, mAttn: 1, mMlp: 4 } as const;

test('hooks: the tree of toString(), and a name where it would be too deep', () => {
  using kept = Tensor.zeros([2], { device });
  const named = () => undefined;
  const hooks = new sonde.TransformerHooks();
  hooks.mlp.postAct.appendFwd(new sonde.AtLayers([1, 2]).append(named).bind({ kept }));
  const ae = new sonde.AutoencoderHooks({ encode: (x) => x.clone(), decode: (x) => x.clone() });
  const fwd = 'fwd\n    AtLayers(1, 2) {kept}\n        named';
  assert.is(inspect(hooks.mlp.postAct.fwd), fwd.replace('fwd', 'Hooks'));
  assert.ok(inspect(hooks.mlp).includes(`\n        ${fwd.replaceAll('\n', '\n        ')}\n`), inspect(hooks.mlp));
  for (const [value, name] of [
    [hooks, 'TransformerHooks'],
    [hooks.mlp, 'MLPHooks'],
    [hooks.mlp.postAct, 'FwdBwdHooks'],
    [hooks.mlp.postAct.fwd, 'Hooks'],
    [new sonde.AtLayers(3).append(ae), 'AtLayers(3)'],
    [new sonde.ConditionalHooks(() => true).append(ae), 'ConditionalHooks'],
    [ae, 'AutoencoderHooks'],
    [sonde.ablationHooks([], { config: tinySizes, nVocab: 5 }), 'TransformerHooks'],
  ] as const) {
    assert.is(inspect(value), String(value));
    assert.match(inspect(value), name, 'its name');
    assert.is(inspect(value, { depth: -1 }), `[${name}]`);
    assert.is(inspect({ a: { b: { c: value } } }, onOneLine), `{ a: { b: { c: [${name}] } } }`);
    assert.match(inspect({ value }, { depth: null }), `value: ${String(value).split('\n')[0]}\n`);
    for (const options of [{}, { depth: null }, { showHidden: true }]) {
      assert.not.match(inspect([value], options), /External|Storage|entries|#/);
    }
  }
});

test('an autoencoder and what it gives', async () => {
  const ae = new sonde.Autoencoder({ nLatents: 3, nInputs: 2, activation: sonde.activations.topK(2), device });
  using x = Tensor.randn([4, 2], { seed: 1, device });
  for (const state of ['new', 'disposed']) {
    const text = inspect(ae);
    for (const field of ['nLatents: 3', 'nInputs: 2', "name: 'TopK'", "dtype: 'float32'", `device: ${shownDevice}`]) {
      assert.ok(text.includes(field), `${state}: ${field} in ${text}`);
    }
    assert.ok(text.split('\n').length < 12, text);
    checkNoHandles(ae, state);
    if (state === 'disposed') continue;
    const result = await ae.forward(x);
    for (const [name, width] of [
      ['preAct', 3],
      ['latents', 3],
      ['reconstruction', 2],
    ] as const) {
      const field = `${name}: Tensor [4, ${width}] float32 on ${device.name}`;
      assert.ok(inspect(result).includes(field), inspect(result));
    }
    checkNoHandles(result, 'the result of forward');
    checkNoHandles(await ae.encodeSparse(x), 'sparse latents');
    for (const t of Object.values(result)) t.dispose();
    ae.dispose();
  }
});

test('contexts', async () => {
  const stub = new sonde.StubModelContext({ [sonde.Dimension.layers]: 2 });
  const context = await sonde.ModelContext.fromModelType('random:tiny', { device });
  const before = inspect(context);
  const model = await context.getOrCreateModel();
  const [autoencoderName = ''] = sonde.listAutoencoderNames('demo');
  const autoencoders = sonde.makeAutoencoderContext({ modelName: 'demo', autoencoderName, device });
  const multi = sonde.MultiAutoencoderContext.fromContextOrMultiContext(autoencoders);
  await autoencoders.getAutoencoder(1);
  for (const value of [stub, context, autoencoders, multi]) checkNoHandles(value, inspect(value));
  assert.ok(before.includes(`device: ${shownDevice}`) && before.includes("modelName: 'random:tiny'"), before);
  assert.is(inspect(context), before);
  autoencoders.dispose();
  assert.ok(inspect(autoencoders).includes(`device: ${shownDevice}`), inspect(autoencoders));
  checkNoHandles(autoencoders, 'freed');
  (model as sonde.Transformer).dispose();
});

test('files and dumps', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'x.safetensors');
    await sonde.saveSafetensors(path, { x: { dtype: 'float32', shape: [2], data: Float32Array.of(1, 2) } });
    const file = await sonde.openBlob(path);
    for (const state of ['open', 'closed']) {
      const fields = `name: '${path}', path: '${path}', size: ${file.size}, sha256: undefined`;
      assert.is(inspect(file, onOneLine), `BlobFile { ${fields} }`);
      checkNoHandles(file, state);
      await file.close();
    }
    const tensors = await sonde.openSafetensors(path);
    assert.match(inspect(tensors), /^SafetensorsFile \{\s+tensors: Map\(1\) \{\s+'x' => \{ dtype: 'float32'/);
    checkNoHandles(tensors, 'safetensors');
    await tensors.close();

    const out = join(folder, 'dump');
    const model = await sonde.Transformer.load('random:tiny', { device });
    const corpus = (async function* () {
      yield [1, 2, 3];
    })();
    await sonde.dump({ model, corpus, locations: ['resid/post_emb'], context: 4, out });
    const dump = await sonde.openDump(out);
    await dump.rows('resid/post_emb');
    for (const state of ['open', 'closed']) {
      const text = inspect(dump);
      for (const field of [`folder: '${out}'`, 'rowCount: 1', 'tokenCount: 3']) assert.ok(text.includes(field), text);
      assert.not.match(text, /store|ShardReader/i, state);
      checkNoHandles(dump, state);
      await dump.close();
    }
    model.dispose();
  }));

test.run();
