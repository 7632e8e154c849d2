import { suite } from '../../harness.js';

const test = suite('before.each throws');
test.before.each(async () => {
  throw new Error('planted in before.each');
});
test('would pass', () => {});
test.run();
