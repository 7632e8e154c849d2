// Dumps by a queue: BullMQ on Redis or Valkey. Each shard is a job, and the merge of all is their parent, which waits for
// them. The queue only says who does what: what is done, the folder tells, so a job may run twice, or again after Redis
// has forgotten everything, and nothing is lost or made twice.
import { createHash } from 'node:crypto';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Job, Worker } from 'bullmq';
import type { Device } from '../engine/device.js';
import { isBlobUrl } from '../files/blob_address.js';
import type { CorpusFile } from './corpus.js';
import { mergeDumps } from './merge.js';
import type { DumpOptions } from './options.js';
import { checkByName } from './prepare.js';
import { printable } from './printable.js';
import { once, patient, type QueueOptions, Troubles, withQueue } from './queue_connection.js';
import { bullmq } from './queue_packages.js';
import { checkedBackend, givenUp, mayWork, pauseAfter, unfinishedIn } from './queue_records.js';
import { quietly } from './read_ahead.js';
import { isComplete, planShards, type ShardedDump, ShardSession } from './shard_session.js';

export type { QueueOptions };

type QueuedRequest = ShardedDump['request'] & { readonly corpus: CorpusFile | CorpusFile[] };

interface ShardJob {
  readonly dump: string;
  readonly number: number;
}

type QueueJob = Job<ShardJob | ShardedDump>;

const mergeJob = 'merge';
const shardJob = 'shard';

// A shard's job fails for good after so many attempts, with growing pauses of seconds in between.
const pauses = { type: 'exponential', delay: 2000 } as const;

// ---- plan

export interface PlanResult {
  readonly shards: number;
  /** `queued` and `complete`: it was there before, in the queue or in the folder. */
  readonly state: 'added' | 'queued' | 'complete';
}

/**
 * Puts a dump into the queue, shard by shard. Files and the folder must be at the same place on every machine that works
 * on it. The same dump again changes nothing while it is in the queue.
 */
export async function planQueue(
  options: DumpOptions & { readonly corpus: CorpusFile | CorpusFile[] },
  queue: QueueOptions & { readonly attempts: number },
): Promise<PlanResult> {
  checkByName(options, 'workers of a queue');
  const { signal, ...request } = options;
  const plain: QueuedRequest = {
    ...request,
    out: isBlobUrl(request.out) ? request.out : resolve(request.out),
    corpus: absolute(request.corpus),
  };
  return withQueue(queue, async (there) => {
    const id = idOf(plain.out);
    const state = await there.getJobState(id);
    const before = state === 'unknown' ? undefined : ((await there.getJob(id))?.data as ShardedDump | undefined);
    if (before && state !== 'completed') return { shards: before.count, state: 'queued' };
    const dump = await planShards(plain, signal);
    if (await isComplete(dump)) return { shards: dump.count, state: 'complete' };
    if (before) await there.remove(id, { removeChildren: true });
    await addJobs(queue, id, dump);
    return { shards: dump.count, state: 'added' };
  });
}

async function addJobs(
  { redis, name, attempts }: QueueOptions & { attempts: number },
  id: string,
  dump: ShardedDump,
): Promise<void> {
  const { FlowProducer } = await bullmq();
  const flow = new FlowProducer({ connection: once(redis) });
  flow.on('error', () => {}); // the call below rejects
  try {
    const retried = { attempts, backoff: pauses };
    await flow.add({
      ...{ name: mergeJob, queueName: name, data: dump, opts: { jobId: id, ...retried } },
      children: Array.from({ length: dump.count }, (_, number) => ({
        ...{ name: shardJob, queueName: name, data: { dump: id, number } },
        opts: { jobId: `${id}-${number}`, ...retried },
      })),
    });
  } finally {
    await flow.close().catch(() => {});
  }
}

/** One dump for a folder. */
const idOf = (out: string): string => createHash('sha256').update(out).digest('hex').slice(0, 16);

function absolute(corpus: CorpusFile | CorpusFile[]): CorpusFile[] {
  return (Array.isArray(corpus) ? corpus : [corpus]).map((file) => {
    const path = typeof file === 'string' ? file : file.path;
    if (path === '-') throw new TypeError('queue: standard input is on one machine only: give a file');
    return typeof file === 'string' ? resolve(file) : { ...file, path: resolve(path) };
  });
}

// ---- work

export type WorkEvent =
  | { readonly kind: 'done'; readonly what: string; readonly seconds: number }
  | { readonly kind: 'failed'; readonly what: string; readonly reason: string; readonly final: boolean }
  | { readonly kind: 'connection'; readonly reason: string };

export interface WorkOptions extends QueueOptions {
  readonly device: Device;
  /** Ends when nothing is left to do, instead of waiting for more. */
  readonly untilDone?: boolean;
  /** After so many seconds without a sign of life of its worker, a job is another's; 30 when left out. */
  readonly lockSeconds?: number;
  readonly onEvent: (event: WorkEvent) => void;
  /** Gives the jobs under way back to the queue and ends. */
  readonly signal: AbortSignal;
}

