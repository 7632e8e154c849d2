// Builds the C++ programs of this folder against the objects of an addon build, and runs them. A plain program can have
// what the addon cannot: a link that fails when an operation is missing, and ThreadSanitizer.
//   node test/native/programs.mjs
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { compiler } from '../../native/build.mjs';

const here = dirname(fileURLToPath(import.meta.url));
export const root = join(here, '..', '..');
const programs = ['device_queue_test', 'operations_test'];

/** Builds and runs every program with the objects in `release` (an addon's build/Release); throws when one fails. */
export function runPrograms(release, flags = []) {
  const out = join(release, 'programs');
  for (const name of programs) {
    const program = compile(join(here, `${name}.cc`), join(out, name), [...flags, ...objects(release), '-pthread']);
    run(program);
  }
}

/** Compiles one source file to `out`, with warnings as errors; returns its path. */
export function compile(source, out, args) {
  mkdirSync(dirname(out), { recursive: true });
  run(compiler, ['-std=c++20', '-Wall', '-Wextra', '-Werror', source, ...args, '-o', out]);
  return out;
}

/** Runs a command, shows its output, and throws when it does not end with exit code 0 within five minutes. */
export function run(command, args = [], env = {}) {
  const { status, signal, error } = spawnSync(command, args, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...env },
    timeout: 300_000,
  });
  if (status !== 0) throw new Error(`${command} failed: ${error?.message ?? signal ?? `exit code ${status}`}`);
}

// All of the addon except its methods for JavaScript.
function objects(release) {
  const compiled = join(release, 'obj.target', 'sonde', 'native');
  const archives = readdirSync(release).filter((name) => /^(lib)?cpu_.*\.a$/.test(name));
  return [
    ...['device_queue.o', 'buffer.o', 'cpu/backend.o', 'cpu/threads.o'].map((name) => join(compiled, name)),
    ...archives.map((name) => join(release, name)),
  ];
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  try {
    runPrograms(join(root, 'build', 'Release'));
    console.log('native programs: good');
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
