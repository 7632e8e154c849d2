// The payloads of the jobs of a queue. Redis gives whatever somebody has put there. It is read into a checked copy, and
// only the copy is used. With a key, only what was signed with it is taken.
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import { basename, isAbsolute } from 'node:path';
import { describe } from '../../engine/check.js';
import { isBlobUrl, parseStoreAddress } from '../../files/blob/blob_address.js';
import type { CorpusFile, CorpusFileOptions } from '../corpus/corpus.js';
import { tokenDTypes } from '../corpus/token_layout.js';
import { parseDumpLocation } from '../format/dump_location.js';
import { widthOf } from '../format/layout.js';
import { canList } from '../format/manifest.js';
import {
  checked,
  FieldError,
  flag,
  fraction,
  integer,
  line,
  listOf,
  numberFrom0,
  object,
  oneOf,
  optional,
  type Read,
  record,
} from '../format/schema.js';
import { type DumpSettings, droppable, dumpDTypes, gradientScalars, settingsFields } from '../format/settings.js';
import type { DumpOptions } from '../shards/options.js';
import type { ShardedDump, ShardedRequest } from '../workers/shard_session.js';

/** One shard of a dump. `dump` is the id of the dump's merge job. */
export interface ShardJob {
  readonly dump: string;
  readonly number: number;
}

/**
 * The payload of a job, by the job's name: one shard of a dump, or the merge of all, which holds the plan of the dump.
 */
export interface JobPayloads {
  readonly shard: ShardJob;
  readonly merge: ShardedDump;
}

export type JobName = keyof JobPayloads;

/** The error of a job that no worker takes: trying it again changes nothing. */
export class BadJob extends Error {}

/** The queue that jobs come from, and the secret that they must be signed with, if there is one. */
export interface JobOrigin {
  /** The name of the queue. */
  readonly name: string;
  readonly key?: SigningKey | undefined;
}

export type SigningKey = string | Uint8Array;

/** The most letters that a field of a job in Redis may have. The plan of a dump has them in one. */
export const longestField = 2 ** 27;
const longestPlan = longestField / 2; // by an estimate that is made before the corpus is read
const mostFiles = 500_000;

// ---- fields

const longestText = 4096; // the longest path on Linux
const mostPositions = 2 ** 18; // of a batch: GPT-2 XL has 7 GB of activations then
const mostValues = 2 ** 30; // of a batch, over all locations: 4 GB as float32

const text = line(longestText);

const isPath = (value: unknown): boolean => typeof value === 'string' && isAbsolute(value);

const absolutePath: Read<string> = (value, unknownFields) =>
  checked<string>('the absolute path of a file', isPath)(text(value, unknownFields), unknownFields);

const isStoreAddress = (value: unknown): boolean => {
  try {
    return typeof value === 'string' && isBlobUrl(value) && parseStoreAddress(value).name === value;
  } catch {
    return false;
  }
};

const outFolder: Read<string> = (value, unknownFields) =>
  checked<string>(
    'the absolute path of a folder, or az://account/container/prefix',
    (out) => isPath(out) || isStoreAddress(out),
  )(text(value, unknownFields), unknownFields);

const corpusFile: Read<CorpusFile> = (value, unknownFields) =>
  typeof value === 'string'
    ? absolutePath(value, unknownFields)
    : object<CorpusFileOptions>({
        path: absolutePath,
        kind: oneOf('text', 'jsonl', 'tokens'),
        dtype: optional(oneOf(...tokenDTypes)),
        asIs: optional(flag),
      })(value, unknownFields);

const location: Read<string> = (value, unknownFields) => {
  const given = text(value, unknownFields);
  try {
    parseDumpLocation(given);
    return given;
  } catch {
    return checked<string>('LOCATION or LOCATION -> AUTOENCODER', () => false)(given, unknownFields);
  }
};

