// Mistakes planted in products elsewhere. Oracle: kernels_test, which must find each.
import { testMistakes } from './suite.js';

await testMistakes(['mma', 'simt'], true);
