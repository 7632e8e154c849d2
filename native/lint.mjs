// `npm run lint`: Biome over TypeScript and scripts, and, where they are installed, clang-format over native/ and
// kernels/ and clang-tidy over native/. npm cannot install the latter two, so one that is missing is reported in one
// line and is no failure.
//   node native/lint.mjs --fix    formats instead of complaining
import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const require = createRequire(import.meta.url);
const fix = process.argv.includes('--fix');

const found = (folder) =>
  readdirSync(join(root, folder), { recursive: true })
    .map((name) => join(folder, String(name)))
    .filter((name) => /\.(cc|h|cu|cuh)$/.test(name))
    .sort();
const files = [...found('native'), ...found('test/native'), ...found('kernels'), ...found('test/cuda-emulator')];
// planted_fault.cc has faults on purpose; filter_test.cc is compiled with copies of native/ that have (filter_mistakes.mjs)
const sources = files.filter((name) => /native.*\.cc$/.test(name) && !/planted_fault|filter_test/.test(name));

let failed = false;
await check('biome', process.execPath, [
  require.resolve('@biomejs/biome/bin/biome'),
  ...(fix ? ['check', '--write'] : ['ci']),
]);
await check('clang-format', 'clang-format', [...(fix ? ['-i'] : ['--dry-run', '--Werror']), ...files]);
if (!fix) await check('clang-tidy', 'clang-tidy', ['--quiet'], sources, ['--', ...compilerFlags()]);
process.exitCode = failed ? 1 : 0;

// Runs a tool. With `each`, it runs once per file, as many at a time as there are processors.
async function check(name, command, before, each = [''], after = []) {
  const queue = [...each];
  let result = 'good';
  const worker = async () => {
    for (let file = queue.shift(); file !== undefined && result !== 'not installed'; file = queue.shift()) {
      const { code, output } = await run(command, [...before, ...(file ? [file] : []), ...after]);
      if (code === 'ENOENT') result = 'not installed';
      else if (code !== 0) {
        result = 'failed';
        console.log(output.replace(/^\d+ warnings.* generated\.\n/gm, ''));
      }
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  if (result === 'failed') failed = true;
  console.log(`lint: ${name}: ${result === 'not installed' ? 'not run, it is not installed' : result}`);
}

function run(command, args) {
  return new Promise((resolve) => {
    const options = { cwd: root, maxBuffer: 2 ** 28 };
    execFile(command, args, options, (error, stdout, stderr) => {
      resolve({ code: error ? (error.code ?? error.signal) : 0, output: `${stdout}${stderr}` });
    });
  });
}

// The flags of binding.gyp for the portable instruction set.
function compilerFlags() {
  const include = [require('node-api-headers').include_dir, require('node-addon-api').include_dir];
  const defines = [
    'SONDE_ISA=portable',
    'SONDE_ISAS=",portable,avx2,avx512,avx512_bf16,"',
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
