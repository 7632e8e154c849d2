// Runs benchmarks: sonde and its peers, each in a process of its own, take turns on every case (A B A B), and medians
// of the ratios of neighbours count. Writes results.json and results.md, again after each case.
//   node build-test/bench/compare/compare.js [--on gpu|cpu-kernels|cpu-models] [--out folder] [--rounds 11]
//       [--only word]... [--threads n] [--scale tiny] [--no-peer] [--limit s] [--patience s]
//   limit: no case begins later; they take turns among their groups, so that what is left out is the last of each group
//   patience: how long one answer may take. A side that gives none does not try the other cases of that group
// The environment names the peers. PYTHON: a Python that has PyTorch; python3 when left out. OPENBLAS: that library, if
// it is not the system's. ORIGINAL: a checkout of openai/transformer-debugger. ONNXRUNTIME: a folder whose node_modules
// hold onnxruntime-node. A peer that is missing is named in the notes.
// Exit code 0: all done; 1: a case failed or is wrong; 3: a goal was missed, or could not be judged for want of the
// peer, or cases were left out for want of time.
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { packageRoot } from '../../src/engine/native.js';
import { cpuKernels, cpuModels } from './cpu_cases.js';
import { gpuCases } from './gpu_cases.js';
import { type Case, inTurns, type Rival, type Scale, type Side, type Spec, sides } from './spec.js';
import { type ArmResult, type CaseResult, count, inOrder, markdown, median, rowsOf, showTime } from './summary.js';
import { type Reply, type Request, Worker } from './worker.js';

