// Records of jobs as Redis holds them. Anyone who may write to Redis may write anything into them, and BullMQ 6.7 takes
// them for its own. If it cannot parse a record, or its scripts cannot count the record's numbers, it takes the record
// up, locks it, drops it with an error, and takes it up again as soon as the lock has run out, for ever. Options in a
// record decide how often and when a job is tried, whether it is kept, and which other job, of any queue, is its
// parent. Therefore BullMQ gets only those fields of a record that are checked here and that sonde's jobs use. A record
// that fails a check is no job: it is taken out of the list of active jobs and counts as given up. The folder of a dump
// stays right all the same, as only the folder says what is done.
import { setTimeout as sleep } from 'node:timers/promises';
import type { BackendFactory, Job, Queue, RedisQueueBackend } from 'bullmq';
import { printable } from '../../files/text.js';
import { isObject } from '../format/schema.js';
import { longestField } from './job.js';
import { bullmq } from './packages.js';

/** No job is tried more often, and no pause before it is tried again is longer. */
export const mostAttempts = 100;
const longestPauseMilliseconds = 60_000;

/** Growing pauses, for `settings.backoffStrategy` of a worker. What a record says of pauses is ignored. */
export const pauseAfter = (attempts: number): number => Math.min(1000 * 2 ** attempts, longestPauseMilliseconds);

/** The pause in milliseconds before a job is tried again that another process is at. It looks each time for a second. */
export const pauseWhileWritten = 10_000;

/** The error of a record that cannot be a job of sonde's. */
export class BrokenRecord extends Error {
  readonly id: string;
  readonly what: string;

  constructor(id: string, what: string) {
    super(`the record of job ${printable(id, 64)} in Redis ${what}`);
    this.id = id;
    this.what = what;
  }
}

// Other ids may be keys of the queue itself, such as `meta`, or of another job, such as `x:lock`.
const idPattern = /^[\w-]{1,64}$/;

interface QueueKeys {
  /** `bull:QUEUE` */
  readonly queue: string;
  /** Whether a key of the queue itself has this name, so that no job may have it. */
  readonly isReserved: (id: string) => boolean;
}

const queueKeysOf = (backend: RedisQueueBackend): QueueKeys => ({
  queue: backend.qualifiedName,
  isReserved: (id) => Object.hasOwn(backend.keys, id),
});

const isJobId = (id: unknown, { isReserved }: QueueKeys): id is string =>
  typeof id === 'string' && idPattern.test(id) && !isReserved(id);

/** Those fields of a job's record that BullMQ may see. @throws BrokenRecord */
function checkedFields(id: string, record: Readonly<Record<string, unknown>>, keys: QueueKeys): Record<string, string> {
  const broken = (what: string) => new BrokenRecord(id, what);
  if (!isJobId(id, keys)) throw broken('has an id that no job has');
  for (const [name, value] of Object.entries(record)) {
    if (typeof value !== 'string') throw broken(`has a field ${printable(name, 64)} that is no text`);
    if (value.length > longestField) throw broken(`has a field ${printable(name, 64)} of ${value.length} letters`);
  }
  const { refused, name, data, opts, parent, parentKey, ...rest } = record as Partial<Record<string, string>>;
  if (refused !== undefined) throw broken(printable(refused));
  if (name === undefined || data === undefined) throw broken('lacks a name or data, or is gone');
  parsed(data, 'data', broken);
  const options = parsed(opts ?? '', 'opts', broken);
  if (!isObject(options)) throw broken('has opts that are no object');
  const { attempts = 1 } = options;
  if (!isCount(attempts)) throw broken('has opts.attempts that is no count');
  for (const counter of ['atm', 'ats', 'stc', 'priority']) {
    if (!/^\d{1,9}$/.test(rest[counter] ?? '0')) throw broken(`has a field ${counter} that is no count`);
  }
  for (const field of ['rjk', 'deid']) {
    if (rest[field] !== undefined) throw broken(`has a field ${field}, which no job of sonde's has`);
  }
  const fields: Record<string, string> = {
    ...{ name, data, opts: JSON.stringify({ attempts: Math.min(attempts, mostAttempts), backoff: { type: 'sonde' } }) },
    ...parentFields(parent, parentKey, keys, broken),
  };
  for (const field of ['atm', 'ats', 'stc', 'timestamp', 'processedOn', 'finishedOn', 'failedReason', 'defa']) {
    const value = rest[field];
    if (value !== undefined) fields[field] = value;
  }
  return fields;
}

