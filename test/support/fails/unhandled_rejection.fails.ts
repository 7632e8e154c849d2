import { suite } from '../harness.js';

const test = suite('unhandled rejection');
test('forgets to await', () => {
  void Promise.reject(new Error('nobody waited'));
});
test.run();
