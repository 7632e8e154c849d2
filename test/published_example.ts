// README.md's example with the published files, word for word but for the import; test/context/published.test.ts runs it.
import {
  Autoencoder,
  getDefaultDevice,
  type HookFunction,
  loadTorch,
  openBlob,
  type Tensor,
  Transformer,
  TransformerHooks,
} from '../src/index.js';

// load the autoencoder
const layerIndex = 0; // 0 to 11
const autoencoderInput = ['mlp_post_act', 'resid_delta_mlp', 'resid_delta_attn'][1];
const version = ['', '_v4'][1];
const filename = `az://openaipublic/sparse-autoencoder/gpt2-small/${autoencoderInput}${version}/autoencoders/${layerIndex}.pt`;

const device = getDefaultDevice();
console.log('Loading autoencoder..');
await using file = await openBlob(filename);
const stateDict = await loadTorch(file);
const autoencoder = Autoencoder.fromStateDict(stateDict, { strict: false, device });

// load the transformer
console.log('Loading transformer..');
const transformer = await Transformer.load('gpt2/small', { dtype: 'float32', device });

// create hooks to store activations during the forward pass
const activationCache = new Map<number, Tensor>();
const storeForward: HookFunction = (x, { layer }) => {
  activationCache.set(layer as number, x.clone());
};
const hooks = new TransformerHooks();
if (autoencoderInput === 'mlp_post_act') hooks.mlp.postAct.appendFwd(storeForward);
else if (autoencoderInput === 'resid_delta_mlp') hooks.resid.torso.deltaMlp.appendFwd(storeForward);
else if (autoencoderInput === 'resid_delta_attn') hooks.resid.torso.deltaAttn.appendFwd(storeForward);

// run the transformer and store activations
const prompt = 'What is essential is invisible to the';
const tokens = transformer.enc.encode(prompt); // [nTokens]
console.log('tokenized prompt:', transformer.enc.decodeBatch(tokens.map((token) => [token])));
await transformer.forward([tokens], { hooks });
const inputTensor = (activationCache.get(layerIndex) as Tensor).select(0, 0); // [nTokens, nInputDimensions]

// encode activations with the autoencoder
const latentActivations = autoencoder.encode(inputTensor); // [nTokens, nLatents]
console.log(latentActivations.shape, await latentActivations.max().read());
