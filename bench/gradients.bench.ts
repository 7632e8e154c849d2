// What gradients cost beside PyTorch: passes with the way back from a loss, as a part of what the passes themselves are
// worth beside it, the way back to two layers, and memory. Each side is a process of its own, and they take turns; a
// ratio is the median over rounds of neighbours' ratios. Writes gradients.md, and gradients.json with each round's times.
//   node build-test/bench/gradients.bench.js [--rounds 7] [--threads n] [--scale tiny] [--no-peer] [--out folder]
// PYTHON: a Python that has PyTorch; python3 when left out. Exit code 3: a goal was missed, or could not be judged.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { packageRoot } from '../src/engine/native.js';
import type { Spec } from './compare/spec.js';
import { median, relativeSpeeds, showRatios, showTime, speedRatios } from './compare/summary.js';
import { type Request, Worker } from './compare/worker.js';

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '7' },
    threads: { type: 'string' },
    scale: { type: 'string', default: 'full' },
    'no-peer': { type: 'boolean', default: false },
    out: { type: 'string', default: '.' },
  },
});
const full = options.scale === 'full';
if (!full && options.scale !== 'tiny') throw new Error(`--scale must be full or tiny, but is ${options.scale}`);
if (options.threads !== undefined) {
  for (const name of ['BENCH', 'OMP_NUM', 'MKL_NUM']) process.env[`${name}_THREADS`] = options.threads;
}
const sonde = () =>
  new Worker(process.execPath, [fileURLToPath(new URL('compare/sonde.js', import.meta.url))], { SONDE_DEVICE: 'cpu' });
const torch = () =>
  new Worker(process.env.PYTHON ?? 'python3', ['-u', join(packageRoot, 'bench/compare/torch_peer.py')]);
const sides: Record<string, () => Worker> = { sonde, ...(options['no-peer'] ? {} : { PyTorch: torch }) };

const [model, batch, length, later] = full ? (['gpt2-small', 4, 512, 8] as const) : (['tiny', 1, 8, 1] as const);
const sizes = { dtype: 'float32', model, batch, length } as const;
const forward: Spec = { ...sizes, op: 'forward', until: 'logits' };
const back = (of: number | 'parameters', loss: 'all' | 'last' = 'all'): Spec => ({
  ...{ ...sizes, op: 'gradients', loss, of },
  timed: loss === 'all' ? 'forward and backward' : 'backward',
});
const [pass, stream, parameters] = ['the pass alone', 'with activations', 'with parameters'];
const whole = { [pass]: forward, [stream]: back(0), [parameters]: back('parameters') };
const [toFirst, toLater] = ['to layer 0', `to layer ${later}`];
const ways = { [toFirst]: back(0, 'last'), [toLater]: back(later, 'last') };

/** A process whose failure ends the benchmark. */
async function ask(worker: Worker, request: Request) {
  const reply = await worker.ask(request, 600);
  if (reply.failure !== undefined) throw new Error(reply.failure);
  return reply;
}

/** The seconds of each thing, round by round, by its name and its side. */
async function measure(things: Record<string, Spec>): Promise<Record<string, Record<string, number[]>>> {
  const workers = Object.entries(sides).map(([side, start]) => ({ side, worker: start() }));
  const arms = [];
  for (const [name, spec] of Object.entries(things)) {
    for (const { side, worker } of workers) {
      const { prepared, error = 0 } = await ask(worker, { do: 'prepare', spec, seed: 1 });
      if (!((error ?? Number.NaN) < 0.05)) throw new Error(`${side}, ${name}: the gradient is wrong by ${error}`);
      arms.push({ name, side, worker, prepared: prepared as number, seconds: [] as number[] });
    }
  }
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const { worker, prepared, seconds } of arms) {
      const reply = await ask(worker, { do: 'time', prepared, repetitions: 1, warm: false });
      seconds.push(reply.seconds as number);
      await setTimeout(60); // idle threads of some libraries spin for a while, on processors that the others need
    }
  }
  for (const { worker } of workers) worker.end();
  const found: Record<string, Record<string, number[]>> = {};
  for (const { name, side, seconds } of arms) found[name] = { ...found[name], [side]: seconds };
  return found;
}

