import { suite } from '../../harness.js';

const test = suite('after.each throws');
test.after.each(async () => {
  throw new Error('planted in after.each');
});
test('would pass', () => {});
test('would pass too', () => {});
test.run();
