// Dumps through a queue: BullMQ on Redis or Valkey. Each shard is a job, and the merge of all is their parent, which
// waits for them. The queue only says which worker makes which shard. The dump's folder says what is done, so a job may
// run twice, or again after Redis has forgotten everything, and nothing is lost or made twice. What comes from the
// queue is trusted as little as what comes from a folder: see job.ts and allowances.ts.
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Job, Queue, Worker } from 'bullmq';
import {
  checkBoolean,
  checkCallback,
  checkInteger,
  checkOptions,
  checkSignal,
  type OptionNames,
  wrong,
} from '../../engine/check.js';
import { checkDevice, type Device } from '../../engine/device.js';
import { isBlobUrl } from '../../files/blob/blob_address.js';
import { printable } from '../../files/text.js';
import { type CorpusFile, checkedFile } from '../corpus/corpus.js';
import { forEachAtOnce } from '../format/disk.js';
import { NonFiniteError } from '../format/non_finite.js';
import { BeingWritten, OtherArithmetic } from '../shards/folder.js';
import { type MergeResult, MixedArithmetics } from '../shards/merge.js';
import type { DumpOptions } from '../shards/options.js';
import { checkByName, checkRequest, NoGradients } from '../shards/prepare.js';
import { isComplete, planShards, type ShardedDump, type ShardedRequest } from '../workers/shard_session.js';
import { type Allowances, allowanceNames, NotAllowed, Permit } from './allowances.js';
import {
  type QueueOptions as Connection,
  ConnectionErrors,
  checkConnection,
  connectionNames,
  withoutRetries,
  withQueue,
  withRetries,
} from './connection.js';
import { BadJob, idOf, type JobOrigin, jobData, plainRequest, readJob, type SigningKey } from './job.js';
import { bullmq } from './packages.js';
import {
  BrokenRecord,
  checkedBackend,
  givenUp,
  idsIn,
  mayWork,
  mostAttempts,
  pauseAfter,
  pauseWhileWritten,
  unfinishedIn,
} from './records.js';
import { JobRunner } from './runner.js';

export interface QueueOptions extends Connection {
  /**
   * A secret that jobs are signed with (HMAC-SHA-256) when they are planned. A worker with a key takes no job without a
   * right signature. 32 random bytes are a good key.
   */
  readonly key?: SigningKey;
}

const queueNames: OptionNames<QueueOptions> = { ...connectionNames, key: true };

function checkQueue(operation: string, queue: QueueOptions): void {
  checkConnection(operation, queue);
  checkKey(queue);
}

/** An empty key is refused: it would protect nothing. */
function checkKey({ key }: QueueOptions): void {
  if (key === undefined || ((typeof key === 'string' || key instanceof Uint8Array) && key.length > 0)) return;
  throw new TypeError('queue: key must be text or a Uint8Array, and not empty; without one, leave it out');
}

// ---- plan

export interface PlanResult {
  readonly shards: number;
  /** `added` by this call, or there before: `queued` in the queue, or `complete` in the folder. */
  readonly state: 'added' | 'queued' | 'complete';
  /**
   * The options that workers need if they are started in the same folder as this process: `--allow-out /data/dumps`.
   */
  readonly workerOptions: readonly string[];
}

export interface PlanOptions extends QueueOptions {
  /**
   * How often a shard is tried before it is given up, with growing pauses in between: 1 to 100 times. Waiting for
   * another process, which makes the shard at that time, does not count.
   */
  readonly attempts: number;
}

/**
 * Puts a dump into the queue, shard by shard. Files and the folder must have the same path on every machine that works
 * on it. A dump that is in the queue already is not changed, but shards that are missing there are added again.
 * @throws Error when the folder holds another dump, or when the queue has another dump for it; TypeError for options
 *   that cannot be given to another process.
 */
