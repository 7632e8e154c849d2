import { suite } from '../harness.js';

const test = suite('never settles');
test.limit(100);
test('waits for nothing', () => new Promise(() => {}));
test.run();
