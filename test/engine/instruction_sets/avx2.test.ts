// Every operation with the kernels of avx2, where another set is picked.
import { testOperations } from './operations.js';

await testOperations('avx2');
