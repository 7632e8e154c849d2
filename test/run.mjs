// Runs each compiled test file in a process of its own, so that a native crash or a hang costs one file, and closes with
// `N passed, N failed, N skipped`.
//   node test/run.mjs [--build] [WORD]...    all files, or those whose path contains one of the words
//   --build            builds what they need first (test/build.mjs)
//   TEST_JOBS          files at a time; as many as there are processors
//   TEST_FILE_LIMIT    seconds a file may take; 600
//   TEST_LIMIT_FACTOR  multiplies this limit and those of the tests (slow builds: sanitizers)
//   TEST_SUFFIX        .test.js; the harness's own test asks for the files that must fail
import { spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, chooseTests } from './build.mjs';

const folder = join(dirname(fileURLToPath(import.meta.url)), '..', 'build-test', 'test');
const wanted = process.argv.slice(2);
const builds = wanted[0] === '--build';
if (builds) wanted.shift();
const suffix = process.env.TEST_SUFFIX ?? '.test.js';
const limit = Number(process.env.TEST_FILE_LIMIT ?? 600) * Number(process.env.TEST_LIMIT_FACTOR ?? 1);
const jobs = Number(process.env.TEST_JOBS ?? availableParallelism());

const running = new Set();
const signals = ['SIGINT', 'SIGTERM'];
// `timeout` sends its signal twice, to its child and to their group. The default action must not return before all is
// printed, as it would with once().
for (const signal of signals) process.on(signal, interrupted);

if (builds && !build(wanted)) process.exit(1);
const files = existsSync(folder) ? readdirSync(folder, { recursive: true }).map(String).sort() : [];
const queue = chooseTests(files, wanted, suffix);
const sum = { passed: 0, failed: 0, skipped: 0 };
if (queue.length === 0) {
  console.log(`FAIL no test file in ${folder}${wanted.length ? ` matches ${wanted.join(' or ')}` : ''}`);
  sum.failed++;
}
await Promise.all(Array.from({ length: jobs }, worker));
console.log(`${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped`);
process.exitCode = sum.failed > 0 ? 1 : 0;

function interrupted(signal) {
  for (const { file, child, output } of running) {
    stop(child);
    console.log(`FAIL ${file} was running when ${signal} came`);
    show(output);
  }
  for (const each of signals) process.off(each, interrupted);
  process.kill(process.pid, signal);
}

async function worker() {
  for (let file = queue.shift(); file !== undefined; file = queue.shift()) report(file, await run(file));
}

// -> what the file did: its output, how it ended, and how long it took
async function run(file) {
  const start = performance.now();
  // kleur, which uvu colours with, heeds FORCE_COLOR over NO_COLOR
  const { FORCE_COLOR: _, ...environment } = process.env;
  const child = spawn(process.execPath, ['--enable-source-maps', join(folder, file)], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...environment, NO_COLOR: '1' },
    detached: true, // a process group, to be stopped with whatever the test started
  });
  const job = { file, child, output: '' };
  running.add(job);
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => (job.output += text));
  }
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    stop(child);
  }, limit * 1000);
  const [code, signal] = await ended(child);
  clearTimeout(timer);
  running.delete(job);
  return { output: job.output, code, signal, late, seconds: (performance.now() - start) / 1000 };
}

// 'close' also waits for the output of processes that outlive the test file: they get a second, then they are stopped.
function ended(child) {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve([error.message, null]));
    child.once('close', (code, signal) => resolve([code, signal]));
    child.once('exit', () => setTimeout(() => stop(child), 1000).unref());
  });
}

function stop(child) {
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    child.kill('SIGKILL');
  }
}

function report(file, { output, code, signal, late, seconds }) {
  const count = (label) => Number([...output.matchAll(new RegExp(`^ {2}${label}: +(\\d+)$`, 'gm'))].at(-1)?.[1] ?? 0);
  const [total, passed, skipped] = [count('Total'), count('Passed'), count('Skipped')];
  const why = late
    ? `ran past ${limit} s`
    : signal
      ? `ended by ${signal}`
      : total + skipped === 0
        ? 'ran no test'
        : code !== 0 && passed === total
          ? `exit code ${code}`
          : '';
  const failed = Math.max(total - passed, why ? 1 : 0);
  sum.passed += passed;
  sum.failed += failed;
  sum.skipped += skipped;
  const details = [`${passed}/${total}`, skipped && `${skipped} skipped`, `${seconds.toFixed(2)} s`, why];
  console.log(`${failed ? 'FAIL' : 'ok  '} ${file} ${details.filter(Boolean).join(', ')}`);
  show(failed ? output : (output.match(/^skipped: .*$/gm) ?? []).join('\n'));
}

function show(text) {
  if (text) console.log(text.replace(/^(?=.)/gm, '     '));
}
