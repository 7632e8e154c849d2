// Loads a model's weights from its files, and saves them in the original's layout.
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Device } from '../../engine/device.js';
import type { DType } from '../../engine/dtype.js';
import type { Tensor } from '../../engine/ops/tensor.js';
import { writeFileAtomically } from '../../files/atomic_write.js';
import type { Tokenizer } from '../../files/tokenizer/tokenizer.js';
import { saveTorch } from '../../files/torch/torch.js';
import { makeFolder, writingFor } from '../../files/write_failure.js';
import { buildWeights, type Loaded, type WeightSource } from './build_weights.js';
import { configToJson } from './config.js';
import { hostParameters, parameterNames } from './state_dict.js';
import { checkStored, type ModelFiles, type StoredWeight, weightView } from './stored_weights.js';
import { uploader } from './upload.js';

/** Reads a model's weights. @throws Error that names the file or tensor that is missing or does not fit. */
export async function loadCheckpoint(files: ModelFiles, device: Device, dtype: DType): Promise<Loaded> {
  const { base, config } = files;
  const nVocab = await files.nVocab();
  await files.check();
  const upload = uploader(device, dtype);
  const whole = async (stored: StoredWeight, shape: number[]): Promise<Tensor> => {
    const opened = await files.open(stored);
    try {
      checkStored(base, stored, opened, shape);
      return await upload(opened);
    } finally {
      await opened.close();
    }
  };
  let lent: { name: string; whole: Tensor } | undefined; // a tensor of queries, keys and values is uploaded once
  const source: WeightSource = {
    tensor: (name, shape) => whole(files.locate(name), shape),
    async lend(name, shape, use) {
      const stored = files.locate(name);
      if (lent?.name !== stored.name) {
        lent?.whole.dispose();
        lent = undefined;
        lent = { name: stored.name, whole: await whole(stored, shape) };
      }
      use(weightView(lent.whole, stored));
      if (stored.third !== undefined && stored.third < 2) return;
      lent.whole.dispose();
      lent = undefined;
    },
  };
  try {
    return { config, nVocab, weights: await buildWeights(config, nVocab, device, dtype, source) };
  } finally {
    lent?.whole.dispose();
  }
}

/**
 * Writes the original's layout; config.json comes last, so that a folder with one is whole. It has `enc` as the
 * tokenizer's name.
 */
export async function saveCheckpoint(folder: string, model: Loaded, enc: Tokenizer['name']): Promise<void> {
  const { nVocab, weights } = model;
  const config = { ...model.config, enc };
  const parameterFolder = join(folder, 'model_pieces');
  const known = new Set(parameterNames(config).map((name) => `${name}.pt`));
  const foreign = [
    ...(await namesIn(folder)).filter((name) => name !== 'config.json' && name !== 'model_pieces'),
    ...(await namesIn(parameterFolder)).filter((name) => !known.has(name)),
  ];
  if (foreign.length > 0)
    throw new Error(`saveCheckpoint: ${folder} holds something else: ${foreign.slice(0, 3).join(', ')}`);
  await writingFor('saveCheckpoint', makeFolder(parameterFolder));
  await rm(join(folder, 'config.json'), { force: true }); // until the new files are there, the folder is no checkpoint
  for await (const [name, tensor] of hostParameters(weights, config, nVocab))
    await saveTorch(join(parameterFolder, `${name}.pt`), tensor);
  const text = `${JSON.stringify(configToJson(config), null, 1)}\n`;
  await writingFor('saveCheckpoint', writeFileAtomically(join(folder, 'config.json'), text));
}

/** The names of all files in a folder; none if the folder does not exist. */
async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return []; // makeFolder reports it
    throw error;
  }
}
