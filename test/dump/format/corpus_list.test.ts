// The list of the corpus that the manifests of parts refer to. Oracles: JSON.stringify for the bytes of manifests, the
// list that was written, and refusals written out by hand.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { referenceTo, writeCorpusList } from '../../../src/dump/format/corpus_list.js';
import {
  differenceOf,
  type Manifest,
  manifestFile,
  piecesOf,
  readManifests,
  type ShardEntry,
  shardFile,
  whole,
  writeManifest,
} from '../../../src/dump/format/manifest.js';
import { openDump } from '../../../src/dump/read/reader.js';
import { openStore } from '../../../src/files/store/open_store.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { plantedCorpus, plantedPart, plantParts } from '../../support/memory/merge_memory.js';

const test = suite('list of the corpus');

const textOf = (manifest: Manifest): string => [...piecesOf(manifest)].join('');

test('a manifest in pieces is the JSON of the manifest, whatever is in it', () => {
  const trap = '\n  "shards": [],\n"shards": []';
  const corpus = [...plantedCorpus(3), { kind: 'text', name: trap, bytes: 5 } as const];
  for (const count of [0, 1, 2, 999, 1000, 1001, 2500]) {
    const shards = Array.from({ length: count }, (_, number): ShardEntry => {
      const entry = { file: shardFile(number), bytes: 8, sha256: '0'.repeat(64), rows: 1, tokens: 1 };
      const nonFinite = { [trap]: { nan: 1, infinite: 2, values: 3 } };
      return number % 7 === 0 ? { ...entry, nonFinite, parquet: [{ file: trap, bytes: 1, sha256: '' }] } : entry;
    });
    const manifest = { ...plantedPart(corpus, whole), shards };
    assert.is(textOf(manifest), `${JSON.stringify(manifest, null, 2)}\n`);
    const part = { ...manifest, part: { index: 0, count: 2 } };
    assert.is(textOf(part), `${JSON.stringify({ ...part, corpus: referenceTo(corpus) }, null, 2)}\n`);
  }
});

test('the manifests of parts do not hold the list, and share it in memory, as do those of earlier versions', () =>
  withFolder(async (folder) => {
    const [out, mixed] = [join(folder, 'out'), join(folder, 'mixed')];
    await plantParts(out, { parts: 50, files: 2000 });
    const names = await readdir(out);
    const sizes = await Promise.all(names.map(async (name) => [name, (await stat(join(out, name))).size] as const));
    const bytesOf = (pattern: RegExp) =>
      sizes.filter(([name]) => pattern.test(name)).reduce((sum, [, n]) => sum + n, 0);
    assert.is(names.filter((name) => name.startsWith('corpus-')).length, 1);
    assert.ok(bytesOf(/^manifest-/) < 50 * 2000, `${bytesOf(/^manifest-/)} bytes of manifests`);
    assert.ok(bytesOf(/^corpus-/) > 2000 * 60);
    await plantParts(mixed, { parts: 50, files: 2000, inline: (index) => index % 3 === 0 });
    for (const at of [out, mixed]) {
      const manifests = [...(await readManifests(openStore(at))).values()];
      assert.is(manifests.length, 50);
      const [first] = manifests as [Manifest];
      assert.equal(first.corpus, plantedCorpus(2000));
      for (const manifest of manifests) {
        assert.is(manifest.corpus, first.corpus);
        assert.is(manifest.model, first.model);
        assert.is(manifest.locations, first.locations);
        assert.is(differenceOf(first, manifest), undefined);
      }
      await using made = await openDump(at);
      assert.is(made.tokenCount, 50);
      assert.is(made.manifest.complete, true);
    }
  }));

