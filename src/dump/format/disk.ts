// Writes big files chunk by chunk, and says in messages what goes wrong while they are written.
import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { writeBytes } from '../../files/atomic_write.js';
import { BlobChanged } from '../../files/blob/blob_request.js';
import type { ByteSource } from '../../files/byte_source.js';
import type { Store } from '../../files/store/store.js';
import { writeError } from '../../files/write_failure.js';

/** A buffer for what is read or hashed at a time. It is reused. */
export const makeBuffer = (): Uint8Array => new Uint8Array(2 ** 22);

/** The number of files that are checked in parallel. Object storage is slow for each. */
const atOnce = 16;

/**
 * Calls `work` for each item, for several at a time. Items are taken one by one, so that nothing is kept for those that
 * wait. After a failure no more are taken.
 */
export async function forEachAtOnce<T>(items: Iterable<T>, work: (item: T) => Promise<void>): Promise<void> {
  const left = items[Symbol.iterator]();
  let failed = false;
  const takeAll = async () => {
    for (let next = left.next(); !failed && next.done !== true; next = left.next()) {
      try {
        await work(next.value);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: atOnce }, takeAll));
}

/** Reads a file as a whole; undefined when it is not there. @throws Error when it is too large, or cannot be read. */
export async function readSmallFile(store: Store, name: string, most: number): Promise<Buffer | undefined> {
  const found = await store.find(name);
  if (!found) return undefined;
  if (!found.regular) throw new Error('it is not a regular file');
  if (found.size > most) throw new Error(`it is ${found.size} bytes long`);
  for (let attempt = 1; ; attempt++) {
    try {
      const file = await store.open(name);
      try {
        return Buffer.from(await file.read(0, file.size));
      } finally {
        await file.close();
      }
    } catch (error) {
      if (!(await store.find(name))) return undefined; // it was removed just now
      if (!(error instanceof BlobChanged) || attempt === attempts) throw error;
    }
  }
}

/** A blob that another one replaces while it is read is read again. */
const attempts = 10;

export async function writeAll(
  path: string,
  handle: FileHandle,
  view: ArrayBufferView,
  position: number,
): Promise<void> {
  await onDisk(path, writeBytes(handle, new Uint8Array(view.buffer, view.byteOffset, view.byteLength), position));
}

/**
 * The SHA-256 of a file, in hexadecimal. `buffer` is overwritten. `onPart` is called with each part that lies in it, and
 * with the part's position in the file, a multiple of the buffer's length.
 */
export async function digestOf(
  { size, readInto }: ReadableFile,
  buffer: Uint8Array,
  onPart?: (position: number, bytes: Uint8Array) => void,
): Promise<string> {
  const hash = createHash('sha256');
  for (let at = 0; at < size; at += buffer.length) {
    const part = buffer.subarray(0, Math.min(buffer.length, size - at));
    await readInto(at, part);
    hash.update(part);
    onPart?.(at, part);
  }
  return hash.digest('hex');
}

export type ReadableFile = Pick<ByteSource, 'size' | 'readInto'>;

/** Why a folder cannot be listed. */
export function whyUnreadable({ code, message }: NodeJS.ErrnoException): string {
  if (code === 'ENOENT') return 'there is no such folder';
  return code === 'ENOTDIR' ? 'it is no folder, or lies below a file' : message;
}

/** The wording of an error about a failure to write. */
export interface Writing {
  readonly operation: string;
  /** What the user can do, where the same call can succeed another time. */
  readonly advice: string;
}

/** The advice for a dump that has failed, and can be continued. */
export const continueAdvice = 'Finished shards are whole: run the same command again to go on';

const dumping: Writing = { operation: 'dump', advice: continueAdvice };

/** Awaits work on a file, on a disk or in object storage, and reports which file failed and why. */
export async function onDisk<T>(path: string, work: Promise<T>, how = dumping): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    const { operation, advice } = how;
    const { reason, needsOtherPath } = await writeError(path, 'file', cause);
    const what = needsOtherPath ? ': choose another folder' : advice && `. ${advice}`;
    throw new Error(`${operation}: cannot write ${path}: ${reason}${what}`, { cause });
  }
}
