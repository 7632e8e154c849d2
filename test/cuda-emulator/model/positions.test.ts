// Positions of hooks, and sampling that continues caches, on the emulated GPU. Oracle: that of each test file.
import { testOnEmulator } from '../suite.js';

testOnEmulator('positions and caches', ['transformer/at_positions.test', 'transformer/sampling/sample_caches.test']);
