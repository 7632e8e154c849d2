import { suite } from '../../harness.js';

const test = suite('test after run');
test('passes', () => {});
test.run();
test('too late', () => {});
