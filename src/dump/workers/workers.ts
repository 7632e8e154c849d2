// Several processes that make the shards of one dump, on one device each. This process reads the corpus, gives the next
// block to a worker that is free, and writes the manifest. So standard input and a caller's documents work as files do,
// fast devices get more blocks than slow ones, and the folder is that of one process, byte for byte.
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { unlessAborted } from '../../files/promises.js';
import { gpt2Tokenizer } from '../../files/tokenizer/tokenizer.js';
import type { Block } from '../corpus/blocks.js';
import type { SourceDescription } from '../corpus/corpus.js';
import { continueAdvice } from '../format/disk.js';
import { allArithmetics, differenceOf } from '../format/manifest.js';
import { NonFiniteError } from '../format/non_finite.js';
import type { DumpSettings } from '../format/settings.js';
import { type Computing, checkDevices } from '../shards/folder.js';
import type { DumpOptions, WorkerOptions } from '../shards/options.js';
import type { ShardEvents, ShardMaker } from '../shards/shard_maker.js';
import type { FromWorker, ToWorker, WorkerRequest } from './worker_messages.js';

const program = fileURLToPath(new URL('worker.js', import.meta.url));
const secondsToStop = 30;

type Prepared = Extract<FromWorker, { kind: 'prepared' }>;

export class WorkerPool implements ShardMaker {
  readonly settings: DumpSettings;
  readonly computing: Computing;
  readonly rowsPerShard: number;
  readonly #workers: readonly Worker[];
  readonly #signal: AbortSignal | undefined;
  readonly #ready: Worker[] = [];
  #events: ShardEvents | undefined;
  /** The numbers of the blocks that were given to workers and are no finished shards yet. */
  readonly #unfinished = new Set<number>();
  #recorded: Promise<unknown> = Promise.resolve(); // entries of shards in the manifest
  #failure: Error | undefined;
  /** A value that must be finite, in the first shard so far that has one. Earlier shards may have one, too. */
  #nonFinite: NonFiniteError | undefined;
  #changed: () => void = () => {};

  private constructor(
    workers: readonly Worker[],
    prepared: Prepared,
    computing: Computing,
    signal: AbortSignal | undefined,
  ) {
    this.settings = prepared.settings;
    this.computing = computing;
    this.rowsPerShard = prepared.rowsPerShard;
    this.#workers = workers;
    this.#signal = signal;
  }

  /**
   * Starts the processes. The first one loads the model and the autoencoders before the others do. So files are fetched
   * only once, and an error is reported only once.
   */
  static async start(options: DumpOptions, corpus: readonly SourceDescription[]): Promise<WorkerPool> {
    const { workers: requested = [], signal, onFetch, anyArithmetic = false } = options;
    const workers: Worker[] = [];
    const prepared = (worker: WorkerOptions) => {
      const started = new Worker(worker, workers.length);
      workers.push(started);
      return started.prepare(requestOf(options, worker, corpus), onFetch, signal);
    };
    try {
      const [first, ...others] = requested as [WorkerOptions, ...WorkerOptions[]];
      const plan = await prepared(first);
      const more = await Promise.all(others.map(prepared));
      for (const { settings } of more) checkSame(plan.settings, settings);
      const arithmetic = allArithmetics(...[plan, ...more].map((one) => one.computing.arithmetic));
      const computing = { arithmetic, anyArithmetic };
      checkDevices(computing);
      return new WorkerPool(workers, plan, computing, signal);
    } catch (error) {
      await Promise.all(workers.map((worker) => worker.stop()));
      throw error;
    }
  }

  get encode(): (text: string) => number[] {
    if (this.settings.tokenizer === 'gpt2') return gpt2Tokenizer().encode;
    return () => {
      throw new Error(`the tokenizer of ${this.settings.model.name} is not known: give tokens`);
    };
  }

  begin(events: ShardEvents): void {
    this.#events = events;
    for (const worker of this.#workers) {
      worker.listen(
        (message) => this.#receive(worker, message),
        (error) => this.#fail(error),
      );
      worker.send({ kind: 'begin' });
    }
  }

  async take(block: Block): Promise<void> {
    await this.#until(() => this.#ready.length > 0);
    this.#unfinished.add(block.number);
    this.#ready.shift()?.send({ kind: 'block', block });
  }

