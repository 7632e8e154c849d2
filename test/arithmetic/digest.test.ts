// One arithmetic: the fixed program of this folder has the same digests with each instruction set, any number of threads, and on an
// emulated processor. Oracle: digests.json.
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { onCpu } from '../support/device.js';
import { suite } from '../support/harness.js';
import { camelCase, operations } from '../support/operations/list.js';
import {
  differences,
  instructionSets,
  type Processor,
  type ProgramResult,
  problemOf,
  readRecorded,
  runProgram,
  withIsa,
} from './runs.js';

const test = suite('digest');
test.limit(600_000);

const cure = `
If the arithmetic was to change, raise kArithmetic in native/cpu/backend.cc; then, and where operations have come or gone,
run node build-test/test/arithmetic/record.js. See "Changing the arithmetic" in CONTRIBUTING.md.`;

async function check(processor: Processor, threads: number): Promise<ProgramResult> {
  const result = await runProgram(processor, threads);
  const lines = differences(result, readRecorded());
  assert.is(lines.length, 0, `other bits than in test/arithmetic/digests.json\n${lines.join('\n')}${cure}`);
  return result;
}

if (onCpu) {
  for (const [i, isa] of instructionSets.entries()) {
    const problem = await problemOf(withIsa(isa));
    if (problem) {
      test.skip(isa, problem);
      continue;
    }
    test(isa, async () => {
      const result = await check(withIsa(isa), 1 + 2 * (i % 2));
      const names = operations.map(({ name }) => camelCase(name));
      const left = names.filter((name) => !result.operations.includes(name));
      assert.equal(left, [], 'operations that the program does not use');
    });
  }

  const path = pathToFileURL(join(packageRoot, 'test', 'arithmetic', 'arm64.mjs')).href;
  const { findArm64 }: { findArm64(): Processor & { problem?: string } } = await import(path);
  const { problem, ...arm64 } = findArm64();
  if (problem) test.skip('arm64', problem);
  else test('arm64', () => check(arm64, 2));
}

test.run();
