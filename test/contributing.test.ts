// CONTRIBUTING.md: "Adding an operation" is followed to the letter in a copy of the repository, and the commands
// elsewhere name tests that are there. Oracle: the compilers, and the operation's own test on both backends.
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import * as assert from 'uvu/assert';
import { packageRoot } from '../src/engine/native.js';
import { suite } from './support/harness.js';
import { isInstalled } from './support/machine.js';
import { filesBelow, pages } from './support/sources.js';

const test = suite('contributing');
const page = readFileSync(join(packageRoot, 'CONTRIBUTING.md'), 'utf8');

// ---- "Adding an operation"

interface Step {
  readonly file: string;
  readonly language: string;
  readonly code: string;
}

const section = /^## Adding an operation\n(.*?)^## /ms.exec(page)?.[1] ?? '';

/** The numbered steps: the file in bold at the start of each, and its code. */
const steps: readonly Step[] = section
  .split(/^(?=\d+\. )/m)
  .slice(1)
  .map((text) => {
    const [, file] = /^\d+\. \*\*`([^`]+)`\*\*/.exec(text) ?? [];
    const [, indent, language, code] = /^( {3,4})```(\w+)\n(.*?)^\1```$/ms.exec(text) ?? [];
    if (file === undefined || language === undefined || code === undefined) throw new Error(`no file or code: ${text}`);
    return { file, language, code: code.replaceAll(new RegExp(`^${indent}`, 'gm'), '') };
  });

/** The commands that are to be typed in the end. */
const commands = /^```\n(.*?)^```$/ms.exec(section)?.[1] ?? '';

/** `text` with the hunks of a diff: each must match at one line, whatever its indentation. */
function patched(text: string, diff: string): string {
  const plain = (line: string) => line.trim().replace(/ +/g, ' ');
  let lines = text.split('\n');
  for (const hunk of diff.trimEnd().split(/^@@.*\n/m)) {
    const changes = hunk.trimEnd().split('\n');
    const old = changes.filter((line) => !line.startsWith('+')).map((line) => plain(line.slice(1)));
    const matches = [...lines.keys()].filter((at) => old.every((line, i) => plain(lines[at + i] ?? '') === line));
    if (matches.length !== 1) throw new Error(`${matches.length} lines of the file match:\n${hunk}`);
    const added = changes.filter((line) => !line.startsWith('-')).map((line) => line.slice(1));
    lines = lines.toSpliced(matches[0] as number, old.length, ...added);
  }
  return lines.join('\n');
}

const copy = mkdtempSync(join(tmpdir(), 'sonde-contributing-'));
test.after(() => rmSync(copy, { recursive: true, force: true }));

/**
 * The commands of a shell in the copy, whose environment says nothing of this run, except that C++ is not optimized:
 * that takes a third of the time. Returns what they print.
 */
function shell(text: string, more: NodeJS.ProcessEnv = {}): string {
  const own = Object.entries(process.env).filter(([name]) => !/^(SONDE_|TEST_|NODE_V8_COVERAGE$)/.test(name));
  const { status, stdout, stderr } = spawnSync('sh', ['-euc', text], {
    cwd: copy,
    encoding: 'utf8',
    env: { ...Object.fromEntries(own), CXXFLAGS: `${process.env.CXXFLAGS ?? ''} -O0`, ...more },
  });
  assert.is(status, 0, `${text}\n${stdout}${stderr}`);
  return stdout;
}

test('the steps can be done: new files are new, and lines are added where the page says', () => {
  const ignored = /^(node_modules|build|build-.*|dist|coverage|demo-dump|\.git)$/;
  for (const name of readdirSync(packageRoot)) {
    if (!ignored.test(name)) cpSync(join(packageRoot, name), join(copy, name), { recursive: true });
  }
  symlinkSync(join(packageRoot, 'node_modules'), join(copy, 'node_modules'));
  assert.ok(steps.length >= 6, `${steps.length} steps`);
  for (const { file, language, code } of steps) {
    const path = join(copy, file);
    assert.is(existsSync(path), language === 'diff', `${file}: ${language}`);
    writeFileSync(path, language === 'diff' ? patched(readFileSync(path, 'utf8'), code) : code);
  }
});

test(
  'the command at the end passes: everything is compiled, and the operation does what its test demands',
  () => {
    assert.match(commands, /npm test/);
    const stdout = shell(commands);
    assert.match(stdout, /^ok {3}engine\/rms_norm\.test\.js (\d+)\/\1, /m);
    assert.match(stdout, /\n\d+ passed, 0 failed, 0 skipped\n$/);
  },
  { limit: 400_000 },
);

test('the code has the style of the rest', () => {
  const named = (pattern: RegExp) => steps.map(({ file }) => file).filter((file) => pattern.test(file));
  shell(`node node_modules/@biomejs/biome/bin/biome ci --colors=off ${named(/\.ts$/).join(' ')}`);
  if (isInstalled('clang-format')) shell(`clang-format --dry-run --Werror ${named(/\.(cc|cu|h)$/).join(' ')}`);
});

const onEmulator =
  'the CUDA kernel passes on the emulator: its own test, the comparison of kernels, the check for a GPU';
if (process.platform !== 'linux') test.skip(onEmulator, `the emulator does not run on ${process.platform}`);
else {
  test(
    onEmulator,
    async () => {
      const { buildEmulator, buildKernelsTest } = (await import(
        pathToFileURL(join(packageRoot, 'test/cuda-emulator/build.mjs')).href
      )) as Record<'buildEmulator' | 'buildKernelsTest', (flavour: string, changed: object) => Promise<string>>;
      // the other kernels have no use for the list of operations
      const kernels = steps.map(({ file }) => file).filter((file) => file.startsWith('kernels/'));
      const changed = {
        kernels: join(copy, 'kernels'),
        native: join(copy, 'native'),
        only: [...kernels.map((file) => basename(file)), 'backend.cu'],
        out: join(copy, 'build-emulator'),
        warn: true,
        test: join(copy, 'test/cuda-emulator/kernels_test.cc'),
        release: join(copy, 'build/Release'),
      };
      const env = { SONDE_CUDA_LIBRARY: await buildEmulator('plain', changed), SONDE_DEVICE: 'cuda' };
      assert.match(
        shell('node test/run.mjs engine/rms_norm', { ...env, TEST_LIMIT_FACTOR: '5' }),
        /, 0 failed, 0 skipped\n$/,
      );
      assert.match(shell('node build-test/bench/gpu/small.js rmsNorm', env), /: [1-9]\d* checks, 0 failed\n$/);
      assert.match(shell(`${await buildKernelsTest('plain', changed)} 10 4 rows`), /rows: good/);
    },
    { limit: 280_000 },
  );
}

// ---- commands elsewhere

test('commands that run some test files or a compiled program name what is there', () => {
  const tests = [...filesBelow('test'), ...steps.map(({ file }) => file)]
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => name.replace(/^test\//, '').replace(/ts$/, 'js'));
  let count = 0;
  for (const name of pages) {
    const text = readFileSync(join(packageRoot, name), 'utf8');
    const commands = text.matchAll(/(?:npm test --|test\/run\.mjs|sanitize\.mjs (?:address|thread))((?: [\w/.-]+)+)/g);
    const words = [...commands].flatMap(([, list]) => (list as string).trim().split(' '));
    for (const word of words.filter((word) => !/^[A-Z]+$/.test(word))) {
      assert.ok(
        tests.some((file) => file.includes(word)),
        `${name}: no test file's path contains ${word}`,
      );
      count++;
    }
    for (const [, file] of text.matchAll(/\bbuild-test\/([\w/.-]+)\.js/g)) {
      assert.ok(existsSync(join(packageRoot, `${file}.ts`)), `${name}: there is no ${file}.ts`);
      count++;
    }
  }
  assert.ok(count > 8, `${count} words`);
});

test.run();
