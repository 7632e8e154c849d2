// The digest of a model's or an autoencoder's weights. Manifests of dumps hold it, so its bytes must never change.
import { createHash } from 'node:crypto';
import type { HostTensor } from './host_tensor.js';

type NamedTensor = readonly [name: string, tensor: HostTensor];

/** SHA-256 of named tensors with their dtypes and shapes, in hexadecimal; `preamble` is hashed before them. */
export async function digestTensors(
  tensors: Iterable<NamedTensor> | AsyncIterable<NamedTensor>,
  preamble = '',
): Promise<string> {
  const hash = createHash('sha256').update(preamble);
  for await (const [name, { dtype, shape, data }] of tensors) {
    hash.update(`${name} ${dtype} [${shape.join(', ')}]\n`);
    hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  return hash.digest('hex');
}
