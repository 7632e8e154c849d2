// Writing big files piece by piece aside, and saying in words what went wrong on a disk. Names of unfinished files
// are those of files/atomic_write.ts, so that all leftovers look alike.
import { createHash, randomBytes } from 'node:crypto';
import { type FileHandle, rm } from 'node:fs/promises';

/** Room for what is read or hashed at a time, to be used again and again. */
export const makeRoom = (): Uint8Array => new Uint8Array(2 ** 22);

// A full disk takes part of the bytes first, and says so at the next attempt.
export async function writeAll(
  path: string,
  handle: FileHandle,
  view: ArrayBufferView,
  position: number,
): Promise<void> {
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  for (let at = 0; at < bytes.length; ) {
    const { bytesWritten } = await onDisk(path, handle.write(bytes, at, bytes.length - at, position + at));
    at += bytesWritten;
  }
}

/** The SHA-256 of a file's first `bytes` bytes, in hexadecimal; `room` is overwritten. */
export async function digestOf(handle: FileHandle, bytes: number, room: Uint8Array): Promise<string> {
  const hash = createHash('sha256');
  for (let at = 0; at < bytes; ) {
    const { bytesRead } = await handle.read(room, 0, Math.min(room.length, bytes - at), at);
    if (bytesRead === 0) throw new Error('the file became shorter while it was in use');
    hash.update(room.subarray(0, bytesRead));
    at += bytesRead;
  }
  return hash.digest('hex');
}

const reasons: Record<string, string> = {
  ENOSPC: 'no space is left on the disk',
  EDQUOT: 'the quota of the disk is used up',
  EACCES: 'permission is denied',
  EROFS: 'the disk can only be read',
  EIO: 'the disk reports an error',
};

/** Awaits work on a file, and says in words which file failed and why. */
export async function onDisk<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const reason = (code && reasons[code]) ?? message;
    throw new Error(
      `dump: cannot write ${path}: ${reason}. Finished shards are whole: run the same command again to go on`,
      { cause },
    );
  }
}

const unfinishedPattern = /^(.+)\.[0-9a-f]{8}(\.[\w-]+)?\.partial$/;

/** Where a file, or a piece of it, is written until it is whole. `tag` tells one attempt from another. */
export const unfinishedPath = (path: string, tag: string, piece?: string): string =>
  [path, tag, ...(piece === undefined ? [] : [piece]), 'partial'].join('.');

export const newTag = (): string => randomBytes(4).toString('hex');

/** The file that another one is an unfinished piece of; undefined for other files. */
export const unfinishedOf = (name: string): string | undefined => unfinishedPattern.exec(name)?.[1];

/** Closes a file and removes it. */
export async function discard({ path, handle }: { path: string; handle: FileHandle }): Promise<void> {
  await handle.close().catch(() => {}); // closed already
  await rm(path, { force: true });
}
