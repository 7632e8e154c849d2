// A queue dump by a fleet of workers that are killed, in virtual time: the rules are those of src/dump/queue/dump_queue.ts
// and src/dump/workers/shard_session.ts. A worker holds two jobs. One shard is computed while the one before is hashed
// and synced, and the lease on a shard keeps others from it as long as its worker lives.
import { type Random, random } from '../../test/support/random.js';
import type { Fleet } from './parameters.js';
import { type QueueCounts, SimulatedQueue, type Token } from './queue.js';
import { Timeline } from './timeline.js';

/** Where a killed worker's shards were. */
export type Cause = 'computing' | 'waiting' | 'finishing';

export interface Outcome extends QueueCounts {
  /** Whether all jobs are done. Otherwise the time was up. */
  readonly isDone: boolean;
  /** When the last job was done. */
  readonly seconds: number;
  /** The time that the tokens take when every worker computes from the first moment on, and none is killed. */
  readonly idealSeconds: number;
  readonly shardsDone: number;
  /** Worker-seconds of computing, also of what was lost. */
  readonly computed: number;
  /** Those of shards that are there in the end. */
  readonly useful: number;
  /** Those of shards whose worker was killed while it computed them, had to wait with them, or hashed and synced them. */
  readonly lost: Readonly<Record<Cause, number>>;
  /** Those of shards that are under way when the time is up. */
  readonly underWay: number;
  /** Worker-seconds of reading and tokenising. */
  readonly read: number;
  readonly deaths: number;
  /** Shards that were lost, wherever they were. */
  readonly lostShards: number;
  /** Attempts that ended because a living worker had the lease. */
  readonly refused: number;
}

interface Attempt {
  readonly number: number;
  readonly token: Token;
  phase: 'beginning' | 'queued' | 'reading' | Cause;
  /** When the phase began. */
  since: number;
  /** When the worker's lock manager last renewed the lock, or took the job. */
  renewed: number;
}

interface Worker {
  isAlive: boolean;
  readonly attempts: Set<Attempt>;
  /** Attempts that wait until they may be computed. */
  readonly queued: Attempt[];
  /** The one that is read or computed, or waits until the one before is finished. */
  current: Attempt | undefined;
  finishing: Attempt | undefined;
  /** For each pass over the corpus, the number of the block that it reads next; by their last use. */
  readonly passes: number[];
}

const slots = 2; // the concurrency of workQueue
const mostPasses = 4; // those of a BlockCursor
const leaseSeconds = 1; // until it shows that the owner of a lease lives

export function simulate(fleet: Fleet, seed: number): Outcome {
  return new Simulation(fleet, seed).run();
}

class Simulation {
  readonly #fleet: Fleet;
  readonly #time = new Timeline();
  readonly #queue: SimulatedQueue;
  readonly #lives: Random;
  readonly #restarts: Random;
  readonly #shardSeconds: number;
  readonly #workers: Worker[] = [];
  /** Workers with a slot for a job that is not there. */
  #hungry: Worker[] = [];
  readonly #isThere: Uint8Array;
  readonly #lease: (Worker | undefined)[] = [];
  #shardsDone = 0;
  #computed = 0;
  #read = 0;
  readonly #lost: Record<Cause, number> = { computing: 0, waiting: 0, finishing: 0 };
  #deaths = 0;
  #lostShards = 0;
  #refused = 0;

  constructor(fleet: Fleet, seed: number) {
    this.#fleet = fleet;
    // Streams of their own: with restarts or without, the same workers die when they do.
    this.#lives = random(2 * seed);
    this.#restarts = random(2 * seed + 1);
    this.#shardSeconds = fleet.shardTokens / fleet.speed;
    this.#isThere = new Uint8Array(fleet.shards);
    this.#queue = new SimulatedQueue(this.#time, fleet, () => this.#feed());
  }

  run(): Outcome {
    const { shards, workers, until } = this.#fleet;
    for (let i = 0; i < workers; i++) this.#startWorker();
    this.#planRestart();
    const isDone = () => this.#queue.done === shards && this.#queue.isUp;
    this.#time.run(until, isDone);
    return {
      isDone: isDone(),
      seconds: this.#time.now,
      idealSeconds: (shards * this.#shardSeconds) / workers,
      shardsDone: this.#shardsDone,
      useful: this.#shardsDone * this.#shardSeconds,
      computed: this.#computed + this.#underWay('computing'),
      lost: this.#lost,
      underWay: this.#underWay('computing', 'waiting', 'finishing'),
      read: this.#read,
      deaths: this.#deaths,
      lostShards: this.#lostShards,
      refused: this.#refused,
      ...this.#queue.counts,
    };
  }

  #underWay(...phases: Cause[]): number {
    const attempts = this.#workers.flatMap((worker) => (worker.isAlive ? [...worker.attempts] : []));
    return attempts
      .filter(({ phase }) => (phases as string[]).includes(phase))
      .reduce((sum, attempt) => sum + this.#secondsIn(attempt), 0);
  }

  /** What was computed of a shard so far. */
  #secondsIn({ phase, since }: Attempt): number {
    return phase === 'computing' ? this.#time.now - since : this.#shardSeconds;
  }

