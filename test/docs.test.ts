// The pages of assets/docs must not rot. Oracle: the sources themselves, and the list of hook points.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { listAutoencoderNames } from '../src/context/registry.js';
import { packageRoot } from '../src/engine/native.js';
import { finalPoints, firstPoint, layerPoints } from '../src/transformer/location.js';
import { suite } from './support/harness.js';
import { filesBelow, pages } from './support/sources.js';

const test = suite('docs');
const page = (name: string) => readFileSync(join(packageRoot, 'assets/docs', name), 'utf8');

/** The cells of each row of a page's tables, without their heads. */
function rows(text: string): string[][] {
  const lines = text.split('\n').filter((line) => line.startsWith('|'));
  return lines
    .map((line) =>
      line
        .slice(1, -1)
        .split('|')
        .map((cell) => cell.trim()),
    )
    .filter((cells, i, all) => !/^-+$/.test(cells[0] ?? '') && !/^-+$/.test(all[i + 1]?.[0] ?? ''));
}

test('every TypeScript name is one of the sources', () => {
  const files = filesBelow('src').filter((name) => name.endsWith('.ts'));
  const words = new Set(files.flatMap((name) => readFileSync(join(packageRoot, name), 'utf8').match(/\w+/g) ?? []));
  const table = rows(page('python-names.md'));
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
  const [points = '', autoencoders = ''] = page('transformer-lens.md').split('## Autoencoders');
  const named = rows(points).map(([cell = '']) => cell.replaceAll('`', ''));
  assert.equal(named.sort(), [firstPoint, ...layerPoints, ...finalPoints].sort());
  for (const [cell = ''] of rows(autoencoders)) {
    const name = cell.replaceAll('`', '');
    if (name.startsWith('ae-')) assert.ok(listAutoencoderNames().includes(name), name);
  }
});

test('every file and folder of the sources that a page names is there', () => {
  let named = 0;
  for (const name of pages) {
    const text = readFileSync(join(packageRoot, name), 'utf8');
    for (const [, path = ''] of text.matchAll(/`((?:src|native|kernels|test|bench|assets)\/[\w./-]*)/g)) {
      // the example of an operation to be added is not there
      if (/[*]|silu/.test(path)) continue;
      named++;
      assert.ok(existsSync(join(packageRoot, path)), `${name} names ${path}`);
    }
  }
  assert.ok(named > 60, `${named} paths`);
});

test.run();
