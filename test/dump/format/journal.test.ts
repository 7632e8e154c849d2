// The journal of a manifest. Oracle: the entries that were recorded. Whatever happens to the file, no entry is read
// that was not written, and every line that is whole counts.
import { execFileSync } from 'node:child_process';
import { mkdir, readdir, readFile, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { isJournal, JournalWriter } from '../../../src/dump/format/journal.js';
import {
  digestOfSettings,
  makeManifest,
  manifestFile,
  readManifests,
  type ShardEntry,
  shardNumber,
  whole,
  writeManifest,
} from '../../../src/dump/format/manifest.js';
import type { DumpSettings, Part } from '../../../src/dump/format/settings.js';
import { DiskStore } from '../../../src/files/store/disk_store.js';
import type { Appender, Store } from '../../../src/files/store/store.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { entryOf, tinySettings } from './entries.js';

const test = suite('journal');
const file = 'journal.jsonl';

/** A folder with the manifest of a dump under way, and the path of its journal. */
const withDump = (
  body: (store: DiskStore, path: string) => Promise<void>,
  { part = whole, listed = [] }: { part?: Part; listed?: readonly ShardEntry[] } = {},
): Promise<void> =>
  withFolder(async (folder) => {
    const store = new DiskStore(folder);
    await writeManifest(store, makeManifest({ ...tinySettings, part }, ['1 cpu'], listed, false));
    await body(store, join(folder, file));
  });

async function record(
  store: Store,
  entries: readonly ShardEntry[],
  settings: DumpSettings = tinySettings,
  digest = digestOfSettings(settings),
): Promise<void> {
  const journal = new JournalWriter(store, settings.part, digest);
  for (const entry of entries) await journal.add(entry);
  await journal.close();
}

async function shardsIn(store: Store, part = whole): Promise<readonly ShardEntry[]> {
  return (await readManifests(store)).get(manifestFile(part))?.shards ?? [];
}

const numbersIn = async (store: Store): Promise<number[]> =>
  (await shardsIn(store)).map((entry) => shardNumber(entry.file) as number);

test('entries come back with those of the manifest, in order; the file is made by the first one', () =>
  withDump(
    async (store, path) => {
      const journal = new JournalWriter(store, whole, digestOfSettings(tinySettings));
      assert.equal(await store.list(), ['manifest.json']);
      const special = { ...entryOf(3), nonFinite: { 'resid/post_emb': { nan: 1, infinite: 2, values: 4 } } };
      for (const entry of [entryOf(5), special, entryOf(0)]) await journal.add(entry);
      assert.equal([journal.entries, journal.isFull], [3, false]);
      assert.equal(await shardsIn(store), [entryOf(0), entryOf(1), special, entryOf(5)]);
      const lines = (await readFile(path, 'utf8')).split('\n');
      assert.equal(JSON.parse(lines[0] as string), {
        ...{ format: 'sonde journal', version: 1, dump: digestOfSettings(tinySettings) },
      });
      assert.equal([lines.length, lines.at(-1)], [5, '']);
      assert.is((await readFile(path)).length, (lines[0] as string).length + 1 + journal.bytes);
      await journal.remove();
      assert.equal(await store.list(), ['manifest.json']);
      await journal.add(entryOf(7));
      await journal.close();
      assert.equal(await numbersIn(store), [1, 7]);
    },
    { listed: [entryOf(1)] },
  ));

test('a name that JSON leaves as it is, line separators of Unicode included', () => {
  const name = 'resid/\u2028\u2029 ü';
  const settings = { ...tinySettings, locations: [{ location: name, shape: [4, 2] }] };
  return withFolder(async (folder) => {
    const store = new DiskStore(folder);
    await writeManifest(store, makeManifest(settings, ['1 cpu'], [], false));
    const entry = { ...entryOf(0), nonFinite: { [name]: { nan: 1, infinite: 0, values: 8 } } };
    await record(store, [entry], settings);
    assert.equal(await shardsIn(store), [entry]);
  });
});

test('cut at every byte, the whole lines count, and a new one can be appended', () =>
  withDump(async (store, path) => {
    await record(store, [entryOf(0), entryOf(1), entryOf(2)]);
    const all = await readFile(path);
    for (let size = 0; size < all.length; size++) {
      await writeFile(path, all.subarray(0, size));
      const lines = Math.max(0, all.toString('latin1', 0, size).split('\n').length - 2);
      const whole = [0, 1, 2].slice(0, lines);
      assert.equal(await numbersIn(store), whole, `${size} bytes`);
      if (size % 5 > 0) continue;
      await record(store, [entryOf(9)]);
      assert.equal(await numbersIn(store), [...whole, 9], `${size} bytes and a line`);
    }
  }));

test('with any byte changed, the other lines count', () =>
  withDump(async (store, path) => {
    const entries = [entryOf(0), entryOf(1), entryOf(2)];
    await record(store, entries);
    const all = await readFile(path);
    let line = -1; // the first one has no entry
    for (let at = 0; at < all.length; at++) {
      const isEnd = all[at] === 10;
      for (const bit of [1, 128]) {
        const changed = Buffer.from(all);
        changed[at] = (changed[at] as number) ^ bit;
        await writeFile(path, changed);
        const lost = isEnd ? [line, line + 1] : [line];
        assert.equal(
          await shardsIn(store),
          entries.filter((_, i) => !lost.includes(i)),
          `byte ${at}`,
        );
      }
      if (isEnd) line++;
    }
  }));

test('lines of another dump, of another part and of another version do not count', () =>
  withDump(async (store, path) => {
    await record(store, [entryOf(0)], { ...tinySettings, seed: 7 });
    await record(
      store,
      [entryOf(1)],
      tinySettings,
      digestOfSettings({ ...tinySettings, part: { index: 0, count: 2 } }),
    );
    await record(store, [entryOf(2)]);
    const text = await readFile(path, 'utf8');
    assert.equal(await numbersIn(store), [2]);
    await writeFile(path, text.replaceAll('"version":1', '"version":2'));
    assert.equal(await numbersIn(store), [2], 'the checksum of a line is of version 1');
    await writeFile(
      path,
      text.replace(/^.*\n/gm, (line) => (line.startsWith('{') ? '' : line)),
    );
    assert.equal(await numbersIn(store), [2], 'without first lines');
  }));

test('the journal of a part counts for nothing under the name of another part', () => {
  const [zero, one] = [0, 1].map((index) => ({ index, count: 2 })) as [Part, Part];
  return withDump(
    async (store) => {
      await record(store, [entryOf(1)], { ...tinySettings, part: one });
      await rename(join(store.name, 'journal-1-of-2.jsonl'), join(store.name, 'journal-0-of-2.jsonl'));
      assert.equal(await shardsIn(store, zero), []);
      await record(store, [entryOf(2)], { ...tinySettings, part: zero });
      assert.equal(await shardsIn(store, zero), [entryOf(2)]);
    },
    { part: zero },
  );
});

test('of two lines of a shard, the last one counts, and it counts for more than the manifest', () => {
  const other = { ...entryOf(1), sha256: 'f'.repeat(64) };
  return withDump(
    async (store, path) => {
      await record(store, [entryOf(1), other, entryOf(2)]);
      const text = await readFile(path, 'utf8');
      assert.equal(await shardsIn(store), [entryOf(0), other, entryOf(2)]);
      await writeFile(path, text + text);
      assert.equal(await shardsIn(store), [entryOf(0), other, entryOf(2)]);
    },
    { listed: [entryOf(0), entryOf(1)] },
  );
});

test('what is no journal of a dump has no entries: an empty file, noise, a link, a pipe, a folder, a huge file', () =>
  withDump(
    async (store, path) => {
      await record(store, [entryOf(4)]);
      const good = await readFile(path);
      const first = good.subarray(0, good.indexOf(10) + 1);
      const places: [string, () => Promise<unknown>, boolean][] = [
        ['an empty file', () => writeFile(path, ''), true],
        ['the first line', () => writeFile(path, first), true],
        ['a part of the first line', () => writeFile(path, first.subarray(0, 9)), true],
        ['noise', () => writeFile(path, Buffer.alloc(5000, '\0\n{} ')), false],
        ['lines', () => writeFile(path, '\n'.repeat(2 ** 20)), false],
        [
          'a link',
          async () => {
            await writeFile(join(store.name, 'aside'), good);
            await symlink('aside', path);
          },
          false,
        ],
        ['a pipe', async () => execFileSync('mkfifo', [path]), false],
        ['a folder', () => mkdir(path), false],
        [
          'a huge file',
          async () => {
            await writeFile(path, good);
            await truncate(path, 2 ** 40);
          },
          true,
        ],
      ];
      for (const [what, put, looksLikeOne] of places) {
        await rm(path, { recursive: true });
        await put();
        assert.equal(await numbersIn(store), [0], what);
        assert.is(await isJournal(store, file), looksLikeOne, what);
      }
      await rm(path);
      assert.is(await isJournal(store, file), true, 'it is gone');
    },
    { listed: [entryOf(0)] },
  ));

test('a link or a pipe is not appended to', () =>
  withDump(async (store, path) => {
    const aside = join(store.name, 'aside');
    await writeFile(aside, 'untouched');
    await symlink('aside', path);
    await rejects(record(store, [entryOf(0)]), Error, /dump: cannot write .*journal\.jsonl: /);
    assert.is(await readFile(aside, 'utf8'), 'untouched');
    await rm(path);
    execFileSync('mkfifo', [path]);
    await rejects(record(store, [entryOf(0)]), Error, /dump: cannot write .*journal\.jsonl: /);
  }));

test('a whole line that cannot be an entry is an error, as it is in a manifest', () =>
  withDump(
    async (store, path) => {
      const part = { index: 0, count: 2 };
      const good = entryOf(0);
      for (const [entry, message] of [
        [null, /line 3 is not the entry of a shard: it must be an object/],
        [{ ...good, bytes: '100' }, /line 3 is not the entry of a shard: bytes must be an integer of 1 or more/],
        [{ ...good, file: '../evil' }, /line 3 is not the entry of a shard: file must be the name of such a file/],
        [{ ...good, sha256: undefined }, /line 3 is not the entry of a shard: sha256 is missing/],
        [{ ...good, file: 'shard-00003.safetensors' }, /with its shards, it lists a shard of another part/],
        [{ ...good, tokens: 9 }, /with its shards, a shard has more tokens than its rows hold/],
        [{ ...good, bytes: 8 }, /with its shards, shard-00000\.safetensors has 2 rows, which its 8 bytes cannot hold/],
        [{ ...good, parquet: [], nonFinite: { x: { nan: 1, infinite: 0, values: 1 } } }, /nothing is counted at "x"/],
      ] as const) {
        await record(store, [entryOf(2), entry as ShardEntry], { ...tinySettings, part });
        const named = /journal-0-of-2\.jsonl: does not go with manifest-0-of-2\.json: /;
        await rejects(readManifests(store), Error, named);
        await rejects(readManifests(store), Error, message);
        await rm(join(path, '..', 'journal-0-of-2.jsonl'));
      }
      assert.equal(await shardsIn(store, part), []);
      // What a later version may add is left out.
      await record(store, [{ ...good, more: 1 } as ShardEntry], { ...tinySettings, part });
      assert.equal(await shardsIn(store, part), [good]);
    },
    { part: { index: 0, count: 2 } },
  ));

test('a journal that is taken over while the manifest and it are read: before it is looked up, and before it is opened', () =>
  withDump(
    async (store, path) => {
      for (const step of ['find', 'open'] as const) {
        const entries = [entryOf(0)];
        await writeManifest(store, makeManifest(tinySettings, ['1 cpu'], entries, false));
        await record(store, [entryOf(1), entryOf(2)]);
        let isTaken = false;
        const takeOver = async () => {
          isTaken = true;
          const all = [...entries, entryOf(1), entryOf(2), entryOf(3)];
          await writeManifest(store, makeManifest(tinySettings, ['1 cpu'], all, false));
          await rm(path);
        };
        const reader = new Proxy<Store>(store, {
          get(target, name) {
            const value = Reflect.get(target, name);
            if (typeof value !== 'function') return value;
            return async (...all: unknown[]) => {
              if (!isTaken && name === step && all[0] === file) await takeOver();
              return value.apply(target, all);
            };
          },
        });
        assert.equal(await numbersIn(reader), [0, 1, 2, 3], step);
        assert.ok(isTaken);
      }
    },
    { listed: [entryOf(0)] },
  ));

test('a complete manifest needs no journal', () =>
  withDump(async (store) => {
    await record(store, [entryOf(0), entryOf(1)]);
    await writeManifest(store, makeManifest(tinySettings, ['1 cpu'], [entryOf(0)], true));
    assert.equal(await numbersIn(store), [0]);
  }));

/** The store, where an append writes so many bytes and fails. */
function failing(store: DiskStore, bytes: number, times: number): Store {
  return new Proxy<Store>(store, {
    get(target, name) {
      if (name !== 'append') {
        const value = Reflect.get(target, name);
        return typeof value === 'function' ? value.bind(target) : value;
      }
      return async (opened: string): Promise<Appender> => {
        const appender = await target.append(opened);
        return {
          isFull: false,
          async append(text) {
            if (times-- <= 0) return appender.append(text);
            await appender.append(text.slice(0, bytes));
            throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
          },
          close: () => appender.close(),
        };
      };
    },
  });
}

test('after an append that failed at any byte, the next one begins a line', () =>
  withDump(async (store, path) => {
    for (let bytes = 0; bytes < 250; bytes += 3) {
      const journal = new JournalWriter(failing(store, bytes, 2), whole, digestOfSettings(tinySettings));
      for (const number of [0, 1]) {
        await rejects(
          journal.add(entryOf(number)),
          /dump: cannot write .*journal\.jsonl: no space is left on the disk/,
        );
      }
      assert.equal([journal.entries, journal.mayExist], [0, true]);
      await journal.add(entryOf(2));
      await journal.add(entryOf(3));
      const found = await numbersIn(store);
      assert.equal(found.slice(-2), [2, 3], `${bytes} bytes: ${await readFile(path, 'utf8')}`);
      await journal.remove();
    }
    assert.equal(await readdir(store.name), ['manifest.json']);
  }));

test.run();