  finish(): Promise<void> {
    return this.#until(() => this.#unfinished.size === 0);
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.stop()));
    await this.#recorded; // shards that were finished until now
  }

  #receive(worker: Worker, message: FromWorker): void {
    if (message.kind === 'stored') this.#events?.onStored(message.tokens);
    else if (message.kind === 'failed') this.#fail(errorOf(message));
    else if (message.kind === 'shard') this.#record(message.number, message.entry);
    else if (message.kind === 'next') {
      this.#ready.push(worker);
      this.#changed();
    }
  }

  #record(...shard: Parameters<ShardEvents['onShard']>): void {
    const done = () => {
      this.#unfinished.delete(shard[0]);
      this.#changed();
    };
    const recording = this.#events?.onShard(...shard).then(done, (error) => this.#fail(error));
    this.#recorded = Promise.all([this.#recorded, recording]);
  }

  #fail(error: Error): void {
    if (!(error instanceof NonFiniteError)) this.#failure ??= error;
    else if (!this.#nonFinite || error.shard < this.#nonFinite.shard) this.#nonFinite = error;
    this.#changed();
  }

  /** The error that ends the work, when it is certain. That of a value waits for the shards before its own. */
  #reason(): Error | undefined {
    const found = this.#nonFinite;
    const isFirst = found && ![...this.#unfinished].some((number) => number < found.shard);
    return this.#failure ?? (isFirst ? found : undefined);
  }

  async #until(condition: () => boolean): Promise<void> {
    for (;;) {
      const reason = this.#reason();
      if (reason) throw reason;
      if (!this.#nonFinite && condition()) return;
      const change = new Promise<void>((resolve) => {
        this.#changed = resolve;
      });
      await unlessAborted(change, this.#signal);
    }
  }
}

function requestOf(options: DumpOptions, worker: WorkerOptions, corpus: readonly SourceDescription[]): WorkerRequest {
  const { workers, device, signal, onFetch, onProgress, ...plain } = options;
  return { ...plain, corpus, worker };
}

// The workers load their own files, which may have changed in between.
function checkSame(first: DumpSettings, other: DumpSettings): void {
  const difference = differenceOf(first, other);
  if (!difference) return;
  const [label, one, two] = difference;
  throw new Error(`dump: the workers do not load the same: one has ${label} ${one}, another ${two}`);
}

const errorOf = ({ message, stack, nonFinite }: Extract<FromWorker, { kind: 'failed' }>): Error => {
  const error = nonFinite === undefined ? new Error(message) : new NonFiniteError(message, nonFinite);
  return Object.assign(error, stack !== undefined && { stack });
};

class Worker {
  readonly #name: string;
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;
  #stopping = false;
  #onMessage: (message: FromWorker) => void = () => {};
  #onLost: (error: Error) => void = () => {};

  constructor({ device }: WorkerOptions, index: number) {
    this.#name = `worker ${index} (${device})`;
    this.#child = fork(program, { serialization: 'advanced', stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    this.#child.on('message', (message) => this.#onMessage(message as FromWorker));
    const child = this.#child;
    const exited = new Promise<void>((resolve) => {
      child.once('error', (error) => {
        this.#lost(`could not be started: ${error.message}`);
        resolve();
      });
      child.once('exit', (code, signal) => {
        this.#lost(signal === null ? `ended with exit code ${code}` : `was ended by ${signal}`);
        resolve();
      });
    });
    // The last messages may arrive after the process has ended.
    const disconnected = new Promise<void>((resolve) => child.once('disconnect', () => resolve()));
    this.#ended = exited.then(() => (child.connected ? disconnected : undefined));
  }

  prepare(request: WorkerRequest, onFetch: DumpOptions['onFetch'], signal: AbortSignal | undefined): Promise<Prepared> {
    const prepared = new Promise<Prepared>((resolve, reject) => {
      this.listen((message) => {
        if (message.kind === 'fetch') onFetch?.(message.progress);
        else if (message.kind === 'prepared') resolve(message);
        else if (message.kind === 'failed') reject(errorOf(message));
      }, reject);
    });
    this.send({ kind: 'prepare', request });
    return unlessAborted(prepared, signal);
  }

  listen(onMessage: (message: FromWorker) => void, onLost: (error: Error) => void): void {
    this.#onMessage = onMessage;
    this.#onLost = onLost;
  }

  send(message: ToWorker): void {
    // A failure to send means that the process has ended, which is reported by itself.
    if (this.#child.connected) this.#child.send(message, () => {});
  }

  /** Resolves when the process has ended. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.send({ kind: 'stop' });
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), secondsToStop * 1000);
    await this.#ended;
    clearTimeout(timer);
  }

  #lost(how: string): void {
    if (this.#stopping) return;
    this.#onLost(new Error(`dump: ${this.#name} ${how}. ${continueAdvice}`));
  }
}
