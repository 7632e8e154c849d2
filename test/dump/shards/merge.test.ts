// Oracle: the dump of one process.
import { cp, link, mkdir, readdir, readFile, rename, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { openDump } from '../../../src/dump/read/reader.js';
import { dump } from '../../../src/dump/run.js';
import { mergeDumps } from '../../../src/dump/shards/merge.js';
import type { DumpOptions } from '../../../src/dump/shards/options.js';
import { DiskStore } from '../../../src/files/store/disk_store.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { run } from '../../cli/command.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { measureFolder, plantedCorpus, plantParts } from '../../support/memory/merge_memory.js';
import { assertSameFolder, contentsOf, sampleText } from '../folders.js';

const test = suite('merge');
test.limit(180_000);
const model = await Transformer.load('demo');
const count = 3;

const make = (out: string, changes: Partial<DumpOptions> = {}) =>
  dump({
    ...{ model, corpus: sampleText, limit: 900, context: 32, shardTokens: 128, out },
    ...{ locations: ['1/mlp/post_act', '1/resid/delta_mlp -> ae-resid-delta-mlp'], ...changes },
  });

const parts = Array.from({ length: count }, (_, index) => index);
const shard = (index: number) => ({ shard: { index, count } });

/** Makes the dump of one process, its parts in one folder, and its parts in a folder each. */
const withParts = (body: (at: (name: string) => string) => Promise<void>): Promise<void> =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    await make(at('whole'));
    for (const index of parts) {
      await make(at('together'), shard(index));
      await make(at(`part-${index}`), shard(index));
    }
    await body(at);
  });

const apart = (at: (name: string) => string): string[] => parts.map((index) => at(`part-${index}`));

test('parts of one folder become the dump of one process, again and again', () =>
  withParts(async (at) => {
    const shards = (await readdir(at('whole'))).filter((name) => name.startsWith('shard-')).length;
    assert.ok(shards > 2 * count);
    const result = await mergeDumps(at('together'));
    assert.equal(result, { out: at('together'), rows: 29, tokens: 900, shards, linked: 0, nonFinite: {} });
    await assertSameFolder(at('together'), at('whole'));
    assert.equal(await mergeDumps(at('together')), result);
    assert.is((await make(at('together'))).written, 0);
    await assertSameFolder(at('together'), at('whole'));
  }));

test('parts of several folders get a second name; the folders stay', () =>
  withParts(async (at) => {
    const before = await contentsOf(at('part-1'));
    const result = await mergeDumps(at('out'), [...apart(at), at('part-0'), at('out')]);
    assert.is(result.linked, result.shards);
    await assertSameFolder(at('out'), at('whole'));
    assert.equal(await contentsOf(at('part-1')), before);
    const name = 'shard-00001.safetensors';
    assert.is((await stat(join(at('out'), name))).ino, (await stat(join(at('part-1'), name))).ino);
    assert.is((await mergeDumps(at('out'), apart(at))).linked, 0);
    await using made = await openDump(at('out'));
    assert.equal(await made.verify(), []);
    // The result may be written to the folder of one of the parts.
    await mergeDumps(at('part-0'), apart(at).slice(1));
    await assertSameFolder(at('part-0'), at('whole'));
  }));

test('an index in the folder of a merge: whole, torn, or of something else', () =>
  withParts(async (at) => {
    const index = await readFile(at('whole/index.jsonl'), 'utf8');
    await mkdir(at('out'));
    await writeFile(at('out/index.jsonl'), index.slice(0, index.length / 2));
    await mergeDumps(at('out'), apart(at));
    await assertSameFolder(at('out'), at('whole'));
    const others: [string, RegExp][] = [
      [
        index.replace('"context":32', '"context":16'),
        /index\.jsonl is the index of a dump with context 16, but 32 was/,
      ],
      ['{"somebody": "else"}', /index\.jsonl is no index of a corpus\. Remove it/],
    ];
    for (const [text, named] of others) {
      await writeFile(at('together/index.jsonl'), text);
      const before = await contentsOf(at('together'));
      await rejects(mergeDumps(at('together')), Error, new RegExp(`^merge: (?!dump).*${named.source}`));
      assert.equal(await contentsOf(at('together')), before);
    }
    await rm(at('together/index.jsonl'));
    await mergeDumps(at('together'), [at('part-1')]).catch(() => {}); // part 1 is there twice
    await mergeDumps(at('together'));
    assert.ok(!(await readdir(at('together'))).includes('index.jsonl'));
  }));

