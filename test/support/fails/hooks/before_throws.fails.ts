import { suite } from '../../harness.js';

const test = suite('before throws');
test.before(() => {
  throw new Error('planted in before');
});
test('would pass', () => {});
test('would pass too', () => {});
test.run();
