// The record of finished shards, in a folder and in object storage. Oracle: the folder of a dump that was never
// interrupted, byte for byte, whatever a killed process left; and the number of bytes that are written.
import { spawn } from 'node:child_process';
import { copyFile, cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { JournalWriter } from '../../../src/dump/format/journal.js';
import {
  digestOfSettings,
  type Manifest,
  makeManifest,
  manifestFile,
  piecesOf,
  readManifests,
  type ShardEntry,
  shardFile,
  shardNumber,
  whole,
  writeManifest,
} from '../../../src/dump/format/manifest.js';
import { openDump } from '../../../src/dump/read/reader.js';
import { dump } from '../../../src/dump/run.js';
import { type PreparedFolder, prepareFolder } from '../../../src/dump/shards/folder.js';
import { ManifestWriter } from '../../../src/dump/shards/manifest_writer.js';
import { mergeDumps } from '../../../src/dump/shards/merge.js';
import type { DumpOptions } from '../../../src/dump/shards/options.js';
import { BlobStore } from '../../../src/files/store/blob_store.js';
import { DiskStore } from '../../../src/files/store/disk_store.js';
import type { Store } from '../../../src/files/store/store.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { run } from '../../cli/command.js';
import { address, blobsOf, pathOf, withBlobServer } from '../../support/blobs/blob_stores.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { endOf } from '../../support/processes.js';
import { assertSameFolder, contentsOf, sampleText } from '../folders.js';
import { entryOf, tinySettings } from '../format/entries.js';

const test = suite('manifest writer');
test.limit(120_000);
const model = await Transformer.load('demo');
const main = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url));
const computing = { arithmetic: ['1 cpu'], anyArithmetic: false };

/** Six shards with a Parquet file each. */
const small = (out: string, changes: Partial<DumpOptions> = {}): DumpOptions => ({
  ...{ model, corpus: sampleText, locations: ['resid/post_emb', '1/resid/delta_mlp -> ae-resid-delta-mlp'], out },
  ...{ context: 16, shardTokens: 64, limit: 360, parquet: true, ...changes },
});

const root = await mkdtemp(join(tmpdir(), 'sonde-test-'));
/** The whole dump. */
const made = join(root, 'whole');
test.before(async () => {
  await dump(small(made));
});
test.after(() => rm(root, { recursive: true, force: true }));

const readManifest = async (folder: string): Promise<Manifest> =>
  JSON.parse(await readFile(join(folder, 'manifest.json'), 'utf8'));

/** The manifest of a part, with the list of the corpus that it refers to. */
const readPart = async (folder: string, name: string): Promise<Manifest> =>
  (await readManifests(new DiskStore(folder), [name])).get(name) as Manifest;

/** Writes the manifest of a dump under way, and the journal, of some of the shards of a whole dump. */
async function leave(
  folder: string,
  whole: Manifest,
  { listed, journal, complete = false }: { listed: number[]; journal?: number[]; complete?: boolean },
): Promise<void> {
  const store = new DiskStore(folder);
  const of = (numbers: number[]) => whole.shards.filter(({ file }) => numbers.includes(shardNumber(file) as number));
  await writeManifest(store, { ...whole, shards: of(listed), complete });
  if (!journal) return;
  const writer = new JournalWriter(store, whole.part, digestOfSettings(whole));
  for (const number of journal) await writer.add(of([number])[0] as ShardEntry);
  await writer.close();
}

/** What a process that was killed leaves: the shards that are missing, and what is recorded of the others. */
const moments: [string, { missing: number[]; listed: number[]; journal?: number[]; seen: number[]; torn?: boolean }][] =
  [
    ['before the first shard', { missing: [0, 1, 2, 3, 4, 5], listed: [], seen: [] }],
    ['a shard is published, and not recorded', { missing: [1, 2, 3, 4, 5], listed: [], seen: [] }],
    ['the journal has a first line', { missing: [1, 2, 3, 4, 5], listed: [], journal: [], seen: [] }],
    ['shards are in the journal', { missing: [3, 4, 5], listed: [], journal: [0, 2, 1], seen: [0, 1, 2] }],
    ['and one more is published', { missing: [4, 5], listed: [0], journal: [1, 2], seen: [0, 1, 2] }],
    ['the last line is torn', { missing: [4, 5], listed: [0], journal: [1, 2, 3], torn: true, seen: [0, 1, 2] }],
    ['all are published', { missing: [], listed: [0], journal: [1, 2, 3, 4], seen: [0, 1, 2, 3, 4] }],
    ['all are recorded', { missing: [], listed: [0], journal: [1, 2, 3, 4, 5], seen: [0, 1, 2, 3, 4, 5] }],
    [
      'the manifest has the shards of the journal',
      { missing: [3, 4, 5], listed: [0, 1, 2], journal: [1, 2], seen: [0, 1, 2] },
    ],
    ['the manifest has more', { missing: [4, 5], listed: [0, 1, 2, 3], journal: [1, 2], seen: [0, 1, 2, 3] }],
  ];