const { values: options } = parseArgs({
  options: {
    on: { type: 'string', default: 'gpu' },
    out: { type: 'string', default: '.' },
    threads: { type: 'string' },
    rounds: { type: 'string', default: '11' },
    only: { type: 'string', multiple: true, default: [] },
    scale: { type: 'string', default: 'full' },
    'no-peer': { type: 'boolean', default: false },
    limit: { type: 'string', default: '3600' },
    patience: { type: 'string' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    note: { type: 'string', multiple: true, default: [] },
  },
});
const { version } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { version: string };
const scale = options.scale as Scale;
if (scale !== 'full' && scale !== 'tiny') throw new Error(`--scale must be full or tiny, but is ${options.scale}`);
const casesOf = { gpu: gpuCases, 'cpu-kernels': cpuKernels, 'cpu-models': cpuModels }[options.on];
if (!casesOf) throw new Error(`--on must be gpu, cpu-kernels or cpu-models, but is ${options.on}`);
const onGpu = options.on === 'gpu';
const rounds = Number(options.rounds);
const [least, longest, roundTime, usual] = scale === 'full' ? [20, 0.5, 0.03, 180] : [1, 0.01, 0, 600];
const patience = Number(options.patience ?? usual);
// a peer's libraries take long to be read from a cold disk: at its start, and when it first computes
const firstPatience = Math.max(patience, 60);
const deadline = performance.now() + Number(options.limit) * 1000;

const node = (file: string, env: Record<string, string> = {}) =>
  new Worker(process.execPath, ['--enable-source-maps', fileURLToPath(new URL(file, import.meta.url))], env);
const ours = (env: Record<string, string> = {}) =>
  node('sonde.js', { ...(onGpu ? {} : { SONDE_DEVICE: 'cpu' }), ...env });
const peer = (name: string) =>
  new Worker(process.env.PYTHON ?? 'python3', ['-u', join(packageRoot, 'bench', 'compare', `${name}_peer.py`)]);

if (options.threads !== undefined) {
  for (const name of ['BENCH', 'OMP_NUM', 'MKL_NUM', 'OPENBLAS_NUM']) process.env[`${name}_THREADS`] = options.threads;
}
const workers = new Map<Side, Worker>([['sonde', ours()]]);
if (!options['no-peer']) {
  workers.set('torch', peer('torch'));
  if (options.on === 'cpu-kernels') workers.set('openblas', peer('openblas'));
  if (options.on === 'cpu-kernels') workers.set('avx2', ours({ SONDE_ISA: 'avx2' }));
  if (!onGpu) workers.set('onnxruntime', node('onnxruntime_peer.js'));
  if (options.on === 'cpu-models') workers.set('original', peer('original'));
}

/** One side's part in a case. */
interface Arm {
  readonly worker: Worker;
  readonly side: Side;
  readonly group: string;
  readonly spec: Spec;
  prepared: number;
  process: number;
  repetitions: number;
  seconds: number[];
  error?: number;
  failure?: string;
}

/** What is not tried again: a side and a group -> why. */
const givenUp = new Map<string, string>();
const key = ({ side, group }: Arm): string => `${side}, ${group}`;

/** Which of a side's processes has prepared something. */
const begun = new Map<Side, number>();
const hasBegun = ({ side, worker }: Arm): boolean =>
  side === 'sonde' || (worker.process > 0 && begun.get(side) === worker.process);

/** Asks the arm's worker. A side that does not answer in time does not try the other cases of this group. */
async function ask(arm: Arm, request: Request): Promise<Reply> {
  const reply = await arm.worker.ask(request, hasBegun(arm) ? patience : firstPatience);
  if (reply.failure === undefined) begun.set(arm.side, arm.worker.process);
  if (reply.late) givenUp.set(key(arm), reply.failure as string);
  return reply;
}

async function ready(side: Side, group: string, spec: Spec): Promise<Arm> {
  const worker = workers.get(side);
  const start = { prepared: -1, process: 0, repetitions: 1, seconds: [] };
  const arm: Arm = { worker: worker as Worker, side, group, spec, ...start };
  if (!worker) return { ...arm, failure: 'not there' };
  const why = givenUp.get(key(arm));
  if (why !== undefined) return { ...arm, failure: `not tried after another of this group: ${why}` };
  const reply = await ask(arm, { do: 'prepare', spec, seed: Number(options.seed) });
  if (reply.failure !== undefined) return { ...arm, failure: reply.failure };
  arm.prepared = reply.prepared as number;
  arm.process = worker.process;
  if (reply.error !== undefined) arm.error = reply.error ?? Number.NaN;
  return arm;
}

/** Sets how many repetitions fill a round: `least` of them or more, unless these take longer than `longest`. */
async function calibrate(arm: Arm): Promise<void> {
  for (const trial of scale === 'full' ? [2, 10] : [1]) {
    const seconds = await time(arm, trial);
    if (seconds === undefined) return;
    const fit = (limit: number) => Math.max(1, Math.ceil(limit / Math.max(seconds, 1e-9)));
    arm.repetitions = Math.min(Math.max(fit(roundTime), Math.min(least, fit(longest))), 20_000);
    if (seconds > 0.005) return; // long enough to be exact: the wait at the end hardly counts
  }
}

async function time(arm: Arm, repetitions: number): Promise<number | undefined> {
  if (arm.failure !== undefined) return undefined;
  // a process that ended took what was prepared with it
  const reply: Reply =
    arm.worker.process === arm.process
      ? await ask(arm, { do: 'time', prepared: arm.prepared, repetitions, warm: onGpu || repetitions > 1 })
      : { failure: 'its process ended with another part of this case' };
  if (reply.failure !== undefined) arm.failure = reply.failure;
  // idle threads of some libraries spin for a while, on processors that the others need
  if (!onGpu) await setTimeout(60);
  return reply.failure === undefined ? (reply.seconds as number) : undefined;
}

const result = ({ seconds, error, failure }: Arm): ArmResult => ({
  seconds,
  ...(error === undefined ? {} : { error }),
  ...(failure === undefined ? {} : { failure }),
});

async function measure({ rivals, ...its }: Case): Promise<CaseResult> {
  const own = await ready('sonde', its.group, its.spec);
  const theirs: Arm[] = [];
  for (const { side, spec } of rivals) theirs.push(await ready(side, its.group, spec));
  const arms = [own, ...theirs];
  for (const arm of arms) await calibrate(arm);
  for (let round = 0; round < rounds; round++) {
    for (const arm of arms) {
      const seconds = await time(arm, arm.repetitions);
      if (seconds !== undefined) arm.seconds.push(seconds);
    }
  }
  for (const worker of workers.values()) if (worker.process) await finish(worker, arms);
  return {
    ...its,
    ours: result(own),
    rivals: rivals.map((rival, i): Rival & ArmResult => ({ ...rival, ...result(theirs[i] as Arm) })),
  };
}

/**
 * Frees what the case took. A process in which something failed is not trusted with another case: CUDA's errors stay.
 */
async function finish(worker: Worker, arms: Arm[]): Promise<void> {
  const failed = arms.some((arm) => arm.worker === worker && arm.failure !== undefined);
  if (failed || (await worker.ask({ do: 'drop' }, patience)).failure !== undefined) worker.end();
}

function write(file: string, text: string): void {
  const path = join(options.out, file);
  writeFileSync(`${path}.part`, text);
  renameSync(`${path}.part`, path);
}

const start = performance.now();
mkdirSync(options.out, { recursive: true });
const notes = [...options.note];
let judged = scale === 'full'; // goals are about full shapes, on a GPU or on a CPU
if (!onGpu) notes.push(`${cpus()[0]?.model}, ${cpus().length} processors; sonde ${version}`);
// all of them start at once, as most of a start is spent on reading libraries from the disk
const described = new Map(
  await Promise.all(
    [...workers].map(async ([side, worker]) => [side, await worker.ask({ do: 'describe' }, firstPatience)] as const),
  ),
);
for (const side of sides) {
  const reply = described.get(side);
  if (!reply) continue;
  const { text, gpu, failure } = reply;
  if (failure !== undefined && side === 'sonde') throw new Error(`sonde did not start: ${failure}`);
  if (side === 'sonde' && onGpu) judged &&= gpu === true;
  // where AVX2 is what sonde picks anyway, it would be measured beside itself
  const itself = side === 'avx2' && text === described.get('sonde')?.text;
  if (itself) {
    workers.get(side)?.end();
    workers.delete(side);
    continue;
  }
  notes.push(text ?? `${side} is not here: ${failure}`);
  if (text === undefined) workers.delete(side);
}
notes.push(
  `${rounds} rounds, in turns; seed ${options.seed}${judged ? '' : `; ${onGpu ? 'no GPU or ' : ''}tiny shapes: no figure means anything`}`,
);
for (const note of notes) console.log(note);

const all = casesOf(scale).map(
  (it): Case => (workers.has('avx2') ? it : { ...it, rivals: it.rivals.filter(({ side }) => side !== 'avx2') }),
);
const chosen = all.filter(({ name }) => options.only.length === 0 || options.only.some((word) => name.includes(word)));
const cases = inTurns(chosen);
if (cases.length === 0) throw new Error(`no case's name contains ${options.only.join(' or ')}`);
let results: CaseResult[] = [];
let skipped = 0;
for (const one of cases) {
  if (performance.now() > deadline) {
    skipped++;
    console.log(`${one.name}: left out, ${options.limit} s were over`);
    continue;
  }
  const before = performance.now();
  const measured = await measure(one);
  results = inOrder([...results, measured], chosen);
  for (const row of rowsOf(measured, judged)) {
    const against = row.rival && `; ${row.rival}: ${row.theirs}; ${row.ratio || 'no ratio'}`;
    console.log(`${row.name}: ${row.ours}${against} [${row.goal || 'no target'}] ${row.verdict}; errors ${row.errors}`);
  }
  console.log(`    took ${showTime((performance.now() - before) / 1000)}`);
  write(
    'results.json',
    `${JSON.stringify({ notes, scale, rounds, skipped, counts: count(results, judged), results }, null, 1)}\n`,
  );
  write('results.md', markdown(onGpu ? 'GPU benchmarks' : 'CPU benchmarks', notes, results, judged));
}
for (const worker of workers.values()) worker.end();

const counts = count(results, judged);
const medians = results.filter(({ ours }) => ours.seconds.length > 0).map(({ ours }) => median(ours.seconds));
const totals = Object.entries(counts).map(([what, n]) => `${n} ${what}`);
console.log(
  `${medians.length} of ${cases.length} cases measured in ${showTime((performance.now() - start) / 1000)}; goals and cases: ${totals.join(', ')}` +
    (skipped > 0 ? `; ${skipped} left out` : ''),
);
const unjudged = skipped + (judged ? counts['not judged'] : 0);
process.exitCode = counts.failed + counts.wrong > 0 ? 1 : counts.missed + unjudged > 0 ? 3 : 0;