  #exponential(rng: Random, mean: number): number {
    return -mean * Math.log(1 - rng.next());
  }

  #planRestart(): void {
    const { redis } = this.#fleet;
    if (!redis) return;
    this.#time.after(this.#exponential(this.#restarts, redis.every), () => {
      this.#queue.restart();
      this.#planRestart();
    });
  }

  // ---- workers

  #startWorker(): void {
    const { life, lives, start } = this.#fleet;
    const worker: Worker = {
      ...{ isAlive: true, attempts: new Set(), queued: [], current: undefined, finishing: undefined },
      passes: [],
    };
    this.#workers.push(worker);
    if (life !== Number.POSITIVE_INFINITY) {
      this.#time.after(lives === 'constant' ? life : this.#exponential(this.#lives, life), () => this.#kill(worker));
    }
    this.#after(worker, start, () => {
      for (let slot = 0; slot < slots; slot++) this.#takeJob(worker);
      this.#renewLocks(worker);
    });
  }

  /** What a worker does after a while, if it lives. */
  #after(worker: Worker, seconds: number, act: () => void): void {
    this.#time.after(seconds, () => {
      if (worker.isAlive) act();
    });
  }

  /** What a worker does as soon as Redis is there, if it lives. */
  #whenUp(worker: Worker, act: () => void): void {
    this.#queue.whenUp(() => {
      if (worker.isAlive) act();
    });
  }

  #kill(worker: Worker): void {
    worker.isAlive = false;
    this.#deaths++;
    for (const attempt of worker.attempts) {
      const { number, phase, since } = attempt;
      if (this.#lease[number] === worker) this.#lease[number] = undefined;
      if (phase === 'reading') this.#read += this.#time.now - since;
      if (phase === 'beginning' || phase === 'queued' || phase === 'reading') continue;
      this.#lostShards++;
      this.#lost[phase] += this.#secondsIn(attempt);
      if (phase === 'computing') this.#computed += this.#secondsIn(attempt);
    }
    this.#workers.splice(this.#workers.indexOf(worker), 1);
    this.#time.after(this.#fleet.replacement, () => this.#startWorker());
  }

  /** Every quarter of the lock's time, the locks are renewed whose last renewal was as long ago. */
  #renewLocks(worker: Worker): void {
    const pause = this.#fleet.lock / 4;
    this.#after(worker, pause, () =>
      this.#whenUp(worker, () => {
        for (const attempt of worker.attempts) {
          if (attempt.renewed + pause >= this.#time.now) continue;
          attempt.renewed = this.#time.now;
          this.#queue.renew(attempt.number, attempt.token);
        }
        this.#renewLocks(worker);
      }),
    );
  }

  // ---- jobs

  #takeJob(worker: Worker): void {
    this.#whenUp(worker, () => {
      const job = this.#queue.take();
      if (!job) {
        this.#hungry.push(worker);
        return;
      }
      const { now } = this.#time;
      const attempt: Attempt = { ...job, phase: 'beginning', since: now, renewed: now };
      worker.attempts.add(attempt);
      this.#after(worker, this.#fleet.begin, () => this.#begin(worker, attempt));
    });
  }

  /** Jobs have come: those that wait for one take them. */
  #feed(): void {
    const hungry = this.#hungry;
    this.#hungry = [];
    for (const worker of hungry) if (worker.isAlive) this.#takeJob(worker);
  }

  #begin(worker: Worker, attempt: Attempt): void {
    const { number, token } = attempt;
    const end = (report: () => void) => {
      worker.attempts.delete(attempt);
      this.#whenUp(worker, () => {
        report();
        this.#takeJob(worker);
      });
    };
    if (this.#isThere[number]) {
      end(() => this.#queue.complete(number, token));
    } else if (this.#lease[number]) {
      this.#refused++;
      this.#after(worker, leaseSeconds, () => end(() => this.#queue.refuse(number, token)));
    } else {
      this.#lease[number] = worker;
      attempt.phase = 'queued';
      worker.queued.push(attempt);
      this.#computeNext(worker);
    }
  }

  #computeNext(worker: Worker): void {
    if (worker.current) return;
    const attempt = worker.queued.shift();
    if (!attempt) return;
    worker.current = attempt;
    this.#enter(attempt, 'reading');
    this.#after(worker, this.#readingSeconds(worker, attempt.number), () => {
      this.#read += this.#time.now - attempt.since;
      this.#enter(attempt, 'computing');
      this.#after(worker, this.#shardSeconds, () => {
        this.#computed += this.#shardSeconds;
        this.#enter(attempt, 'waiting');
        if (!worker.finishing) this.#finish(worker, attempt);
      });
    });
  }

  #finish(worker: Worker, attempt: Attempt): void {
    worker.current = undefined;
    worker.finishing = attempt;
    this.#enter(attempt, 'finishing');
    this.#after(worker, this.#fleet.finish, () => {
      const { number, token } = attempt;
      this.#isThere[number] = 1;
      this.#shardsDone++;
      this.#lease[number] = undefined;
      worker.finishing = undefined;
      worker.attempts.delete(attempt);
      if (worker.current?.phase === 'waiting') this.#finish(worker, worker.current);
      this.#whenUp(worker, () => {
        this.#queue.complete(number, token);
        this.#takeJob(worker);
      });
    });
    this.#computeNext(worker);
  }

  #enter(attempt: Attempt, phase: Attempt['phase']): void {
    attempt.phase = phase;
    attempt.since = this.#time.now;
  }

  #readingSeconds(worker: Worker, number: number): number {
    const { reading, shardTokens } = this.#fleet;
    const blockSeconds = shardTokens / reading.tokensPerSecond;
    if (reading.way === 'index') return reading.seek + blockSeconds;
    const { passes } = worker;
    const nearest = Math.max(0, ...passes.filter((next) => next <= number));
    if (passes.includes(nearest)) passes.splice(passes.indexOf(nearest), 1);
    while (passes.length >= mostPasses) passes.shift();
    passes.push(number + 1);
    return (number + 1 - nearest) * blockSeconds;
  }
}
