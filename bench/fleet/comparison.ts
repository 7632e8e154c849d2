// A small fleet of real workers, killed at random times, beside the simulation of the same fleet. Each round is simulated
// with the times of its own workers for a start and a shard, as a shared machine is not as fast in every minute.
import { median } from '../compare/summary.js';
import type { Fleet } from './parameters.js';
import { type RealFleet, type RealOutcome, realFleet } from './reality.js';
import { type Outcome, simulate } from './simulation.js';
import { mean, table } from './tables.js';

const killed: RealFleet = {
  ...{ shards: 40, shardTokens: 65_536, workers: 2, life: 20, replacement: 0.5, redis: { every: 20, down: 0.5 } },
};
const unharmed: RealFleet = { ...killed, life: Number.POSITIVE_INFINITY, redis: undefined };

const simulations = 400;

function simulated(real: RealFleet, { between, starts }: RealOutcome): Fleet {
  const { shards, shardTokens, workers, life, replacement, redis } = real;
  const shardSeconds = median(between);
  return {
    ...{ shards, shardTokens, workers, life, lives: 'exponential', replacement },
    lock: 2, // that of the workers of tests
    speed: shardTokens / shardSeconds,
    start: mean(starts),
    ...{ begin: 0.01, finish: 0.05, until: 3600 },
    reading: { way: 'index', tokensPerSecond: Number.POSITIVE_INFINITY, seek: 0 }, // it is in the measured time
    ...(redis && { redis: { ...redis, lost: 0 } }), // this Redis is stopped well
  };
}

interface Round {
  readonly name: string;
  readonly real: RealOutcome;
  readonly setting: Fleet;
  readonly outcomes: readonly Outcome[];
}

async function roundOf(name: string, fleet: RealFleet, seed: number): Promise<Round> {
  const real = await realFleet(fleet, seed);
  const setting = simulated(fleet, real);
  const outcomes = Array.from({ length: simulations }, (_, i) => simulate(setting, seed + i));
  return { name, real, setting, outcomes };
}

export async function comparisonTable(seed: number, rounds: number): Promise<string> {
  const found = [await roundOf('none killed', unharmed, seed)];
  for (let round = 0; round < rounds; round++) found.push(await roundOf(`${round + 1}`, killed, seed + round));
  const rows = found.map(({ name, real, setting, outcomes }) => {
    const cells = (digits: number, of: (outcome: RealOutcome | Outcome) => number) => {
      const sorted = outcomes.map(of).sort((a, b) => a - b);
      const at = (part: number) => (sorted[Math.floor(part * (sorted.length - 1))] as number).toFixed(digits);
      return [of(real).toFixed(digits), `${mean(sorted).toFixed(digits)} (${at(0.05)} to ${at(0.95)})`];
    };
    return [
      ...[name, setting.start.toFixed(1), (setting.shardTokens / setting.speed).toFixed(2), `${real.restarts}`],
      ...cells(0, ({ seconds }) => seconds),
      ...cells(0, ({ deaths }) => deaths),
      ...cells(0, ({ lostShards }) => lostShards),
    ];
  });
  const head = ['round', 'start, s', 'shard, s', 'restarts', 'seconds', 'simulated', 'killed', 'simulated'];
  const { shards, shardTokens, workers, life, redis } = killed;
  return [
    `${shards} shards of ${shardTokens} tokens on the demo model, ${workers} workers with a mean life of ${life} s and ` +
      `locks of 2 s, a Redis that restarts every ${redis?.every} s. Simulated: the mean, and 5% to 95%.`,
    '',
    table([...head, 'shards lost', 'simulated'], rows),
    '',
    ...found.map(({ name, real }) => `round ${name}, sonde verify: ${real.verified}`),
  ].join('\n');
}
