// The benchmarks' arithmetic against hand-computed figures, and the process that leads on the CPU.
import { spawnSync } from 'node:child_process';
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { attend, checkRow, parts } from '../../bench/compare/check.js';
import { cpuKernels, cpuModels } from '../../bench/compare/cpu_cases.js';
import { gpuCases } from '../../bench/compare/gpu_cases.js';
import { inTurns, type Rival, type Scale } from '../../bench/compare/spec.js';
import {
  type ArmResult,
  type CaseResult,
  count,
  inOrder,
  markdown,
  median,
  reaches,
  relativeSpeeds,
  rowsOf,
  showRate,
  showRatios,
  showTime,
  speedRatios,
} from '../../bench/compare/summary.js';
import { Worker } from '../../bench/compare/worker.js';
import { packageRoot } from '../../src/engine/native.js';
import { withFolder } from '../support/folders.js';
import { suite, throws } from '../support/harness.js';
import { random } from '../support/random.js';

const test = suite('bench/compare');

test('median', () => {
  assert.is(median([3]), 3);
  assert.is(median([5, 1, 100]), 5);
  assert.is(median([4, 1, 2, 100]), 3);
  assert.ok(Number.isNaN(median([])));
  const values = [2, 1];
  median(values);
  assert.equal(values, [2, 1]);
});

test('ratios are of neighbours, and of rates where the work differs', () => {
  assert.equal(speedRatios([2, 4, 8], [1, 8]), [0.5, 2]);
  assert.equal(speedRatios([2], [1], { ours: 12, rival: 4 }), [1.5]);
  assert.equal(relativeSpeeds([3, 4], [2, 8, 1]), [1.5, 0.5]);
  assert.is(showRatios([0.5, 2, 1.5]), '1.50 (0.50 to 2.00)');
  assert.is(showRatios([]), '');
});

test('goals include their bounds', () => {
  assert.ok(reaches({ speed: 0.85 }, 0.85));
  assert.not(reaches({ speed: 0.85 }, 0.84));
  assert.ok(reaches({ time: 1.25 }, 0.8));
  assert.not(reaches({ time: 1.25 }, 0.79));
  for (const goal of [{ speed: 0.1 }, { time: 10 }]) assert.not(reaches(goal, Number.NaN));
});

test('times and rates', () => {
  assert.equal([2, 0.0123, 1.5e-6].map(showTime), ['2.00 s', '12.3 ms', '1.50 us']);
  assert.is(showRate({ unit: 'flop', amount: 5e12 }, 0.01), '500 TFLOP/s');
  assert.is(showRate({ unit: 'byte', amount: 4e9 }, 0.001), '4000 GB/s');
  assert.is(showRate({ unit: 'token', amount: 100 }, 0.003), '33333 tokens/s');
  assert.is(showRate({ unit: 'call', amount: 1000 }, 0.0025), '2.50 us each');
});

const rival = (more: Partial<Rival & ArmResult> = {}): Rival & ArmResult => ({
  label: 'them',
  side: 'torch',
  spec: { op: 'launch', calls: 1 },
  seconds: [2, 2, 4],
  goal: { speed: 1.5 },
  ...more,
});
const result = (ours: Partial<ArmResult>, ...rivals: (Rival & ArmResult)[]): CaseResult => ({
  group: 'group',
  name: 'a | b',
  shape: '[1]',
  spec: { op: 'launch', calls: 1 },
  work: { unit: 'byte', amount: 1e9 },
  bound: 0.01,
  ours: { seconds: [1, 1, 1], error: 0.001, ...ours },
  rivals,
});
const verdict = (one: CaseResult, judged = true) => rowsOf(one, judged).map((row) => row.verdict);

test('verdicts', () => {
  assert.equal(verdict(result({}, rival())), ['reached']);
  assert.equal(verdict(result({ seconds: [2, 2, 2] }, rival())), ['missed']);
  assert.equal(verdict(result({}, rival({ goal: { time: 0.5 } }))), ['reached']);
  assert.equal(verdict(result({}, rival({ goal: { time: 0.4 } }))), ['missed']);
  assert.equal(verdict(result({}, rival()), false), ['not judged']);
  assert.equal(verdict(result({}, rival({ seconds: [], failure: 'not there' }))), ['not judged']);
  const { goal: _, ...without } = rival();
  assert.equal(verdict(result({}, without)), ['']);
  assert.equal(verdict(result({})), ['']);
});

