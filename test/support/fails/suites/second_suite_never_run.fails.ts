import { suite } from '../../harness.js';

const first = suite('first');
const second = suite('second');
first('passes', () => {});
second('would pass', () => {});
first.run();
