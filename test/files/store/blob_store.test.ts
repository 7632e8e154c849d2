// A store in object storage, against a server that misbehaves. Oracle: the bytes that were written, and the blobs that
// the server holds after each step: a file is there whole or not at all, and every fault ends well or in an error that
// says why.
import { randomUUID } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { parseStoreAddress } from '../../../src/files/blob/blob_address.js';
import { blockBytes } from '../../../src/files/blob/blob_upload.js';
import { type Lease, thisProcess } from '../../../src/files/lease.js';
import { BlobStore } from '../../../src/files/store/blob_store.js';
import { DiskStore } from '../../../src/files/store/disk_store.js';
import { openStore } from '../../../src/files/store/open_store.js';
import { newTag, unfinishedOf } from '../../../src/files/store/store.js';
import type { BlobServer, Faults, ServedRequest } from '../../support/blobs/blob_server.js';
import {
  address,
  blobsOf,
  namelessFiles,
  pathOf,
  uncommittedOf,
  withBlobServer,
} from '../../support/blobs/blob_stores.js';
import { assertNamesStay } from '../../support/blobs/store_names.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite, throws } from '../../support/harness.js';
import { random } from '../../support/random.js';

const test = suite('blob store');
const MiB = 2 ** 20;
const file = 'shard-00000.safetensors';

const content = (size: number, seed = 1): Buffer => {
  const bytes = Buffer.alloc(size);
  const rng = random(seed);
  for (let i = 0; i + 4 <= size; i += 4096) bytes.writeUInt32LE(rng.integer(0, 2 ** 32 - 1), i);
  return bytes;
};

async function write(store: BlobStore, bytes: Buffer, name = file): Promise<void> {
  const draft = await store.draft(name, newTag());
  try {
    await draft.handle.write(bytes);
    await draft.publish();
  } catch (error) {
    await draft.discard();
    throw error;
  }
}

/** A fault for the first so many requests of an operation. */
const firstOf =
  (count: number, operation: string, faults: Faults) =>
  (request: ServedRequest): Faults | undefined =>
    request.operation === operation && count-- > 0 ? faults : undefined;

const counted = ({ requests }: BlobServer, operation: string): number =>
  requests.filter((request) => request.operation === operation).length;

// ---- addresses

test('addresses of stores, and whose credentials go with them', () => {
  const parse = parseStoreAddress;
  const plain = parse('az://account1/abc/d/e f//', {});
  assert.equal(plain, {
    ...{ name: 'az://account1/abc/d/e f', container: 'abc', prefix: 'd/e f/' },
    ...{ url: 'https://account1.blob.core.windows.net/abc', credentials: false },
  });
  assert.is(parse('az://account1/abc/', {}).prefix, '');
  const signed = { AZURE_STORAGE_ACCOUNT: 'account1', AZURE_STORAGE_SAS_TOKEN: '?sig=1' };
  assert.is(parse('az://account1/abc/d', signed).url, 'https://account1.blob.core.windows.net/abc?sig=1');
  assert.is(parse('az://account2/abc/d', signed).credentials, false);
  const string = 'AccountName=account1;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:1/account1/;';
  const own = parse('az://account1/abc/d', { AZURE_STORAGE_CONNECTION_STRING: string });
  assert.equal([own.connection, own.url], [{ string }, 'http://127.0.0.1:1/account1/abc']);
  const wrong = ['az://', 'az://account1', 'az://Account/abc/d', 'az://account1/x/d', 'az://account1/abc/d//e'];
  const away = [
    'abc/../d',
    'abc/d/../../e',
    'abc/./d',
    'abc/..',
    'abc/d\\..\\..\\e',
    'abc/d\0',
    'abc/d\ne',
    'abc/d\u001b',
  ];
  for (const text of [...wrong, ...away.map((path) => `az://account1/${path}`), 'az://account1/abc//']) {
    if (text.endsWith('c//')) assert.is(parse(text, {}).prefix, '');
    else
      throws(() => new BlobStore(text), Error, /no place for a dump; it must read az:\/\/account\/container\/prefix/);
  }
  const http = throws(
    () => openStore('https://a.blob.core.windows.net/c/d?sig=secret'),
    Error,
    /such as az:\/\/account/,
  );
  assert.ok(!http.message.includes('secret'));
});

