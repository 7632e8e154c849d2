// The layout that CONTRIBUTING describes. Oracle: the imports, includes and file names of the sources themselves.
import { readFileSync } from 'node:fs';
import { basename, dirname, join, normalize } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../src/engine/native.js';
import { suite } from './support/harness.js';
import { filesBelow } from './support/sources.js';

const test = suite('architecture');

const sources = filesBelow('src').filter((file) => file.endsWith('.ts'));

/**
 * The imports of a TypeScript file within the project, as paths from the root. Without `types`, these are only the ones
 * that are loaded when it runs.
 */
const importsOf = (file: string, types: boolean): Set<string> => {
  const text = readFileSync(join(packageRoot, file), 'utf8');
  const found = text.matchAll(/^(?:import|export) (type )?[^'"]*'(\.[^']+)\.js';$|\bimport\('(\.[^']+)\.js'\)/gm);
  const paths = [...found]
    .filter(([, type]) => types || type === undefined)
    .map(([, , path, lazy]) => path ?? lazy ?? '');
  return new Set(paths.map((path) => `${normalize(join(dirname(file), path))}.ts`));
};

type Graph = Map<string, Set<string>>;

const fileGraph: Graph = new Map(sources.map((file) => [file, importsOf(file, true)]));

const folderGraph: Graph = new Map();
for (const [file, imported] of fileGraph) {
  const folder = dirname(file);
  const folders = folderGraph.get(folder) ?? new Set();
  for (const other of imported) if (dirname(other) !== folder) folders.add(dirname(other));
  folderGraph.set(folder, folders);
}

/** A path from some node back to itself, such as `a -> b -> a`; undefined when there is none. */
function cycleOf(graph: Graph): string | undefined {
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (node: string): string | undefined => {
    if (path.includes(node)) return [...path.slice(path.indexOf(node)), node].join(' -> ');
    if (done.has(node)) return undefined;
    done.add(node);
    path.push(node);
    for (const next of graph.get(node) ?? []) {
      const cycle = visit(next);
      if (cycle) return cycle;
    }
    path.pop();
    return undefined;
  };
  return [...graph.keys()].map(visit).find((cycle) => cycle !== undefined);
}

test('a cycle is found', () => {
  const graph = (edges: Record<string, string[]>): Graph =>
    new Map(Object.entries(edges).map(([a, b]) => [a, new Set(b)]));
  assert.is(cycleOf(graph({ a: ['b', 'c'], b: ['c'], c: ['d'] })), undefined);
  assert.is(cycleOf(graph({ a: ['b'], b: ['c'], c: ['b'] })), 'b -> c -> b');
});

test('imports are found', () => {
  const edges = [...fileGraph.values()].reduce((sum, imported) => sum + imported.size, 0);
  assert.ok(edges > 500, `${edges} imports`);
  for (const [file, imported] of fileGraph) {
    for (const other of imported) assert.ok(fileGraph.has(other), `${file} imports ${other}`);
  }
});

test('no file imports itself through others; only type imports may, as those of a tensor and its operations do', () =>
  assert.is(cycleOf(new Map(sources.map((file) => [file, importsOf(file, false)]))), undefined));

test('no folder imports itself through others, type imports included', () =>
  assert.is(cycleOf(folderGraph), undefined));

// each layer of src/, and those that it may import
const layers: Record<string, string[]> = {
  cli: ['dump', 'context', 'transformer', 'autoencoder', 'files', 'engine', 'checks'],
  dump: ['context', 'transformer', 'autoencoder', 'files', 'engine', 'checks'],
  context: ['transformer', 'autoencoder', 'files', 'engine', 'checks'],
  transformer: ['files', 'engine', 'checks'],
  autoencoder: ['files', 'engine', 'checks'],
  files: ['checks'],
  engine: ['checks'],
  checks: [],
};

test('every import leads down', () => {
  const layerOf = (file: string): string | undefined => file.split('/').slice(1, -1)[0];
  for (const [file, imported] of fileGraph) {
    const layer = layerOf(file);
    if (layer === undefined) continue; // src/index.ts, which no file imports
    const below = layers[layer];
    assert.ok(below, `${file} lies in no layer`);
    for (const other of imported) {
      const to = layerOf(other);
      assert.ok(to === layer || (to !== undefined && below.includes(to)), `${file} imports ${other}`);
    }
  }
});

test('native code includes nothing of kernels/, and kernels/ of native/ only the headers that both share', () => {
  const included = (file: string): string[] =>
    [...readFileSync(join(packageRoot, file), 'utf8').matchAll(/^#include "(?!cuda_runtime)([^"]+)"/gm)].map(
      ([, path = '']) => path,
    );
  const code = (folder: string) => filesBelow(folder).filter((file) => /\.(cc|h|cu|cuh)$/.test(file));
  const native = code('native').filter((file) => !file.startsWith('native/nodedir/'));
  const kernels = code('kernels');
  assert.ok(native.length > 30 && kernels.length > 30);
  for (const file of native) {
    for (const path of included(file)) {
      assert.ok(native.includes(normalize(join(dirname(file), path))), `${file} includes ${path}`);
    }
  }
  for (const file of kernels) {
    for (const path of included(file)) {
      const paths = [join(dirname(file), path), join('native', path)].map(normalize);
      const found = paths.find((candidate) => kernels.includes(candidate) || native.includes(candidate));
      assert.ok(found && !found.startsWith('native/cpu/'), `${file} includes ${path}`);
    }
  }
});

// flat lists: a file for each operation, each kernel or each command
const flatLists = ['src/engine/ops', 'native/cpu', 'kernels', 'src/cli', 'test/engine'];

test('a folder has at most 16 files', () => {
  const files = ['src', 'native', 'kernels', 'test', 'bench']
    .flatMap(filesBelow)
    .filter((file) => !/^(test\/fixtures|bench\/results)\/|__pycache__/.test(file));
  const counts = new Map<string, number>();
  for (const file of files) counts.set(dirname(file), (counts.get(dirname(file)) ?? 0) + 1);
  for (const [folder, count] of counts) {
    assert.ok(count <= 16 || flatLists.includes(folder), `${folder} has ${count} files`);
  }
});

test('two files of one name are a command and the module that does its work', () => {
  const byName = new Map<string, string[]>();
  for (const file of sources) byName.set(basename(file), [...(byName.get(basename(file)) ?? []), file]);
  for (const files of byName.values()) {
    const others = files.filter((file) => dirname(file) !== 'src/cli');
    assert.ok(others.length <= 1, `${others.join(' and ')} have one name`);
  }
});

test.run();
