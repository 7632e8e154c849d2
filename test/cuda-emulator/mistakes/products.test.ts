import { testMistakes } from './suite.js';

await testMistakes(['hopper', 'mma', 'simt', 'epilogue'], true);