test('files stay under the prefix, whatever their names are', () =>
  withFolder((folder) =>
    withBlobServer(async (server) => {
      process.env.TMPDIR = folder;
      await assertNamesStay(new BlobStore(address));
      assert.is(server.requests.length, 0);
      assert.equal(await readdir(folder), []);
      const store = new BlobStore(address);
      const names = ['...', '%2e%2e', 'a?b#c', 'ü%2f..'];
      for (const name of names) {
        await store.writeText(name, name);
        assert.is(blobsOf(server).get(name)?.toString(), name);
      }
      assert.equal(await store.list(), names.toSorted());
      await rejects(
        store.draft('e'.repeat(235), newTag()),
        /cannot be the name of a file there, as it is \d+ bytes long/,
      );
    }),
  ));

test('blobs that another program gave other names are listed, and those that are only blocks are removed', () =>
  withBlobServer(async (server) => {
    const names = ['..', '..\\evil', 'e'.repeat(300)];
    for (const name of names) server.account.put(pathOf(name), Buffer.from('x'));
    const store = new BlobStore(address);
    assert.equal(await store.list(), names);
    await rejects(store.remove('../evil.00000000.partial'), /"\.\.\/evil" cannot be the name/);
  }));

// ---- the plain case

for (const size of [1, 8 * MiB, 17 * MiB + 1]) {
  test(`a file of ${size} bytes comes in blocks and is read by ranges`, () =>
    withBlobServer(async (server) => {
      const store = new BlobStore(`${address}/`);
      assert.is(server.requests.length, 0);
      const bytes = content(size);
      await write(store, bytes);
      assert.ok(blobsOf(server).get(file)?.equals(bytes));
      assert.is(counted(server, 'put block'), Math.ceil(size / (8 * MiB)));
      assert.equal(await store.find(file), { size, regular: true });
      const source = await store.open(file);
      assert.is(source.name, `${address}/${file}`);
      assert.ok(bytes.equals(Buffer.from(await source.read(0, size))));
      server.sent = 0;
      assert.ok(bytes.subarray(size - 1).equals(Buffer.from(await source.read(size - 1, 1))));
      assert.is(server.sent, 1);
      await rejects(source.read(1, size), /is cut short or damaged/);
      await source.close();
    }));
}

test('a draft has no name on this machine, and bounds its blocks', () =>
  withFolder((folder) =>
    withBlobServer(async (server) => {
      const store = new BlobStore(address);
      process.env.TMPDIR = folder;
      const before = await namelessFiles();
      const draft = await store.draft(file, newTag());
      const part = await store.draft(file, newTag(), '0-indices');
      assert.equal(await readdir(folder), []);
      const nameless = (await namelessFiles()).filter((name) => !before.includes(name));
      assert.is(nameless.filter((name) => name.startsWith(folder)).length, 2);
      assert.match(draft.path, /shard-00000.*TMPDIR/);
      await part.discard();
      await draft.handle.truncate(60 * MiB);
      let [open, most] = [0, 0];
      server.faults = ({ operation }) => {
        if (operation !== 'put block') return undefined;
        most = Math.max(most, ++open);
        return { hold: sleep(50).then(() => open--) };
      };
      await draft.publish();
      await draft.discard();
      assert.ok(most > 1 && most <= 4, `${most} blocks at a time`);
      assert.equal(await namelessFiles(), before);
      assert.is(blobsOf(server).get(file)?.length, 60 * MiB);
      assert.is(counted(server, 'delete'), 0);
    }),
  ));

test('a blob never needs more blocks than Azure takes', () => {
  assert.is(blockBytes(0), 8 * MiB);
  for (const size of [400e9, 8 * MiB * 50_000, 8 * MiB * 50_000 + 1, 5e12]) {
    assert.ok(Math.ceil(size / blockBytes(size)) <= 50_000, String(size));
    assert.ok(blockBytes(size) >= 8 * MiB);
  }
});

test('lists are flat, in order, and go over pages', () =>
  withBlobServer(async (server) => {
    server.account.pageSize = 3;
    const store = new BlobStore(address);
    const names = Array.from({ length: 11 }, (_, i) => `file-${String(i * 7).padStart(2, '0')}.json`);
    for (const name of names.toReversed()) await store.writeText(name, `of ${name}`);
    server.put('openaipublic/dumps/a b/run/deeper/x', Buffer.from('x'));
    server.put('openaipublic/dumps/a b/runner', Buffer.from('x'));
    await rejects(store.open('none'), /az:.*none: there is no such blob \(404\)/);
    assert.equal(await store.list(), names);
    assert.is(counted(server, 'list'), 4); // twelve entries in pages of three
    assert.is(await store.find('none'), undefined);
    await store.remove('none');
    await store.remove(names[0] as string);
    assert.equal(await store.list(), names.slice(1));
    const bare = new BlobStore('az://openaipublic/dumps/');
    await bare.writeText('top.json', '{}');
    assert.equal(await bare.list(), ['top.json']);
    assert.equal(await new BlobStore('az://openaipublic/dumps/none').list(), []);
  }));

