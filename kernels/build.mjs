// `npm run build:cuda`: builds the CUDA backend from the .cu files of this folder, with the CUDA toolkit and CMake, into
// build-cuda/Release/libsonde_cuda.so. `npm install` calls buildCuda() too. The whole output goes to build-cuda/build.log; the
// result, with the reason in one sentence where there is no backend, to build-cuda/status.json, which listDevices() shows.
//   CUDACXX, CUDA_PATH, CUDA_HOME   where nvcc is, when it is not on the PATH
//   SONDE_CUDA_ARCHS                the architectures to compile for, in CMake's notation; 80-real;90a-real;80-virtual
import { spawn, spawnSync } from 'node:child_process';
import {
  accessSync,
  appendFileSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { compilerReport, hotTable, localMemoryTable, shortcomingsTable } from './compiler_report.mjs';
import { disassemble } from './disassembly.mjs';
import { shortcomings } from './expectations.mjs';

const packageRoot = join(dirname(fileURLToPath(import.meta.url)), '..');
const notBuilt = 'the CUDA backend is not built';
const oldestNvcc = '12.4';
const oldestCMake = '3.18';
const again = 'then run: npm run build:cuda';

/** The reason why there is no backend, and the remedy. */
class Missing extends Error {
  constructor(why, remedy) {
    super(`${notBuilt}: ${why}${remedy ? `; to turn it on: ${remedy}` : ''}`);
  }
}

/**
 * Builds the files that changed. Never throws when a tool is missing or the build fails, but returns the reason:
 *   { built, reason?, nvcc?, seconds }   as in status.json; `reason` is there when `built` is false
 *   failed                               with built: false, nothing was missing, but the build ended with an error
 *   kept                                 with built: false, a library of an earlier build is still there
 *   warnings, kernels, wgmma             from the compiler's messages; see compiler_report.mjs
 *   disassembler                         the path of one, if there is any
 * root: the package's folder; env: the environment; say: called with the progress of the build, in a line each time that a file is
 * made and at least every `beat` milliseconds; usual, platform: see findTools().
 */
export async function buildCuda({
  root = packageRoot,
  env = process.env,
  say = () => {},
  beat = 30_000,
  ...locations
} = {}) {
  const start = performance.now();
  const folder = join(root, 'build-cuda');
  const library = join(folder, 'Release', 'libsonde_cuda.so');
  const status = { built: false };
  let kept = false;
  let outcome = {};
  try {
    const tools = findTools(env, locations);
    status.nvcc = tools.nvccVersion;
    const cmakeJs = findCMakeJs(root);
    try {
      const firstTime = 'this takes 2 to 15 minutes the first time, later only what changed is compiled';
      say(`building the CUDA backend with nvcc ${tools.nvccVersion}; ${firstTime}`);
      await build({ root, folder, env, cmakeJs, progress: { say, beat, start }, ...tools });
      if (!existsSync(library)) throw new Error('CMake built no library');
    } catch (error) {
      outcome = { failed: true };
      // a library of other sources must not be loaded instead
      rmSync(library, { force: true });
      const why = error.message.replaceAll(`${root}/`, '');
      const remedy = `see build-cuda/build.log, ${again}`;
      throw new Missing(`the build with nvcc ${tools.nvccVersion} failed (${why})`, remedy);
    }
    outcome = { ...compilerReport(root, folder), disassembler: findDisassembler(env, tools.nvcc) };
    status.built = true;
  } catch (error) {
    status.reason = error instanceof Missing ? error.message : `${notBuilt}: ${error.message}`;
    kept = existsSync(library);
  }
  status.seconds = Math.round((performance.now() - start) / 100) / 10;
  if (!kept) writeStatus(folder, status);
  return { ...status, kept, ...outcome };
}

function writeStatus(folder, status) {
  try {
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'status.json'), `${JSON.stringify(status)}\n`);
  } catch {
    // the caller has the status, too
  }
}

// ---- the tools that a build needs

