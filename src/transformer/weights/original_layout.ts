// A model in the original's layout: config.json, and model_pieces/NAME.pt with one tensor each.
import { readdir } from 'node:fs/promises';
import { isBlobUrl, joined } from '../../files/blob/blob_address.js';
import { openTorchTensor } from '../../files/torch/torch.js';
import type { TransformerConfig } from './config.js';
import { parameterNames } from './state_dict.js';
import type { ModelFiles } from './stored_weights.js';

export function openOriginal(base: string, config: TransformerConfig): ModelFiles {
  const address = (name: string): string => joined(base, `model_pieces/${name}.pt`);
  return {
    base,
    config,
    addresses: parameterNames(config).map(address).filter(isBlobUrl),
    locate: (name) => ({ name, transposed: false }),
    open: ({ name }) => openTorchTensor(address(name)),
    async nVocab(): Promise<number> {
      const { shape, close } = await openTorchTensor(address('tok_embed.weight'));
      await close();
      if (shape.length === 2 && (shape[0] as number) > 0) return shape[0] as number;
      throw new Error(`${base}: tok_embed.weight must be [vocabulary, ${config.dModel}], but is [${shape.join(', ')}]`);
    },
    async check(): Promise<void> {
      if (isBlobUrl(base)) return; // an address gives no list of its files
      const known = new Set(parameterNames(config).map((name) => `${name}.pt`));
      const folder = joined(base, 'model_pieces');
      const there = await readdir(folder).catch(() => []); // what is missing is named when it is opened
      const strange = there.filter((name) => name.endsWith('.pt') && !known.has(name));
      if (strange.length === 0) return;
      const more = strange.length > 3 ? ` and ${strange.length - 3} more` : '';
      throw new Error(
        `${folder}: no weight of a model of config.json's sizes is ${strange.slice(0, 3).join(', ')}${more}`,
      );
    },
    async vocabulary() {
      if (config.enc === 'gpt2') return {};
      return { differs: `${joined(base, 'config.json')} has the enc ${config.enc}` };
    },
    async close() {},
  };
}
