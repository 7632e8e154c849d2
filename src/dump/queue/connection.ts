// Connections to the Redis or Valkey of a queue. Whatever goes wrong becomes one sentence that names the server and
// never holds the password. Errors of ioredis carry the commands that failed, which may be AUTH with its arguments, so
// these errors are never passed on, not even as a cause.
import { readFileSync } from 'node:fs';
import type { Queue } from 'bullmq';
import { describe, type OptionNames, wrong } from '../../engine/check.js';
import { printable } from '../../files/text.js';
import { bullmq } from './packages.js';
import { checkedBackend } from './records.js';

export interface QueueOptions {
  /** `redis://HOST:PORT`, `rediss://` with TLS, `redis://USER:PASSWORD@HOST`, `redis://:PASSWORD@HOST`. */
  readonly redis: string;
  /** The name of the queue: workers of a name work on the dumps of that name. */
  readonly name: string;
}

/** The names of these options, for functions that take more. */
export const connectionNames: OptionNames<QueueOptions> = { redis: true, name: true };

/** @throws TypeError for what can be neither the address of a server nor the name of a queue. */
export function checkConnection(operation: string, { redis, name }: QueueOptions): void {
  if (typeof redis !== 'string') {
    throw new TypeError(wrong(operation, 'redis', 'an address such as redis://HOST:PORT', describe(redis)));
  }
  if (typeof name === 'string' && name !== '' && !name.includes(':')) return;
  throw new TypeError(wrong(operation, 'name', 'the name of a queue, without a colon', describe(name)));
}

// ---- the address

interface Address {
  /** The URL without user and password. */
  readonly shown: string;
  readonly secure: boolean;
  readonly host: string;
  readonly port: number;
  readonly db: number;
  readonly username?: string;
  readonly password?: string;
}

/** An error never repeats the address: what was meant to be a password may be anywhere in it. */
function parseAddress(redis: string): Address {
  const wrong = (what: string) => new TypeError(`queue: the address of Redis ${what}`);
  if (redis === '') throw wrong('is empty: redis://HOST:PORT was expected');
  if (!/^rediss?:\/\//i.test(redis)) {
    throw wrong('must begin with redis://, or rediss:// for TLS, as in redis://HOST:PORT');
  }
  const escaped =
    'in a user or a password, write all but letters and digits as %XX, such as %23 for #, %2F for / and %25 for %';
  let url: URL;
  try {
    url = new URL(redis);
  } catch {
    throw wrong(`is no URL such as redis://USER:PASSWORD@HOST:PORT; ${escaped}`);
  }
  const { protocol, hostname, host, port, pathname } = url;
  if (hostname === '') throw wrong('names no host: redis://HOST:PORT was expected');
  if (url.search !== '' || url.hash !== '' || !/^(\/\d{0,4})?$/.test(pathname)) {
    throw wrong(`has more after the host than a port and the number of a database; ${escaped}`);
  }
  if (url.username !== '' && url.password === '') throw wrong('names a user without a password');
  let user: Pick<Address, 'username' | 'password'> = {};
  try {
    const [username, password] = [url.username, url.password].map(decodeURIComponent);
    if (password) user = { ...(username && { username }), password };
  } catch {
    throw wrong(`has a % that no two hexadecimal digits follow; ${escaped}`);
  }
  return {
    ...{ shown: `${protocol}//${host}`, secure: protocol === 'rediss:' },
    ...{ host: hostname.replace(/^\[|\]$/g, ''), port: Number(port || 6379), db: Number(pathname.slice(1)) },
    ...user,
  };
}

/** The address without user and password. */
export function shownAddress(redis: string): string {
  try {
    return parseAddress(redis).shown;
  } catch {
    return 'Redis';
  }
}

const clientFiles = { cert: 'SONDE_REDIS_CERT', key: 'SONDE_REDIS_KEY' } as const;

