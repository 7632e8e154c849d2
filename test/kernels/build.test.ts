// Oracle: folders that hold only the files of a case, with programs that only print their version, and lines of CMake's. A complete
// build, with the real nvcc and CMake, is tested with SONDE_TEST_CUDA_BUILD=1 (some 20 s).
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { withFolder } from '../support/folders.js';
import { suite, throws } from '../support/harness.js';
import { build, copyScripts, type Environment, type Machine, native, program, type Status } from './scripts.js';

const { buildCuda, findDisassembler, findTools, firstError, progressOf, verdict } = build;
const { installCuda, seesGpu } = native;

const test = suite('kernels/build');

// ---- the message of a build

test('the line that says why a build failed', () => {
  const cases: [string, string | undefined][] = [
    [
      '[3/4] Building CUDA object gelu.cu.o\nFAILED: gelu.cu.o\nkernels/gelu.cu(5): error: identifier "x" is undefined\n',
      'kernels/gelu.cu(5): error: identifier "x" is undefined',
    ],
    ['kernels/gelu.cu(2): error #177-D: variable', 'kernels/gelu.cu(2): error #177-D: variable'],
    ['In file included\na.h:1:2: fatal error: ops.h: No such file', 'a.h:1:2: fatal error: ops.h: No such file'],
    ["nvcc fatal   : Unsupported gpu architecture 'x'\n", "nvcc fatal   : Unsupported gpu architecture 'x'"],
    ["ptxas fatal   : Unresolved extern function 'f'", "ptxas fatal   : Unresolved extern function 'f'"],
    ["gelu.cu:(.text+0x8): undefined reference to `f'", "undefined reference to `f'"],
    ['-- x\nCMake Error at CMakeLists.txt:12 (project):\n\n  No compiler.\n', 'No compiler.'],
    ["ERROR OMG 'CMakeLists.txt' not found.\n", "'CMakeLists.txt' not found."],
    ['ERROR OMG Process terminated: 1\n', undefined],
    ['error_handling.cu built\n', undefined],
  ];
  for (const [output, expected] of cases) assert.is(firstError(output), expected, output);
});

// ---- the tools that a build needs

const nvccSays = (version: string) => `Cuda compilation tools, release ${version.slice(0, 4)}, V${version}`;

/** A PATH of one folder, with programs that print their version and do nothing else. */
function pathWith(folder: string, programs: { nvcc?: string; cmake?: string }): string {
  const bin = join(folder, 'bin');
  mkdirSync(bin, { recursive: true });
  if (programs.nvcc) program(join(bin, 'nvcc'), `echo '${nvccSays(programs.nvcc)}'`);
  if (programs.cmake) program(join(bin, 'cmake'), `[ "$1" = --version ] && echo 'cmake version ${programs.cmake}'`);
  return bin;
}

const usual: string[] = []; // not this machine's /usr/local/cuda

/** The folders that seesGpu searches, inside of `folder`: those of a machine with a GPU's driver, or without any. */
function machine(folder: string, hasGpu: boolean): Machine {
  const driver = join(folder, 'machine/proc/driver/nvidia');
  if (hasGpu) mkdirSync(driver, { recursive: true });
  if (hasGpu) writeFileSync(join(driver, 'version'), '');
  return { proc: join(folder, 'machine/proc'), dev: join(folder, 'machine/dev'), wsl: join(folder, 'machine/wsl') };
}

