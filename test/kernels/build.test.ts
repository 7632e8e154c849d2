// Oracle: logs of nvcc 13.0, and folders that hold just what a case needs, with programs that only say which version they are.
// The whole way, with the real nvcc and CMake, is tried with SONDE_TEST_CUDA_BUILD=1 (some 20 s).
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
import { pathToFileURL } from 'node:url';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { withFolder } from '../support/folders.js';
import { suite, throws } from '../support/harness.js';

interface Kernel {
  name: string;
  arch: string;
  registers: number;
  stack: number;
  stores: number;
  loads: number;
}
interface Status {
  built: boolean;
  reason?: string;
  nvcc?: string;
  seconds: number;
}
interface Built extends Status {
  kept: boolean;
  warnings?: string[];
  kernels?: Kernel[];
  wgmma?: number;
}
type Environment = Record<string, string>;
interface Places {
  env?: Environment;
  usual?: string[];
  platform?: string;
}
interface KernelScripts {
  buildCuda(options: Places & { root: string; say?: (line: string) => void }): Promise<Built>;
  findTools(env: Environment, places?: Places): Record<'nvcc' | 'nvccVersion' | 'cmake' | 'cmakeVersion', string>;
  firstError(output: string): string | undefined;
  parseCompilerLog(log: string): { kernels: Kernel[]; warnings: string[] };
  spillTable(kernels: Kernel[]): string;
}
interface NativeScripts {
  installCuda(options: Places & { from: string }): Promise<{ line: string; failed: boolean }>;
}

const load = (path: string) => import(pathToFileURL(join(packageRoot, path)).href);
const scripts: KernelScripts = await load('kernels/build.mjs');
const { buildCuda, findTools, firstError, parseCompilerLog, spillTable } = scripts;
const { installCuda }: NativeScripts = await load('native/build.mjs');

const test = suite('kernels/build');

// ---- what the compiler says

const good = `ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4goodPf' for 'sm_80'
ptxas info    : Function properties for _Z4goodPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 163 registers, used 1 barriers, 17408 bytes smem, 800 bytes cmem[0], 1064 bytes cmem[2]
ptxas info    : Compile time = 786.366 ms
sonde info    : 4 wgmma in good.compute_90a.ptx
`;
const spilling = `ptxas info    : Compiling entry function '_Z5spillILb1EEvPfi' for 'sm_90a'
ptxas info    : Function properties for _Z6calleef
    24 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for _Z5spillILb1EEvPfi
    16 bytes stack frame, 28 bytes spill stores, 32 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 16 bytes cumulative stack size, 664 bytes cmem[0], 336 bytes cmem[2]
ptxas info    : Compile time = 462.823 ms
`;

test('the registers and spills of each kernel are read from ptxas -v', () => {
  const { kernels, warnings } = parseCompilerLog(good + spilling);
  assert.equal(kernels, [
    { name: '_Z4goodPf', arch: 'sm_80', registers: 163, stack: 0, stores: 0, loads: 0 },
    { name: '_Z6calleef', arch: 'sm_90a', registers: 0, stack: 24, stores: 0, loads: 0 },
    { name: '_Z5spillILb1EEvPfi', arch: 'sm_90a', registers: 255, stack: 16, stores: 28, loads: 32 },
  ]);
  assert.equal(warnings, []);
  assert.equal(parseCompilerLog(''), { kernels: [], warnings: [] });
});

test('the table holds the kernels that spill, and a stack alone is no spill', () => {
  assert.is(spillTable(parseCompilerLog(good).kernels), '');
  const [title, row, ...more] = spillTable(parseCompilerLog(good + spilling).kernels).split('\n');
  assert.match(title ?? '', /^arch +registers +stack +stored +loaded +kernel$/);
  assert.match(row ?? '', /^sm_90a +255 +16 +28 +32 +(spill<true>|_Z5spillILb1EEvPfi)$/);
  assert.equal(more, []);
});

