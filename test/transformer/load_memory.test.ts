// Memory of loading: no more than the model, a large tensor on its way (in host memory and on the device), and what is
// read ahead. Oracle: the system's own count for a process that loads it. `npm run bench:load` measures larger models.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';
import { measureLoading } from '../support/load_memory.js';

const test = suite('load memory');
test.limit(240_000);
const title = 'a model of 650 MB';

if (process.platform !== 'linux') test.skip(title, 'only Linux tells how much memory a process has had');
else if (process.env.ASAN_OPTIONS) test.skip(title, 'a sanitizer keeps what was freed');
else {
  test(title, () =>
    withFolder(async (folder) => {
      const results = await measureLoading('gpt2-small', join(folder, 'models'));
      assert.is(results.length, 2);
      const largest = 4 * 50_257 * 768;
      for (const { layout, files, peak, before } of results) {
        const extra = peak - before - files;
        assert.ok(
          extra < 2 * largest + 256e6,
          `${layout}: ${Math.round(extra / 1e6)} MB beside the model's ${files / 1e6}`,
        );
      }
    }),
  );
}

test.run();
