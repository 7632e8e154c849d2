// One arithmetic: the fixed program of this folder gives the same bits on arm64, which qemu-user emulates where it is
// installed. Oracle: digests.json.
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { packageRoot } from '../../src/engine/native.js';
import { onCpu } from '../support/device.js';
import { suite } from '../support/harness.js';
import { checkDigests } from './check.js';
import type { Processor } from './runs.js';

const test = suite('arm64');
test.limit(590_000);

if (!onCpu) test.skip('arm64', 'the tests run on a GPU');
else {
  // test/build.mjs builds what it needs where the tools are
  const path = pathToFileURL(join(packageRoot, 'test', 'arithmetic', 'arm64.mjs')).href;
  const { findArm64 }: { findArm64(): Processor & { problem?: string } } = await import(path);
  const { problem, ...arm64 } = findArm64();
  if (problem) test.skip('arm64', problem);
  else test('the same bits', () => checkDigests(arm64, 2));
}

test.run();