export async function planQueue(
  options: DumpOptions & { readonly corpus: CorpusFile | CorpusFile[] },
  queue: PlanOptions,
): Promise<PlanResult> {
  checkRequest('planQueue', options);
  checkOptions('planQueue', queue, { ...queueNames, attempts: true }, 'queue');
  checkInteger('queue', 'attempts', queue.attempts, 1, mostAttempts);
  checkQueue('planQueue', queue);
  const request = requestOf(options);
  const workerOptions = await optionsFor(request);
  return withQueue(queue, async (bullQueue) => {
    const id = idOf(request.out);
    const before = await plannedBefore(bullQueue, request.out, queue);
    // The merge begins when the queue has finished all shards. Where it was given up, shards that the folder lacks are
    // made again.
    if (before && before.state !== 'completed' && before.state !== 'failed') {
      const dump = await allowed(before, request, queue);
      checkSameRequest(dump.request, request);
      await restoreShards(bullQueue, id, dump, queue);
      return { shards: dump.count, state: 'queued', workerOptions };
    }
    const dump = await planShards(request, options);
    if (await isComplete(dump)) return { shards: dump.count, state: 'complete', workerOptions };
    await bullQueue.remove(id, { removeChildren: true }); // the job there is done, or no worker would take it
    await addJobs(queue, id, dump);
    return { shards: dump.count, state: 'added', workerOptions };
  });
}

function requestOf(options: DumpOptions): ShardedRequest {
  checkByName(options, 'workers of a queue');
  const { shard, workers, device, signal, onFetch, onProgress, ...plain } = options;
  if (shard !== undefined || workers !== undefined) {
    throw new TypeError('queue: shard and workers are for dump(): the workers of a queue share all of the work');
  }
  const { out, corpus, locations } = plain;
  return plainRequest({
    ...(plain as Omit<ShardedRequest, 'out' | 'corpus' | 'locations'>), // models are given by name: checkByName
    out: isBlobUrl(out) ? out.replace(/\/+$/, '') : resolve(out),
    corpus: absolute(corpus as CorpusFile | CorpusFile[]),
    locations: Array.isArray(locations) ? locations : [locations],
  });
}

function absolute(corpus: CorpusFile | CorpusFile[]): CorpusFile[] {
  return (Array.isArray(corpus) ? corpus : [corpus]).map((file, i) => {
    const { path } = checkedFile('planQueue', file, i);
    if (path === '-') throw new TypeError('queue: standard input is on one machine only: give a file');
    return typeof file === 'string' ? resolve(file) : { ...file, path: resolve(path) };
  });
}

/** The options without which a worker that is started here would refuse the request. */
async function optionsFor(request: ShardedRequest): Promise<string[]> {
  const refusals = await new Permit().refusals(request);
  return [...new Set(refusals.map(({ option }) => option))];
}

interface PlannedBefore {
  readonly job: Job;
  readonly dump: ShardedDump;
  readonly state: string;
}

/** The dump that the queue has for a folder. It is undefined as well when no worker would take the job. */
async function plannedBefore(bullQueue: Queue, out: string, queue: QueueOptions): Promise<PlannedBefore | undefined> {
  const id = idOf(out);
  const state = await bullQueue.getJobState(id);
  if (state === 'unknown') return undefined;
  try {
    const job = await bullQueue.getJob(id);
    const dump = job && job.name === 'merge' ? readJob('merge', job.data, queue) : undefined;
    return job && dump?.request.out === out ? { job, dump, state } : undefined;
  } catch (error) {
    if (error instanceof BadJob || error instanceof BrokenRecord) return undefined;
    throw error;
  }
}

/** The planned dump; when it is asked for with any arithmetic now, it goes on with that. */
async function allowed({ job, dump }: PlannedBefore, asked: ShardedRequest, queue: QueueOptions): Promise<ShardedDump> {
  if (!asked.anyArithmetic || dump.request.anyArithmetic) return dump;
  checkSameRequest({ ...dump.request, anyArithmetic: true }, { ...asked, anyArithmetic: true });
  const changed = { ...dump, request: { ...dump.request, anyArithmetic: true } };
  await job.updateData(jobData('merge', changed, queue));
  return changed;
}

