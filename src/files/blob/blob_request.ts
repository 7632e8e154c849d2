// Requests to a server that may be unreachable for a moment: which failed requests are tried again and when, and a
// message that says why a failure is final.
import { setTimeout as sleep } from 'node:timers/promises';
import pRetry from 'p-retry';

/** The blob is no longer the one whose version was asked for. */
export class BlobChanged extends Error {}

/** There is no connection to the server. */
export class Unreachable extends Error {}

/**
 * How often a request is tried again, and the pauses between in milliseconds, each lengthened at random up to twofold.
 */
export interface RetryPolicy {
  readonly retries: number;
  readonly minTimeout: number;
  readonly maxTimeout: number;
}

/** Retries for some seconds. */
const shortRetries: RetryPolicy = { retries: 4, minTimeout: 200, maxTimeout: 10_000 };
/** Retries for about two minutes, so that a short outage does not end work of hours. */
export const longRetries: RetryPolicy = { retries: 13, minTimeout: 200, maxTimeout: 10_000 };

/** Seconds without a byte after which a connection counts as dead. */
export const usualTimeout = 30;

/** A server that asks for a longer pause, in seconds, is not waited for. */
const longestWait = 120;

interface RequestFailure extends Error {
  readonly statusCode?: number;
  readonly code?: string;
  readonly details?: { readonly errorCode?: string };
  readonly response?: { readonly headers: { get(name: string): string | undefined } };
}

export interface RetryOptions {
  readonly retryPolicy?: RetryPolicy;
  readonly signal?: AbortSignal | undefined;
  /** Whether the last attempt brought bytes: then it does not count as a retry. */
  readonly progressed?: () => boolean;
}

/**
 * Runs `attempt` until it succeeds or fails finally.
 * @throws Error that says why, its message beginning with `name`.
 */
export async function retrying<T>(
  name: string,
  attempt: () => Promise<T>,
  { retryPolicy = shortRetries, signal, progressed }: RetryOptions = {},
): Promise<T> {
  signal?.throwIfAborted();
  const again = (error: RequestFailure) =>
    !signal?.aborted && isTransient(error) && secondsToWait(error) <= longestWait;
  try {
    return await pRetry(attempt, {
      ...retryPolicy,
      ...{ factor: 2, randomize: true },
      ...(signal && { signal }),
      shouldRetry: ({ error }) => again(error),
      // a connection that brought bytes may be cut any number of times
      shouldConsumeRetry: () => !progressed?.(),
      async onFailedAttempt({ error, retriesLeft }) {
        const seconds = secondsToWait(error);
        if (seconds > 0 && retriesLeft > 0 && again(error)) {
          await sleep(seconds * 1000, undefined, signal ? { signal } : {});
        }
      },
    });
  } catch (error) {
    signal?.throwIfAborted();
    throw explained(name, error as RequestFailure);
  }
}

export interface RequestOptions extends RetryOptions {
  /** Seconds without a byte after which the request is given up. */
  readonly timeout?: number;
}

/** A request that ends with its answer. `send` passes the watch's signal on, and resets the watch where it can. */
export function request<T>(name: string, send: (watch: Watch) => Promise<T>, options: RequestOptions = {}): Promise<T> {
  const { timeout = usualTimeout, signal } = options;
  return retrying(name, () => watched(timeout, signal, send), options);
}

export async function watched<T>(
  timeout: number,
  signal: AbortSignal | undefined,
  send: (watch: Watch) => Promise<T>,
): Promise<T> {
  const watch = new Watch(timeout, signal);
  try {
    return await send(watch);
  } catch (error) {
    throw watch.explain(error);
  } finally {
    watch.end();
  }
}

/** Ends a request that receives nothing for too long; to the storage client, a cut connection looks like an abort. */
export class Watch {
  readonly #stalled = new AbortController();
  readonly #seconds: number;
  readonly #timer: NodeJS.Timeout;
  readonly signal: AbortSignal;