// Types are not there when a job is read, so each option has a reader here. The compiler sees to it that none is
// missing.
const requestField = object<ShardedRequest>({
  model: text,
  precision: optional(oneOf<NonNullable<DumpOptions['precision']>>('float32', 'bfloat16', 'float16')),
  corpus: listOf(corpusFile, { least: 1, most: mostFiles }),
  locations: listOf(location, { least: 1, most: 10_000 }),
  autoencoders: optional(record(text, text, 10_000)),
  threshold: optional(numberFrom0),
  finite: optional(flag),
  anyArithmetic: optional(flag),
  out: outFolder,
  context: optional(integer(1, 2 ** 20)),
  batch: optional(integer(1, mostPositions)),
  dtype: optional(oneOf(...dumpDTypes)),
  drop: optional(listOf(oneOf(...droppable), { most: 10 })),
  sample: optional(fraction),
  seed: optional(integer(0)),
  statistics: optional(flag),
  parquet: optional(flag),
  gradientOf: optional(oneOf(...gradientScalars)),
  shardTokens: optional(integer(1, 2 ** 27)),
  limit: optional(integer(1)),
});

const mostShards = 10 ** 9; // their names have nine digits at most

const payloads: { readonly [N in JobName]: Parameters<typeof object<JobPayloads[N]>>[0] } = {
  shard: {
    dump: checked('sixteen hexadecimal digits', (value) => typeof value === 'string' && /^[0-9a-f]{16}$/.test(value)),
    number: integer(0, mostShards - 1),
  },
  merge: { request: requestField, settings: object<DumpSettings>(settingsFields), count: integer(1, mostShards) },
};

/** Options that the settings repeat. `planQueue` makes no job in which they differ. */
const repeated = [
  ...(['context', 'dtype', 'shardTokens', 'limit', 'sample', 'seed', 'statistics', 'parquet', 'gradientOf'] as const),
];

function checkTogether({ request, settings, count }: ShardedDump): void {
  for (const name of repeated) {
    const [asked, planned] = [request[name], settings[name]];
    if (asked === undefined || asked === planned) continue;
    throw new FieldError(`request.${name}`, `must be that of the settings, ${planned ?? 'none'}, but is ${asked}`);
  }
  if (request.corpus.length !== settings.corpus.length) {
    const found = `${request.corpus.length} files, but the settings have ${settings.corpus.length}`;
    throw new FieldError('request.corpus', `must have the files of the settings; it has ${found}`);
  }
  const { part, context } = settings;
  if (part.index !== 0 || part.count !== 1) throw new FieldError('settings.part', 'must be that of the whole');
  if (!canList(settings, count))
    throw new FieldError('count', `must be of shards that a manifest can list, but is ${count}`);
  const { batch = 1 } = request;
  const most = Math.max(1, Math.floor(Math.min(mostPositions, mostValues / valuesPerToken(settings)) / context));
  if (batch <= most) return;
  const what = `rows of ${context} tokens at these locations`;
  throw new FieldError('request.batch', `must be ${most} at most with ${what}, but is ${batch}`);
}

/**
 * About how many values are taken out of the model for a token, or kept for gradients. For an autoencoder, the widest
 * location of a layer counts.
 */
function valuesPerToken({ locations, autoencoders, model, gradientOf }: DumpSettings): number {
  const { dModel, nLayers, mMlp, mAttn } = model.config;
  const dense = locations.reduce((sum, entry) => sum + widthOf(entry), 0);
  const taken = dense + autoencoders.length * dModel * Math.max(1, mMlp, mAttn);
  // backward needs about so much of each layer, and the logits with their gradients
  const kept = nLayers * dModel * (6 + 2 * mMlp + 4 * mAttn) + 3 * model.vocabulary;
  return Math.max(1, gradientOf === undefined ? taken : 2 * taken + kept);
}

// ---- jobs

/** The request as plain data, as a job will hold it. @throws BadJob for what no worker would take. */
export function plainRequest(request: ShardedRequest): ShardedRequest {
  const read = object<Pick<ShardedDump, 'request'>>({ request: requestField });
  const plain = asBadJob(() => read({ request: asJson(request) }, 'refused')).request;
  const letters = lettersOfPlan(plain);
  if (letters <= longestPlan) return plain;
  const files = plain.corpus.length.toLocaleString('en-US');
  const [found, most] = [letters, longestPlan].map((count) => count.toLocaleString('en-US'));
  throw new BadJob(
    `queue: a plan with these ${files} files and their paths may take ${found} letters, and a queue takes ${most}: ` +
      'plan the corpus in several dumps, of fewer files',
  );
}

