// A lease on a folder: the right of one process at a time to fill it. It is a file that its owner touches every second.
// When the file has not been touched for a while, its owner has ended or is suspended, and another process may take the
// lease over; if the owner is known to be dead, it may do so at once. Only efficiency rests on leases: two processes
// that both believe to be the owner do the same work twice.
import { randomUUID } from 'node:crypto';
import { constants, readFileSync, readlinkSync } from 'node:fs';
import { lstat, open, rename, rm, utimes } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { shown } from './text.js';

export interface Lease {
  /** Whether another process has it by now. */
  lost(): Promise<boolean>;
  release(): Promise<void>;
}

/** The owner, as the file of a lease names it. `place` is the process space in which `pid` is a process. */
export interface Owner {
  readonly token: string;
  readonly host: string;
  readonly place: string;
  readonly pid: number;
}

const touchMilliseconds = 1000;
const staleMilliseconds = 5000;
const pollMilliseconds = 100;
/** The most bytes of an owner as text. */
export const longestOwner = 4096;

/**
 * The lease on a folder, or undefined while another process has it. It ends with the process, however that ends.
 * `name` is the name of the lease's file: several processes may share a folder and each fill a part of it.
 */
export async function takeLease(folder: string, name = 'claim'): Promise<Lease | undefined> {
  const path = join(folder, name);
  const self = thisProcess();
  if (!(await created(path, self))) {
    if (!(await isStale(path))) return undefined;
    await removeStale(path, self.token);
    if (!(await created(path, self))) return undefined;
  }
  const owned = async () => (await leaseFileAt(path))?.owner?.token === self.token;
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
 * The lease on a folder, or the name of its owner: `process 123 on some-host`. An owner on another machine cannot be
 * asked whether it is at work; that shows within some seconds. Owners that come and go are waited for.
 */
export async function leaseOrOwner(folder: string, name: string): Promise<Lease | string> {
  const path = join(folder, name);
  let first: LeaseFile | undefined;
  for (;;) {
    const lease = await takeLease(folder, name);
    if (lease) return lease;
    const now = await leaseFileAt(path);
    // A file with another token is the next owner's, which is new and was not touched yet.
    if (!first || !now || first.owner?.token !== now.owner?.token) first = now;
    else if (first.touched !== now.touched) return showOwner(now.owner);
    await sleep(pollMilliseconds);
  }
}

/** This process as the owner of a new lease. */
export const thisProcess = (): Owner => ({
  token: randomUUID(),
  host: hostname(),
  place: processSpace(),
  pid: process.pid,
});

export const showOwner = (owner: Owner | undefined): string =>
  owner ? `process ${owner.pid} on ${shown(owner.host)}` : 'another process';

/** The owner whose `JSON.stringify(owner)` a text is; undefined for any other text. */
export function parseOwner(text: string): Owner | undefined {
  try {
    const owner = JSON.parse(text);
    const isText = ['token', 'host', 'place'].every((name) => typeof owner?.[name] === 'string');
    return isText && Number.isSafeInteger(owner.pid) && owner.pid > 0 ? owner : undefined;
  } catch {
    return undefined; // it is not written yet, or not to the end
  }
}

/** Whether an owner on this machine is at work; undefined for owners on others. */
export const isAtWork = (owner: Owner): boolean | undefined =>
  owner.place === processSpace() ? isAlive(owner.pid) : undefined;

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

/** What a lease's file says; `owner` is undefined when it names none. */
interface LeaseFile {
  readonly owner: Owner | undefined;
  /** When it was touched last, in milliseconds. */
  readonly touched: number;
}

// The folder may come from anywhere: links are not followed, pipes do not block, and long files are not read.
async function leaseFileAt(path: string): Promise<LeaseFile | undefined> {
  const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
  const handle = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK).catch(() => undefined);
  if (!handle) {
    const found = await lstat(path).catch(() => undefined); // a link, or a file that only its owner's user may read
    return found && { owner: undefined, touched: found.mtimeMs };
  }
  try {
    const found = await handle.stat();
    const size = found.isFile() && found.size <= longestOwner ? found.size : 0;
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(size), 0, size, 0);
    return { owner: parseOwner(buffer.toString('utf8', 0, bytesRead)), touched: found.mtimeMs };
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
  if (!found.isFile()) return true; // it is a link or a pipe, which no owner makes
  const owner = (await leaseFileAt(path))?.owner;
  const atWork = owner && isAtWork(owner);
  if (atWork === false) return true;
  if (Math.abs(Date.now() - found.mtimeMs) <= staleMilliseconds) return false;
  if (atWork === true) return true; // its owner is suspended
  // The clock of another machine may be wrong: then the file is touched meanwhile.
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

// The boot of this machine and the container (PID namespace) in it: elsewhere the same number is another process. On a
// system that does not show them, every owner counts as being elsewhere, and only the time decides.
function processSpace(): string {
  try {
    return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${readlinkSync('/proc/self/ns/pid')}`;
  } catch {
    return randomUUID();
  }
}

/** Removes a stale file. Of several processes that try, only one succeeds in renaming it. */
async function removeStale(path: string, token: string): Promise<void> {
  const aside = `${path}.${token}`;
  await rename(path, aside).catch(() => {});
  await rm(aside, { force: true });
}