// These two fields say which record is changed when a job ends: that of its parent.
function parentFields(
  parent: string | undefined,
  key: string | undefined,
  keys: QueueKeys,
  broken: (what: string) => Error,
) {
  if (parent === undefined && key === undefined) return {};
  const value = parsed(parent ?? '', 'parent', broken);
  const { id, queueKey, ...more } = isObject(value) ? value : {};
  const own = isJobId(id, keys) && queueKey === keys.queue && key === `${queueKey}:${id}`;
  if (!own || Object.keys(more).length > 0) throw broken('has a parent that is no job of this queue');
  return { parent: JSON.stringify({ id, queueKey }), parentKey: key };
}

function parsed(text: string, field: string, broken: (what: string) => Error): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw broken(`has ${field} that is no JSON`);
  }
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

function pairsOf(flat: unknown): Record<string, unknown> {
  const pairs: Record<string, unknown> = Object.create(null);
  if (Array.isArray(flat)) for (let i = 0; i + 1 < flat.length; i += 2) pairs[String(flat[i])] = flat[i + 1];
  return pairs;
}

// ---- the layer between BullMQ and Redis

// Takes an id out of the list of active jobs. If ARGV[5] says that the id may be a job's, its record is replaced by one
// that says why it is given up. A key may be of any type: pcall goes on where a command fails.
const refuseScript = `
local active, stalled, failed, job = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, now, what, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
redis.pcall('LREM', active, 0, id)
redis.pcall('SREM', stalled, id)
redis.pcall('DEL', job .. ':lock')
if ARGV[5] == '1' then
  redis.pcall('DEL', job)
  redis.pcall('HSET', job, 'refused', what, 'failedReason', reason, 'finishedOn', now, 'opts', '{}')
  redis.pcall('ZADD', failed, now, id)
end
return 1`;

// The id that a token has locked. It is that of a job that was being taken up when BullMQ's script failed.
const lockedScript = `
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, 999)) do
  if redis.pcall('GET', ARGV[1] .. id .. ':lock') == ARGV[2] then return id end
end
return false`;

// Takes ids without a record out of the list of jobs that are due to be tried again. BullMQ's script would take all
// that are due out of the list, then fail at such an id, and the others would be lost.
const dueScript = `
local missing = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2], 'LIMIT', 0, 1000)) do
  local fields = redis.pcall('HLEN', ARGV[1] .. id)
  if type(fields) ~= 'number' or fields == 0 then
    redis.call('ZREM', KEYS[1], id)
    table.insert(missing, id)
  end
end
return missing`;

// This script changes nothing, but it fails where a worker would.
const mayWorkScript = `
redis.call('LREM', KEYS[1], 0, '-')
redis.call('HDEL', KEYS[2], '-')
return 1`;

// The name of a job and the SHA-1 of its data, without sending the data. Redis does nothing else meanwhile, and each
// shard asks for this. So of long data, only the length and the time of planning count, which planning again changes.
const digestScript = `
local length = redis.pcall('HSTRLEN', KEYS[1], 'data')
if type(length) ~= 'number' or length == 0 then return false end
local name = redis.call('HGET', KEYS[1], 'name')
if length <= tonumber(ARGV[1]) then return {name, redis.sha1hex(redis.call('HGET', KEYS[1], 'data'))} end
return {name, length, redis.call('HGET', KEYS[1], 'timestamp')}`;

