// Mistakes planted in all kernels but those of products.
import { testMistakes } from './suite.js';

await testMistakes(['hopper', 'mma', 'simt', 'epilogue'], false);
