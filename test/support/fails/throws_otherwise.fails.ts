import { suite, throws } from '../harness.js';

const raise = (error: unknown) => () => {
  throw error;
};

const test = suite('throws, but otherwise');
test('nothing', () => throws(() => 7, RangeError, /the words/));
test('a promise', () => throws(() => Promise.reject(new RangeError('the words')), RangeError, /the words/));
test('other class', () => throws(raise(new ReferenceError('the words')), RangeError, /the words/));
test('other words', () => throws(raise(new RangeError('not those')), RangeError, /the words/));
test.run();