function checkSameRequest(planned: ShardedRequest, asked: ShardedRequest): void {
  const names = Object.keys({ ...planned, ...asked }) as (keyof ShardedRequest)[];
  const other = names.find((name) => JSON.stringify(planned[name]) !== JSON.stringify(asked[name]));
  if (other === undefined) return;
  const [before, requested] = [planned, asked].map((request) =>
    printable(JSON.stringify(request[other]) ?? 'the default'),
  );
  throw new Error(
    `queue: ${asked.out} is in the queue already with another ${other}: ${before}, and not ${requested}. ` +
      'Wait until it is done, or choose another folder',
  );
}

/** Adds the jobs of shards that somebody has removed from the queue, or has made into something else. */
async function restoreShards(bullQueue: Queue, id: string, { count }: ShardedDump, queue: PlanOptions): Promise<void> {
  const parent = { id, queue: bullQueue.qualifiedName };
  for (const { id: child, job } of await givenUp(bullQueue)) {
    if (child.startsWith(`${id}-`) && !isShardJob(job, id, queue)) await bullQueue.remove(child);
  }
  // Asking for the state of one job takes time that grows with the number of jobs.
  const there = await idsIn(bullQueue);
  const lacking = Array.from({ length: count }, (_, number) => number).filter(
    (number) => !there.has(`${id}-${number}`),
  );
  await forEachAtOnce(lacking, async (number) => {
    const { jobId, data } = shardJobOf(id, number, queue);
    if ((await bullQueue.getJobState(jobId)) !== 'unknown') return;
    await bullQueue.add('shard', data, { jobId, attempts: queue.attempts, parent });
  });
}

/** Whether a job is still the shard that was planned under its id. */
function isShardJob(job: Job | undefined, dump: string, origin: JobOrigin): boolean {
  if (job?.name !== 'shard') return false;
  try {
    const { dump: of, number } = readJob('shard', job.data, origin);
    return of === dump && job.id === `${dump}-${number}`;
  } catch {
    return false;
  }
}

const shardJobOf = (dump: string, number: number, origin: JobOrigin) => ({
  jobId: `${dump}-${number}`,
  data: jobData('shard', { dump, number }, origin),
});

async function addJobs(queue: PlanOptions, id: string, dump: ShardedDump): Promise<void> {
  const { FlowProducer } = await bullmq();
  const { redis, name, attempts } = queue;
  const plan = jobData('merge', dump, queue);
  const flow = new FlowProducer({ connection: withoutRetries(redis) });
  flow.on('error', () => {}); // the call below rejects
  try {
    await flow.add({
      ...{ name: 'merge', queueName: name, data: plan, opts: { jobId: id, attempts } },
      children: Array.from({ length: dump.count }, (_, number) => {
        const { jobId, data } = shardJobOf(id, number, queue);
        return { name: 'shard', queueName: name, data, opts: { jobId, attempts } };
      }),
    });
  } finally {
    await flow.close().catch(() => {});
  }
}

// ---- work

export type WorkEvent =
  /** `merged`: the dump that is complete now. */
  | { readonly kind: 'done'; readonly what: string; readonly seconds: number; readonly merged?: MergeResult }
  /** Unless it is final, the job is tried again. */
  | { readonly kind: 'failed'; readonly what: string; readonly reason: string; readonly final: boolean }
  | { readonly kind: 'connection'; readonly reason: string };

export interface WorkOptions extends QueueOptions {
  readonly device: Device;
  /** The folders, files and models that jobs may ask for. */
  readonly allow?: Allowances;
  /** The worker ends when nothing is left to do, instead of waiting for more. */
  readonly untilDone?: boolean;
  /** After so many seconds without a sign of life from its worker, a job is given to another one; 30 when left out. */
  readonly lockSeconds?: number;
  readonly onEvent: (event: WorkEvent) => void;
  /** When it aborts, the worker gives the jobs under way back to the queue and ends. */
  readonly signal: AbortSignal;
}

const workNames: OptionNames<WorkOptions> = {
  ...queueNames,
  ...{ device: true, allow: true, untilDone: true, lockSeconds: true, onEvent: true, signal: true },
};

