// Mistakes planted where gradients are recorded: that each of the list can still be planted, and that some are found. By
// hand, plant.mjs plants all of them.
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../../../src/engine/native.js';
import { suite } from '../../../support/harness.js';

interface Mistakes {
  mistakes: Record<string, { fails: string }>;
  planted(title: string): string;
  failures(title: string): string[];
}

const test = suite('mistakes in gradients');
const path = join(packageRoot, 'test', 'engine', 'gradients', 'mistakes', 'plant.mjs');
const { mistakes, planted, failures } = (await import(pathToFileURL(path).href)) as Mistakes;

test('each can be planted', () => {
  for (const title of Object.keys(mistakes)) planted(title);
});

for (const title of [
  'gradients: the last one takes the place of the others',
  'kept values: they are forgotten after the first write',
  'storage: what is shared is not counted',
]) {
  test(title, () => {
    const { fails } = mistakes[title] as { fails: string };
    const failed = failures(title);
    assert.ok(
      failed.some((name) => name.includes(fails)),
      failed.join('; ') || 'nothing failed',
    );
  });
}

test.run();
