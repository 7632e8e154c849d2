// What a hook costs: the time of a pass with a hook at one point of every layer, as a ratio to that of the plain pass.
// The two passes take turns, and the medians of the paired ratios are shown.
//   node build-test/bench/hooks.bench.js [model] [tokens] [rounds]
import { cpus } from 'node:os';
import { Transformer, TransformerHooks } from '../src/index.js';
import { median } from './compare/summary.js';

const [model = 'random:gpt2-small', length = '256', rounds = '5'] = process.argv.slice(2);
const points = [
  'resid.torso.ln_mlp.scale',
  'attn.q',
  'attn.v_out',
  'attn.head_out',
  'attn.qk_probs',
  'attn.qk_softmax_denominator',
  'mlp.pre_act',
  'mlp.post_act',
  'resid.torso.post_mlp',
];

const xf = await Transformer.load(model);
const tokens = [Array.from({ length: Number(length) }, (_, i) => (i * 7919) % xf.nVocab)];

async function pass(point?: string): Promise<number> {
  const hooks = new TransformerHooks();
  if (point) hooks.appendToPath(`${point}.fwd`, () => undefined);
  const start = performance.now();
  const { logits } = await xf.forward(tokens, { hooks });
  await xf.device.synchronize();
  const took = performance.now() - start;
  logits.dispose();
  return took;
}

console.log(`${model}, ${length} tokens, ${xf.device.description}, ${cpus()[0]?.model}, Node ${process.version}`);
await pass();
const plain: number[] = [];
for (const point of points) {
  const ratios: number[] = [];
  for (let i = 0; i < Number(rounds); i++) {
    const without = await pass();
    plain.push(without);
    ratios.push((await pass(point)) / without);
  }
  console.log(`${point.padEnd(30)} x ${median(ratios).toFixed(3)} of the plain pass`);
}
console.log(`plain pass: ${((Number(length) / median(plain)) * 1000).toFixed(0)} tokens/s, logits included`);
