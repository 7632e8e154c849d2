// What beginning at a layer saves: activation patching of the residual stream before each layer and at each position of a
// prompt, with the logits of its last position. For each layer, passes that begin there take turns with whole passes in
// which a hook puts the same stream in; the ratio is that of the sums over all layers, and the median of the rounds is
// shown.
//   node build-test/bench/patching.bench.js [model] [tokens] [rounds] [rows of a pass]
import { cpus } from 'node:os';
import { AtLayers, type Tensor, Transformer, TransformerHooks } from '../src/index.js';
import { median } from './compare/summary.js';

const [model = 'random:gpt2-small', length = '64', rounds = '5', rows = '16'] = process.argv.slice(2);
const xf = await Transformer.load(model);
const { nLayers, dModel } = xf.config;
const [seq, batch] = [Number(length), Number(rows)];
const tokensOf = (seed: number) => [Array.from({ length: seq }, (_, i) => (i * 7919 + seed * 104_729) % xf.nVocab)];
const [clean, corrupted] = [tokensOf(0), tokensOf(1)] as const;
const before = (layer: number) => (layer === 0 ? 'resid/post_emb' : `${layer - 1}/resid/post_mlp`);
const locations = Array.from({ length: nLayers }, (_, layer) => before(layer));
const [cleanStreams, streams] = [await xf.activations(clean, locations), await xf.activations(corrupted, locations)];

/** The corrupted stream that goes into a layer, row by row with the clean one at one position, from `first` on. */
function patched(layer: number, first: number): Tensor {
  const source = (cleanStreams.get(before(layer)) as Tensor).select(0, 0);
  using repeated = (streams.get(before(layer)) as Tensor).expand(batch, seq, dModel);
  const residual = repeated.clone();
  for (let row = 0; row < batch; row++) {
    const position = (first + row) % seq;
    residual.select(0, row).select(0, position).copyFrom(source.select(0, position));
  }
  return residual;
}

async function timed(run: () => Promise<{ logits: Tensor }>): Promise<[number, Tensor]> {
  await xf.device.synchronize();
  const start = performance.now();
  const { logits } = await run();
  await xf.device.synchronize();
  return [performance.now() - start, logits];
}

const all = Array.from({ length: batch }, () => corrupted[0] as number[]);
const passFrom = (layer: number, residual: Tensor) => xf.forward(all, { from: { layer, residual }, logitsAt: 'last' });
function wholePass(layer: number, residual: Tensor) {
  const hooks = new TransformerHooks();
  const patch = (x: Tensor) => x.copyFrom(residual);
  if (layer === 0) hooks.resid.postEmb.appendFwd(patch);
  else hooks.resid.torso.postMlp.appendFwd(new AtLayers(layer - 1).append(patch));
  return xf.forward(all, { hooks, logitsAt: 'last' });
}

console.log(
  `${model}, ${seq} tokens, ${batch} rows a pass, ${xf.device.description}, ${cpus()[0]?.model}, Node ${process.version}`,
);
const ratios: number[] = [];
for (let round = 0; round < Number(rounds); round++) {
  let [whole, part] = [0, 0];
  for (let layer = 0; layer < nLayers; layer++) {
    for (let first = 0; first < seq; first += batch) {
      using residual = patched(layer, first);
      const passes = [wholePass, passFrom];
      if ((layer + first / batch) % 2 === 1) passes.reverse();
      const logits: Tensor[] = [];
      for (const pass of passes) {
        const [took, own] = await timed(() => pass(layer, residual));
        if (pass === wholePass) whole += took;
        else part += took;
        logits.push(own);
      }
      const [one, other] = logits as [Tensor, Tensor];
      using difference = one.sub(other).abs().max();
      if ((await difference.item()) !== 0) throw new Error(`layer ${layer}: the two passes give other logits`);
      one.dispose();
      other.dispose();
    }
  }
  ratios.push(part / whole);
  console.log(
    `round ${round}: whole passes ${(whole / 1000).toFixed(1)} s, from the layer x ${(part / whole).toFixed(3)}`,
  );
}
console.log(`passes that begin at the layer of their edit: x ${median(ratios).toFixed(3)} of whole passes`);
