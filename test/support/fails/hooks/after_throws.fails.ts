import { suite } from '../../harness.js';

const test = suite('after throws');
test.after(() => {
  throw new Error('planted in after');
});
test('passes', () => {});
test.run();
