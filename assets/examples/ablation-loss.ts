// Ablation: how much worse a text is predicted when what one head or MLP adds to the residual stream is replaced by its
// mean over the text, and so tells nothing of the tokens. (Zeros could be far from all that it ever adds.)
import { AtLayers, crossEntropy, type HookFunction, type Tensor, Transformer, TransformerHooks } from 'sonde';

const xf = await Transformer.load('demo');
const story =
  'Once there was a big dog who lived in the park. Its name was Rose. When Rose and Emma went to the river,';
const tokens = xf.enc.encode(`${story} Rose gave the bell to Emma. "I am sad," said Rose, and she cried.`);

// the mean loss of the next tokens, in nats, with a hook at a point of a layer
const lossWith = async (layer: number, point: string, hook: HookFunction) => {
  const hooks = new TransformerHooks().appendToPath(`${point}.fwd`, new AtLayers(layer).append(hook));
  const { logits } = await xf.forward([tokens], { hooks });
  const loss = await crossEntropy(logits.slice(1, 0, -1), [tokens.slice(1)]).item();
  logits.dispose();
  return loss;
};
const toMean = (x: Tensor) => void x.copyFrom(x.mean(1, { keepDim: true })); // over positions: x is [1, position, ...]
const plain = await lossWith(0, 'attn.head_out', () => {});
console.log('Loss:', Number(plain.toFixed(4)), 'and what each ablation adds to it:');

for (let layer = 0; layer < xf.config.nLayers; layer++) {
  const losses: number[] = [];
  for (let head = 0; head < xf.config.nHeads; head++)
    losses.push(await lossWith(layer, 'attn.head_out', (x) => toMean(x.select(2, head))));
  losses.push(await lossWith(layer, 'resid.torso.delta_mlp', toMean));
  const increases = losses.map((loss) => Number((loss - plain).toFixed(4)));
  console.log(`layer ${layer}, heads and MLP:`, increases);
}
