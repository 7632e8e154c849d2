// Manifests of dumps whose shards are not there: the settings of a tiny dump, and entries of shards for it.
import { type ShardEntry, shardFile, whole } from '../../../src/dump/format/manifest.js';
import type { DumpSettings } from '../../../src/dump/format/settings.js';

const config = { enc: 'gpt2', ctxWindow: 8, dModel: 2, nLayers: 1, mAttn: 1, nHeads: 1, mMlp: 4 };

export const tinySettings: DumpSettings = {
  model: { name: 'm', digest: 'd', dtype: 'float32', vocabulary: 50_257, config },
  ...{ tokenizer: 'gpt2', corpus: [], locations: [{ location: 'resid/post_emb', shape: [4, 2] }], autoencoders: [] },
  ...{ dtype: 'float16', context: 4, shardTokens: 8, limit: null, drop: [], sample: 1, seed: null },
  ...{ statistics: false, parquet: false, part: whole },
};

export const entryOf = (number: number): ShardEntry => ({
  file: shardFile(number),
  rows: 2,
  tokens: 8,
  bytes: 100,
  sha256: number.toString(16).padStart(64, '0'),
});
