// A test for each planted mistake (mistakes.mjs): kernels_test has to find it.
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';

interface Mistakes {
  mistakes: Record<string, unknown>;
  find(title: string, folder: string): Promise<string | null>;
}

/** Those whose title begins with one of the words, or with none of them. */
export async function testMistakes(words: string[], begins: boolean): Promise<void> {
  const test = suite(`mistakes in kernels: ${begins ? words.join(', ') : 'others'}`);
  const path = join(packageRoot, 'test', 'cuda-emulator', 'mistakes.mjs');
  const { mistakes, find } = (await import(pathToFileURL(path).href)) as Mistakes;
  const titles = Object.keys(mistakes).filter((title) => words.some((word) => title.startsWith(word)) === begins);
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
