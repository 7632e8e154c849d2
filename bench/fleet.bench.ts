// A dump of 10^10 tokens by a fleet of workers that are killed, on a Redis that restarts: work and time against the
// ideal, in a simulation. Parts of it are measured here, and a small fleet of real workers is put beside its simulation.
//   npm run bench:fleet [SEED] [ROUNDS]     1 and 3 when left out; ROUNDS of the real fleet take a minute each
import { mkdtemp, rm } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { noRedis } from '../test/support/redis.js';
import { comparisonTable } from './fleet/comparison.js';
import { measure } from './fleet/measure.js';
import { fleet } from './fleet/parameters.js';
import { indexTable, lossTable, seeds, sizeTable, weatherTable } from './fleet/tables.js';

const [seed, rounds] = [process.argv[2] ?? 1, process.argv[3] ?? 3].map(Number) as [number, number];

const heading = (text: string): void => console.log(`\n## ${text}\n`);

console.log(`${cpus()[0]?.model}, Node ${process.version}; seed ${seed}, means of ${seeds} seeds`);
const { speed, shards, shardTokens, workers, finish, reading, begin } = fleet;
console.log(`${shards} shards of ${shardTokens} tokens, ${workers} workers of ${speed} tokens/s`);

heading('Measured here');
const folder = await mkdtemp(join(tmpdir(), 'sonde-fleet-'));
try {
  const { tokensPerSecond, finishedBytesPerSecond, manifestSeconds } = await measure(folder);
  const gigabytes = (finishedBytesPerSecond / 1e9).toFixed(2);
  const simulated = ((shardTokens * 1536) / finish / 1e9).toFixed(2);
  const million = (perSecond: number) => `${(perSecond / 1e6).toFixed(1)} million tokens/s`;
  console.log(
    `tokeniser, one thread        ${million(tokensPerSecond)} (simulated: ${million(reading.tokensPerSecond)})`,
  );
  console.log(`a shard hashed and synced    ${gigabytes} GB/s (simulated: ${simulated})`);
  console.log(`a manifest                   ${(manifestSeconds * 1000).toFixed(1)} ms (simulated: ${begin * 1000})`);
} finally {
  await rm(folder, { recursive: true, force: true });
}

heading('Shards, lives and restarts');
console.log(weatherTable(seed));
heading('Where the work goes: shards of 2^20 tokens, lives of 20 minutes');
console.log(lossTable(seed));
heading('What the index saves: shards of 2^20 tokens');
console.log(indexTable(seed));
heading('The size of shards: lives of 20 minutes');
console.log(sizeTable(seed));
heading('A real fleet beside its simulation');
if (noRedis) console.log(`none: ${noRedis}`);
else if (rounds > 0) console.log(await comparisonTable(seed, rounds));
