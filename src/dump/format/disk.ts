// Writing big files piece by piece, and saying in words what went wrong where they are written.
import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import pLimit from 'p-limit';
import { writeBytes } from '../../files/atomic_write.js';
import type { ByteSource } from '../../files/byte_source.js';
import { writeError } from '../../files/write_failure.js';

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

/** Why a folder cannot be looked into. */
export function whyUnreadable({ code, message }: NodeJS.ErrnoException): string {
  if (code === 'ENOENT') return 'there is no such folder';
  return code === 'ENOTDIR' ? 'it is no folder, or lies below a file' : message;
}

/** How a failure to write is told. */
export interface Writing {
  readonly operation: string;
  /** What to do about it, where the same can succeed another time. */
  readonly advice: string;
}

const dumping: Writing = {
  operation: 'dump',
  advice: 'Finished shards are whole: run the same command again to go on',
};

/** Awaits work on a file, on a disk or in object storage, and says in words which file failed and why. */
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
