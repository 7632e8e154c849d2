// Logit lens: what the model would say if it ended after a layer. Direct logit attribution: what each part of the final
// residual stream adds to the difference of two logits, through the final layer norm with its scale held fixed.
import { cat, logSoftmax, stack, type Tensor, Transformer } from 'sonde';

const xf = await Transformer.load('demo');
const tokens = xf.enc.encode('Kate came from Paris, which is in');
const [france = 0, italy = 0] = xf.enc.encode(' France Italy');
const numbers = async (x: Tensor) => ((await x.flatten().toArray()) as number[]).map((y) => Number(y.toFixed(4)));

const streams = [...(await xf.activations([tokens], ['resid/post_emb', '*/resid/post_mlp'])).values()];
const from = { layer: xf.config.nLayers, residual: cat(streams) }; // a row before layer 0, and one after each layer
const { logits } = await xf.forward(new Array(streams.length).fill(tokens), { from, logitsAt: 'last' });
const best = (await numbers(logits.argmax(-1))).map((token) => xf.enc.decode([token]));
console.log('Lens:', best, 'log-probability of " France":', await numbers(logSoftmax(logits).select(2, france)));

const locations = ['resid/post_emb', '*/attn/head_out', '*/resid/delta_mlp', 'resid/ln_f/scale'];
const { 'resid/ln_f/scale': scale, ...parts } = Object.fromEntries(await xf.activations([tokens], locations));
const unembed = xf.weight('unembed.weight'); // [vocabulary, width]
const difference = unembed.select(0, france).sub(unembed.select(0, italy));
// the norm subtracts the mean, divides by the scale and multiplies by the gain: here, that is done to the direction
const scaled = difference.mul(xf.weight('final_ln.weight')).div((scale as Tensor).select(1, -1));
const direction = scaled.sub(scaled.mean());
const added = (part: Tensor) => numbers(part.mul(direction).sum(-1));
console.log('Added to the logit of " France" less that of " Italy", by each head or part:');
for (const [location, part] of Object.entries(parts)) console.log(location, await added(part.select(1, -1)));
const biases = Array.from({ length: from.layer }, (_, layer) => xf.weight(`xf_layers.${layer}.attn.out_proj.bias`));
console.log('attention biases', await added(stack(biases)));
console.log('bias of the final norm', await numbers(difference.dot(xf.weight('final_ln.bias'))));
console.log('all together', await numbers(logits.select(2, france).sub(logits.select(2, italy)).slice(0, -1)));