test('a merge that was interrupted is finished by the same call', () =>
  withParts(async (at) => {
    // The first call is interrupted after some links.
    await mkdir(at('out'));
    for (const name of ['shard-00000.safetensors', 'shard-00003.safetensors']) {
      await link(join(at('part-0'), name), join(at('out'), name));
    }
    const shards = (await readdir(at('whole'))).filter((name) => name.startsWith('shard-')).length;
    assert.is((await mergeDumps(at('out'), apart(at))).linked, shards - 2);
    await assertSameFolder(at('out'), at('whole'));
    // It is interrupted between writing the new manifest and removing those of the parts.
    await cp(join(at('whole'), 'manifest.json'), join(at('together'), 'manifest.json'));
    await rm(join(at('together'), 'manifest-1-of-3.json'));
    {
      await using made = await openDump(at('together'));
      assert.is(made.tokenCount, 900);
      assert.equal(await made.verify(), []);
    }
    await mergeDumps(at('together'));
    await assertSameFolder(at('together'), at('whole'));
  }));

test('parts that make no whole are refused, and nothing is changed', () =>
  withParts(async (at) => {
    const refused = async (from: string[], pattern: RegExp) => {
      await rejects(mergeDumps(at('out'), from), pattern);
      assert.not((await readdir(at('.'))).includes('out'));
    };
    await refused([], /there is no part of a dump in .*out/);
    await refused([at('nowhere')], /nowhere: there is no such folder/);
    await refused([at('part-2')], /of 3 parts, 2 are missing: 0, 1/);
    await cp(at('part-1'), at('copy'), { recursive: true });
    await refused([...apart(at), at('copy')], /part 1 of 3 is in .*part-1 and in .*copy/);
    await rejects(mergeDumps(''), TypeError, /out must be the path/);

    await make(at('other'), { ...shard(1), dtype: 'float32' });
    const [zero, one, two] = apart(at) as [string, string, string];
    await refused([zero, at('other'), two], /not of one dump: .*part-0 has dtype float16, and .*other has float32/);
    await make(at('two'), { shard: { index: 0, count: 2 } });
    await refused([zero, at('two')], /has parts: 3, and .*two has 2/);

    const manifest = join(one, 'manifest-1-of-3.json');
    const good = await readFile(manifest, 'utf8');
    const change = async (
      to: (manifest: { complete: boolean; shards: { rows: number; tokens: number }[] }) => void,
    ) => {
      const changed = JSON.parse(good);
      to(changed);
      await writeFile(manifest, JSON.stringify(changed));
    };
    await change((m) => {
      m.complete = false;
    });
    await refused([zero, one, two], /part 1 of 3 in .*part-1 is not complete: its command goes on/);
    await change((m) => {
      m.shards.splice(1, 1);
    });
    await refused(
      [zero, one, two],
      /shard-00004\.safetensors is in no part, but shard-00005\.safetensors is in .*part-2/,
    );
    await change((m) => {
      const entry = m.shards[0] as { rows: number; tokens: number };
      Object.assign(entry, { rows: 2, tokens: 64 });
    });
    await refused([zero, one, two], /shard-00001\.safetensors has 2 rows where 4 belong/);
    await writeFile(manifest, good);

    const file = join(one, 'shard-00001.safetensors');
    await rename(file, at('aside'));
    await refused([zero, one, two], /shard-00001\.safetensors is missing: the command of its part writes it again/);
    await mkdir(file);
    await refused([zero, one, two], /shard-00001\.safetensors is not a regular file$/);
    await rm(file, { recursive: true });
    await cp(at('aside'), file);
    await truncate(file, 100);
    await refused([zero, one, two], /shard-00001\.safetensors holds 100 bytes, but the manifest says \d+ bytes/);
    await rename(at('aside'), file);

    await mkdir(at('taken'));
    await writeFile(join(at('taken'), 'shard-00001.safetensors'), 'important');
    await rejects(mergeDumps(at('taken'), apart(at)), /shard-00001\.safetensors is another file than .*part-1/);
    assert.is(await readFile(join(at('taken'), 'shard-00001.safetensors'), 'utf8'), 'important');
    assert.equal(await readdir(at('taken')), ['shard-00001.safetensors']);
    const owner = { token: 'a', host: 'elsewhere', place: 'another start', pid: 1 };
    const lease = join(at('together'), 'manifest.json.claim');
    await writeFile(lease, JSON.stringify(owner));
    using touching = setInterval(() => writeFile(lease, JSON.stringify(owner)).catch(() => {}), 100); // may end late
    await rejects(mergeDumps(at('together')), /together is being written by process 1 on elsewhere/);
    clearInterval(touching);
    // The lease of a machine whose clock is an hour late counts, too.
    const hourAgo = () => new Date(Date.now() - 3_600_000);
    using late = setInterval(() => utimes(lease, new Date(), hourAgo()).catch(() => {}), 100);
    await rejects(mergeDumps(at('together')), /together is being written by process 1 on elsewhere/);
    clearInterval(late);

    const absurd = { ...JSON.parse(await readFile(join(zero, 'manifest-0-of-3.json'), 'utf8')), shards: [] };
    absurd.part.count = 4_000_000_000;
    await mkdir(at('absurd'));
    await cp(join(zero, absurd.corpus.file), join(at('absurd'), absurd.corpus.file));
    await writeFile(join(at('absurd'), 'manifest-0-of-4000000000.json'), JSON.stringify(absurd));
    await refused([at('absurd')], /of 4000000000 parts, 3999999999 are missing: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …/);
  }));

