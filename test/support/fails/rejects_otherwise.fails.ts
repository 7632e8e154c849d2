import { rejects, suite } from '../harness.js';

const test = suite('rejects, but otherwise');
test('other class', () => rejects(Promise.reject(new TypeError('the words')), RangeError, /the words/));
test('other words', () => rejects(Promise.reject(new RangeError('not those')), RangeError, /the words/));
test('no error', () => rejects(Promise.reject('the words'), /the words/));
test.run();