/** Works on the jobs of a queue until there are no more, or until it is told to stop. */
export async function workQueue(options: WorkOptions): Promise<void> {
  const { Worker, WaitingError } = await bullmq();
  const { redis, name, lockSeconds = 30, signal, onEvent } = options;
  await withQueue(options, mayWork); // says at once when there is no server, or no right to work
  const shop = new Workshop(options);
  const begun = new Map<string, number>();
  const worker: Worker = new Worker(
    name,
    async (job: QueueJob, token?: string) => {
      begun.set(job.id as string, performance.now());
      try {
        await shop.run(job, worker);
      } catch (error) {
        if (!signal.aborted) throw error;
        await job.moveToWait(token);
        throw new WaitingError();
      }
    },
    {
      connection: patient(redis),
      concurrency: 2, // while one shard is hashed and synced, the next one is computed
      lockDuration: lockSeconds * 1000,
      stalledInterval: lockSeconds * 1000,
      maxStalledCount: 1000, // a lost worker says nothing about its shard
      settings: { backoffStrategy: pauseAfter },
    },
    await checkedBackend(({ id, message }) => {
      onEvent({ kind: 'failed', what: `job ${printable(id, 64)}`, reason: message, final: true });
    }),
  );
  worker.on('completed', (job) => {
    const seconds = (performance.now() - (begun.get(job.id as string) ?? performance.now())) / 1000;
    onEvent({ kind: 'done', what: nameOf(job), seconds });
  });
  worker.on('failed', (job, error) => {
    if (!job) return;
    const final = job.attemptsMade >= (job.opts.attempts ?? 1);
    onEvent({ kind: 'failed', what: nameOf(job), reason: error.message, final });
  });
  const troubles = new Troubles(redis, (reason) => {
    if (!signal.aborted) onEvent({ kind: 'connection', reason });
  });
  worker.on('error', (error) => troubles.on(error));
  worker.on('active', () => troubles.well());
  try {
    await (options.untilDone ? untilEmpty(options) : aborted(signal));
  } finally {
    await worker.close();
    await shop.close();
  }
}

const nameOf = ({ name, data }: QueueJob): string =>
  name === mergeJob ? `merge of ${(data as ShardedDump).request.out}` : `shard ${(data as ShardJob).number}`;

/** A dump's model and autoencoders, loaded, and how many jobs use them. */
interface Bench {
  readonly dump: string;
  readonly session: Promise<ShardSession>;
  users: number;
}

/** What is loaded stays as long as jobs of its dump come and nothing fails. */
class Workshop {
  readonly #options: WorkOptions;
  #bench: Bench | undefined;

  constructor(options: WorkOptions) {
    this.#options = options;
  }

  async run({ name, data }: QueueJob, worker: Worker): Promise<void> {
    if (name === mergeJob) {
      await mergeDumps((data as ShardedDump).request.out);
      return;
    }
    const { dump, number } = data as ShardJob;
    const bench = await this.#benchFor(dump, worker);
    bench.users++;
    try {
      await (await bench.session).make(number);
    } catch (error) {
      if (this.#bench === bench) this.#bench = undefined; // what failed may be broken: the next job begins anew
      throw error;
    } finally {
      bench.users--;
      if (this.#bench !== bench) await clear(bench);
    }
  }

  async #benchFor(dump: string, worker: Worker): Promise<Bench> {
    const before = this.#bench;
    if (before?.dump === dump) return before;
    this.#bench = { dump, session: quietly(this.#open(dump, worker)), users: 0 };
    const bench = this.#bench;
    if (before) await clear(before);
    return bench;
  }

  async #open(dump: string, worker: Worker): Promise<ShardSession> {
    const { Job } = await bullmq();
    const plan = await Job.fromId<ShardedDump>(worker, dump);
    if (!plan) throw new Error(`queue: the dump ${dump} is not in the queue any more`);
    return ShardSession.open(plan.data, this.#options);
  }

  async close(): Promise<void> {
    if (this.#bench) await clear(this.#bench);
  }
}

/** Frees what is loaded, unless it is in use: then its last user does. */
async function clear({ session, users }: Bench): Promise<void> {
  if (users === 0) await (await session.catch(() => undefined))?.close();
}

const pollMilliseconds = 500;

async function untilEmpty({ signal, ...queue }: WorkOptions): Promise<void> {
  while (!signal.aborted) {
    const left = await withQueue(queue, unfinishedIn).catch(() => 1); // without a connection nobody knows
    if (left === 0) return;
    await sleep(pollMilliseconds, undefined, { signal }).catch(() => {}); // aborted
  }
}

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });

// ---- status

export interface FailedJob {
  readonly what: string;
  readonly out: string;
  readonly attempts: number;
  readonly reason: string;
}

export interface QueueStatus {
  /** Jobs by what they are at: shards, and the merge of each dump, which waits for them. */
  readonly waiting: number;
  readonly active: number;
  readonly retrying: number;
  readonly done: number;
  readonly merging: number;
  /** Those that are given up. */
  readonly failed: readonly FailedJob[];
}

/** With `retry`, those that were given up are tried again. */
export function queueStatus(queue: QueueOptions, retry = false): Promise<QueueStatus> {
  return withQueue(queue, async (there) => {
    if (retry) for (const { job } of await givenUp(there)) await job?.retry('failed', { resetAttemptsMade: true });
    const counts = await there.getJobCounts('waiting', 'active', 'delayed', 'completed', 'waiting-children');
    const failed: FailedJob[] = [];
    for (const { id, broken, job } of await givenUp(there)) {
      if (!job) {
        failed.push({
          what: `job ${printable(id, 64)}`,
          out: 'a dump that is not known',
          attempts: 0,
          reason: broken ?? '',
        });
        continue;
      }
      const plan =
        job.name === mergeJob
          ? job
          : ((await there.getJob((job.data as ShardJob).dump).catch(() => undefined)) as QueueJob);
      const out = (plan?.data as ShardedDump | undefined)?.request.out ?? 'a dump that is not in the queue any more';
      failed.push({ what: nameOf(job), out, attempts: job.attemptsMade, reason: job.failedReason });
    }
    return {
      waiting: counts.waiting ?? 0,
      active: counts.active ?? 0,
      retrying: counts.delayed ?? 0,
      done: counts.completed ?? 0,
      merging: counts['waiting-children'] ?? 0,
      failed,
    };
  });
}
