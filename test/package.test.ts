// Oracle: what package.json and the lock file promise, read as data.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../src/engine/native.js';
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

test.run();
