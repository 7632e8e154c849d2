// One blob on a server, read by ranges. Connections are cut, stall, and bring damaged bytes: a range is requested again
// from where its connection ended, and every range is checked where the server gives a checksum.
import { createHash } from 'node:crypto';
import type { BlobClient, BlobDownloadResponseParsed } from '@azure/storage-blob';
import type { BlobAddress } from './blob_address.js';
import { blobClientOf, noETag } from './blob_client.js';
import { BlobChanged, request, retrying, watched } from './blob_request.js';

/** One version of the blob, as the server describes it; every range is of the same one. */
export interface BlobVersion {
  readonly size: number;
  /** The ETag in quotes, as If-Match wants it. */
  readonly etag: string | undefined;
  /** The time of the last change: it replaces the ETag where there is none. */
  readonly modified: string | undefined;
  /** The MD5 of the whole blob, where the server knows it. */
  readonly md5: Buffer | undefined;
  /** Whether the server sends ranges. */
  readonly ranges: boolean;
}

/** The longest range for which Azure gives a checksum. */
export const checkedRange = 4 * 2 ** 20;

type NamedBlob = Pick<BlobAddress, 'name' | 'baseName'>;

export class RemoteBlob {
  readonly address: NamedBlob;
  readonly #client: BlobClient;
  readonly #timeout: number;

  /** `timeout`: seconds without a byte after which a connection counts as dead. */
  constructor(address: NamedBlob, client: BlobClient, timeout: number) {
    this.address = address;
    this.#client = client;
    this.#timeout = timeout;
  }

  static async open(address: BlobAddress, timeout: number): Promise<RemoteBlob> {
    return new RemoteBlob(address, await blobClientOf(address), timeout);
  }

  /** @throws Error that says why: the server cannot be reached, there is no such blob, access is denied. */
  async version(signal?: AbortSignal): Promise<BlobVersion> {
    const { name } = this.address;
    const ask = async ({ signal: abortSignal }: { signal: AbortSignal }) => {
      const found = await this.#client.getProperties({ abortSignal });
      const size = found.contentLength;
      if (size === undefined) throw new Error(`${name}: the server does not say how large it is`);
      const etag = found.etag === noETag ? undefined : found.etag;
      return {
        size,
        etag,
        modified: found.lastModified?.toISOString(),
        md5: found.contentMD5 && Buffer.from(found.contentMD5),
        ranges: found.acceptRanges === 'bytes' && etag !== undefined,
      };
    };
    return request(name, ask, { timeout: this.#timeout, signal });
  }

  /**
   * Fills `into` with the bytes from `from` on. `onBytes` receives how many bytes came, and a negative number for bytes
   * that are discarded.
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
    await retrying(this.address.name, once, { signal, progressed: () => at > before });
  }

  /** Reads the whole blob in order, from a server that knows no ranges; `restart` begins each attempt. */
  async readAll(
    { size }: BlobVersion,
    restart: () => Promise<void>,
    onBytes: (bytes: Uint8Array) => Promise<void>,
    signal?: AbortSignal,
  ): Promise<void> {
    const once = async () => {
      let at = 0;
      await restart();
      await this.#stream(0, undefined, {}, signal, async (_, bytes) => {
        at += bytes.length;
        await onBytes(bytes);
      });
      if (at < size) throw new Error(`the connection ended early, after ${at} of ${size} bytes`);
      if (at > size) throw new BlobChanged(`${this.address.name}: has become larger`);
    };
    await retrying(this.address.name, once, { signal });
  }

  async #stream(
    from: number,
    length: number | undefined,
    options: object,
    signal: AbortSignal | undefined,
    onBytes: (response: BlobDownloadResponseParsed, bytes: Buffer) => void | Promise<void>,
  ): Promise<void> {
    await watched(this.#timeout, signal, async (watch) => {
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
    });
  }
}
