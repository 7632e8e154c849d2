// Oracle: a dump that was never interrupted. The command is killed at seeded random moments, as a machine would lose
// power (but for the disk's cache), and run to its end: the folders are equal, byte for byte.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { openDump } from '../../src/dump/read/reader.js';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';
import { endOf } from '../support/processes.js';
import { random } from '../support/random.js';
import { assertSameFolder, sampleText } from './folders.js';

const test = suite('kill');
test.limit(180_000);
const main = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

const command = (out: string, ...more: string[]): string[] => [
  ...[main, 'dump', '--text', sampleText, '--hook', '1/mlp/post_act', '--autoencoder'],
  ...[
    '*/resid/delta_mlp=ae-resid-delta-mlp',
    '--shard-tokens',
    '512',
    '--context',
    '32',
    '--parquet',
    '--statistics',
    '--out',
    out,
    ...more,
  ],
];

const start = (args: string[]): ChildProcess => spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });

const killedAgainAndAgain = (times: number, ...more: string[]): Promise<void> =>
  withFolder(async (folder) => {
    const [whole, killed] = [join(folder, 'whole'), join(folder, 'killed')];
    const begun = performance.now();
    const { code, errors } = await endOf(start(command(whole, ...more)));
    assert.is(code, 0, errors);
    let milliseconds = performance.now() - begun;
    await mkdir(killed);
    const rng = random(2024);
    for (let kills = 0; kills < times; ) {
      const child = start(command(killed, ...more, ...(kills % 2 ? ['--batch', '3'] : [])));
      const timer = setTimeout(() => child.kill('SIGKILL'), milliseconds * (0.1 + 0.7 * rng.next()));
      const { signal, code, errors } = await endOf(child);
      clearTimeout(timer);
      await assertReadable(killed);
      if (signal === 'SIGKILL') {
        kills++;
        continue;
      }
      // It was faster than the kill: the next one begins anew, and is killed sooner.
      assert.is(code, 0, errors);
      await assertSameFolder(killed, whole);
      await rm(killed, { recursive: true });
      await mkdir(killed);
      milliseconds /= 2;
    }
    const last = await endOf(start(command(killed, ...more)));
    assert.is(last.code, 0, last.errors);
    await assertSameFolder(killed, whole);
  });

test('SIGKILL at any moment costs no byte of the result', () => killedAgainAndAgain(5));

test('nor of one with gradients', () => killedAgainAndAgain(3, '--gradient-of', 'loss', '--limit', '3000'));

// A killed process leaves an incomplete but valid dump: all listed shards are complete.
async function assertReadable(folder: string): Promise<void> {
  if (!(await readdir(folder)).includes('manifest.json')) return;
  await using made = await openDump(folder);
  const problems = await made.verify();
  const unfinished = /^(is an unfinished piece of|is not listed in|is the claim of)/;
  assert.equal(
    problems.filter(({ problem }) => !unfinished.test(problem)),
    [],
  );
}

test('a disk that takes no more is an error that names the file, and the dump can be continued', () =>
  withFolder(async (folder) => {
    const [whole, out] = [join(folder, 'whole'), join(folder, 'out')];
    const few = ['--limit', '3000'];
    const reference = await endOf(start(command(whole, ...few)));
    assert.is(reference.code, 0, reference.errors);
    // A limit on the size of a file stands for the full disk: 100 blocks of 1024 bytes.
    const limited = spawn('bash', ['-c', 'ulimit -f 100; exec "$0" "$@"', process.execPath, ...command(out, ...few)]);
    const { code, errors } = await endOf(limited);
    assert.is(code, 1, errors);
    assert.match(errors, /sonde: dump: cannot write .*shard-00000\.safetensors.*partial: .*run the same command again/);
    assert.equal(await readdir(out), ['manifest.json']);
    const { code: again } = await endOf(start(command(out, ...few)));
    assert.is(again, 0);
    await assertSameFolder(out, whole);
  }));

test.run();
