// One blob on a server, read by ranges. Connections are cut, stall, and bring damaged bytes: each range is asked for
// again from where it stopped, and checked where the server gives a checksum. The storage client's own resuming gives up
// at the first cut, so it is told not to retry, and all retries are here.
import { createHash } from 'node:crypto';
import type { BlobClient, BlobDownloadResponseParsed, StoragePipelineOptions } from '@azure/storage-blob';
import pRetry from 'p-retry';
import type { BlobAddress } from './blob_address.js';

/** What the server says of the blob; every range is of the same one. */
export interface BlobVersion {
  readonly size: number;
  /** Quoted, as If-Match wants it. */
  readonly etag: string | undefined;
  /** In place of an ETag where there is none. */
  readonly modified: string | undefined;
  /** Of the whole blob, where the server knows it. */
  readonly md5: Buffer | undefined;
  /** Whether parts can be asked for. */
  readonly ranges: boolean;
}

/** The blob is no longer the one whose version was asked for. */
export class BlobChanged extends Error {}

/** The longest range for which Azure gives a checksum. */
export const checkedRange = 4 * 2 ** 20;

const noETag = 'none';

const retries = { retries: 4, minTimeout: 200, maxTimeout: 10_000, factor: 2, randomize: true };

export class RemoteBlob {
  readonly address: BlobAddress;
  readonly #client: BlobClient;
  readonly #timeout: number;

  private constructor(address: BlobAddress, client: BlobClient, timeout: number) {
    this.address = address;
    this.#client = client;
    this.#timeout = timeout;
  }

  /** `timeout`: seconds without a byte after which a connection counts as dead. */
  static async open(address: BlobAddress, timeout: number): Promise<RemoteBlob> {
    return new RemoteBlob(address, await clientOf(address), timeout);
  }

  /** @throws Error in words: the server cannot be reached, there is no such blob, access is denied. */
  async version(signal?: AbortSignal): Promise<BlobVersion> {
    return this.#retrying(signal, undefined, async () => {
      const watch = new Watch(this.#timeout, signal);
      try {
        const found = await this.#client.getProperties({ abortSignal: watch.signal });
        const size = found.contentLength;
        if (size === undefined) throw new Error(`${this.address.name}: the server does not say how large it is`);
        const etag = found.etag === noETag ? undefined : found.etag;
        return {
          size,
          etag,
          modified: found.lastModified?.toISOString(),
          md5: found.contentMD5 && Buffer.from(found.contentMD5),
          ranges: found.acceptRanges === 'bytes' && etag !== undefined,
        };
      } catch (error) {
        throw watch.explain(error);
      } finally {
        watch.end();
      }
    });
  }

  /**
   * Fills `into` with the bytes from `from` on. `onBytes` is told of what came, and with a negative number of what came
   * in vain.
   * @throws BlobChanged when the blob is another by now.
   */
  async read(
    { etag }: BlobVersion,
    from: number,
    into: Buffer,
    onBytes: (bytes: number) => void,
    signal?: AbortSignal,
  ): Promise<void> {
    let at = 0;
    let before = 0;
    let expected: Buffer | undefined; // the checksum of the whole range, from the first answer
    const once = async () => {
      before = at;
      const length = into.length - at;
      const conditions = etag === undefined ? {} : { ifMatch: etag };
      const rangeGetContentMD5 = at === 0 && length <= checkedRange;
      await this.#stream(from + at, length, { conditions, rangeGetContentMD5 }, signal, (response, bytes) => {
        if (rangeGetContentMD5 && response.contentMD5) expected ??= Buffer.from(response.contentMD5);
        if (bytes.length > into.length - at) throw new Error('the server sent more than was asked for');
        into.set(bytes, at);
        at += bytes.length;
        onBytes(bytes.length);
      });
      if (at < into.length) throw new Error('the connection ended early');
      if (expected && !createHash('md5').update(into).digest().equals(expected)) {
        onBytes(-at);
        [at, before] = [0, 0];
        throw new Error('bytes were damaged on the way: their checksum does not fit');
      }
    };
    await this.#retrying(signal, () => at > before, once);
  }

  /** Gives the whole blob in order, from a server that knows no ranges; `restart` begins each attempt. */
  async readAll(
    { size }: BlobVersion,
    restart: () => Promise<void>,
    onBytes: (bytes: Uint8Array) => Promise<void>,
    signal?: AbortSignal,
  ): Promise<void> {
    await this.#retrying(signal, undefined, async () => {
      let at = 0;
      await restart();
      await this.#stream(0, undefined, {}, signal, async (_, bytes) => {
        at += bytes.length;
        await onBytes(bytes);
      });
      if (at < size) throw new Error(`the connection ended early, after ${at} of ${size} bytes`);
      if (at > size) throw new BlobChanged(`${this.address.name}: has become larger`);
    });
  }

  async #stream(
    from: number,
    length: number | undefined,
    options: object,
    signal: AbortSignal | undefined,
    onBytes: (response: BlobDownloadResponseParsed, bytes: Buffer) => void | Promise<void>,
  ): Promise<void> {
    const watch = new Watch(this.#timeout, signal);
    try {
      const abortSignal = watch.signal;
      const response = await this.#client.download(from, length, { ...options, abortSignal, maxRetryRequests: 0 });
      if (length !== undefined && response._response.status !== 206 && response.contentLength !== length) {
        response.readableStreamBody?.resume();
        throw new Error(`the server was asked for ${length} bytes, but sends ${response.contentLength}`);
      }
      for await (const bytes of response.readableStreamBody as NodeJS.ReadableStream) {
        watch.reset();
        await onBytes(response, bytes as Buffer);
      }
    } catch (error) {
      throw watch.explain(error);
    } finally {
      watch.end();
    }
  }

  async #retrying<T>(
    signal: AbortSignal | undefined,
    progressed: (() => boolean) | undefined,
    attempt: () => Promise<T>,
  ): Promise<T> {
    signal?.throwIfAborted();
    try {
      return await pRetry(attempt, {
        ...retries,
        ...(signal && { signal }),
        shouldRetry: ({ error }) => !signal?.aborted && isTransient(error),
        // a connection that brought something may be cut any number of times
        shouldConsumeRetry: () => !progressed?.(),
      });
    } catch (error) {
      signal?.throwIfAborted();
      throw inWords(this.address.name, error as Error);
    }
  }
}

