// Activation patching: before each layer, at each position, the residual stream of a corrupted prompt is replaced by
// that of the clean one. Where that brings the clean answer back, the stream holds what tells the prompts apart.
import { type Tensor, Transformer } from 'sonde';

const xf = await Transformer.load('demo');
const clean = xf.enc.encode('Kate came from Paris, which is in'); // France
const corrupted = xf.enc.encode('Kate came from Rome, which is in'); // Italy
if (clean.length !== corrupted.length) throw new Error('the prompts must have the same number of tokens');
const [france = 0, italy = 0] = xf.enc.encode(' France Italy');

// of each row, the logit of the clean answer less that of the other one
const differences = async ({ logits }: { logits: Tensor }) => {
  const list = await logits.select(2, france).sub(logits.select(2, italy)).flatten().toArray();
  logits.dispose();
  return list as number[];
};
const [best = 0, worst = 0] = await differences(await xf.forward([clean, corrupted], { logitsAt: 'last' }));
const streams = await xf.activations([clean, corrupted], ['resid/post_emb', '*/resid/post_mlp']);
const rows = corrupted.map(() => corrupted); // a row for each position
const effects: number[][] = []; // [layer, position]: 0 is no effect, 1 the whole difference
for (const [layer, stream] of [...streams.values()].slice(0, -1).entries()) {
  const residual = stream.slice(0, 1).expand(rows.length, -1, -1).clone(); // the corrupted one, [row, position, width]
  residual.diagonal().copyFrom(stream.select(0, 0).transpose(0, 1)); // in row i, position i becomes the clean one's
  const patched = await differences(await xf.forward(rows, { from: { layer, residual }, logitsAt: 'last' }));
  effects.push(patched.map((d) => Number(((d - worst) / (best - worst)).toFixed(4))));
  residual.dispose();
}
console.log('Layers x positions of', corrupted.map((token) => xf.enc.decode([token])).join('|'));
console.table(effects);
