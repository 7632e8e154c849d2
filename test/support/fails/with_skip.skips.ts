import { suite } from '../harness.js';

const test = suite('with a skip');
test('passes', () => {});
test.skip('needs a moon', 'there is none');
test.run();
