import { suite } from '../harness.js';

suite('no tests').run();
