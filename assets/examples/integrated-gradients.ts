// Integrated gradients: what each latent of an autoencoder adds to the difference of two logits while all grow from 0.
import { AtLayers, AutoencoderHooks, makeAutoencoderContext, Tensor, Transformer, TransformerHooks } from 'sonde';

const xf = await Transformer.load('demo');
const autoencoders = makeAutoencoderContext({ modelName: 'demo', autoencoderName: 'ae-resid-delta-attn' });
const [layer, steps] = [2, 16];
const ae = await autoencoders.getAutoencoder(layer);
const tokens = xf.enc.encode('Kate came from Paris, which is in');
const [france = 0, italy = 0] = xf.enc.encode(' France Italy');
const numbers = async (x: Tensor) => ((await x.flatten().toArray()) as number[]).map((y) => Number(y.toFixed(4)));
// all steps are rows of one pass, each with its latents times a factor: the middle of its step; at last, both ends
const factors = [...Array.from({ length: steps }, (_, i) => (i + 0.5) / steps), 0, 1];
const spliced = new AutoencoderHooks({ encode: (x) => ae.encode(x), decode: (x) => ae.decode(x), addError: true });
const seen: Tensor[] = []; // the latents [row, position, latent], and their gradient
spliced.latents.appendFwd((x) => void seen.push(x.detach().clone()));
spliced.latents.appendFwd((x) => x.mul_(Tensor.from(factors).reshape([-1, 1, 1])));
spliced.latents.appendBwd((gradient) => void seen.push(gradient.clone()));
const hooks = new TransformerHooks().appendToPath('resid.torso.delta_attn.fwd', new AtLayers(layer).append(spliced));
const { logits } = await xf.forward(new Array(factors.length).fill(tokens), { hooks, grad: true, logitsAt: 'last' });
const differences = logits.select(2, france).sub(logits.select(2, italy)); // [row, 1]
await differences.sum().backward();
const [latents, gradients] = seen as [Tensor, Tensor];
const added = (gradient: Tensor) => latents.select(0, 0).mul(gradient).sum(0); // over positions: [latent]
const attributions = added(gradients.slice(0, 0, steps).mean(0));
const { values, indices } = attributions.topk(3);
console.log('Difference without the latents and with them:', await numbers(differences.slice(0, steps)));
console.log('Integrated gradients add up to', await numbers(attributions.sum()));
console.log('Activations times gradients add up to', await numbers(added(gradients.select(0, -1)).sum()));
console.log('Strongest latents:', await numbers(indices), 'which add', await numbers(values));