test('a blob that is replaced while it is read is an error', () =>
  withBlobServer(async () => {
    const store = new BlobStore(address);
    await store.writeText('a', 'one');
    const source = await store.open('a');
    await store.writeText('a', 'two');
    await rejects(source.read(0, 3), /run\/a: is another by now/);
  }));

test('names cannot be given to other files', () =>
  withBlobServer(async () => {
    const store = new BlobStore(address);
    const sentence = /parts in object storage must lie under one prefix: nothing is copied/;
    await rejects(store.link(new BlobStore('az://openaipublic/dumps/other'), file), sentence);
    await rejects(new DiskStore('.').link(store, file), /it is not on a disk of this machine, and nothing is copied/);
  }));

// ---- faults

const troubles: [string, string, Faults][] = [
  ['a cut connection', 'put block', { cutRequestAfter: 3 * MiB }],
  ['damaged bytes', 'put block', { damage: true }],
  ['an answer that is lost', 'put block', { loseAnswer: true }],
  ['a server that is busy', 'put block', { status: 503, code: 'ServerBusy' }],
  ['a server that fails', 'commit', { status: 500, code: 'InternalError' }],
  ['an answer that is lost', 'commit', { loseAnswer: true }],
  ['a gateway that fails', 'commit', { status: 502 }],
  ['damaged text', 'put blob', { damage: true }],
  ['an answer that is lost', 'put blob', { loseAnswer: true }],
  ['a cut connection', 'list', { cutAfter: 100 }],
  ['a timeout', 'list', { status: 408 }],
  ['a server that fails', 'head', { status: 504 }],
  ['a cut connection', 'get', { cutAfter: 1000 }],
  ['damaged bytes', 'get', { damage: true }],
  ['an answer that is lost', 'delete', { loseAnswer: true }],
];

for (const [what, operation, faults] of troubles) {
  test(`${operation}: ${what}, twice`, () =>
    withBlobServer(async (server) => {
      server.faults = firstOf(2, operation, faults);
      const store = new BlobStore(address);
      const bytes = content(9 * MiB);
      await write(store, bytes);
      await store.writeText('manifest.json', '{}');
      assert.equal(await store.list(), ['manifest.json', file]);
      const source = await store.open(file);
      assert.ok(bytes.equals(Buffer.from(await source.read(0, source.size))));
      assert.ok(blobsOf(server).get(file)?.equals(bytes));
      assert.is(blobsOf(server).get('manifest.json')?.toString(), '{}');
      await store.remove(file);
      assert.equal([...blobsOf(server).keys()], ['manifest.json']);
      assert.equal(uncommittedOf(server), []);
    }));
}

test('text is appended, block by block, and a blob that is there stays', () =>
  withBlobServer(async (server) => {
    const store = new BlobStore(address, { mostAppends: 4 });
    const one = await store.append('lines');
    assert.equal([await store.find('lines'), await store.list()], [undefined, ['lines.00000000.partial']]);
    assert.is(unfinishedOf('lines.00000000.partial'), 'lines');
    await one.append('a\n');
    const two = await store.append('lines');
    await two.append('ü'.repeat(3 * MiB)); // in two blocks
    assert.equal([one.isFull, two.isFull], [false, false]);
    await one.append('b\n');
    await one.append('');
    assert.equal([one.isFull, two.isFull], [true, false]);
    const text = `a\n${'ü'.repeat(3 * MiB)}b\n`;
    assert.is(String(blobsOf(server).get('lines')), text);
    await Promise.all([one.close(), two.close()]);
    await store.remove('lines.00000000.partial'); // it is no empty one
    assert.equal(await store.list(), ['lines']);
    await store.remove('lines');
    await rejects(two.append('c'), /run\/lines: there is no such blob \(404\)/);
    assert.equal(await store.list(), []);
    await store.writeText('text', 'x');
    await rejects((await store.append('text')).append('y'), /run\/text: .*409, InvalidBlobType/);
    const empty = await store.append('lines');
    await empty.close();
    await store.remove('lines.00000000.partial');
    assert.equal([...blobsOf(server).keys()], ['text']);
  }));

