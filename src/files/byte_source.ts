// Reads at a position, from a file, a blob or memory, never past the end. Files are read range by range (pread), so
// that a checkpoint need not fit in memory twice.
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { allocate } from './memory.js';
import { originOfBytes } from './origin.js';

export interface ByteSource {
  /** The reader and the file: messages begin with it. */
  readonly name: string;
  readonly size: number;
  /** A copy of `length` bytes from `position` on, at the start of a buffer of its own. */
  read(position: number, length: number): Promise<Uint8Array<ArrayBuffer>>;
  /** Fills `bytes` from `position` on. */
  readInto(position: number, bytes: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

/** A file of this machine, or memory. */
export interface LocalSource extends ByteSource {
  /** The file's descriptor, or all bytes. */
  readonly raw: number | Buffer;
  /** The absolute path, or the address, that the bytes came from, where that is known. */
  readonly origin?: string | undefined;
}

// The system reads no more than 2^31 - 4096 bytes at once.
const largestRead = 2 ** 30;

/** Opens a file for reading. Only regular files are opened: a pipe would block, and a device may never end. */
export async function openFile(name: string, path: string): Promise<LocalSource> {
  const handle = await explained(name, open(path, constants.O_RDONLY | constants.O_NONBLOCK));
  try {
    const stats = await explained(name, handle.stat());
    if (!stats.isFile()) throw new Error(`${name}: is no regular file`);
    return handleSource(name, handle, stats.size);
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** The first `size` bytes of an open file. Closing the source closes the handle. */
export function handleSource(name: string, handle: FileHandle, size: number): LocalSource {
  const fill = async (position: number, bytes: Uint8Array) => {
    for (let at = 0; at < bytes.length; ) {
      const part = Math.min(bytes.length - at, largestRead);
      const { bytesRead } = await explained(name, handle.read(bytes, at, part, position + at));
      if (bytesRead === 0) throw new Error(`${name}: became shorter while it was read`);
      at += bytesRead;
    }
  };
  return {
    name,
    size,
    raw: handle.fd,
    async read(position, length) {
      checkRange(name, size, position, length);
      const bytes = allocate(name, length);
      await fill(position, bytes);
      return bytes;
    },
    async readInto(position, bytes) {
      checkRange(name, size, position, bytes.length);
      await fill(position, bytes);
    },
    close: () => handle.close(),
  };
}

const reasons: Record<string, string> = {
  ENOENT: 'there is no such file',
  EACCES: 'permission is denied',
  EIO: 'the disk reports an error',
  ERR_INVALID_ARG_VALUE: 'it is no path',
};

async function explained<T>(name: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    throw new Error(`${name}: ${(code && reasons[code]) ?? message}`, { cause });
  }
}

export function ofBytes(name: string, all: Uint8Array): LocalSource {
  return {
    name,
    size: all.length,
    origin: originOfBytes(all),
    raw: Buffer.from(all.buffer, all.byteOffset, all.length),
    async read(position, length) {
      checkRange(name, all.length, position, length);
      const bytes = allocate(name, length);
      bytes.set(all.subarray(position, position + length));
      return bytes;
    },
    async readInto(position, bytes) {
      checkRange(name, all.length, position, bytes.length);
      bytes.set(all.subarray(position, position + bytes.length));
    },
    async close() {},
  };
}

/**
 * `bytes` bytes from `start` on, slice by slice: each lies in `buffer` and is valid until the next one is asked for.
 */
export async function* sourceSlices(
  source: ByteSource,
  start: number,
  bytes: number,
  buffer: ArrayBuffer,
): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes; at += buffer.byteLength) {
    const slice = new Uint8Array(buffer, 0, Math.min(buffer.byteLength, bytes - at));
    await source.readInto(start + at, slice);
    yield slice;
  }
}

/** @throws Error for bytes beyond the end. */
export function checkRange(name: string, size: number, position: number, length: number): void {
  if (position >= 0 && length >= 0 && position + length <= size) return;
  throw new Error(`${name}: is cut short or damaged: ${length} bytes are wanted at ${position}, the end is ${size}`);
}
