// The tests of sampling on the emulated GPU. Oracle: that of each test file, with its bounds.
import { testOnEmulator } from '../suite.js';

testOnEmulator('sampling', [
  'transformer/sampling/sampler.test',
  'transformer/sampling/sample_run.test',
  'transformer/sampling/sample_caches.test',
  'transformer/sampling/next_token.test',
]);
