import { suite } from '../harness.js';

const test = suite('crash');
test('aborts', () => process.abort());
test.run();