test('a list is written once, before the manifest, by any number of processes', () =>
  withFolder(async (out) => {
    const corpus = plantedCorpus(100);
    const store = openStore(out);
    const written: string[] = [];
    const { writeText } = store;
    store.writeText = (file, text) => {
      written.push(file);
      return writeText.call(store, file, text);
    };
    const { file, bytes, sha256 } = referenceTo(corpus);
    for (const index of [0, 1, 2]) await writeManifest(store, plantedPart(corpus, { index, count: 3 }));
    assert.equal(written, [file, ...[0, 1, 2].map((index) => `manifest-${index}-of-3.json`)]);
    const text = await readFile(join(out, file));
    assert.equal([text.length, createHash('sha256').update(text).digest('hex')], [bytes, sha256]);
    assert.is(file, `corpus-${sha256.slice(0, 16)}.json`);
    await rm(join(out, file));
    await Promise.all(Array.from({ length: 8 }, () => writeCorpusList(openStore(out), corpus)));
    assert.equal(await readFile(join(out, file)), text);
    // Equal lists of other arrays are the same file; another size of one file is another list.
    await writeCorpusList(store, plantedCorpus(100));
    assert.is((await readdir(out)).filter((name) => name.startsWith('corpus-')).length, 1);
    assert.is.not(referenceTo(plantedCorpus(100, 2)).file, file);
  }));

test('the list is there again when another process has removed it just before the manifest', () =>
  withFolder(async (out) => {
    const corpus = plantedCorpus(10);
    const store = openStore(out);
    const { file } = referenceTo(corpus);
    const { writeText } = store;
    store.writeText = async (name, text) => {
      if (name !== file) await rm(join(out, file), { force: true });
      return writeText.call(store, name, text);
    };
    await writeManifest(store, { ...plantedPart(corpus, { index: 0, count: 2 }), complete: false });
    assert.equal(await readdir(out), [file, 'manifest-0-of-2.json']);
  }));

test('a process whose unfinished list is removed goes on when another one has written the list', () =>
  withFolder(async (out) => {
    const corpus = plantedCorpus(10);
    const store = openStore(out);
    store.writeText = async () => {
      await writeCorpusList(openStore(out), corpus);
      throw Object.assign(new Error('ENOENT: rename'), { code: 'ENOENT' });
    };
    await writeCorpusList(store, corpus);
    store.writeText = () => Promise.reject(Object.assign(new Error('no space'), { code: 'ENOSPC' }));
    await rejects(writeCorpusList(store, plantedCorpus(11)), /cannot write .*corpus-.*: no space is left on the disk/);
  }));

