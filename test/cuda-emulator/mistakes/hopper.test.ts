// Mistakes planted in products on Hopper. Oracle: kernels_test, which must find each.
import { testMistakes } from './suite.js';

await testMistakes(['hopper'], true);
