import { testOnEmulator } from './suite.js';

testOnEmulator('the engine', [
  ...['device', 'elementwise', 'linear', 'attention', 'random', 'matmul', 'sparse', 'switches', 'tensor'].map(
    (name) => `engine/${name}.test`,
  ),
]);
