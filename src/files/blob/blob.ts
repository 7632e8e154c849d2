// Opens files wherever they lie: a path, az://account/container/path or https://…. A file on the network is fetched
// once into a cache on disk, by one process at a time; the others wait for it.
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pLimit from 'p-limit';
import {
  checkBoolean,
  checkCallback,
  checkInteger,
  checkOptions,
  checkSignal,
  describe,
  type OptionNames,
} from '../../checks/arguments.js';
import { type LocalSource, openFile } from '../byte_source.js';
import { takeLease } from '../lease.js';
import { rememberOrigin } from '../origin.js';
import { makeFolder, WriteError, writing } from '../write_failure.js';
import { isBlobUrl, parseBlobAddress } from './blob_address.js';
import { addressOfCopy, type CachedBlob, entryFolder, lookUp } from './blob_cache.js';
import { type BlobProgress, type DownloadOptions, downloadBlob } from './blob_download.js';
import { RemoteBlob } from './blob_remote.js';
import { Unreachable, usualTimeout } from './blob_request.js';

export type { CachedBlob } from './blob_cache.js';
export type { BlobProgress } from './blob_download.js';

/** Options of functions that may fetch files from the network. */
export interface FetchOptions {
  /** Called while bytes come, file by file; it is not called for files that are in the cache already. */
  onProgress?: (progress: BlobProgress) => void;
  /** Ends a download; the bytes that have come are kept for the next one. */
  signal?: AbortSignal;
}

export interface OpenBlobOptions extends FetchOptions {
  /** Ask the server whether the blob has changed, and fetch it again if so. Otherwise the copy in the cache is used. */
  refresh?: boolean;
  /** Seconds without a byte after which a connection counts as dead; 30 when left out. */
  timeout?: number;
}

export const fetchOptionNames: OptionNames<FetchOptions> = { onProgress: true, signal: true };
const openOptionNames: OptionNames<OpenBlobOptions> = { ...fetchOptionNames, refresh: true, timeout: true };

/** @throws TypeError unless the options of a function that may fetch files have values of their types. */
export function checkFetchOptions(operation: string, { onProgress, signal }: FetchOptions): void {
  checkCallback(operation, 'onProgress', onProgress);
  checkSignal(operation, signal);
}

function checkOpenOptions(operation: string, options: OpenBlobOptions): void {
  checkOptions(operation, options, openOptionNames);
  checkFetchOptions(operation, options);
  const { refresh, timeout } = options;
  checkBoolean(operation, 'refresh', refresh);
  if (timeout === undefined || (typeof timeout === 'number' && timeout > 0)) return;
  throw new RangeError(`${operation}: timeout must be above 0 seconds, but is ${describe(timeout)}`);
}

/** A file to read at any position: one of this machine, or a blob of which the cache has a copy. */
export class BlobFile implements AsyncDisposable {
  /** A path as it was given, or the address that was asked for, without a query. */
  readonly name: string;
  /** The path of the file on this machine. */
  readonly path: string;
  /** The size in bytes. */
  readonly size: number;
  /** The checksum of a blob's copy, in hexadecimal; undefined for a file that was given by its path. */
  readonly sha256: string | undefined;
  readonly #source: LocalSource;
  readonly #origin: string;

  /** @internal Use openBlob. */
  constructor(name: string, path: string, source: LocalSource, origin: string, sha256?: string) {
    this.name = name;
    this.path = path;
    this.size = source.size;
    this.#source = source;
    this.#origin = origin;
    this.sha256 = sha256;
  }

  /** @internal */
  get source(): LocalSource {
    return this.#source;
  }

  /** @internal The address, also of a copy in the cache that was opened by its path; or else the absolute path. */
  get origin(): string {
    return this.#origin;
  }

  /** A copy of `length` bytes from `position` on, or of all from there. @throws Error for bytes beyond the end. */
  async read(position = 0, length?: number): Promise<Uint8Array<ArrayBuffer>> {
    checkInteger('read', 'position', position, 0);
    const wanted = length === undefined ? this.size - position : checkInteger('read', 'length', length, 0);
    const bytes = await this.source.read(position, wanted);
    if (wanted === this.size) rememberOrigin(bytes, this.origin);
    return bytes;
  }

