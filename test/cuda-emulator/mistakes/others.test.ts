// Mistakes planted in everything but products and attention. Oracle: kernels_test, which must find each.
import { testMistakes } from './suite.js';

await testMistakes(['hopper', 'mma', 'simt', 'epilogue', 'attention'], false);