/** -> { nvcc, nvccVersion, cmake, cmakeVersion }. Throws an Error that names the tool that is missing and how to get it. */
export function findTools(env, { platform = process.platform, usual = ['/usr/local/cuda/bin/nvcc'] } = {}) {
  if (platform !== 'linux') throw new Missing(`there is none for ${platform}`);
  const onPath = (name) => searchPath(env).map((folder) => join(folder, name));
  const inHome = (home) => (home ? [join(home, 'bin', 'nvcc')] : []);
  const cmake = onPath('cmake').find(isProgram);
  const orCMake = cmake ? '' : ` and CMake (${oldestCMake} or newer)`;
  const toolkit = `install the CUDA toolkit (${oldestNvcc} or newer)${orCMake}, ${again}`;

  if (env.CUDACXX && !isProgram(env.CUDACXX)) {
    throw new Missing('CUDACXX names no program', `let CUDACXX be the path of nvcc, or unset it, ${again}`);
  }
  const candidates = [env.CUDACXX, ...inHome(env.CUDA_PATH), ...inHome(env.CUDA_HOME), ...onPath('nvcc'), ...usual];
  const nvcc = candidates.find((path) => path && isProgram(path));
  if (!nvcc) throw new Missing('nvcc was not found', toolkit);
  const nvccVersion = versionOf(nvcc, env, /release (?:\d+\.\d+, V)?(\d+\.\d+[\d.]*)/);
  if (!nvccVersion) throw new Missing('nvcc is there, but tells no version', toolkit);
  if (older(nvccVersion, oldestNvcc)) throw new Missing(`nvcc ${nvccVersion} is too old`, toolkit);

  const newerCMake = `install CMake (${oldestCMake} or newer), ${again}`;
  if (!cmake) throw new Missing(`nvcc ${nvccVersion} is there, but CMake was not found`, newerCMake);
  const cmakeVersion = versionOf(cmake, env, /version (\d+\.\d+[\d.]*)/);
  if (!cmakeVersion) throw new Missing('CMake is there, but tells no version', newerCMake);
  if (older(cmakeVersion, oldestCMake)) throw new Missing(`CMake ${cmakeVersion} is too old`, newerCMake);
  return { nvcc, nvccVersion, cmake, cmakeVersion };
}

/** The path of nvdisasm or cuobjdump, which not every toolkit has, beside nvcc or where nvcc is searched; undefined without either. */
export function findDisassembler(env, nvcc) {
  const homes = [env.CUDA_PATH, env.CUDA_HOME].filter(Boolean).map((home) => join(home, 'bin'));
  const folders = [dirname(nvcc), dirname(realpathSync(nvcc)), ...homes, ...searchPath(env)];
  const candidates = ['nvdisasm', 'cuobjdump'].flatMap((name) => folders.map((folder) => join(folder, name)));
  return candidates.find(isProgram);
}

const searchPath = (env) => (env.PATH ?? '').split(delimiter).filter(Boolean);

function isProgram(path) {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

function versionOf(program, env, pattern) {
  const { stdout } = spawnSync(program, ['--version'], { encoding: 'utf8', env });
  return pattern.exec(stdout ?? '')?.[1];
}

function older(version, than) {
  const [a, b] = [version, than].map((text) => text.split('.').map(Number));
  return a[0] < b[0] || (a[0] === b[0] && a[1] < b[1]);
}

function findCMakeJs(root) {
  try {
    return createRequire(join(root, 'package.json')).resolve('cmake-js/bin/cmake-js');
  } catch {
    throw new Missing('the package cmake-js is missing', `npm install, ${again}`);
  }
}

// ---- building

// CMake remembers what it found at first, so another compiler or choice starts anew; so does another compile.sh, of which CMake
// knows nothing. `cmake-js compile` would start anew after each error in a kernel, too, and `cmake-js build` takes a folder that
// was configured halfway.
async function build({ root, folder, env, progress, cmakeJs, nvcc, nvccVersion, cmake, cmakeVersion }) {
  const archs = env.SONDE_CUDA_ARCHS ?? '';
  const stamp = join(folder, 'configured.json');
  const launcher = readFileSync(join(root, 'kernels', 'compile.sh'), 'utf8');
  const wanted = JSON.stringify({
    root,
    nvcc,
    nvccVersion,
    cmake,
    cmakeVersion,
    archs,
    host: env.CUDAHOSTCXX,
    launcher,
  });
  const log = join(folder, 'build.log');
  const run = (command, ...more) => {
    const directories = ['-d', join(root, 'kernels'), '-O', folder, '-c', cmake];
    return runLogged([cmakeJs, command, ...directories, ...more], { ...env, CUDACXX: nvcc }, log, progress);
  };
  if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== wanted) {
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    writeFileSync(log, '');
    await run('configure', ...(archs ? [`--CDSONDE_CUDA_ARCHS=${archs}`] : []));
    writeFileSync(stamp, wanted);
  } else writeFileSync(log, '');
  await run('build', '-p', String(availableParallelism()));
}

