// Builds the addon from source, and says one line before and one after. Node-API alone is used, so the headers come from the
// npm package node-api-headers, and native/nodedir stands in for the folder that node-gyp would download.
//   node native/build.mjs                      build/Release/sonde.node
//   node native/build.mjs --install            what `npm install` runs: the same, then the CUDA backend; see installCuda()
//   node native/build.mjs --sanitize=address   build-sanitize/address/build/Release/sonde.node; also =thread
// SONDE_ISAS names the instruction sets to build, with commas between them, and no other can then be picked: while one kernel is worked
// on, one set is enough. `native` is the one that this processor picks. Without it, all are built.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/** The C++ compiler that node-gyp uses, too. */
export const compiler = process.env.CXX || (process.platform === 'darwin' ? 'c++' : 'g++');

// The instruction sets of each architecture, best first, and for each the macros that a compiler defines when it compiles for a
// processor that can run it. They stand for the features that native/cpu/backend.cc asks the processor for.
const avx2 = ['__AVX2__', '__FMA__', '__F16C__'];
const avx512 = [...avx2, '__AVX512F__', '__AVX512BW__', '__AVX512DQ__', '__AVX512VL__'];
const instructionSets = {
  x64: { avx512_bf16: [...avx512, '__AVX512BF16__'], avx512, avx2, portable: [] },
  other: { portable: [] },
};

/**
 * The instruction sets that `wish`, a value of SONDE_ISAS, asks for: all where it is empty. `macros` gives what the compiler defines for
 * this processor. Throws an Error that says what may be asked for.
 */
export function chooseIsas(wish = '', { arch = process.arch, macros = compilerMacros } = {}) {
  const sets = instructionSets[arch] ?? instructionSets.other;
  const known = Object.keys(sets);
  if (wish === '') return known;
  const names = wish.split(',').map((name) => name.trim());
  if (!names.every((name) => name === 'native' || known.includes(name))) {
    throw new Error(`SONDE_ISAS must be native or some of ${known.join(',')}, but is '${wish}'`);
  }
  let defined; // the compiler is asked only where there is a choice
  const has = (macro) => {
    defined ??= new Set(macros().match(/\w+/g));
    return defined.has(macro);
  };
  const native = names.includes('native') ? known.find((name) => sets[name].every(has)) : undefined;
  return known.filter((name) => name === native || names.includes(name));
}

function compilerMacros() {
  const options = ['-march=native', '-dM', '-E', '-x', 'c++', '/dev/null'];
  const { status, stdout, stderr, error } = spawnSync(compiler, options, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`SONDE_ISAS=native: ${error?.message ?? stderr}`);
  return stdout;
}

/** The folder of what is built for arm64 on another architecture. */
export const arm64Folder = join(root, 'build-arm64');

// What compiles and links for arm64 on another architecture, as gyp's makefiles name it.
const arm64Tools = {
  CC: 'aarch64-linux-gnu-gcc',
  CXX: 'aarch64-linux-gnu-g++',
  AR: 'aarch64-linux-gnu-ar',
  LINK: 'aarch64-linux-gnu-g++',
  // what is there for this machine's compiler
  CFLAGS: '',
  CXXFLAGS: '',
  LDFLAGS: '',
};

/**
 * Builds what changed; returns the addon's path, the compiler's warnings and the seconds it took. Throws an Error that holds the
 * compiler's output when the build fails. `sanitize` is address, thread or empty, `arch` this machine's or arm64, for which the
 * compiler is aarch64-linux-gnu-g++ and `isas` does not count; each has a folder of its own.
 */
export function buildAddon({ sanitize = '', arch = process.arch, isas = chooseIsas(process.env.SONDE_ISAS) } = {}) {
  const crosses = arch !== process.arch;
  const folder = sanitize ? linked(join(root, 'build-sanitize', sanitize)) : crosses ? linked(arm64Folder) : root;
  const start = performance.now();
  const args = crosses
    ? [...gypArguments(sanitize, chooseIsas('', { arch })), `--arch=${arch}`]
    : gypArguments(sanitize, isas);
  const { status, stdout, stderr, error } = spawnSync(process.execPath, [nodeGyp(), ...args], {
    cwd: folder,
    encoding: 'utf8',
    maxBuffer: 2 ** 30,
    // node-gyp heeds these above the user's npm settings and its own command line
    env: {
      ...process.env,
      ...(crosses && arm64Tools),
      npm_package_config_node_gyp_nodedir: join(root, 'native', 'nodedir'),
      npm_package_config_node_gyp_jobs: String(availableParallelism()),
    },
  });
  const output = `${stdout ?? ''}${stderr ?? ''}`;
  if (status !== 0) throw new Error(error?.message ?? output);
  return {
    addon: join(folder, 'build', 'Release', 'sonde.node'),
    // a header's come once per file and instruction set
    warnings: [...new Set(output.split('\n').filter((line) => /\bwarning:/i.test(line)))],
    seconds: (performance.now() - start) / 1000,
  };
}

// `configure build` compiles what changed; `rebuild` would compile everything at each install.
const gypArguments = (sanitize, isas) => [
  ...['configure', 'build', `--isas=,${isas},`],
  ...(sanitize ? [`--sanitize=${sanitize}`] : []),
];

