// Checkpoints on disk: the folder after a refused and an interrupted save. The oracle is the folder itself.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../../src/engine/native.js';
import type { HostTensor, StateValue } from '../../../src/files/host_tensor.js';
import { loadTorchValue, saveTorch } from '../../../src/files/torch/torch.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { parameterNames, parameterShape } from '../../../src/transformer/weights/state_dict.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite, throws } from '../../support/harness.js';
import { saveHuggingFace } from '../../support/hugging_face.js';

const test = suite('checkpoint');
const tiny = join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny');

test('a folder that is refused is left as it was', () =>
  withFolder(async (folder) => {
    using xf = await Transformer.load(tiny);
    writeFileSync(join(folder, 'mine.txt'), '');
    await rejects(xf.saveCheckpoint(folder), Error, /holds something else: mine\.txt/);
    assert.equal(readdirSync(folder), ['mine.txt']);
  }));

test('a save that fails halfway leaves no folder that looks whole; the next one completes it', () =>
  withFolder(async (folder) => {
    using xf = await Transformer.load(tiny);
    await xf.saveCheckpoint(folder);
    const parameter = join(folder, 'model_pieces', 'unembed.weight.pt');
    rmSync(parameter);
    mkdirSync(parameter); // the last parameter cannot be written
    await rejects(xf.saveCheckpoint(folder), Error, /unembed\.weight\.pt/);
    assert.not.ok(existsSync(join(folder, 'config.json')));
    await rejects(Transformer.load(folder), Error, /config\.json: there is no such file/);
    rmSync(parameter, { recursive: true });
    await xf.saveCheckpoint(folder);
    using again = await Transformer.load(folder);
    assert.is(await again.digest(), await xf.digest());
  }));

test('folding the norms changes the digest and the state, and a saved folded model stays folded', () =>
  withFolder(async (folder) => {
    using xf = await Transformer.load(tiny);
    const before = await xf.digest();
    xf.simplify();
    assert.is.not(await xf.digest(), before);
    await xf.saveCheckpoint(folder);
    using again = await Transformer.load(folder);
    assert.is(await again.digest(), await xf.digest());
    const gain = (await again.stateDict())['xf_layers.0.ln_1.weight']?.data as Float32Array;
    assert.ok(gain.every((x) => x === 1));
  }));

test("a weight by its name is the file's, before and after it is folded", () =>
  withFolder(async (folder) => {
    for (const dtype of ['float32', 'bfloat16'] as const) {
      using xf = await Transformer.load(tiny, { dtype });
      const before = xf.device.memory().allocated;
      const state = await xf.stateDict();
      assert.equal(Object.keys(state), parameterNames(xf.config));
      for (const [name, { shape, data }] of Object.entries(state)) {
        using weight = xf.weight(name);
        assert.equal([...weight.shape], shape, name);
        assert.equal(parameterShape(name, xf.config, xf.nVocab), shape);
        assert.is(weight.dtype, dtype);
        const file = (await loadTorchValue(join(tiny, 'model_pieces', `${name}.pt`))) as HostTensor;
        if (dtype === 'float32') {
          assert.equal(await weight.read(), file.data);
          assert.equal(data, file.data);
        }
      }
      assert.is(xf.device.memory().allocated, before);
      for (const name of [
        'nonsense',
        'xf_layers.9.ln_1.weight',
        'xf_layers.0.ln_3.weight',
        'tok_embed.bias',
        '__proto__',
      ]) {
        throws(() => xf.weight(name), RangeError, /there is no weight '/);
      }
    }
    using folded = await Transformer.load(tiny, { simplify: true });
    using weight = folded.weight('xf_layers.1.ln_2.bias');
    assert.ok((await weight.read()).every((x) => x === 0));
    await folded.saveCheckpoint(folder);
  }));

test('a misfit is refused by name, with both shapes; a file of something else too', () =>
  withFolder(async (folder) => {
    using xf = await Transformer.load(tiny);
    const { dModel: D } = xf.config;
    await xf.saveCheckpoint(folder);
    const refused = async (name: string, value: StateValue, pattern: RegExp) => {
      const path = join(folder, 'model_pieces', `${name}.pt`);
      const before = readFileSync(path);
      await saveTorch(path, value);
      await rejects(Transformer.load(folder), Error, pattern);
      writeFileSync(path, before);
    };
    const floats = (...shape: number[]): HostTensor => {
      return { dtype: 'float32', shape, data: new Float32Array(shape.reduce((a, b) => a * b)) };
    };
    const name = 'xf_layers.1.attn.k_proj.weight';
    await refused(
      name,
      floats(D, D + 1),
      new RegExp(`${name} must be \\[${D}, ${D}\\] to fit config\\.json, but is \\[${D}, ${D + 1}\\]`),
    );
    await refused(
      'pos_embed.weight',
      floats(3, D),
      /pos_embed\.weight must be \[\d+, \d+\] to fit config\.json, but is \[3, \d+\]/,
    );
    await refused('tok_embed.weight', floats(3), /tok_embed\.weight must be \[vocabulary, \d+\], but is \[3\]/);
    await refused(
      'final_ln.bias',
      { dtype: 'int32', shape: [D], data: new Int32Array(D) },
      /final_ln\.bias must be of floats/,
    );
    await refused('final_ln.bias', { x: 1 }, /final_ln\.bias\.pt: the file must hold one tensor/);
    rmSync(join(folder, 'model_pieces', `${name}.pt`));
    await rejects(Transformer.load(folder), Error, /k_proj\.weight\.pt: there is no such file/);
  }));

test('a parameter that no model of these sizes has is refused by name', () =>
  withFolder(async (folder) => {
    using xf = await Transformer.load(tiny);
    await xf.saveCheckpoint(folder);
    const extra = join(folder, 'model_pieces', 'xf_layers.3.ln_1.weight.pt');
    await saveTorch(extra, { dtype: 'float32', shape: [1], data: Float32Array.of(1) });
    await rejects(
      Transformer.load(folder),
      Error,
      /model_pieces: no weight of a model of config\.json's sizes is xf_layers\.3\.ln_1\.weight\.pt$/,
    );
    rmSync(extra);
    writeFileSync(join(folder, 'model_pieces', 'notes.txt'), '');
    using again = await Transformer.load(folder);
    assert.is(await again.digest(), await xf.digest());
  }));

test('weights that come in many slices, from either layout, in either dtype', () =>
  withFolder(async (folder) => {
    using random = await Transformer.load('random:tiny?4'); // an embedding of 13 MB
    const layouts = ['original', 'hugging_face'].map((name) => join(folder, name)) as [string, string];
    await random.saveCheckpoint(layouts[0]);
    await saveHuggingFace(random, layouts[1], { files: 2 });
    for (const dtype of ['float32', 'bfloat16'] as const) {
      for (const layout of layouts) {
        using xf = await Transformer.load(layout, { dtype });
        if (dtype === 'float32') assert.is(await xf.digest(), await random.digest());
        using weight = xf.weight('tok_embed.weight');
        using own = random.weight('tok_embed.weight');
        using rounded = own.to(dtype);
        assert.equal(await weight.read(), await rounded.read());
      }
    }
  }));

test.run();
