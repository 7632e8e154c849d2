// Processes that make one index together, and are killed or suspended at seeded random moments. Oracle: the index of one
// pass that was never disturbed, byte for byte, in a folder with nothing else.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { sliceFile } from '../../../src/dump/format/manifest.js';
import { withFolder } from '../../support/folders.js';
import { suite } from '../../support/harness.js';
import { type Ended, endOf } from '../../support/processes.js';
import { random } from '../../support/random.js';
import { sampleText } from '../folders.js';
import { indexIn, onePass, program } from './making.js';

const test = suite('processes that make slices');
test.limit(240_000);
const times = Number(process.env.TEST_KILLS ?? 6);

interface Started {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
}

/** A text that is read in some seconds, and what starts a process that makes its index in a folder. */
const withText = (body: (out: string, start: () => Started, expected: string) => Promise<void>): Promise<void> =>
  withFolder(async (folder) => {
    const [corpus, out] = [join(folder, 'a.txt'), join(folder, 'out')];
    const text = await readFile(sampleText, 'utf8');
    await writeFile(corpus, text.repeat(Math.ceil(1e6 / text.length)));
    const cut = { context: 16, rowsPerShard: 20, sectionBytes: 2 ** 14, sliceBytes: 2 ** 16 };
    const making = { files: [corpus], ...cut };
    const start = (): Started => {
      const child = spawn(process.execPath, [program, out, JSON.stringify(making)], {
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      return { child, ended: endOf(child) };
    };
    await mkdir(out);
    await body(out, start, await onePass(join(folder, 'whole'), making));
  });

async function succeeds({ ended }: Started): Promise<void> {
  const { code, errors } = await ended;
  assert.is(code, 0, errors);
}

async function isWhole(out: string, expected: string): Promise<void> {
  assert.equal(await readdir(out), ['index.jsonl']);
  assert.ok((await indexIn(out)) === expected);
}

/** Waits for a file, as long as a process is at work. */
async function seen(out: string, file: string, { child }: Started): Promise<void> {
  while (!(await readdir(out)).includes(file)) {
    assert.is(child.exitCode, null, `the process ended without ${file}`);
    await sleep(10);
  }
}

test('killed at any moment', () =>
  withText(async (out, start, expected) => {
    const rng = random(33);
    const begun = performance.now();
    await succeeds(start());
    await isWhole(out, expected);
    const taken = performance.now() - begun;
    await rm(out, { recursive: true });
    await mkdir(out);
    for (let kills = 0; kills < times; kills++) {
      const makers = [start(), start()];
      const survives = rng.next() < 0.4;
      await sleep(taken * (0.3 + 0.7 * rng.next()));
      makers[0]?.child.kill('SIGKILL');
      await makers[0]?.ended;
      if (survives) {
        await succeeds(makers[1] as Started); // it also makes what the other one had begun
        assert.ok((await indexIn(out)) === expected);
        await succeeds(start()); // killed at its very end, the other one has left its claim on the index
        await isWhole(out, expected);
        await rm(out, { recursive: true });
        await mkdir(out);
      } else {
        makers[1]?.child.kill('SIGKILL');
        await makers[1]?.ended;
      }
    }
    await Promise.all([start(), start()].map(succeeds));
    await isWhole(out, expected);
  }));

test('suspended with a slice, and awake when the index is there', () =>
  withText(async (out, start, expected) => {
    const first = start();
    await seen(out, sliceFile(0, 'claim'), first);
    first.child.kill('SIGSTOP');
    await succeeds(start()); // the lease of a process that is suspended ends after some seconds
    assert.ok((await indexIn(out)) === expected);
    first.child.kill('SIGCONT');
    await succeeds(first);
    await isWhole(out, expected);
  }));

test.run();
