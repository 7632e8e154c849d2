// The tests of the engine except those of operations on rows, on the emulated GPU.
import { operationFiles } from '../support/operations/list.js';
import { operationsOnRows, testOnEmulator } from './suite.js';

testOnEmulator(
  'the engine',
  [...operationFiles.filter((name) => !operationsOnRows.includes(name)), 'device', 'switches', 'tensor'].map(
    (name) => `engine/${name}.test`,
  ),
);