for (const [what, faults, times] of [
  ['a lost answer', { loseAnswer: true }, 2],
  ['a cut connection', { cutRequestAfter: 10 }, 1],
  ['damaged bytes', { damage: true }, 1],
  ['a server that fails', { status: 500 }, 1],
] as const) {
  test(`append: ${what}: the text is there`, () =>
    withBlobServer(async (server) => {
      const store = new BlobStore(address);
      server.faults = firstOf(1, 'create append', faults);
      const file = await store.append('lines');
      server.faults = firstOf(1, 'append', faults);
      const long = `${'a'.repeat(MiB)}\n`;
      await file.append(long);
      await file.append('b\n');
      assert.ok(String(blobsOf(server).get('lines')) === `${long.repeat(times)}b\n`);
    }));
}

test('a blob that grows is read as it was when it was opened', () =>
  withBlobServer(async (server) => {
    const store = new BlobStore(address);
    const appender = await store.append('lines');
    await appender.append('one\n');
    const fixed = await store.open('lines');
    const growing = await store.open('lines', { growing: true });
    await appender.append('two\n');
    assert.is(Buffer.from(await growing.read(0, growing.size)).toString(), 'one\n');
    await rejects(fixed.read(0, fixed.size), /is another by now/);
    // Another one in its place that is shorter cannot be read so far.
    server.account.put(pathOf('lines'), Buffer.from('x'));
    await rejects(growing.read(1, 3), /is another by now/);
  }));

test('Retry-After is waited for, in seconds and as a date, by writers and readers', () =>
  withBlobServer(async (server) => {
    const store = new BlobStore(address);
    const bytes = content(9 * MiB);
    const times = new Map<string, number[]>();
    const later = () => new Date(Date.now() + 2600).toUTCString(); // dates have no milliseconds: 1.6 s at least
    const asked: Record<string, Faults & { wait: number }> = {
      'put block': { status: 429, retryAfter: 1, wait: 1000 },
      commit: { status: 503, retryAfter: later(), wait: 1000 },
      get: { status: 503, retryAfter: 1, wait: 1000 },
    };
    server.faults = ({ operation, query }) => {
      const key = operation + (/blockid=([^&]*)/.exec(query)?.[1] ?? '');
      const seen = times.get(key) ?? [];
      times.set(key, [...seen, performance.now()]);
      if (operation === 'commit' && seen.length === 0) return { status: 503, retryAfter: later() };
      return seen.length === 0 ? asked[operation] : undefined;
    };
    await write(store, bytes);
    const source = await store.open(file);
    assert.ok(bytes.subarray(0, MiB).equals(Buffer.from(await source.read(0, MiB))));
    let checked = 0;
    for (const [key, [first = 0, second = 0]] of times) {
      if (!/^(put block|commit|get)/.test(key)) continue;
      checked++;
      assert.ok(second - first >= 990, `${key} came again after ${second - first} ms`);
    }
    assert.is(checked, 4);
    server.faults = () => ({ status: 503, code: 'ServerBusy', retryAfter: 600 });
    await rejects(store.list(), /status 503, ServerBusy and asks to be left alone for 600 seconds/);
  }));

test('a failure that no retry cures is an error at once, which says why', () =>
  withBlobServer(async (server) => {
    const store = new BlobStore(address);
    const credentials = /AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_SAS_TOKEN/;
    const refuse = (status: number, code: string) => {
      server.faults = () => ({ status, code });
      server.requests.length = 0;
    };
    refuse(403, 'AuthorizationPermissionMismatch');
    const denied = /run\/shard-00000.*: access is denied \(403, AuthorizationPermissionMismatch\)/;
    await rejects(write(store, content(100)), denied);
    assert.ok(server.requests.length <= 2, 'one try, and one to clear away');
    await rejects(store.writeText('a', 'b'), credentials);
    refuse(409, 'PublicAccessNotPermitted');
    await rejects(store.list(), /run: access is denied \(409, PublicAccessNotPermitted\)/);
    refuse(404, 'ResourceNotFound');
    await rejects(store.create(), credentials);
    refuse(400, 'InvalidBlockList');
    await rejects(write(store, content(100)), /another process wrote it meanwhile/);
    refuse(412, 'LeaseIdMissing');
    await rejects(store.writeText('a', 'b'), /another process holds it \(412, LeaseIdMissing\)/);
    refuse(400, 'InvalidUri');
    await rejects(store.list(), /the server answers with status 400, InvalidUri/);
    server.faults = () => undefined;
    const nowhere = new BlobStore('az://openaipublic/nowhere/x');
    await rejects(nowhere.create(), /nowhere\/x: there is no such container \(404, ContainerNotFound\)/);
    process.env.SONDE_BLOB_ENDPOINT = 'http://127.0.0.1:1/openaipublic';
    const away = await rejects(new BlobStore(address).list(), /run: the server cannot be reached \(ECONNREFUSED\)$/);
    assert.ok(!/cache/.test(away.message));
  }));

