// One arithmetic: the fixed program of this folder gives the same bits with each instruction set and with any number of
// threads. Oracle: digests.json, which changes with the version of the arithmetic.
import { onCpu } from '../support/device.js';
import { suite } from '../support/harness.js';
import { checkDigests } from './check.js';
import { instructionSets, problemOf, withIsa } from './runs.js';

const test = suite('digest');
test.limit(290_000);

if (!onCpu) test.skip('instruction sets', 'the tests run on a GPU');
else {
  let first = true;
  for (const isa of instructionSets) {
    const processor = withIsa(isa);
    const problem = await problemOf(processor);
    if (problem) {
      test.skip(isa, problem);
      continue;
    }
    for (const count of first ? [1, 3] : [2]) test(`${isa}, ${count} threads`, () => checkDigests(processor, count));
    first = false;
  }
}

test.run();