const serialized =
  "ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient \
register resources for the wgmma pipeline in the function '_Z2wgPf'";
const said: [string, string][] = [
  ['nvcc', 'kernels/gelu.cu(2): warning #177-D: variable "y" was declared but never referenced'],
  ['the host compiler', 'kernels/gelu.cu:12:7: warning: unused variable ‘y’ [-Wunused-variable]'],
  ['ptxas', 'ptxas warning : Value of threads per SM for entry _Z1kPf is out of range'],
  ['nvcc itself', 'nvcc warning : The -std=c++11 flag is not supported with the configured host compiler'],
  ['ptxas, that serializes wgmma', serialized],
  ['ptxas, that waits for wgmma', 'ptxas info    : (C7517) warpgroup.wait is injected in around line 5713 by compiler'],
];
for (const [who, line] of said) {
  test(`a warning of ${who} is seen, once`, () => {
    assert.equal(parseCompilerLog(`${good}${line}\n  ^\n\n${spilling}${line}\n`).warnings, [line]);
  });
}

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

// ---- what must be there

const nvccSays = (version: string) => `Cuda compilation tools, release ${version.slice(0, 4)}, V${version}`;

function program(path: string, text: string): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `#!/bin/sh\n${text}\n`);
  chmodSync(path, 0o755);
  return path;
}

/** A PATH of one folder, with programs that print their version and do nothing else. */
function pathWith(folder: string, programs: { nvcc?: string; cmake?: string }): string {
  const bin = join(folder, 'bin');
  mkdirSync(bin, { recursive: true });
  if (programs.nvcc) program(join(bin, 'nvcc'), `echo '${nvccSays(programs.nvcc)}'`);
  if (programs.cmake) program(join(bin, 'cmake'), `[ "$1" = --version ] && echo 'cmake version ${programs.cmake}'`);
  return bin;
}

const usual: string[] = []; // not this machine's /usr/local/cuda

test('nvcc is taken from CUDACXX, CUDA_PATH, CUDA_HOME, the PATH, and where it usually lies, in this order', () =>
  withFolder((folder) => {
    const PATH = pathWith(folder, { cmake: '3.18.4' });
    const versions = ['13.1.0', '13.0.88', '12.9.7', '12.6.20', '12.4.131'];
    const places = ['own/nvcc', 'a/bin/nvcc', 'b/bin/nvcc', 'bin/nvcc', 'usual/nvcc'].map((name) => join(folder, name));
    places.forEach((path, i) => {
      program(path, `echo 'nvcc: NVIDIA (R) Cuda compiler driver'; echo '${nvccSays(versions[i] as string)}'`);
    });
    const [own, , , inPath, last] = places as [string, string, string, string, string];
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
      cpSync(join(packageRoot, 'kernels/build.mjs'), join(from, 'kernels/build.mjs'));
      const places = { usual, ...(platform ? { platform } : { platform: 'linux' }) };
      const environment = { PATH: pathWith(from, programs), ...env };
      const { line, failed } = await installCuda({ from, env: environment, ...places });
      assert.match(line, new RegExp(`^the CUDA backend is not built: ${says}$`));
      assert.not.match(line, '\n');
      assert.is(failed, false);
      assert.is(statusOf(from).reason, line);
      assert.ok((await installCuda({ from, env: { ...environment, SONDE_CUDA: '1' }, ...places })).failed);
    }));
}

const statusOf = (root: string): Status => JSON.parse(readFileSync(join(root, 'build-cuda/status.json'), 'utf8'));

// ---- what is broken

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
      const { line, failed } = await installCuda({ from, env: { PATH: '' } });
      assert.match(
        line,
        /^the CUDA backend is not built: kernels\/ is broken \([^\n]+\); to turn it on: npm run build:cuda$/,
      );
      assert.is(failed, false);
      assert.is(statusOf(from).reason, line);
      assert.ok((await installCuda({ from, env: { PATH: '', SONDE_CUDA: '1' } })).failed);
    }));
}

