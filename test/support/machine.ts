// Facts about the machine that the tests run on, and about this process in it.
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';

/** A port on which no process listens now. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Whether `unshare -rm` gives a process file systems of its own. */
export function canMount(): boolean {
  try {
    execFileSync('unshare', ['-rm', 'mount', '-t', 'tmpfs', 'none', '/mnt'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

/** Whether a program, which knows the option --version, is on the PATH. */
export const isInstalled = (name: string): boolean => spawnSync(name, ['--version']).status === 0;

/** The memory of this process in bytes, now (VmRSS) or at its peak (VmHWM), by Linux's /proc. */
export const ownMemory = (line: 'VmHWM' | 'VmRSS'): number =>
  1024 * Number(new RegExp(`^${line}:\\s+(\\d+) kB`, 'm').exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);
