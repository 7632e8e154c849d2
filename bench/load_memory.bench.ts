// Peak memory of loading a model, compared with the size of its files.
//   npm run bench:load [SIZE]     SIZE: gpt2-small, gpt2-medium, gpt2-large, or gpt2-xl, which is the default
// It needs three times the size on the disk for temporary files.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { measureLoading } from '../test/support/memory/load_memory.js';

const size = process.argv[2] ?? 'gpt2-xl';
const folder = await mkdtemp(join(tmpdir(), 'sonde-load-'));
try {
  const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`;
  console.log(`random:${size}, float32, loaded on the CPU by a process of its own`);
  for (const { layout, files, peak, before, seconds } of await measureLoading(size, folder)) {
    const ratio = (peak / files).toFixed(3);
    console.log(
      `${layout.padEnd(12)}  files ${gigabytes(files)}  peak ${gigabytes(peak)} (${gigabytes(before)} before)  ratio ${ratio}  ${seconds.toFixed(1)} s`,
    );
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}