const nodeGyp = () => createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js');

// node-gyp builds into the folder of binding.gyp: a folder of links has a build folder of its own.
function linked(folder) {
  mkdirSync(folder, { recursive: true });
  for (const name of ['binding.gyp', 'native', 'node_modules', 'package.json']) {
    if (!existsSync(join(folder, name))) symlinkSync(relative(folder, join(root, name)), join(folder, name));
  }
  return folder;
}

/**
 * The CUDA backend, as `npm install` builds it: nothing that is missing or broken keeps sonde from computing on the CPU.
 * SONDE_CUDA in env: '0' leaves it out; '1' asks for it, and makes it an error when it is not built; without it, it is built
 * where a GPU can be seen, as it takes minutes. -> { line, failed }. proc, dev, wsl: see seesGpu(); the other paths are findTools()'s.
 */
export async function installCuda({ env = process.env, from = root, say = () => {}, proc, dev, wsl, ...paths } = {}) {
  const wish = env.SONDE_CUDA ?? '';
  if (!['', '0', '1'].includes(wish)) return { line: `SONDE_CUDA must be 0 or 1, but is '${wish}'`, failed: true };
  const failed = wish === '1';
  try {
    if (wish === '0') return { line: leaveOut(from, 'SONDE_CUDA=0 left it out'), failed };
    const { platform = process.platform } = paths;
    if (wish === '' && platform === 'linux' && !seesGpu({ proc, dev, wsl })) {
      const cure = 'SONDE_CUDA=1 npm install, or npm run build:cuda';
      return { line: leaveOut(from, 'no NVIDIA GPU can be seen here', cure), failed };
    }
    const { buildCuda } = await import(pathToFileURL(join(from, 'kernels', 'build.mjs')).href);
    const { built, reason, kept, nvcc, seconds } = await buildCuda({ root: from, env, say, ...paths });
    if (built) return { line: `CUDA backend built with nvcc ${nvcc} in ${seconds.toFixed(1)} s`, failed: false };
    return { line: `${reason}${kept ? earlier : ''}`, failed };
  } catch (error) {
    const why = error.message.split('\n')[0].replaceAll(`${from}/`, '');
    return { line: leaveOut(from, `kernels/ is broken (${why})`), failed };
  }
}

/** Whether this Linux has the driver of an NVIDIA GPU or a device node of one. Looks at names only: nothing is run or loaded. */
export function seesGpu({ proc = '/proc', dev = '/dev', wsl = '/usr/lib/wsl/lib' } = {}) {
  const there = (...path) => existsSync(join(...path));
  if (there(proc, 'driver', 'nvidia', 'version')) return true;
  // Jetson's driver has nodes of other names
  if (there(dev, 'nvhost-gpu') || there(dev, 'nvgpu')) return true;
  // WSL 2 has one node for the GPUs of all makers, and the driver of the one that is there
  if (there(dev, 'dxg') && there(wsl, 'libcuda.so.1')) return true;
  try {
    return readdirSync(dev).some((name) => /^nvidia\d+$/.test(name));
  } catch {
    return false; // there is no such folder, or it may not be read
  }
}

const earlier = '. The library of an earlier build is still there';

// Keeps the reason for listDevices() too, unless there is a library after all.
function leaveOut(from, why, cure = 'npm run build:cuda') {
  const reason = `the CUDA backend is not built: ${why}; to turn it on: ${cure}`;
  const folder = join(from, 'build-cuda');
  if (existsSync(join(folder, 'Release', 'libsonde_cuda.so'))) return `${reason}${earlier}`;
  try {
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'status.json'), `${JSON.stringify({ built: false, reason, seconds: 0 })}\n`);
  } catch {
    // the reason is returned all the same
  }
  return reason;
}

async function main() {
  const [argument, ...more] = process.argv.slice(2);
  const sanitize = /^--sanitize=(address|thread)$/.exec(argument ?? '')?.[1];
  const install = argument === '--install';
  if (more.length > 0 || (argument !== undefined && sanitize === undefined && !install)) {
    console.error('usage: node native/build.mjs [--install|--sanitize=address|--sanitize=thread]');
    process.exitCode = 2;
    return;
  }
  const wish = process.env.SONDE_ISAS;
  let isas;
  try {
    isas = chooseIsas(wish);
  } catch (error) {
    console.error(`sonde: ${error.message}`);
    process.exitCode = 2;
    return;
  }
  console.log(
    `sonde: building the CPU backend${wish ? ` for ${isas.join(', ')} alone` : ''}; this takes a minute or two the first time`,
  );
  try {
    const { warnings, seconds } = buildAddon({ sanitize, isas });
    if (warnings.length > 0) console.error(warnings.join('\n'));
    console.log(`sonde: CPU backend built in ${seconds.toFixed(1)} s`);
  } catch (error) {
    console.error(error.message);
    console.error(
      'sonde: the CPU backend did not build. It needs python3, make and a C++20 compiler (g++ 11 or newer).',
    );
    process.exitCode = 1;
    return;
  }
  if (install) {
    const { line, failed } = await installCuda({ say: (line) => console.log(`sonde: ${line}`) });
    console.log(`sonde: ${line}`);
    if (failed) process.exitCode = 1;
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main();
