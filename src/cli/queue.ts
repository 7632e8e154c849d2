// sonde queue: dumps that any number of machines work on, with BullMQ on Redis.
import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { planQueue, type QueueOptions, queueStatus, type WorkEvent, workQueue } from '../dump/queue/dump_queue.js';
import { counted, printable } from '../files/text.js';
import { addDevice, addModel, chosenDevice, collected, integer, type ModelOptions } from './common_options.js';
import { addDumpOptions, type DumpRequestOptions, dumpRequest } from './dump.js';
import { interruptible, UsageError } from './failure.js';
import { print, warn, warnOfNonFinite } from './terminal.js';

const help = `
One machine plans, any number work, and each shard is a job. A worker that loses its connection, is killed or is stopped
loses no more than the shard it was at: another worker makes it. When all shards are there, one of the workers merges
them, and the folder is, byte for byte, that of one process. Text and folder must have the same path on every machine, on
a disk they share; the dump may also go to az://account/container/prefix. All workers must have the arithmetic of the
first one, which sonde devices shows.

A worker does only what its options allow, as others may reach the server as well. Without options it writes dumps below
the folder that it was started in, reads text there, and loads models from there, the demo and the published ones. Each
--allow option replaces its part of that. With --key, jobs are signed when they are planned, and a worker takes no other
jobs. sonde queue plan says what workers must be allowed.

Examples:
  $ sonde queue plan --redis redis://head:6379 --text big.txt --hook 1/resid/post_mlp --out dump
  $ sonde queue work --redis redis://head:6379              on every machine, as often as it has devices
  $ sonde queue work --redis redis://head:6379 --until-done     in a batch job, which is to end
  $ sonde queue work --allow-out /data/dumps --allow-corpus /data/text --allow-model gpt2-small /data/autoencoders
  $ sonde queue work --allow-out az://account/container/dumps --key queue.key
  $ sonde queue status --redis redis://head:6379            with what was given up, and why
  $ sonde queue status --redis redis://head:6379 --retry    try that again

SONDE_REDIS stands for --redis, and SONDE_QUEUE_KEY, which holds the key itself, for --key. The command needs the
optional packages bullmq and ioredis.`;

interface PlanOptions extends DumpRequestOptions, QueueCommandOptions {
  attempts: number;
}

interface WorkOptions extends Omit<ModelOptions, 'model'>, QueueCommandOptions {
  untilDone?: boolean;
  lock: number;
  allowOut?: string[];
  allowCorpus?: string[];
  allowModel?: string[];
}

interface QueueCommandOptions {
  redis: string;
  queue: string;
  /** The path of the file that holds the key. */
  key?: string;
}

const queueOf = ({ redis, queue }: QueueCommandOptions): QueueOptions => ({ redis, name: queue });

function keyedQueueOf(options: QueueCommandOptions): QueueOptions {
  const { key: file } = options;
  const inEnvironment = process.env.SONDE_QUEUE_KEY;
  if (file !== undefined) return { ...queueOf(options), key: keyOf(bytesOf(file), `--key ${file}: the file`) };
  if (inEnvironment === undefined) return queueOf(options);
  return { ...queueOf(options), key: keyOf(Buffer.from(inEnvironment), 'SONDE_QUEUE_KEY') };
}

function bytesOf(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (cause) {
    throw new UsageError(`--key ${file}: ${(cause as Error).message}`, { cause });
  }
}

/** The bytes without the line ends behind the key, which editors and `echo` add. */
function keyOf(bytes: Buffer, name: string): Uint8Array {
  let end = bytes.length;
  while (end > 0 && ['\n', '\r'].includes(String.fromCharCode(bytes[end - 1] as number))) end--;
  if (end > 0) return bytes.subarray(0, end);
  throw new UsageError(`${name} is empty`);
}

const addKey = (command: Command): Command =>
  command.option(
    '--key <file>',
    'the file of a secret that jobs are signed with (default: $SONDE_QUEUE_KEY, else none)',
  );

