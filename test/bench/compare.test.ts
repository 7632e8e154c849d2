// The benchmarks' arithmetic against hand-computed figures, the conductor on the CPU, and run.sh with programs that only pretend.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import * as assert from 'uvu/assert';
import { checkRow, parts } from '../../bench/compare/check.js';
import { cpuKernels, cpuModels } from '../../bench/compare/cpu_cases.js';
import { gpuCases } from '../../bench/compare/gpu_cases.js';
import type { Rival, Scale } from '../../bench/compare/spec.js';
import {
  type ArmResult,
  type CaseResult,
  count,
  markdown,
  median,
  reaches,
  rowsOf,
  showRate,
  showTime,
  speedRatios,
} from '../../bench/compare/summary.js';
import { Worker } from '../../bench/compare/worker.js';
import { packageRoot } from '../../src/engine/native.js';
import { withFolder } from '../support/folders.js';
import { suite, throws } from '../support/harness.js';

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

const lists = { gpu: gpuCases, 'cpu-kernels': cpuKernels, 'cpu-models': cpuModels };
const needed = {
  gpu: ['linear', 'attention', 'encode', 'addLayerNorm', 'forward', 'launch', 'read'],
  'cpu-kernels': ['linear', 'attention', 'encode', 'gelu'],
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

test('where large results are looked at', () => {
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

test('the conductor, on the CPU and without PyTorch', async () => {
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

const linux = process.platform === 'linux' && existsSync(compiled);
if (!linux) test.skip('run.sh', 'it is for Linux');
else {
  // what run.sh finds on the PATH: node, and whatever else is given, as scripts
  const runSh = (
    folder: string,
    programs: Record<string, string>,
    args: string[],
    more: Record<string, string> = {},
  ) => {
    const bin = join(folder, 'bin');
    mkdirSync(bin);
    for (const [name, body] of Object.entries(programs)) {
      writeFileSync(join(bin, name), `#!/bin/sh\n${body}\n`);
      chmodSync(join(bin, name), 0o755);
    }
    for (const name of 'bash sh env dirname date tr sed grep head tail cut wc touch mkdir rm tee timeout ls cat uname'.split(
      ' ',
    )) {
      const path = ['/usr/bin', '/bin'].map((place) => join(place, name)).find(existsSync);
      if (path) symlinkSync(path, join(bin, name));
    }
    const out = join(folder, 'out');
    const run = spawnSync('bash', [join(packageRoot, 'bench', 'gpu', 'run.sh'), ...args, out], {
      encoding: 'utf8',
      env: { PATH: bin + delimiter, SONDE_COMMIT: 'abc', CUDA_HOME: folder, ...more },
    });
    return { ...run, log: (name: string) => readFileSync(join(out, name), 'utf8') };
  };
  const quietNode = 'echo "$@"; echo done';

  test('run.sh: goes on after a failure, and says so at the end', async () => {
    await withFolder((folder) => {
      const node = `case "$*" in *run.mjs*) echo 'FAIL a.test.js 1/2'; echo '1 passed, 1 failed'; exit 1;; esac; ${quietNode}`;
      const { status, stdout, stderr, log } = runSh(folder, { node }, []);
      assert.is(status, 1, stderr);
      assert.match(stdout, /^FAILED {3}tests, \d+ s, exit code 1: 1 passed, 1 failed/m);
      assert.match(stdout, /^ +FAIL a\.test\.js 1\/2$/m);
      assert.match(stdout, /^ok {7}small case, memory poisoned, \d+ s: done$/m);
      assert.match(stdout, /^ok {7}bench/m);
      assert.match(stdout, /^NOT all well, 5 skipped/m);
      assert.match(stdout, /^skipped {2}machine: nvidia-smi is not installed$/m);
      assert.match(stdout, /^skipped {2}racecheck: compute-sanitizer is not installed$/m);
      assert.is(log('summary.txt'), stdout);
      assert.match(log('bench.log'), /compare\.js --on gpu --out .* --rounds 15 --limit 3580/);
      assert.match(log('machine.log'), /commit abc/);
    });
  });

  const verdicts: [string, string, RegExp, number][] = [
    ['finds nothing', 'echo "========= ERROR SUMMARY: 0 errors"', /^ok {7}memcheck.*ERROR SUMMARY: 0 errors$/m, 0],
    [
      'finds something',
      'echo "========= ERROR SUMMARY: 1 error"; exit 86',
      /^FAILED {3}memcheck, \d+ s, exit code 86/m,
      1,
    ],
    [
      'refuses',
      'echo "Error: Device not supported"; exit 1',
      /^skipped {2}memcheck: compute-sanitizer does not support/m,
      0,
    ],
    ['says nothing', 'true', /^FAILED {3}memcheck, \d+ s: compute-sanitizer gave no verdict/m, 1],
  ];
  for (const [title, body, expected, code] of verdicts) {
    test(`run.sh: compute-sanitizer ${title}`, async () => {
      await withFolder((folder) => {
        const programs = { node: quietNode, 'compute-sanitizer': body };
        const { status, stdout } = runSh(folder, programs, ['--only', 'sanitizer'], { QUICK: '1' });
        assert.match(stdout, expected);
        assert.is(status, code);
        assert.not.match(stdout, /tests|bench,/);
      });
    });
  }

  test('run.sh: a missed target, a step without end, and a wrong argument', async () => {
    await withFolder((folder) => {
      const { status, stdout } = runSh(folder, { node: 'echo "2 missed"; exit 3' }, ['--only', 'bench'], { TINY: '1' });
      assert.match(stdout, /^MISSED {3}bench, \d+ s: 2 missed$/m);
      assert.is(status, 1);
    });
    await withFolder((folder) => {
      const { status, stdout } = runSh(folder, { node: 'exec /bin/sleep 60' }, ['--only', 'bench'], { LIMIT: '4' });
      assert.match(stdout, /^FAILED {3}bench: ran past \d+ s/m);
      assert.is(status, 1);
    });
    await withFolder((folder) => {
      const { status, stderr } = runSh(folder, { node: quietNode }, ['--only', 'everything']);
      assert.match(stderr, /--only takes machine, tests, sanitizer or bench, not 'everything'/);
      assert.is(status, 2);
    });
  });
}

test.run();
