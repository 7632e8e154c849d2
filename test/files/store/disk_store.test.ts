// A store on a disk. Oracle: the files in and around its folder.
import { execFileSync } from 'node:child_process';
import { mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { DiskStore } from '../../../src/files/store/disk_store.js';
import { isPlainName, newTag } from '../../../src/files/store/store.js';
import { assertNamesStay, hostileNames } from '../../support/blobs/store_names.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';

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

test('a file is appended to by several, and is made when it is opened', () =>
  withFolder(async (folder) => {
    const store = new DiskStore(folder);
    const [one, two] = [await store.append('lines'), await store.append('lines')];
    assert.equal([await store.list(), await store.find('lines')], [['lines'], { size: 0, regular: true }]);
    await one.append('a\n');
    await two.append('ü'.repeat(100_000));
    await one.append('\nb\n');
    const before = await store.open('lines');
    await two.append('');
    await two.append('c\n');
    assert.equal([one.isFull, two.isFull], [false, false]);
    await Promise.all([one.close(), two.close()]);
    const text = `a\n${'ü'.repeat(100_000)}\nb\n`;
    assert.is(Buffer.from(await before.read(0, before.size)).toString(), text);
    await before.close();
    assert.is(await readFile(join(folder, 'lines'), 'utf8'), `${text}c\n`);
  }));

test('neither a link, a pipe nor a folder is appended to', () =>
  withFolder(async (folder) => {
    const store = new DiskStore(folder);
    await writeFile(join(folder, 'aside'), 'untouched');
    await symlink('aside', join(folder, 'link'));
    await symlink('nowhere', join(folder, 'dangling'));
    execFileSync('mkfifo', [join(folder, 'pipe')]);
    await mkdir(join(folder, 'folder'));
    for (const name of ['link', 'dangling', 'pipe', 'folder']) {
      await rejects(store.append(name), /ELOOP|ENXIO|EISDIR/);
    }
    assert.is(await readFile(join(folder, 'aside'), 'utf8'), 'untouched');
    assert.equal(await store.find('nowhere'), undefined);
  }));

test.run();