// Runs a script of Node's, reports its progress, and writes all its output to the log. Rejects with the first error's line.
function runLogged(command, env, log, { say, beat, start }) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, command, { env, stdio: ['ignore', 'pipe', 'pipe'] });
    const seconds = () => `${Math.round((performance.now() - start) / 1000)} s`;
    let output = '';
    let end = 0; // of the lines that were read
    let reached = 'no file yet';
    // the largest kernels take minutes each
    const heartbeat = setInterval(() => say(`still ${reached}, ${seconds()}`), beat);
    const read = (line) => {
      const step = progressOf(line);
      if (!step) return;
      reached = step.reached;
      say(`${reached}, ${seconds()} (${step.file})`);
      heartbeat.refresh();
    };
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        appendFileSync(log, text);
        output += text;
        for (let next = output.indexOf('\n', end); next >= 0; next = output.indexOf('\n', end)) {
          read(output.slice(end, next));
          end = next + 1;
        }
      });
    }
    child.once('error', reject);
    child.once('close', (code, signal) => {
      clearInterval(heartbeat);
      if (code === 0) resolve();
      else reject(new Error(firstError(output) ?? `CMake ended with ${signal ?? `exit code ${code}`}`));
    });
  });
}

/** The progress in a line of Ninja's output, which counts the files that are made, or of make's, which gives percents. */
export function progressOf(line) {
  const step = /^\[ *(?:(\d+)\/(\d+)|(\d+)%)\] (?:Building|Linking) .*?([^/ ]+?)(?:\.o)?$/.exec(line);
  if (!step) return undefined;
  const [, made, all, percent, file] = step;
  return { reached: percent ? `${percent}%` : `${made} of ${all} files`, file };
}

/** The most informative line of a failed build. CMake puts its message below the line that says error. */
export function firstError(output) {
  const lines = output.split('\n').map((line) => line.trim());
  const find = (pattern) => lines.findIndex((line) => pattern.test(line));
  const compiler = /\berror\b *(:|#|[A-Z]*\d)|^ptxas (fatal|error)|^nvcc (fatal|error)|undefined reference/;
  let at = find(compiler);
  if (at < 0) {
    at = find(/^CMake Error/);
    if (at >= 0) at = lines.findIndex((line, i) => i > at && line !== '');
  }
  if (at < 0) at = find(/^ERR\S* OMG (?!Process terminated)/); // cmake-js's own
  return lines[at]?.replace(/^ERR\S* OMG |.*(?=undefined reference)/, '').slice(0, 200);
}

// ---- the command

// The end of the log has the errors: make and Ninja stop soon after the first.
function endOfLog() {
  const log = join(packageRoot, 'build-cuda', 'build.log');
  const lines = existsSync(log) ? readFileSync(log, 'utf8').trimEnd().split('\n') : [];
  const relevant = lines.filter((line) => !/^(ptxas|sonde) info|^ +\d+ bytes stack frame/.test(line));
  return relevant.slice(-60).join('\n');
}

/** The lines that the command prints about a library that was built, and whether it has faults. */
export function verdict({ nvcc, seconds, kernels, warnings, wgmma }, { code, note }) {
  const local = localMemoryTable(kernels, code);
  const hot = hotTable(kernels, code ?? []);
  const short = shortcomingsTable(shortcomings(kernels, code ?? []));
  const faults = [
    local && `${local.split('\n').length - 1} functions use local memory`,
    short && `${short.split('\n').length - 1} kernels have not the machine code that is expected`,
    warnings.length > 0 && `${warnings.length} warnings`,
  ].filter(Boolean);
  const hopper = wgmma === undefined ? 'no sm_90a code' : `${wgmma} wgmma in the sm_90a code`;
  const but = faults.length > 0 ? `. It can be used, but should not be left so: ${faults.join(', ')}` : '';
  const lines = [
    hot && `kernels with tensor-core instructions (mma), and what follows the last of these (epilogue):\n${hot}`,
    note,
    local && `functions that use local memory (bytes of stack and spills; instructions):\n${local}`,
    short && `kernels whose machine code is not as expected (kernels/expectations.mjs):\n${short}`,
    ...warnings,
    `sonde: CUDA backend built with nvcc ${nvcc} in ${seconds} s, ${kernels.length} kernels, ${hopper}${but}`,
  ];
  return { lines: lines.filter(Boolean), faulty: faults.length > 0 };
}

async function main() {
  const result = await buildCuda({ say: (line) => console.log(`sonde: ${line}`) });
  if (!result.built) {
    if (result.failed) console.error(endOfLog());
    console.error(`sonde: ${result.reason}${result.kept ? '. The library of an earlier build is still there' : ''}`);
    process.exitCode = 1;
    return;
  }
  const folder = join(packageRoot, 'build-cuda');
  const code = await disassemble({ root: packageRoot, folder, tool: result.disassembler, env: process.env });
  const { lines, faulty } = verdict(result, code);
  console.log(lines.join('\n'));
  if (faulty) process.exitCode = 1;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main();
