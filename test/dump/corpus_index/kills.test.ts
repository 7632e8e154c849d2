// Commands that make an index, a dump and its parts in one folder each are killed at seeded random moments. Oracle: folders
// of commands that were never disturbed, byte for byte.
import { spawn } from 'node:child_process';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { main } from '../../cli/command.js';
import { withFolder } from '../../support/folders.js';
import { suite } from '../../support/harness.js';
import { endOf } from '../../support/processes.js';
import { random } from '../../support/random.js';
import { assertSameFolder, sampleText } from '../folders.js';

const test = suite('kills while an index is made');
test.limit(240_000);
const times = Number(process.env.TEST_KILLS ?? 10);

test('index, dump and parts of one corpus, killed at any moment', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const stories = (await readFile(sampleText, 'utf8')).slice(0, 24_000);
    await writeFile(at('corpus.txt'), stories);
    const cut = ['--text', at('corpus.txt'), '--context', '16', '--shard-tokens', '128'];
    const dumped = ['dump', ...cut, '--hook', 'resid/post_emb'];
    const ways: Record<string, string[]> = {
      dump: dumped,
      part: [...dumped, '--shard', '1/3'],
      index: ['index', ...cut],
    };
    const start = (way: string, out: string) =>
      spawn(process.execPath, [main, ...(ways[way] as string[]), '--out', at(out)], {
        stdio: ['ignore', 'ignore', 'pipe'],
      });
    const taken: Record<string, number> = {};
    for (const way of Object.keys(ways)) {
      const begun = performance.now();
      const { code, errors } = await endOf(start(way, `whole-${way}`));
      assert.is(code, 0, errors);
      taken[way] = performance.now() - begun;
    }
    const rng = random(25);
    const finish = async (way: string) => {
      const { code, errors } = await endOf(start(way, way));
      assert.is(code, 0, `${way}: ${errors}`);
      await assertSameFolder(at(way), at(`whole-${way}`));
      await rm(at(way), { recursive: true });
    };
    for (let kills = 0; kills < times; kills++) {
      const way = Object.keys(ways)[kills % 3] as string;
      await mkdir(at(way), { recursive: true });
      // An index that was killed in the folder is what a dump and a part may find there.
      const killed = way !== 'index' && rng.next() < 0.3 ? 'index' : way;
      const child = start(killed, way);
      const timer = setTimeout(() => child.kill('SIGKILL'), (taken[killed] as number) * (0.3 + 0.75 * rng.next()));
      await endOf(child);
      clearTimeout(timer);
      if (rng.next() < 0.4) await finish(way);
    }
    for (const way of Object.keys(ways)) await finish(way);
  }));

test.run();
