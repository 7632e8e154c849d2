// Runs other test files of the suite on the emulated GPU: the same tests, the same bounds.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { suite } from '../support/harness.js';

export const emulator = join(packageRoot, 'build-emulator', 'plain', 'libsonde_cuda.so');

/** The operations that rows.test.ts tests, so that no test file takes too long. */
export const operationsOnRows: readonly string[] = [
  ...[
    'reduce',
    'argmax',
    'cumsum',
    'top_k',
    'softmax',
    'cross_entropy',
    'layer_norm',
    'add_layer_norm',
    'root_mean_square',
    'embedding',
  ],
];

/** Those that indexing.test.ts tests. */
export const operationsOnIndices: readonly string[] = [
  ...['gather', 'index_select', 'index_copy', 'scatter_add', 'sort', 'triangle', 'choose_index'],
];

export function testOnEmulator(name: string, files: string[], env: Record<string, string> = {}): void {
  const test = suite(`${name} on the emulated GPU`);
  if (process.platform !== 'linux') test.skip('all', `the emulator does not run on ${process.platform}`);
  else {
    test(
      files.join(', '),
      async () => {
        const child = spawn(process.execPath, ['test/run.mjs', ...files], {
          cwd: packageRoot,
          stdio: ['ignore', 'pipe', 'inherit'],
          env: {
            ...process.env,
            ...{ SONDE_CUDA_LIBRARY: emulator, SONDE_DEVICE: 'cuda', TEST_JOBS: '1', TEST_LIMIT_FACTOR: '5' },
            ...env,
          },
        });
        let output = '';
        child.stdout.setEncoding('utf8').on('data', (text: string) => {
          output += text;
        });
        const [code] = await once(child, 'close');
        assert.is(code, 0, output);
        assert.match(output, /[1-9]\d* passed, 0 failed, 0 skipped/);
        for (const file of files) assert.ok(output.includes(` ${file}`), `${file} names no test file`);
      },
      { limit: 290_000 },
    );
  }
  test.run();
}