test('a failed upload leaves nothing, and an older file stays', () =>
  withBlobServer(async (server) => {
    const store = new BlobStore(address);
    const fail = () => firstOf(1, 'commit', { status: 400, code: 'InvalidInput' });
    server.faults = fail();
    await rejects(write(store, content(9 * MiB)), /status 400, InvalidInput/);
    assert.equal([blobsOf(server).size, uncommittedOf(server)], [0, []]);
    server.faults = () => undefined;
    const before = content(100, 7);
    await write(store, before);
    server.faults = fail();
    await rejects(write(store, content(9 * MiB)), /status 400/);
    assert.equal(blobsOf(server), new Map([[file, before]]));
    assert.equal(await store.list(), [file]);
    assert.equal(
      (await namelessFiles()).filter((name) => name.includes('shard-')),
      [],
    );
  }));

test('blocks of an upload that was killed are listed, and removed only while they are no blob', () =>
  withBlobServer(async (server) => {
    const store = new BlobStore(address);
    const leave = () => server.account.blocks.set(pathOf(file), new Map([['AAAA', Buffer.alloc(10)]]));
    const unfinished = `${file}.00000000.partial`;
    leave();
    assert.equal(await store.list(), [unfinished]);
    assert.is(unfinishedOf(unfinished), file);
    assert.is(await store.find(file), undefined);
    await store.remove(unfinished);
    assert.equal([await store.list(), uncommittedOf(server), blobsOf(server).size], [[], [], 0]);
    // killed between the commit of the empty blob and its deletion: it counts as unfinished
    leave();
    let deleted: string[] = [];
    server.faults = ({ operation }) => {
      if (operation === 'delete') deleted = [...blobsOf(server)].map(([name, { length }]) => `${name} ${length}`);
      return operation === 'delete' ? { status: 400, code: 'Killed' } : undefined;
    };
    await rejects(store.remove(unfinished), /Killed/);
    assert.equal(deleted, [`${file} 0`]);
    assert.equal(await store.list(), [unfinished]);
    assert.is(await store.find(file), undefined);
    server.faults = () => undefined;
    await store.remove(unfinished);
    assert.equal([await store.list(), blobsOf(server).size], [[], 0]);
    // another client finishes the file at each of its steps
    for (const step of ['commit', 'head', 'delete']) {
      server.account.blobs.clear();
      leave();
      if (step === 'head') await store.writeText(file, '');
      server.faults = ({ operation }) => {
        if (operation === step) server.account.put(pathOf(file), Buffer.from('whole'));
        return undefined;
      };
      await store.remove(unfinished);
      assert.is(blobsOf(server).get(file)?.toString(), 'whole', step);
    }
    server.faults = () => undefined;
    leave();
    assert.equal(await store.list(), [file]);
  }));

// ---- leases

const leaseName = 'manifest.json.claim';
const owner = (server: BlobServer) => JSON.parse(String(blobsOf(server).get(leaseName)));

async function taken(store: BlobStore): Promise<Lease> {
  const lease = await store.takeLease(leaseName);
  if (typeof lease === 'string') throw new Error(`held by ${lease}`);
  return lease;
}

/** Takes the lease for so many seconds, as another process would; nothing renews it. `changes` describe its owner. */
async function hold(server: BlobServer, seconds: number, changes: object): Promise<string> {
  const id = randomUUID();
  const body = Buffer.from(JSON.stringify({ ...thisProcess(), host: 'some-host', token: id, ...changes }));
  const headers: Record<string, string> = {
    ...{ 'x-ms-lease-action': 'acquire', 'x-ms-lease-duration': String(seconds), 'x-ms-proposed-lease-id': id },
  };
  server.account.put(pathOf(leaseName), body);
  server.account.answer({
    ...{ method: 'PUT', path: pathOf(leaseName), query: new URLSearchParams('comp=lease'), body: Buffer.alloc(0) },
    header: (name) => headers[name],
  });
  return id;
}

