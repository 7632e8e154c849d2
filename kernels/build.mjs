// `npm run build:cuda`: builds the CUDA backend from the .cu files of this folder, with the CUDA toolkit and CMake, into
// build-cuda/Release/libsonde_cuda.so. `npm install` calls buildCuda() too. The whole output goes to build-cuda/build.log; what
// came of it, in one sentence where there is no backend, to build-cuda/status.json, which listDevices() shows.
//   CUDACXX, CUDA_PATH, CUDA_HOME   where nvcc is, when it is not on the PATH
//   SONDE_CUDA_ARCHS                what to compile for, in CMake's notation; 80-real;90a-real;80-virtual
import { spawn, spawnSync } from 'node:child_process';
import {
  accessSync,
  appendFileSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const packageRoot = join(dirname(fileURLToPath(import.meta.url)), '..');
const notBuilt = 'the CUDA backend is not built';
const oldestNvcc = '12.4';
const oldestCMake = '3.18';
const again = 'then run: npm run build:cuda';

/** Why there is no backend, and what to do about it. */
class Missing extends Error {
  constructor(why, cure) {
    super(`${notBuilt}: ${why}${cure ? `; to turn it on: ${cure}` : ''}`);
  }
}

/**
 * Builds what changed. Never throws for what is missing or broken, and says so instead:
 *   { built, reason?, nvcc?, seconds }   what is in status.json; `reason` is there when `built` is false
 *   failed                               with built: false, nothing was missing, but the build ended with an error
 *   kept                                 with built: false, a library of an earlier build is still there
 *   warnings, kernels, wgmma             what the compiler said; see parseCompilerLog() and compilerReport()
 * root: the package's folder; env: the environment; say: hears what is being done, line by line.
 */
export async function buildCuda({ root = packageRoot, env = process.env, say = () => {}, ...places } = {}) {
  const start = performance.now();
  const folder = join(root, 'build-cuda');
  const library = join(folder, 'Release', 'libsonde_cuda.so');
  const status = { built: false };
  let kept = false;
  let told = {};
  try {
    const tools = findTools(env, places);
    status.nvcc = tools.nvccVersion;
    const cmakeJs = findCMakeJs(root);
    try {
      await build({ root, folder, env, say, cmakeJs, ...tools });
      if (!existsSync(library)) throw new Error('CMake built no library');
    } catch (error) {
      told = { failed: true };
      // one of other sources would answer in its place
      rmSync(library, { force: true });
      const why = error.message.replaceAll(`${root}/`, '');
      const cure = `see build-cuda/build.log, ${again}`;
      throw new Missing(`the build with nvcc ${tools.nvccVersion} failed (${why})`, cure);
    }
    told = compilerReport(root, folder);
    status.built = true;
  } catch (error) {
    status.reason = error instanceof Missing ? error.message : `${notBuilt}: ${error.message}`;
    kept = existsSync(library);
  }
  status.seconds = Math.round((performance.now() - start) / 100) / 10;
  if (!kept) writeStatus(folder, status);
  return { ...status, kept, ...told };
}

function writeStatus(folder, status) {
  try {
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'status.json'), `${JSON.stringify(status)}\n`);
  } catch {
    // the caller is told, too
  }
}

// ---- what must be there

/** -> { nvcc, nvccVersion, cmake, cmakeVersion }. Throws an Error that says what is missing and how to get it. */
export function findTools(env, { platform = process.platform, usual = ['/usr/local/cuda/bin/nvcc'] } = {}) {
  if (platform !== 'linux') throw new Missing(`there is none for ${platform}`);
  const search = (env.PATH ?? '').split(delimiter).filter(Boolean);
  const onPath = (name) => search.map((place) => join(place, name));
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

// CMake remembers what it found at first, so another compiler or choice starts anew. `cmake-js compile` would start anew after
// each error in a kernel, too, and `cmake-js build` takes a folder that was configured halfway.
async function build({ root, folder, env, say, cmakeJs, nvcc, nvccVersion, cmake, cmakeVersion }) {
  const archs = env.SONDE_CUDA_ARCHS ?? '';
  const stamp = join(folder, 'configured.json');
  const wanted = JSON.stringify({ root, nvcc, nvccVersion, cmake, cmakeVersion, archs, host: env.CUDAHOSTCXX });
  const log = join(folder, 'build.log');
  const run = (command, ...more) => {
    const directories = ['-d', join(root, 'kernels'), '-O', folder, '-c', cmake];
    return runLogged([cmakeJs, command, ...directories, ...more], { ...env, CUDACXX: nvcc }, log, say);
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

// Runs a script of Node's; tells what is compiled, and keeps everything in the log. Rejects with the first error's line.
function runLogged(command, env, log, say) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, command, { env, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    let told = 0;
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        appendFileSync(log, text);
        output += text;
        for (let end = output.indexOf('\n', told); end >= 0; end = output.indexOf('\n', told)) {
          const line = output.slice(told, end);
          if (/^\[ *\d+(\/\d+|%)\] (Building|Linking)/.test(line)) say(line);
          told = end + 1;
        }
      });
    }
    child.once('error', reject);
    child.once('close', (code, signal) => {
      if (code === 0) resolve();
      else reject(new Error(firstError(output) ?? `CMake ended with ${signal ?? `exit code ${code}`}`));
    });
  });
}

/** The line of a failed build that says most. CMake puts what it has to say below the line that says error. */
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