for (const [what, { missing, listed, journal, seen, torn }] of moments) {
  test(`killed when ${what}: it can be read, and the same call makes the same folder`, () =>
    withFolder(async (folder) => {
      const out = join(folder, 'out');
      const manifest = await readManifest(made);
      assert.is(manifest.shards.length, 6);
      await cp(made, out, { recursive: true });
      for (const number of missing) await remove(out, number);
      await leave(out, manifest, { listed, ...(journal && { journal }) });
      const path = join(out, 'journal.jsonl');
      if (torn) await writeFile(path, (await readFile(path)).subarray(0, -9));
      const before = await contentsOf(out);

      await using there = await openDump(out);
      assert.equal(
        there.shards.map(({ file }) => file),
        seen.map(shardFile),
      );
      assert.is(there.manifest.complete, false);
      const unlisted = 6 - missing.length - seen.length;
      const problems = await there.verify();
      assert.is(problems.length, 2 * unlisted);
      assert.ok(problems.every(({ problem }) => problem === 'is not listed in the manifest'));
      await rejects(mergeDumps(out), /merge: part 0 of 1 in .* is not complete: its command goes on with it/);
      assert.equal(await contentsOf(out), before, 'nothing of it is changed by reading');

      assert.is((await dump(small(out))).written, 6 - seen.length);
      await assertSameFolder(out, made);
    }));
}

async function remove(folder: string, number: number): Promise<void> {
  for (const name of await readdir(folder)) {
    if (name.startsWith(shardFile(number).replace(/safetensors$/, ''))) await rm(join(folder, name));
  }
}

test('killed after the last manifest: the journal is removed by the next call, and counts for nothing', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    const manifest = await readManifest(made);
    await cp(made, out, { recursive: true });
    const wrong = { ...manifest, shards: manifest.shards.map((entry) => ({ ...entry, bytes: entry.bytes + 1 })) };
    await leave(out, wrong, { listed: [], journal: [3, 4] });
    await copyFile(join(made, 'manifest.json'), join(out, 'manifest.json'));
    await using there = await openDump(out);
    assert.equal(await there.verify(), []);
    assert.is((await dump(small(out))).written, 0);
    await assertSameFolder(out, made);
    // One shard is gone as well: the journal does not say what is there.
    await leave(out, wrong, { listed: [], journal: [3, 4] });
    await copyFile(join(made, 'manifest.json'), join(out, 'manifest.json'));
    await remove(out, 4);
    assert.is((await dump(small(out))).written, 1);
    await assertSameFolder(out, made);
  }));

test('a recorded shard whose file is gone is made again, one of another size is an error, and no other dump goes on', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    await cp(made, out, { recursive: true });
    for (const number of [1, 4, 5]) await remove(out, number);
    await leave(out, await readManifest(made), { listed: [0], journal: [1, 2, 3] });
    await rejects(
      dump(small(out, { limit: 300 })),
      /holds a dump with a limit of 360 tokens, but 300 tokens was asked/,
    );
    const path = join(out, shardFile(2));
    const bytes = await readFile(path);
    await writeFile(path, bytes.subarray(1));
    await rejects(
      dump(small(out)),
      /shard-00002\.safetensors holds \d+ bytes, but the manifest says \d+ bytes: remove it/,
    );
    await writeFile(path, bytes);
    assert.is((await dump(small(out))).written, 3);
    await assertSameFolder(out, made);
  }));

