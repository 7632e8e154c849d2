// The right of one process at a time to fill a folder: a file that its owner touches every second. When it has not been
// touched for a while, its owner is gone, or stands still, and another may take over. Nothing but efficiency rests on it:
// two that both believe to be the owner do the same work twice.
import { randomUUID } from 'node:crypto';
import { open, readFile, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';

export interface Claim {
  /** Whether it is somebody else's by now. */
  lost(): Promise<boolean>;
  release(): Promise<void>;
}

const touchMilliseconds = 1000;
const staleMilliseconds = 5000;

/** The claim on a folder, or undefined while somebody else has it. It ends with the process, however that ends. */
export async function claim(folder: string): Promise<Claim | undefined> {
  const path = join(folder, 'claim');
  const token = randomUUID();
  if (!(await created(path, token))) {
    if (!(await isStale(path))) return undefined;
    await takeAway(path, token);
    if (!(await created(path, token))) return undefined;
  }
  const owned = async () => (await readFile(path, 'utf8').catch(() => '')) === token;
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

async function created(path: string, token: string): Promise<boolean> {
  try {
    const handle = await open(path, 'wx');
    await handle.writeFile(token);
    await handle.utimes(new Date(), new Date()); // by this machine's clock, as later on
    await handle.close();
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

async function isStale(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  return found !== undefined && Math.abs(Date.now() - found.mtimeMs) > staleMilliseconds;
}

/** Only one of several gets to rename it. */
async function takeAway(path: string, token: string): Promise<void> {
  const aside = `${path}.${token}`;
  await rename(path, aside).catch(() => {});
  await rm(aside, { force: true });
}