test('errors: above the bound, or above the rival’s where that counts, or none at all', () => {
  assert.equal(verdict(result({ error: 0.02 }, rival(), rival())), ['wrong', 'wrong']);
  assert.equal(verdict(result({ error: Number.NaN }, rival())), ['wrong']);
  assert.equal(verdict(result({ failure: 'crashed' }, rival())), ['failed']);
  assert.equal(verdict(result({ seconds: [] }, rival())), ['failed']);
  assert.equal(verdict(result({}, rival({ asExact: true, error: 0.001 }))), ['reached']);
  assert.equal(verdict(result({}, rival({ asExact: true, error: 0.0009 }))), ['missed']);
  assert.equal(verdict(result({}, rival({ asExact: true }))), ['missed']);
});

test('a case that is wrong counts once, goals count each', () => {
  const results = [result({ error: 1 }, rival(), rival()), result({}, rival(), rival({ goal: { speed: 3 } }))];
  assert.equal(count(results, true), { reached: 1, missed: 1, wrong: 1, failed: 0, 'not judged': 0 });
});

test('the table', () => {
  const text = markdown('Title', ['a note'], [result({}, rival()), result({ failure: 'line\nbreak' })], true);
  const [title, , note, , group, , head, , first, second] = text.split('\n');
  assert.equal([title, note, group], ['# Title', '- a note', '## group']);
  const cells = (line = '') => line.split(/(?<!\\)\|/).map((cell) => cell.trim());
  assert.is(cells(head).length, cells(first).length);
  assert.is(cells(second).length, cells(first).length);
  assert.is(
    first,
    '| a \\| b | [1] | 1.00 GB/s (1.00 s) | them | 0.50 GB/s (2.00 s) | 2.00 (2.00 to 4.00) | >= 1.5 x the speed | 1.0e-3 | reached |',
  );
  assert.match(second as string, /line break/);
});

