// Ablations given as text. Oracle: the same edits by hooks written by hand.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { ablationHooks } from '../../src/transformer/ablation.js';
import { TransformerHooks } from '../../src/transformer/hooks.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { testDevice } from '../support/device.js';
import { suite, throws } from '../support/harness.js';

const test = suite('ablation');
const device = testDevice();
const tokens = [[3, 14, 15, 9, 2, 6]];
let xf: Transformer;
test.before(async () => {
  xf = await Transformer.load(join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny'), { device });
});

async function logitsWith(hooks: TransformerHooks): Promise<Float32Array> {
  const { logits } = await xf.forward(tokens, { hooks });
  using all = logits;
  return (await all.read()) as Float32Array;
}

test('neurons, heads, the embedding, every layer', async () => {
  const plain = await logitsWith(new TransformerHooks());
  const seen: Float32Array[] = [plain];
  const byHand: [string[], (hooks: TransformerHooks) => void][] = [
    [
      ['1/mlp/post_act/5'],
      (h) => h.mlp.postAct.appendFwd((x, { layer }) => void (layer === 1 && x.select(-1, 5).fill(0))),
    ],
    [
      ['0/mlp/post_act/3-9'],
      (h) => h.mlp.postAct.appendFwd((x, { layer }) => void (layer === 0 && x.slice(-1, 3, 10).fill(0))),
    ],
    [['*/attn/qk_probs/0'], (h) => h.attn.qkProbs.appendFwd((x) => void x.select(-1, 0).fill(0))],
    [['resid/post_emb/7'], (h) => h.resid.postEmb.appendFwd((x) => void x.select(-1, 7).fill(0))],
    [
      ['0/resid/delta_attn/1', ' 1/resid/delta_mlp/0-3 '],
      (h) => {
        h.resid.torso.deltaAttn.appendFwd((x, { layer }) => void (layer === 0 && x.select(-1, 1).fill(0)));
        h.resid.torso.deltaMlp.appendFwd((x, { layer }) => void (layer === 1 && x.slice(-1, 0, 4).fill(0)));
      },
    ],
  ];
  for (const [texts, edit] of byHand) {
    const hooks = new TransformerHooks();
    edit(hooks);
    const logits = await logitsWith(ablationHooks(texts, xf));
    assert.equal(logits, await logitsWith(hooks), texts.join());
    for (const other of seen) assert.not.equal(logits, other, texts.join());
    seen.push(logits);
  }
  assert.equal(await logitsWith(ablationHooks([], xf)), plain);
});

test('texts that are no ablations', () => {
  const { dModel } = xf.config;
  for (const [text, pattern] of [
    ['3', /ablation '3' must read LOCATION\/INDEX or LOCATION\/FIRST-LAST/],
    ['1/mlp/post_act', /ablation '1\/mlp\/post_act' must read/],
    ['1/mlp/post_act/x', /must read/],
    ['1/mlp/post_act/-1', /must read/],
    [`1/resid/post_mlp/${dModel}`, new RegExp(`indices of 1/resid/post_mlp must be from 0 to ${dModel - 1}`)],
    ['1/resid/post_mlp/5-3', /the lower one first/],
    ['99/resid/post_mlp/5', /location '99\/resid\/post_mlp': the layer must be from 0 to/],
    ['1/resid/none/5', /location '1\/resid\/none' is not known/],
  ] as const) {
    throws(() => ablationHooks([text], xf), Error, pattern);
  }
});

test.run();