const scripts = {
  'sonde:mayWork': [mayWorkScript, 2],
  'sonde:refuse': [refuseScript, 4],
  'sonde:locked': [lockedScript, 1],
  'sonde:due': [dueScript, 1],
  'sonde:digest': [digestScript, 1],
} as const;

const prepared = new WeakSet<object>();

const run = async (
  backend: RedisQueueBackend,
  name: keyof typeof scripts,
  args: (string | number)[],
): Promise<unknown> => {
  const client = await backend.client;
  if (!prepared.has(client)) {
    for (const [each, [lua, numberOfKeys]] of Object.entries(scripts))
      client.defineCommand(each, { numberOfKeys, lua });
    prepared.add(client);
  }
  return client.runCommand(name, args);
};

async function refuse(backend: RedisQueueBackend, { id, what, message }: BrokenRecord): Promise<void> {
  const { active, stalled, failed } = backend.keys as Record<'active' | 'stalled' | 'failed', string>;
  const isJob = isJobId(id, queueKeysOf(backend));
  const args = [id, Date.now(), what, message, isJob ? '1' : '0'];
  await run(backend, 'sonde:refuse', [active, stalled, failed, backend.toKey(id), ...args]);
}

/** Rejects for a user who may not change the queue, and on a server where nobody may. */
export async function mayWork(queue: Queue): Promise<void> {
  const { active, meta } = queue.keys as Record<'active' | 'meta', string>;
  await run(queue.getBackend() as RedisQueueBackend, 'sonde:mayWork', [active, meta]);
}

const mostDigested = 2 ** 20; // a millisecond or two

/**
 * A digest of a job's name and data, by which a job that was read before is known again; undefined when there is none.
 * It says nothing of whether the job is valid. Of long data, it shows what planQueue changes, and not any other change.
 */
export async function digestOfJob(queue: Pick<Queue, 'getBackend'>, id: string): Promise<string | undefined> {
  const backend = queue.getBackend() as RedisQueueBackend;
  const found = await run(backend, 'sonde:digest', [backend.toKey(id), mostDigested]);
  return Array.isArray(found) ? found.join(' ') : undefined;
}

// When asking for a job fails, asking again would fail at once: the pause keeps a worker from asking all the time.
const pauseMilliseconds = 1000;
const mostRefused = 100;

/**
 * The backend for a Queue or a Worker, which reads no record unchecked. When a worker's backend takes a record out of
 * the queue, it calls `onRefused`. The getters of a queue throw a BrokenRecord.
 */