  close(): Promise<void> {
    return this.source.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/**
 * Opens a file: a path, `az://account/container/path`, or `https://…`. A blob is fetched into the cache, in parallel
 * ranges of one version of it, resumed across cut connections and killed processes, and checked against the checksums
 * that the server gives; later calls read the copy and need no network. Private containers:
 * AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_SAS_TOKEN.
 * @throws Error that names the blob and says what is wrong: it is not there, access is denied, the server cannot be
 *   reached, the blob was replaced while it was fetched, the disk is full.
 */
export async function openBlob(address: string, options: OpenBlobOptions = {}): Promise<BlobFile> {
  if (typeof address !== 'string' || address === '') {
    throw new TypeError(`openBlob: expected a path or an address, but got ${address === '' ? "''" : typeof address}`);
  }
  checkOpenOptions('openBlob', options);
  return openNamed('openBlob', address, options);
}

interface NamedOptions extends OpenBlobOptions {
  /** The largest file that makes sense, in bytes: a larger one is not even fetched. */
  readonly most?: number;
}

/** @internal The same for the function `reader`, whose name messages begin with. */
export async function openNamed(reader: string, address: string, options: NamedOptions = {}): Promise<BlobFile> {
  const { most = Number.POSITIVE_INFINITY } = options;
  if (!isBlobUrl(address)) {
    const label = `${reader}: ${address}`;
    const source = await openFile(label, address);
    if (source.size <= most) {
      return new BlobFile(address, address, source, (await addressOfCopy(address)) ?? resolve(address));
    }
    await source.close();
    throw new Error(`${label}: has ${source.size} bytes, more than ${most}`);
  }
  for (let tries = 1; ; tries++) {
    const { path, sha256, size } = await cached(reader, address, options);
    const { name } = parseBlobAddress(address);
    const label = `${reader}: ${name}`;
    if (size > most) throw new Error(`${label}: has ${size} bytes, more than ${most}`);
    try {
      return new BlobFile(name, path, await openFile(label, path), name, sha256);
    } catch (error) {
      // since it was found, it was replaced by a newer version or cleared away
      if (tries === 2 || (error as { cause?: NodeJS.ErrnoException }).cause?.code !== 'ENOENT') throw error;
    }
  }
}

/** Text of at most `most` bytes, UTF-8. */
export async function readText(reader: string, address: string, most = 2 ** 26): Promise<string> {
  await using file = await openNamed(reader, address, { most });
  return new TextDecoder().decode(await file.read());
}

/** Makes sure that the cache has blobs, several at a time. @throws the first error; the other downloads then end. */
export async function fetchBlobs(addresses: readonly string[], options: OpenBlobOptions = {}): Promise<CachedBlob[]> {
  checkOpenOptions('fetchBlobs', options);
  const failed = new AbortController();
  const signal = options.signal ? AbortSignal.any([options.signal, failed.signal]) : failed.signal;
  try {
    return await Promise.all(addresses.map((address) => fetchBlob(address, { ...options, signal })));
  } catch (error) {
    failed.abort(error);
    throw error;
  }
}

/** Makes sure that the cache has a blob, without opening it. */
export async function fetchBlob(address: string, options: OpenBlobOptions = {}): Promise<CachedBlob> {
  checkOpenOptions('fetchBlob', options);
  return cached('fetchBlob', address, options);
}

// Several blobs at a time, each in several parts; a second call for the same blob waits for the first.
const downloads = pLimit(8);
const underWay = new Map<string, Promise<CachedBlob>>();

async function cached(reader: string, address: string, options: NamedOptions): Promise<CachedBlob> {
  const { onProgress, signal, refresh = false, timeout = usualTimeout, most } = options;
  signal?.throwIfAborted();
  try {
    const parsed = parseBlobAddress(address);
    const folder = entryFolder(parsed.url);
    const there = refresh ? undefined : await lookUp(folder);
    if (there) return there;
    const fetch = () =>
      downloads(async () => {
        const remote = await RemoteBlob.open(parsed, timeout);
        return fetchInto(folder, remote, refresh, { onProgress, signal, most });
      });
    if (signal) return await fetch(); // only its own signal may end it
    const work = underWay.get(folder) ?? fetch().finally(() => underWay.delete(folder));
    underWay.set(folder, work);
    return await work;
  } catch (error) {
    signal?.throwIfAborted();
    const inCache = error instanceof WriteError ? '; SONDE_CACHE moves the cache' : '';
    const advice = error instanceof Unreachable ? withoutNetwork : inCache;
    throw new Error(`${reader}: ${(error as Error).message}${advice}`, { cause: error });
  }
}

const withoutNetwork =
  '; without a network only what is in the cache can be loaded, ' +
  'and SONDE_BLOB_ENDPOINT names a mirror of the public files';

const pollMilliseconds = 100;

async function fetchInto(
  folder: string,
  remote: RemoteBlob,
  refresh: boolean,
  options: DownloadOptions,
): Promise<CachedBlob> {
  const { signal } = options;
  for (;;) {
    signal?.throwIfAborted();
    await makeFolder(folder); // clearing the cache may have removed it
    const lease = await writing(folder, 'folder', takeLease(folder));
    if (!lease) {
      await sleep(pollMilliseconds, undefined, signal ? { signal } : {});
      continue;
    }
    try {
      const there = await lookUp(folder); // another process may have fetched it meanwhile
      if (there && !(refresh && (await hasChanged(remote, there, signal)))) return there;
      return await downloadBlob(remote, folder, lease, options);
    } catch (error) {
      if (!(await lease.lost())) throw error;
    } finally {
      await lease.release();
    }
  }
}

async function hasChanged(remote: RemoteBlob, there: CachedBlob, signal: AbortSignal | undefined): Promise<boolean> {
  const { etag = null, modified = null, size } = await remote.version(signal);
  return etag !== there.etag || modified !== there.modified || size !== there.size;
}
