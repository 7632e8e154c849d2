// Records of jobs as Redis holds them. Whoever may write to Redis may write anything into them, and BullMQ 6.7 takes them for
// its own: a record that it cannot parse, or whose numbers its scripts cannot count, it takes up, locks, drops with an
// error, and takes up again as soon as the lock has run out, for ever; options in it decide how often and when a job is
// tried, whether it is kept, and which other job, of whichever queue, is its parent. So nothing of a record gets to BullMQ
// but what is checked here and what sonde's jobs use. A record that fails a check is no job: it is taken out of the list of
// active jobs and counts as given up. Any folder that a dump is made in stays right all the same: it tells what is done.

import { setTimeout as sleep } from 'node:timers/promises';
import type { BackendFactory, Job, Queue, RedisQueueBackend } from 'bullmq';
import { printable } from '../../files/text.js';
import { isObject } from '../format/schema.js';
import { longestField } from './job.js';
import { bullmq } from './packages.js';

/** No job is tried more often, and no pause before it is tried again is longer. */
export const mostAttempts = 100;
export const longestPauseMilliseconds = 60_000;

/** Growing pauses of seconds, for `settings.backoffStrategy` of a worker; what a record says of them is not asked. */
export const pauseAfter = (attempts: number): number => Math.min(1000 * 2 ** attempts, longestPauseMilliseconds);

/** A record that cannot be a job of sonde's. */
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

interface Place {
  /** `bull:QUEUE` */
  readonly queue: string;
  /** Names of keys that are no jobs'. */
  readonly taken: (id: string) => boolean;
}

const placeOf = (backend: RedisQueueBackend): Place => ({
  queue: backend.qualifiedName,
  taken: (id) => Object.hasOwn(backend.keys, id),
});

const isJobId = (id: unknown, { taken }: Place): id is string =>
  typeof id === 'string' && idPattern.test(id) && !taken(id);

/** The fields of a job that BullMQ may see, of those that its record has. Throws a BrokenRecord. */
function checkedFields(id: string, record: Readonly<Record<string, unknown>>, place: Place): Record<string, string> {
  const broken = (what: string) => new BrokenRecord(id, what);
  if (!isJobId(id, place)) throw broken('has an id that no job has');
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
    ...parentFields(parent, parentKey, place, broken),
  };
  for (const field of ['atm', 'ats', 'stc', 'timestamp', 'processedOn', 'finishedOn', 'failedReason', 'defa']) {
    const value = rest[field];
    if (value !== undefined) fields[field] = value;
  }
  return fields;
}

