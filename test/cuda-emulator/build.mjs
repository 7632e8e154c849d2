// Builds the CUDA backend for the CPU: kernels/*.cu by the C++ compiler against the emulator of this folder.
//   node test/cuda-emulator/build.mjs plain      build-emulator/plain/libsonde_cuda.so and kernels_test
//   node test/cuda-emulator/build.mjs address    the same with AddressSanitizer and UBSan; thread: with ThreadSanitizer
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { compiler } from '../../native/build.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, '..', '..');

/** Flags of the kernels, and of the emulator itself: -DEMULATOR_TSAN makes it describe its fibers to ThreadSanitizer, which does not
 *  instrument it. */
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

const common = [
  ...['-Wall', '-Wextra', '-Werror', '-Wno-unknown-pragmas', '-fPIC', '-fvisibility=hidden', '-ffp-contract=off'],
  `-I${here}`,
];

/** Compiles the changed files among the sources [path, flags], as many at a time as there are processors; returns the objects. */
async function compileAll(folder, sources, headers, include) {
  mkdirSync(folder, { recursive: true });
  const object = (path) => join(folder, `${basename(path)}.o`);
  const stale = sources.filter(([path]) => {
    const out = object(path);
    return !existsSync(out) || statSync(out).mtimeMs < Math.max(headers, statSync(path).mtimeMs);
  });
  const worker = async () => {
    for (let next = stale.shift(); next; next = stale.shift()) {
      const [path, flags] = next;
      const language = path.endsWith('.cu') ? ['-std=c++17', '-x', 'c++'] : ['-std=c++20'];
      await run(compiler, [...language, ...include, ...common, ...flags, '-c', path, '-o', object(path)]);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  return sources.map(([path]) => object(path));
}

/**
 * A modified copy: its folders, which replace kernels/ and native/, the .cu files of it that are compiled, and the folder for all
 * results. warn: warnings are errors, unless the copy is wrong on purpose. The test and the CPU backend's build may be the copy's, too.
 * @typedef {{ kernels: string, native?: string, only: string[], out: string, warn?: boolean, test?: string, release?: string }} Changed
 */

/** Compiles what changed of kernels/ and of the emulator; returns the objects, those of `changed` instead of their originals. */
async function buildObjects(flavour, changed) {
  const { kernels, runtime } = flavours[flavour];
  const own = { kernels: join(root, 'kernels'), native: join(root, 'native'), out: flavourFolder(flavour), warn: true };
  const compile = ({ kernels: folder, native = own.native, only, out, warn }) => {
    const headers = newest([...files(folder, /\.(h|cuh)$/), ...files(here, /\.h$/), ...files(native, /\.h$/)]);
    const sources = [
      // a copy runs once, and is compiled longer than it runs
      ...files(folder, /\.cu$/).map((path) => [path, folder === own.kernels ? kernels : [...kernels, '-O1']]),
      ...[join(here, 'emulator.cc'), join(here, 'runtime.cc')].map((path) => [path, runtime]),
    ].filter(([path]) => !only || only.includes(basename(path)));
    return compileAll(out, sources, headers, [`-I${folder}`, `-I${native}`, ...(warn ? [] : ['-w'])]);
  };
  const objects = new Map((await compile(own)).map((path) => [basename(path), path]));
  if (changed) for (const path of await compile(changed)) objects.set(basename(path), path);
  return [...objects.values()];
}

const flavourFolder = (flavour) => join(root, 'build-emulator', flavour);
const sanitizeFlags = (flavour) => flavours[flavour].kernels.filter((flag) => /sanitize/.test(flag));

/** Builds the whole backend as a shared library; returns its path. */
export async function buildEmulator(flavour = 'plain', /** @type {Changed} */ changed) {
  const objects = await buildObjects(flavour, changed);
  const library = join(changed?.out ?? flavourFolder(flavour), 'libsonde_cuda.so');
  if (!existsSync(library) || statSync(library).mtimeMs < newest(objects)) {
    await run(compiler, ['-shared', ...sanitizeFlags(flavour), ...objects, '-o', library]);
  }
  return library;
}

/** Builds kernels_test, with the CPU backend of the addon's build; returns its path. */
export async function buildKernelsTest(flavour = 'plain', /** @type {Changed} */ changed) {
  const objects = await buildObjects(flavour, changed);
  const out = changed?.out ?? flavourFolder(flavour);
  const { release = join(root, 'build', 'Release'), native = join(root, 'native') } = changed ?? {};
  const cpu = [
    ...files(join(release, 'obj.target', 'sonde', 'native', 'cpu'), /\.o$/),
    ...files(release, /^(lib)?cpu_.*\.a$/),
  ];
  const source = [changed?.test ?? join(here, 'kernels_test.cc'), flavours[flavour].kernels];
  const kernels = join(root, 'kernels');
  const headers = newest([...files(here, /\.h$/), ...files(native, /\.h$/), ...files(kernels, /\.(h|cuh)$/)]);
  // a copy of the test that has its own copy of the emulator's headers includes no others
  const include = [`-I${dirname(source[0])}`, `-I${native}`];
  const test = await compileAll(changed?.test ? out : flavourFolder(flavour), [source], headers, include);
  const program = join(out, 'kernels_test');
  if (!existsSync(program) || statSync(program).mtimeMs < newest([...objects, ...test, ...cpu])) {
    await run(compiler, [...sanitizeFlags(flavour), ...test, ...objects, ...cpu, '-pthread', '-o', program]);
  }
  return program;
}

/** Builds the emulator's own test; returns its path. */
export async function buildEmulatorTest(flavour = 'plain') {
  const out = flavourFolder(flavour);
  const { kernels, runtime } = flavours[flavour];
  const sources = [
    [join(here, 'emulator.cc'), runtime],
    [join(here, 'runtime.cc'), runtime],
    [join(here, 'emulator_test.cc'), kernels],
  ];
  const objects = await compileAll(out, sources, newest(files(here, /\.h$/)), [`-I${join(root, 'native')}`]);
  const program = join(out, 'emulator_test');
  if (!existsSync(program) || statSync(program).mtimeMs < newest(objects)) {
    await run(compiler, [...sanitizeFlags(flavour), ...objects, '-pthread', '-o', program]);
  }
  return program;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const wanted = process.argv.slice(2);
  if (wanted.length === 0 || !wanted.every((flavour) => flavour in flavours)) {
    console.error(`usage: node test/cuda-emulator/build.mjs ${Object.keys(flavours).join('|')} ...`);
    process.exitCode = 2;
  } else if (process.platform !== 'linux') {
    console.log(`the emulator does not run on ${process.platform}`);
  } else {
    try {
      const start = performance.now();
      for (const flavour of wanted) {
        await buildEmulator(flavour);
        await buildEmulatorTest(flavour);
        await buildKernelsTest(flavour);
      }
      console.log(`CUDA emulator built in ${((performance.now() - start) / 1000).toFixed(1)} s: ${wanted.join(', ')}`);
    } catch (error) {
      console.error(error.message);
      process.exitCode = 1;
    }
  }
}
