// The tests of the operations with an instruction set that the processor would not pick by itself.
import { spawnSync } from 'node:child_process';
import * as assert from 'uvu/assert';
import { openDevice } from '../../../src/engine/device.js';
import { packageRoot } from '../../../src/engine/native.js';
import { problemOf, withIsa } from '../../arithmetic/runs.js';
import { onCpu } from '../../support/device.js';
import { suite } from '../../support/harness.js';
import { operationFiles } from '../../support/operations/list.js';

// by the beginning of the CPU's description
const titles = { avx512: /^AVX-512,/, avx2: /^AVX2,/, portable: /^(SSE2|NEON)/ };

export async function testOperations(isa: keyof typeof titles): Promise<void> {
  const test = suite(`operations with ${isa}`);
  test.limit(590_000);
  const problem = onCpu ? await problemOf(withIsa(isa)) : "a GPU does not use the CPU's instruction sets";
  if (problem) test.skip('all', problem);
  else if (titles[isa].test(openDevice('cpu').description)) test.skip('all', 'it is what every test runs with here');
  else {
    test('all pass', () => {
      const gradients = ['attention', 'large', 'order'].map((name) => `gradients/operations/${name}`);
      const names = [...operationFiles, 'accuracy', 'fused', 'nan', ...gradients];
      const files = names.map((name) => `engine/${name}.test`);
      const { status, stdout } = spawnSync(process.execPath, ['test/run.mjs', ...files], {
        cwd: packageRoot,
        encoding: 'utf8',
        env: { ...process.env, SONDE_ISA: isa, TEST_JOBS: '1' },
      });
      assert.is(status, 0, stdout.replace(/^ok .*\n/gm, '')); // whatever is not a file that passed
      assert.match(stdout, /\d\d passed, 0 failed, 0 skipped/);
    });
  }
  test.run();
}