/**
 * Works on the jobs of a queue until the signal aborts or, with `untilDone`, until there are no more. A job fails for
 * good if `planQueue` cannot have made it, if its signature is missing or wrong, if it asks for what is not allowed, or
 * if a value must be finite and is not.
 * @throws Error when a shard of a dump is to be made that was begun with another arithmetic, unless the dump is planned
 *   with `anyArithmetic`: the job goes back to the queue, and the worker ends.
 */
export async function workQueue(options: WorkOptions): Promise<void> {
  checkWork(options);
  const { Worker, DelayedError, WaitingError, UnrecoverableError } = await bullmq();
  const { redis, name, lockSeconds = 30, onEvent } = options;
  const refused = new AbortController(); // this worker cannot go on
  const signal = AbortSignal.any([options.signal, refused.signal]);
  const runner = new JobRunner({ ...options, signal, permit: new Permit(options.allow) });
  await withQueue(options, mayWork); // fails at once when there is no server, or no right to work
  const begun = new Map<string, number>();
  const merged = new Map<string, MergeResult>();
  const worker: Worker = new Worker(
    name,
    async (job: Job, token?: string) => {
      begun.set(job.id as string, performance.now());
      try {
        const result = await runner.run(job, worker);
        if (result) merged.set(job.id as string, result);
      } catch (error) {
        if (isFinal(error)) throw new UnrecoverableError(error.message);
        // The job is another worker's. This one would take it again and again, and keep it from the others.
        if (error instanceof OtherArithmetic || error instanceof NoGradients)
          refused.abort(otherWorker(nameOf(job), error));
        if (signal.aborted) {
          await job.moveToWait(token);
          throw new WaitingError();
        }
        if (!(error instanceof BeingWritten)) throw error;
        // A living worker has the shard. That is no fault of the shard, so it does not count as an attempt.
        await job.moveToDelayed(Date.now() + pauseWhileWritten, token);
        onEvent({ kind: 'failed', what: nameOf(job), reason: error.message, final: false });
        throw new DelayedError();
      }
    },
    {
      connection: withRetries(redis),
      concurrency: 2, // while one shard is hashed and synced, the next one is computed
      lockDuration: lockSeconds * 1000,
      stalledInterval: lockSeconds * 1000,
      maxStalledCount: 1000, // that a worker was lost is not the fault of its shard
      settings: { backoffStrategy: pauseAfter },
    },
    await checkedBackend(({ id, message }) => {
      onEvent({ kind: 'failed', what: `job ${printable(id, 64)}`, reason: message, final: true });
    }),
  );
  worker.on('completed', (job) => {
    const seconds = (performance.now() - (begun.get(job.id as string) ?? performance.now())) / 1000;
    const result = merged.get(job.id as string);
    merged.delete(job.id as string);
    onEvent({ kind: 'done', what: nameOf(job), seconds, ...(result && { merged: result }) });
  });
  worker.on('failed', (job, error) => {
    if (!job) return;
    const final = error instanceof UnrecoverableError || job.attemptsMade >= (job.opts.attempts ?? 1);
    onEvent({ kind: 'failed', what: nameOf(job), reason: error.message, final });
  });
  const errors = new ConnectionErrors(redis, (reason) => {
    if (!signal.aborted) onEvent({ kind: 'connection', reason });
  });
  worker.on('error', (error) => errors.add(error));
  worker.on('active', () => errors.recovered());
  try {
    await (options.untilDone ? untilEmpty(options, signal) : aborted(signal));
  } finally {
    await worker.close();
    await runner.close();
  }
  refused.signal.throwIfAborted();
}

const otherWorker = (what: string, { message, cause }: Error): Error =>
  new Error(`queue: ${what} is in the queue again, for a worker that can make it, and this worker ends: ${message}`, {
    cause,
  });