/** The certificate that a server with TLS may demand of its clients. Node.js checks the server's own certificate. */
function clientCertificate(environment: Readonly<Record<string, string | undefined>>): { cert?: Buffer; key?: Buffer } {
  const files = Object.entries(clientFiles).flatMap(([what, name]) => {
    const path = environment[name];
    return path ? [{ what, name, path }] : [];
  });
  if (files.length === 1) throw new TypeError('queue: SONDE_REDIS_CERT and SONDE_REDIS_KEY need each other');
  return Object.fromEntries(
    files.map(({ what, name, path }) => {
      try {
        return [what, readFileSync(path)];
      } catch (error) {
        throw new Error(`queue: ${name} names a file that cannot be read: ${(error as Error).message}`);
      }
    }),
  );
}

/** The options of ioredis. @throws TypeError when the address is not valid. */
function optionsOf(redis: string) {
  const { shown, secure, ...server } = parseAddress(redis);
  return secure ? { ...server, tls: clientCertificate(process.env) } : server;
}

// For commands that end: a server that cannot be reached, or that still loads its data, is an error at once.
export const withoutRetries = (redis: string) => ({
  ...optionsOf(redis),
  ...{ maxRetriesPerRequest: 1, retryStrategy: () => null, enableReadyCheck: false },
});
// For workers: a server that is lost will come back.
export const withRetries = (redis: string) => ({ ...optionsOf(redis), maxRetriesPerRequest: null });

const answerMilliseconds = 20_000;

class NoAnswer extends Error {}

/** Calls body with the queue, once the server has answered. */
export async function withQueue<T>({ redis, name }: QueueOptions, body: (queue: Queue) => Promise<T>): Promise<T> {
  const { Queue } = await bullmq();
  const queue = new Queue(name, { connection: withoutRetries(redis), skipMetasUpdate: true }, await checkedBackend());
  let connectionError: Error | undefined;
  queue.on('error', (error) => {
    connectionError ??= error;
  });
  try {
    await answered(queue.waitUntilReady());
    return await body(queue);
  } catch (error) {
    if (!connectionError && !isOfRedis(error)) throw error;
    // A command's own error says more than the loss of the connection that it brought about.
    const reported =
      connectionError && (isReply(connectionError) || !isReply(error)) ? connectionError : (error as Error);
    const what = isReply(reported) ? shownAddress(redis) : `no connection to ${shownAddress(redis)}`;
    const reason = reasonOf(reported, redis);
    throw new Error(`queue: ${what}: ${reason}${reason.startsWith(closedReason) ? closedHint(redis) : ''}`);
  } finally {
    await queue.close().catch(() => {});
  }
}

const closedHint = (redis: string): string =>
  parseAddress(redis).secure
    ? `; perhaps it ${demandsCertificate}`
    : '; perhaps it wants TLS, then the address begins with rediss://';

async function answered(ready: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new NoAnswer(`no answer in ${answerMilliseconds / 1000} s`)), answerMilliseconds);
  });
  await Promise.race([ready, late]).finally(() => clearTimeout(timer));
}

// ---- errors

// The error classes of ioredis and its parser. BullMQ's errors of a lost connection have a code or the text of ioredis.
const ofRedis = ['ReplyError', 'ParserError', 'AbortError', 'InterruptError', 'MaxRetriesPerRequestError'];
const closed = 'Connection is closed.';

const isReply = (error: unknown): boolean => error instanceof Error && error.name === 'ReplyError';

const isOfRedis = (error: unknown): boolean =>
  error instanceof Error && (ofRedis.includes(error.name) || error.message === closed || error instanceof NoAnswer);

const demandsCertificate = `demands a certificate of its clients: ${clientFiles.cert} and ${clientFiles.key} name the files`;
const closedReason = 'it closed the connection';

