// Loading a model's weights from its files, and saving them in the original's layout.
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Device } from '../engine/device.js';
import type { DType } from '../engine/dtype.js';
import { sizeOf } from '../engine/shape.js';
import { Tensor } from '../engine/tensor.js';
import { writeFileAtomically } from '../files/atomic_write.js';
import type { HostTensor } from '../files/host_tensor.js';
import { saveTorch } from '../files/torch.js';
import { buildWeights, type Loaded, type WeightSource } from './build_weights.js';
import { configToJson } from './config.js';
import { hostPieces, pieceNames, pieceShape } from './pieces.js';
import { checkStored, type ModelFiles, type StoredWeight, storedShape, weightView } from './stored_weights.js';

/** Reads a model's weights. @throws Error that names the file or tensor that is missing or does not fit. */
export async function loadCheckpoint(files: ModelFiles, device: Device, dtype: DType): Promise<Loaded> {
  const { base, config } = files;
  const nVocab = await files.nVocab();
  const names = pieceNames(config);
  const shapes = new Map(names.map((name) => [name, pieceShape(name, config, nVocab)]));
  const upload = (name: string, host: HostTensor): { stored: StoredWeight; whole: Tensor } => {
    const stored = files.locate(name);
    checkStored(base, stored, host, shapes.get(name) as number[]);
    return { stored, whole: Tensor.from(host, { device, dtype }) };
  };
  const next = readAhead(files, names, shapes);
  let lent: { host: HostTensor; whole: Tensor } | undefined; // what holds queries, keys and values is uploaded once
  const source: WeightSource = {
    async tensor(name) {
      return upload(name, await next(name)).whole;
    },
    async lend(name, _, use) {
      const host = await next(name);
      if (lent?.host !== host) {
        lent?.whole.dispose();
        lent = undefined;
        lent = { host, whole: upload(name, host).whole };
      }
      const stored = files.locate(name);
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

/** Host memory for weights that are read before their turn. */
const aheadBytes = 64 * 2 ** 20;

/** Gives stored tensors, in about the order of `names`, reading ahead; a failed read is told when its turn comes. */
function readAhead(
  files: ModelFiles,
  names: readonly string[],
  shapes: ReadonlyMap<string, readonly number[]>,
): (name: string) => Promise<HostTensor> {
  interface Entry {
    readonly stored: StoredWeight;
    readonly bytes: number;
    /** A stored tensor may be several weights. */
    uses: number;
    host?: Promise<HostTensor>;
  }
  const entries = new Map<string, Entry>();
  for (const name of names) {
    const stored = files.locate(name);
    const bytes = 4 * sizeOf(storedShape(shapes.get(name) as number[], stored));
    const entry = entries.get(stored.name) ?? { stored, bytes, uses: 0 };
    entry.uses++;
    entries.set(stored.name, entry);
  }
  const queue = [...entries.values()];
  let inMemory = 0;
  const start = (entry: Entry): Promise<HostTensor> => {
    if (entry.host) return entry.host;
    inMemory += entry.bytes;
    entry.host = files.read(entry.stored);
    entry.host.catch(() => {});
    return entry.host;
  };
  return async (name) => {
    const entry = entries.get(files.locate(name).name) as Entry;
    const host = await start(entry);
    if (--entry.uses === 0) {
      entry.host = Promise.reject(new Error('it was used already'));
      entry.host.catch(() => {});
      inMemory -= entry.bytes;
    }
    while (queue[0] && (queue[0].host || inMemory + queue[0].bytes <= aheadBytes)) start(queue.shift() as Entry);
    return host;
  };
}

/** Writes the original's layout; config.json comes last, so that a folder with one is whole. */
export async function saveCheckpoint(folder: string, model: Loaded): Promise<void> {
  const { config, nVocab, weights } = model;
  const pieces = join(folder, 'model_pieces');
  const known = new Set(pieceNames(config).map((name) => `${name}.pt`));
  const foreign = [
    ...(await namesIn(folder)).filter((name) => name !== 'config.json' && name !== 'model_pieces'),
    ...(await namesIn(pieces)).filter((name) => !known.has(name)),
  ];
  if (foreign.length > 0)
    throw new Error(`saveCheckpoint: ${folder} holds something else: ${foreign.slice(0, 3).join(', ')}`);
  await mkdir(pieces, { recursive: true });
  await rm(join(folder, 'config.json'), { force: true }); // until the new pieces are there, the folder is no checkpoint
  for await (const [name, tensor] of hostPieces(weights, config, nVocab))
    await saveTorch(join(pieces, `${name}.pt`), tensor);
  await writeFileAtomically(join(folder, 'config.json'), [`${JSON.stringify(configToJson(config), null, 1)}\n`]);
}

/** What lies in a folder; nothing where there is none. */
async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}
