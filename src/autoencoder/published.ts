// What is known of the published autoencoders of openai/sparse_autoencoder, version 5 (June 2024): they normalise their
// inputs, which their files do not say.
import { wrong } from '../engine/check.js';
import type { HostTensor } from '../files/host_tensor.js';
import { originOf } from '../files/origin.js';

const names = /_v5_(32k|128k)\/autoencoders\/\d+\.pt$/;
const sizes = [32_768, 131_072];

/** Whether it has the shape of the published ones: a TopK of as many latents. */
export const hasPublishedShape = (activation: string, nLatents: number): boolean =>
  activation === 'TopK' && sizes.includes(nLatents);

/**
 * Whether an autoencoder normalises its inputs that does not say so itself: the published ones do, which are known by
 * the path or address that `encoder` was read from.
 * @throws Error for an autoencoder of their shape that is not known to be one of them.
 */
export function publishedNormalize(operation: string, encoder: HostTensor, activation: string): boolean {
  const origin = originOf(encoder)?.split('?')[0];
  if (activation === 'TopK' && origin !== undefined && names.test(origin)) return true;
  const [nLatents = 0] = encoder.shape;
  if (!hasPublishedShape(activation, nLatents)) return false;
  const from = origin === undefined ? 'and where this one comes from is not known' : `and ${origin} is not called so`;
  throw new Error(
    wrong(operation, 'normalize', 'true or false', 'not given') +
      `: a TopK autoencoder of ${nLatents} latents may be a published one of version 5, whose inputs are normalised. ` +
      `Their files do not say so; they are known by their path, …_v5_${nLatents / 1024}k/autoencoders/LAYER.pt, ${from}. ` +
      'Give { normalize: true } or { normalize: false }, or keep the file under such a path; what stateDict() gives says it',
  );
}