test('unknown fields of a manifest are not copied: neither into that of the whole, nor into one that is continued', () =>
  withParts(async (at) => {
    const evil = { scripts: { postinstall: 'x' }, constructor: 1 };
    const spoil = async (path: string) => {
      const manifest = JSON.parse(await readFile(path, 'utf8'));
      const source = Array.isArray(manifest.corpus) ? manifest.corpus[0] : manifest.corpus;
      for (const part of [manifest, manifest.model, manifest.model.config, source, manifest.locations[0]]) {
        Object.assign(part, evil);
      }
      for (const part of [manifest.autoencoders[0], manifest.part, ...manifest.shards]) Object.assign(part, evil);
      await writeFile(path, JSON.stringify(manifest).replace('{', '{"__proto__":{"complete":true},'));
      return manifest;
    };
    for (const index of parts) await spoil(join(at('together'), `manifest-${index}-of-3.json`));
    await mergeDumps(at('together'));
    await assertSameFolder(at('together'), at('whole'));

    const path = join(at('whole'), 'manifest.json');
    const good = await readFile(path, 'utf8');
    const manifest = await spoil(path);
    await writeFile(path, JSON.stringify({ ...manifest, complete: false, shards: manifest.shards.slice(0, 3) }));
    await make(at('whole'));
    assert.is(await readFile(path, 'utf8'), good);
  }));

test('manifests that hold the list of the corpus, as those of earlier versions do, some or all', () =>
  withParts(async (at) => {
    const inline = async (folder: string, index: number) => {
      const path = join(folder, `manifest-${index}-of-3.json`);
      const manifest = JSON.parse(await readFile(path, 'utf8'));
      const list = JSON.parse(await readFile(join(folder, manifest.corpus.file), 'utf8'));
      await writeFile(path, `${JSON.stringify({ ...manifest, corpus: list.corpus }, null, 2)}\n`);
      return join(folder, manifest.corpus.file);
    };
    await cp(at('together'), at('mixed'), { recursive: true });
    await inline(at('mixed'), 1);
    await inline(at('part-0'), 0);
    const lists = [];
    for (const index of parts) lists.push(await inline(at('together'), index));
    await rm(lists[0] as string);
    assert.equal(
      (await readdir(at('together'))).filter((name) => name.startsWith('corpus-')),
      [],
    );
    for (const out of ['together', 'mixed']) {
      // A part that was interrupted goes on, and a complete one stays as it is.
      const before = await contentsOf(at(out));
      assert.is((await make(at(out), shard(1))).written, 0);
      assert.equal(await contentsOf(at(out)), before);
      await rm(join(at(out), 'shard-00004.safetensors'));
      assert.is((await make(at(out), shard(1))).written, 1);
      await mergeDumps(at(out));
      await assertSameFolder(at(out), at('whole'));
    }
    await mergeDumps(at('out'), apart(at));
    await assertSameFolder(at('out'), at('whole'));
  }));

