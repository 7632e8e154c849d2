// A store on a disk. Oracle: the files in and around its folder.
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { DiskStore } from '../../../src/files/store/disk_store.js';
import { isPlainName, newTag } from '../../../src/files/store/store.js';
import { assertNamesStay, hostileNames } from '../../support/blobs/store_names.js';
import { withFolder } from '../../support/folders.js';
import { suite } from '../../support/harness.js';

const test = suite('disk store');

test('files stay in the folder, whatever their names are', () =>
  withFolder(async (folder) => {
    const inside = join(folder, 'a', 'store');
    await mkdir(inside, { recursive: true });
    for (const path of ['evil', 'a/evil', 'a/store/evil']) await writeFile(join(folder, path), 'untouched');
    await assertNamesStay(new DiskStore(inside));
    for (const path of ['evil', 'a/evil', 'a/store/evil']) {
      assert.is(await readFile(join(folder, path), 'utf8'), 'untouched');
    }
    assert.equal((await readdir(folder, { recursive: true })).sort(), [
      'a',
      'a/evil',
      'a/store',
      'a/store/evil',
      'evil',
    ]);
  }));

test('odd names that are allowed', () =>
  withFolder(async (folder) => {
    const store = new DiskStore(folder);
    const names = ['...', '..a', ' ', 'C:', 'manifest.json', 'ü%2f..', '%2e%2e', 'e'.repeat(230)];
    for (const name of names) {
      assert.ok(isPlainName(name), name);
      await store.writeText(name, name);
      const draft = await store.draft(name, newTag());
      await draft.handle.write('again');
      await draft.publish();
      assert.is(await readFile(join(folder, name), 'utf8'), 'again');
    }
    assert.equal(await store.list(), names.sort());
    assert.equal(await store.find('e'.repeat(255)), undefined);
    for (const [name] of hostileNames) assert.not.ok(isPlainName(name));
  }));

test('files with other names are listed', () =>
  withFolder(async (folder) => {
    const names = ['..\\manifest.json', 'a\nb', 'manifest.json'];
    for (const name of names) await writeFile(join(folder, name), '{}');
    assert.equal(await new DiskStore(folder).list(), names);
  }));

test.run();