test('cases take turns among groups, and the table has the groups together again', () => {
  const cases = ['a1', 'a2', 'a3', 'b1', 'c1', 'c2'].map((name) => ({
    ...result({}, rival()),
    group: name.charAt(0),
    name,
  }));
  const turns = inTurns(cases);
  assert.equal(
    turns.map(({ name }) => name),
    ['a1', 'b1', 'c1', 'a2', 'c2', 'a3'],
  );
  assert.equal(inTurns([]), []);
  const measured = turns.slice(0, 5).map((one) => ({ ...result({}, rival()), group: one.group, name: one.name }));
  const text = markdown('Title', [], inOrder(measured, cases), true);
  assert.equal(text.match(/^## .|^\| [abc]\d/gm), ['## a', '| a1', '| a2', '## b', '| b1', '## c', '| c1', '| c2']);
});

const lists = { gpu: gpuCases, 'cpu-kernels': cpuKernels, 'cpu-models': cpuModels };
const needed = {
  gpu: ['linear', 'attention', 'encode', 'addLayerNorm', 'forward', 'launch', 'read'],
  'cpu-kernels': ['linear', 'attention', 'encode', 'gelu', 'elementwise', 'reduce', 'crossEntropy'],
  'cpu-models': ['forward', 'dump', 'sample'],
};
for (const on of ['gpu', 'cpu-kernels', 'cpu-models'] as const) {
  for (const scale of ['full', 'tiny'] satisfies Scale[]) {
    test(`${on}, ${scale} cases: names of their own, and something to compare with`, () => {
      const cases = lists[on](scale);
      assert.is(new Set(cases.map(({ name }) => name)).size, cases.length);
      for (const { name, work, rivals } of cases) {
        assert.ok(work.amount > 0, name);
        assert.ok(rivals.length > 0, name);
      }
      const ops = new Set<string>(cases.map(({ spec }) => spec.op));
      for (const op of needed[on]) assert.ok(ops.has(op), op);
    });
  }
}

test('large results are compared at their start, middle and end', () => {
  assert.equal(parts(5, 2), [[0, 5]]);
  assert.equal(parts(6, 2), [[0, 6]]);
  assert.equal(parts(100, 2), [
    [0, 2],
    [50, 52],
    [98, 100],
  ]);
});

test('an encoder’s row, entry by entry', () => {
  const dense = Float32Array.of(1, -3, 2, 2, 0.5);
  const row = (indices: number[], values: number[]) => ({
    rowPtr: BigInt64Array.of(0n, BigInt(indices.length)),
    indices: Int32Array.from(indices),
    values: Float32Array.from(values),
  });
  checkRow(row([0, 2, 3, 4], [1, 2, 2, 0.5]), 0, dense, { top: 0, threshold: 0 });
  checkRow(row([2], [2]), 0, dense, { top: 1, threshold: 0 }); // of equals the first
  checkRow(row([0, 1, 2, 3], [1, -3, 2, 2]), 0, dense, { top: 0, threshold: 0.5, relu: false });
  throws(() => checkRow(row([3], [2]), 0, dense, { top: 1, threshold: 0 }), Error, /entry 0 is 2 of column 3/);
  throws(() => checkRow(row([2], [1]), 0, dense, { top: 1, threshold: 0 }), Error, /is 1 of column 2, but should be 2/);
  throws(() => checkRow(row([], []), 0, dense, { top: 1, threshold: 0 }), Error, /has 0 entries, but should have 1/);
});

test('an encoder’s row among many: the largest, of equals the first', () => {
  const r = random(3);
  for (let trial = 0; trial < 50; trial++) {
    const dense = Float32Array.from({ length: r.integer(1, 40) }, () => r.integer(-3, 4));
    const top = r.integer(1, dense.length + 2);
    // by sorting all of them
    const order = [...dense.keys()].sort((i, j) => (dense[j] as number) - (dense[i] as number) || i - j);
    const kept = order.slice(0, top).sort((i, j) => i - j);
    const indices = Int32Array.from(kept.filter((i) => Math.abs(dense[i] as number) > 1));
    const rowPtr = BigInt64Array.of(0n, BigInt(indices.length));
    const row = { rowPtr, indices, values: Float32Array.from(indices, (i) => dense[i] as number) };
    checkRow(row, 0, dense, { top, threshold: 1, relu: false });
  }
  const row = { rowPtr: BigInt64Array.of(0n, 1n), indices: Int32Array.of(0), values: Float32Array.of(1) };
  throws(() => checkRow(row, 0, Float32Array.of(NaN, NaN, 1), { top: 1, threshold: 0 }), Error, /row 0/);
});

test('attention in double precision, by hand', () => {
  const [q, k, v] = [Float64Array.of(0, 2), Float64Array.of(7, 0), Float64Array.of(3, 5)];
  assert.equal([...attend(q, k, v, 0, 1)], [3]);
  const [a, b] = [Math.exp(14), 1];
  const [second] = attend(q, k, v, 1, 1);
  assert.ok(Math.abs((second as number) - (3 * a + 5 * b) / (a + b)) < 1e-12);
});

test('a worker that ends, is silent or is not there costs its own part alone', async () => {
  const program = `process.stdin.on('data', (line) => {
    const { do: what } = JSON.parse(line);
    if (what === 'describe') console.log('a warning'), console.log('{"text":"here"}');
    if (what === 'drop') process.exit(7);
  })`;
  const worker = new Worker(process.execPath, ['-e', program]);
  try {
    assert.is(worker.process, 0);
    assert.equal(await worker.ask({ do: 'describe' }, 60), { text: 'here' });
    assert.is(worker.process, 1);
    assert.equal(await worker.ask({ do: 'drop' }, 60), { failure: 'ended by exit code 7' });
    assert.is(worker.process, 0);
    assert.equal(await worker.ask({ do: 'describe' }, 60), { text: 'here' });
    assert.equal(await worker.ask({ do: 'time', prepared: 0, repetitions: 1, warm: true }, 0.2), {
      failure: 'no answer in 0.2 s',
      late: true,
    });
    assert.equal(await worker.ask({ do: 'describe' }, 60), { text: 'here' });
    assert.is(worker.process, 3);
  } finally {
    worker.end();
  }
  const { failure } = await new Worker(join(packageRoot, 'no-such-program'), []).ask({ do: 'describe' }, 60);
  assert.match(failure as string, /ENOENT/);
});

const compiled = join(packageRoot, 'build-test', 'bench', 'compare');

test('the process that leads, on the CPU and without PyTorch', async () => {
  await withFolder((folder) => {
    const chosen = ['--only', 'linear f32 40', '--only', 'TopK', '--only', 'launch'];
    const args = [join(compiled, 'compare.js'), '--scale', 'tiny', '--rounds', '3', '--no-peer', '--out', folder];
    const { status, stdout, stderr } = spawnSync(process.execPath, [...args, ...chosen], {
      encoding: 'utf8',
      env: { ...process.env, SONDE_DEVICE: 'cpu' },
    });
    assert.is(status, 0, stderr);
    assert.match(stdout, /5 of 5 cases measured/);
    const { results, counts } = JSON.parse(readFileSync(join(folder, 'results.json'), 'utf8'));
    assert.equal([counts.wrong, counts.failed, counts['not judged']], [0, 0, 3]);
    for (const { ours } of results) assert.is(ours.seconds.length, 3);
    assert.match(readFileSync(join(folder, 'results.md'), 'utf8'), /## linear f32/);
  });
});

// a peer that takes long when it computes for the first time, never answers about linear layers in float32, and
// computes nothing else either
const silent = `
  let late = 6000;
  const answers = { describe: { text: 'silent' }, time: { seconds: 1 }, drop: {} };
  require('node:readline').createInterface({ input: process.stdin }).on('line', (line) => {
    const { do: what, spec } = JSON.parse(line);
    if (what === 'prepare' && spec.op === 'linear' && spec.dtype === 'float32') return;
    setTimeout(() => console.log(JSON.stringify(answers[what] ?? { prepared: 0, error: 0 })), what === 'prepare' ? late : 0);
    if (what === 'prepare') late = 0;
  });`;

test('a hang costs its group, and that side alone; a slow start costs nothing', async () => {
  await withFolder((folder) => {
    const python = join(folder, 'python');
    writeFileSync(join(folder, 'silent.cjs'), silent);
    writeFileSync(python, `#!/bin/sh\nexec '${process.execPath}' '${join(folder, 'silent.cjs')}'\n`);
    chmodSync(python, 0o755);
    const args = ['--scale', 'tiny', '--rounds', '1', '--patience', '5', '--out', folder];
    const chosen = ['--only', 'linear f32', '--only', 'linear bf16'];
    const { stdout, stderr } = spawnSync(process.execPath, [join(compiled, 'compare.js'), ...args, ...chosen], {
      encoding: 'utf8',
      env: { ...process.env, SONDE_DEVICE: 'cpu', PYTHON: python },
    });
    const { results } = JSON.parse(readFileSync(join(folder, 'results.json'), 'utf8')) as { results: CaseResult[] };
    assert.is(results.length, 8, stdout + stderr);
    const failures = (group: string) =>
      results.filter((one) => one.group === group).map(({ rivals: [peer] }) => peer?.failure);
    assert.equal(failures('linear bf16'), Array(4).fill(undefined));
    const [first, ...others] = failures('linear f32');
    assert.is(first, 'no answer in 5 s');
    assert.equal(others, Array(3).fill('not tried after another of this group: no answer in 5 s'));
    for (const { ours } of results) assert.equal([ours.seconds.length, ours.failure], [1, undefined]);
    const order = [...stdout.matchAll(/^linear (bf16|f32) .*\[/gm)].map(([, group]) => group);
    assert.equal(order, ['bf16', 'f32', 'bf16', 'f32', 'bf16', 'f32', 'bf16', 'f32']);
  });
});

test('the CPU cases run, and the results are right', async () => {
  await withFolder((folder) => {
    for (const on of ['cpu-kernels', 'cpu-models'] as const) {
      const args = ['--on', on, '--scale', 'tiny', '--rounds', '2', '--no-peer', '--threads', '2', '--out', folder];
      const { status, stdout, stderr } = spawnSync(process.execPath, [join(compiled, 'compare.js'), ...args], {
        encoding: 'utf8',
      });
      assert.is(status, 0, stdout + stderr);
      assert.match(stdout, /2 threads/);
      const { results, counts } = JSON.parse(readFileSync(join(folder, 'results.json'), 'utf8'));
      assert.equal([counts.wrong, counts.failed], [0, 0]);
      assert.is(results.length, lists[on]('tiny').length);
    }
  });
});

test.run();
