// Oracle: exit codes of test files that must fail (fails/**/*.fails.ts), each run as a process: a harness that cannot
// fail proves nothing.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { withFolder } from './folders.js';
import { rejects, suite, throws } from './harness.js';
import { endOf } from './processes.js';

const here = dirname(fileURLToPath(import.meta.url));
const runner = join(here, '..', '..', '..', 'test', 'run.mjs');
const { FORCE_COLOR: _, ...environment } = process.env;
const plain = { ...environment, NO_COLOR: '1' };

// each file, how many of its tests fail, and what it must say
const mustFail: Record<string, [failing: number, said: RegExp]> = {
  after_each_throws: [2, /planted in after\.each/],
  after_throws: [0, /an after hook threw: Error: planted in after/],
  before_each_throws: [1, /planted in before\.each/],
  before_throws: [2, /planted in before/],
  crash: [0, /$/],
  exits_early: [0, /suite "exits early" did not finish/],
  failing_test: [1, /is wrong/],
  holds_the_process: [1, /test "sleeps" did not finish within its limit of 0\.1 s/],
  never_run: [0, /suite "never run" was never run\(\)/],
  never_settles: [1, /test "waits for nothing" did not finish within its limit of 0\.1 s/],
  no_tests: [0, /suite "no tests" has no tests/],
  not_close: [
    8,
    /1 of 3 elements differ, the worst at index 2: 3, but expected 4[\s\S]*expected 3 elements, but got 2[\s\S]*no await\?/,
  ],
  rejects_not: [1, /expected a rejection \(\/words\/\), but the promise resolved to 7/],
  rejects_otherwise: [3, /expected RangeError \/the words\/[\s\S]*but got: not those[\s\S]*but got 'the words'/],
  second_suite_never_run: [0, /suite "second" was never run\(\)/],
  test_after_run: [0, /test "too late" after run\(\)/],
  throws_no_error: [1, /threw undefined, which is not an Error/],
  throws_otherwise: [
    4,
    /it returned 7[\s\S]*it returned a promise[\s\S]*but got ReferenceError[\s\S]*but got: not those/,
  ],
  unhandled_rejection: [0, /nobody waited/],
};

const test = suite('harness');

const files = readdirSync(join(here, 'fails'), { recursive: true, encoding: 'utf8' }).filter((f) =>
  f.endsWith('.fails.js'),
);
const nameOf = (file: string): string => basename(file, '.fails.js');

test('every file of fails/ is expected here', () => {
  assert.equal(files.map(nameOf).sort(), Object.keys(mustFail).sort());
});

for (const [name, [failing, said]] of Object.entries(mustFail)) {
  test(`${name} fails`, () => {
    const file = join(here, 'fails', files.find((f) => nameOf(f) === name) ?? '');
    const { status, stdout, stderr } = spawnSync(process.execPath, [file], {
      encoding: 'utf8',
      env: { ...plain, TEST_LIMIT_FACTOR: '1' },
      timeout: 30_000,
    });
    assert.is.not(status, 0, 'the exit code is 0');
    assert.match(stdout + stderr, said);
    assert.is(stdout.match(/^ *FAIL /gm)?.length ?? 0, failing, `failing tests of\n${stdout}`);
  });
}

const run = (suffix: string, filters: string[], more: NodeJS.ProcessEnv = {}) =>
  spawnSync(process.execPath, [runner, ...filters], {
    encoding: 'utf8',
    env: { ...plain, TEST_LIMIT_FACTOR: '1', TEST_SUFFIX: suffix, ...more },
    timeout: 60_000,
  });

test('the runner counts failures and fails', () => {
  const { status, stdout } = run('.fails.js', ['throws_otherwise', 'fails/failing', 'fails/no_tests', 'fails/crash']);
  assert.is(status, 1);
  assert.match(stdout, /^FAIL support\/fails\/crash\.fails\.js .*ended by SIGABRT$/m);
  assert.match(stdout, /^FAIL support\/fails\/no_tests\.fails\.js .*ran no test$/m);
  assert.match(stdout, /^FAIL support\/fails\/throws_otherwise\.fails\.js 0\/4, /m);
  assert.match(stdout, /\n0 passed, 7 failed, 0 skipped\n$/);
});

test('the runner fails a file that only its exit code betrays', () => {
  const { status, stdout } = run('.fails.js', ['fails/hooks/after_throws', 'fails/suites/second_suite']);
  assert.is(status, 1);
  assert.match(stdout, /after_throws\.fails\.js 1\/1, .*exit code 1$/m);
  assert.match(stdout, /\n2 passed, 2 failed, 0 skipped\n$/);
});

test('the runner stops a file that runs too long', () => {
  const { status, stdout } = run('.hangs.js', ['fails/hangs'], { TEST_FILE_LIMIT: '1' });
  assert.is(status, 1);
  assert.match(stdout, /^FAIL support\/fails\/hangs\.hangs\.js .*ran past 1 s$/m);
});

test(
  'the runner names what it stops, though the signal comes twice',
  () =>
    withFolder(async (folder) => {
      // Pauses about as long as the runner takes from the signal to the end.
      for (const pause of [0, 0.2, 0.5, 0.7, 1, 1.5, 2, 3]) {
        const begun = join(folder, String(pause));
        const env = { ...plain, TEST_LIMIT_FACTOR: '1', TEST_SUFFIX: '.hangs.js', TEST_FILE_LIMIT: '60', BEGUN: begun };
        const child = spawn(process.execPath, [runner, 'fails/hangs'], { env, stdio: ['ignore', 'pipe', 'inherit'] });
        let stdout = '';
        child.stdout.setEncoding('utf8').on('data', (text: string) => {
          stdout += text;
        });
        const end = endOf(child);
        while (!existsSync(begun) && child.exitCode === null) await setTimeout(10);
        child.kill('SIGTERM');
        const start = performance.now();
        while (performance.now() - start < pause); // a timer would be too coarse
        child.kill('SIGTERM');
        assert.is((await end).signal, 'SIGTERM');
        assert.match(
          stdout,
          /^FAIL support\/fails\/hangs\.hangs\.js was running when SIGTERM came$/m,
          `after ${pause} ms`,
        );
      }
    }),
  { limit: 180_000 },
);

test('the runner fails when no file matches', () => {
  const { status, stdout } = run('.test.js', ['there is no such file']);
  assert.is(status, 1);
  assert.match(stdout, /no test file in .* matches there is no such file/);
});

test('the runner reports skips and their reasons', () => {
  const { status, stdout } = run('.skips.js', []);
  assert.is(status, 0);
  assert.match(stdout, /skipped: with a skip: needs a moon: there is none/);
  assert.match(stdout, /\n1 passed, 0 failed, 1 skipped\n$/);
});

test('correct code passes', async () => {
  const error = await rejects(Promise.reject(new RangeError('the words')), RangeError, /words/);
  assert.is(error.message, 'the words');
  await rejects(Promise.reject(new RangeError('the words')), /words/);
  await rejects(async () => {
    throw new TypeError('the words');
  }, TypeError);
  const raise = () => {
    throw new TypeError('other words');
  };
  assert.is(throws(raise, TypeError, /^other words$/).message, 'other words');
});

test.run();
