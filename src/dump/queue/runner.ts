// Runs the jobs of a queue, one after the other or two at a time, with what they need loaded: the model and autoencoders
// of a dump stay as long as jobs of that dump come, also when some of them fail.
import { createHash } from 'node:crypto';
import type { Job, Worker } from 'bullmq';
import type { Device } from '../../engine/device.js';
import { quietly } from '../corpus/read_ahead.js';
import { mergeDumps } from '../shards/merge.js';
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

/** A dump's session, and how many jobs use it. */
interface Loaded {
  /** Tells a dump from another one, also of one that was planned for the same folder before. */
  readonly dump: string;
  readonly session: Promise<ShardSession>;
  users: number;
}

export class JobRunner {
  readonly #options: RunnerOptions;
  #loaded: Loaded | undefined;

  constructor(options: RunnerOptions) {
    this.#options = options;
  }

  /** @throws BadJob for a job that no worker takes, NotAllowed for one that this worker does not. */
  async run({ name, data }: Job, worker: Worker): Promise<void> {
    const { permit } = this.#options;
    if (name === 'merge') {
      const { request } = readJob(name, data, this.#options);
      await permit.check(request);
      await mergeDumps(request.out);
    } else if (name === 'shard') {
      const { dump: id, number } = readJob(name, data, this.#options);
      const dump = await this.#planned(id, worker);
      if (number >= dump.count) {
        throw new BadJob(`queue: the job's number must be below the count of shards, ${dump.count}, but is ${number}`);
      }
      await this.#make(dump, number);
    } else {
      throw new BadJob("queue: the job's name must be shard or merge, but is another");
    }
  }

  /** What the job of the merge says of its dump. */
  async #planned(id: string, worker: Worker): Promise<ShardedDump> {
    const { Job } = await bullmq();
    const job = await Job.fromId(worker, id).catch((cause) => {
      if (!(cause instanceof BrokenRecord)) throw cause;
      throw new BadJob(`queue: the job's dump: ${cause.message}`, { cause });
    });
    if (job?.name === 'merge') return readJob('merge', job.data, this.#options);
    throw new BadJob(`queue: the job's dump, ${id}, is not in the queue any more`);
  }

  async #make(dump: ShardedDump, number: number): Promise<void> {
    const { permit } = this.#options;
    const digest = createHash('sha256').update(JSON.stringify(dump)).digest('hex');
    // Before anything that is loaded makes room. What links lead to may have changed since.
    if (this.#loaded?.dump === digest) await permit.checkOut(dump.request.out);
    else await permit.check(dump.request);
    const loaded = this.#loadedFor(dump, digest);
    try {
      const session = await loaded.session.catch((error) => {
        if (this.#loaded === loaded) this.#loaded = undefined; // it is tried again for the next job
        throw error;
      });
      await session.make(number);
    } finally {
      loaded.users--;
      if (this.#loaded !== loaded) await free(loaded);
    }
  }

  /** With one user more. */
  #loadedFor(dump: ShardedDump, digest: string): Loaded {
    const before = this.#loaded;
    if (before?.dump !== digest) {
      const session = quietly(this.#open(dump, before));
      this.#loaded = { dump: digest, session, users: 0 };
    }
    const loaded = this.#loaded as Loaded;
    loaded.users++;
    return loaded;
  }

  async #open(dump: ShardedDump, before: Loaded | undefined): Promise<ShardSession> {
    if (before) await free(before); // first, unless it is in use
    return ShardSession.open(dump, this.#options);
  }

  async close(): Promise<void> {
    if (this.#loaded) await free(this.#loaded);
  }
}

/** Frees what is loaded, unless it is in use: then its last user does. */
async function free({ session, users }: Loaded): Promise<void> {
  if (users === 0) await (await session.catch(() => undefined))?.close();
}
