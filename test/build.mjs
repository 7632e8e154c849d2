// Builds what the chosen test files need, and no more: TypeScript always, the addon for those that may load it, one for arm64 for those
// that run it there, the CUDA kernels on the emulator for those that run them. What a file needs is read from its text and from the files
// that it names, so there is no list to keep.
//   node test/build.mjs [WORD]...      for the test files whose path contains one of the words, or for all
//   node test/build.mjs --typescript   only src, test, bench and assets/examples, to build-test/
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/** The test files among `files` that the words choose: those whose path contains one of them, or all where there is none. */
export function chooseTests(files, words, suffix = '.test.js') {
  return files.filter((f) => f.endsWith(suffix) && (words.length === 0 || words.some((word) => f.includes(word))));
}

/**
 * What a test file needs besides TypeScript: the addon, the one for arm64, and flavours of the emulated CUDA backend. `path` and `from`
 * are a file of the checkout and its folder.
 */
export function needsOf(path, from = root) {
  const texts = [...reachable(path, from)].map((file) => readFileSync(file, 'utf8'));
  const some = (pattern) => texts.some((text) => pattern.test(text));
  const emulator = some(/build-emulator/);
  return {
    arm64: some(/\barm64\.mjs/),
    // another process or thread may load it without its name being here
    addon: emulator || some(/sonde\.node|node:child_process|node:worker_threads/),
    emulator: emulator ? ['plain', ...(some(/'address'/) ? ['address'] : [])] : [],
  };
}

// The file and every file of the checkout that it names in quotes, by imports or otherwise, and so on.
function reachable(path, from) {
  const found = new Set([path]);
  for (const file of found) {
    for (const [, name] of readFileSync(file, 'utf8').matchAll(/['"`](?:\$\{\w+\}\/)?([\w./-]+\.m?[jt]s)['"`]/g)) {
      for (const folder of [dirname(file), from]) {
        const there = [join(folder, name), join(folder, name.replace(/\.js$/, '.ts'))].find(existsSync);
        if (there && !isHarness(relative(from, there))) found.add(there);
      }
    }
  }
  return found;
}

// These run or build other test files, whose needs are their own.
const isHarness = (path) => ['test/run.mjs', 'test/build.mjs'].includes(path.split(sep).join('/'));

/** Builds what the tests that the words choose need; false when that failed, and then the reason has been printed. */
export function build(words) {
  const folder = join(root, 'test');
  const sources = readdirSync(folder, { recursive: true })
    .map(String)
    .filter((name) => name.endsWith('.test.ts'));
  const tests = sources.filter((name) => chooseTests([name.replace(/ts$/, 'js')], words).length > 0);
  const needs = tests.map((name) => needsOf(join(folder, name)));
  const flavours = new Set(needs.flatMap(({ emulator }) => emulator));
  const { SONDE_CUDA_LIBRARY = '' } = process.env;
  for (const flavour of ['plain', 'address']) {
    if (tests.length > 0 && SONDE_CUDA_LIBRARY.includes(join('build-emulator', flavour))) flavours.add(flavour);
  }
  // TypeScript even where no test was chosen: the runner must not find one whose source is gone
  return (
    (!needs.some(({ addon }) => addon) || run('native/build.mjs')) &&
    (!needs.some(({ arm64 }) => arm64) || run('test/arithmetic/arm64.mjs')) &&
    (flavours.size === 0 || run('test/cuda-emulator/build.mjs', ...flavours)) &&
    buildTypeScript()
  );
}

/** Compiles what changed of src, test, bench and assets/examples to build-test/, where nothing stays of a source that is gone; false when it failed. */
export function buildTypeScript(from = root) {
  const out = join(from, 'build-test');
  const buildInfo = join(out, 'tsconfig.test.tsbuildinfo');
  if (!existsSync(buildInfo)) rmSync(out, { recursive: true, force: true });
  const outputs = existsSync(out) ? readdirSync(out, { recursive: true }).map(String) : [];
  for (const name of outputs) {
    const source = join(from, name.replace(/\.js(\.map)?$/, '.ts'));
    if (/\.js(\.map)?$/.test(name) && !existsSync(source)) rmSync(join(out, name));
  }
  // tsc writes only what it believes to have changed: what somebody removed would stay away
  if (!sourcesOf(from).every((name) => existsSync(join(out, name.replace(/ts$/, 'js')))))
    rmSync(buildInfo, { force: true });
  return run(join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', join(from, 'tsconfig.test.json'));
}

const sourcesOf = (from) =>
  ['src', 'test', 'bench', 'assets/examples']
    .filter((folder) => existsSync(join(from, folder)))
    .flatMap((folder) =>
      readdirSync(join(from, folder), { recursive: true })
        .map((name) => join(folder, String(name)))
        .filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts') && statSync(join(from, name)).isFile()),
    );

function run(program, ...args) {
  const { status, error } = spawnSync(process.execPath, [program, ...args], { cwd: root, stdio: 'inherit' });
  if (error) console.error(error.message);
  return status === 0;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const words = process.argv.slice(2);
  const built = words[0] === '--typescript' ? buildTypeScript() : build(words);
  process.exitCode = built ? 0 : 1;
}
