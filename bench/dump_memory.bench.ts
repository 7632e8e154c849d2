// Peak memory of dumps of 100,000 and of a million tokens, each made by a process of its own.
//   npm run bench:dump-memory [MODEL] [LAYER]     random:gpt2-small and 0 when left out
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { measureDump } from '../test/support/memory/dump_memory.js';

const [model = 'random:gpt2-small', layer = '0'] = process.argv.slice(2);
if (process.platform !== 'linux') throw new Error('only Linux reports the peak memory of a process');
const folder = await mkdtemp(join(tmpdir(), 'sonde-dump-'));
try {
  console.log(`${model}, ${layer}/resid/delta_mlp and 4096 latents of it, float32, on the CPU`);
  let first = 0;
  for (const tokens of [100_000, 1_000_000]) {
    const { peak, seconds } = measureDump({
      model,
      layer: Number(layer),
      tokens,
      latents: 4096,
      shardTokens: 65_536,
      folder,
    });
    first ||= peak;
    const speed = Math.round(tokens / seconds);
    console.log(
      `${tokens} tokens  peak ${(peak / 1e6).toFixed(0)} MB  ratio ${(peak / first).toFixed(3)}  ${speed} tokens/s`,
    );
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}
