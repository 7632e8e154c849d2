// Oracle: filter_test.cc, which compares the bounds of sparse_encode's filter with float32 sums, and bounds that are planted
// in it a little too small: it has to find each.
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';

const { find, mistakes } = (await import(join(packageRoot, 'test', 'native', 'filter_mistakes.mjs'))) as {
  find(title: string | undefined, folder: string): Promise<string | null>;
  mistakes: Record<string, unknown>;
};

const test = suite('bounds of the filter');
test.limit(200_000);

test('no bound lies on the wrong side of its sum', async () => {
  await withFolder(async (folder) => assert.is(await find(undefined, join(folder, 'as-it-is')), null));
});

test('bounds that are a little too small are found', async () => {
  const titles = Object.keys(mistakes);
  const missed: string[] = [];
  await withFolder(async (folder) => {
    const next = async (): Promise<void> => {
      for (let title = titles.pop(); title !== undefined; title = titles.pop()) {
        const said = await find(title, join(folder, String(titles.length)));
        if (!said || !/^WRONG/.test(said)) missed.push(`${title}: ${said}`);
      }
    };
    await Promise.all(Array.from({ length: availableParallelism() }, next));
  });
  assert.equal(missed, []);
});

test.run();
