// Every operation with the kernels of avx512, where another set is picked.
import { testOperations } from './operations.js';

await testOperations('avx512');
