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
import { BrokenRecord, digestOfJob } from './records.js';

export interface RunnerOptions extends JobOrigin {
  readonly device: Device;
  readonly signal: AbortSignal;
  readonly permit: Permit;
}

interface PlannedDump extends ShardedDump {
  /** A digest of the plan, which differs even between two dumps that were planned for the same folder. */
  readonly digest: string;
}

/** The plan that was read last. It may be long, and all shards of a dump have the same one. */
interface CachedPlan {
  /** The id of the dump's merge job, and the digest that Redis gave for it before it was read. */
  readonly id: string;
  readonly record: string;
  readonly dump: Promise<PlannedDump>;
}

/** The session of the dump that is loaded, and how many jobs use it. */
interface CachedSession {
  /** The digest of the dump's plan. */
  readonly digest: string;
  readonly session: Promise<ShardSession>;
  users: number;
}

export class JobRunner {
  readonly #options: RunnerOptions;
  #plan: CachedPlan | undefined;
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

  /** The dump of a shard. It is read again when the job that holds it has changed. */
  async #plannedDump(id: string, worker: Worker): Promise<PlannedDump> {
    const record = await digestOfJob(worker, id);
    if (record === undefined) return this.#readDump(id, worker);
    const before = this.#plan;
    if (before?.id === id && before.record === record) return before.dump;
    const plan = { id, record, dump: quietly(this.#readDump(id, worker)) };
    this.#plan = plan;
    try {
      return await plan.dump;
    } catch (error) {
      if (this.#plan === plan) this.#plan = undefined;
      throw error;
    }
  }

  /** Reads the payload of a dump's merge job. */
  async #readDump(id: string, worker: Worker): Promise<PlannedDump> {
    const { Job } = await bullmq();
    const job = await Job.fromId(worker, id).catch((cause) => {
      if (!(cause instanceof BrokenRecord)) throw cause;
      throw new BadJob(`queue: the job's dump: ${cause.message}`, { cause });
    });
    if (job?.name === 'merge') {
      const dump = readJob('merge', job.data, this.#options);
      return { ...dump, digest: createHash('sha256').update(JSON.stringify(dump)).digest('hex') };
    }
    throw new BadJob(`queue: the job's dump, ${id}, is not in the queue any more`);
  }

  async #makeShard(dump: PlannedDump, number: number): Promise<void> {
    const { permit } = this.#options;
    const { digest } = dump;
    // This is checked before the cached session is freed for another one. Targets of links may have changed since.
    if (this.#cached?.digest === digest) await permit.checkOut(dump.request.out);
    else await permit.check(dump.request);
    const cached = this.#use(dump);
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
  #use(dump: PlannedDump): CachedSession {
    const { digest } = dump;
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
