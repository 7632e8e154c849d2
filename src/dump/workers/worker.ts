// A process that makes shards for its parent, which reads the corpus and writes the manifest (workers.ts). It ends when
// the parent says so, or when the parent has ended.
import { openDevice } from '../../engine/device.js';
import { openStore } from '../../files/store/open_store.js';
import { NonFiniteError } from '../format/non_finite.js';
import { prepare } from '../shards/prepare.js';
import { LocalMaker } from '../shards/shard_maker.js';
import type { FromWorker, ToWorker, WorkerRequest } from './worker_messages.js';

const stop = new AbortController();
let maker: LocalMaker | undefined;
let work: Promise<void> = Promise.resolve();
let sent: Promise<void> = Promise.resolve(); // the last message

function send(message: FromWorker): void {
  sent = new Promise((resolve) => {
    process.send?.(message, undefined, undefined, () => resolve()); // a failure means that the parent has ended
  });
}

async function begin(request: WorkerRequest): Promise<void> {
  const { worker, corpus, ...options } = request;
  const { device, threads } = worker;
  const prepared = await prepare(
    {
      ...options,
      device: openDevice(device, threads === undefined ? {} : { threads }),
      onFetch: (progress) => send({ kind: 'fetch', progress }),
      signal: stop.signal,
    },
    corpus,
  );
  maker = new LocalMaker(prepared, { out: openStore(options.out), signal: stop.signal });
  const { settings, computing, rowsPerShard } = maker;
  send({ kind: 'prepared', settings, computing, rowsPerShard });
}

async function handle(message: ToWorker): Promise<void> {
  if (message.kind === 'prepare') return begin(message.request);
  if (!maker || message.kind === 'stop') return;
  if (message.kind === 'begin') {
    maker.begin({
      onStored: (tokens) => send({ kind: 'stored', tokens }),
      onShard: async (number, entry) => send({ kind: 'shard', number, entry }),
    });
  } else {
    await maker.take(message.block);
    maker.finish().catch(fail); // the last shard may fail when no further block comes
  }
  send({ kind: 'next' });
}

function fail(error: unknown): void {
  if (stop.signal.aborted) return;
  const { message, stack } = error instanceof Error ? error : new Error(String(error));
  const nonFinite = error instanceof NonFiniteError && { nonFinite: error.shard };
  send({ kind: 'failed', message, stack, ...nonFinite });
}

async function end(): Promise<void> {
  stop.abort(new Error('the dump was stopped'));
  await work.catch(() => {});
  await maker?.close();
  await sent;
  process.disconnect();
}

process.on('message', (message: ToWorker) => {
  if (message.kind === 'stop') end();
  else work = work.then(() => handle(message)).catch(fail);
});
process.on('disconnect', () => process.exit());
// Ctrl-C and a batch system's SIGTERM reach every process of a group. The parent decides what happens, and sends a
// message.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {});
