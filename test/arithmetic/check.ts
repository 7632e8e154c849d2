// The check of both digest tests: what the fixed program gives against digests.json.
import * as assert from 'uvu/assert';
import { camelCase, operations } from '../support/operations/list.js';
import { differences, type Processor, readRecorded, runProgram } from './runs.js';

const cure = 'See "Changing the arithmetic" in CONTRIBUTING.md.';

/** Fails where a digest differs from that of the repository, and where the program leaves an operation out. */
export async function checkDigests(processor: Processor, threads: number): Promise<void> {
  const result = await runProgram(processor, threads);
  // a filter changes no bit of a result, and its own memory is none
  const demanded = operations.map(({ name }) => camelCase(name)).filter((name) => name !== 'packFilter');
  const left = demanded.filter((name) => !result.operations.includes(name));
  assert.equal(left, [], 'operations that the program does not use');
  const lines = differences(result, readRecorded());
  assert.is(lines.length, 0, `other bits than in test/arithmetic/digests.json\n${lines.join('\n')}\n${cure}`);
}
