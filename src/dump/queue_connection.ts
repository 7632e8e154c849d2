// Connections to the Redis or Valkey of a queue.
import type { Queue } from 'bullmq';

export interface QueueOptions {
  /** `redis://HOST:PORT`, `rediss://` with TLS, `redis://USER:PASSWORD@HOST`. */
  readonly redis: string;
  /** Dumps of one name are worked on by the workers of that name. */
  readonly name: string;
}

export async function bullmq(): Promise<typeof import('bullmq')> {
  try {
    await import('ioredis');
    return await import('bullmq');
  } catch (cause) {
    throw new Error('sonde queue needs two optional packages that are not installed: npm install bullmq ioredis', {
      cause,
    });
  }
}

// For commands that end: a server that is not there is an error, at once.
export const once = (redis: string) => ({ url: redis, maxRetriesPerRequest: 1, retryStrategy: () => null });
// For workers: it will come back.
export const patient = (redis: string) => ({ url: redis, maxRetriesPerRequest: null });

export async function withQueue<T>({ redis, name }: QueueOptions, body: (queue: Queue) => Promise<T>): Promise<T> {
  const { Queue } = await bullmq();
  const queue = new Queue(name, { connection: once(redis) });
  let trouble: Error | undefined;
  queue.on('error', (error) => {
    trouble ??= error;
  });
  try {
    return await body(queue);
  } catch (cause) {
    if (!trouble) throw cause;
    throw new Error(`queue: no connection to ${shownAddress(redis)}: ${reasonOf(trouble)}`, { cause });
  } finally {
    await queue.close().catch(() => {});
  }
}

export const reasonOf = ({ message, code }: NodeJS.ErrnoException): string => message || code || 'unknown';

/** Without the password. */
export function shownAddress(redis: string): string {
  try {
    const { protocol, host } = new URL(redis);
    return `${protocol}//${host}`;
  } catch {
    return 'Redis';
  }
}
