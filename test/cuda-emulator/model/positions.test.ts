// Positions of hooks, caches, sampling that continues them, and what the console shows, on the emulated GPU. Oracle: that
// of each test file.
import { testOnEmulator } from '../suite.js';

testOnEmulator('positions and caches', [
  'transformer/at_positions.test',
  'transformer/kv_cache.test',
  'transformer/sampling/sample_caches.test',
  'console_log.test',
]);
