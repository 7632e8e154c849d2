// What a part reads and removes of the other parts in its folder. Oracles: counts of what the store is asked for, and the
// names of files, written out by hand.
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { referenceTo, writeCorpusList } from '../../../src/dump/format/corpus_list.js';
import {
  isManifestFile,
  makeManifest,
  manifestFile,
  shardFile,
  whole,
  writeManifest,
} from '../../../src/dump/format/manifest.js';
import type { DumpSettings } from '../../../src/dump/format/settings.js';
import { FolderView, prepareFolder } from '../../../src/dump/shards/folder.js';
import type { ByteSource } from '../../../src/files/byte_source.js';
import type { Lease } from '../../../src/files/lease.js';
import { DiskStore } from '../../../src/files/store/disk_store.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { plantedCorpus, plantedPart, plantedSettings, plantParts } from '../../support/memory/merge_memory.js';

const test = suite('folder of parts');
const corpus = plantedCorpus(20);
const list = referenceTo(corpus).file;
const planted = { arithmetic: ['planted'], anyArithmetic: false };
const other = { arithmetic: ['other'], anyArithmetic: false };
const forever = Number.POSITIVE_INFINITY;

/** A disk that counts how often it is listed, and which files are read. */
class CountingStore extends DiskStore {
  lists = 0;
  read: string[] = [];

  override async list(): Promise<string[]> {
    this.lists++;
    return super.list();
  }

  override async open(file: string): Promise<ByteSource> {
    this.read.push(file);
    return super.open(file);
  }

  /** The manifests that were read, since this was asked last. */
  manifests(): string[] {
    return this.read.splice(0).filter(isManifestFile);
  }
}

const settingsOf = (index: number, count: number, changes: Partial<DumpSettings> = {}): DumpSettings => ({
  ...plantedSettings(corpus, { index, count }),
  ...changes,
});

/** Prepares a part and gives it up again; resolves to the names in the folder meanwhile. */
async function begun(
  store: DiskStore,
  settings: DumpSettings,
  computing: typeof planted | undefined,
  view?: FolderView,
): Promise<string[]> {
  const folder = await prepareFolder(store, settings, view);
  try {
    if (computing) await folder.begin(computing);
    return await readdir(store.name);
  } finally {
    await folder.release();
  }
}

/** Takes a part away: its manifest and its shard. */
async function without(out: string, index: number, count: number): Promise<void> {
  await rm(join(out, manifestFile({ index, count })));
  await rm(join(out, shardFile(index)));
}

test('a part that begins among many reads a bounded number of manifests, with shards or without', () =>
  withFolder(async (folder) => {
    const reads: number[] = [];
    for (const parts of [40, 500, 1500]) {
      const out = join(folder, String(parts));
      await plantParts(out, { parts, files: 20 });
      // a third of the parts has no shard yet, of which some are being written
      for (let index = 2; index < parts; index += 3) {
        await rm(join(out, shardFile(index)));
        const empty = makeManifest(settingsOf(index, parts), ['planted'], [], false);
        await writeFile(join(out, manifestFile(empty.part)), JSON.stringify(empty));
        if (index % 4 === 0) await writeFile(join(out, `${manifestFile(empty.part)}.claim`), '{}');
      }
      await without(out, 7, parts);
      const store = new CountingStore(out);
      await begun(store, settingsOf(7, parts), planted);
      reads.push(store.manifests().length);
      assert.is(store.lists, 2);
      await without(out, 10, parts);
      await rejects(begun(store, settingsOf(10, parts), other), /was begun with the arithmetic "planted"/);
      const elsewhere = settingsOf(10, parts, { dtype: 'float32' });
      await rejects(begun(store, elsewhere, planted), /holds a dump with dtype float16, but float32 was asked for/);
      const another = settingsOf(10, parts, { corpus: plantedCorpus(20, 2) });
      await rejects(begun(store, another, planted), /holds a dump with the corpus .* was asked for/);
      await rejects(begun(store, settingsOf(3, parts + 1), planted), new RegExp(`parts: ${parts}, but ${parts + 1}`));
    }
    const [few, many, most] = reads as [number, number, number];
    assert.ok(few >= 39, `${few} of 39 were compared`);
    assert.ok(many > 64 && many <= 64 + 32, `${many} of 499`);
    assert.ok(most <= 64 + 32, `${most} of 1,499`);
  }));