export async function checkedBackend(
  onRefused: (error: BrokenRecord) => void = () => {},
): Promise<BackendFactory<RedisQueueBackend>> {
  const { createRedisBackend, raw2NextJobData } = await bullmq();
  return (...args) => {
    const backend = createRedisBackend(...args);
    const { execCommand, moveToActive, moveToCompleted, moveToFailed, moveToDelayed } = backend;
    const keys = queueKeysOf(backend);
    const giveUp = async (error: BrokenRecord): Promise<void> => {
      await refuse(backend, error);
      onRefused(error);
    };

    backend.execCommand = (client, name, args) => {
      const result = execCommand.call(backend, client, name, args);
      return name === 'moveToActive' ? Promise.resolve(result).then(checkedNext) : result;
    };
    const checkedNext = (result: unknown): unknown => {
      const [record, id, ...delays] = Array.isArray(result) ? result : [];
      if (!record) return [0, 0, ...delays.map((delay) => (Number.isFinite(delay) ? delay : 0))];
      const fields = checkedFields(String(id), pairsOf(record), keys);
      return [Object.entries(fields).flat(), id, 0, 0];
    };

    backend.moveToActive = async (token, worker) => {
      const { delayed, active } = backend.keys as Record<'delayed' | 'active', string>;
      for (let i = 0; i < mostRefused; i++) {
        try {
          const missing = await run(backend, 'sonde:due', [delayed, backend.toKey(''), (Date.now() + 1000) * 0x1000]);
          for (const id of missing as string[]) await giveUp(new BrokenRecord(id, 'is no record of a job'));
          return await moveToActive.call(backend, token, worker);
        } catch (error) {
          if (error instanceof BrokenRecord) {
            await giveUp(error);
            continue;
          }
          const id = await run(backend, 'sonde:locked', [active, backend.toKey(''), token]).catch(() => null);
          if (typeof id === 'string') {
            await giveUp(
              new BrokenRecord(
                id,
                `is no record of a job (${printable((error as Error).message.replace(/ script: .*/s, ''), 100)})`,
              ),
            );
            continue;
          }
          await sleep(pauseMilliseconds);
          throw error;
        }
      }
      return []; // BullMQ checks now whether the worker has to stop
    };
    // The next job is asked for in a call of its own: an error of it must not be taken for one of the job that ends
    // here.
    backend.moveToCompleted = async (job, value, keep, token) => {
      const { finishedOn } = await moveToCompleted.call(backend, job as never, value, keep, token, false);
      return { finishedOn, result: undefined as never };
    };
    backend.moveToFailed = async (job, reason, keep, token, _fetchNext, fields) => {
      const { finishedOn } = await moveToFailed.call(backend, job as never, reason, keep, token, false, fields);
      return { finishedOn, result: undefined as never };
    };
    backend.moveToDelayed = async (id, timestamp, delay, token, options) => {
      await moveToDelayed.call(backend, id, timestamp, delay, token, { ...options, fetchNext: false });
    };

    backend.getJobData = async (id) => {
      const record = await (await backend.client).hgetall(backend.toKey(id));
      if (Object.keys(record).length === 0) return undefined;
      const fields = checkedFields(id, record, keys);
      return raw2NextJobData([Object.entries(fields).flat(), id])[0] as never;
    };
    return backend;
  };
}

// ---- jobs that were given up

export interface GivenUp {
  readonly id: string;
  /** Undefined when its record cannot be read. `broken` then says why. */
  readonly job?: Job;
  readonly broken?: string;
}

/** Jobs that were given up, the last ones first. */
export async function givenUp(queue: Queue, most = 10_000): Promise<GivenUp[]> {
  const backend = queue.getBackend() as RedisQueueBackend;
  const ids = ((await backend.getRanges(['failed'], 0, most - 1)) as unknown[][])[0] ?? [];
  const jobs: GivenUp[] = [];
  for (const id of ids.map(String)) {
    try {
      const job = await queue.getJob(id);
      jobs.push(job ? { id, job } : { id, broken: new BrokenRecord(id, 'is gone').message });
    } catch (error) {
      if (!(error instanceof BrokenRecord) && !/WRONGTYPE/.test((error as Error).message)) throw error;
      jobs.push({
        id,
        broken: error instanceof BrokenRecord ? error.message : new BrokenRecord(id, 'is none').message,
      });
    }
  }
  return jobs;
}

/** The states of jobs that are in a queue, whatever becomes of them. */
const states = ['waiting', 'active', 'delayed', 'completed', 'failed', 'paused', 'prioritized', 'waiting-children'];

/** The ids of all jobs. One that goes from one state to another meanwhile may be missing. */
export async function idsIn(queue: Queue): Promise<Set<string>> {
  const ranges = (await (queue.getBackend() as RedisQueueBackend).getRanges(states as never, 0, -1)) as unknown[];
  return new Set(ranges.flat().map(String));
}

/**
 * How many jobs a worker can take up now or soon. A job that is to wait longer than any pause of sonde's does not
 * count.
 */
export async function unfinishedIn(queue: Queue): Promise<number> {
  const soon = Date.now() + 10 * longestPauseMilliseconds;
  const [now, delayed] = await Promise.all([
    queue.getJobCountByTypes('waiting', 'active', 'prioritized'),
    queue.getDelayedCount(soon),
  ]);
  return now + delayed;
}
