// The README must not rot: its example is test/readme_example.ts, which is type-checked and run; its commands exist.
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../src/engine/native.js';
import { suite } from './support/harness.js';

const test = suite('readme');
const readme = readFileSync(join(packageRoot, 'README.md'), 'utf8');

test('the example is the one that runs', () => {
  const shown = /```ts\n(.*?)```/s.exec(readme)?.[1];
  const source = readFileSync(join(packageRoot, 'test/readme_example.ts'), 'utf8');
  assert.is(shown, source.split('\n').slice(1).join('\n').replace("'../src/index.js'", "'sonde'"));
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
