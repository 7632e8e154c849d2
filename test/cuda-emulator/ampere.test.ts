import { testOnEmulator } from './suite.js';

testOnEmulator(
  'products and the model of an A100',
  ['engine/linear.test', 'engine/matmul.test', 'transformer/goldens.test'],
  {
    SONDE_EMULATE_SM: '80',
  },
);
