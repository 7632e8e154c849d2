// The right of one process at a time to fill a folder: a file that its owner touches every second. When it has not been
// touched for a while, its owner is gone, or stands still, and another may take over; at once, if the owner is known to be
// dead. Nothing but efficiency rests on it: two that both believe to be the owner do the same work twice.
import { randomUUID } from 'node:crypto';
import { constants, readFileSync, readlinkSync } from 'node:fs';
import { lstat, open, rename, rm, utimes } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { shown } from './text.js';

export interface Claim {
  /** Whether it is somebody else's by now. */
  lost(): Promise<boolean>;
  release(): Promise<void>;
}

/** What a claim says of its owner. `place` is where the process number means something. */
export interface Owner {
  readonly token: string;
  readonly host: string;
  readonly place: string;
  readonly pid: number;
}

const touchMilliseconds = 1000;
const staleMilliseconds = 5000;
const pollMilliseconds = 100;
/** More than what an owner says of itself. */
const longestOwner = 4096;

/**
 * The claim on a folder, or undefined while somebody else has it. It ends with the process, however that ends.
 * `name` is the file's, as a folder may be shared by several that each fill a part of it.
 */
export async function claim(folder: string, name = 'claim'): Promise<Claim | undefined> {
  const path = join(folder, name);
  const self = thisProcess();
  if (!(await created(path, self))) {
    if (!(await isStale(path))) return undefined;
    await takeAway(path, self.token);
    if (!(await created(path, self))) return undefined;
  }
  const owned = async () => (await ownerOf(path))?.token === self.token;
  const touch = async () => {
    if (await owned()) await utimes(path, new Date(), new Date());
  };
  const timer = setInterval(() => touch().catch(() => {}), touchMilliseconds);
  timer.unref();
  return {
    lost: async () => !(await owned()),
    async release() {
      clearInterval(timer);
      if (await owned()) await rm(path, { force: true });
    },
  };
}

/**
 * The claim on a folder, or in words who has it: `process 123 on some-host`. Of an owner that cannot be asked, whether it
 * is at work shows within some seconds.
 */
export async function claimOrOwner(folder: string, name: string): Promise<Claim | string> {
  const path = join(folder, name);
  let first: number | undefined;
  for (;;) {
    const claimed = await claim(folder, name);
    if (claimed) return claimed;
    const touched = (await lstat(path).catch(() => undefined))?.mtimeMs;
    if (first !== undefined && touched !== undefined && touched !== first) break;
    first ??= touched;
    await sleep(pollMilliseconds);
  }
  return ownerInWords(await ownerOf(path));
}

/** This process as the owner of a new claim. */
export const thisProcess = (): Owner => ({ token: randomUUID(), host: hostname(), place: place(), pid: process.pid });

export const ownerInWords = (owner: Owner | undefined): string =>
  owner ? `process ${owner.pid} on ${shown(owner.host)}` : 'another process';

/** What `JSON.stringify(owner)` was; undefined for anything else. */
export function parseOwner(text: string): Owner | undefined {
  try {
    const owner = JSON.parse(text);
    const isText = ['token', 'host', 'place'].every((name) => typeof owner?.[name] === 'string');
    return isText && Number.isSafeInteger(owner.pid) && owner.pid > 0 ? owner : undefined;
  } catch {
    return undefined; // not written yet, or not to the end
  }
}

/** Of a process of this machine, whether it is at work; undefined for others. */
export const isAtWork = (owner: Owner): boolean | undefined =>
  owner.place === place() ? isAlive(owner.pid) : undefined;

async function created(path: string, self: Owner): Promise<boolean> {
  const handle = await open(path, 'wx').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'EEXIST') return undefined;
    throw error;
  });
  if (!handle) return false;
  try {
    await handle.writeFile(JSON.stringify(self));
    await handle.utimes(new Date(), new Date()); // by this machine's clock, as later on
    return true;
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  } finally {
    await handle.close();
  }
}

// The folder may come from anywhere: a link is not followed, a pipe not waited for, and a long file not read.
async function ownerOf(path: string): Promise<Owner | undefined> {
  const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
  const handle = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK).catch(() => undefined);
  if (!handle) return undefined; // not there, or a link
  try {
    const { size } = await handle.stat().then((found) => (found.isFile() ? found : { size: 0 }));
    if (size === 0 || size > longestOwner) return undefined;
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(size), 0, size, 0);
    return parseOwner(buffer.toString('utf8', 0, bytesRead));
  } catch {
    return undefined;
  } finally {
    await handle.close();
  }
}

async function isStale(path: string): Promise<boolean> {
  const found = await lstat(path).catch(() => undefined);
  if (!found) return false;
  if (found.isDirectory()) {
    throw new Error(`${path} is a folder, where the file of the process that writes here belongs: remove it`);
  }
  if (!found.isFile()) return true; // a link or a pipe, which no owner makes
  const owner = await ownerOf(path);
  const atWork = owner && isAtWork(owner);
  if (atWork === false) return true;
  if (Math.abs(Date.now() - found.mtimeMs) <= staleMilliseconds) return false;
  if (atWork === true) return true; // it stands still
  // It may be that another machine's clock goes wrong: then the file is touched meanwhile.
  await sleep(staleMilliseconds);
  return (await lstat(path).catch(() => undefined))?.mtimeMs === found.mtimeMs;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}

// One start of one machine, and there one container: elsewhere the same number is another process. Where a system does
// not tell, no other place is ever taken for this one, and only the time decides.
function place(): string {
  try {
    return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${readlinkSync('/proc/self/ns/pid')}`;
  } catch {
    return randomUUID();
  }
}

/** Only one of several gets to rename it. */
async function takeAway(path: string, token: string): Promise<void> {
  const aside = `${path}.${token}`;
  await rename(path, aside).catch(() => {});
  await rm(aside, { force: true });
}