test('when there are few parts, one that differs is found wherever it is; a part of another count always', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    await plantParts(out, { parts: 60, files: 20 });
    const store = new CountingStore(out);
    for (const index of [0, 31, 59]) {
      const path = join(out, manifestFile({ index, count: 60 }));
      const good = await readFile(path, 'utf8');
      await writeFile(path, good.replace('"dtype": "float16"', '"dtype": "float32"'));
      const own = (index + 1) % 60;
      await rejects(begun(store, settingsOf(own, 60), planted), /holds a dump with dtype float32/);
      await writeFile(path, good);
    }
    await begun(store, settingsOf(5, 60), planted);
    await rm(out, { recursive: true });
    await plantParts(out, { parts: 500, files: 20 });
    const alien = plantedPart(corpus, { index: 3, count: 7 });
    await writeManifest(new DiskStore(out), { ...alien, shards: [], complete: false });
    await rejects(begun(store, settingsOf(5, 500), planted), /holds a dump with parts: 7, but 500 was asked for/);
  }));

test('different parts take different samples', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    await plantParts(out, { parts: 300, files: 20 });
    const store = new CountingStore(out);
    const seen = new Set<string>();
    for (let index = 0; index < 20; index++) {
      await begun(store, settingsOf(index, 300), undefined);
      for (const name of store.manifests()) seen.add(name);
    }
    assert.ok(seen.size > 290, `${seen.size} of 300`);
  }));

test('a process that makes many parts lists the folder when it begins, and reads its own part only', () =>
  withFolder(async (out) => {
    const count = 200;
    const store = new CountingStore(out);
    const view = new FolderView(forever);
    for (let index = 0; index < count; index++) {
      const names = await begun(store, settingsOf(index, count), planted, view);
      assert.ok(names.includes(manifestFile({ index, count })));
      await writeFile(join(out, shardFile(index)), '12345678');
      await writeManifest(store, plantedPart(corpus, { index, count }));
      view.isSettled = true;
    }
    assert.is(store.lists, 2);
    assert.equal(store.manifests(), []);
    // The own part is read and compared each time.
    const again = await prepareFolder(store, settingsOf(9, count), view);
    assert.is(again.isDone, true);
    assert.equal([...again.shards.keys()], [9]);
    await again.release();
    assert.equal(store.manifests(), [manifestFile({ index: 9, count })]);
    const asked = settingsOf(9, count, { dtype: 'float32' });
    await rejects(begun(store, asked, planted, view), /holds a dump with dtype float16, but float32 was asked for/);
    // A shard that a killed process has published refuses another request, though its manifest does not list it.
    const unlisted = { ...plantedPart(corpus, { index: 9, count }), shards: [], complete: false };
    await writeManifest(store, unlisted);
    await rejects(begun(store, asked, planted, view), /holds a dump with dtype float16, but float32 was asked for/);
    await rm(join(out, shardFile(9)));
    await begun(store, asked, planted, view);
    assert.match(await readFile(join(out, manifestFile({ index: 9, count })), 'utf8'), /"dtype": "float32"/);
    assert.is(store.lists, 2);
  }));