// ---- what the compiler said

/**
 * What nvcc and ptxas -v said. -> kernels: { name (mangled), arch, registers, stack, stores, loads }, the last three in bytes;
 * warnings: each once, with those that ptxas calls information: that it made the Hopper products wait for one another.
 */
export function parseCompilerLog(log) {
  const kernels = [];
  const warnings = [];
  let arch = '';
  let entry = '';
  let current;
  for (const line of log.split('\n')) {
    const compiling = /Compiling entry function '([^']+)' for '([^']+)'/.exec(line);
    const properties = /Function properties for (\S+)/.exec(line);
    const bytes = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
    const registers = /Used (\d+) registers/.exec(line);
    if (compiling) [, entry, arch] = compiling;
    else if (properties) {
      current = { name: properties[1], arch, registers: 0, stack: 0, stores: 0, loads: 0 };
      kernels.push(current);
    } else if (bytes && current) {
      const [stack, stores, loads] = bytes.slice(1).map(Number);
      Object.assign(current, { stack, stores, loads });
    } else if (registers) {
      const own = kernels.findLast((kernel) => kernel.name === entry && kernel.arch === arch);
      if (own) own.registers = Number(registers[1]);
    } else if (/\bwarning\b *[:#]|\bwarning #?\d|\(C75\d\d\)/i.test(line)) warnings.push(line.trim());
  }
  return { kernels, warnings: [...new Set(warnings)] };
}

// Of all kernels, also those that this build did not have to compile: compile.sh keeps what nvcc said about each file. wgmma:
// how many of Hopper's asynchronous products are in the code for sm_90a; undefined when there is no such code.
function compilerReport(root, folder) {
  const objects = join(folder, 'CMakeFiles', 'sonde_cuda.dir');
  const sources = readdirSync(join(root, 'kernels')).filter((name) => name.endsWith('.cu'));
  const logs = sources.map((name) => join(objects, `${name}.o.log`)).filter((path) => existsSync(path));
  const said = logs.map((path) => readFileSync(path, 'utf8')).join('\n');
  const { kernels } = parseCompilerLog(said);
  const { warnings } = parseCompilerLog(`${said}\n${readFileSync(join(folder, 'build.log'), 'utf8')}`); // the linker's, too
  const counts = Array.from(said.matchAll(/^sonde info +: (\d+) wgmma/gm), ([, count]) => Number(count));
  return { kernels, warnings, wgmma: counts.length > 0 ? counts.reduce((a, b) => a + b) : undefined };
}

/** The kernels that keep registers in memory, as a table; '' when none does. */
export function spillTable(kernels) {
  const spilling = kernels.filter(({ stores, loads }) => stores > 0 || loads > 0);
  if (spilling.length === 0) return '';
  const names = demangle(spilling.map(({ name }) => name));
  const rows = spilling.map(({ arch, registers, stack, stores, loads }, i) => [
    ...[arch, registers, stack, stores, loads].map(String),
    names[i],
  ]);
  const table = [['arch', 'registers', 'stack', 'stored', 'loaded', 'kernel'], ...rows];
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)));
  const line = (row) => row.map((cell, i) => (i === 5 ? cell : i ? cell.padStart(widths[i]) : cell.padEnd(widths[i])));
  return table.map((row) => line(row).join('  ')).join('\n');
}

// Without what is the same for all, or tells nothing that the template's arguments do not. As they are without c++filt.
function demangle(names) {
  const { stdout, status } = spawnSync('c++filt', { input: names.join('\n'), encoding: 'utf8' });
  if (status !== 0) return names;
  const plain = stdout.trimEnd().replaceAll(/\(anonymous namespace\)::|\bsonde::/g, '');
  return plain.split('\n').map((name) => name.replace(/^void /, '').replace(/\([^()]*\)$/, ''));
}

// ---- the command

// Where the errors are: make and Ninja stop soon after the first.
function endOfLog() {
  const log = join(packageRoot, 'build-cuda', 'build.log');
  const lines = existsSync(log) ? readFileSync(log, 'utf8').trimEnd().split('\n') : [];
  const telling = lines.filter((line) => !/^(ptxas|sonde) info|^ +\d+ bytes stack frame/.test(line));
  return telling.slice(-60).join('\n');
}

async function main() {
  const result = await buildCuda({ say: console.log });
  if (!result.built) {
    if (result.failed) console.error(endOfLog());
    console.error(`sonde: ${result.reason}${result.kept ? '. The library of an earlier build is still there' : ''}`);
    process.exitCode = 1;
    return;
  }
  const spills = spillTable(result.kernels);
  if (spills) console.log(`kernels that keep registers in memory (bytes):\n${spills}`);
  if (result.warnings.length > 0) console.log(result.warnings.join('\n'));
  const hopper = result.wgmma === undefined ? 'no sm_90a code' : `${result.wgmma} wgmma in the sm_90a code`;
  const faults = [
    spills && `${spills.split('\n').length - 1} kernels keep registers in memory`,
    result.warnings.length > 0 && `${result.warnings.length} warnings`,
  ].filter(Boolean);
  const but = faults.length > 0 ? `. It can be used, but should not be left so: ${faults.join(', ')}` : '';
  console.log(
    `sonde: CUDA backend built with nvcc ${result.nvcc} in ${result.seconds} s, ${result.kernels.length} kernels, ${hopper}${but}`,
  );
  if (but) process.exitCode = 1;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main();
