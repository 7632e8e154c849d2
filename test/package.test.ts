// Oracle: what package.json and the lock file promise, read as data.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../src/engine/native.js';
import { withFolder } from './support/folders.js';
import { suite } from './support/harness.js';

interface Locked {
  integrity?: string;
  resolved?: string;
  optionalDependencies?: Record<string, string>;
}

const read = (name: string) => JSON.parse(readFileSync(join(packageRoot, name), 'utf8'));
const locked = Object.entries(read('package-lock.json').packages as Record<string, Locked>).filter(([path]) => path);

const test = suite('package');

test('the lock file has a checksum for each package and names no registry', () => {
  assert.equal(
    locked.filter(([, { integrity }]) => !integrity).map(([path]) => path),
    [],
  );
  assert.equal(
    locked.filter(([, { resolved }]) => resolved).map(([path]) => path),
    [],
  );
});

test('the lock file has every optional package, or `npm ci` refuses it', () => {
  const paths = new Set(locked.map(([path]) => path));
  const missing = locked.flatMap(([, { optionalDependencies = {} }]) =>
    Object.keys(optionalDependencies).filter((name) => !paths.has(`node_modules/${name}`)),
  );
  assert.equal(missing, []);
});

test('the command and the entry are built from sources that are there', () => {
  const { bin, exports: entries } = read('package.json');
  for (const built of [bin.sonde, entries['.'].default]) {
    const source = built.replace(/^(\.\/)?dist\//, 'src/').replace(/\.js$/, '.ts');
    assert.ok(existsSync(join(packageRoot, source)), `${source} is missing`);
  }
});

test('the command can be executed after a build: npm sees to that only when it installs', () =>
  withFolder((folder) => {
    const { type, bin, scripts } = read('package.json');
    mkdirSync(join(folder, 'src', 'cli'), { recursive: true });
    writeFileSync(join(folder, 'src', 'cli', 'main.ts'), "#!/usr/bin/env node\nconsole.log('it runs');\n");
    writeFileSync(join(folder, 'package.json'), JSON.stringify({ type }));
    const compilerOptions = { target: 'es2022', module: 'nodenext', rootDir: 'src', outDir: 'dist', lib: ['dom'] };
    writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['src'] }));
    const modules = join(packageRoot, 'node_modules');
    symlinkSync(modules, join(folder, 'node_modules'), 'junction');
    const env = { ...process.env, PATH: join(modules, '.bin') + delimiter + process.env.PATH };
    const built = spawnSync(scripts.build, { shell: true, cwd: folder, env, encoding: 'utf8' });
    assert.is(built.status, 0, built.stdout + built.stderr);
    const { status, stdout } = spawnSync(join(folder, bin.sonde), { env, encoding: 'utf8' });
    assert.is(status, 0);
    assert.is(stdout, 'it runs\n');
  }));

test.run();