test('nvcc is taken from CUDACXX, CUDA_PATH, CUDA_HOME, the PATH, and where it usually lies, in this order', () =>
  withFolder((folder) => {
    const PATH = pathWith(folder, { cmake: '3.18.4' });
    const versions = ['13.1.0', '13.0.88', '12.9.7', '12.6.20', '12.4.131'];
    const paths = ['own/nvcc', 'a/bin/nvcc', 'b/bin/nvcc', 'bin/nvcc', 'usual/nvcc'].map((name) => join(folder, name));
    paths.forEach((path, i) => {
      program(path, `echo 'nvcc: NVIDIA (R) Cuda compiler driver'; echo '${nvccSays(versions[i] as string)}'`);
    });
    const [own, , , inPath, last] = paths as [string, string, string, string, string];
    const env: Environment = { PATH, CUDACXX: own, CUDA_PATH: join(folder, 'a'), CUDA_HOME: join(folder, 'b') };
    const found = () => findTools(env, { usual: [last] });
    for (const [i, name] of ['CUDACXX', 'CUDA_PATH', 'CUDA_HOME'].entries()) {
      assert.is(found().nvccVersion, versions[i]);
      delete env[name];
    }
    assert.is(found().nvcc, inPath);
    chmodSync(inPath, 0o644);
    assert.equal(found(), { nvcc: last, nvccVersion: '12.4.131', cmake: join(PATH, 'cmake'), cmakeVersion: '3.18.4' });
    // a toolkit without a compiler is passed over
    env.CUDA_PATH = join(folder, 'nowhere');
    assert.is(found().nvcc, last);
  }));

const both = 'install the CUDA toolkit \\(12.4 or newer\\) and CMake \\(3.18 or newer\\), then run: npm run build:cuda';
const toolkit = 'install the CUDA toolkit \\(12.4 or newer\\), then run: npm run build:cuda';
const cmake = 'install CMake \\(3.18 or newer\\), then run: npm run build:cuda';
const sentences: {
  title: string;
  nvcc?: string;
  cmake?: string;
  env?: Environment;
  platform?: string;
  says: string;
}[] = [
  { title: 'neither', says: `nvcc was not found; to turn it on: ${both}` },
  { title: 'no nvcc', cmake: '3.25.1', says: `nvcc was not found; to turn it on: ${toolkit}` },
  {
    title: 'an old nvcc',
    nvcc: '12.3.52',
    cmake: '3.25.1',
    says: `nvcc 12.3.52 is too old; to turn it on: ${toolkit}`,
  },
  {
    title: 'an nvcc that does not run',
    nvcc: "1'; exit 1; '",
    cmake: '4.0',
    says: 'nvcc is there, but tells no version; .*',
  },
  {
    title: 'no CMake',
    nvcc: '13.0.88',
    says: `nvcc 13.0.88 is there, but CMake was not found; to turn it on: ${cmake}`,
  },
  { title: 'an old CMake', nvcc: '13.0.88', cmake: '3.9.2', says: `CMake 3.9.2 is too old; to turn it on: ${cmake}` },
  {
    title: 'a wrong CUDACXX',
    env: { CUDACXX: '/none' },
    nvcc: '13.0.1',
    says: 'CUDACXX names no program; to turn it on: .*',
  },
  { title: 'macOS', platform: 'darwin', nvcc: '13.0.88', cmake: '3.25.1', says: 'there is none for darwin' },
  {
    title: 'no cmake-js',
    nvcc: '13.0.88',
    cmake: '3.25.1',
    says: 'the package cmake-js is missing; .*: npm install, then .*',
  },
];
for (const { title, env, platform, says, ...programs } of sentences) {
  test(`missing: ${title}: install goes on and says how to turn CUDA on`, () =>
    withFolder(async (from) => {
      copyScripts(from);
      const locations = { usual, platform: platform ?? 'linux', ...machine(from, true) };
      const environment = { PATH: pathWith(from, programs), ...env };
      const { line, failed } = await installCuda({ from, env: environment, ...locations });
      assert.match(line, new RegExp(`^the CUDA backend is not built: ${says}$`));
      assert.not.match(line, '\n');
      assert.is(failed, false);
      assert.is(statusOf(from).reason, line);
      assert.ok((await installCuda({ from, env: { ...environment, SONDE_CUDA: '1' }, ...locations })).failed);
    }));
}

test('on another platform, which has no such GPU, the sentence is about the platform', () =>
  withFolder(async (from) => {
    copyScripts(from);
    const { line } = await installCuda({ from, env: { PATH: '' }, platform: 'darwin', ...machine(from, false) });
    assert.is(line, 'the CUDA backend is not built: there is none for darwin');
  }));

// ---- where a GPU can be seen

