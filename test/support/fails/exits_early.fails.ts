import { suite } from '../harness.js';

const test = suite('exits early');
test('leaves with 0', () => process.exit(0));
test.run();
