// The tables of the page, each from simulations of several seeds. No clock and no device here.
import { type Fleet, fleet, restarts, withShards } from './parameters.js';
import { type Outcome, simulate } from './simulation.js';

/** Simulations for each figure: seeds that follow one another. */
export const seeds = 5;

export const shardSizes = [2 ** 18, 2 ** 20, 2 ** 22];
export const lives = [5, 20, 60].map((minutes) => minutes * 60);

export const outcomesOf = (setting: Fleet, seed: number, count = seeds): Outcome[] =>
  Array.from({ length: count }, (_, i) => simulate(setting, seed + i));

export const mean = (values: readonly number[]): number => values.reduce((sum, v) => sum + v, 0) / values.length;

/** Worker-seconds of computing and reading, in units of the computing that is needed. */
export const workOf = ({ computed, read, useful }: Outcome): number => (computed + read) / useful;

export const timeOf = ({ seconds, idealSeconds }: Outcome): number => seconds / idealSeconds;

const ratio = (outcomes: readonly Outcome[], of: (outcome: Outcome) => number): string =>
  outcomes.every(({ isDone }) => isDone) ? mean(outcomes.map(of)).toFixed(3) : 'not done';

const size = (tokens: number): string => `2^${Math.log2(tokens)}`;
const minutes = (seconds: number): string => `${seconds / 60} min`;
const thousands = (n: number): string => Math.round(n).toLocaleString('en-US');

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(head), `|${'---|'.repeat(head.length)}`, ...rows.map(line)].join('\n');
}

// ---- shards, lives and restarts

export const weatherHead = [
  'tokens a shard',
  'seconds a shard',
  'mean life',
  'work',
  'time',
  'work, Redis restarts',
  'time',
  'work, Redis forgets',
  'time',
];

export function weatherRow(shardTokens: number, life: number, seed: number): string[] {
  const cells = (['none', 'kept', 'forgotten'] as const).flatMap((weather) => {
    const redis = restarts[weather];
    const outcomes = outcomesOf({ ...fleet, ...withShards(shardTokens), life, redis }, seed);
    return [ratio(outcomes, workOf), ratio(outcomes, timeOf)];
  });
  return [size(shardTokens), (shardTokens / fleet.speed).toFixed(1), minutes(life), ...cells];
}

export const weatherTable = (seed: number): string =>
  table(
    weatherHead,
    shardSizes.flatMap((shardTokens) => lives.map((life) => weatherRow(shardTokens, life, seed))),
  );

// ---- where the work goes

const weathers: Readonly<Record<keyof typeof restarts, string>> = {
  none: 'does not restart',
  kept: 'restarts in 10 s, jobs survive',
  away: 'restarts in 2 min, jobs survive',
  forgotten: 'restarts, forgets all jobs',
};

export function lossTable(seed: number): string {
  const rows = (['none', 'kept', 'away', 'forgotten'] as const).map((weather) => {
    const redis = restarts[weather];
    const outcomes = outcomesOf({ ...fleet, redis }, seed);
    const part = (of: (outcome: Outcome) => number) =>
      `${(100 * mean(outcomes.map((outcome) => of(outcome) / outcome.useful))).toFixed(2)}%`;
    const count = (of: (outcome: Outcome) => number) => thousands(mean(outcomes.map(of)));
    return [
      weathers[weather],
      count(({ restarts: times }) => times),
      count(({ deaths }) => deaths),
      count(({ lostShards }) => lostShards),
      part(({ lost }) => lost.computing),
      part(({ lost }) => lost.waiting + lost.finishing),
      part(({ read }) => read),
      count(({ refused }) => refused),
      ratio(outcomes, timeOf),
    ];
  });
  const head = ['Redis', 'restarts', 'workers killed', 'shards lost', 'lost while computed', 'lost while synced'];
  return table([...head, 'reading', 'refused by a lease', 'time'], rows);
}

// ---- the index of the corpus

export function indexTable(seed: number): string {
  const rows = lives.flatMap((life) =>
    (['start', 'index'] as const).map((way) => {
      const setting = { ...fleet, life, reading: { ...fleet.reading, way } };
      const [outcome] = outcomesOf(setting, seed, 1) as [Outcome];
      const { isDone, read, shardsDone, seconds } = outcome;
      return [
        minutes(life),
        way === 'index' ? 'seeks' : 'reads from the start',
        (read / 3600).toFixed(1),
        workOf(outcome).toFixed(2),
        isDone ? timeOf(outcome).toFixed(2) : `${thousands(shardsDone)} shards after ${seconds / 3600} h`,
      ];
    }),
  );
  return table(['mean life', 'a worker', 'hours of reading', 'work', 'time'], rows);
}

// ---- the size of shards

export function sizeTable(seed: number): string {
  const rows = [5_000, 50_000, 500_000].flatMap((speed) =>
    [2 ** 16, 2 ** 18, 2 ** 20, 2 ** 22].map((shardTokens) => {
      const sized = withShards(shardTokens);
      const outcomes = outcomesOf({ ...fleet, ...sized, speed }, seed, 2);
      const seconds = shardTokens / speed;
      const isHidden = sized.finish < seconds; // otherwise workers wait for the disk
      const estimate = isHidden ? (1 + (seconds / 2 + sized.finish) / fleet.life).toFixed(3) : '';
      const computing = ratio(outcomes, ({ computed, useful }) => computed / useful);
      const cells = [
        thousands(speed),
        size(shardTokens),
        thousands(sized.shards),
        seconds.toFixed(seconds < 10 ? 1 : 0),
      ];
      return [...cells, computing, estimate, ratio(outcomes, timeOf)];
    }),
  );
  const head = ['tokens/s', 'tokens a shard', 'shards', 'seconds a shard', 'computing', 'estimate', 'time'];
  return table(head, rows);
}
