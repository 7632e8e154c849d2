// A test for each planted mistake (plant.mjs): kernels_test has to find it.
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../../src/engine/native.js';
import { withFolder } from '../../support/folders.js';
import { suite } from '../../support/harness.js';

interface Mistakes {
  mistakes: Record<string, unknown>;
  find(title: string, folder: string): Promise<string | null>;
}

/** Tests the mistakes whose title begins with one of the prefixes, or with none of them. */
export async function testMistakes(prefixes: string[], begins: boolean): Promise<void> {
  const test = suite(`mistakes in kernels: ${begins ? prefixes.join(', ') : 'others'}`);
  const path = join(packageRoot, 'test', 'cuda-emulator', 'mistakes', 'plant.mjs');
  const { mistakes, find } = (await import(pathToFileURL(path).href)) as Mistakes;
  const titles = Object.keys(mistakes).filter(
    (title) => prefixes.some((prefix) => title.startsWith(prefix)) === begins,
  );
  if (process.platform !== 'linux') test.skip('all', `the emulator does not run on ${process.platform}`);
  else {
    for (const title of titles) {
      test(title, () => withFolder(async (folder) => assert.ok(await find(title, folder), 'nothing was found')), {
        limit: 150_000,
      });
    }
  }
  test.run();
}
