// Folders with the parts of a dump, made without a model, and the peak memory of a process that merges or opens them.
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { writeCorpusList } from '../../../src/dump/format/corpus_list.js';
import { type Manifest, makeManifest, manifestFile, piecesOf, shardFile } from '../../../src/dump/format/manifest.js';
import type { CorpusList, DumpSettings, Part } from '../../../src/dump/format/settings.js';
import { openDump } from '../../../src/dump/read/reader.js';
import { mergeDumps } from '../../../src/dump/shards/merge.js';
import { openStore } from '../../../src/files/store/open_store.js';
import { ownMemory } from '../machine.js';

const self = fileURLToPath(import.meta.url);

export const plantedCorpus = (files: number, bytes = 1): CorpusList =>
  Array.from({ length: files }, (_, i) => ({
    ...({ kind: 'text', name: `a-file-of-a-large-corpus-${String(i).padStart(6, '0')}.txt`, bytes } as const),
  }));

/** The settings of a dump whose shards have one token each. */
export const plantedSettings = (corpus: CorpusList, part: Part): DumpSettings => ({
  model: {
    ...{ name: 'planted', digest: 'none', dtype: 'float32', vocabulary: 100 },
    config: { enc: 'none', ctxWindow: 1, dModel: 4, nLayers: 1, mAttn: 1, nHeads: 1, mMlp: 4 },
  },
  ...{ tokenizer: 'unknown', corpus, locations: [{ location: 'resid/post_emb', shape: [1, 4] }], autoencoders: [] },
  ...{ dtype: 'float16', context: 1, shardTokens: 1, limit: null, drop: [], sample: 1, seed: null },
  ...{ statistics: false, parquet: false, part },
});

const shardText = '12345678'; // as long as the smallest shard; nothing reads it

/** The manifest of a complete part with one shard. */
export const plantedPart = (corpus: CorpusList, part: Part): Manifest =>
  makeManifest(
    plantedSettings(corpus, part),
    ['planted'],
    [{ file: shardFile(part.index), bytes: shardText.length, sha256: '0'.repeat(64), rows: 1, tokens: 1 }],
    true,
  );

export interface Planted {
  readonly parts: number;
  /** Files of the corpus. */
  readonly files: number;
  /** Each manifest holds the list itself, as those of earlier versions do. */
  readonly inline?: (index: number) => boolean;
}

/** Makes a folder with complete parts of one shard each. */
export async function plantParts(folder: string, { parts, files, inline = () => false }: Planted): Promise<void> {
  const corpus = plantedCorpus(files);
  mkdirSync(folder);
  await writeCorpusList(openStore(folder), corpus);
  for (let index = 0; index < parts; index++) {
    const manifest = plantedPart(corpus, { index, count: parts });
    const text = inline(index) ? `${JSON.stringify(manifest, null, 2)}\n` : [...piecesOf(manifest)].join('');
    writeFileSync(join(folder, manifestFile(manifest.part)), text);
    writeFileSync(join(folder, shardFile(index)), shardText);
  }
}

export interface ProcessMemory {
  /** The peak of resident memory, in bytes. */
  readonly peak: number;
  readonly seconds: number;
}

/** Merges or opens a folder in a process of its own. For Linux, which reports the peak. */
export const measureFolder = (what: 'merge' | 'open', folder: string): ProcessMemory =>
  JSON.parse(execFileSync(process.execPath, [self, what, folder], { encoding: 'utf8' }));

if (process.argv[1] === self) {
  const [, , what, folder = ''] = process.argv;
  const start = performance.now();
  if (what === 'merge') await mergeDumps(folder);
  else await (await openDump(folder)).close();
  console.log(JSON.stringify({ peak: ownMemory('VmHWM'), seconds: (performance.now() - start) / 1000 }));
}
