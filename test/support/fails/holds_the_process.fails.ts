// The late body keeps a timer: the process must end all the same.
import { suite } from '../harness.js';

const test = suite('holds the process');
test('sleeps', () => new Promise((done) => setTimeout(done, 3_600_000)), { limit: 100 });
test('passes', () => {});
test.run();
