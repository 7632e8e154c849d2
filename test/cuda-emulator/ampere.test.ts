// Products and the model on an emulated A100 (sm_80). Oracle: that of each test file, with its bounds.
import { testOnEmulator } from './suite.js';

testOnEmulator(
  'products and the model of an A100',
  ['engine/linear.test', 'engine/matmul.test', 'engine/pack_weights.test', 'transformer/goldens.test'],
  {
    SONDE_EMULATE_SM: '80',
  },
);
