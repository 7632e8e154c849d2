// The example of gradients in README.md, word for word but for the import; test/readme.test.ts runs it.
import { AtLayers, crossEntropy, Tensor, Transformer, TransformerHooks } from '../src/index.js';

const xf = await Transformer.load('demo');
const tokens = [xf.enc.encode('The little dog was very')];
const [happy, sad] = [' happy', ' sad'].flatMap((word) => xf.enc.encode(word)) as [number, number];
const last = (logits: Tensor) => logits.select(1, -1); // [1, vocabulary]

// which neurons made it say one word rather than the other: activation times gradient
const location = '2/mlp/post_act';
const { values, gradients } = await xf.gradients(tokens, {
  of: ({ logits }) => last(logits).select(1, happy).sub(last(logits).select(1, sad)),
  at: [location],
});
const effects = (values.get(location) as Tensor).mul(gradients.get(location) as Tensor); // [1, tokens, neurons]
console.log('strongest neurons:', await last(effects).topk(3).indices.toArray());

// a steering vector found by descent; a backward hook watches the gradient on its way
const v = Tensor.zeros([xf.config.dModel]).requireGrad();
const hooks = new TransformerHooks();
hooks.resid.torso.postMlp.appendFwd(new AtLayers(1).append((x) => x.add_(v)));
hooks.resid.torso.postAttn.appendBwd(
  new AtLayers(2).append(async (gradient) => {
    console.log('norm of the gradient:', (await gradient.norm().item()).toFixed(3));
  }),
);
for (let step = 0; step < 3; step++) {
  const { logits } = await xf.forward(tokens, { hooks, grad: true });
  const loss = crossEntropy(last(logits), [sad]);
  console.log('loss:', (await loss.item()).toFixed(3));
  await loss.backward();
  v.detach().sub_((v.grad as Tensor).mul(0.5));
  v.zeroGrad();
}

// the gradient of every parameter
const { logits } = await xf.forward(tokens, { grad: 'parameters' });
const ofParameters = await crossEntropy(last(logits), [happy]).backward();
console.log(ofParameters.size, 'parameters;', ofParameters.get('xf_layers.0.mlp.in_layer.weight')?.shape);
