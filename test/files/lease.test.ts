// Oracle: the file of a lease, and what another process could leave under its name: links, pipes, folders, long files.
import { execFileSync } from 'node:child_process';
import { lstat, mkdir, open, readdir, readFile, rename, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { leaseOrOwner, parseOwner, showOwner, takeLease, thisProcess } from '../../src/files/lease.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite } from '../support/harness.js';

const test = suite('lease');
test.limit(20_000); // reading from the pipe would block forever

test('a lease is held, its owner is named, and it is released', () =>
  withFolder(async (folder) => {
    const held = await takeLease(folder);
    assert.ok(held);
    assert.is(await held.lost(), false);
    assert.is(await leaseOrOwner(folder, 'claim'), `process ${process.pid} on ${hostname()}`);
    await held.release();
    assert.equal(await readdir(folder), []);
  }));

test('owners that come and go, each for a moment, are waited for: only one that stays is named', () =>
  withFolder(async (folder) => {
    await replaced(folder, 0);
    let isDone = false;
    const waiting = leaseOrOwner(folder, 'claim').finally(() => {
      isDone = true;
    });
    for (let turn = 1; turn < 100 && !isDone; turn++) {
      await replaced(folder, turn);
      await sleep(10);
    }
    assert.is(isDone, false);
    await rm(join(folder, 'claim'), { force: true });
    const lease = await waiting;
    if (typeof lease === 'string') throw new Error(`${lease} was named`);
    await lease.release();
    assert.equal(await readdir(folder), []);
  }));

/**
 * Replaces the lease by that of another owner, which is at work, in one step: at no moment is there no lease. The owner
 * is this process under a new token.
 */
async function replaced(folder: string, turn: number): Promise<void> {
  const next = join(folder, 'next');
  await writeFile(next, JSON.stringify(thisProcess()));
  const time = new Date(Date.now() + turn);
  await utimes(next, time, time);
  await rename(next, join(folder, 'claim'));
}

const obstacles: [what: string, make: (path: string, outside: string) => Promise<void>][] = [
  ['a pipe', async (path) => void execFileSync('mkfifo', [path])],
  ['a link that leads nowhere', (path) => symlink('nowhere', path)],
  ['a link to itself', (path) => symlink('claim', path)],
  ['a link to a device that never ends', (path) => symlink('/dev/zero', path)],
  ['a link to a file', (path, outside) => symlink(outside, path)],
];
for (const [what, make] of obstacles) {
  test(`${what} is no lease: it is neither followed nor waited for, and is replaced`, () =>
    withFolder(async (folder) => {
      const outside = join(folder, 'outside');
      await writeFile(outside, JSON.stringify(thisProcess()));
      const { mtimeMs } = await stat(outside);
      await mkdir(join(folder, 'in'));
      const path = join(folder, 'in', 'claim');
      await make(path, outside);
      const held = await takeLease(join(folder, 'in')); // at once, without waiting until it is stale
      if (!held) throw new Error('it was not replaced');
      assert.ok((await lstat(path)).isFile());
      await held.release();
      assert.equal(await readdir(join(folder, 'in')), []);
      assert.is(JSON.parse(await readFile(outside, 'utf8')).pid, process.pid);
      assert.is((await stat(outside)).mtimeMs, mtimeMs);
    }));
}

test('a lease whose file a link has replaced is lost, and no file outside is touched or removed', () =>
  withFolder(async (folder) => {
    const held = await takeLease(folder, 'c');
    const outside = join(folder, 'outside');
    const text = await readFile(join(folder, 'c'), 'utf8');
    await writeFile(outside, text);
    execFileSync('ln', ['-sf', 'outside', join(folder, 'c')]);
    assert.is(await held?.lost(), true);
    await held?.release();
    assert.is(await readFile(outside, 'utf8'), text);
    assert.ok((await lstat(join(folder, 'c'))).isSymbolicLink());
  }));

test("a folder under the name of a lease's file is named", () =>
  withFolder(async (folder) => {
    await mkdir(join(folder, 'claim'));
    await rejects(
      leaseOrOwner(folder, 'claim'),
      Error,
      /claim is a folder, where the file of the process .*: remove it/,
    );
  }));

test('a file of a terabyte is not read, and an old one is replaced', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'claim');
    const handle = await open(path, 'w');
    await handle.write(JSON.stringify(thisProcess()));
    await handle.truncate(2 ** 40);
    await handle.close();
    assert.is(await takeLease(folder), undefined); // it is fresh
    const old = new Date(Date.now() - 60_000);
    await utimes(path, old, old);
    const held = await takeLease(folder);
    assert.ok(held);
    await held.release();
  }));

test('owners are checked, and their names are shown on one line', () => {
  const owner = { token: 't', host: 'h', place: 'p', pid: 1 };
  assert.equal(parseOwner(JSON.stringify(owner)), owner);
  for (const change of [{ pid: 0 }, { pid: '1' }, { host: 1 }, { place: null }, { token: {} }]) {
    assert.is(parseOwner(JSON.stringify({ ...owner, ...change })), undefined);
  }
  for (const text of ['', '{', 'null', '[]', '"x"']) assert.is(parseOwner(text), undefined);
  assert.is(showOwner({ ...owner, host: 'a\n\x1b[2J' }), 'process 1 on a\\n\\u001b[2J');
});

test.run();
