// An example of assets/docs/model-pieces.md, word for word but for the import; test/docs/pieces.test.ts runs it.
import {
  AtLayers,
  AutoencoderHooks,
  makeAutoencoderContext,
  Transformer,
  TransformerHooks,
} from '../../../src/index.js';

const xf = await Transformer.load('demo');
using autoencoders = makeAutoencoderContext({ modelName: 'demo', autoencoderName: 'ae-resid-delta-mlp' });
const ae = await autoencoders.getAutoencoder(3);

// what the MLP of layer 3 adds goes through the autoencoder; with addError, only the edit of the latents changes it
const inside = new AutoencoderHooks({
  encode: (x) => ae.encode(x),
  decode: (latents, x) => ae.decode(latents, { inputs: x }),
  addError: true,
});
inside.latents.appendFwd((latents) => {
  latents.select(-1, 304).fill(20); // latents is [batch, seq, latents]
});
const hooks = new TransformerHooks();
hooks.resid.torso.deltaMlp.appendFwd(new AtLayers(3).append(inside));

const how = { numTokens: 1, temperature: 0 };
console.log((await xf.sample('The little', how)).strings); // → [ ' fox' ]
console.log((await xf.sample('The little', { ...how, hooks })).strings); // → [ ' fish' ]
