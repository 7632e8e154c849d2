import { rejects, suite } from '../harness.js';

const test = suite('rejects, but the promise resolves');
test('resolves', () => rejects(Promise.resolve(7), /words/));
test.run();
