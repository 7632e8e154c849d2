// A dump on the CPU and on a GPU, which is emulated. Oracle: the rule, written out by hand, and a folder that stays as it
// was, byte for byte.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { run } from '../cli/command.js';
import { contentsOf, sampleText } from '../dump/folders.js';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';
import { emulator } from './suite.js';

const test = suite('a dump on mixed devices');
test.limit(280_000);
const env = { SONDE_CUDA_LIBRARY: emulator, SONDE_DEVICE: '' };

if (process.platform !== 'linux') test.skip('all', `the emulator does not run on ${process.platform}`);
else {
  test('refused before anything is computed, unless any arithmetic is allowed', () =>
    withFolder(async (folder) => {
      const command = (out: string, device: string, ...more: string[]) => [
        ...['dump', '--text', sampleText, '--hook', 'resid/post_emb', '--context', '8', '--shard-tokens', '16'],
        ...['--limit', '48', '--device', device, '--out', join(folder, out), ...more],
      ];
      const manifestOf = async (out: string) => JSON.parse(await readFile(join(folder, out, 'manifest.json'), 'utf8'));
      const both = await run(command('both', 'cpu,cuda:0'), { env });
      assert.is(both.code, 1);
      assert.match(
        both.stderr,
        /sonde: dump: the devices of the workers compute with the arithmetics ".*cpu.*" and ".*cuda.*", whose values differ/,
      );
      assert.equal(await readdir(folder), []);
      const allowed = await run(command('both', 'cpu,cuda:0', '--any-arithmetic'), { env });
      assert.is(allowed.code, 0, allowed.stderr);
      assert.is((await manifestOf('both')).arithmetic.length, 2);
      // A part on the CPU, and the other one on the GPU.
      assert.is((await run(command('parts', 'cpu', '--shard', '0/2'), { env })).code, 0);
      const before = await contentsOf(join(folder, 'parts'));
      const refused = await run(command('parts', 'cuda', '--shard', '1/2'), { env });
      assert.is(refused.code, 1);
      assert.match(refused.stderr, /parts holds a dump that was begun with the arithmetic ".*cpu.*", and .*".*cuda.*"/);
      assert.equal(await contentsOf(join(folder, 'parts')), before);
    }));
}

test.run();