// A job's end changes its parent's record, by these two fields.
function parentFields(
  parent: string | undefined,
  key: string | undefined,
  place: Place,
  broken: (what: string) => Error,
) {
  if (parent === undefined && key === undefined) return {};
  const value = parsed(parent ?? '', 'parent', broken);
  const { id, queueKey, ...more } = isObject(value) ? value : {};
  const own = isJobId(id, place) && queueKey === place.queue && key === `${queueKey}:${id}`;
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

// ---- what stands between BullMQ and Redis

// Takes an id out of the list of active jobs. A record of a job (ARGV[5]) is replaced by one that says why it is given up.
// A key may be of any type: pcall goes on where a command fails.
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

// The id that a token has locked: of a job that was taken up when the script that did so failed.
const lockedScript = `
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, 999)) do
  if redis.pcall('GET', ARGV[1] .. id .. ':lock') == ARGV[2] then return id end
end
return false`;

// Ids of jobs to be tried again that are due, but have no record. BullMQ's script takes all that are due out of the list,
// then fails at a record that is none, and the others are lost.
const dueScript = `
local gone = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2], 'LIMIT', 0, 1000)) do
  local fields = redis.pcall('HLEN', ARGV[1] .. id)
  if type(fields) ~= 'number' or fields == 0 then
    redis.call('ZREM', KEYS[1], id)
    table.insert(gone, id)
  end
end
return gone`;

// Changes nothing, but fails where a worker would.
const mayWorkScript = `
redis.call('LREM', KEYS[1], 0, '-')
redis.call('HDEL', KEYS[2], '-')
return 1`;

const scripts = {
  'sonde:mayWork': [mayWorkScript, 2],
  'sonde:refuse': [refuseScript, 4],
  'sonde:locked': [lockedScript, 1],
  'sonde:due': [dueScript, 1],
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
  const isJob = isJobId(id, placeOf(backend));
  const words = [id, Date.now(), what, message, isJob ? '1' : '0'];
  await run(backend, 'sonde:refuse', [active, stalled, failed, backend.toKey(id), ...words]);
}

/** Fails for a user who may not change the queue, and on a server where nobody may. */
export async function mayWork(queue: Queue): Promise<void> {
  const { active, meta } = queue.keys as Record<'active' | 'meta', string>;
  await run(queue.getBackend() as RedisQueueBackend, 'sonde:mayWork', [active, meta]);
}

// What fails when a job is asked for fails at once when asked again: the pause keeps a worker from asking all the time.
const pauseMilliseconds = 1000;
const mostRefused = 100;

/**
 * The backend for a Queue or a Worker that reads no record unchecked. Of a worker's, `refused` is told what is taken out
 * of the queue; a queue's getters throw a BrokenRecord.
 */
export async function checkedBackend(
  refused: (error: BrokenRecord) => void = () => {},
): Promise<BackendFactory<RedisQueueBackend>> {
  const { createRedisBackend, raw2NextJobData } = await bullmq();
  return (...words) => {
    const backend = createRedisBackend(...words);
    const { execCommand, moveToActive, moveToCompleted, moveToFailed, moveToDelayed } = backend;
    const place = placeOf(backend);
    const take = async (error: BrokenRecord): Promise<void> => {
      await refuse(backend, error);
      refused(error);
    };

    backend.execCommand = (client, name, args) => {
      const result = execCommand.call(backend, client, name, args);
      return name === 'moveToActive' ? Promise.resolve(result).then(checkedNext) : result;
    };
    const checkedNext = (result: unknown): unknown => {
      const [record, id, ...delays] = Array.isArray(result) ? result : [];
      if (!record) return [0, 0, ...delays.map((delay) => (Number.isFinite(delay) ? delay : 0))];
      const fields = checkedFields(String(id), pairsOf(record), place);
      return [Object.entries(fields).flat(), id, 0, 0];
    };

    backend.moveToActive = async (token, worker) => {
      const { delayed, active } = backend.keys as Record<'delayed' | 'active', string>;
      for (let i = 0; i < mostRefused; i++) {
        try {
          const gone = await run(backend, 'sonde:due', [delayed, backend.toKey(''), (Date.now() + 1000) * 0x1000]);
          for (const id of gone as string[]) await take(new BrokenRecord(id, 'is no record of a job'));
          return await moveToActive.call(backend, token, worker);
        } catch (error) {
          if (error instanceof BrokenRecord) {
            await take(error);
            continue;
          }
          const id = await run(backend, 'sonde:locked', [active, backend.toKey(''), token]).catch(() => null);
          if (typeof id === 'string') {
            await take(
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
      return []; // a worker that is told to stop looks up now
    };
    // The next job is asked for by itself: what is wrong with it must not be taken for an error of the one that ends here.
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
      const fields = checkedFields(id, record, place);
      return raw2NextJobData([Object.entries(fields).flat(), id])[0] as never;
    };
    return backend;
  };
}

// ---- jobs that were given up

export interface GivenUp {
  readonly id: string;
  /** Undefined when its record cannot be read; `broken` says why. */
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

/** Jobs that a worker can take up now or soon. One that is to wait longer than any pause of sonde's is nobody's. */
export async function unfinishedIn(queue: Queue): Promise<number> {
  const soon = Date.now() + 10 * longestPauseMilliseconds;
  const [now, delayed] = await Promise.all([
    queue.getJobCountByTypes('waiting', 'active', 'prioritized'),
    queue.getDelayedCount(soon),
  ]);
  return now + delayed;
}
