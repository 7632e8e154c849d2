// The tests of indexing and order on the emulated GPU. Oracle: that of each test file, with its bounds.
import { operationsOnIndices, testOnEmulator } from './suite.js';

testOnEmulator(
  'indexing',
  operationsOnIndices.map((name) => `engine/${name}.test`),
);