function checkWork(options: WorkOptions): void {
  checkOptions('workQueue', options, workNames);
  checkQueue('workQueue', options);
  const { device, allow, untilDone, lockSeconds, onEvent, signal } = options;
  if (device === undefined) throw new TypeError(wrong('workQueue', 'device', 'a device', 'undefined'));
  checkDevice('workQueue', device);
  if (allow !== undefined) checkOptions('workQueue', allow, allowanceNames, 'allow');
  checkBoolean('workQueue', 'untilDone', untilDone);
  if (lockSeconds !== undefined) checkInteger('workQueue', 'lockSeconds', lockSeconds, 1, 86_400);
  if (onEvent === undefined) throw new TypeError(wrong('workQueue', 'onEvent', 'a function', 'undefined'));
  checkCallback('workQueue', 'onEvent', onEvent);
  if (signal === undefined) throw new TypeError(wrong('workQueue', 'signal', 'an AbortSignal', 'undefined'));
  checkSignal('workQueue', signal);
}

/** Whether trying a job again changes nothing. */
const isFinal = (error: unknown): error is Error =>
  [BadJob, NotAllowed, NonFiniteError, MixedArithmetics].some((final) => error instanceof final);

/** For messages about jobs, whose signatures do not matter. */
const anyOrigin = { name: '' };

/** The name of a job in messages, by its payload if that can be read. */
function nameOf(job: Job): string {
  try {
    if (job.name === 'shard') return `shard ${readJob('shard', job.data, anyOrigin).number}`;
    if (job.name === 'merge') return `merge of ${readJob('merge', job.data, anyOrigin).request.out}`;
  } catch {
    // the error is reported where the job is refused
  }
  return `job ${printable(job.id ?? '', 64)}`;
}

const pollMilliseconds = 500;

async function untilEmpty(queue: WorkOptions, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const left = await withQueue(queue, unfinishedIn).catch(() => 1); // without a connection it is not known
    if (left === 0) return;
    await sleep(pollMilliseconds, undefined, { signal }).catch(() => {}); // it was aborted
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
  /** How many jobs are in each state. A job is a shard, or the merge of a dump, which waits for its shards. */
  readonly waiting: number;
  readonly active: number;
  /** Jobs that come again after a pause: they have failed, or another process was at them. */
  readonly retrying: number;
  readonly done: number;
  readonly merging: number;
  /** The jobs that were given up. */
  readonly failed: readonly FailedJob[];
}

/** With `retry`, jobs that were given up are tried again. */
export async function queueStatus(queue: QueueOptions, retry = false): Promise<QueueStatus> {
  checkOptions('queueStatus', queue, queueNames, 'queue');
  checkQueue('queueStatus', queue);
  checkBoolean('queueStatus', 'retry', retry);
  return withQueue(queue, async (bullQueue) => {
    if (retry) for (const { job } of await givenUp(bullQueue)) await job?.retry('failed', { resetAttemptsMade: true });
    const counts = await bullQueue.getJobCounts('waiting', 'active', 'delayed', 'completed', 'waiting-children');
    const failed: FailedJob[] = [];
    const folders = new Map<string, string | undefined>();
    for (const { id, broken = '', job } of await givenUp(bullQueue)) {
      const out = job && (await outOf(bullQueue, job, folders));
      const [what, reason] = job ? [nameOf(job), job.failedReason ?? 'unknown'] : [`job ${printable(id, 64)}`, broken];
      failed.push({ what, out: out ?? 'a dump that is not in the queue', attempts: job?.attemptsMade ?? 0, reason });
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

/** The folder that a job is for, as far as the queue says. `folders` has those of dumps that were looked up before. */
async function outOf(
  bullQueue: Queue,
  { name, data }: Job,
  folders: Map<string, string | undefined>,
): Promise<string | undefined> {
  try {
    if (name === 'merge') return readJob('merge', data, anyOrigin).request.out;
    const { dump } = readJob('shard', data, anyOrigin);
    if (!folders.has(dump)) {
      folders.set(dump, undefined); // as it stays when the dump cannot be read
      const merge = await bullQueue.getJob(dump);
      folders.set(dump, merge && readJob('merge', merge.data, anyOrigin).request.out);
    }
    return folders.get(dump);
  } catch (error) {
    if (error instanceof BadJob || error instanceof BrokenRecord) return undefined;
    throw error;
  }
}
