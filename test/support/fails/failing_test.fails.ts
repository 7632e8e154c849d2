import * as assert from 'uvu/assert';
import { suite } from '../harness.js';

const test = suite('failing test');
test('is wrong', () => assert.is(1, 2));
test.run();
