// Writing big files piece by piece, and saying in words what went wrong where they are written.
import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import pLimit from 'p-limit';
import { writeBytes } from '../files/atomic_write.js';
import type { ByteSource } from '../files/byte_source.js';

/** Room for what is read or hashed at a time, to be used again and again. */
export const makeRoom = (): Uint8Array => new Uint8Array(2 ** 22);

/** Runs what looks at many files, some at a time: object storage takes its time for each. */
export const severalAtOnce = pLimit(16);

export async function writeAll(
  path: string,
  handle: FileHandle,
  view: ArrayBufferView,
  position: number,
): Promise<void> {
  await onDisk(path, writeBytes(handle, new Uint8Array(view.buffer, view.byteOffset, view.byteLength), position));
}

/** The SHA-256 of a file, in hexadecimal; `room` is overwritten. */
export async function digestOf({ size, readInto }: ReadableFile, room: Uint8Array): Promise<string> {
  const hash = createHash('sha256');
  for (let at = 0; at < size; at += room.length) {
    const part = room.subarray(0, Math.min(room.length, size - at));
    await readInto(at, part);
    hash.update(part);
  }
  return hash.digest('hex');
}

export type ReadableFile = Pick<ByteSource, 'size' | 'readInto'>;

const reasons: Record<string, string> = {
  ENOSPC: 'no space is left on the disk',
  EDQUOT: 'the quota of the disk is used up',
  EACCES: 'permission is denied',
  EROFS: 'the disk can only be read',
  EIO: 'the disk reports an error',
};

/** Awaits work on a file, on a disk or in object storage, and says in words which file failed and why. */
export async function onDisk<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const reason =
      (code && reasons[code]) ?? (message.startsWith(`${path}: `) ? message.slice(path.length + 2) : message);
    throw new Error(
      `dump: cannot write ${path}: ${reason}. Finished shards are whole: run the same command again to go on`,
      { cause },
    );
  }
}
