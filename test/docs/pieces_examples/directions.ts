// An example of assets/docs/model-pieces.md, word for word but for the import; test/docs/pieces.test.ts runs it.
import { einsum, makeAutoencoderContext, Transformer } from '../../../src/index.js';

const xf = await Transformer.load('demo');
using autoencoders = makeAutoencoderContext({ modelName: 'demo', autoencoderName: 'ae-resid-delta-mlp' });
const ae = await autoencoders.getAutoencoder(3);
using directions = ae.decoderWeight(); // [latents, D]: the direction that each latent adds
console.log(directions); // → Tensor [1024, 64] float32 on cpu

// the cosine of two of them
const [a, b] = [directions.select(0, 304), directions.select(0, 629)];
const cosine = await a.dot(b).div(a.norm().mul(b.norm())).item();
console.log(cosine.toFixed(2)); // → 0.07

// the tokens whose logits latent 304 raises most
using unembed = xf.weight('unembed.weight'); // [V, D]
using gain = xf.weight('final_ln.weight'); // [D]
const raised = einsum('vd,d->v', unembed, a.mul(gain));
const best = (await raised.topk(5).indices.toArray()) as number[];
console.log(xf.enc.decode(best)); // →  fish dog bird bear duck
