// Mistakes planted in everything else. Oracle: kernels_test, which must find each.
import { testMistakes } from './suite.js';

await testMistakes(
  [
    ...['hopper', 'mma', 'simt', 'epilogue', 'attention'],
    ...['planes', 'split operand', 'range', 'gelu', 'rows', 'layer norm'],
  ],
  false,
);
