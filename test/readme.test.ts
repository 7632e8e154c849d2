// The README must not rot: its example is test/readme_example.ts, which is type-checked and run; its commands exist.
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../src/engine/native.js';
import { suite } from './support/harness.js';

const test = suite('readme');
const readme = readFileSync(join(packageRoot, 'README.md'), 'utf8');

test('the examples are those that run', () => {
  const shown = [...readme.matchAll(/```ts\n(.*?)```/gs)].map(([, code]) => code);
  const sources = ['test/readme_example.ts', 'test/published_example.ts'].map((name) => {
    const source = readFileSync(join(packageRoot, name), 'utf8');
    return source.split('\n').slice(1).join('\n').replaceAll("'../src/index.js'", "'sonde'");
  });
  assert.equal(shown, sources);
});

test('the example prints what it promises', () => {
  const program = join(packageRoot, 'build-test/test/readme_example.js');
  const lines = execFileSync(process.execPath, [program], { cwd: packageRoot, encoding: 'utf8' }).trimEnd().split('\n');
  assert.match(lines[0] ?? '', /\[ 1, 7, 50257 \]/);
  assert.match(lines.at(-2) ?? '', /\[ 1, 7, \d+ \]/);
  assert.match(lines.at(-1) ?? '', /^\d+ active latents in 7 tokens$/);
});

test('the scripts and files it names exist', () => {
  const { scripts, bin } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8'));
  for (const [, script] of readme.matchAll(/npm run (\w[\w:]*)/g))
    assert.ok(scripts[script as string], `npm run ${script}`);
  for (const [, path] of readme.matchAll(/\]\((?!http)([^)#]+)\)/g))
    assert.ok(existsSync(join(packageRoot, path as string)), path);
  assert.ok(bin.sonde);
});

test.run();
