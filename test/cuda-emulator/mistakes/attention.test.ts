// Mistakes planted in attention. Oracle: kernels_test, which must find each.
import { testMistakes } from './suite.js';

await testMistakes(['attention'], true);
