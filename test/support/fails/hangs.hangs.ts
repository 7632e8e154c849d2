// A time limit of the harness cannot stop this one; the runner's can.
import { suite } from '../harness.js';

const test = suite('hangs');
test('never returns', () => {
  for (;;);
});
test.run();
