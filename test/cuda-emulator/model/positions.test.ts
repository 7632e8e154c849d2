// Positions of hooks, caches, and what the console shows, on the emulated GPU. Oracle: that of each test file.
import { testOnEmulator } from '../suite.js';

testOnEmulator('positions and caches', [
  'transformer/at_positions.test',
  'transformer/kv_cache.test',
  'console_log.test',
]);
