// run.sh with programs that only pretend: which steps run, in which order, within which limits, and what is left of a step that hangs.
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../../src/engine/native.js';
import { withFolder } from '../../support/folders.js';
import { suite } from '../../support/harness.js';

const test = suite('bench/gpu/run.sh');
test.limit(180_000);

const tools = 'bash sh env dirname date tr sed grep head tail cut wc touch mkdir rm tee timeout ls cat uname sleep';
const pathOf = (name: string) => ['/usr/bin', '/bin'].map((folder) => join(folder, name)).find(existsSync);

interface Ended {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
  log(name: string): string;
}

/** Runs run.sh where the PATH has the usual tools and, as shell scripts, the given programs. */
async function runSh(
  folder: string,
  programs: Record<string, string>,
  args: string[],
  more: Record<string, string> = {},
): Promise<Ended> {
  const bin = join(folder, 'bin');
  mkdirSync(bin);
  for (const [name, body] of Object.entries(programs)) {
    writeFileSync(join(bin, name), `#!${pathOf('bash')}\n${body}\n`); // sh would drop the functions that run.sh exports
    chmodSync(join(bin, name), 0o755);
  }
  for (const name of tools.split(' ')) {
    const path = pathOf(name);
    if (path && !(name in programs)) symlinkSync(path, join(bin, name));
  }
  const out = join(folder, 'out');
  const child = spawn('bash', [join(packageRoot, 'bench', 'gpu', 'run.sh'), ...args, out], {
    env: { PATH: bin + delimiter, SONDE_COMMIT: 'abc', CUDA_HOME: folder, ...more },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const [status] = (await once(child, 'close')) as [number | null];
  return { status, stdout, stderr, log: (name) => readFileSync(join(out, name), 'utf8') };
}

const quietNode = `echo "$@"
case "$*" in *compare.js*)
  while [ "$1" != --out ]; do shift; done
  echo >"$2/results.json"; echo >"$2/results.md";;
esac
echo done`;
const quietNcu = 'echo "$@"; echo "==PROF== Profiling \\"hopper_kernel\\" - 0: 100%"; echo table';
const sound = 'case $1 in --help) exit;; esac; echo "$@"; echo "========= ERROR SUMMARY: 0 errors"';
const gpu = 'echo "NVIDIA H100"';
const everything = { node: quietNode, ncu: quietNcu, 'compute-sanitizer': sound, 'nvidia-smi': gpu };

// what the test step runs
const quickWords = 'engine/ transformer/ autoencoder/ context/model';
const fullWords = 'engine/ transformer/ autoencoder/ context/ dump/ cli/';

/** A stand-in for timeout: reports what a step may take, and runs it. */
const reportTimes = (file: string) => `[ "$2" = 3 ] && echo "$@" >>'${file}'; exec ${pathOf('timeout')} "$@"`;

/** The steps as they came -> [the command, seconds with those for stopping]. */
function stepsIn(text: string): [string, number][] {
  return [...text.matchAll(/^-k (\d+) (\d+) (.*)$/gm)].map(([, grace, seconds, command]) => [
    command as string,
    Number(grace) + Number(seconds),
  ]);
}

if (process.platform !== 'linux' || !existsSync(join(packageRoot, 'build-test'))) test.skip('all', 'it is for Linux');
else {
  const limits = async (args: string[], env: Record<string, string>) => {
    let steps: [string, number][] = [];
    const logs = new Map<string, string>();
    let ended: Ended | undefined;
    await withFolder(async (folder) => {
      const file = join(folder, 'times');
      ended = await runSh(folder, { ...everything, timeout: reportTimes(file) }, args, env);
      steps = stepsIn(readFileSync(file, 'utf8'));
      assert.is(ended.status, 0, ended.stdout + ended.stderr);
      const files = readdirSync(join(folder, 'out'));
      for (const name of files) logs.set(name, ended.log(name));
    });
    return { steps, files: logs.size, stdout: (ended as Ended).stdout, log: (name: string) => logs.get(name) ?? '' };
  };
  const only = (...steps: string[]) => steps.flatMap((step) => ['--only', step]);
  const sum = (steps: [string, number][]) => steps.reduce((total, [, seconds]) => total + seconds, 0);

  test('quick: the first call', async () => {
    const { steps, files } = await limits(only('machine', 'small', 'full-size', 'bench'), { QUICK: '1' });
    assert.equal(
      steps.map(([command, seconds]) => [command.match(/machine$|\w+\.js/)?.[0], seconds]),
      [
        ['machine', 20],
        ['small.js', 60],
        ['full_size.js', 40],
        ['compare.js', 150],
      ],
    );
    assert.ok(sum(steps) <= 275); // LIMIT cuts the last one
    assert.is(files, 7); // eight can be brought back
    const [bench] = steps.at(-1) as [string, number];
    assert.match(
      bench,
      / --rounds 5 --limit 122 --patience 20 --only linear bf16 --only linear f32 --only attention --only /,
    );
  });

  test('quick: the second call, and memcheck alone', async () => {
    const { steps, files, stdout, log } = await limits(only('tests', 'sanitizer', 'profile'), { QUICK: '1' });
    assert.equal(
      steps.map(([, seconds]) => seconds),
      [110, 60, 60],
    );
    assert.ok(sum(steps) <= 255);
    assert.is(files, 4);
    const [tests, memcheck] = steps.map(([command]) => command);
    assert.is(tests, `node test/run.mjs ${quickWords}`);
    assert.match(memcheck as string, / memcheck .*small\.js linear float32 x float32, float32 \[129/);
    const profiles = [
      ...log('profile.log').matchAll(/^--clock-control none --set full -k regex:hopper.* profile (.*)$/gm),
    ];
    assert.equal(
      profiles.map(([, word]) => word),
      ['linear bfloat16', 'linear float32', 'attention', 'sparseEncode bfloat16', 'sparseEncode float32'],
    );
    assert.match(stdout, /^ok {7}profile, \d+ s: 5 kernels$/m);
    assert.not.match(stdout, /racecheck|synccheck|initcheck|poisoned/);
  });

  test('in full: all steps, all of the sanitizer’s tools', async () => {
    const { steps, stdout } = await limits([], {});
    const order = [...stdout.matchAll(/^ok {7}(.*?), \d+ s/gm)].map(([, title]) => title);
    const tools = ['memcheck', 'racecheck', 'synccheck', 'initcheck'];
    const first = ['machine', 'small', 'small, memory poisoned', 'full-size', 'bench', 'tests'];
    assert.equal(order, [...first, ...tools, 'profile']);
    const tests = steps.map(([command]) => command).find((command) => /run\.mjs/.test(command)) as string;
    assert.is(tests, `node test/run.mjs ${fullWords}`);
    assert.match(stdout, /^all well, 0 skipped/m);
  });

  test('the test step never begins this file', () => {
    const folder = join(packageRoot, 'build-test', 'test');
    const files = readdirSync(folder, { recursive: true }).map(String);
    assert.ok(files.includes('bench/gpu/run.test.js'));
    for (const word of `${quickWords} ${fullWords}`.split(' ')) {
      const chosen = files.filter((file) => file.endsWith('.test.js') && file.includes(word));
      assert.ok(chosen.length > 0, word);
      assert.equal(
        chosen.filter((file) => file.startsWith('bench/')),
        [],
      );
    }
  });

  test('the words of the sanitizer’s quick run name a case each', async () => {
    const source = readFileSync(join(packageRoot, 'bench', 'gpu', 'run.sh'), 'utf8');
    const words = [...source.matchAll(/'((?:linear|attention|sparseEncode) [^']* \[\d+[^']*)'/g)].map(
      ([, word]) => word,
    );
    assert.is(words.length, 6);
    const small = join(packageRoot, 'build-test', 'bench', 'gpu', 'small.js');
    // on the CPU against itself: only names matter here
    const child = spawn(process.execPath, [small, ...(words as string[])], {
      env: { ...process.env, SONDE_DEVICE: 'cpu' },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let stdout = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    await once(child, 'close');
    for (const word of words) assert.ok(stdout.includes(` ${word}`), `${word} in ${stdout}`);
    assert.match(stdout, /: 18 checks, 0 failed/);
  });

  test('goes on after a failure, and says so at the end', async () => {
    await withFolder(async (folder) => {
      const node = `case "$*" in *run.mjs*) echo 'FAIL a.test.js 1/2'; echo '1 passed, 1 failed'; exit 1;; esac; ${quietNode}`;
      const { status, stdout, stderr, log } = await runSh(folder, { node }, []);
      assert.is(status, 1, stderr);
      assert.match(stdout, /^FAILED {3}tests, \d+ s, exit code 1: 1 passed, 1 failed/m);
      assert.match(stdout, /^ +FAIL a\.test\.js 1\/2$/m);
      assert.match(stdout, /^ok {7}small, memory poisoned, \d+ s: done$/m);
      assert.match(stdout, /^ok {7}bench/m);
      assert.match(stdout, /^NOT all well, 5 skipped/m);
      assert.match(stdout, /^skipped {2}racecheck: compute-sanitizer is not installed$/m);
      assert.match(stdout, /^skipped {2}profile: ncu is not installed$/m);
      assert.match(stdout, /^ok {7}machine, \d+ s: nvidia-smi: not installed$/m);
      assert.is(log('summary.txt'), stdout);
      assert.match(log('bench.log'), /compare\.js --on gpu --out .* --rounds 15 --limit 3572 --note/);
      assert.match(log('machine.log'), /commit abc/);
    });
  });

  const verdicts: [string, 'sanitizer' | 'profile', string, RegExp, number][] = [
    ['compute-sanitizer finds nothing', 'sanitizer', sound, /^ok {7}memcheck.*ERROR SUMMARY: 0 errors$/m, 0],
    [
      'compute-sanitizer finds something',
      'sanitizer',
      'echo "========= ERROR SUMMARY: 1 error"; exit 86',
      /^FAILED {3}memcheck, \d+ s, exit code 86/m,
      1,
    ],
    [
      'compute-sanitizer refuses',
      'sanitizer',
      'echo "Error: Device not supported"; exit 1',
      /^skipped {2}memcheck: compute-sanitizer does not support/m,
      0,
    ],
    [
      'compute-sanitizer says nothing',
      'sanitizer',
      'true',
      /^FAILED {3}memcheck, \d+ s: compute-sanitizer gave no verdict/m,
      1,
    ],
    ['ncu sees nothing', 'profile', 'true', /^FAILED {3}profile, \d+ s: ncu saw no kernel/m, 1],
    [
      'ncu may not look',
      'profile',
      'echo "==ERROR== ERR_NVGPUCTRPERM"; exit 1',
      /^skipped {2}profile: ncu may not read the counters/m,
      0,
    ],
  ];
  for (const [title, step, body, expected, code] of verdicts) {
    test(title, async () => {
      await withFolder(async (folder) => {
        const program = step === 'profile' ? 'ncu' : 'compute-sanitizer';
        const programs = { node: quietNode, [program]: body };
        const { status, stdout } = await runSh(folder, programs, ['--only', step], { QUICK: '1' });
        assert.match(stdout, expected);
        assert.is(status, code);
        assert.not.match(stdout, /tests|bench,/);
      });
    });
  }

  test('a missed target, and a wrong argument', async () => {
    await withFolder(async (folder) => {
      const node = 'echo "2 missed"; exit 3';
      const { status, stdout } = await runSh(folder, { node }, ['--only', 'bench'], { TINY: '1' });
      assert.match(stdout, /^MISSED {3}bench, \d+ s: 2 missed$/m);
      assert.is(status, 1);
    });
    await withFolder(async (folder) => {
      const { status, stderr } = await runSh(folder, { node: quietNode }, ['--only', 'everything']);
      assert.match(stderr, /--only takes one of machine small .* profile, not 'everything'/);
      assert.is(status, 2);
    });
  });

  // whatever it is asked, it stays, and so does a process beside it; the first line is on the disk nevertheless
  const stubborn = `case $1 in --help) exit;; esac; echo begun; (trap '' TERM INT HUP; sleep 600) & trap '' TERM INT HUP; sleep 600; sleep 600`;
  const alive = (mark: string) =>
    readdirSync('/proc').filter((pid) => {
      try {
        return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/environ`, 'utf8').includes(mark);
      } catch {
        return false; // it has ended, or is somebody else's
      }
    });

  /** Nothing with this mark in its environment is alive, or will be in a moment: what is killed takes one to go. */
  const allEnded = async (mark: string) => {
    for (let i = 0; i < 100 && alive(mark).length > 0; i++) await setTimeout(100);
    assert.equal(alive(mark), []);
  };

  test('each step ends within its limit when it hangs, and nothing of it is left', async () => {
    const commands: Record<string, string> = { sanitizer: 'compute-sanitizer', profile: 'ncu' };
    const steps = ['machine', 'small', 'full-size', 'bench', 'tests', 'sanitizer', 'profile'];
    await Promise.all(
      steps.map((step) =>
        withFolder(async (folder) => {
          const mark = randomUUID();
          const programs = { ...everything, [commands[step] ?? 'node']: stubborn };
          const start = performance.now();
          const env = { QUICK: '1', LIMIT: '12', MARK: mark };
          const { status, stdout, log } = await runSh(folder, programs, ['--only', step], env);
          assert.match(
            stdout,
            new RegExp(`^FAILED {3}${step === 'sanitizer' ? 'memcheck' : step}: ran past \\d+ s`, 'm'),
          );
          assert.is(status, 1);
          assert.ok(performance.now() - start < 90_000, 'it sleeps much longer');
          assert.match(log(`${step}.log`), step === 'machine' ? /^commit abc$/m : /^begun$/m);
          await allEnded(mark);
        }),
      ),
    );
  });

  test('a step that hangs does not take the time of the others', async () => {
    await withFolder(async (folder) => {
      const hasty = `case "$4 $*" in node*small.js* | node*run.mjs*) shift 3; set -- -k 1 1 "$@";; esac; exec ${pathOf('timeout')} "$@"`;
      const node = `case "$*" in *small.js* | *run.mjs*) ${stubborn};; esac; ${quietNode}`;
      const { status, stdout } = await runSh(folder, { ...everything, node, timeout: hasty }, [], { QUICK: '1' });
      assert.is(status, 1);
      const reported = [...stdout.matchAll(/^(ok|FAILED) +([a-z-]+)/gm)].map(([, how, title]) => `${how} ${title}`);
      const rest = ['ok memcheck', 'ok profile'];
      assert.equal(reported, ['ok machine', 'FAILED small', 'ok full-size', 'ok bench', 'FAILED tests', ...rest]);
      assert.match(stdout, /^FAILED {3}small: ran past 60 s/m);
    });
  });

  test('the test runner and its tests end with their step, and the one that hung is named', async () => {
    await withFolder(async (folder) => {
      const mark = randomUUID();
      const env = { QUICK: '1', LIMIT: '30', TEST_SUFFIX: '.hangs.js', TESTS: 'fails/hangs', MARK: mark };
      const { stdout } = await runSh(folder, { node: `exec '${process.execPath}' "$@"` }, ['--only', 'tests'], env);
      assert.match(stdout, /^FAILED {3}tests: ran past \d+ s/m);
      assert.match(stdout, /^ +FAIL support\/fails\/hangs\.hangs\.js was running when SIGTERM came$/m);
      await allEnded(mark);
    });
  });
}

test.run();