test('parts: each has a journal, all are read as one dump, and merging waits for the rest', () =>
  withFolder(async (folder) => {
    const [out, parts] = [join(folder, 'out'), join(folder, 'parts')];
    for (const index of [0, 1]) await dump(small(parts, { shard: { index, count: 2 } }));
    await cp(parts, out, { recursive: true });
    const [zero, one] = [await readPart(out, 'manifest-0-of-2.json'), await readPart(out, 'manifest-1-of-2.json')];
    await leave(out, zero, { listed: [0], journal: [2, 4] });
    await leave(out, one, { listed: [], journal: [3] });
    await remove(out, 5);
    {
      await using there = await openDump(out);
      assert.equal(
        there.shards.map(({ file }) => shardNumber(file)),
        [0, 2, 3, 4],
      );
      const look = await run(['inspect', out]);
      assert.match(look.stdout, /files +4 shards, .*not complete: the same command goes on/, look.stdout + look.stderr);
    }
    await rejects(mergeDumps(out), /merge: part 0 of 2 in .* is not complete/);
    assert.is((await dump(small(out, { shard: { index: 1, count: 2 } }))).written, 2);
    assert.ok((await readdir(out)).includes('journal-0-of-2.jsonl'), 'that of another part stays');
    assert.ok(!(await readdir(out)).includes('journal-1-of-2.jsonl'));
    assert.is((await dump(small(out, { shard: { index: 0, count: 2 } }))).written, 0);
    await assertSameFolder(out, parts);
    // A part was killed between its last manifest and the removal of its journal, and then merged.
    await leave(out, one, { listed: [], journal: [3] });
    await copyFile(join(parts, 'manifest-1-of-2.json'), join(out, 'manifest-1-of-2.json'));
    await mergeDumps(out);
    await using merged = await openDump(out);
    assert.equal(await merged.verify(), []);
    assert.is((await dump(small(out))).written, 0);
    await assertSameFolder(out, made);
  }));

test('a file of that name in a folder without a dump is left alone, unless a dump left it', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    for (const text of ['{"day":1}\n', 'noise']) {
      await cp(made, out, { recursive: true, filter: (path) => !path.includes('shard-') });
      await rm(join(out, 'manifest.json'));
      await writeFile(join(out, 'journal.jsonl'), text);
      await rejects(dump(small(out)), /is not empty and has no manifest\.json \(it has journal\.jsonl\)/);
      assert.is(await readFile(join(out, 'journal.jsonl'), 'utf8'), text);
    }
    // Beside a complete dump it is in nobody's way.
    await cp(made, out, { recursive: true });
    assert.is((await dump(small(out))).written, 0);
    assert.is(await readFile(join(out, 'journal.jsonl'), 'utf8'), 'noise');
    await rm(out, { recursive: true });
    await cp(made, out, { recursive: true, filter: (path) => !path.includes('shard-') });
    await leave(out, await readManifest(made), { listed: [], journal: [0] });
    await rm(join(out, 'manifest.json'));
    await dump(small(out));
    await assertSameFolder(out, made);
  }));

test('while it is written, a dump grows for its readers, and the journal is gone at the end, also of a stopped run', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    const sizes: number[] = [];
    let reading: Promise<void> = Promise.resolve();
    const stop = new AbortController();
    const look = async () => {
      await using there = await openDump(out);
      const [names, problems] = [await readdir(out), await there.verify()];
      assert.ok(there.shards.length === 0 || names.includes('journal.jsonl') || sizes.length > 0);
      assert.equal(
        problems.filter(({ problem }) => !/is not listed|is the claim of|is an unfinished piece/.test(problem)),
        [],
      );
      sizes.push(there.shards.length);
    };
    const onProgress = ({ shards }: { shards: number }) => {
      reading = reading.then(look);
      if (shards === 4) stop.abort(new Error('stopped here'));
    };
    await rejects(dump(small(out, { onProgress, signal: stop.signal })), /stopped here/);
    await reading;
    assert.equal(
      sizes,
      sizes.toSorted((a, b) => a - b),
    );
    const { shards, complete } = await readManifest(out);
    assert.equal([complete, shards.length >= 4], [false, true]);
    assert.equal(
      (await readdir(out)).filter((name) => !name.startsWith('shard-')),
      ['index.jsonl', 'manifest.json'],
    );
    await dump(small(out));
    await assertSameFolder(out, made);
  }));

// ---- what is written

interface Written {
  readonly files: Map<string, string>;
  bytes: number;
  appends: number;
  manifests: number;
}

/** A store in memory that counts what is written. */
function counting(): { store: Store; written: Written } {
  const written: Written = { files: new Map(), bytes: 0, appends: 0, manifests: 0 };
  const { files } = written;
  const store: Partial<Store> = {
    name: 'memory',
    pathOf: (file) => file,
    async writeText(file, text) {
      files.set(file, text);
      written.bytes += text.length;
      written.manifests++;
    },
    async writePieces(file, pieces) {
      await store.writeText?.(file, [...pieces].join(''));
    },
    async append(file) {
      files.set(file, files.get(file) ?? '');
      return {
        isFull: false,
        async append(text) {
          files.set(file, files.get(file) + text);
          written.bytes += text.length;
          written.appends++;
        },
        async close() {},
      };
    },
    async remove(file) {
      files.delete(file);
    },
  };
  return { store: store as Store, written };
}

