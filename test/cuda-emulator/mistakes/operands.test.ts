// Mistakes planted in layer norms and in the operands of products. Oracle: kernels_test, which must find each.
import { testMistakes } from './suite.js';

await testMistakes(['planes', 'split operand', 'range', 'gelu', 'rows', 'layer norm'], true);