test('a list that is missing, broken or forged is refused by name', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    await plantParts(out, { parts: 2, files: 20 });
    const { file, bytes, sha256 } = referenceTo(plantedCorpus(20));
    const path = join(out, file);
    const good = await readFile(path, 'utf8');
    const refused = async (pattern: RegExp) => {
      await rejects(openDump(out), Error, pattern);
      await rejects(readManifests(openStore(out)), Error, pattern);
    };
    const listRefused = (problem: string) =>
      refused(
        new RegExp(`^[^:]*${file}: is not the list of the corpus: ${problem}.*: the command of a part writes it`),
      );
    await rename(path, join(folder, 'aside'));
    await listRefused('it is missing');
    await mkdir(path);
    await listRefused('it is not a regular file');
    await rm(path, { recursive: true });
    await symlink(join(folder, 'aside'), path);
    await listRefused('it is not a regular file');
    await rm(path);
    execFileSync('mkfifo', [path]);
    await listRefused('it is not a regular file');
    await rm(path);
    await writeFile(path, good.slice(0, -1));
    await listRefused(`it holds ${bytes - 1} bytes, but the manifest says ${bytes} bytes`);
    await writeFile(path, good.replace('000007', '000008'));
    await listRefused('its SHA-256 is [0-9a-f]{64}, but the manifest says [0-9a-f]{64}');
    await writeFile(path, good);
    await (await openDump(out)).close();

    // What a list says is checked field by field, also under a right digest.
    const manifest = join(out, manifestFile({ index: 1, count: 2 }));
    const stored = JSON.parse(await readFile(manifest, 'utf8'));
    const refer = (corpus: unknown) => writeFile(manifest, JSON.stringify({ ...stored, corpus }));
    const forge = async (text: string) => {
      const digest = createHash('sha256').update(text).digest('hex');
      const forged = `corpus-${digest.slice(0, 16)}.json`;
      await writeFile(join(out, forged), text);
      await refer({ file: forged, bytes: Buffer.byteLength(text), sha256: digest });
      return forged;
    };
    for (const [change, problem] of [
      [{ corpus: 5 }, 'corpus must be a list'],
      [{ corpus: [{ kind: 'program' }] }, 'corpus\\[0\\]\\.kind must be one of'],
      [{ corpus: [{ kind: 'text', bytes: -1 }] }, 'corpus\\[0\\]\\.bytes must be an integer'],
      [{ format: 'other' }, 'format must be "sonde corpus"'],
      [{ version: 2 }, 'version must be 1'],
    ] as const) {
      const forged = await forge(JSON.stringify({ ...JSON.parse(good), ...change }));
      await refused(new RegExp(`${forged}: is not the list of the corpus: ${problem}`));
    }
    await refused(new RegExp(`${await forge('{"format":')}: is not the list of the corpus: .*JSON`));
    // Unknown fields are left out, and the order of the fields and the spaces do not matter.
    const { corpus, ...rest } = JSON.parse(good);
    const reversed = corpus.map((source: object) => Object.fromEntries(Object.entries(source).reverse()));
    await forge(JSON.stringify({ evil: 1, corpus: reversed, ...rest }).replace('{', '{"__proto__":{"corpus":[]},'));
    const [one, two] = [...(await readManifests(openStore(out))).values()] as [Manifest, Manifest];
    assert.is(one.corpus, two.corpus);
    assert.equal(one.corpus, plantedCorpus(20));

    for (const [reference, problem] of [
      [{ file, bytes, sha256: sha256.replace(/^./, 'x') }, /corpus\.sha256 must be a SHA-256 in hexadecimal/],
      [{ file, bytes, sha256: '0'.repeat(64) }, /corpus must be a reference whose "file" is named by its "sha256"/],
      [{ file: `../${file}`, bytes, sha256 }, /corpus\.file must be the name of a list of a corpus/],
      [{ file: 'manifest-0-of-2.json', bytes, sha256 }, /corpus\.file must be the name/],
      [{ file, bytes: 2 ** 40, sha256 }, /corpus\.bytes must be an integer from 1 to 268435456/],
      [{ file, bytes: 0, sha256 }, /corpus\.bytes must be/],
      [{ file, sha256 }, /corpus\.bytes is missing/],
      [
        { ...referenceTo(plantedCorpus(21)) },
        /corpus-[0-9a-f]{16}\.json: is not the list of the corpus: it is missing/,
      ],
      [null, /corpus must be a list/],
      ['corpus', /corpus must be a list/],
    ] as const) {
      await refer(reference);
      await refused(problem);
    }
    // Another digest that begins like the one of the file is another list.
    await refer({ file, bytes, sha256: `${sha256.slice(0, 16)}${'0'.repeat(48)}` });
    await refused(/its SHA-256 is [0-9a-f]{64}, but the manifest says/);
    await rm(manifest);
    const alone = { ...stored, part: whole, shards: [], corpus: referenceTo(plantedCorpus(20)) };
    await writeFile(join(out, 'manifest.json'), JSON.stringify(alone));
    await refused(
      /manifest\.json: is not a manifest of a dump: its "corpus" is not as it should be: only a part refers/,
    );
  }));

test('the manifest of a whole dump that was merged stands for a list that is gone', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    await plantParts(out, { parts: 3, files: 20 });
    const corpus = plantedCorpus(20);
    const shards = [0, 1, 2].flatMap((index) => plantedPart(corpus, { index, count: 3 }).shards);
    await writeManifest(openStore(out), { ...plantedPart(corpus, whole), shards });
    await rm(join(out, referenceTo(corpus).file));
    assert.equal([...(await readManifests(openStore(out))).keys()], ['manifest.json']);
  }));

test.run();
