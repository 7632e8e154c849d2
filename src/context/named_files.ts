// The addresses of all files that a name stands for: the name of a published model or a set of autoencoders, or the
// address of a checkpoint or of one file.
import { isBlobUrl, joined } from '../files/blob/blob_address.js';
import { openModelFiles } from '../transformer/weights/model_files.js';
import { modelBase, modelNames } from '../transformer/weights/names.js';
import { findAutoencoderSpec, listAutoencoderNames } from './registry.js';

/**
 * The addresses for a name; with `layers`, those of autoencoders at these layers only.
 * @throws Error for a name that stands for no file on the network, RangeError for a layer without an autoencoder.
 */
export async function namedFiles(name: string, layers?: readonly number[]): Promise<string[]> {
  const spec = findAutoencoderSpec('gpt2-small', name);
  if (spec) {
    const wanted = layers ?? Array.from({ length: spec.nLayers }, (_, layer) => layer);
    const beyond = wanted.find((layer) => layer >= spec.nLayers);
    if (beyond !== undefined) throw new RangeError(`${name}: layers are from 0 to ${spec.nLayers - 1}, not ${beyond}`);
    return wanted.map((layer) => spec.path.replace('{layer}', String(layer)));
  }
  const base = modelBase(name);
  if (!isBlobUrl(base)) {
    const known = [...modelNames, ...listAutoencoderNames()].join(', ');
    throw new Error(`'${name}' is nothing on the network; it must be an address, or one of ${known}`);
  }
  if (/\.(pt|json|safetensors|bin|txt|jsonl)$/i.test(base.split('?')[0] as string)) return [base];
  const files = await openModelFiles(base);
  await files.close();
  return [joined(base, 'config.json'), ...files.addresses];
}
