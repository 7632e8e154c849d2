// Atomic writing: a file appears under its name only when it is whole and on the disk. It is written aside, synced and
// renamed, and then its folder is synced, so that not even a power cut leaves half a file or an old name. After a
// failure, the unfinished file is removed.
import { randomBytes } from 'node:crypto';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { checkReplaceable, writing } from './write_failure.js';

/** Bytes, or text to be written as UTF-8. */
export type Chunk = string | Uint8Array;

/**
 * Writes a file as a whole or not at all. An older file of that name stays until the new one replaces it.
 * @throws WriteError when the file cannot be written; errors thrown while the chunks are made stay as they are.
 */
export async function writeFileAtomically(
  path: string,
  chunks: Chunk | Iterable<Chunk> | AsyncIterable<Chunk>,
): Promise<void> {
  await checkReplaceable(path);
  const aside = `${path}.${randomBytes(4).toString('hex')}.partial`;
  const handle = await writing(path, 'file', open(aside, 'wx'));
  try {
    await writeAll(path, handle, typeof chunks === 'string' || chunks instanceof Uint8Array ? [chunks] : chunks);
    await writing(path, 'file', handle.sync());
    await handle.close();
    await writing(path, 'file', rename(aside, path));
  } catch (error) {
    await handle.close().catch(() => {}); // it is closed already
    await rm(aside, { force: true });
    throw error;
  }
  await writing(path, 'file', syncFolder(dirname(path)));
}

// The system writes no more than 2^31 - 4096 bytes at once.
const largestWrite = 2 ** 30;

async function writeAll(
  path: string,
  handle: FileHandle,
  chunks: Iterable<Chunk> | AsyncIterable<Chunk>,
): Promise<void> {
  for await (const chunk of chunks) {
    await writing(path, 'file', writeBytes(handle, typeof chunk === 'string' ? Buffer.from(chunk) : chunk));
  }
}

/**
 * Writes bytes at a position, or at the file's current one. A full disk takes some of the bytes and fails at the next
 * write.
 */
export async function writeBytes(handle: FileHandle, bytes: Uint8Array, position?: number): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const length = Math.min(bytes.length - at, largestWrite);
    const { bytesWritten } = await handle.write(bytes, at, length, position === undefined ? null : position + at);
    at += bytesWritten;
  }
}

/** Syncs a folder, so that the names in it last. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
