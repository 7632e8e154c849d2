// A process that makes shards for another one, which reads the corpus and keeps the manifest (workers.ts). It ends when
// it is told to, or when the other one is gone.
import { openDevice } from '../../engine/device.js';
import { openStore } from '../../files/store/open_store.js';
import { prepare } from '../shards/prepare.js';
import { LocalMaker } from '../shards/shard_maker.js';
import type { FromWorker, ToWorker, WorkerRequest } from './worker_messages.js';

const stop = new AbortController();
let maker: LocalMaker | undefined;
let work: Promise<void> = Promise.resolve();

let told: Promise<void> = Promise.resolve();

function tell(message: FromWorker): void {
  told = new Promise((resolve) => {
    process.send?.(message, undefined, undefined, () => resolve()); // who cannot hear any more is gone
  });
}

async function begin(request: WorkerRequest): Promise<void> {
  const { worker, corpus, ...options } = request;
  const { device, threads } = worker;
  const prepared = await prepare(
    {
      ...options,
      device: openDevice(device, threads === undefined ? {} : { threads }),
      onFetch: (progress) => tell({ kind: 'fetch', progress }),
      signal: stop.signal,
    },
    corpus,
  );
  maker = new LocalMaker(prepared, { out: openStore(options.out), signal: stop.signal });
  tell({ kind: 'prepared', settings: maker.settings, rowsPerShard: maker.rowsPerShard });
}

async function handle(message: ToWorker): Promise<void> {
  if (message.kind === 'prepare') return begin(message.request);
  if (!maker || message.kind === 'stop') return;
  if (message.kind === 'begin') {
    maker.begin({
      onStored: (tokens) => tell({ kind: 'stored', tokens }),
      onShard: async (number, entry) => tell({ kind: 'shard', number, entry }),
    });
  } else {
    await maker.take(message.block);
    maker.finish().catch(fail); // a shard's end may fail when no further block comes
  }
  tell({ kind: 'next' });
}

function fail(error: unknown): void {
  if (stop.signal.aborted) return;
  const { message, stack } = error instanceof Error ? error : new Error(String(error));
  tell({ kind: 'failed', message, stack });
}

async function end(): Promise<void> {
  stop.abort(new Error('the dump was stopped'));
  await work.catch(() => {});
  await maker?.close();
  await told;
  process.disconnect();
}

process.on('message', (message: ToWorker) => {
  if (message.kind === 'stop') end();
  else work = work.then(() => handle(message)).catch(fail);
});
process.on('disconnect', () => process.exit());
// Ctrl-C and a batch system's SIGTERM reach every process of a group. The other one decides, and tells.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {});
