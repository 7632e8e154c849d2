// One arithmetic: the fixed program of this folder gives the same bits with each instruction set, with any number of
// threads, and on arm64. Oracle: digests.json, which changes with the version of the arithmetic.
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { onCpu } from '../support/device.js';
import { suite } from '../support/harness.js';
import { camelCase, operations } from '../support/operations/list.js';
import { differences, instructionSets, type Processor, problemOf, readRecorded, runProgram, withIsa } from './runs.js';

const test = suite('digest');
test.limit(500_000);

const cure = 'See "Changing the arithmetic" in CONTRIBUTING.md.';

async function check(processor: Processor, threads: number): Promise<void> {
  const result = await runProgram(processor, threads);
  const left = operations.map(({ name }) => camelCase(name)).filter((name) => !result.operations.includes(name));
  assert.equal(left, [], 'operations that the program does not use');
  const lines = differences(result, readRecorded());
  assert.is(lines.length, 0, `other bits than in test/arithmetic/digests.json\n${lines.join('\n')}\n${cure}`);
}

async function testOn(name: string, processor: Processor, threads: readonly number[]): Promise<void> {
  const problem = await problemOf(processor);
  if (problem) return test.skip(name, problem);
  for (const count of threads) test(`${name}, ${count} threads`, () => check(processor, count));
}

if (onCpu) {
  for (const [i, isa] of instructionSets.entries()) await testOn(isa, withIsa(isa), i === 0 ? [1, 3] : [2]);
  // test/build.mjs builds what it needs where the tools are
  const path = pathToFileURL(join(packageRoot, 'test', 'arithmetic', 'arm64.mjs')).href;
  const { findArm64 }: { findArm64(): Processor & { problem?: string } } = await import(path);
  const { problem, ...arm64 } = findArm64();
  if (problem) test.skip('arm64', problem);
  else await testOn('arm64', arm64, [2]);
} else test.skip('instruction sets', 'the tests run on a GPU');

test.run();
