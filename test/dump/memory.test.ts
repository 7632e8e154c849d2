// Memory does not grow with the corpus. Oracle: the system's own count for two processes that dump corpora of two
// sizes. `npm run bench:dump-memory` does the same with a larger model.
import * as assert from 'uvu/assert';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';
import { measureDump } from '../support/memory/dump_memory.js';

const test = suite('dump memory');
test.limit(540_000); // the test takes two minutes on an idle machine
const title = 'a dump of 300,000 tokens takes what one of 30,000 takes';

if (process.platform !== 'linux') test.skip(title, "only Linux reports the peak of a process's memory");
else if (process.env.ASAN_OPTIONS) test.skip(title, 'a sanitizer keeps what was freed');
else {
  test(title, () =>
    withFolder(async (folder) => {
      const what = { model: 'random:gpt2-small', layer: 0, latents: 1024, shardTokens: 16_384, folder, collect: true };
      const [small, large] = [30_000, 300_000].map((tokens) => measureDump({ ...what, tokens }).peak) as [
        number,
        number,
      ];
      const ratio = large / small;
      assert.ok(ratio < 1.05, `${ratio.toFixed(3)} times the ${Math.round(small / 1e6)} MB`);
    }),
  );
}

test.run();
