// Every operation with the kernels of portable, where another set is picked.
import { testOperations } from './operations.js';

await testOperations('portable');
