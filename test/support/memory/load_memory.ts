// The peak memory of a process that loads a model: random weights in both layouts, each loaded in its own process.
import { execFileSync } from 'node:child_process';
import { mkdir, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openDevice } from '../../../src/engine/device.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { saveHuggingFace } from '../hugging_face.js';
import { ownMemory } from '../machine.js';

export interface LoadMemory {
  readonly layout: string;
  /** Bytes of the files. */
  readonly files: number;
  /** Bytes of resident memory at most, and of the process before it loads anything. */
  readonly peak: number;
  readonly before: number;
  readonly seconds: number;
}

const self = fileURLToPath(import.meta.url);

/** Writes `random:SIZE` below `folder` in both layouts, and loads each. Where there is no /proc, gives nothing. */
export async function measureLoading(size: string, folder: string): Promise<LoadMemory[]> {
  if (process.platform !== 'linux') return [];
  await mkdir(folder, { recursive: true });
  execFileSync(process.execPath, [self, 'write', size, folder], { stdio: 'inherit' });
  const results: LoadMemory[] = [];
  for (const layout of ['original', 'Hugging Face']) {
    const model = join(folder, layout);
    const output = execFileSync(process.execPath, [self, 'load', model], { encoding: 'utf8' });
    results.push({ layout, files: await bytesBelow(model), ...JSON.parse(output) });
  }
  return results;
}

async function bytesBelow(folder: string): Promise<number> {
  let sum = 0;
  for (const name of await readdir(folder, { recursive: true })) {
    const found = await stat(join(folder, name));
    if (found.isFile()) sum += found.size;
  }
  return sum;
}

const [, , what, argument = '', folder = ''] = process.argv;
if (process.argv[1] === self && what === 'write') {
  using model = await Transformer.load(`random:${argument}`, { device: openDevice('cpu') });
  await model.saveCheckpoint(join(folder, 'original'));
  await saveHuggingFace(model, join(folder, 'Hugging Face'));
} else if (process.argv[1] === self && what === 'load') {
  const device = openDevice('cpu');
  await device.synchronize();
  const before = ownMemory('VmRSS');
  const start = performance.now();
  using _ = await Transformer.load(argument, { device });
  await device.synchronize();
  console.log(JSON.stringify({ before, peak: ownMemory('VmHWM'), seconds: (performance.now() - start) / 1000 }));
}
