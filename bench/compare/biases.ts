// Biases that make an encoder of random weights as sparse as a trained one.
import type { Tensor } from '../../src/index.js';

/**
 * The bias [latents] with which about so many latents of a row are active, for each of `wanted`: -(mean + c std) of each
 * latent's sums, with the same c for all. `sums` [rows, latents], float32, are those without a bias; they are overwritten.
 */
export async function biasesFor(sums: Tensor, wanted: readonly number[]): Promise<Tensor[]> {
  const [rows, latents] = sums.shape as [number, number];
  using mean = sums.mean(0);
  using std = sums.std(0);
  sums.sub_(mean).div_(std);
  const read = Array.from({ length: 16 }, (_, i) => sums.select(0, Math.floor((i * rows) / 16)).read());
  const scores = new Float32Array(16 * latents);
  for (const [i, row] of (await Promise.all(read)).entries()) scores.set(row as Float32Array, i * latents);
  scores.sort();
  return wanted.map((active) => {
    using above = std.mul(scores[Math.max(0, scores.length - 1 - 16 * active)] as number);
    using level = mean.add(above);
    return level.neg();
  });
}
