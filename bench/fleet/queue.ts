// The jobs of a dump in Redis, by BullMQ's rules: locks that must be renewed, jobs without one that go back to the front
// of the queue, jobs that a lease refuses and that come again behind all others, and a server that restarts.
import { pauseWhileWritten } from '../../src/dump/queue/records.js';
import type { Fleet } from './parameters.js';
import type { Timeline } from './timeline.js';

/** The right to a job, as the worker that took it holds it. */
export type Token = symbol;

interface Job {
  state: 'waiting' | 'active' | 'delayed' | 'done';
  token: Token | undefined;
  lockedUntil: number;
  /** Seen without a renewal since: the next look takes it from its worker if the lock has run out. */
  isSuspect: boolean;
}

/** What a restart may undo: the time, and the way back. */
interface Change {
  readonly at: number;
  readonly undo: () => void;
}

export interface QueueCounts {
  /** Jobs that were taken from a worker that had not renewed its lock. */
  stalled: number;
  restarts: number;
}

export class SimulatedQueue {
  readonly counts: QueueCounts = { stalled: 0, restarts: 0 };
  isUp = true;
  done = 0;
  readonly #time: Timeline;
  readonly #fleet: Fleet;
  /** By the shard's number. A job that Redis has forgotten is missing. */
  readonly #jobs: (Job | undefined)[] = [];
  /** Jobs that were put back to the front; the last one is taken first. */
  #front: number[] = [];
  #waiting: number[] = [];
  #taken = 0; // of #waiting
  readonly #active = new Set<number>();
  readonly #recent: Change[] = [];
  /** Commands that workers have sent to a server that is away. */
  #pending: (() => void)[] = [];
  readonly #onJobs: () => void;

  constructor(time: Timeline, fleet: Fleet, onJobs: () => void) {
    this.#time = time;
    this.#fleet = fleet;
    this.#onJobs = onJobs;
    this.#plan();
    const look = () => {
      if (this.isUp) this.#lookForStalled();
      time.after(fleet.lock, look);
    };
    look();
  }

  /** Sends a command, which waits for a server that is away. */
  whenUp(command: () => void): void {
    if (this.isUp) command();
    else this.#pending.push(command);
  }

  get isEmpty(): boolean {
    return this.#front.length === 0 && this.#taken === this.#waiting.length;
  }

  take(): { readonly number: number; readonly token: Token } | undefined {
    const number = this.#front.pop() ?? this.#waiting[this.#taken++];
    if (number === undefined) {
      this.#taken = this.#waiting.length;
      return undefined;
    }
    const job = this.#jobs[number] as Job;
    const token = Symbol();
    this.#enter(number, job, 'active', token);
    job.lockedUntil = this.#time.now + this.#fleet.lock;
    job.isSuspect = false;
    this.#changed(() => {
      if (job.state !== 'active' || job.token !== token) return;
      this.#enter(number, job, 'waiting');
      this.#front.push(number);
    });
    return { number, token };
  }

  renew(number: number, token: Token): void {
    const job = this.#held(number, token);
    if (!job) return;
    job.lockedUntil = this.#time.now + this.#fleet.lock;
    job.isSuspect = false;
  }

  /** A worker that has lost its lock is refused; the job is then another one's. */
  complete(number: number, token: Token): void {
    const job = this.#held(number, token);
    if (!job) return;
    this.#enter(number, job, 'done');
    this.done++;
    this.#changed(() => {
      this.#enter(number, job, 'active', token);
      this.done--;
    });
  }

  /** A living worker has the lease of the shard: the job comes again after a pause. */
  refuse(number: number, token: Token): void {
    const job = this.#held(number, token);
    if (!job) return;
    this.#enter(number, job, 'delayed');
    this.#time.after(pauseWhileWritten / 1000, () => this.whenUp(() => this.#addAgain(number, job)));
  }

  /** Redis stops, and comes back after a while. */
  restart(): void {
    const { redis } = this.#fleet;
    if (!redis || !this.isUp) return;
    const { down, lost, plannedAgain } = redis;
    this.counts.restarts++;
    for (const { at, undo } of this.#recent.splice(0).reverse()) if (at > this.#time.now - lost) undo();
    this.isUp = false;
    this.#time.after(down, () => {
      if (plannedAgain !== undefined) this.#forget(plannedAgain);
      this.isUp = true;
      for (const command of this.#pending.splice(0)) this.whenUp(command);
      this.#onJobs();
    });
  }

  #forget(plannedAgain: number): void {
    this.#jobs.length = 0;
    this.#active.clear();
    this.#front = [];
    this.#waiting = [];
    this.#taken = 0;
    this.done = 0;
    const restart = this.counts.restarts;
    this.#time.after(plannedAgain, () => {
      // Whoever plans waits for a server that is away once more. When it has forgotten once more, it is planned then.
      this.whenUp(() => {
        if (restart !== this.counts.restarts) return;
        this.#plan();
        this.#onJobs();
      });
    });
  }

  #plan(): void {
    const job = (): Job => ({ state: 'waiting', token: undefined, lockedUntil: 0, isSuspect: false });
    for (let number = 0; number < this.#fleet.shards; number++) {
      this.#jobs[number] = job();
      this.#waiting.push(number);
    }
  }

  #enter(number: number, job: Job, state: Job['state'], token?: Token): void {
    job.state = state;
    job.token = token;
    if (state === 'active') this.#active.add(number);
    else this.#active.delete(number);
  }

  #held(number: number, token: Token): Job | undefined {
    const job = this.#jobs[number];
    return job?.state === 'active' && job.token === token && job.lockedUntil > this.#time.now ? job : undefined;
  }

  #changed(undo: () => void): void {
    const { redis } = this.#fleet;
    if (!redis || redis.plannedAgain !== undefined) return;
    const { now } = this.#time;
    this.#recent.push({ at: now, undo });
    while (this.#recent[0] && this.#recent[0].at <= now - redis.lost) this.#recent.shift();
  }

  #lookForStalled(): void {
    const before = this.counts.stalled;
    // From the highest number down, so that the lowest one is taken first. Redis gives no order to sets of many jobs.
    for (const number of [...this.#active].sort((a, b) => b - a)) {
      const job = this.#jobs[number] as Job;
      if (!job.isSuspect || job.lockedUntil > this.#time.now) {
        job.isSuspect = true;
        continue;
      }
      this.#enter(number, job, 'waiting');
      this.#front.push(number);
      this.counts.stalled++;
    }
    if (this.counts.stalled > before) this.#onJobs();
  }

  #addAgain(number: number, job: Job): void {
    if (this.#jobs[number] !== job || job.state !== 'delayed') return; // forgotten meanwhile
    this.#enter(number, job, 'waiting');
    this.#waiting.push(number);
    this.#onJobs();
  }
}
