// A time limit of the harness cannot stop this one; the runner's can.
import { writeFileSync } from 'node:fs';
import { suite } from '../harness.js';

const test = suite('hangs');
test('never returns', () => {
  if (process.env.BEGUN) writeFileSync(process.env.BEGUN, ''); // tells who waits for it
  for (;;);
});
test.run();
