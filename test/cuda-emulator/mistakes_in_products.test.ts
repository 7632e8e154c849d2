import { testMistakes } from './mistakes.js';

await testMistakes(['hopper', 'mma', 'simt', 'epilogue'], true);
