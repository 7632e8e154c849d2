// The demo model against what the original computed for it (assets/demo/expected.json).
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { Autoencoder } from '../../src/autoencoder/autoencoder.js';
import { packageRoot } from '../../src/engine/native.js';
import type { Tensor } from '../../src/engine/ops/tensor.js';
import { AtLayers, TransformerHooks } from '../../src/transformer/hooks.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { close } from '../support/close.js';
import { suite } from '../support/harness.js';

const test = suite('demo model');
const folder = join(packageRoot, 'assets', 'demo');
const expected = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8')) as {
  prompts: Record<string, number[]>;
  greedy_40: Record<string, number[]>;
  greedy_40_ablate_layer1_neurons_0_127: number[];
  logits_top5_last: Record<string, [number, number][]>;
  latents_top5: Record<string, [number, number][]>;
  latents_nonzero_per_token: Record<string, number[]>;
};
const [prompt] = Object.keys(expected.prompts) as [string];
let xf: Transformer;
test.before(async () => {
  xf = await Transformer.load('demo');
});

test('prompts are tokenized alike', () => {
  for (const [text, tokens] of Object.entries(expected.prompts)) assert.equal(xf.enc.encode(text), tokens);
});

test('greedy continuations are the same, one by one and together', async () => {
  const prompts = Object.keys(expected.greedy_40);
  for (const text of prompts) {
    const { tokens, strings } = await xf.sample(text, { numTokens: 40, temperature: 0 });
    assert.equal(tokens, [expected.greedy_40[text]]);
    assert.is(strings[0], xf.enc.decode(expected.greedy_40[text] as number[]));
  }
  const together = await xf.sample(prompts, { numTokens: 40, temperature: 0 });
  assert.equal(together.tokens, Object.values(expected.greedy_40));
});

test('with neurons 0 to 127 of layer 1 set to zero', async () => {
  const hooks = new TransformerHooks();
  hooks.mlp.postAct.appendFwd(
    new AtLayers([1]).append((x) => {
      x.slice(-1, 0, 128).fill(0);
    }),
  );
  const wanted = expected.greedy_40_ablate_layer1_neurons_0_127;
  const found = await Promise.all(
    Object.keys(expected.prompts).map((text) => xf.sample(text, { numTokens: 40, temperature: 0, hooks })),
  );
  assert.ok(found.some(({ tokens }) => String(tokens[0]) === String(wanted)));
});

test('the strongest logits', async () => {
  for (const [text, top] of Object.entries(expected.logits_top5_last)) {
    const { logits } = await xf.forward([xf.enc.encode(text)]);
    const { values, indices } = logits.select(1, -1).topk(5);
    assert.equal(
      [...(await indices.read())],
      top.map(([token]) => token),
    );
    close(
      await values.read(),
      top.map(([, value]) => value),
      { atol: 1e-3 },
    );
    logits.dispose();
  }
});

test('latents: the strongest of the last token, and how many are active', async () => {
  for (const [name, top] of Object.entries(expected.latents_top5)) {
    const [layer, input] = name.split('/') as [string, string];
    const location = `${layer}/${input.replace('mlp_post_act', 'mlp/post_act').replace('resid_', 'resid/')}`;
    using ae = await Autoencoder.load(join(folder, 'autoencoders', input, `${layer}.pt`));
    const values = await xf.activations([expected.prompts[prompt] as number[]], [location]);
    const x = values.get(location) as Tensor;
    const sparse = await ae.encodeSparse(x);
    const counts = Array.from(sparse.rowPtr.slice(1), (end, i) => Number(end - (sparse.rowPtr[i] as bigint)));
    assert.equal(counts, expected.latents_nonzero_per_token[name], name);
    using latents = ae.encode(x);
    const best = latents.select(1, -1).topk(5);
    assert.equal(
      [...(await best.indices.read())],
      top.map(([latent]) => latent),
      name,
    );
    close(
      await best.values.read(),
      top.map(([, value]) => value),
      { atol: 1e-3, label: name },
    );
    x.dispose();
  }
});

test.run();