/** Ends a request that brings nothing for too long; a cut connection looks like an abort to the storage client. */
class Watch {
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

async function clientOf({ name, url, credentials, connection }: BlobAddress): Promise<BlobClient> {
  // loaded when the network is first needed: it takes a third of a second
  const { AnonymousCredential, BlobClient, BlobServiceClient, newPipeline } = await import('@azure/storage-blob');
  const options = { retryOptions: { maxTries: 1 } };
  if (connection) {
    try {
      const service = BlobServiceClient.fromConnectionString(connection.string, options);
      return service.getContainerClient(connection.container).getBlobClient(connection.blob);
    } catch (cause) {
      throw new Error(`${name}: AZURE_STORAGE_CONNECTION_STRING cannot be used: ${(cause as Error).message}`, {
        cause,
      });
    }
  }
  const pipeline = newPipeline(new AnonymousCredential(), {
    ...options,
    redirectOptions: { allowCrossOriginRedirects: !credentials }, // file hosts send on to where their files lie
    additionalPolicies: [{ policy: forOtherServers, position: 'perRetry' }],
  } as StoragePipelineOptions);
  return new BlobClient(url, pipeline);
}

/** Servers other than Azure's know the standard header alone, and may have no ETag, without which the client reads nothing. */
const forOtherServers = {
  name: 'forOtherServers',
  async sendRequest(request: { headers: Headers }, next: (request: object) => Promise<{ headers: Headers }>) {
    const range = request.headers.get('x-ms-range');
    if (range) request.headers.set('Range', range);
    const response = await next(request);
    if (!response.headers.has('etag')) response.headers.set('etag', noETag);
    return response;
  },
};

interface RequestFailure extends Error {
  readonly statusCode?: number;
  readonly code?: string;
  readonly details?: { readonly errorCode?: string };
}

const transientStatuses = new Set([408, 429, 500, 502, 503, 504]);

function isTransient(error: RequestFailure): boolean {
  if (error instanceof BlobChanged) return false;
  if (diskErrors.has(error.code ?? '') || /^CERT_|SELF_SIGNED/.test(error.code ?? '')) return false;
  return error.statusCode === undefined || transientStatuses.has(error.statusCode);
}

/** Errors of writing what came, which coming again does not cure. */
export const diskErrors: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG', 'EROFS', 'EACCES', 'EIO']);

const unreachable = new Set(['ENOTFOUND', 'EAI_AGAIN', 'ECONNREFUSED', 'ENETUNREACH', 'EHOSTUNREACH', 'ETIMEDOUT']);

function inWords(name: string, error: RequestFailure): Error {
  if (error instanceof BlobChanged || error.message.startsWith(`${name}: `)) return error;
  const { statusCode, code = '' } = error;
  const because = (words: string) => new Error(`${name}: ${words}`, { cause: error });
  if (statusCode === 404) return because('there is no such blob (404)');
  if (statusCode === 412 || statusCode === 416) return new BlobChanged(`${name}: is another by now`, { cause: error });
  if (statusCode === 401 || statusCode === 403 || statusCode === 409) {
    return because(
      `access is denied (${statusCode}${error.details?.errorCode ? `, ${error.details.errorCode}` : ''}); for a private container set ` +
        'AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_SAS_TOKEN',
    );
  }
  if (statusCode !== undefined) return because(`the server answers with status ${statusCode}`);
  if (unreachable.has(code)) {
    return because(
      `the server cannot be reached (${code}); without a network only what is in the cache can be loaded, ` +
        'and SONDE_BLOB_ENDPOINT names a mirror of the public files',
    );
  }
  return because(error.message.split('\n')[0] as string);
}
