// Steering: the direction in which a latent of an autoencoder writes, added to the residual stream at every position,
// pushes the model towards what the latent stands for. This one is active where the second of two foods comes next.
import { AtLayers, makeAutoencoderContext, type Tensor, Transformer, TransformerHooks } from 'sonde';

const xf = await Transformer.load('demo');
const autoencoders = makeAutoencoderContext({ modelName: 'demo', autoencoderName: 'ae-resid-delta-mlp' });
const [layer, latent] = [3, 597];
const autoencoder = await autoencoders.getAutoencoder(layer);

// the scale: by itself, the MLP adds the direction, which has length 1, times the latent's activation
const meal = xf.enc.encode('Tom came from Athens, which is in Greece. They ate soup and');
const [delta] = [...(await xf.activations([meal], [`${layer}/resid/delta_mlp`])).values()] as [Tensor];
const activation = await autoencoder.encode(delta).select(2, latent).slice(1, -1).item();
console.log('Activation behind "They ate soup and":', Number(activation.toFixed(4)), 'of which twice is added:');
const direction = autoencoder.decoderWeight().select(0, latent);
const steering = direction.mul(2 * activation);
const steered = new TransformerHooks();
steered.resid.torso.postMlp.appendFwd(new AtLayers(layer).append((x) => x.add_(steering)));

const prompt = 'Once there was a little';
for (const hooks of [new TransformerHooks(), steered]) {
  const { logits } = await xf.forward([xf.enc.encode(prompt)], { hooks, logitsAt: 'last' });
  const best: Record<string, number> = {};
  for (const token of (await logits.flatten().topk(3).indices.toArray()) as number[])
    best[xf.enc.decode([token])] = Number((await logits.select(2, token).item()).toFixed(4));
  const { strings } = await xf.sample(prompt, { hooks, numTokens: 12, temperature: 0 });
  console.log('Highest logits:', best, `and the sample: ${prompt}${strings[0]}`);
}
