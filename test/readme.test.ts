// The README must not rot: its example is test/readme_example.ts, which is type-checked and run; its commands exist.
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../src/engine/native.js';
import { blocksOf } from './docs/markdown.js';
import { suite } from './support/harness.js';

const test = suite('readme');
const readme = readFileSync(join(packageRoot, 'README.md'), 'utf8');

test('the examples are those that run', () => {
  const shown = blocksOf(readme);
  const sources = ['readme_example', 'published_example', 'sequences_example', 'gradients_example'].map((name) => {
    const source = readFileSync(join(packageRoot, `test/${name}.ts`), 'utf8');
    return source.split('\n').slice(1).join('\n').replaceAll("'../src/index.js'", "'sonde'");
  });
  assert.equal(shown, sources);
});

/** The lines that an example prints. */
function linesOf(example: string): string[] {
  const program = join(packageRoot, `build-test/test/${example}.js`);
  return execFileSync(process.execPath, [program], { cwd: packageRoot, encoding: 'utf8' }).trimEnd().split('\n');
}

test('the example prints what it promises', () => {
  const lines = linesOf('readme_example');
  assert.match(lines[0] ?? '', /\[ 1, 7, 50257 \]/);
  assert.match(lines.at(-2) ?? '', /\[ 1, 7, \d+ \]/);
  assert.match(lines.at(-1) ?? '', /^\d+ active latents in 7 tokens$/);
});

test('so does the one of sequences in pieces', () => {
  const lines = linesOf('sequences_example');
  assert.equal(lines.slice(0, 2), [
    ' garden Tensor [1, 1, 50257] float32 on cpu KvCaches [1, 8] float32 on cpu',
    ' old box Tensor [1, 2, 50257] float32 on cpu KvCaches [1, 9] float32 on cpu',
  ]);
  assert.match(lines[2] ?? '', /^0 0 /);
  const held = lines.filter((line) => line.includes('Tensor [1, 1, 64]'));
  assert.equal(held, ['[ 1 ] Tensor [1, 1, 64] float32 on cpu', '[ 0 ] Tensor [1, 1, 64] float32 on cpu']);
});

test('so does the one of gradients', () => {
  const lines = linesOf('gradients_example');
  assert.match(lines[0] ?? '', /^strongest neurons: \[ \[ \d+, \d+, \d+ \] \]$/);
  const numbers = lines.filter((line) => line.startsWith('loss: ')).map((line) => Number(line.slice('loss: '.length)));
  assert.is(numbers.length, 3);
  assert.ok((numbers[2] as number) < (numbers[0] as number), String(numbers));
  assert.is(lines.filter((line) => line.startsWith('norm of the gradient: ')).length, 3);
  assert.is(lines.at(-1), '69 parameters; [ 256, 64 ]');
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