  constructor(seconds: number, signal: AbortSignal | undefined) {
    this.#seconds = seconds;
    this.#timer = setTimeout(() => this.#stalled.abort(), seconds * 1000);
    this.signal = signal ? AbortSignal.any([signal, this.#stalled.signal]) : this.#stalled.signal;
  }

  reset(): void {
    this.#timer.refresh();
  }

  end(): void {
    clearTimeout(this.#timer);
  }

  explain(error: unknown): unknown {
    if (this.#stalled.signal.aborted) return new Error(`nothing came for ${this.#seconds} seconds`, { cause: error });
    const { name } = error as Error;
    return name === 'AbortError' && !this.signal.aborted
      ? new Error('the connection was cut', { cause: error })
      : error;
  }
}

/** The answer, or `otherwise` where the server refuses with one of these statuses. */
export async function unlessStatus<T, F>(
  statuses: readonly number[],
  otherwise: F,
  answer: Promise<T>,
): Promise<T | F> {
  try {
    return await answer;
  } catch (error) {
    if (statuses.includes((error as RequestFailure).statusCode ?? 0)) return otherwise;
    throw error;
  }
}

const transientStatuses = new Set([408, 429, 500, 502, 503, 504]);

function isTransient(error: RequestFailure): boolean {
  if (error instanceof BlobChanged) return false;
  if (diskErrors.has(error.code ?? '') || /^CERT_|SELF_SIGNED/.test(error.code ?? '')) return false;
  if (codeOf(error) === 'Md5Mismatch') return true; // the bytes were damaged on the way
  return error.statusCode === undefined || transientStatuses.has(error.statusCode);
}

const codeOf = ({ details, code, statusCode }: RequestFailure): string =>
  details?.errorCode ?? (statusCode === undefined ? '' : (code ?? ''));

/** The pause that the server asks for, in seconds or as a date. */
function secondsToWait({ response }: RequestFailure): number {
  const text = response?.headers.get('retry-after')?.trim() ?? '';
  const seconds = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
  return seconds > 0 ? seconds : 0;
}

/** Errors of writing the bytes that came: requesting them again does not help. */
export const diskErrors: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG', 'EROFS', 'EACCES', 'EIO']);

const unreachable = new Set(['ENOTFOUND', 'EAI_AGAIN', 'ECONNREFUSED', 'ENETUNREACH', 'EHOSTUNREACH', 'ETIMEDOUT']);

const credentialsAdvice =
  'for a private container set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_SAS_TOKEN';

// Azure's codes: https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
function explained(name: string, error: RequestFailure): Error {
  if (error instanceof BlobChanged || error.message.startsWith(`${name}: `)) return error;
  const { statusCode: status, code = '' } = error;
  const because = (reason: string) => new Error(`${name}: ${reason}`, { cause: error });
  if (status === undefined) {
    if (unreachable.has(code))
      return new Unreachable(`${name}: the server cannot be reached (${code})`, { cause: error });
    return because(error.message.split('\n')[0] as string);
  }
  const detail = codeOf(error);
  const answer = detail === '' ? String(status) : `${status}, ${detail}`;
  if (detail === 'ContainerNotFound') return because(`there is no such container (${answer})`);
  if (detail === 'ResourceNotFound')
    return because(`there is nothing for the public (${answer}); ${credentialsAdvice}`);
  if (status === 404) return because('there is no such blob (404)');
  if (detail.startsWith('Lease')) return because(`another process holds it (${answer})`);
  if (detail === 'InvalidBlockList') {
    return because(`another process wrote it meanwhile, and what was uploaded is lost (${answer})`);
  }
  if (status === 412 || status === 416) return new BlobChanged(`${name}: is another by now`, { cause: error });
  if (status === 401 || status === 403 || status === 409) {
    return because(`access is denied (${answer}); ${credentialsAdvice}`);
  }
  const seconds = secondsToWait(error);
  const asks = seconds > longestWait ? ` and asks to be left alone for ${Math.ceil(seconds)} seconds` : '';
  return because(`the server answers with status ${answer}${asks}`);
}
