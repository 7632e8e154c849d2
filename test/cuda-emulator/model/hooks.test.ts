// The tests of hooks and sampling on the emulated GPU. Oracle: that of each test file, with its bounds.
import { testOnEmulator } from '../suite.js';

testOnEmulator('hooks and sampling', [
  'transformer/sampling/sampler.test',
  'transformer/sampling/sample_run.test',
  'transformer/hook_tensors.test',
  'transformer/hook_places.test',
]);