const longestSource = { kind: 'standard input', name: '', bytes: Number.MAX_SAFE_INTEGER, dtype: 'uint32' };

/** The most letters of a plan, as far as the request tells. Beside it, the settings describe each file. */
function lettersOfPlan(request: ShardedRequest): number {
  const others = JSON.stringify(longestSource).length + 1;
  const names = request.corpus.map((file) => JSON.stringify(basename(typeof file === 'string' ? file : file.path)));
  return names.reduce((sum, name) => sum + name.length + others, JSON.stringify(request).length);
}

// What JSON leaves out or writes as null stays there as text, so that the readers refuse it.
function asJson(value: object): unknown {
  const plain = (_: string, entry: unknown) => {
    if (typeof entry === 'bigint') return `${entry}n`;
    if (typeof entry === 'number' && !Number.isFinite(entry)) return String(entry);
    return typeof entry === 'function' || typeof entry === 'symbol' ? describe(entry) : entry;
  };
  try {
    return JSON.parse(JSON.stringify(value, plain));
  } catch (cause) {
    throw new BadJob('queue: the request must be plain data, but an object in it holds itself', { cause });
  }
}

/** The payload of a job as plain data, signed if there is a key. @throws BadJob for what no worker would take. */
export function jobData<N extends JobName>(name: N, payload: JobPayloads[N], origin: JobOrigin): object {
  const plain = checkedPayload(name, asJson(payload));
  const { length } = JSON.stringify(plain);
  if (length > longestField) throw new BadJob(`queue: a job of ${length} letters is more than a worker takes`);
  return origin.key === undefined
    ? plain
    : { ...plain, signature: signatureOf(name, plain, { ...origin, key: origin.key }) };
}

/** The payload that a job holds. @throws BadJob that names the field. */
export function readJob<N extends JobName>(name: N, data: unknown, { name: queue, key }: JobOrigin): JobPayloads[N] {
  const { signature, payload } = split(data);
  const plain = checkedPayload(name, payload);
  if (signature !== undefined && !(typeof signature === 'string' && /^[0-9a-f]{64}$/.test(signature))) {
    throw new BadJob("queue: the job's signature is wrong: it must be 64 hexadecimal digits");
  }
  if (key === undefined) return plain;
  if (signature === undefined) throw new BadJob("queue: the job's signature is missing, and this worker has a key");
  const right = signatureOf(name, plain, { name: queue, key });
  if (timingSafeEqual(Buffer.from(signature), Buffer.from(right))) return plain;
  throw new BadJob("queue: the job's signature is wrong: it was signed with another key, or changed afterwards");
}

function split(data: unknown): { signature?: unknown; payload: unknown } {
  if (typeof data !== 'object' || data === null || Array.isArray(data)) return { payload: data };
  const { signature, ...payload } = data as Record<string, unknown>;
  return { signature, payload };
}

const checkedPayload = <N extends JobName>(name: N, payload: unknown): JobPayloads[N] =>
  asBadJob(() => {
    const plain = object(payloads[name])(payload, 'refused');
    if (name === 'merge') checkTogether(plain as ShardedDump);
    return plain;
  });

function asBadJob<T>(read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (!(cause instanceof FieldError)) throw cause;
    throw new BadJob(`queue: the job's ${cause.field === '' ? 'data' : cause.field} ${cause.problem}`, { cause });
  }
}

// A checked copy has its fields in the order of the payload, so planner and worker sign the same JSON text. A job is
// signed for one queue.
const signatureOf = (job: JobName, payload: object, { name, key }: JobOrigin & { key: SigningKey }): string =>
  createHmac('sha256', key)
    .update(JSON.stringify([name, job, payload]))
    .digest('hex');

/** The id of a dump's merge job in the queue. A folder has one such id. */
export const idOf = (out: string): string => createHash('sha256').update(out).digest('hex').slice(0, 16);
