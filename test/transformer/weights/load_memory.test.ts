// Memory of loading: less than 1.3 times the model. Oracle: the system's own count for a process that loads it, without
// what that process had before. `npm run bench:load` measures larger models.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { onCpu } from '../../support/device.js';
import { withFolder } from '../../support/folders.js';
import { suite } from '../../support/harness.js';
import { measureLoading } from '../../support/memory/load_memory.js';

const test = suite('load memory');
test.limit(240_000);
const title = 'a model of 650 MB';

if (process.platform !== 'linux') test.skip(title, 'only Linux reports how much memory a process has had');
else if (!onCpu) test.skip(title, 'it loads for the CPU');
else if (process.env.ASAN_OPTIONS) test.skip(title, 'a sanitizer keeps what was freed');
else {
  test(title, () =>
    withFolder(async (folder) => {
      const results = await measureLoading('gpt2-small', join(folder, 'models'));
      assert.is(results.length, 2);
      for (const { layout, files, peak, before } of results) {
        const ratio = (peak - before) / files;
        assert.ok(ratio < 1.3, `${layout}: ${ratio.toFixed(3)} times the model's ${Math.round(files / 1e6)} MB`);
      }
    }),
  );
}

test.run();
