// Models and autoencoders whose results a test changes before a dump sees them.
import type { Autoencoder } from '../../src/autoencoder/autoencoder.js';
import type { SparseLatents } from '../../src/engine/ops/sparse_encode.js';
import type { Tensor } from '../../src/engine/ops/tensor.js';
import type { Transformer } from '../../src/transformer/transformer.js';

/** An object with another method; the others are those of `target`. */
function replaced<T extends object>(target: T, name: keyof T, method: unknown): T {
  return new Proxy(target, {
    get(own, key) {
      const value = Reflect.get(own, key, own);
      if (key === name) return method;
      return typeof value === 'function' ? value.bind(own) : value;
    },
  });
}

/** The model, with activations that `plant` changes in place. It gets the tokens of the batch, padding included. */
export const plantedModel = (
  model: Transformer,
  plant: (tokens: number[][], activations: Map<string, Tensor>) => void,
): Transformer =>
  replaced(model, 'activations', async (...[tokens, locations]: Parameters<Transformer['activations']>) => {
    const activations = await model.activations(tokens, locations);
    plant(tokens as number[][], activations);
    return activations;
  });

/** The model, with gradients that `plant` changes in place. */
export const plantedGradients = (
  model: Transformer,
  plant: (tokens: number[][], gradients: Map<string, Tensor>) => void,
): Transformer =>
  replaced(model, 'gradients', async (...[tokens, options]: Parameters<Transformer['gradients']>) => {
    const found = await model.gradients(tokens, options);
    plant(tokens as number[][], found.gradients);
    return found;
  });

/** The autoencoder, with latents that `plant` changes in place. */
export const plantedAutoencoder = (autoencoder: Autoencoder, plant: (latents: SparseLatents) => void): Autoencoder =>
  replaced(autoencoder, 'encodeSparse', async (...args: Parameters<Autoencoder['encodeSparse']>) => {
    const latents = await autoencoder.encodeSparse(...args);
    plant(latents);
    return latents;
  });

/** Sets one value of the activations of a batch, [row, position, features]. */
export const setAt = (
  activations: Tensor | undefined,
  row: number,
  position: number,
  index: number,
  x: number,
): void => {
  activations?.select(0, row).select(0, position).select(0, index).fill(x);
};