test('a process that makes many parts notices others when it lists the folder again, or before its first shard', () =>
  withFolder(async (out) => {
    const count = 20;
    const store = new CountingStore(out);
    const view = new FolderView(0);
    await begun(store, settingsOf(0, count), planted, view);
    const unsettled = new FolderView(forever);
    await begun(store, settingsOf(1, count), planted, unsettled);
    // Another dump begins; nothing of this one has a shard.
    const path = join(out, manifestFile({ index: 5, count }));
    const alien = plantedPart(corpus, { index: 5, count });
    await writeFile(join(out, shardFile(5)), '12345678');
    await writeManifest(store, { ...alien, arithmetic: ['other'] });
    const refusal = /was begun with the arithmetic "other"/;
    await rejects(begun(store, settingsOf(2, count), planted, view), refusal);
    await rejects(begun(store, settingsOf(2, count), planted, unsettled), refusal);
    await writeFile(path, (await readFile(path, 'utf8')).replace('"float16"', '"float32"'));
    const difference = /holds a dump with dtype float32, but float16 was asked for/;
    await rejects(begun(store, settingsOf(2, count), planted, view), difference);
    await rejects(begun(store, settingsOf(2, count), planted, unsettled), difference);
    view.isSettled = true;
    await rejects(begun(store, settingsOf(2, count), planted, view), difference);
    // The whole dump is seen at once.
    const settled = new FolderView(forever);
    await rm(path);
    await begun(store, settingsOf(2, count), planted, settled);
    settled.isSettled = true;
    await writeManifest(store, { ...plantedPart(corpus, whole), shards: [], complete: false });
    await rejects(begun(store, settingsOf(3, count), planted, settled), /holds a dump with parts: 1, but 20/);
  }));

test('shards whose arithmetic is not known do not keep a process from looking for others', () =>
  withFolder(async (out) => {
    const store = new CountingStore(out);
    await mkdir(out, { recursive: true });
    await writeFile(join(out, shardFile(0)), '12345678');
    await writeManifest(store, { ...plantedPart(corpus, { index: 0, count: 9 }), arithmetic: ['unknown'] });
    const view = new FolderView(forever);
    await begun(store, settingsOf(1, 9), planted, view);
    assert.is(view.isSettled, false);
    await writeManifest(store, { ...plantedPart(corpus, { index: 2, count: 9 }), arithmetic: ['planted'] });
    const later = new FolderView(forever);
    await begun(store, settingsOf(1, 9), planted, later);
    assert.is(later.isSettled, true);
  }));

// ---- what killed processes have left

const leftoversOf = (index: number, count: number): string[] => [
  `${shardFile(index)}.0123abcd.partial`,
  `${shardFile(index)}.0123abcd.latents.partial`,
  `${manifestFile({ index, count })}.0123abcd.partial`,
];

test('leftovers of other parts are removed when the folder is listed, but not those of a live process', () =>
  withFolder(async (out) => {
    const count = 40;
    await mkdir(out, { recursive: true });
    const plant = async (index: number) => {
      for (const name of leftoversOf(index, count)) await writeFile(join(out, name), 'x');
    };
    for (const index of [3, 4, 5]) await plant(index);
    const lease = (await new DiskStore(out).takeLease(`${manifestFile({ index: 4, count })}.claim`)) as Lease;
    const left = async () => (await readdir(out)).filter((name) => name.endsWith('.partial'));
    const store = new DiskStore(out);
    const view = new FolderView(0);
    await begun(store, settingsOf(0, count), planted); // a part that is made alone removes its own
    assert.is((await left()).length, 9);
    await begun(store, settingsOf(1, count), planted, view);
    assert.equal(await left(), leftoversOf(4, count).sort());
    await lease.release();
    await begun(store, settingsOf(1, count), planted, view);
    assert.equal(await left(), []);
    for (let index = 2; index < 30; index++) await plant(index);
    for (let looks = 0; (await left()).length > 0; looks++) {
      assert.ok(looks < 5);
      await begun(store, settingsOf(1, count), planted, view);
    }
    assert.equal(
      (await readdir(out)).filter((name) => name.endsWith('.claim')),
      [],
    );
  }));