const sights: [string, boolean][] = [
  ['proc/driver/nvidia/version', true],
  ['dev/nvidia0', true],
  ['dev/nvidia12', true],
  ['dev/dxg', false],
  ['wsl/libcuda.so.1', false],
  ['dev/dxg wsl/libcuda.so.1', true],
  ['dev/nvhost-gpu', true],
  ['dev/nvgpu', true],
  ['dev/nvidiactl', false],
  ['dev/nvidia-uvm', false],
  ['dev/dri', false],
  ['proc/driver/rtc', false],
];
for (const [names, seen] of sights) {
  test(`${names} ${seen ? 'is' : 'is not'} a GPU`, () =>
    withFolder((folder) => {
      const searched = { proc: join(folder, 'proc'), dev: join(folder, 'dev'), wsl: join(folder, 'wsl') };
      assert.is(seesGpu(searched), false);
      mkdirSync(searched.dev);
      assert.is(seesGpu(searched), false);
      for (const name of names.split(' ')) {
        mkdirSync(dirname(join(folder, name)), { recursive: true });
        writeFileSync(join(folder, name), '');
      }
      assert.is(seesGpu(searched), seen);
    }));
}

/** A package whose nvcc and CMake write a file when anybody starts them. */
function watched(from: string) {
  copyScripts(from);
  const PATH = join(from, 'bin');
  const started = join(from, 'started');
  for (const name of ['nvcc', 'cmake']) program(join(PATH, name), `: >'${started}'`);
  return { PATH, wasStarted: () => existsSync(started) };
}

const noGpu =
  'the CUDA backend is not built: no NVIDIA GPU can be seen here; to turn it on: SONDE_CUDA=1 npm install, or npm run build:cuda';

for (const env of [{}, { SONDE_CUDA: '' }]) {
  test(`without a GPU, ${JSON.stringify(env)} starts nothing and says how to turn CUDA on`, () =>
    withFolder(async (from) => {
      const { PATH, wasStarted } = watched(from);
      const locations = { usual, platform: 'linux', ...machine(from, false) };
      const installed = await installCuda({ from, env: { PATH, ...env }, ...locations });
      assert.equal(installed, { line: noGpu, failed: false });
      assert.equal(statusOf(from), { built: false, reason: noGpu, seconds: 0 });
      assert.is(wasStarted(), false);

      mkdirSync(dirname(library(from)), { recursive: true });
      writeFileSync(library(from), 'of an earlier build');
      const { line } = await installCuda({ from, env: { PATH, ...env }, ...locations });
      assert.is(line, `${noGpu}. The library of an earlier build is still there`);
      assert.ok(existsSync(library(from)));
    }));
}

test('with a GPU, or SONDE_CUDA=1 without one, the compiler is started', async () => {
  for (const [hasGpu, env] of [
    [true, {}],
    [false, { SONDE_CUDA: '1' }],
  ] as const) {
    await withFolder(async (from) => {
      const { PATH, wasStarted } = watched(from);
      const locations = { usual, platform: 'linux', ...machine(from, hasGpu) };
      const { line, failed } = await installCuda({ from, env: { PATH, ...env }, ...locations });
      assert.ok(wasStarted());
      assert.match(line, /nvcc is there, but tells no version/);
      assert.is(failed, !hasGpu);
    });
  }
});

test('SONDE_CUDA has two values', () =>
  withFolder(async (from) => {
    const { PATH, wasStarted } = watched(from);
    const installed = await installCuda({ from, env: { PATH, SONDE_CUDA: 'yes' }, usual, ...machine(from, true) });
    assert.equal(installed, { line: "SONDE_CUDA must be 0 or 1, but is 'yes'", failed: true });
    assert.is(wasStarted(), false);
  }));

const statusOf = (root: string): Status => JSON.parse(readFileSync(join(root, 'build-cuda/status.json'), 'utf8'));

// ---- broken scripts and builds

test('SONDE_CUDA=0 leaves CUDA out, even where kernels/ is broken', () =>
  withFolder(async (from) => {
    const { line, failed } = await installCuda({ from, env: { PATH: '', SONDE_CUDA: '0' } });
    assert.is(line, 'the CUDA backend is not built: SONDE_CUDA=0 left it out; to turn it on: npm run build:cuda');
    assert.is(failed, false);
    assert.equal(statusOf(from), { built: false, reason: line, seconds: 0 });
  }));