// Explanations of errors, by what Redis, TLS and the system say. The first pattern that matches counts.
const reasons: readonly (readonly [RegExp, string])[] = [
  [/^WRONGPASS|^ERR invalid password/, 'the user or the password is wrong'],
  [
    /^NOAUTH/,
    'it asks for a password: redis://USER:PASSWORD@HOST:PORT, best in SONDE_REDIS, which other users of this machine do not see',
  ],
  [/NOPERM|No permissions|can't (run this command|access at least one of the keys)/i, 'the user lacks rights'],
  [/^LOADING|^BUSY Redis is/, 'it is loading its data or busy, try again later'],
  [/READONLY/, 'it is a replica, which only reads: the address of the primary is needed'],
  [/^MASTERDOWN/, 'it is a replica without its primary'],
  [/^MOVED|^ASK|^CROSSSLOT|^CLUSTERDOWN/, 'it is a cluster, which queues cannot be on'],
  [/^MISCONF|^OOM/, 'it takes nothing more in, for want of disk or memory'],
  [
    /wrong version number|packet length too long|WRONG_VERSION_NUMBER/i,
    'it does not speak TLS there: redis:// is without',
  ],
  [/certificate.required|alert.*certificate|handshake failure/i, `it ${demandsCertificate}`],
  [/ALTNAME_INVALID/, 'its certificate is for another host'],
  [/CERT_HAS_EXPIRED|CERT_NOT_YET_VALID/, 'its certificate is not valid at this time'],
  [/CERT|UNABLE_TO_/, "its certificate is not trusted: NODE_EXTRA_CA_CERTS names the file of the authority's"],
  [/ENOTFOUND|EAI_/, 'there is no such host'],
  [/^Protocol error|RESP type|ParserError/, 'what answers there is no Redis'],
  [/ETIMEDOUT/, 'it does not answer; where rediss:// is asked for, it may speak no TLS'],
  [
    /key values mismatch|DECODER routines|no start line/,
    `${clientFiles.cert} and ${clientFiles.key} are no certificate with its key`,
  ],
  [/^Connection is closed\.$|^Command aborted|ECONNRESET|EPIPE/, closedReason],
];

/**
 * One sentence about what went wrong with a connection. It ends with what the server says, unless that holds the
 * password.
 */
export function reasonOf(error: NodeJS.ErrnoException, redis?: string): string {
  const { message, name, syscall } = error;
  const code = error.code === undefined ? undefined : String(error.code); // BullMQ's codes are numbers
  const known = reasons.find(([pattern]) => pattern.test(message) || pattern.test(code ?? '') || pattern.test(name));
  const text = code?.startsWith('ERR_SSL') ? code : message.replace(/ script: [0-9a-f]{40}.*/s, '');
  const said = printable(text || code || 'unknown');
  const repeats = syscall === undefined && passwordsOf(redis).some((password) => message.includes(password));
  if (!known) return repeats ? 'what it says holds the password' : said;
  return repeats || message === closed ? known[1] : `${known[1]} (${said})`;
}

function passwordsOf(redis = ''): string[] {
  try {
    const { password } = parseAddress(redis);
    return password ? [password, new URL(redis).password] : [];
  } catch {
    return []; // an address that is not valid is reported before anything connects
  }
}

const mostReasons = 100;

/**
 * Reports what is wrong with a worker's connection, each reason once until `recovered()`: as long as something is
 * wrong, the same few errors come again and again.
 */
export class ConnectionErrors {
  readonly #redis: string;
  readonly #report: (reason: string) => void;
  readonly #reported = new Set<string>();

  constructor(redis: string, report: (reason: string) => void) {
    this.#redis = redis;
    this.#report = report;
  }

  add(error: Error): void {
    const reason = reasonOf(error, this.#redis);
    const kind = reason.replace(/ \(.*$/s, '');
    if (this.#reported.has(kind) || this.#reported.size >= mostReasons) return;
    this.#reported.add(kind);
    this.#report(reason);
  }

  recovered(): void {
    this.#reported.clear();
  }
}
