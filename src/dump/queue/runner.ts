// Runs the jobs of a queue, one or two at a time. The model and autoencoders of a dump stay loaded as long as jobs of
// that dump come, even when some of them fail.
import { createHash } from 'node:crypto';
import type { Job, Worker } from 'bullmq';
import type { Device } from '../../engine/device.js';
import { quietly } from '../../files/promises.js';
import { type MergeResult, mergeDumps } from '../shards/merge.js';
import { type ShardedDump, ShardSession } from '../workers/shard_session.js';
import type { Permit } from './allowances.js';
import { BadJob, type JobOrigin, readJob } from './job.js';
import { bullmq } from './packages.js';
import { BrokenRecord } from './records.js';

export interface RunnerOptions extends JobOrigin {
  readonly device: Device;
  readonly signal: AbortSignal;
  readonly permit: Permit;
}

/** The session of the dump that is loaded, and how many jobs use it. */
interface CachedSession {
  /** A digest of the dump's plan, which differs even between two dumps that were planned for the same folder. */
  readonly digest: string;
  readonly session: Promise<ShardSession>;
  users: number;
}

export class JobRunner {
  readonly #options: RunnerOptions;
  #cached: CachedSession | undefined;

  constructor(options: RunnerOptions) {
    this.#options = options;
  }

  /**
   * Returns the result of a merge.
   * @throws BadJob for a job that no worker takes, NotAllowed for one that this worker does not.
   */
  async run({ name, data }: Job, worker: Worker): Promise<MergeResult | undefined> {
    const { permit } = this.#options;
    if (name === 'merge') {
      const { request } = readJob(name, data, this.#options);
      await permit.check(request);
      const { out, anyArithmetic } = request;
      return mergeDumps(out, [], anyArithmetic === undefined ? {} : { anyArithmetic });
    }
    if (name === 'shard') {
      const { dump: id, number } = readJob(name, data, this.#options);
      const dump = await this.#plannedDump(id, worker);
      if (number >= dump.count) {
        throw new BadJob(`queue: the job's number must be below the count of shards, ${dump.count}, but is ${number}`);
      }
      await this.#makeShard(dump, number);
      return undefined;
    }
    throw new BadJob("queue: the job's name must be shard or merge, but is another");
  }

  /** The dump of a shard, which is the payload of its merge job. */
  async #plannedDump(id: string, worker: Worker): Promise<ShardedDump> {
    const { Job } = await bullmq();
    const job = await Job.fromId(worker, id).catch((cause) => {
      if (!(cause instanceof BrokenRecord)) throw cause;
      throw new BadJob(`queue: the job's dump: ${cause.message}`, { cause });
    });
    if (job?.name === 'merge') return readJob('merge', job.data, this.#options);
    throw new BadJob(`queue: the job's dump, ${id}, is not in the queue any more`);
  }

  async #makeShard(dump: ShardedDump, number: number): Promise<void> {
    const { permit } = this.#options;
    const digest = createHash('sha256').update(JSON.stringify(dump)).digest('hex');
    // This is checked before the cached session is freed for another one. Targets of links may have changed since.
    if (this.#cached?.digest === digest) await permit.checkOut(dump.request.out);
    else await permit.check(dump.request);
    const cached = this.#use(dump, digest);
    try {
      const session = await cached.session.catch((error) => {
        if (this.#cached === cached) this.#cached = undefined; // the next job opens it again
        throw error;
      });
      await session.make(number);
    } finally {
      cached.users--;
      if (this.#cached !== cached) await free(cached);
    }
  }

  /** The session of a dump, opened if need be, with one user more. */
  #use(dump: ShardedDump, digest: string): CachedSession {
    const before = this.#cached;
    if (before?.digest !== digest) {
      const session = quietly(this.#open(dump, before));
      this.#cached = { digest, session, users: 0 };
    }
    const cached = this.#cached as CachedSession;
    cached.users++;
    return cached;
  }

  async #open(dump: ShardedDump, before: CachedSession | undefined): Promise<ShardSession> {
    if (before) await free(before); // before another one takes memory
    return ShardSession.open(dump, this.#options);
  }

  async close(): Promise<void> {
    if (this.#cached) await free(this.#cached);
  }
}

/** Closes a session, unless it is in use: then its last user closes it. */
async function free({ session, users }: CachedSession): Promise<void> {
  if (users === 0) await (await session.catch(() => undefined))?.close();
}