const inNoFolder = (changes: Partial<PreparedFolder> = {}): PreparedFolder => ({
  ...{ shards: new Map(), manifest: undefined, isDone: false, begin: async () => computing.arithmetic },
  ...{ check: async () => {}, release: async () => {}, undo: async () => async () => {}, ...changes },
});

async function writtenFor(shards: number, ...pace: [] | [{ seconds: number; bytes: number }]): Promise<Written> {
  const { store, written } = counting();
  const writer = new ManifestWriter(store, tinySettings, inNoFolder(), ...pace);
  await writer.begin(computing);
  for (let number = 0; number < shards; number++) await writer.add(number, entryOf(number));
  await writer.complete();
  await writer.settle();
  const entries = Array.from({ length: shards }, (_, number) => entryOf(number));
  const manifest = textOf(makeManifest(tinySettings, computing.arithmetic, entries, true));
  assert.equal([...written.files], [['manifest.json', manifest]]);
  assert.is(written.appends, shards);
  return written;
}

const textOf = (manifest: Manifest): string => [...piecesOf(manifest)].join('');

test('what is written grows with the number of shards', async () => {
  const hour = { seconds: 3600, bytes: 2 ** 24 };
  const [hundred, thousand] = [await writtenFor(100, hour), await writtenFor(1000, hour)];
  assert.is(thousand.manifests, 1);
  assert.ok(thousand.bytes < 10.5 * hundred.bytes, `${hundred.bytes} and ${thousand.bytes} bytes`);
  // Where a minute passes between any two shards, or the journal is long at once, the manifests add up to a sum of
  // powers of 1.1.
  for (const pace of [
    { seconds: 0, bytes: 2 ** 24 },
    { seconds: 3600, bytes: 1 },
  ]) {
    const [some, more] = [await writtenFor(1000, pace), await writtenFor(8000, pace)];
    assert.ok(more.manifests > 50, `${more.manifests} manifests`);
    assert.ok(more.bytes < 9 * some.bytes, `${some.bytes} and ${more.bytes} bytes`);
    const size = more.files.get('manifest.json')?.length ?? 0;
    assert.ok(more.bytes < 13 * size, `${more.bytes} bytes for a manifest of ${size}`);
  }
});

test('shards that finish at the same time are recorded one after the other', async () => {
  const { store, written } = counting();
  const writer = new ManifestWriter(store, tinySettings, inNoFolder(), { seconds: 0, bytes: 2 ** 24 });
  await writer.begin(computing);
  await Promise.all(Array.from({ length: 40 }, (_, i) => writer.add(39 - i, entryOf(39 - i))));
  await writer.settle();
  const { shards, complete } = JSON.parse(written.files.get('manifest.json') ?? '') as Manifest;
  assert.equal(
    [shards.map(({ file }) => shardNumber(file)), complete],
    [Array.from({ length: 40 }, (_, i) => i), false],
  );
  assert.equal([...written.files.keys()], ['manifest.json']);
});

test('where the last manifest cannot be written, the journal stays; where another process has taken over, too', async () => {
  const { store, written } = counting();
  let isTaken = false;
  const check = async () => {
    if (isTaken) throw new Error('dump: memory was taken over by another process');
  };
  const full = { ...store, writeText: () => Promise.reject(Object.assign(new Error('no space'), { code: 'ENOSPC' })) };
  const first = new ManifestWriter(full, tinySettings, inNoFolder());
  await first.begin(computing);
  await first.add(0, entryOf(0));
  await rejects(first.complete(), /dump: cannot write manifest\.json: no space is left/);
  await first.settle();
  assert.equal([...written.files.keys()], ['journal.jsonl']);
  const second = new ManifestWriter(store, tinySettings, inNoFolder({ check }));
  await second.begin(computing);
  await second.add(1, entryOf(1));
  isTaken = true;
  const before = new Map(written.files);
  await rejects(second.add(2, entryOf(2)), /taken over/);
  await second.settle();
  assert.equal(written.files, before);
});

