// Attribution patching: an estimate of what activation patching finds, for all layers and positions from one gradient:
// the clean residual stream less the corrupted one, times the gradient. Beside it is what patching really does.
import { stack, type Tensor, Transformer } from 'sonde';

const xf = await Transformer.load('demo');
const clean = xf.enc.encode('Kate came from Paris, which is in'); // France
const corrupted = xf.enc.encode('Kate came from Rome, which is in'); // Italy
const [france = 0, italy = 0] = xf.enc.encode(' France Italy');
const difference = (logits: Tensor) => logits.select(2, france).sub(logits.select(2, italy)); // [row, 1]
const before = difference((await xf.forward([corrupted], { logitsAt: 'last' })).logits);
const at = ['resid/post_emb', '*/resid/post_mlp'];
const of = ({ logits }: { logits: Tensor }) => difference(logits).sum();
const { values, gradients } = await xf.gradients([corrupted], { of, at, logitsAt: 'last' });
const streams = await xf.activations([clean], at);
const rows = corrupted.map(() => corrupted); // a row for each position
const found: Tensor[] = []; // of each layer, [estimates and effects, position]
for (const [layer, [location, stream]] of [...values].slice(0, -1).entries()) {
  const change = (streams.get(location) as Tensor).sub(stream); // [1, position, width]
  const estimates = change.mul(gradients.get(location) as Tensor).sum(-1);
  const residual = stream.expand(rows.length, -1, -1).clone(); // [row, position, width]
  residual.diagonal().add_(change.select(0, 0).transpose(0, 1)); // in row i, position i becomes the clean one's
  const { logits } = await xf.forward(rows, { from: { layer, residual }, logitsAt: 'last' });
  found.push(stack([estimates.flatten(), difference(logits).sub(before).flatten()]));
}
const all = stack(found, 1); // [estimates and effects, layer, position]
for (const table of (await all.toArray()) as number[][][])
  console.table(table.map((row) => row.map((x) => Number(x.toFixed(4)))));
const [x, y] = [0, 1].map((i) => all.select(0, i).flatten().sub(all.select(0, i).mean())) as [Tensor, Tensor];
console.log('Correlation:', Number((await x.dot(y).div(x.norm().mul(y.norm())).item()).toFixed(4)));
