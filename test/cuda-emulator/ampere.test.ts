// The tests of products and of the model, on an emulated A100.
import { testOnEmulator } from './suite.js';

testOnEmulator(
  'products and the model of an A100',
  ['engine/linear.test', 'engine/matmul.test', 'engine/pack_weights.test', 'transformer/goldens.test'],
  {
    SONDE_EMULATE_SM: '80',
  },
);