const lines: string[] = [];
const say = (line: string) => {
  console.log(line);
  lines.push(line);
};
let missed = false;
/** Whether a figure is as it should be; nothing is said of small shapes. */
function verdict(reached: boolean | undefined): string {
  if (!full) return 'not judged';
  if (!reached) missed = true;
  return reached === undefined ? 'not judged' : reached ? 'reached' : 'missed';
}

const { version } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { version: string };
say('# Gradients\n');
say(`- ${cpus()[0]?.model}, ${cpus().length} processors; sonde ${version}`);
for (const start of Object.values(sides)) {
  const worker = start();
  say(`- ${(await ask(worker, { do: 'describe' })).text}`);
  worker.end();
}
say(`- ${model}, float32, ${batch} rows of ${length} tokens; ${options.rounds} rounds\n`);

const passes = await measure(whole);
say('The loss is the mean of all next tokens. Activations: the gradient of the embeddings’ output.\n');
say('| forward and backward | ours | PyTorch | PyTorch / ours | the same as a part of the pass’s | target | |');
say('|---|---|---|---|---|---|---|');
const speeds = (name: string) => speedRatios(passes[name]?.sonde as number[], passes[name]?.PyTorch ?? []);
for (const [name, least] of [[pass], [stream, 1], [parameters, 0.95]] as const) {
  const part = least === undefined ? [] : relativeSpeeds(speeds(name), speeds(pass));
  const shown = ['sonde', 'PyTorch'].map((side) => showTime(median(passes[name]?.[side] ?? [])));
  const judged = least === undefined ? '' : verdict(part.length > 0 ? median(part) >= least : undefined);
  const target = least === undefined ? '' : `>= ${least}`;
  say(`| ${[name, ...shown, showRatios(speeds(name)), showRatios(part), target, judged].join(' | ')} |`);
}

const backward = await measure(ways);
say(
  '\nThe loss is that of a token behind the last position. Activations: the gradient of the stream before the layer.\n',
);
say(`| backward alone | ${toFirst} | ${toLater} | the second as a part of the first | target | |`);
say('|---|---|---|---|---|---|');
for (const side of Object.keys(sides)) {
  const [first, second] = [toFirst, toLater].map((name) => backward[name]?.[side] as number[]) as [number[], number[]];
  const part = relativeSpeeds(second, first);
  const judged = side === 'sonde' ? ['<= 0.4', verdict(median(part) <= 0.4)] : ['', ''];
  say(`| ${[side, showTime(median(first)), showTime(median(second)), showRatios(part), ...judged].join(' | ')} |`);
}

const memory: Record<string, { readonly before: number; readonly peak: number }> = {};
if (process.platform === 'linux') {
  for (const [side, start] of Object.entries(sides)) {
    const worker = start();
    const reply = await ask(worker, { do: 'memory', spec: back(0), seed: 1, repetitions: 3 });
    memory[side] = reply.memory as NonNullable<typeof reply.memory>;
    worker.end();
  }
  say('\nResident memory of a new process: forward and backward with activations, three times.\n');
  say('| | before the first pass | at the peak | between them | as a part of PyTorch’s | target | |');
  say('|---|---|---|---|---|---|---|');
  const added = (side: string) => (memory[side] ? memory[side].peak - memory[side].before : Number.NaN);
  for (const [side, { before, peak }] of Object.entries(memory)) {
    const part = added(side) / added('PyTorch');
    const judged = side === 'sonde' ? [part.toFixed(2), '<= 0.8', verdict(part <= 0.8)] : ['', '', ''];
    say(
      `| ${[side, ...[before, peak, added(side)].map((b) => `${(b / 1e6).toFixed(0)} MB`), ...judged].join(' | ')} |`,
    );
  }
}

mkdirSync(options.out, { recursive: true });
writeFileSync(join(options.out, 'gradients.md'), `${lines.join('\n')}\n`);
writeFileSync(join(options.out, 'gradients.json'), `${JSON.stringify({ lines, passes, backward, memory }, null, 1)}\n`);
process.exitCode = missed ? 3 : 0;
