// The tests of operations on rows on the emulated GPU. Oracle: that of each test file, with its bounds.
import { operationsOnRows, testOnEmulator } from './suite.js';

testOnEmulator(
  'rows',
  operationsOnRows.map((name) => `engine/${name}.test`),
);
