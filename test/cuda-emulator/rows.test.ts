import { operationsOnRows, testOnEmulator } from './suite.js';

testOnEmulator(
  'rows',
  operationsOnRows.map((name) => `engine/${name}.test`),
);
