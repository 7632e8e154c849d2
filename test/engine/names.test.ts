// One operation, one name: each line of native/ops.h has four files of its name and a method in src/engine/native.ts.
// Oracle: the lines of native/ops.h.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { suite } from '../support/harness.js';
import { camelCase, families, fileOf, operationFiles, operations } from '../support/operations/list.js';
import { filesBelow } from '../support/sources.js';

const test = suite('names');
const read = (...path: string[]): string => readFileSync(join(packageRoot, ...path), 'utf8');

interface Folder {
  readonly path: string;
  readonly ending: string;
  /** The files that belong to no single operation. */
  readonly others: readonly string[];
}

const folders: readonly Folder[] = [
  {
    path: 'src/engine/ops',
    ending: '.ts',
    // the tensor itself and its copy on the host; code that several operations share; what is made of other operations
    others: [
      ...['tensor', 'to_host', 'contiguous', 'indices', 'overlap', 'planes', 'product', 'views'],
      ...['cat', 'creation', 'einsum', 'vector_products', 'view_operations'],
    ],
  },
  {
    path: 'native/cpu',
    ending: '.cc',
    // the backend, its table of operations, its threads, and the measurement of what the processor can do
    others: ['backend', 'operations', 'threads', 'ceiling'],
  },
  {
    path: 'kernels',
    ending: '.cu',
    // the backend; the kernels that several products share, and how these convert and describe their operands
    others: [
      ...['backend', 'product_dense', 'product_sparse', 'split_operand', 'tma_map'],
      ...['bfloat16', 'float16', 'high_only', 'plain', 'split'].map((kind) => `product_dense_${kind}`),
    ],
  },
  {
    path: 'test/engine',
    ending: '.test.ts',
    // tests of all operations or of none, and of what is made of other operations
    others: [
      ...[
        'accuracy',
        'arguments',
        'device',
        'fused',
        'names',
        'nan',
        'planes',
        'profile',
        'repeated_work',
        'shape',
        'storage',
        'switches',
        'tensor',
      ],
      ...['cat', 'creation', 'einsum', 'vector_products', 'view_operations'],
    ],
  },
];

test('the list is read whole', () => {
  const text = read('native', 'ops.h');
  const lines = text.match(/^.*\bOP\(/gm)?.filter((line) => !line.startsWith('#define')) ?? [];
  assert.is(operations.length, lines.length);
  assert.ok(operations.length > 20);
  const names = operations.map(({ name }) => name);
  for (const name of Object.values(families).flat()) assert.ok(names.includes(name), `${name} of a family is no line`);
});

for (const { path, ending, others } of folders) {
  test(`${path}: one file for each operation or family, and no file of another name`, () => {
    const found = readdirSync(join(packageRoot, path)).filter((file) => file.endsWith(ending));
    const expected = [...operationFiles, ...others].map((name) => name + ending);
    const missing = expected.filter((file) => !found.includes(file));
    const stray = found.filter((file) => !expected.includes(file));
    assert.equal({ missing, stray }, { missing: [], stray: [] }, `${path}: missing ${missing}; stray ${stray}`);
  });
}

test('each operation is queued by the file of its name, and by no other', () => {
  const expected = operations.map(({ name }) => `${camelCase(name)} in ${fileOf(name)}.ts`).sort();
  const found = new Set<string>();
  for (const path of filesBelow('src')) {
    if (!path.endsWith('.ts')) continue;
    const file = path.replace(/^src[/\\]engine[/\\]ops[/\\]/, '');
    for (const [, name] of read(path).matchAll(/\.run\(\s*'(\w+)'/g)) found.add(`${name} in ${file}`);
  }
  assert.equal([...found].sort(), expected);
});

/** The TypeScript type of a parameter's C++ type. */
function typeOf(type: string): string {
  if (type === 'In' || type === 'Out') return 'ViewArgument';
  if (type === 'Packed' || type === 'PackedOut') return 'PackedArgument';
  if (type === 'CsrOut') return 'CsrHandle';
  if (type === 'bool') return 'boolean';
  if (type === 'double' || type === 'int64_t' || /^\w*Kind$|^Activation$|^Precision$/.test(type)) return 'number';
  throw new Error(`native/ops.h: there is no TypeScript type for ${type}`);
}

test('what may be left out is a tensor among the parameters', () => {
  for (const { name, parameters, optional } of operations) {
    const tensors = parameters.filter(({ type }) => typeOf(type) === 'ViewArgument').map((parameter) => parameter.name);
    for (const parameter of optional) assert.ok(tensors.includes(parameter), `${name}: ${parameter} may be left out`);
  }
  assert.ok(operations.flatMap(({ optional }) => optional).length > 3);
});

test('NativeOperations: each operation is a method with the same parameters, by name, order and type', () => {
  const body = /^export interface NativeOperations \{\n(.*?)^\}/ms.exec(read('src', 'engine', 'native.ts'))?.[1] ?? '';
  const methods = [...body.matchAll(/(\w+)\(([^)]*)\): void;/g)].map(([, name, parameters]) => {
    const list = (parameters as string).split(',').map((parameter) => parameter.trim());
    return `${name}(${list.filter(Boolean).join(', ')})`;
  });
  assert.is(body.replace(/(\w+)\(([^)]*)\): void;/g, '').trim(), '', 'the interface has methods only');
  assert.equal(
    methods,
    operations.map(({ name, parameters, optional }) => {
      const list = parameters.map((parameter) => {
        const type = `${typeOf(parameter.type)}${optional.includes(parameter.name) ? ' | null' : ''}`;
        return `${camelCase(parameter.name)}: ${type}`;
      });
      return `${camelCase(name)}(${list.join(', ')})`;
    }),
  );
});

test.run();
