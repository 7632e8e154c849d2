// A steering vector found by gradient descent: added to the residual stream at one layer, it makes the model go on from
// a prompt as wanted, and from another prompt as well.
import { AtLayers, crossEntropy, Tensor, Transformer, TransformerHooks } from 'sonde';

const xf = await Transformer.load('demo');
const [layer, steps, rate] = [2, 10, 0.5];
const prompt = 'Tom came from Athens, which is in';
const wanted = xf.enc.encode(' Italy. They ate');
const tokens = [...xf.enc.encode(prompt), ...wanted].slice(0, -1);

const v = Tensor.zeros([xf.config.dModel]).requireGrad();
const steered = new TransformerHooks();
steered.resid.torso.postMlp.appendFwd(new AtLayers(layer).append((x) => x.add_(v)));
const losses: number[] = [];
for (let step = 0; step <= steps; step++) {
  const { logits } = await xf.forward([tokens], { hooks: steered, grad: true });
  const loss = crossEntropy(logits.slice(1, -wanted.length), [wanted]);
  losses.push(Number((await loss.item()).toFixed(4)));
  if (step === steps) break;
  await loss.backward();
  v.detach().sub_((v.grad as Tensor).mul(rate)); // of a leaf itself, edits are refused
  v.zeroGrad();
}
console.log('Loss of the wanted tokens, step by step:', losses);
for (const start of [prompt, 'Kate came from Paris, which is in'])
  for (const hooks of [new TransformerHooks(), steered]) {
    const { strings } = await xf.sample(start, { hooks, numTokens: 8, temperature: 0 });
    console.log(`${hooks === steered ? 'steered' : 'as it is'}: ${start}${strings[0]}`);
  }
