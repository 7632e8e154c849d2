// `npm run lint`: Biome over TypeScript and scripts, clang-format and clang-tidy over native/ where they are installed.
// A tool that is missing is told in one line and is no failure: npm cannot install the two.
//   node native/lint.mjs --fix    formats instead of complaining
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const require = createRequire(import.meta.url);
const fix = process.argv.includes('--fix');

const found = (folder) =>
  readdirSync(join(root, folder), { recursive: true })
    .map((name) => join(folder, String(name)))
    .filter((name) => /\.(cc|h)$/.test(name))
    .sort();
const files = [...found('native'), ...found('test/native')];
// planted_fault.cc is wrong on purpose
const sources = files.filter((name) => name.endsWith('.cc') && !name.includes('planted_fault'));

let failed = false;
check('biome', process.execPath, [
  require.resolve('@biomejs/biome/bin/biome'),
  ...(fix ? ['check', '--write'] : ['ci']),
]);
check('clang-format', 'clang-format', [...(fix ? ['-i'] : ['--dry-run', '--Werror']), ...files]);
if (!fix) check('clang-tidy', 'clang-tidy', ['--quiet', ...sources, '--', ...compilerFlags()]);
process.exitCode = failed ? 1 : 0;

function check(name, command, args) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  });
  if (error?.code === 'ENOENT') {
    console.log(`lint: ${name} is not installed: not run`);
    return;
  }
  if (status !== 0) {
    failed = true;
    console.log(`${stdout ?? ''}${stderr ?? ''}${error?.message ?? ''}`);
  }
  console.log(`lint: ${name}: ${status === 0 ? 'good' : 'failed'}`);
}

// As binding.gyp has them, for the portable instruction set.
function compilerFlags() {
  const include = [require('node-api-headers').include_dir, require('node-addon-api').include_dir];
  const defines = [
    'SONDE_ISA=portable',
    'NAPI_VERSION=9',
    'NAPI_CPP_EXCEPTIONS',
    'NODE_ADDON_API_CPP_EXCEPTIONS_ALL',
    'NODE_ADDON_API_DISABLE_DEPRECATED',
  ];
  return [
    '-std=c++20',
    '-Wall',
    '-Wextra',
    ...include.map((path) => `-isystem${path}`),
    ...defines.map((d) => `-D${d}`),
  ];
}