for (const [what, text] of [
  ['is not there', undefined],
  ['does not parse', 'export function buildCuda( {'],
  ['fails at once', "throw new Error('first\\nsecond');"],
] as const) {
  test(`a kernels/build.mjs that ${what} does not fail the installation`, () =>
    withFolder(async (from) => {
      mkdirSync(join(from, 'kernels'));
      if (text !== undefined) writeFileSync(join(from, 'kernels/build.mjs'), text);
      const locations = machine(from, true);
      const { line, failed } = await installCuda({ from, env: { PATH: '' }, ...locations });
      assert.match(
        line,
        /^the CUDA backend is not built: kernels\/ is broken \([^\n]+\); to turn it on: npm run build:cuda$/,
      );
      assert.is(failed, false);
      assert.is(statusOf(from).reason, line);
      assert.ok((await installCuda({ from, env: { PATH: '', SONDE_CUDA: '1' }, ...locations })).failed);
    }));
}

test('a folder that cannot be written to does not fail the installation', () =>
  withFolder(async (from) => {
    writeFileSync(join(from, 'build-cuda'), 'a file where the folder should be');
    const { line, failed } = await installCuda({ from, env: { PATH: '', SONDE_CUDA: '0' } });
    assert.match(line, /left it out/);
    assert.is(failed, false);
    copyScripts(from);
    const other = await installCuda({ from, env: { PATH: '' }, usual, ...machine(from, true) });
    assert.match(other.line, /^the CUDA backend is not built: nvcc was not found/);
    assert.is(other.failed, false);
  }));

/** A package of which only kernels/ is there, with the real cmake-js. */
function packageAt(root: string, sources: Record<string, string>): string {
  mkdirSync(join(root, 'kernels'), { recursive: true });
  mkdirSync(join(root, 'native'));
  for (const name of ['CMakeLists.txt', 'compile.sh', 'exports.map', 'package.json']) {
    cpSync(join(packageRoot, 'kernels', name), join(root, 'kernels', name));
  }
  for (const [name, text] of Object.entries(sources)) writeFileSync(join(root, name), text);
  symlinkSync(join(packageRoot, 'node_modules'), join(root, 'node_modules'));
  return root;
}

/** A PATH with an nvcc that only says its version, and a CMake whose builds are the shell's commands `builds`. */
function pathThatBuilds(folder: string, builds: string): string {
  const PATH = pathWith(folder, { nvcc: '13.0.88' });
  for (const name of ['make', 'g++']) program(join(PATH, name), ''); // cmake-js looks for them
  program(
    join(PATH, 'cmake'),
    `case "$1" in
      --version) echo 'cmake version 3.25.1' ;;
      --build) ${builds} ;;
      *) : >CMakeCache.txt ;;
    esac`,
  );
  return PATH;
}

const library = (root: string) => join(root, 'build-cuda/Release/libsonde_cuda.so');

test('a build that fails is reported in one sentence, kept in a log, and leaves no library of other sources', () =>
  withFolder(async (folder) => {
    const root = packageAt(join(folder, 'package'), {});
    const PATH = pathThatBuilds(folder, `echo '[1/2] Building CUDA object gelu.cu.o'; echo "$CMAKE_FAKE"; exit 1`);
    mkdirSync(dirname(library(root)), { recursive: true });
    writeFileSync(library(root), 'of an earlier build');
    const env = { PATH, CMAKE_FAKE: `${root}/kernels/gelu.cu(5): error: no such thing` };
    const messages: string[] = [];
    const result = await buildCuda({ root, env, usual, say: (line) => messages.push(line) });
    const why = 'the build with nvcc 13.0.88 failed (kernels/gelu.cu(5): error: no such thing)';
    const reason = `the CUDA backend is not built: ${why}; to turn it on: see build-cuda/build.log, then run: npm run build:cuda`;
    assert.is(result.reason, reason);
    assert.match(
      messages[0] ?? '',
      /^building the CUDA backend with nvcc 13.0.88; this takes .* minutes the first time/,
    );
    assert.match(messages[1] ?? '', /^1 of 2 files, \d+ s \(gelu\.cu\)$/);
    assert.is(messages.length, 2);
    assert.is(existsSync(library(root)), false);
    assert.match(readFileSync(join(root, 'build-cuda/build.log'), 'utf8'), /no such thing/);
    const { seconds, ...status } = statusOf(root);
    assert.equal(status, { built: false, nvcc: '13.0.88', reason });
    assert.type(seconds, 'number');

    // without nvcc, nothing is known against a library that is there
    mkdirSync(dirname(library(root)), { recursive: true });
    writeFileSync(library(root), 'of an earlier build');
    copyScripts(root);
    const { line, failed } = await installCuda({ from: root, env: { PATH: '' }, usual, ...machine(root, true) });
    assert.match(line, /nvcc was not found; .*\. The library of an earlier build is still there$/);
    assert.is(failed, false);
    assert.ok(existsSync(library(root)));
    assert.is(statusOf(root).reason, reason);
  }));

