// The tests of the engine on the emulated GPU, but for those of rows.test.ts and indexing.test.ts. Oracle: that of each test file, with its bounds.
import { operationFiles } from '../support/operations/list.js';
import { operationsOnIndices, operationsOnRows, testOnEmulator } from './suite.js';

// a GPU uses no filters
const elsewhere = [...operationsOnRows, ...operationsOnIndices, 'pack_filter'];

testOnEmulator(
  'the engine',
  [
    ...operationFiles.filter((name) => !elsewhere.includes(name)),
    'arguments',
    'device',
    'planes',
    'repeated_work',
    'switches',
    'tensor',
    'view_operations',
    ...['cat', 'creation', 'einsum', 'vector_products'],
  ].map((name) => `engine/${name}.test`),
);
