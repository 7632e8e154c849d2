// A model in the original's layout: config.json, and model_pieces/NAME.pt with one tensor each.
import { isBlobUrl, joined } from '../files/blob_address.js';
import { type HostTensor, isHostTensor } from '../files/host_tensor.js';
import { loadTorchValue, torchTensorShape } from '../files/torch.js';
import type { TransformerConfig } from './config.js';
import { pieceNames } from './pieces.js';
import type { ModelFiles, StoredWeight } from './stored_weights.js';

export function openOriginal(base: string, config: TransformerConfig): ModelFiles {
  const address = (name: string): string => joined(base, `model_pieces/${name}.pt`);
  return {
    base,
    config,
    addresses: pieceNames(config).map(address).filter(isBlobUrl),
    locate: (name) => ({ name, turned: false }),
    async read({ name }: StoredWeight): Promise<HostTensor> {
      const value = await loadTorchValue(address(name));
      if (isHostTensor(value)) return value;
      throw new Error(`${address(name)}: must hold one tensor`);
    },
    async nVocab(): Promise<number> {
      const shape = await torchTensorShape(address('tok_embed.weight'));
      if (shape?.length === 2 && (shape[0] as number) > 0) return shape[0] as number;
      const is = shape ? `[${shape.join(', ')}]` : 'no tensor';
      throw new Error(`${base}: tok_embed.weight must be [vocabulary, ${config.dModel}], but is ${is}`);
    },
    async close() {},
  };
}
