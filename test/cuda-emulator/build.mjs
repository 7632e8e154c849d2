// Builds the CUDA backend for the CPU: kernels/*.cu by the C++ compiler against the emulator of this folder.
//   node test/cuda-emulator/build.mjs            build-emulator/plain/libsonde_cuda.so
//   node test/cuda-emulator/build.mjs address    build-emulator/address/..., with AddressSanitizer and UBSan; also: thread
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, '..', '..');
export const compiler = process.env.CXX ?? (process.platform === 'darwin' ? 'c++' : 'g++');

/** Flags of the kernels; the emulator itself is told of ThreadSanitizer, but not instrumented by it. */
export const flavours = {
  plain: { kernels: ['-O2'], runtime: ['-O2'] },
  address: {
    kernels: ['-O1', '-g1', '-fsanitize=address,undefined', '-fno-sanitize-recover=all'],
    runtime: ['-O2', '-g1', '-fsanitize=address'],
  },
  thread: { kernels: ['-O1', '-g1', '-fsanitize=thread'], runtime: ['-O2', '-g1', '-DEMULATOR_TSAN=1'] },
};

const files = (folder, pattern) =>
  readdirSync(folder)
    .filter((name) => pattern.test(name))
    .sort()
    .map((name) => join(folder, name));
const newest = (paths) => Math.max(...paths.map((path) => statSync(path).mtimeMs));

function run(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (output += text));
    child.once('error', reject);
    child.once('close', (code) =>
      code === 0 ? resolve() : reject(new Error(`${command} ${args.join(' ')}\n${output}`)),
    );
  });
}

/**
 * Compiles what changed; returns the objects. `kernels` is the folder of the .cu files (that of a planted mistake is a copy),
 * `only` leaves out the other sources.
 */
export async function buildObjects(flavour = 'plain', { kernels = join(root, 'kernels'), out, only } = {}) {
  const { kernels: kernelFlags, runtime } = flavours[flavour];
  const folder = out ?? join(root, 'build-emulator', flavour);
  mkdirSync(folder, { recursive: true });
  const headers = newest([
    ...files(kernels, /\.(h|cuh)$/),
    ...files(here, /\.h$/),
    ...files(join(root, 'native'), /\.h$/),
  ]);
  const sources = [
    ...files(kernels, /\.cu$/).map((path) => [path, kernelFlags]),
    ...[join(here, 'emulator.cc'), join(here, 'runtime.cc')].map((path) => [path, runtime]),
  ].filter(([path]) => !only || only.includes(basename(path)));
  const objects = sources.map(([path]) => join(folder, `${basename(path)}.o`));
  const stale = sources.filter(([path], i) => {
    const object = objects[i];
    return !existsSync(object) || statSync(object).mtimeMs < Math.max(headers, statSync(path).mtimeMs);
  });
  const worker = async () => {
    for (let next = stale.shift(); next; next = stale.shift()) {
      const [path, flags] = next;
      await run(compiler, [
        ...['-std=c++17', '-Wall', '-Wextra', '-Werror', '-Wno-unknown-pragmas', '-fPIC', '-fvisibility=hidden'],
        ...['-ffp-contract=off', ...flags, `-I${here}`, `-I${kernels}`, `-I${join(root, 'native')}`],
        ...['-x', 'c++', '-c', path, '-o', join(folder, `${basename(path)}.o`)],
      ]);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  return objects;
}

/** The whole backend as a shared library; returns its path. */
export async function buildEmulator(flavour = 'plain') {
  const objects = await buildObjects(flavour);
  const library = join(dirname(objects[0]), 'libsonde_cuda.so');
  if (!existsSync(library) || statSync(library).mtimeMs < newest(objects)) {
    const sanitize = flavours[flavour].kernels.filter((flag) => flag.startsWith('-fsanitize'));
    await run(compiler, ['-shared', ...sanitize, ...objects, '-o', library]);
  }
  return library;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const flavour = process.argv[2] ?? 'plain';
  if (!(flavour in flavours)) {
    console.error('usage: node test/cuda-emulator/build.mjs [plain|address|thread]');
    process.exitCode = 2;
  } else {
    try {
      console.log(await buildEmulator(flavour));
    } catch (error) {
      console.error(error.message);
      process.exitCode = 1;
    }
  }
}
