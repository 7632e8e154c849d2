// Fetches one blob into its folder of the cache: parts in parallel into a file of the final length, and a journal of
// the parts that have come, with their checksums. However a download ends, the next one continues with the parts whose
// checksums fit.
import { randomBytes } from 'node:crypto';
import { type FileHandle, open, readdir, readFile, rename, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import pLimit from 'p-limit';
import { writeBytes, writeFileAtomically } from '../atomic_write.js';
import type { Lease } from '../lease.js';
import { type CachedBlob, checksums, enter, storedName } from './blob_cache.js';
import { type BlobVersion, checkedRange, type RemoteBlob } from './blob_remote.js';
import { BlobChanged, diskErrors } from './blob_request.js';

export interface BlobProgress {
  /** The blob's address. */
  readonly name: string;
  /** Bytes that have come, those of an earlier attempt included. */
  readonly bytes: number;
  readonly total: number;
}

export interface DownloadOptions {
  readonly onProgress?: ((progress: BlobProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
  /** A blob of more bytes is not fetched. */
  readonly most?: number | undefined;
}

const partBytes = checkedRange;
const partsAtOnce = 8;
/** Requests at a time over all downloads of the process: each holds a part in memory. */
const requests = pLimit(16);
/** How often the journal is written: after a kill, the bytes that came since are fetched again. */
const journalMilliseconds = 500;
const mostVersions = 3;

/**
 * The blob as the server has it now. Once the lease on the folder is lost, no file gets its final name.
 * @throws Error that says why; the cache is as it was, and the bytes that have come are kept for the next attempt.
 */
export async function downloadBlob(
  remote: RemoteBlob,
  folder: string,
  lease: Pick<Lease, 'lost'>,
  options: DownloadOptions,
): Promise<CachedBlob> {
  for (let tries = 1; ; tries++) {
    const version = await remote.version(options.signal);
    const { most = Number.POSITIVE_INFINITY } = options;
    if (version.size > most) {
      throw new Error(`${remote.address.name}: has ${version.size} bytes, more than ${most}`);
    }
    try {
      return await downloadVersion(remote, version, folder, lease, options);
    } catch (error) {
      if (!(error instanceof BlobChanged)) throw explainDiskError(error, remote.address.name, folder);
      if (tries < mostVersions) continue;
      const { name } = remote.address;
      throw new Error(`${name}: was replaced ${tries} times while it was fetched; try again later`, { cause: error });
    }
  }
}

async function downloadVersion(
  remote: RemoteBlob,
  version: BlobVersion,
  folder: string,
  lease: Pick<Lease, 'lost'>,
  { onProgress, signal }: DownloadOptions,
): Promise<CachedBlob> {
  const { name, baseName } = remote.address;
  await checkLease(lease, name);
  const partial = await PartialFile.resumeOrCreate(folder, version);
  try {
    await checkSpace(folder, version.size - partial.bytes, name);
    const report = (pending: number) => onProgress?.({ name, bytes: partial.bytes + pending, total: version.size });
    report(0);
    if (version.ranges) await fetchParts(remote, version, partial, report, signal);
    else await fetchWhole(remote, version, partial, report, signal);
    await partial.close();
    const { sha256, md5 } = await checksums(partial.path, { withMd5: version.md5 !== undefined });
    if (md5 && !version.md5?.equals(md5)) {
      await partial.remove();
      throw new Error(`${name}: what came is damaged: its MD5 is not the one that the server gives; nothing was kept`);
    }
    if (!version.ranges) await checkSame(remote, version, signal);
    await checkLease(lease, name);
    const file = storedName(sha256, baseName);
    await rename(partial.path, join(folder, file)); // fails when another process has taken the partial file over
    await rm(partial.journalPath, { force: true });
    const fetched = new Date().toISOString();
    const { size, etag = null, modified = null } = version;
    return await enter(folder, { name, size, sha256, etag, modified, fetched }, file);
  } catch (error) {
    await partial.close();
    if (error instanceof BlobChanged) await partial.remove();
    throw error;
  }
}

async function fetchParts(
  remote: RemoteBlob,
  version: BlobVersion,
  partial: PartialFile,
  report: (pending: number) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  const failed = new AbortController(); // the first failure ends the other parts
  const stop = signal ? AbortSignal.any([signal, failed.signal]) : failed.signal;
  let pending = 0;
  const fetchPart = async (part: number): Promise<void> => {
    stop.throwIfAborted();
    const { from, length } = partial.rangeOf(part);
    const bytes = Buffer.allocUnsafeSlow(length);
    let came = 0;
    try {
      await remote.read(
        version,
        from,
        bytes,
        (count) => {
          came += count;
          pending += count;
          report(pending);
        },
        stop,
      );
      await partial.write(part, bytes, () => {
        pending -= came; // from now on the part is counted in partial.bytes
        came = 0;
      });
    } finally {
      pending -= came;
    }
    report(pending);
  };
  const own = pLimit(partsAtOnce);
  const parts = partial.missing().map((part) => own(() => requests(() => fetchPart(part))));
  const results = await Promise.allSettled(
    parts.map((part) =>
      part.catch((error) => {
        if (!stop.aborted) failed.abort(error);
        throw error;
      }),
    ),
  );
  await partial.writeJournal();
  signal?.throwIfAborted();
  if (failed.signal.aborted) throw failed.signal.reason;
  const rejected = results.find((result) => result.status === 'rejected');
  if (rejected) throw rejected.reason;
}

/** Fetches from a server that knows no ranges: each attempt begins at the start. */
async function fetchWhole(
  remote: RemoteBlob,
  version: BlobVersion,
  partial: PartialFile,
  report: (pending: number) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  let at = 0;
  const restart = async () => {
    at = 0;
    report(0);
  };
  const store = async (bytes: Uint8Array) => {
    await partial.writeAt(at, bytes);
    at += bytes.length;
    report(at);
  };
  await requests(() => remote.readAll(version, restart, store, signal));
}

/** @throws Error when the lease is lost: the partial file of another process must not be touched. */
async function checkLease(lease: Pick<Lease, 'lost'>, name: string): Promise<void> {
  if (await lease.lost()) throw new Error(`${name}: this process stood still, and another fetches the blob now`);
}

async function checkSame(remote: RemoteBlob, version: BlobVersion, signal: AbortSignal | undefined): Promise<void> {
  const now = await remote.version(signal);
  const same = now.size === version.size && now.etag === version.etag && now.modified === version.modified;
  if (!same) throw new BlobChanged(`${remote.address.name}: is another by now`);
}

async function checkSpace(folder: string, needed: number, name: string): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize >= needed) return;
  throw new Error(
    `${name}: no space in the cache: ${needed} bytes are needed in ${folder}, ${bavail * bsize} are free (SONDE_CACHE moves it)`,
  );
}

function explainDiskError(error: unknown, name: string, folder: string): unknown {
  const { code = '', message } = error as NodeJS.ErrnoException;
  if (!diskErrors.has(code)) return error;
  const why = code === 'ENOSPC' || code === 'EDQUOT' ? 'the disk is full' : message;
  return new Error(`${name}: cannot be written into the cache ${folder}: ${why} (SONDE_CACHE moves it)`, {
    cause: error,
  });
}

interface Journal {
  readonly version: string;
  /** The parts that have come, each with its CRC-32. */
  readonly parts: readonly (readonly [number, number])[];
}

const partialName = /^([0-9a-f]{8})\.partial$/;
/** Files that a process leaves behind when it is killed while it writes a journal or an entry. */
const leftover = /\.(journal|json)\.[0-9a-f]+\.partial$/;

/** The file that a download fills, and its journal. Each process gives them its own name. */
class PartialFile {
  readonly path: string;
  readonly journalPath: string;
  readonly #handle: FileHandle;
  readonly #size: number;
  readonly #version: string;
  readonly #parts: Map<number, number>;
  #closed = false;
  #journalled = performance.now();
  #writing: Promise<void> = Promise.resolve();

  private constructor(path: string, handle: FileHandle, size: number, version: string, parts: Map<number, number>) {
    this.path = path;
    this.journalPath = path.replace(/\.partial$/, '.journal');
    this.#handle = handle;
    this.#size = size;
    this.#version = version;
    this.#parts = parts;
  }

  /** Takes over the file that an earlier download of the same version left, and removes those that others left. */
  static async resumeOrCreate(folder: string, version: BlobVersion): Promise<PartialFile> {
    const label = JSON.stringify([version.etag ?? version.modified ?? null, version.size, partBytes]);
    const path = join(folder, `${randomBytes(4).toString('hex')}.partial`);
    let parts = new Map<number, number>();
    for (const file of await readdir(folder)) {
      if (leftover.test(file)) await rm(join(folder, file), { force: true });
      const id = partialName.exec(file)?.[1];
      if (id === undefined) continue;
      const left = await readJournal(join(folder, `${id}.journal`), label);
      const wanted = left !== undefined && version.ranges && parts.size === 0;
      if (wanted && (await renamed(join(folder, file), path))) parts = left;
      else await rm(join(folder, file), { force: true });
      await rm(join(folder, `${id}.journal`), { force: true });
    }
    const handle = await open(path, parts.size > 0 ? 'r+' : 'w+');
    const partial = new PartialFile(path, handle, version.size, label, parts);
    await partial.#dropDamaged();
    await handle.truncate(version.size);
    if (parts.size > 0) await partial.writeJournal();
    return partial;
  }

  /** The bytes of all parts that have come. */
  get bytes(): number {
    let sum = 0;
    for (const part of this.#parts.keys()) sum += this.rangeOf(part).length;
    return sum;
  }

  missing(): number[] {
    const count = Math.ceil(this.#size / partBytes);
    return Array.from({ length: count }, (_, part) => part).filter((part) => !this.#parts.has(part));
  }

  rangeOf(part: number): { from: number; length: number } {
    const from = part * partBytes;
    return { from, length: Math.min(partBytes, this.#size - from) };
  }

  /** `onStored` is called when the part begins to count. */
  async write(part: number, bytes: Buffer, onStored: () => void): Promise<void> {
    await this.writeAt(this.rangeOf(part).from, bytes);
    this.#parts.set(part, crc32(bytes));
    onStored();
    if (performance.now() - this.#journalled >= journalMilliseconds) await this.writeJournal();
  }

  writeAt(position: number, bytes: Uint8Array): Promise<void> {
    return writeBytes(this.#handle, bytes, position);
  }

  /** Writes the journal when the parts in it are on the disk. */
  writeJournal(): Promise<void> {
    this.#journalled = performance.now();
    const journal: Journal = { version: this.#version, parts: [...this.#parts] };
    this.#writing = this.#writing.then(async () => {
      await this.#handle.datasync();
      await writeFileAtomically(this.journalPath, JSON.stringify(journal));
    });
    return this.#writing;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#writing.catch(() => {}); // the caller of writeJournal() gets the error
    await this.#handle.sync().catch(() => {});
    await this.#handle.close();
  }

  async remove(): Promise<void> {
    await this.close();
    await rm(this.path, { force: true });
    await rm(this.journalPath, { force: true });
  }

  async #dropDamaged(): Promise<void> {
    const bytes = Buffer.allocUnsafeSlow(partBytes);
    for (const [part, crc] of this.#parts) {
      const { from, length } = this.rangeOf(part);
      const { bytesRead } = length > 0 ? await this.#handle.read(bytes, 0, length, from) : { bytesRead: 0 };
      if (bytesRead !== length || crc32(bytes.subarray(0, length)) !== crc) this.#parts.delete(part);
    }
  }
}

async function readJournal(path: string, version: string): Promise<Map<number, number> | undefined> {
  try {
    const journal = JSON.parse(await readFile(path, 'utf8')) as Journal;
    if (journal.version !== version) return undefined;
    const valid = journal.parts.every(
      ([part, crc]) => Number.isSafeInteger(part) && part >= 0 && Number.isSafeInteger(crc),
    );
    return valid ? new Map(journal.parts.map(([part, crc]) => [part, crc])) : undefined;
  } catch {
    return undefined; // there is none, or it is damaged: the download starts over
  }
}

/** Renames a file; false when another process was first. */
async function renamed(from: string, to: string): Promise<boolean> {
  try {
    await rename(from, to);
    return true;
  } catch {
    return false;
  }
}
