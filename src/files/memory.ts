// What memory has room for, as far as that can be foreseen: systems hand out more than they have, and end a process that
// then uses it.
import { freemem, totalmem } from 'node:os';

// Less is taken without asking: the answer takes the system some time.
const unasked = 2 ** 26;

/**
 * Bytes that can be taken, about; undefined when `bytes` are that few. What may be garbage counts as free, and so does what
 * the system keeps of files that were read or written. Of a container's limit, process.availableMemory() takes that off.
 */
function availableFor(bytes: number): number | undefined {
  if (bytes <= unasked) return undefined;
  if (process.platform !== 'linux') return totalmem(); // what is free says little elsewhere: caches are not counted
  const { rss, arrayBuffers } = process.memoryUsage();
  const limit = process.constrainedMemory() || Number.POSITIVE_INFINITY;
  return Math.min(totalmem(), Math.min(freemem(), limit - rss) + arrayBuffers);
}

/** @throws RangeError when memory has no room for so many bytes: `WHAT take N bytes, …: ADVICE`. */
export function checkMemory(what: string, bytes: number, advice: string): void {
  const room = availableFor(bytes);
  if (room === undefined || bytes <= room) return;
  throw new RangeError(`${what} take ${bytes} bytes, and memory has room for ${Math.max(0, room)}: ${advice}`);
}

/** Zeroed bytes; what memory cannot hold is an error in words. */
export function allocate(name: string, length: number): Uint8Array<ArrayBuffer> {
  const room = availableFor(length);
  try {
    if (room !== undefined && length > room) throw new RangeError(`there is room for ${room}`);
    return new Uint8Array(length);
  } catch (cause) {
    throw new Error(`${name}: no memory for ${length} bytes`, { cause });
  }
}