test('another process that takes over while the manifest is written keeps its journal', async () => {
  const { store, written } = counting();
  let isTaken = false;
  const check = async () => {
    if (isTaken) throw new Error('dump: memory was taken over by another process');
  };
  const slow: Store = {
    ...store,
    async writeText(file, text) {
      await store.writeText(file, text);
      isTaken = true;
    },
  };
  const writer = new ManifestWriter(slow, tinySettings, inNoFolder({ check }));
  await writer.begin(computing);
  await writer.add(0, entryOf(0));
  await rejects(writer.complete(), /taken over/);
  await writer.settle();
  assert.equal([...written.files.keys()], ['journal.jsonl', 'manifest.json']);
});

test('a run that cannot write the manifest when it begins leaves the journal', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    await cp(made, out, { recursive: true });
    const manifest = await readManifest(made);
    await leave(out, manifest, { listed: [0], journal: [1, 2] });
    const before = await contentsOf(out);
    const full = Object.assign(new DiskStore(out), { writeText: () => Promise.reject(new Error('no space')) });
    const prepared = await prepareFolder(full, manifest);
    assert.equal([...prepared.shards.keys()], [0, 1, 2]);
    await rejects(prepared.begin({ ...computing, anyArithmetic: true }), /no space/);
    await prepared.release();
    assert.equal(await contentsOf(out), before);
  }));

test('where the journal cannot be removed, the complete manifest stays complete', async () => {
  const { store, written } = counting();
  const stuck = { ...store, remove: () => Promise.reject(Object.assign(new Error('busy'), { code: 'EBUSY' })) };
  const writer = new ManifestWriter(stuck, tinySettings, inNoFolder());
  await writer.begin(computing);
  await writer.add(0, entryOf(0));
  await rejects(writer.complete(), /dump: cannot write journal\.jsonl: busy/);
  await writer.settle();
  assert.is(JSON.parse(written.files.get('manifest.json') ?? '').complete, true);
});

test('a disk that takes no more lines, and no larger manifest: what was recorded counts', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const command = (out: string) => [
      ...[main, 'dump', '--text', sampleText, '--hook', 'resid/post_emb', '--context', '4', '--shard-tokens', '4'],
      ...['--limit', '200', '--threads', '1', '--device', 'cpu', '--out', at(out)],
    ];
    const good = await endOf(spawn(process.execPath, command('whole'), { stdio: ['ignore', 'ignore', 'pipe'] }));
    assert.is(good.code, 0, good.errors);
    // A limit on the size of a file stands for the full disk: 4 blocks of 1024 bytes, more than a shard takes.
    const shell = ['-c', 'ulimit -f 4; exec "$0" "$@"', process.execPath, ...command('out')];
    const { code, errors } = await endOf(spawn('bash', shell, { stdio: ['ignore', 'ignore', 'pipe'] }));
    assert.is(code, 1, errors);
    assert.match(
      errors,
      /dump: cannot write .*journal\.jsonl: .*Finished shards are whole: run the same command again/,
    );
    const journal = await readFile(at('out/journal.jsonl'), 'utf8');
    assert.is(journal.length, 4096);
    assert.ok(!journal.endsWith('\n'), 'a line is torn');
    assert.is((await readManifest(at('out'))).shards.length, 0);
    const recorded = journal.split('\n').length - 2;
    {
      await using there = await openDump(at('out'));
      assert.equal([there.shards.length, recorded > 10], [recorded, true]);
    }
    const again = await run(command('out').slice(1));
    assert.is(again.code, 0, again.stderr);
    await assertSameFolder(at('out'), at('whole'));
  }));

// ---- object storage

/** Begins a dump whose shards are not there. */
async function begun(store: Store, pace = { seconds: 3600, bytes: 2 ** 24 }) {
  const folder = await prepareFolder(store, tinySettings);
  const writer = new ManifestWriter(store, tinySettings, folder, pace);
  await writer.begin(computing);
  return { folder, writer };
}

const numbersIn = async (store: Store): Promise<number[]> =>
  ((await readManifests(store)).get(manifestFile(whole))?.shards ?? []).map(({ file }) => shardNumber(file) as number);

