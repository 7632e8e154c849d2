// Oracle: an undisturbed dump. Disks fill up or become read-only, files vanish, lines are broken. The error names the
// cause and the location, finished shards stay valid, and the same command continues when the cause is gone.
import { spawn } from 'node:child_process';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { openDump } from '../../src/dump/read/reader.js';
import { dump } from '../../src/dump/run.js';
import type { DumpOptions } from '../../src/dump/shards/options.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite } from '../support/harness.js';
import { canMount } from '../support/machine.js';
import { assertSameFolder, sampleText } from './folders.js';

const test = suite('faults');
test.limit(120_000);
const main = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));
const cpu = { device: 'cpu', threads: 1 } as const;
const ways: [string, Partial<DumpOptions>][] = [
  ['one process', {}],
  ['two workers', { workers: [cpu, cpu] }],
];

const request = (corpus: string[], out: string, changes: Partial<DumpOptions>): DumpOptions => ({
  ...{ model: 'demo', corpus, out, context: 32, shardTokens: 512 },
  ...{ locations: ['1/mlp/post_act', '1/resid/delta_mlp -> ae-resid-delta-mlp'], ...changes },
});

async function assertBegun(out: string): Promise<void> {
  await using made = await openDump(out);
  assert.is(made.manifest.complete, false);
  assert.ok(made.shards.length >= 2);
  assert.equal(await made.verify(), []);
}

for (const [way, changes] of ways) {
  test(`${way}: a file of the corpus vanishes`, () =>
    withFolder(async (folder) => {
      const at = (name: string) => join(folder, name);
      const text = await readFile(sampleText);
      await writeFile(at('a.txt'), text.subarray(0, 40_000));
      await writeFile(at('b.txt'), text.subarray(40_000, 50_000));
      const corpus = [at('a.txt'), at('b.txt')];
      let gone: Promise<void> = Promise.resolve();
      let begun = false;
      const onProgress = () => {
        if (!begun) gone = rename(at('b.txt'), at('aside'));
        begun = true;
      };
      await rejects(
        dump(request(corpus, at('out'), { ...changes, onProgress })),
        /cannot read .*b\.txt.*ENOENT: no such file/,
      );
      await gone;
      await assertBegun(at('out'));
      await rename(at('aside'), at('b.txt'));
      await dump(request(corpus, at('out'), changes));
      await dump(request(corpus, at('whole'), {}));
      await assertSameFolder(at('out'), at('whole'));
    }));

  test(`${way}: a line of a .jsonl is broken`, () =>
    withFolder(async (folder) => {
      const at = (name: string) => join(folder, name);
      const line = (i: number) =>
        JSON.stringify({ text: `It was a windy Monday, number ${i}. The wind moved the trees.` });
      const lines = Array.from({ length: 600 }, (_, i) => line(i));
      const broken = lines.with(431, (lines[431] as string).replace('"}', '" '));
      await writeFile(at('a.jsonl'), broken.join('\n'));
      await rejects(dump(request([at('a.jsonl')], at('out'), changes)), /a\.jsonl, line 432: is not valid JSON/);
      await assertBegun(at('out'));
      await writeFile(at('a.jsonl'), lines.join('\n'));
      await dump(request([at('a.jsonl')], at('out'), changes));
      await dump(request([at('a.jsonl')], at('whole'), {}));
      await assertSameFolder(at('out'), at('whole'));
    }));
}

/** Runs a script in which `dump` is the command with the folder `disk`, where file systems can be mounted. */
function onDisk(folder: string, script: string): Promise<string> {
  const args = `--text '${sampleText}' --hook 1/mlp/post_act --context 32 --shard-tokens 2048 --out disk/out`;
  const head = `cd '${folder}'; dump() { '${process.execPath}' '${main}' dump ${args} "$@" 2>&1 | grep -v tokens/s; }
    verify() { '${process.execPath}' '${main}' verify disk/out; }`;
  const running = spawn('unshare', ['-rm', 'bash', '-c', `${head}\n${script}`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  running.stdout.on('data', (text) => {
    output += text;
  });
  return new Promise((resolve) => running.on('close', () => resolve(output)));
}

const disks = 'a disk that is full, and one that becomes read-only';
if (!canMount()) test.skip(disks, 'a small file system cannot be mounted here');
else {
  for (const [way, more] of [
    ['one process', ''],
    ['two workers', '--workers 2'],
  ] as const) {
    test(`${way}: ${disks}`, () =>
      withFolder(async (folder) => {
        await mkdir(join(folder, 'disk'));
        await dump({
          ...{ model: 'demo', corpus: sampleText, locations: '1/mlp/post_act', context: 32, shardTokens: 2048 },
          out: join(folder, 'whole'),
        });
        const output = await onDisk(
          folder,
          `mount -t tmpfs -o size=4m none disk
          echo "full:"; dump ${more}; verify
          mount -o remount,size=64m,ro disk
          echo "read-only:"; dump ${more}; verify
          mount -o remount,rw disk
          echo "good:"; dump ${more}; cp -r disk/out out`,
        );
        const [full = '', readOnly = '', good = ''] = output.split(/^full:|^read-only:|^good:/m).slice(1);
        const advice = /Finished shards are whole: run the same command again to go on/;
        assert.match(full, /sonde: dump: cannot write disk\/out\/\S+: no space is left on the disk/);
        assert.match(full, advice);
        assert.match(full, /out: [2-9] shards, .*: every file is as the manifest says\nThe dump is not complete/);
        assert.match(readOnly, /sonde: dump: cannot write disk\/out\S*: the disk can only be read/);
        assert.match(readOnly, advice);
        assert.match(readOnly, /out: [2-9] shards, .*: every file is as the manifest says\nThe dump is not complete/);
        assert.match(good, /^\ndisk\/out: 806 rows/);
        await assertSameFolder(join(folder, 'out'), join(folder, 'whole'));
      }));
  }
}

const inodes = 'a disk that takes no more files: a shard that cannot be recorded is made again';
if (!canMount()) test.skip(inodes, 'a small file system cannot be mounted here');
else {
  test(inodes, () =>
    withFolder(async (folder) => {
      await mkdir(join(folder, 'disk'));
      await dump({
        ...{ model: 'demo', corpus: sampleText, locations: '1/mlp/post_act', context: 32, shardTokens: 2048 },
        ...{ limit: 2000, out: join(folder, 'whole') },
      });
      // A folder in a folder, the lease, the manifest and a shard; none is left for the journal.
      const output = await onDisk(
        folder,
        `mount -t tmpfs -o nr_inodes=5 none disk
        echo "full:"; dump --limit 2000; ls disk/out; verify
        mount -o remount,nr_inodes=100 disk
        echo "good:"; dump --limit 2000; cp -r disk/out out`,
      );
      const [full = '', good = ''] = output.split(/^full:|^good:/m).slice(1);
      assert.match(full, /sonde: dump: cannot write disk\/out\/journal\.jsonl: no space is left on the disk/);
      assert.match(full, /Finished shards are whole: run the same command again to go on/);
      assert.match(full, /^manifest\.json\nshard-00000\.safetensors$/m);
      assert.match(good, /^\ndisk\/out: 63 rows/);
      await assertSameFolder(join(folder, 'out'), join(folder, 'whole'));
    }),
  );
}

test.run();
