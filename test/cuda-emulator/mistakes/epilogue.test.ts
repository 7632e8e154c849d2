// Mistakes planted in epilogues of products. Oracle: kernels_test, which must find each.
import { testMistakes } from './suite.js';

await testMistakes(['epilogue'], true);
