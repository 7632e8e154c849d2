// sonde queue: dumps that any number of machines work on, with BullMQ on Redis.
import { Command } from 'commander';
import { printable } from '../dump/printable.js';
import { planQueue, type QueueOptions, queueStatus, type WorkEvent, workQueue } from '../dump/queue.js';
import { addDumpOptions, type DumpRequestOptions, dumpRequest } from './dump.js';
import { interruptible } from './failure.js';
import { addDevice, addModel, chosenDevice, integer, type ModelOptions } from './options.js';
import { print } from './terminal.js';

const help = `
One machine plans, any number work, and each shard is a job. Whoever loses its connection, is killed or stopped loses no
more than the shard it was at: another worker makes it. When all shards are there, one of the workers merges them, and the
folder is, byte for byte, that of one process. Text and folder must have the same path on every machine, on a disk they
share; the dump may also go to az://account/container/prefix.

Examples:
  $ sonde queue plan --redis redis://head:6379 --text big.txt --hook 1/resid/post_mlp --out dump
  $ sonde queue work --redis redis://head:6379              on every machine, as often as it has devices
  $ sonde queue work --redis redis://head:6379 --until-done     in a batch job, which is to end
  $ sonde queue status --redis redis://head:6379            with what was given up, and why
  $ sonde queue status --redis redis://head:6379 --retry    try that again

SONDE_REDIS stands for --redis. Needs the optional packages bullmq and ioredis.`;

interface PlanOptions extends DumpRequestOptions, QueueWords {
  attempts: number;
}

interface WorkOptions extends Omit<ModelOptions, 'model'>, QueueWords {
  untilDone?: boolean;
  lock: number;
}

interface QueueWords {
  redis: string;
  queue: string;
}

const queueOf = ({ redis, queue }: QueueWords): QueueOptions => ({ redis, name: queue });

const addQueue = (command: Command): Command =>
  command
    .option(
      '--redis <url>',
      'the server (default: $SONDE_REDIS, else this machine)',
      process.env.SONDE_REDIS ?? 'redis://127.0.0.1:6379',
    )
    .option('--queue <name>', 'for several queues on one server', 'sonde');

export function queueCommand(): Command {
  const plan = addQueue(addModel(addDumpOptions(new Command('plan').description('put a dump into the queue'))))
    .option('--attempts <n>', 'times that a shard is tried before it is given up', integer(1), 3)
    .action(runPlan);
  const work = addQueue(addDevice(new Command('work').description('make shards as long as there are some')))
    .option('--until-done', 'end when nothing is left to do')
    .option('--lock <seconds>', 'without a sign of life for so long, a worker has lost its job', integer(1), 30)
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
    const queue = { ...queueOf(options), attempts: options.attempts };
    const { shards, state } = await planQueue({ ...request, signal }, queue);
    const count = `${shards} ${shards === 1 ? 'shard' : 'shards'}`;
    if (state === 'added') print(`${out}: ${count} to make: sonde queue work`);
    else if (state === 'queued') print(`${out} is in the queue already, with ${count}`);
    else print(`${out} is complete already, with ${count}. Nothing was done.`);
  });
}

async function runWork(options: WorkOptions): Promise<void> {
  const { untilDone = false, lock } = options;
  await interruptible('stopped: what was under way is in the queue again', async (signal) => {
    const device = chosenDevice(options);
    await workQueue({ ...queueOf(options), device, untilDone, lockSeconds: lock, onEvent: tell, signal });
    signal.throwIfAborted();
  });
}

function tell(event: WorkEvent): void {
  if (event.kind === 'done') print(`${event.what}: done, ${event.seconds.toFixed(1)} s`);
  else if (event.kind === 'connection') console.error(`sonde: the connection to the queue: ${printable(event.reason)}`);
  else {
    const [what, reason] = [printable(event.what), printable(event.reason, 1000)];
    console.error(`sonde: ${what}: ${reason}${event.final ? ' (given up)' : ' (will be tried again)'}`);
  }
}

async function runStatus(options: QueueWords & { retry?: boolean }): Promise<void> {
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
