// Every kernel on the emulator, which finds mistakes that a GPU would only sometimes show: kernels_test against the CPU backend under several
// schedules, plain and under AddressSanitizer and UndefinedBehaviorSanitizer, for each of the three kinds of GPU.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { suite } from '../support/harness.js';

const test = suite('kernels on the emulator');

const program = (flavour: string, name = 'kernels_test'): string => join(packageRoot, 'build-emulator', flavour, name);

function run(path: string, args: (string | number)[], env: Record<string, string> = {}): string {
  const { status, signal, stdout, stderr } = spawnSync(path, args.map(String), {
    encoding: 'utf8',
    env: { ...process.env, ASAN_OPTIONS: 'detect_leaks=0', UBSAN_OPTIONS: 'print_stacktrace=1', ...env },
  });
  assert.is(status, 0, `${path} ${args.join(' ')}: ${signal ?? `exit code ${status}`}\n${stdout}${stderr}`);
  return stdout;
}

const names = [
  ...[
    'elementwise',
    'gelu',
    'copy',
    'rows',
    'norm paths',
    'reductions',
    'cross-entropy',
    'ranking',
    'lookup',
    'choice',
    'indexing',
    'linear',
    'matmul',
    'rows alone',
    'range',
    'attention',
    'large scores',
    'planes',
    'sparse',
  ],
  ...['transfers', 'accuracy', 'pipeline'],
];

// the emulator's switching of stacks is written for Linux
if (process.platform !== 'linux') test.skip('the kernels', `the emulator does not run on ${process.platform}`);
else {
  test(
    'like the CPU backend, on random shapes and twelve schedules; split products no less accurate than float32',
    () => {
      const stdout = run(program('plain'), [10, 12]);
      for (const name of names) assert.match(stdout, `kernels_test: ${name}: good`);
    },
    { limit: 280_000 },
  );

  test('the emulator computes the results of a GPU, and detects mistakes', () => {
    assert.match(run(program('plain', 'emulator_test'), []), /emulator_test: good, \d+ mistakes found/);
  });

  // 80: products by mma.sync. 86: float32 in plain arithmetic, less shared memory.
  for (const capability of ['80', '86']) {
    test(
      `the kernels of compute capability ${capability}`,
      () => {
        const path = program('plain');
        const env = { SONDE_EMULATE_SM: capability };
        run(
          path,
          [12, 6, 'linear', 'matmul', 'alone', 'range', 'sparse', 'attention', 'planes', 'accuracy', 'pipeline'],
          env,
        );
      },
      { limit: 280_000 },
    );
  }

  test(
    'no access out of bounds, no undefined behaviour',
    () => {
      const path = program('address');
      run(path, [3, 6]);
      run(path, [3, 3, 'linear', 'matmul', 'alone', 'sparse', 'planes', 'pipeline'], { SONDE_EMULATE_SM: '80' });
    },
    { limit: 290_000 },
  );
}

test.run();
