// Estimates how much memory can be allocated. Systems grant more memory than they have, and end a process that then
// uses it.
import { freemem, totalmem } from 'node:os';

// Less is allocated without asking: the answer takes the system some time.
const unchecked = 2 ** 26;

/**
 * About how many bytes can be allocated; undefined when `bytes` are too few to ask. Possible garbage counts as free,
 * and so does the system's cache of files. (process.availableMemory() subtracts that cache from a container's limit.)
 */
function availableFor(bytes: number): number | undefined {
  if (bytes <= unchecked) return undefined;
  if (process.platform !== 'linux') return totalmem(); // elsewhere caches do not count as free
  const { rss, arrayBuffers } = process.memoryUsage();
  const limit = process.constrainedMemory() || Number.POSITIVE_INFINITY;
  return Math.min(totalmem(), Math.min(freemem(), limit - rss) + arrayBuffers);
}

/** @throws RangeError when so many bytes do not fit in memory: `WHAT take N bytes, …: ADVICE`. */
export function checkMemory(what: string, bytes: number, advice: string): void {
  const available = availableFor(bytes);
  if (available === undefined || bytes <= available) return;
  throw new RangeError(`${what} take ${bytes} bytes, and memory has room for ${Math.max(0, available)}: ${advice}`);
}

/** Zeroed bytes. @throws Error when they do not fit in memory. */
export function allocate(name: string, length: number): Uint8Array<ArrayBuffer> {
  const available = availableFor(length);
  try {
    if (available !== undefined && length > available) throw new RangeError(`${available} are available`);
    return new Uint8Array(length);
  } catch (cause) {
    throw new Error(`${name}: no memory for ${length} bytes`, { cause });
  }
}
