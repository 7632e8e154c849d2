// Tests are built with only what they need. Oracle: small checkouts with few needs, and the known needs of tests of
// this one.
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import * as assert from 'uvu/assert';
import { packageRoot } from '../src/engine/native.js';
import { withFolder } from './support/folders.js';
import { suite } from './support/harness.js';

interface Build {
  chooseTests(files: string[], words: string[], suffix?: string): string[];
  needsOf(path: string, from?: string): { addon: boolean; arm64: boolean; emulator: string[] };
  buildTypeScript(from: string): boolean;
}
const path = join(packageRoot, 'test', 'build.mjs');
const { chooseTests, needsOf, buildTypeScript } = (await import(pathToFileURL(path).href)) as Build;

const test = suite('build');

function write(folder: string, files: Record<string, string>): void {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), text);
  }
}

test('words choose the test files whose path contains one of them', () => {
  const files = ['engine/gelu.test.js', 'engine/gelu.js', 'files/torch.test.js', 'support/fails/x.fails.js'];
  assert.equal(chooseTests(files, []), ['engine/gelu.test.js', 'files/torch.test.js']);
  assert.equal(chooseTests(files, ['torch', 'nothing']), ['files/torch.test.js']);
  assert.equal(chooseTests(files, ['engine/']), ['engine/gelu.test.js']);
  assert.equal(chooseTests(files, ['nothing']), []);
  assert.equal(chooseTests(files, [], '.fails.js'), ['support/fails/x.fails.js']);
});

// in two parts, or this file would need them
const emulatorFolder = ['build', 'emulator'].join('-');
const arm64Script = ['arm64', 'mjs'].join('.');

test('needs are those of the file and of all that it names, by an import or otherwise', () =>
  withFolder((folder) => {
    write(folder, {
      'src/native.ts': "load('sonde.node')",
      'src/device.ts': "export * from './native.js'",
      'src/text.ts': "import './text.js'",
      'test/emulator.ts': `export const library = '${emulatorFolder}/plain/x.so'`,
      'test/tools/plant.mjs': "build('address')",
      'test/child.ts': "import '../src/device.js'",
      'test/run.mjs': "import './emulator.js'",
      'test/text.test.ts': "import '../src/text.js'; import 'uvu'; 'test/run.mjs'",
      'test/device.test.ts': "import type { Device } from '../src/device.js'",
      'test/dynamic.test.ts': ['await import(`$', '{folder}/src/device.js`)'].join(''),
      'test/thread.test.ts': "new Thread(new URL('./child.js', import.meta.url))",
      'test/process.test.ts': "import { spawn } from 'node:child_process'",
      'test/kernels.test.ts': "import { library } from './emulator.js'",
      'test/emulated.test.ts': `import { spawn } from 'node:child_process'; 'test/${arm64Script}'`,
      'test/mistakes.test.ts': "import { library } from './emulator.js'; import('./tools/plant.mjs')",
    });
    const needs = (name: string) => needsOf(join(folder, 'test', `${name}.test.ts`), folder);
    assert.equal(needs('text'), { addon: false, arm64: false, emulator: [] });
    for (const name of ['device', 'dynamic', 'thread', 'process']) {
      assert.equal(needs(name), { addon: true, arm64: false, emulator: [] }, name);
    }
    assert.equal(needs('emulated'), { addon: true, arm64: true, emulator: [] });
    assert.equal(needs('kernels'), { addon: true, arm64: false, emulator: ['plain'] });
    assert.equal(needs('mistakes'), { addon: true, arm64: false, emulator: ['plain', 'address'] });
  }));

test('needs of tests of this checkout', () => {
  const needs = (name: string) => needsOf(join(packageRoot, 'test', `${name}.test.ts`));
  assert.equal(needs('files/tokenizer/tokenizer'), { addon: false, arm64: false, emulator: [] });
  for (const name of ['engine/tensor', 'transformer/hooks', 'cli/main', 'native/programs', 'package']) {
    assert.equal(needs(name), { addon: true, arm64: false, emulator: [] }, name);
  }
  assert.equal(needs('arithmetic/digest'), { addon: true, arm64: false, emulator: [] });
  assert.equal(needs('arithmetic/arm64'), { addon: true, arm64: true, emulator: [] });
  for (const name of ['cuda-emulator/engine', 'cuda-emulator/loading', 'bench/gpu/full_size', 'contributing']) {
    assert.equal(needs(name), { addon: true, arm64: false, emulator: ['plain'] }, name);
  }
  for (const name of ['cuda-emulator/kernels', 'cuda-emulator/mistakes/others']) {
    assert.equal(needs(name), { addon: true, arm64: false, emulator: ['plain', 'address'] }, name);
  }
});

test('TypeScript: nothing stays of a source that is gone, and what is gone of a source that stays comes back', () =>
  withFolder((folder) => {
    write(folder, {
      'tsconfig.test.json': JSON.stringify({
        compilerOptions: {
          ...{ target: 'es2022', module: 'nodenext', sourceMap: true, types: [] },
          ...{ rootDir: '.', outDir: 'build-test', incremental: true },
        },
        include: ['src', 'test', 'bench'],
      }),
      'package.json': '{ "type": "module" }',
      'src/one.ts': 'export const one: number = 1;\n',
      'bench/one.bench.ts': "import { one } from '../src/one.js';\nexport const two = one + one;\n",
      'test/old.test.ts': 'export {};\n',
      'build-test/test/older.test.js': '',
    });
    const there = (name: string) => existsSync(join(folder, 'build-test', name));
    assert.ok(buildTypeScript(folder));
    assert.ok(there('src/one.js') && there('src/one.js.map') && there('test/old.test.js'));
    assert.not(there('test/older.test.js'), 'of a build that tsc knows nothing of');
    rmSync(join(folder, 'test/old.test.ts'));
    rmSync(join(folder, 'build-test/src/one.js'));
    write(folder, { 'test/new.test.ts': 'export {};\n' });
    assert.ok(buildTypeScript(folder));
    assert.ok(there('src/one.js') && there('test/new.test.js'));
    assert.not(there('test/old.test.js') || there('test/old.test.js.map'));
  }));

test.run();
