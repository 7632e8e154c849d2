// Checkpoints on disk: what a refusal and an interrupted save leave behind. The oracle is the folder itself.
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite } from '../support/harness.js';

const test = suite('checkpoint');
const tiny = join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny');

test('a folder that is refused is left as it was', () =>
  withFolder(async (folder) => {
    using xf = await Transformer.load(tiny);
    writeFileSync(join(folder, 'mine.txt'), '');
    await rejects(xf.saveCheckpoint(folder), Error, /holds something else: mine\.txt/);
    assert.equal(readdirSync(folder), ['mine.txt']);
  }));

test('a save that fails halfway leaves no folder that looks whole; the next one mends it', () =>
  withFolder(async (folder) => {
    using xf = await Transformer.load(tiny);
    await xf.saveCheckpoint(folder);
    const piece = join(folder, 'model_pieces', 'unembed.weight.pt');
    rmSync(piece);
    mkdirSync(piece); // the last piece cannot be written
    await rejects(xf.saveCheckpoint(folder), Error, /unembed\.weight\.pt/);
    assert.not.ok(existsSync(join(folder, 'config.json')));
    await rejects(Transformer.load(folder), Error, /config\.json: there is no such file/);
    rmSync(piece, { recursive: true });
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

test.run();
