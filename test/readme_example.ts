// README.md's example, word for word but for the import; test/readme.test.ts compares the two and runs this.
import { AtLayers, Autoencoder, type Tensor, Transformer, TransformerHooks } from '../src/index.js';

// load a saved model: 'demo' ships with the package; any folder in the original's checkpoint layout works
const xf = await Transformer.load('demo', { dtype: 'float32' });

// forward pass
const tokens = xf.enc.encode('What is essential is invisible to the');
const { logits } = await xf.forward([tokens]); // [1, 7, vocabulary]
console.log(logits.shape);

// sample from the model
const out = await xf.sample('Once there was', { numTokens: 10, topP: 0.5, temperature: 1 });
console.log(out.strings[0]);

// a hook that ablates the 100th neuron of layer 2, and a sample with it
const hooks = new TransformerHooks();
hooks.mlp.postAct.appendFwd(
  new AtLayers([2]).append((x) => {
    x.select(-1, 100).fill(0); // in place: a view of every position's neuron 100
  }),
);
console.log((await xf.sample('Once there was', { numTokens: 10, topP: 0.5, hooks })).strings[0]);

// store activations during a forward pass: x is valid until the hook ends, so keep a clone
const cache = new Map<number, Tensor>();
const store = new TransformerHooks();
store.resid.torso.deltaMlp.appendFwd((x, { layer }) => {
  cache.set(layer as number, x.clone());
});
await xf.forward([tokens], { hooks: store });

// encode them with a sparse autoencoder
const autoencoder = await Autoencoder.load('assets/demo/autoencoders/resid_delta_mlp/1.pt');
const latents = autoencoder.encode(cache.get(1) as Tensor); // [1, 7, latents]
console.log(latents.shape);
const sparse = await autoencoder.encodeSparse(cache.get(1) as Tensor); // the same in CSR form, never dense
console.log(`${sparse.indices.length} active latents in ${tokens.length} tokens`);