// ---- how far a build is

test("Ninja's files and make's percents", () => {
  const cases: [string, { reached: string; file: string } | undefined][] = [
    ['[3/29] Building CUDA object CMakeFiles/sonde_cuda.dir/fill.cu.o', { reached: '3 of 29 files', file: 'fill.cu' }],
    [
      '[29/29] Linking CUDA shared library Release/libsonde_cuda.so',
      { reached: '29 of 29 files', file: 'libsonde_cuda.so' },
    ],
    ['[  3%] Building CUDA object CMakeFiles/sonde_cuda.dir/fill.cu.o', { reached: '3%', file: 'fill.cu' }],
    ['[100%] Linking CUDA shared library Release/libsonde_cuda.so', { reached: '100%', file: 'libsonde_cuda.so' }],
    ['[100%] Built target sonde_cuda', undefined],
    ['[0/2] Re-checking globbed directories...', undefined],
    ['FAILED: CMakeFiles/sonde_cuda.dir/fill.cu.o', undefined],
    ['note: [3/29] Building CUDA object fill.cu.o', undefined],
  ];
  for (const [line, expected] of cases) assert.equal(progressOf(line), expected, line);
});

test('a build reports its beginning, each file, and now and then that it goes on', () =>
  withFolder(async (folder) => {
    const root = packageAt(join(folder, 'package'), {});
    const go = ['first', 'second'].map((name) => join(folder, name));
    // it ends with the test's folder, too
    const wait = (path: string) => `while [ -d '${folder}' ] && [ ! -e '${path}' ]; do /bin/sleep 0.01; done`;
    const made = 'echo "[1/2] Building CUDA object CMakeFiles/sonde_cuda.dir/a.cu.o"';
    const PATH = pathThatBuilds(folder, `${wait(go[0] as string)}; ${made}; ${wait(go[1] as string)}; exit 1`);
    const messages: string[] = [];
    const say = (line: string) => {
      messages.push(line.replace(/\d+ s\b/, 'N s'));
      // each beat is waited for
      if (line.startsWith('still no file yet')) writeFileSync(go[0] as string, '');
      if (line.startsWith('still 1 of 2 files')) writeFileSync(go[1] as string, '');
    };
    await buildCuda({ root, env: { PATH }, usual, say, beat: 20 });
    assert.match(messages[0] ?? '', /^building the CUDA backend/);
    const later = messages.slice(1).filter((line, i, all) => line !== all[i - 1]);
    assert.equal(later, ['still no file yet, N s', '1 of 2 files, N s (a.cu)', 'still 1 of 2 files, N s']);
  }));

// ---- the verdict of the command

test('the disassembler beside nvcc, in the homes of the toolkit, and on the PATH', () =>
  withFolder((folder) => {
    const names = ['nvcc/nvdisasm', 'real/nvdisasm', 'home/bin/nvdisasm', 'path/nvdisasm', 'path/cuobjdump'];
    const paths = names.map((name) => program(join(folder, name), ''));
    program(join(folder, 'real/nvcc'), '');
    symlinkSync('../real/nvcc', join(folder, 'nvcc/nvcc'));
    const env = { CUDA_HOME: join(folder, 'home'), PATH: join(folder, 'path') };
    for (const path of paths) {
      assert.is(findDisassembler(env, join(folder, 'nvcc/nvcc')), path);
      chmodSync(path, 0o644);
    }
    assert.is(findDisassembler(env, join(folder, 'nvcc/nvcc')), undefined);
  }));

