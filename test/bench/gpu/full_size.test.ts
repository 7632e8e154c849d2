// full_size.ts on the emulated GPU with small shapes: all is well there, and a wrong product is not.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../../src/engine/native.js';
import { emulator } from '../../cuda-emulator/suite.js';
import { suite } from '../../support/harness.js';

const test = suite('bench/gpu/full_size');
test.limit(290_000);

const run = (args: string[], env: Record<string, string> = {}) =>
  spawnSync(process.execPath, [join(packageRoot, 'build-test', 'bench', 'gpu', 'full_size.js'), ...args], {
    encoding: 'utf8',
    env: { ...process.env, SONDE_CUDA_LIBRARY: emulator, SONDE_DEVICE: 'cuda', TINY: '1', ...env },
  });

if (process.platform !== 'linux') test.skip('all', `the emulator does not run on ${process.platform}`);
else {
  test('a line for each check, and all is well on tensor cores that cut their sums off as those of an H100', () => {
    const { status, stdout, stderr } = run([], { SONDE_EMULATE_TRUNCATION: '1' });
    assert.is(status, 0, stdout + stderr);
    assert.match(
      stdout,
      /^ok {3}linear float32 \[\d+, \d+\] x \[\d+, \d+\] \d+ ms: all from strict .*, error .*differ 0$/m,
    );
    assert.match(stdout, /^ok {3}attention float32 .* ms: NaN 0, error .*differ 0$/m);
    assert.match(stdout, /\n.*emulated.*: 8 checks, 0 failed\n$/);
  });

  // the CPU computes float32 products by a plain chain, and a chain's error is above what is allowed
  test('an error above its bound fails', () => {
    const { status, stdout } = run(['linear float32 [21'], { SONDE_DEVICE: 'cpu', SONDE_ISA: 'portable' });
    assert.is(status, 1, stdout);
    assert.match(stdout, /^FAIL linear float32 \[21, .* ms: .*, error \S+ \(at most 3\.0e-7\), /m);
    assert.match(stdout, /: 1 checks, 1 failed\n$/);
  });

  test('no check at all fails', () => {
    const { status, stdout } = run(['there is no such check']);
    assert.is(status, 1);
    assert.match(stdout, /: 0 checks, 1 failed\n$/);
  });

  test('for the profiler: each hot kernel once, or those with a word', () => {
    const { status, stdout, stderr } = run(['profile']);
    assert.is(status, 0, stderr);
    assert.is(stdout.match(/^ran (linear|attention|sparseEncode) /gm)?.length, 7);
    assert.is(run(['profile', 'attention']).stdout, 'ran attention bfloat16\nran attention float32\n');
  });
}

test.run();