test('a folder that cannot be written to does not fail the installation', () =>
  withFolder(async (from) => {
    writeFileSync(join(from, 'build-cuda'), 'a file where the folder should be');
    const { line, failed } = await installCuda({ from, env: { PATH: '', SONDE_CUDA: '0' } });
    assert.match(line, /left it out/);
    assert.is(failed, false);
    cpSync(join(packageRoot, 'kernels/build.mjs'), join(from, 'kernels/build.mjs'));
    const other = await installCuda({ from, env: { PATH: '' }, usual });
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

const library = (root: string) => join(root, 'build-cuda/Release/libsonde_cuda.so');

test('a build that fails is told in one sentence, kept in a log, and leaves no library of other sources', () =>
  withFolder(async (folder) => {
    const root = packageAt(join(folder, 'package'), {});
    const PATH = pathWith(folder, { nvcc: '13.0.88' });
    for (const name of ['make', 'g++']) program(join(PATH, name), ''); // cmake-js looks for them
    program(
      join(PATH, 'cmake'),
      `case "$1" in
        --version) echo 'cmake version 3.25.1' ;;
        --build) echo '[1/2] Building CUDA object gelu.cu.o'; echo "$CMAKE_FAKE" ;;
        *) : >CMakeCache.txt; exit 0 ;;
      esac
      [ "$1" = --version ] || exit 1`,
    );
    mkdirSync(dirname(library(root)), { recursive: true });
    writeFileSync(library(root), 'of an earlier build');
    const env = { PATH, CMAKE_FAKE: `${root}/kernels/gelu.cu(5): error: no such thing` };
    const heard: string[] = [];
    const result = await buildCuda({ root, env, usual, say: (line) => heard.push(line) });
    const why = 'the build with nvcc 13.0.88 failed (kernels/gelu.cu(5): error: no such thing)';
    const reason = `the CUDA backend is not built: ${why}; to turn it on: see build-cuda/build.log, then run: npm run build:cuda`;
    assert.is(result.reason, reason);
    assert.equal(heard, ['[1/2] Building CUDA object gelu.cu.o']);
    assert.is(existsSync(library(root)), false);
    assert.match(readFileSync(join(root, 'build-cuda/build.log'), 'utf8'), /no such thing/);
    const { seconds, ...status } = statusOf(root);
    assert.equal(status, { built: false, nvcc: '13.0.88', reason });
    assert.type(seconds, 'number');

    // without nvcc, nothing is known against a library that is there
    mkdirSync(dirname(library(root)), { recursive: true });
    writeFileSync(library(root), 'of an earlier build');
    cpSync(join(packageRoot, 'kernels/build.mjs'), join(root, 'kernels/build.mjs'));
    const { line, failed } = await installCuda({ from: root, env: { PATH: '' }, usual });
    assert.match(line, /nvcc was not found; .*\. The library of an earlier build is still there$/);
    assert.is(failed, false);
    assert.ok(existsSync(library(root)));
    assert.is(statusOf(root).reason, reason);
  }));

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

const title = 'the real nvcc and CMake: built once, one name shown, spills and errors told';
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
        const heard: string[] = [];
        const build = () => {
          heard.length = 0;
          return buildCuda({ root, env: process.env as Environment, say: (line) => heard.push(line) });
        };
        const compiled = () =>
          heard.filter((line) => line.includes('Building')).map((line) => line.replace(/.*\//, ''));

        const first = await build();
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

        // what was built stays, and what was said about it is still known
        const { mtimeMs } = statSync(library(root));
        const second = await build();
        assert.equal(compiled(), []);
        assert.is(statSync(library(root)).mtimeMs, mtimeMs);
        assert.equal(second.kernels, first.kernels);

        writeFileSync(join(root, 'kernels/spill.cu'), spill);
        const third = await build();
        assert.equal(compiled(), ['spill.cu.o']);
        assert.ok(third.built);
        assert.match(spillTable(third.kernels ?? []), /^sm_80 +32 .* spill/m);
        assert.equal(spillTable((await build()).kernels ?? []), spillTable(third.kernels ?? []));

        writeFileSync(join(root, 'native/own.h'), '#define VALUE nothing\n');
        const later = new Date(Date.now() + 2000);
        utimesSync(join(root, 'native/own.h'), later, later);
        const broken = await build();
        assert.is(broken.built, false);
        assert.match(broken.reason ?? '', /failed \(kernels\/own\.cu\(4\): error: identifier "nothing" is undefined\)/);
        assert.is(existsSync(library(root)), false);
        assert.equal(readdirSync(join(root, 'build-cuda')).includes('node_modules'), false);
      }),
    { limit: 240_000 },
  );

test('findTools throws what buildCuda tells', () => {
  throws(() => findTools({ PATH: '' }, { usual, platform: 'linux' }), Error, /^the CUDA backend is not built: nvcc/);
});

test.run();
