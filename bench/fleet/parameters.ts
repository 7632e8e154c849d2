// What a simulated fleet is made of, and where the numbers come from. Times are in seconds.

/** How a worker comes to the text of a shard. */
export interface Reading {
  /**
   * `index`: the worker seeks to the shard. `start`: it tokenises the corpus from its first byte, or from where one of
   * the four passes stands that it keeps (what sonde did before there was an index of the corpus).
   */
  readonly way: 'index' | 'start';
  readonly tokensPerSecond: number;
  /** For opening the file and finding the place, with an index. */
  readonly seek: number;
}

/** A Redis that restarts now and then. */
export interface Restarts {
  /** The mean time between two restarts, which are independent of one another. */
  readonly every: number;
  /** How long it is away. */
  readonly down: number;
  /** The last seconds before it stops, which are not on its disk: a second with `appendfsync everysec`. */
  readonly lost: number;
  /** Undefined when jobs survive. Otherwise all are forgotten, and the dump is planned again after so long. */
  readonly plannedAgain?: number;
}

export interface Fleet {
  readonly shards: number;
  readonly shardTokens: number;
  readonly workers: number;
  /** Tokens per second of the model on one worker. */
  readonly speed: number;
  /** The mean life of a worker, from its start on; `Infinity` when none is killed. */
  readonly life: number;
  /** Lives are `exponential` (any moment is as likely as another) or all `constant`. */
  readonly lives: 'exponential' | 'constant';
  /** From the death of a worker to the start of its successor. */
  readonly replacement: number;
  /** From the start of a worker's process until it asks for its first job, the model included. */
  readonly start: number;
  /** For the lease and the manifest of a shard that begins, or for seeing that it is there already. */
  readonly begin: number;
  /** For hashing, syncing and recording a shard that was computed. */
  readonly finish: number;
  readonly reading: Reading;
  /** The lock of a job, and the pause between two looks for jobs without one: `--lock`. */
  readonly lock: number;
  readonly redis?: Restarts | undefined;
  /** The simulation ends then, whether the dump is done or not. */
  readonly until: number;
}

const hour = 3600;

/** The fleet that the pages describe: 1.05 x 10^10 tokens. */
export const fleet: Fleet = {
  shards: 10_000,
  shardTokens: 2 ** 20,
  workers: 100,
  speed: 50_000, // a fake model; the shard takes 21 s
  life: 20 * 60,
  lives: 'exponential',
  replacement: 10, // assumed: what a scheduler takes
  start: 20, // assumed: a model of 500 MB from a disk that is shared; the demo model's start is measured
  begin: 0.02, // measured: a manifest takes a few milliseconds on a local disk
  finish: 3, // 1,536 bytes a token (a location of GPT-2 small in bfloat16) at 0.5 GB/s; hashing and syncing are measured
  reading: { way: 'index', tokensPerSecond: 7e6, seek: 0.01 }, // measured by npm run bench:tokenizer
  lock: 30, // the default of --lock
  until: 24 * hour,
};

/** The fleet with shards of another size, for the same number of tokens. */
export function withShards(shardTokens: number): Pick<Fleet, 'shardTokens' | 'shards' | 'finish'> {
  const ratio = shardTokens / fleet.shardTokens;
  return { shardTokens, shards: Math.ceil(fleet.shards / ratio), finish: fleet.finish * ratio };
}

/** Restarts every ten minutes, as the whole dump takes little more than half an hour. */
export const restarts: Readonly<Record<'none' | 'kept' | 'away' | 'forgotten', Restarts | undefined>> = {
  none: undefined,
  kept: { every: 600, down: 10, lost: 1 },
  away: { every: 600, down: 120, lost: 1 }, // longer than the lock of a job
  forgotten: { every: 600, down: 10, lost: 1, plannedAgain: 60 },
};
