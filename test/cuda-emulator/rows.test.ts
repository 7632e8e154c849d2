// The tests of operations on rows, on the emulated GPU.
import { operationsOnRows, testOnEmulator } from './suite.js';

testOnEmulator(
  'rows',
  operationsOnRows.map((name) => `engine/${name}.test`),
);