test('in object storage, lines are appended; lost answers, cut connections and damaged bytes change nothing', () =>
  withBlobServer(async (server) => {
    const store = new BlobStore(address);
    const { folder, writer } = await begun(store);
    const troubles = [{ loseAnswer: true }, { cutRequestAfter: 10 }, { damage: true }, { status: 503 }];
    let number = 0;
    server.faults = ({ operation }) =>
      /append/.test(operation) && number++ % 2 === 0 ? troubles[(number >> 1) % troubles.length] : undefined;
    for (let i = 0; i < 8; i++) await writer.add(i, entryOf(i));
    server.faults = () => undefined;
    assert.ok(number >= 16);
    const lines = blobsOf(server).get('journal.jsonl')?.toString().split('\n') ?? [];
    assert.ok(lines.length > 10, 'a line of which the answer was lost is there twice');
    assert.equal(await numbersIn(store), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert.equal(JSON.parse(String(blobsOf(server).get('manifest.json'))).shards, []);
    const { requests } = server;
    requests.length = 0;
    await writer.add(8, entryOf(8));
    assert.equal(
      requests.map(({ operation }) => operation),
      ['renew', 'append'],
    );
    await writer.complete();
    await writer.settle();
    await folder.release();
    const entries = Array.from({ length: 9 }, (_, i) => entryOf(i));
    assert.equal(
      [...blobsOf(server)].map(([name, bytes]) => [name, String(bytes)]),
      [['manifest.json', textOf(makeManifest(tinySettings, computing.arithmetic, entries, true))]],
    );
  }));

test('a blob takes only so many blocks: the manifest is written before, and another journal begun', () =>
  withBlobServer(async (server) => {
    server.account.mostAppends = 6;
    const store = new BlobStore(address, { mostAppends: 5 });
    const { folder, writer } = await begun(store);
    for (let i = 0; i < 23; i++) {
      await writer.add(i, entryOf(i));
      assert.is((await numbersIn(store)).length, i + 1);
    }
    assert.is(JSON.parse(String(blobsOf(server).get('manifest.json'))).shards.length, 20);
    await writer.settle();
    await folder.release();
    assert.equal([...blobsOf(server).keys()], ['manifest.json']);
    assert.is((await numbersIn(store)).length, 23);
  }));

test('an empty blob is what a killed process leaves of a journal: it is removed, and is nothing to complain of', () =>
  withBlobServer(async (server) => {
    const { shards } = await dump(small(address));
    const manifest = JSON.parse(String(blobsOf(server).get('manifest.json'))) as Manifest;
    const all = [...blobsOf(server)].sort(([a], [b]) => (a < b ? -1 : 1));
    const store = new BlobStore(address);
    await (await store.append('journal.jsonl')).close();
    await (await store.append('journal-0-of-2.jsonl')).close();
    assert.ok((await store.list()).includes('journal.jsonl.00000000.partial'));
    {
      await using there = await openDump(address);
      assert.equal(await there.verify(), []);
    }
    await writeManifest(store, { ...manifest, shards: manifest.shards.slice(0, 4), complete: false });
    await store.remove(shardFile(5));
    assert.is((await dump(small(address))).written, 2);
    server.account.blobs.delete(pathOf('journal-0-of-2.jsonl'));
    assert.equal(
      [...blobsOf(server)].sort(([a], [b]) => (a < b ? -1 : 1)),
      all,
    );
    // The journal alone, of a dump whose manifest somebody removed.
    for (const name of blobsOf(server).keys()) await store.remove(name);
    await (await store.append('journal.jsonl')).close();
    assert.is((await dump(small(address))).written, shards);
    assert.equal(
      [...blobsOf(server)].sort(([a], [b]) => (a < b ? -1 : 1)),
      all,
    );
  }));

const stores: [string, (body: (store: Store) => Promise<void>) => Promise<void>][] = [
  ['a folder', (body) => withFolder((folder) => body(new DiskStore(folder)))],
  ['object storage', (body) => withBlobServer(() => body(new BlobStore(address)))],
];

for (const [where, withStore] of stores) {
  test(`${where}: whoever reads meanwhile sees every shard that was recorded before, in a journal or in the manifest`, () =>
    withStore(async (store) => {
      const { folder, writer } = await begun(store, { seconds: 0, bytes: 1 });
      let recorded = 0;
      let isOver = false;
      const reading = (async () => {
        while (!isOver) {
          const least = recorded;
          const numbers = await numbersIn(store);
          assert.ok(numbers.length >= least, `${numbers.length} of ${least} shards`);
          assert.equal(
            numbers,
            Array.from(numbers, (_, i) => i),
          );
        }
      })();
      reading.catch(() => {}); // it is awaited below
      for (let i = 0; i < 60; i++) {
        await writer.add(i, entryOf(i));
        recorded = i + 1;
      }
      isOver = true;
      await reading;
      await writer.settle();
      await folder.release();
      assert.equal(await store.list(), ['manifest.json']);
    }));
}

test.run();