test('the verdict on a library: tables, warnings, and one line in the end', () => {
  const kernel = { name: '_Z1kv', arch: 'sm_90a', registers: 90, stack: 0, stores: 0, loads: 0 };
  const epilogue = { instructions: 1, branches: 0, calls: 0, stores: {} };
  const vectors = { loads: 0, stores: 0 };
  const counts = { instructions: 9, tensor: 2, loads: 0, stores: 0, epilogue, vectors, steps: [] };
  const code = [{ name: '_Z1kv', arch: 'sm_90a', ...counts }];
  const built = { nvcc: '13.0.88', seconds: 3, kernels: [kernel], warnings: [], wgmma: 2 };
  const line = 'sonde: CUDA backend built with nvcc 13.0.88 in 3 s, 1 kernels, 2 wgmma in the sm_90a code';

  const good = verdict(built, { code });
  assert.is(good.faulty, false);
  assert.match(good.lines[0] ?? '', /^kernels with tensor-core instructions[^\n]*\narch .*\nsm_90a +90 +9 +2 +1 /);
  assert.equal(good.lines.slice(1), [line]);
  assert.equal(verdict(built, { note: 'no disassembler' }), { lines: ['no disassembler', line], faulty: false });

  const but = '. It can be used, but should not be left so: ';
  const stack = verdict({ ...built, kernels: [{ ...kernel, stack: 8 }] }, { note: 'no disassembler' });
  assert.ok(stack.faulty);
  assert.match(stack.lines[1] ?? '', /^functions that use local memory[^\n]*\narch .*\nsm_90a +90 +8 +0 +0 +- +- /);
  assert.is(stack.lines.at(-1), `${line}${but}1 functions use local memory`);
  const warned = verdict({ ...built, warnings: ['nvcc warning : x', 'ptxas warning : y'] }, { code: [] });
  assert.ok(warned.faulty);
  assert.equal(warned.lines, ['nvcc warning : x', 'ptxas warning : y', `${line}${but}2 warnings`]);
  const name = '_Z16attention_kernelv';
  const short = verdict(built, { code: [{ name, arch: 'sm_80', ...counts }] });
  assert.ok(short.faulty);
  assert.match(short.lines[1] ?? '', /^kernels whose machine code is not as expected[^\n]*\narch .*\nsm_80 +no step/);
  assert.is(short.lines.at(-1), `${line}${but}2 kernels have not the machine code that is expected`);
});

// ---- the real compiler

const source = `#include <map>
#include <string>
#include "own.h"
__global__ void fill(float* p) { p[threadIdx.x] = VALUE; }
std::map<std::string, int> names;
extern "C" __attribute__((visibility("default"))) const void* sonde_backend() {
  fill<<<1, 1>>>(nullptr);
  names["one"]++;
  return &names;
}
`;
// 64 values, and at most 32 registers to keep them in
const spill = `__global__ void __launch_bounds__(1024, 2) spill(float* p, int n) {
  float a[64];
#pragma unroll
  for (int i = 0; i < 64; i++) a[i] = p[i * n + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; i++) p[i * n + threadIdx.x] = a[i] * a[63 - i];
}
`;

// an array with an index that only the GPU knows
const stack = `__global__ void stack(float* p, int n) {
  float a[32];
  for (int i = 0; i < n; i++) a[i] = p[i];
  p[threadIdx.x] = a[n & 31];
}
`;

