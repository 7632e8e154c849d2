// The example of assets/docs/tensors.md is test/tensors_example.ts, word for word. Oracle: plain loops over the same
// probabilities.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../src/engine/native.js';
import { Tensor } from '../src/engine/ops/tensor.js';
import { Transformer } from '../src/transformer/transformer.js';
import { blocksOf, docsPage } from './docs/markdown.js';
import { close } from './support/close.js';
import { suite } from './support/harness.js';
import { inductionScores } from './support/operations/induction.js';

const test = suite('docs: tensors');
const read = (path: string) => readFileSync(join(packageRoot, path), 'utf8');

test('the example is the one that runs', () => {
  const shown = blocksOf(docsPage('tensors.md'));
  const source = read('test/tensors_example.ts').split('\n').slice(1).join('\n');
  assert.equal(shown, [source.replaceAll("'../src/index.js'", "'sonde'")]);
});

test('it prints the induction score of every head', async () => {
  const program = join(packageRoot, 'build-test/test/tensors_example.js');
  const printed = JSON.parse(execFileSync(process.execPath, [program], { cwd: packageRoot, encoding: 'utf8' }));
  const model = await Transformer.load('demo');
  const [batch, n] = [8, 24];
  const once = (await Tensor.randint(0, model.nVocab, [batch, n], { seed: 1 }).toArray()) as number[][];
  const tokens = once.map((row) => [...row, ...row]);
  for (let layer = 0; layer < model.config.nLayers; layer++) {
    const location = `${layer}/attn/qk_probs`;
    const probs = (await model.activations(tokens, [location])).get(location) as Tensor;
    close(printed[layer], inductionScores(await probs.read(), probs.shape, n), { rtol: 1e-5, label: location });
    probs.dispose();
  }
  assert.is(printed.length, model.config.nLayers);
  model.dispose();
});

test.run();
