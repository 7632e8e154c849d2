import { suite } from '../harness.js';

const test = suite('throws no error');
test('throws undefined', () => Promise.reject(undefined));
test.run();