const title = 'the real nvcc and CMake: built once, one name shown, spills, stacks and errors reported';
const missing = () => {
  try {
    findTools(process.env as Environment);
    return '';
  } catch (error) {
    return (error as Error).message;
  }
};
if (process.env.SONDE_TEST_CUDA_BUILD !== '1') test.skip(title, 'SONDE_TEST_CUDA_BUILD=1 asks for it');
else
  test(
    title,
    () =>
      withFolder(async (folder) => {
        assert.is(missing(), '');
        const root = packageAt(join(folder, 'a package'), {
          'kernels/own.cu': source,
          'native/own.h': '#define VALUE 1\n',
        });
        // beside it is a disassembler that fails
        const { nvcc } = findTools(process.env as Environment);
        const CUDACXX = program(join(folder, 'toolkit/nvcc'), `exec '${nvcc}' "$@"`);
        program(join(folder, 'toolkit/nvdisasm'), 'echo "nvdisasm fatal: no" >&2; exit 1');
        const env = { ...process.env, CUDACXX } as Environment;
        const messages: string[] = [];
        const make = () => {
          messages.length = 0;
          return buildCuda({ root, env, say: (line) => messages.push(line) });
        };
        const compiled = () => messages.flatMap((line) => /\((.*\.cu)\)$/.exec(line)?.[1] ?? []);

        const first = await make();
        assert.is(first.reason, undefined, readFileSync(join(root, 'build-cuda/build.log'), 'utf8'));
        assert.equal(statusOf(root), { built: true, nvcc: first.nvcc, seconds: first.seconds });
        assert.equal(first.warnings, []);
        assert.equal(first.kernels?.map(({ name, arch, stores }) => [name, arch, stores]).sort(), [
          ['_Z4fillPf', 'sm_80', 0],
          ['_Z4fillPf', 'sm_90a', 0],
        ]);
        assert.is(first.wgmma, 0);
        const names = spawnSync('nm', ['-D', '--defined-only', library(root)], { encoding: 'utf8' });
        if (names.status === 0) assert.match(names.stdout, /^[0-9a-f]+ T sonde_backend\n$/);

        // the built files stay, and so do the compiler's messages about them
        const { mtimeMs } = statSync(library(root));
        const second = await make();
        assert.equal(compiled(), []);
        assert.is(statSync(library(root)).mtimeMs, mtimeMs);
        assert.equal(second.kernels, first.kernels);

        writeFileSync(join(root, 'kernels/spill.cu'), spill);
        writeFileSync(join(root, 'kernels/stack.cu'), stack);
        const third = await make();
        assert.equal(compiled().sort(), ['spill.cu', 'stack.cu']);
        assert.ok(third.built);
        // machine code is kept where it is worth a look
        const kept = readdirSync(join(root, 'build-cuda/CMakeFiles/sonde_cuda.dir')).filter((name) =>
          name.endsWith('.kept'),
        );
        assert.equal(kept.sort(), ['spill.cu.o.kept', 'stack.cu.o.kept']);

        copyScripts(root);
        const command = spawnSync(process.execPath, [join(root, 'kernels/build.mjs')], { env, encoding: 'utf8' });
        assert.is(command.status, 1, command.stderr);
        assert.match(
          command.stdout,
          /^the code of the hot kernels is not shown: nvdisasm failed \(nvdisasm fatal: no\)$/m,
        );
        assert.match(command.stdout, /^sm_80 +32 +\d+ +[1-9]\d* +[1-9]\d* +- +- +(spill|_Z5spillPfi)$/m);
        assert.match(command.stdout, /^sm_90a +\d+ +128 +0 +0 +- +- +(stack|_Z5stackPfi)$/m);
        assert.match(command.stdout, /\bshould not be left so: 4 functions use local memory\n$/);

        writeFileSync(join(root, 'native/own.h'), '#define VALUE nothing\n');
        const later = new Date(Date.now() + 2000);
        utimesSync(join(root, 'native/own.h'), later, later);
        const broken = await make();
        assert.is(broken.built, false);
        assert.match(broken.reason ?? '', /failed \(kernels\/own\.cu\(4\): error: identifier "nothing" is undefined\)/);
        assert.is(existsSync(library(root)), false);
        assert.equal(readdirSync(join(root, 'build-cuda')).includes('node_modules'), false);
      }),
    { limit: 240_000 },
  );

test('findTools throws the reason that buildCuda reports', () => {
  throws(() => findTools({ PATH: '' }, { usual, platform: 'linux' }), Error, /^the CUDA backend is not built: nvcc/);
});

test.run();
