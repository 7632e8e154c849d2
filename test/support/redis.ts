// A Redis or Valkey that a test starts, and workers on it. Its password, ACL and TLS are options of the server.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import type { Outcome } from '../cli/command.js';
import { sampleText } from '../dump/folders.js';
import { withFolder } from './folders.js';
import { freePort, isInstalled } from './machine.js';

export const main = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));
const installed = ['redis-server', 'valkey-server'].find(isInstalled);
/** Why no server can be started here; undefined where one can. */
export const noRedis = installed ? undefined : 'no redis-server is installed';

export interface RedisOptions {
  /** Arguments for the server's command line, such as `--requirepass secret`. */
  readonly args?: readonly string[];
  /** Its port speaks TLS, with the certificate that `args` name. */
  readonly tls?: boolean;
}

/** A server that keeps its data in a folder, and can be stopped and started. */
export class Redis {
  /** Without user and password. */
  readonly url: string;
  readonly port: number;
  readonly #folder: string;
  readonly #options: RedisOptions;
  #child: ChildProcess | undefined;

  private constructor(port: number, folder: string, options: RedisOptions) {
    this.url = `${options.tls ? 'rediss' : 'redis'}://127.0.0.1:${port}`;
    this.port = port;
    this.#folder = folder;
    this.#options = options;
  }

  static async start(folder: string, options: RedisOptions = {}): Promise<Redis> {
    await mkdir(folder);
    const redis = new Redis(await freePort(), folder, options);
    await redis.start();
    return redis;
  }

  async start(): Promise<void> {
    const { args: more = [], tls = false } = this.#options;
    const port = tls ? ['--port', '0', '--tls-port', `${this.port}`] : ['--port', `${this.port}`];
    const args = [...port, '--bind', '127.0.0.1', '--dir', this.#folder, '--appendonly', 'yes', ...more];
    this.#child = spawn(installed as string, args, { stdio: ['ignore', 'pipe', 'ignore'] });
    let log = '';
    for await (const text of this.#child.stdout as AsyncIterable<Buffer>) {
      log += text.toString();
      if (log.includes('Ready to accept connections')) break;
    }
    assert.match(log, 'Ready to accept connections');
    this.#child.stdout?.resume();
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.#child?.once('close', resolve));
    this.#child?.kill();
    await ended;
  }

  /** The server's address for a user; both are written as a URL demands. */
  urlFor(user: string, password: string): string {
    return this.url.replace('//', `//${encodeURIComponent(user)}:${encodeURIComponent(password)}@`);
  }
}

type RedisBody = (redis: Redis, at: (name: string) => string) => Promise<void>;

export const withRedis = (body: RedisBody, options?: RedisOptions): Promise<void> =>
  withFolder(async (folder) => {
    const redis = await Redis.start(join(folder, 'redis'), options);
    try {
      await body(redis, (name) => join(folder, name));
    } finally {
      await redis.stop();
    }
  });

export interface Worker {
  readonly child: ChildProcess;
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null; stderr: string }>;
  /** Lines of finished work so far. */
  readonly done: string[];
  /** Its standard error so far. */
  readonly said: () => string;
}

/** Options that let a worker use the folders of tests. */
const allowed = ['--allow-out', tmpdir(), '--allow-corpus', tmpdir(), sampleText];

/** `sonde queue work` on this server, for dumps in folders of tests. */
export const startWorker = (redis: string, ...more: string[]): Worker => startWorkerWith({}, '--redis', redis, ...more);

/** The same with variables of the environment. */
export const startWorkerWith = (env: Record<string, string>, ...more: string[]): Worker =>
  startPlainWorker({ env }, ...allowed, ...more);

/** A worker with the default permissions and further arguments. */
export function startPlainWorker(where: { cwd?: string; env?: Record<string, string> }, ...more: string[]): Worker {
  const args = ['queue', 'work', '--threads', '1', '--lock', '2', ...more];
  const child = spawn(process.execPath, [main, ...args], {
    ...{ stdio: ['ignore', 'pipe', 'pipe'], cwd: where.cwd, env: { ...process.env, ...where.env } },
  });
  const done: string[] = [];
  let stderr = '';
  child.stdout.on('data', (text: Buffer) => done.push(...text.toString().trim().split('\n')));
  child.stderr.on('data', (text: Buffer) => {
    stderr += text;
  });
  const ended = new Promise<Awaited<Worker['ended']>>((resolve) => {
    child.on('close', (code, signal) => resolve({ code, signal, stderr }));
  });
  return { child, ended, done, said: () => stderr };
}

export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await sleep(20);
}

/** The output of a command that must have ended well. */
export const good = ({ code, stdout, stderr }: Outcome): string => {
  assert.is(code, 0, stderr);
  return stdout;
};