test('one has the lease and is named; then the next one', () =>
  withBlobServer(async (server) => {
    const store = new BlobStore(address);
    const lease = await taken(store);
    const { pid, token } = owner(server);
    assert.is(pid, process.pid);
    assert.match(token, /^[0-9a-f-]{36}$/);
    assert.is(await lease.lost(), false);
    const begun = performance.now();
    assert.match(String(await store.takeLease(leaseName)), new RegExp(`^process ${process.pid} on .`));
    assert.ok(performance.now() - begun < 2000, 'at once');
    await rejects(store.writeText(leaseName, 'x'), /another process holds it/);
    await lease.release();
    assert.is(blobsOf(server).size, 0);
    const next = await taken(store);
    assert.is(await lease.lost(), true);
    await lease.release();
    assert.is(await next.lost(), false);
    await next.release();
  }));

test('a dead process of this machine is succeeded at once, and a faster process does not lose its lease', () =>
  withBlobServer(async (server) => {
    const dead = 2 ** 22 + 1; // above what Linux gives
    await hold(server, 60, { pid: dead });
    const begun = performance.now();
    const lease = await taken(new BlobStore(address));
    assert.ok(performance.now() - begun < 2000);
    assert.is(owner(server).pid, process.pid);
    await lease.release();
    // The blob names a dead process, but the lease is a living one's already, which writes its name next.
    server.account.shortestLease = 1;
    await hold(server, 60, { pid: dead, token: randomUUID() });
    const refused = await new BlobStore(address, { leaseSeconds: 1 }).takeLease(leaseName);
    assert.is(refused, `process ${dead} on some-host`);
    assert.is(counted(server, 'break'), 0);
  }));

test('a lease of another machine is waited for, as long as a lease lasts', () =>
  withBlobServer(async (server) => {
    server.account.shortestLease = 1;
    const store = new BlobStore(address, { leaseSeconds: 1.5 });
    const elsewhere = { place: 'elsewhere', pid: 77 };
    await hold(server, 1, elsewhere);
    const lease = await taken(store);
    await lease.release();
    await hold(server, 60, elsewhere);
    assert.is(await store.takeLease(leaseName), 'process 77 on some-host');
    server.account.put(pathOf(leaseName), Buffer.from('torn'));
    assert.is(await store.takeLease(leaseName), 'another process');
  }));

test('one that made the blob, but was slower with the lease, does not name itself', () =>
  withBlobServer(async (server) => {
    server.account.shortestLease = 1;
    server.faults = ({ operation }) => {
      if (operation === 'acquire') server.account.steal(pathOf(leaseName));
      return undefined;
    };
    assert.is(await new BlobStore(address, { leaseSeconds: 1 }).takeLease(leaseName), 'another process');
    assert.is(owner(server).pid, process.pid);
  }));

test('a lease is renewed; one that is taken or deleted is lost', () =>
  withBlobServer(async (server) => {
    server.account.shortestLease = 1;
    const store = new BlobStore(address, { leaseSeconds: 1 });
    const lease = await taken(store);
    while (counted(server, 'renew') < 4) await sleep(20); // one by one within a third of its time
    await rejects(store.writeText(leaseName, 'x'), /another process holds it/);
    assert.is(await lease.lost(), false);
    server.account.steal(pathOf(leaseName));
    assert.is(await lease.lost(), true);
    await lease.release();
    assert.ok(blobsOf(server).has(leaseName), "another process's lease stays");
    server.account.blobs.clear();
    const next = new BlobStore('az://openaipublic/dumps/next');
    const second = await taken(next);
    server.account.blobs.clear();
    assert.is(await second.lost(), true);
    await second.release();
  }));

test('without a connection a lease is lost when its time is over, and not before', () =>
  withBlobServer(async (server) => {
    server.account.shortestLease = 1;
    const store = new BlobStore(address, { leaseSeconds: 3 });
    const lease = await taken(store);
    server.faults = () => ({ status: 503 });
    assert.is(await lease.lost(), false);
    await sleep(3000);
    assert.is(await lease.lost(), true);
    server.faults = () => undefined;
    assert.is(await lease.lost(), false); // no other process has taken it
    server.faults = firstOf(1, 'renew', { loseAnswer: true });
    assert.is(await lease.lost(), false);
    server.faults = () => ({ status: 403, code: 'AuthenticationFailed' });
    await lease.release(); // as far as it can be
    server.faults = () => undefined;
    server.faults = firstOf(1, 'acquire', { loseAnswer: true });
    await sleep(200);
    assert.is(typeof (await new BlobStore('az://openaipublic/dumps/other').takeLease(leaseName)), 'object');
  }));

test.run();
