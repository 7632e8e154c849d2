// `npm run test:sanitize`: the native code under AddressSanitizer and UndefinedBehaviorSanitizer (the programs of this
// folder, and the addon in Node under the tests that use it), then under ThreadSanitizer (the programs, and the CUDA
// kernels on the emulator, whose threads race where a barrier is missing). Planted faults come first: a sanitizer that
// does not find them finds nothing.
//   node test/native/sanitize.mjs [address|thread] [substring of test files ...]
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { buildAddon, compiler } from '../../native/build.mjs';
import { buildKernelsTest } from '../cuda-emulator/build.mjs';
import { find } from '../cuda-emulator/mistakes/plant.mjs';
import { compile, root, run, runPrograms } from './programs.mjs';

// as in binding.gyp
const flags = {
  address: ['-fsanitize=address,undefined', '-fno-sanitize-recover=all', '-g', '-O1', '-fno-omit-frame-pointer'],
  thread: ['-fsanitize=thread', '-g', '-O1'],
};
const faults = {
  address: {
    overflow: /heap-buffer-overflow/,
    use_after_free: /heap-use-after-free/,
    undefined_arithmetic: /signed integer overflow/,
  },
  thread: { race: /data race/ },
};
// Node itself leaks at exit on purpose, and the tests ask for more memory than there is.
const options = {
  ASAN_OPTIONS: 'detect_leaks=0:allocator_may_return_null=1',
  UBSAN_OPTIONS: 'print_stacktrace=1',
  TSAN_OPTIONS: 'halt_on_error=1',
};

const [first, ...rest] = process.argv.slice(2);
const one = first === 'address' || first === 'thread' ? first : undefined;
const filters = one || first === undefined ? rest : [first, ...rest];

try {
  if (one !== 'thread') sanitizeAddress(filters.length > 0 ? filters : ['engine/', 'transformer/', 'autoencoder/']);
  if (one !== 'address') {
    sanitizeThread();
    await sanitizeKernels();
  }
  console.log('sanitizers: good');
} catch (error) {
  console.error(error.message);
  console.error('sanitizers: failed');
  process.exitCode = 1;
}

function sanitizeAddress(tests) {
  Object.assign(process.env, options);
  const { addon, release } = build('address');
  // Node has no AddressSanitizer in it, so the runtime must be loaded first, and libstdc++ for it to find exceptions
  const inNode = { LD_PRELOAD: [library('libasan.so'), library('libstdc++.so.6')].join(' ') };
  for (const [fault, said] of Object.entries(faults.address)) {
    const source = join(root, 'test', 'native', 'planted_fault.cc');
    const planted = [...flags.address, `-DPLANT=${fault}`, '-pthread'];
    mustFail(compile(source, join(release, 'programs', fault), planted), [], said);
    const shared = compile(source, join(release, 'programs', `${fault}.node`), [...planted, '-shared', '-fPIC']);
    mustFail(process.execPath, ['-e', `process.dlopen({ exports: {} }, ${JSON.stringify(shared)})`], said, inNode);
  }
  runPrograms(release, flags.address);
  run(process.execPath, ['test/run.mjs', ...tests], { ...inNode, SONDE_ADDON: addon, TEST_LIMIT_FACTOR: '10' });
}

function sanitizeThread() {
  const { release } = build('thread');
  Object.assign(process.env, options);
  for (const [fault, said] of Object.entries(faults.thread)) {
    const source = join(root, 'test', 'native', 'planted_fault.cc');
    const program = compile(source, join(release, 'programs', fault), [
      ...flags.thread,
      `-DPLANT=${fault}`,
      '-pthread',
    ]);
    mustFail(program, [], said);
  }
  runPrograms(release, flags.thread);
}

async function sanitizeKernels() {
  if (process.platform !== 'linux') return;
  const program = await buildKernelsTest('thread');
  for (const title of [
    'rows: parts are overwritten while they are read',
    'attention: keys are overwritten while they are read',
  ]) {
    const said = await find(title, join(dirname(program), 'mistake'), { flavour: 'thread', schedules: 1, cases: 3 });
    if (!/data race/.test(said ?? ''))
      throw new Error(`kernels_test: the planted race was not found: ${title}: ${said}`);
  }
  run(program, ['2', '4']);
}

function build(sanitize) {
  const { addon, warnings, seconds } = buildAddon({ sanitize });
  if (warnings.length > 0) console.error(warnings.join('\n'));
  console.log(`sanitizers: ${sanitize}: built in ${seconds.toFixed(1)} s`);
  return { addon, release: join(addon, '..') };
}

function mustFail(command, args, said, env = {}) {
  const { status, signal, stdout, stderr } = spawnSync(command, args, {
    encoding: 'utf8',
    env: { ...process.env, ...env },
    timeout: 60_000,
  });
  if ((status === 0 && signal === null) || !said.test(stderr)) {
    throw new Error(`${command} ${args.join(' ')}: the planted fault was not found\n${stdout}${stderr}`);
  }
}

function library(name) {
  const { stdout } = spawnSync(compiler, [`-print-file-name=${name}`], { encoding: 'utf8' });
  return (stdout ?? '').trim();
}
