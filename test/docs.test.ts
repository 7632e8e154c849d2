// The pages of assets/docs must not rot. Oracle: the sources themselves, and the list of hook points.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { listAutoencoderNames } from '../src/context/registry.js';
import { packageRoot } from '../src/engine/native.js';
import { finalPoints, firstPoint, layerPoints } from '../src/transformer/location.js';
import { docsPage, rows, section } from './docs/markdown.js';
import { arithmeticNames } from './support/device.js';
import { suite } from './support/harness.js';
import { filesBelow, pages } from './support/sources.js';

const test = suite('docs');

test('every TypeScript name is one of the sources', () => {
  const files = filesBelow('src').filter((name) => name.endsWith('.ts'));
  const words = new Set(files.flatMap((name) => readFileSync(join(packageRoot, name), 'utf8').match(/\w+/g) ?? []));
  const table = rows(docsPage('python-names.md'));
  assert.ok(table.length > 70);
  for (const [python = '', typescript = ''] of table) {
    assert.match(python, /`/);
    for (const [, code = ''] of typescript.matchAll(/`([^`]*)`/g)) {
      const names = code.replace(/'[^']*'/g, '').match(/[A-Za-z]\w+/g) ?? [];
      for (const name of names) assert.ok(words.has(name) || ['xf', 'ae', 'ctx'].includes(name), `${name} in ${code}`);
    }
  }
});

test('every hook point has its row, and no other has one', () => {
  const text = docsPage('transformer-lens.md');
  const named = rows(section(text, 'Hook points')).map(([cell = '']) => cell.replaceAll('`', ''));
  assert.equal(named.sort(), [firstPoint, ...layerPoints, ...finalPoints].sort());
  for (const [cell = ''] of rows(section(text, 'Autoencoders'))) {
    const name = cell.replaceAll('`', '');
    if (name.startsWith('ae-')) assert.ok(listAutoencoderNames().includes(name), name);
  }
});

// ---- tensors.md

/** The names of Tensor's public members, static ones as `Tensor.zeros`: those of its declaration without `@internal`. */
function publicMembers(): string[] {
  const text = readFileSync(join(packageRoot, 'src/engine/ops/tensor.ts'), 'utf8');
  const body = /^export class Tensor .*?\n(.*?)^}/ms.exec(text)?.[1] ?? '';
  const members = body.matchAll(
    /(?:^ {2}\/\*\*((?:(?!\*\/).)*)\*\/\n)?^ {2}((?:(?:static|async|readonly|override|private|get) )*)(\w+)[(:<]/gms,
  );
  const names = [...members].flatMap(([, comment = '', modifiers = '', name]) => {
    if (name === 'constructor' || comment.includes('@internal') || modifiers.includes('private')) return [];
    return [modifiers.includes('static') ? `Tensor.${name}` : `x.${name}`];
  });
  return [...new Set(names)];
}

/** The functions that src/index.ts exports: all of them, or those of the operations on tensors. */
function exportedFunctions(from: string): string[] {
  const index = readFileSync(join(packageRoot, 'src/index.ts'), 'utf8');
  const lists = [...index.matchAll(/^export \{([^}]*)\} from '([^']*)';/gm)].filter(([, , path = '']) =>
    path.startsWith(from),
  );
  const names = lists.flatMap(([, list = '']) => list.split(',').map((name) => name.trim().replace(/^\w+ as /, '')));
  return names.filter((name) => /^[a-z]\w*$/.test(name));
}

test('tensors.md: every member of Tensor and every function of tensors has its row, and no other has one', () => {
  const table = rows(docsPage('tensors.md'));
  const named = table.flatMap(([cell = '']) =>
    [...cell.matchAll(/`(?:await )?((?:x\.|Tensor\.)?\w+)[^`]*`/g)].map(([, name = '']) => name),
  );
  const exist = [...publicMembers(), ...exportedFunctions('./engine/ops/'), 'relu']; // relu is that of an autoencoder as well
  assert.ok(
    exist.includes('x.sum') && exist.includes('Tensor.zeros') && exist.includes('x.size') && exist.includes('matmul'),
  );
  const missing = exist.filter((name) => !named.includes(name));
  const stray = named.filter((name, i) => !exist.includes(name) || named.indexOf(name) !== i);
  assert.equal({ missing, stray }, { missing: [], stray: [] }, `no row: ${missing}; no such thing, or twice: ${stray}`);
  for (const [cell, ...others] of table) {
    assert.match(cell ?? '', /^`[^`]+`(, `[^`]+`)*$/);
    assert.is(others.length, 3, `${cell}: shapes, dtype, a sentence`);
    assert.ok(others[2], `${cell}: a sentence`);
  }
});

test('pages name the arithmetics of this version', () => {
  const { float32, bfloat16Dot, cuda } = arithmeticNames;
  const named = pages
    .filter((name) => name !== 'CHANGELOG.md')
    .flatMap((name) => {
      const text = readFileSync(join(packageRoot, name), 'utf8');
      return text.match(/\b(?:cpu-(?:float32|bfloat16-dot)|cuda-\d+\.\d+)-\d+\b/g) ?? [];
    });
  assert.ok(named.length > 8, `${named.length} names`);
  const expected = (name: string) => [float32, bfloat16Dot, cuda(name.split('-')[1] as string)];
  assert.equal(
    named.filter((name) => !expected(name).includes(name)),
    [],
  );
});

test('every file and folder of the sources that a page names is there', () => {
  let named = 0;
  for (const name of pages) {
    const text = readFileSync(join(packageRoot, name), 'utf8');
    for (const [, path = ''] of text.matchAll(/`((?:src|native|kernels|test|bench|assets)\/[\w./-]*)/g)) {
      // the example of an operation to be added is not there
      if (/[*]|rms_norm/.test(path)) continue;
      named++;
      assert.ok(existsSync(join(packageRoot, path)), `${name} names ${path}`);
    }
  }
  assert.ok(named > 60, `${named} paths`);
});

test.run();