const addQueue = (command: Command): Command =>
  command
    .option(
      '--redis <url>',
      'the server (default: $SONDE_REDIS, else this machine)',
      process.env.SONDE_REDIS ?? 'redis://127.0.0.1:6379',
    )
    .option('--queue <name>', 'the name of the queue, for several queues on one server', 'sonde');

export function queueCommand(): Command {
  const plan = addKey(addQueue(addModel(addDumpOptions(new Command('plan').description('put a dump into the queue')))))
    .option('--attempts <n>', 'times that a shard is tried before it is given up', integer(1), 3)
    .action(runPlan);
  const work = addKey(addQueue(addDevice(new Command('work').description('make shards as long as there are some'))))
    .option(
      '--allow-out <folder...>',
      'write dumps to, or below, this folder or az://account/container/prefix',
      collected,
    )
    .option('--allow-corpus <path...>', 'read this text, or what lies below this folder', collected)
    .option(
      '--allow-model <name...>',
      'load this model or autoencoder: a name, or a folder or address with some',
      collected,
    )
    .option('--until-done', 'end when nothing is left to do')
    .option('--lock <seconds>', 'the time without a sign of life after which a worker has lost its job', integer(1), 30)
    .action(runWork);
  const status = addQueue(new Command('status').description('what is done, what is left, and what was given up'))
    .option('--retry', 'try again what was given up')
    .action(runStatus);
  return new Command('queue')
    .description('dumps that any number of machines work on')
    .addHelpText('after', help)
    .addCommand(plan)
    .addCommand(work)
    .addCommand(status);
}

async function runPlan(source: string | undefined, options: PlanOptions): Promise<void> {
  const request = dumpRequest('queue plan', source, options);
  const { out } = options;
  await interruptible('interrupted: nothing was put into the queue', async (signal) => {
    const queue = { ...keyedQueueOf(options), attempts: options.attempts };
    const { shards, state, workerOptions } = await planQueue({ ...request, signal }, queue);
    if (workerOptions.length > 0 && state !== 'complete') {
      warn(`workers that are started in this folder need ${workerOptions.join(' ')}`);
    }
    const count = counted(shards, 'shard');
    if (state === 'added') print(`${out}: ${count} to make: sonde queue work`);
    else if (state === 'queued') print(`${out} is in the queue already, with ${count}`);
    else print(`${out} is complete already, with ${count}. Nothing was done.`);
  });
}

async function runWork(options: WorkOptions): Promise<void> {
  const { untilDone = false, lock, allowOut: out, allowCorpus: corpus, allowModel: models } = options;
  const allow = { ...(out && { out }), ...(corpus && { corpus }), ...(models && { models }) };
  await interruptible('stopped: what was under way is in the queue again', async (signal) => {
    const device = chosenDevice(options);
    await workQueue({
      ...keyedQueueOf(options),
      allow,
      device,
      untilDone,
      lockSeconds: lock,
      onEvent: printEvent,
      signal,
    });
    signal.throwIfAborted();
  });
}

function printEvent(event: WorkEvent): void {
  if (event.kind === 'done') {
    print(`${event.what}: done, ${event.seconds.toFixed(1)} s`);
    if (event.merged) warnOfNonFinite(event.merged.nonFinite, event.merged.shards);
  } else if (event.kind === 'connection') warn(`the connection to the queue: ${event.reason}`);
  else {
    const [what, reason] = [printable(event.what), printable(event.reason, 1000)];
    warn(`${what}: ${reason}${event.final ? ' (given up)' : ' (will be tried again)'}`);
  }
}

async function runStatus(options: QueueCommandOptions & { retry?: boolean }): Promise<void> {
  const { failed, ...counts } = await queueStatus(queueOf(options), options.retry);
  print(`waiting   ${counts.waiting}`);
  print(`active    ${counts.active}`);
  print(`retrying  ${counts.retrying}`);
  print(`done      ${counts.done}`);
  print(`merging   ${counts.merging} dumps that wait for their shards`);
  print(`given up  ${failed.length}`);
  for (const { what, out, attempts, reason } of failed) {
    print(`  ${printable(what)} of ${printable(out)}, ${attempts} attempts: ${printable(reason, 1000)}`);
  }
}