test('a part whose list is lost goes on; a merge says what is missing, and changes nothing', () =>
  withParts(async (at) => {
    const lists = async (folder: string) => (await readdir(folder)).filter((name) => name.startsWith('corpus-'));
    const [list = ''] = await lists(at('together'));
    await rm(join(at('together'), list));
    const before = await contentsOf(at('together'));
    await rejects(mergeDumps(at('together')), new RegExp(`${list}: is not the list of the corpus: it is missing`));
    assert.equal(await contentsOf(at('together')), before);
    assert.is((await make(at('together'), shard(0))).written, 0);
    assert.equal(await lists(at('together')), [list]);
    await mergeDumps(at('together'));
    await assertSameFolder(at('together'), at('whole'));
  }));

test('a merge that is killed before any of its steps is finished by the same call, and the dump can be read', () =>
  withParts(async (at) => {
    await writeFile(join(at('together'), 'shard-00001.safetensors.0123abcd.partial'), 'of a killed attempt');
    await writeFile(join(at('together'), 'manifest-1-of-3.json.claim.some-token'), 'of a killed process');
    const prototype = DiskStore.prototype;
    const { remove, writeText } = prototype;
    for (let steps = 0, killed = true; killed; steps++) {
      await rm(at('cut'), { recursive: true, force: true });
      await cp(at('together'), at('cut'), { recursive: true });
      let left = steps;
      killed = false;
      const step = () => {
        killed ||= left === 0;
        if (killed) throw new Error('killed'); // and it does nothing more
        left--;
      };
      prototype.remove = async function (this: DiskStore, file) {
        step();
        return remove.call(this, file);
      };
      prototype.writeText = async function (this: DiskStore, file, text) {
        step();
        return writeText.call(this, file, text);
      };
      try {
        if (steps === 0) await rejects(mergeDumps(at('cut')), /killed/);
        else await mergeDumps(at('cut')).catch((error) => assert.match(error.message, 'killed'));
      } finally {
        Object.assign(prototype, { remove, writeText });
      }
      const names = await readdir(at('cut'));
      const isPart = (name: string) => /^manifest-.*\.json$/.test(name);
      if (names.some(isPart)) assert.ok(names.some((name) => name.startsWith('corpus-')));
      await using made = await openDump(at('cut'));
      assert.is(made.tokenCount, 900);
      assert.is(made.manifest.complete, true);
      await cp(at('cut'), at('resumed'), { recursive: true });
      await mergeDumps(at('cut'));
      await assertSameFolder(at('cut'), at('whole'));
      if (names.includes('manifest.json')) {
        // The command of the whole dump goes on with it, too, and removes a list that no part refers to.
        assert.is((await make(at('resumed'))).written, 0);
        if (!names.some(isPart)) {
          assert.not.ok((await readdir(at('resumed'))).some((name) => name.startsWith('corpus-')));
        }
      }
      await rm(at('resumed'), { recursive: true });
      if (!killed) assert.ok(steps >= 7, `${steps} steps`);
    }
  }));

test('the merge of 2,000 parts of 5,000 files takes little memory, and so does reading them', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    const files = 5000;
    await plantParts(out, { parts: 2000, files, inline: (index) => index % 100 === 0 });
    const bounds = { open: 200, merge: 200 };
    for (const what of ['open', 'merge'] as const) {
      const { peak } = measureFolder(what, out);
      assert.ok(peak < bounds[what] * 2 ** 20, `${what}: ${peak / 2 ** 20} MiB`);
    }
    const names = await readdir(out);
    assert.is(names.length, 2001);
    const manifest = JSON.parse(await readFile(join(out, 'manifest.json'), 'utf8'));
    assert.equal(manifest.corpus, plantedCorpus(files));
    assert.is(manifest.shards.length, 2000);
    assert.equal([manifest.part, manifest.complete], [{ index: 0, count: 1 }, true]);
  }));

test('sonde merge', () =>
  withParts(async (at) => {
    const cwd = at('.');
    const { code, stdout, stderr } = await run(['merge', 'out', 'part-0', 'part-1', 'part-2'], { cwd });
    assert.is(code, 0, stderr);
    assert.match(stdout, /^out: 29 rows, 900 tokens in 8 shards\n$/);
    await assertSameFolder(at('out'), at('whole'));
    const missing = await run(['merge', 'out2', 'part-0'], { cwd });
    assert.is(missing.code, 1);
    assert.match(missing.stderr, /^sonde: merge: of 3 parts, 2 are missing: 1, 2\n$/);
  }));

test.run();