test('a list that a killed process has left refuses nobody, and is removed; a file of the user is neither', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const lost = async (out: string) => {
      await mkdir(out);
      await writeCorpusList(new DiskStore(out), plantedCorpus(5));
      await writeFile(join(out, `${list}.0123abcd.partial`), 'x');
      await writeFile(join(out, `${referenceTo(plantedCorpus(5)).file}.0123abcd.partial`), 'x');
    };
    await lost(at('whole'));
    assert.equal(await begun(new DiskStore(at('whole')), settingsOf(0, 1), planted), [
      'manifest.json',
      'manifest.json.claim',
    ]);
    await lost(at('part'));
    const own = 'manifest-1-of-3.json';
    const expected = [list, own, `${own}.claim`];
    assert.equal(await begun(new DiskStore(at('part')), settingsOf(1, 3), planted), expected);
    // Somebody is about to write the manifest that refers to it.
    await lost(at('live'));
    const lease = (await new DiskStore(at('live')).takeLease('manifest-2-of-3.json.claim')) as Lease;
    assert.is((await begun(new DiskStore(at('live')), settingsOf(1, 3), planted)).length, expected.length + 4);
    await lease.release();

    const mine = 'corpus-0123456789abcdef.json';
    for (const text of ['my text', '[]', await readFile(join(at('live'), list), 'utf8')]) {
      await rm(at('mine'), { recursive: true, force: true });
      await mkdir(at('mine'));
      await writeFile(join(at('mine'), mine), text);
      for (const settings of [settingsOf(0, 1), settingsOf(1, 3)]) {
        const refusal = new RegExp(
          `is not empty and has no manifest\\.json \\(it has ${mine}\\): choose another folder`,
        );
        await rejects(begun(new DiskStore(at('mine')), settings, planted), refusal);
        assert.equal(await readdir(at('mine')), [mine]);
      }
    }
  }));

test('a list that is lost or broken is written again by the command of a part', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    await plantParts(out, { parts: 4, files: 20 });
    const good = await readFile(join(out, list), 'utf8');
    for (const spoil of [
      () => rm(join(out, list)),
      () => writeFile(join(out, list), good.slice(1)),
      () => writeFile(join(out, list), good.replace('000003', '000004')),
    ]) {
      await spoil();
      await begun(new DiskStore(out), settingsOf(2, 4), undefined);
      assert.is(await readFile(join(out, list), 'utf8'), good);
    }
  }));

test('a part that begins while another one removes their list finds it again', () =>
  withFolder(async (out) => {
    const store = new DiskStore(out);
    const { remove } = store;
    let begunMeanwhile = false;
    store.remove = async (file) => {
      await remove.call(store, file);
      if (file !== list) return;
      begunMeanwhile = true;
      const text = JSON.stringify({ ...plantedPart(corpus, { index: 1, count: 3 }), corpus: referenceTo(corpus) });
      await writeFile(join(out, 'manifest-1-of-3.json'), text);
    };
    const zero = await prepareFolder(store, settingsOf(0, 3));
    await zero.begin(planted);
    await zero.undo();
    await zero.release();
    assert.ok(begunMeanwhile);
    assert.equal(await readdir(out), [list, 'manifest-1-of-3.json']);
  }));

test('parts that end without a shard take their list with them, unless another part needs it', () =>
  withFolder(async (out) => {
    const of = (index: number, changes: Partial<DumpSettings> = {}) =>
      prepareFolder(new DiskStore(out), settingsOf(index, 3, changes));
    const [zero, one] = [await of(0), await of(1)];
    await zero.begin(planted);
    await one.begin(planted);
    await zero.undo();
    await zero.release();
    const leased = ['manifest-1-of-3.json', 'manifest-1-of-3.json.claim'];
    assert.equal(await readdir(out), [list, ...leased]);
    await one.undo();
    assert.equal(await readdir(out), ['manifest-1-of-3.json.claim']);
    await one.release();
    // One that takes the place of another request removes the list of that one.
    const before = await of(1);
    await before.begin(planted);
    await before.release();
    const second = plantedCorpus(4);
    const after = await of(1, { corpus: second });
    await after.begin(planted);
    assert.equal(await readdir(out), [referenceTo(second).file, ...leased]);
    await after.release();
    const same = await of(1, { corpus: second, dtype: 'float32' });
    await same.begin(planted);
    assert.equal(await readdir(out), [referenceTo(second).file, ...leased]);
    await same.undo();
    await same.release();
    assert.equal(await readdir(out), []);
  }));

test.run();
