import { suite } from '../../harness.js';

const test = suite('never run');
test('would pass', () => {});
