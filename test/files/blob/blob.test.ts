// openBlob and its cache against a server that misbehaves. Oracle: the bytes that were put there. With every fault, the
// outcome is those bytes or an error that says why, and the cache never holds a wrong file.
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { appendFile, copyFile, mkdir, readdir, readFile, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { fetchBlobs, openBlob, readText } from '../../../src/files/blob/blob.js';
import { clearCache, listCache, verifyCache } from '../../../src/files/blob/blob_cache.js';
import { loadSafetensors, saveSafetensors } from '../../../src/files/safetensors/safetensors.js';
import { loadTorch, saveTorch } from '../../../src/files/torch/torch.js';
import { BlobServer, type ServerOptions } from '../../support/blobs/blob_server.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { canMount } from '../../support/machine.js';

const test = suite('blob');
const MiB = 2 ** 20;
const address = 'az://openaipublic/models/a/file.pt';
const path = 'openaipublic/models/a/file.pt';
const child = fileURLToPath(new URL('./fetch_in_child.js', import.meta.url));

/** Bytes that repeat nowhere. */
function content(size: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(size);
  let state = seed * 2654435761;
  for (let i = 0; i + 4 <= size; i += 4) {
    state = (Math.imul(state ^ (state >>> 15), 0x85ebca6b) + i) | 0;
    bytes.writeInt32LE(state, i);
  }
  return bytes;
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const md5 = (bytes: Uint8Array): string => createHash('md5').update(bytes).digest('base64');

/** A server, and a cache of its own. */
async function withServer(
  body: (server: BlobServer, cache: string) => Promise<void>,
  options: ServerOptions = {},
): Promise<void> {
  await withFolder(async (cache) => {
    await using server = await BlobServer.start(options);
    const before = { ...process.env };
    Object.assign(process.env, { SONDE_CACHE: cache, SONDE_BLOB_ENDPOINT: server.endpoint });
    try {
      await body(server, cache);
    } finally {
      for (const name of Object.keys(process.env)) if (!(name in before)) delete process.env[name];
      Object.assign(process.env, before);
    }
  });
}

async function fetched(where = address, options: Parameters<typeof openBlob>[1] = {}): Promise<Buffer> {
  await using file = await openBlob(where, options);
  return Buffer.from(await file.read());
}

const gets = (server: BlobServer): number => server.requests.filter(({ method }) => method === 'GET').length;

/** Files in the cache that should be whole. */
function wholeFiles(cache: string): string[] {
  const all = readdirSync(cache, { recursive: true }).map(String);
  return all.filter((name) => /\/[0-9a-f]{16}-[^/]*$/.test(name)).map((name) => join(cache, name));
}

function startChild(where = address): ChildProcess & { outcome: Promise<string>; begun: Promise<void> } {
  const running = spawn(process.execPath, [child, where], { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  const begun = new Promise<void>((resolve) => {
    running.stdout.on('data', (text) => {
      output += text;
      if (output.includes('begun')) resolve();
    });
  });
  const outcome = new Promise<string>((resolve) => {
    running.on('close', () => resolve(output.replace('begun\n', '').trim()));
  });
  return Object.assign(running, { outcome, begun });
}

// ---- the plain case

test('fetches once, in parallel ranges, and reads the copy afterwards', () =>
  withServer(async (server) => {
    const bytes = content(21 * MiB + 5);
    server.put(path, bytes, { md5: md5(bytes) });
    const seen: number[] = [];
    await using file = await openBlob(address, {
      onProgress: ({ name, bytes: came, total }) => {
        assert.is(name, address);
        assert.is(total, bytes.length);
        seen.push(came);
      },
    });
    assert.is(file.size, bytes.length);
    assert.is(file.name, address);
    assert.is(file.sha256, sha256(bytes));
    assert.ok(bytes.equals(readFileSync(file.path)));
    assert.ok(bytes.subarray(7, 1007).equals(Buffer.from(await file.read(7, 1000))));
    assert.ok(file.path.endsWith('-file.pt'), file.path);
    assert.is(seen[0], 0);
    assert.is(seen.at(-1), bytes.length);
    assert.ok(
      seen.every((value, i) => i === 0 || value >= (seen[i - 1] as number)),
      'progress only grows',
    );
    assert.is(gets(server), 6);
    const before = server.requests.length;
    assert.ok(bytes.equals(await fetched()));
    assert.is(server.requests.length, before);
    await rejects(file.read(0, bytes.length + 1), /openBlob: az:.*cut short or damaged/);
  }));

for (const size of [0, 1, 4 * MiB, 4 * MiB + 1]) {
  test(`a blob of ${size} bytes`, () =>
    withServer(async (server) => {
      const bytes = content(size);
      server.put(path, bytes);
      assert.ok(bytes.equals(await fetched()));
    }));
}

test('a path is opened where it lies', () =>
  withFolder(async (folder) => {
    const file = join(folder, 'here.bin');
    await writeFile(file, 'abc');
    await using open = await openBlob(file);
    assert.equal([open.path, open.size, open.sha256], [file, 3, undefined]);
    await rejects(openBlob(folder), /openBlob: .*is no regular file/);
    await rejects(openBlob(join(folder, 'none')), /openBlob: .*there is no such file/);
    await rejects(openBlob(''), TypeError, /openBlob: expected a path or an address, but got ''/);
    await rejects(openBlob(7 as unknown as string), TypeError, /but got number/);
    await rejects(openBlob(address, { timeout: 0 }), RangeError, /timeout must be above 0/);
  }));

test('every reader takes addresses and open blobs', () =>
  withServer((server, cache) =>
    withFolder(async (folder) => {
      const tensor = { dtype: 'float32', shape: [2], data: Float32Array.of(1, 2) } as const;
      await saveTorch(join(folder, 'x.pt'), { x: tensor });
      await saveSafetensors(join(folder, 'x.safetensors'), { x: tensor });
      server.put('openaipublic/models/x.pt', readFileSync(join(folder, 'x.pt')));
      server.put('openaipublic/models/x.safetensors', readFileSync(join(folder, 'x.safetensors')));
      server.put('openaipublic/models/x.json', Buffer.from('{"a":"ä"}'));
      assert.equal((await loadTorch('az://openaipublic/models/x.pt')).x, tensor);
      assert.equal((await loadSafetensors('az://openaipublic/models/x.safetensors')).x, tensor);
      assert.is(await readText('test', 'az://openaipublic/models/x.json'), '{"a":"ä"}');
      await rejects(readText('test', 'az://openaipublic/models/x.json', 5), /test: az:.*has 10 bytes, more than 5/);
      await using open = await openBlob(`${server.endpoint}/models/x.pt`);
      assert.equal((await loadTorch(open)).x, tensor);
      assert.equal((await loadTorch(open)).x, tensor); // a reader does not close what it was lent
      await rejects(
        loadTorch('az://openaipublic/models/x.json'),
        /loadTorch: az:\/\/openaipublic\/models\/x.json: is no file/,
      );
      assert.is(wholeFiles(cache).length, 3); // the same blob, however it was addressed
    }),
  ));

test('many at once: each is fetched once, several at a time', () =>
  withServer(async (server) => {
    const names = Array.from({ length: 40 }, (_, i) => `az://openaipublic/models/${i}.pt`);
    let [now, most] = [0, 0];
    server.faults = () => {
      most = Math.max(most, ++now);
      setTimeout(() => now--, 20);
      return { delay: 20 };
    };
    for (const i of names.keys()) server.put(`openaipublic/models/${i}.pt`, content(1000 + i, i));
    const all = fetchBlobs(names);
    for (const [i, name] of names.entries()) assert.ok(content(1000 + i, i).equals(await fetched(name)));
    assert.equal(
      (await all).map(({ name }) => name),
      names,
    );
    assert.is(gets(server), 40);
    assert.ok(most > 4, `${most} at once`);
    await rejects(fetchBlobs([...names, 'az://openaipublic/models/none.pt']), /there is no such blob \(404\)/);
  }));

// ---- faults

for (const [cutAfter, size] of [
  [3_000_000, 20 * MiB],
  [300_000, 8 * MiB], // a part takes more connections than there are retries
] as const) {
  test(`connections that are cut every ${cutAfter / 1e6} MB`, () =>
    withServer(async (server) => {
      const bytes = content(size);
      server.put(path, bytes);
      server.faults = ({ method }) => (method === 'GET' ? { cutAfter } : undefined);
      assert.ok(bytes.equals(await fetched()));
      assert.ok(gets(server) >= size / cutAfter, `${gets(server)} requests`);
      assert.ok(server.sent < bytes.length * 1.1, 'what had come was not asked for again');
    }));
}

test('killed with -9 in mid-download, and started again', () =>
  withServer(async (server, cache) => {
    const bytes = content(40 * MiB);
    server.put(path, bytes);
    server.faults = ({ method }) => (method === 'GET' ? { speed: 4 * MiB } : undefined);
    const first = startChild();
    await first.begun;
    await until(() => journalled(cache) >= 8 * MiB); // parts have come and the journal says so
    first.kill('SIGKILL');
    await first.outcome;
    assert.equal(wholeFiles(cache), []);
    const listed = await listCache();
    assert.is(listed.blobs.length, 0);
    assert.ok(listed.unfinishedBytes >= 8 * MiB);
    const sent = server.sent;
    server.faults = () => undefined;
    const left = join(
      cache,
      readdirSync(cache, { recursive: true })
        .map(String)
        .find((name) => name.endsWith('.journal')) as string,
    );
    await writeFile(`${left}.0123abcd.partial`, '{'); // as if it had been killed while it wrote the next one
    assert.is(await startChild().outcome, sha256(bytes));
    assert.ok(server.sent - sent <= 32 * MiB, `${server.sent - sent} bytes were fetched again`);
    assert.is((await listCache()).unfinishedBytes, 0);
  }));

/** The bytes that have come according to the journals. */
function journalled(cache: string): number {
  const journals = readdirSync(cache, { recursive: true })
    .map(String)
    .filter((name) => name.endsWith('.journal'));
  return journals.reduce(
    (sum, name) => sum + JSON.parse(readFileSync(join(cache, name), 'utf8')).parts.length * 4 * MiB,
    0,
  );
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 20));
}

/** Begins a download of `bytes` and ends it with some parts in its journal. Returns the path of the partial file. */
async function begin(server: BlobServer, cache: string, bytes: Buffer): Promise<string> {
  server.put(path, bytes);
  const before = server.requests.length;
  server.faults = ({ method }, number) =>
    method === 'GET' && number > before + 3 ? { delay: 300, status: 403 } : undefined;
  await rejects(fetched(), /access is denied/);
  server.faults = () => undefined;
  const partial = readdirSync(cache, { recursive: true })
    .map(String)
    .find((name) => name.endsWith('.partial'));
  assert.ok(journalled(cache) >= 4 * MiB);
  return join(cache, partial as string);
}

test('a partial file that was cut short, damaged, or of another version', () =>
  withServer(async (server, cache) => {
    const bytes = content(24 * MiB);
    await truncate(await begin(server, cache, bytes), 5000);
    assert.ok(bytes.equals(await fetched()));
    await clearCache();

    const partial = await begin(server, cache, bytes);
    const damaged = readFileSync(partial);
    damaged.fill(7);
    await writeFile(partial, damaged);
    assert.ok(bytes.equals(await fetched()));
    await clearCache();

    await writeFile((await begin(server, cache, bytes)).replace('.partial', '.journal'), '{"version":');
    assert.ok(bytes.equals(await fetched()));
    await clearCache();

    await begin(server, cache, bytes);
    const newer = content(24 * MiB, 2);
    server.put(path, newer);
    assert.ok(newer.equals(await fetched()));
    assert.is(wholeFiles(cache).length, 1);
  }));

test('answers that are too short', () =>
  withServer(async (server, cache) => {
    const bytes = content(6 * MiB);
    server.put(path, bytes);
    server.faults = ({ method }) => (method === 'GET' ? { shorten: 1 } : undefined);
    // each answer brings bytes, so the rest is requested; the last byte never comes
    await rejects(fetched(), /file\.pt: the (connection ended early|server (was asked for|answers))/);
    assert.equal(wholeFiles(cache), []);
    server.faults = () => undefined;
    assert.ok(bytes.equals(await fetched()));
  }));

test('bytes that are damaged on the way, once and each time', () =>
  withServer(async (server, cache) => {
    const bytes = content(6 * MiB);
    server.put(path, bytes);
    server.faults = (_, number) => (number === 1 ? { damage: true } : undefined);
    assert.ok(bytes.equals(await fetched()));
    assert.is(gets(server), 3);
    await clearCache();
    server.faults = () => ({ damage: true });
    await rejects(fetched(), /bytes were damaged on the way: their checksum does not fit/);
    assert.equal(wholeFiles(cache), []);
  }));

test('damaged bytes where only the whole has a checksum', () =>
  withServer(
    async (server, cache) => {
      const bytes = content(6 * MiB);
      server.put(path, bytes, { md5: md5(bytes) });
      server.faults = ({ method }, number) => (method === 'GET' && number < 3 ? { damage: true } : undefined);
      await rejects(fetched(), /what came is damaged: its MD5 is not the one that the server gives; nothing was kept/);
      assert.equal(wholeFiles(cache), []);
      assert.ok(bytes.equals(await fetched()), 'and the damaged parts are not used again');
    },
    { noChecksums: true },
  ));

test('replaced in mid-download: the new one, whole', () =>
  withServer(async (server, cache) => {
    const [older, newer] = [content(20 * MiB, 1), content(22 * MiB, 2)];
    server.put(path, older);
    server.faults = (_, number) => {
      if (number === 4) server.put(path, newer);
      return undefined;
    };
    assert.ok(newer.equals(await fetched()));
    assert.is(wholeFiles(cache).length, 1);
  }));

test('replaced again and again: an error, and nothing in the cache', () =>
  withServer(async (server, cache) => {
    server.put(path, content(20 * MiB));
    server.faults = ({ method }, number) => {
      if (method === 'GET') server.put(path, content(20 * MiB, number));
      return undefined;
    };
    await rejects(fetched(), /file\.pt: was replaced 3 times while it was fetched/);
    assert.equal(wholeFiles(cache), []);
  }));

test('not there, denied, broken, busy, and away', () =>
  withServer(async (server, cache) => {
    await rejects(fetched(), /^openBlob: az:\/\/openaipublic\/models\/a\/file\.pt: there is no such blob \(404\)$/);
    server.put(path, content(100));
    for (const status of [401, 403, 409]) {
      server.faults = () => ({ status, code: 'PublicAccessNotPermitted' });
      await rejects(fetched(), new RegExp(`access is denied \\(${status}.*AZURE_STORAGE_CONNECTION_STRING`));
    }
    server.faults = () => ({ status: 500 });
    await rejects(fetched(), /the server answers with status 500/);
    server.faults = () => ({ status: 418 });
    await rejects(fetched(), /the server answers with status 418/);
    for (const status of [408, 429, 500, 503]) {
      const before = server.requests.length;
      server.faults = (_, number) => (number < before + 2 ? { status } : undefined);
      assert.ok(content(100).equals(await fetched()));
      await clearCache();
    }
    process.env.SONDE_BLOB_ENDPOINT = 'http://127.0.0.1:9/openaipublic';
    await rejects(fetched(), /cannot be reached \(ECONNREFUSED\); .*SONDE_BLOB_ENDPOINT/);
    process.env.SONDE_BLOB_ENDPOINT = 'nonsense';
    await rejects(fetched(), /SONDE_BLOB_ENDPOINT must be an address/);
    assert.equal(wholeFiles(cache), []);
  }));

test('a server that stalls', () =>
  withServer(async (server, cache) => {
    const bytes = content(9 * MiB);
    server.put(path, bytes);
    server.faults = ({ method }, number) => (method === 'GET' && number < 4 ? { stall: true } : undefined);
    assert.ok(bytes.equals(await fetched(address, { timeout: 0.2 })));
    await clearCache();
    server.faults = ({ method }) => (method === 'GET' ? { stall: true } : undefined);
    await rejects(fetched(address, { timeout: 0.05 }), /nothing came for 0\.05 seconds/);
    assert.equal(wholeFiles(cache), []);
  }));

test('a slow server is waited for as long as bytes come', () =>
  withServer(async (server) => {
    const bytes = content(MiB);
    server.put(path, bytes);
    server.faults = () => ({ speed: MiB });
    assert.ok(bytes.equals(await fetched(address, { timeout: 0.5 })));
  }));

test('a signal ends a download, and the next one continues it', () =>
  withServer(async (server) => {
    const bytes = content(48 * MiB);
    server.put(path, bytes);
    server.faults = ({ method }) => (method === 'GET' ? { speed: 16 * MiB } : undefined);
    const stop = new AbortController();
    const reason = new Error('enough');
    const onProgress = ({ bytes: came }: { bytes: number }) => {
      if (came > 36 * MiB) stop.abort(reason);
    };
    assert.is(await rejects(fetched(address, { signal: stop.signal, onProgress }), /enough/), reason);
    await rejects(fetched(address, { signal: stop.signal }), /enough/);
    const sent = server.sent;
    assert.ok(bytes.equals(await fetched()));
    assert.ok(server.sent - sent < bytes.length, 'not all of it again');
  }));

test('two processes at once fetch it once', () =>
  withServer(async (server) => {
    const bytes = content(24 * MiB);
    server.put(path, bytes);
    server.faults = ({ method }) => (method === 'GET' ? { speed: 16 * MiB } : undefined);
    const outcomes = await Promise.all([startChild().outcome, startChild().outcome, startChild().outcome]);
    assert.equal(outcomes, [sha256(bytes), sha256(bytes), sha256(bytes)]);
    assert.is(server.sent, bytes.length);
  }));

test('one of two is killed: the other takes over', () =>
  withServer(async (server) => {
    const bytes = content(24 * MiB);
    server.put(path, bytes);
    server.faults = ({ method }) => (method === 'GET' ? { speed: 2 * MiB } : undefined);
    const first = startChild();
    await first.begun;
    const second = startChild();
    first.kill('SIGKILL');
    await first.outcome;
    server.faults = () => undefined;
    assert.is(await second.outcome, sha256(bytes));
  }));

test('a process that is suspended for longer than its lease, and then resumed', () =>
  withServer(async (server, cache) => {
    const bytes = content(24 * MiB);
    server.put(path, bytes);
    server.faults = ({ method }) => (method === 'GET' ? { speed: 2 * MiB } : undefined);
    const first = startChild();
    await first.begun;
    first.kill('SIGSTOP');
    server.faults = () => undefined;
    assert.is(await startChild().outcome, sha256(bytes));
    first.kill('SIGCONT');
    assert.is(await first.outcome, sha256(bytes));
    for (const file of wholeFiles(cache)) assert.is(sha256(readFileSync(file)), sha256(bytes));
  }));

test('a process that is resumed while another is fetching a newer version', () =>
  withServer(async (server) => {
    server.put(path, content(24 * MiB));
    server.faults = ({ method }) => (method === 'GET' ? { speed: 2 * MiB } : undefined);
    const first = startChild();
    await first.begun;
    first.kill('SIGSTOP');
    const newer = content(24 * MiB, 2);
    server.put(path, newer);
    const second = startChild();
    await second.begun;
    first.kill('SIGCONT');
    assert.equal([await first.outcome, await second.outcome], [sha256(newer), sha256(newer)]);
  }));

test('a server without ranges and ETags', () =>
  withServer(
    async (server, cache) => {
      const bytes = content(9 * MiB + 3);
      server.put(path, bytes);
      server.faults = ({ method }, number) => (method === 'GET' && number < 2 ? { cutAfter: 3_000_000 } : undefined);
      assert.ok(bytes.equals(await fetched()));
      await clearCache();
      const newer = content(9 * MiB + 3, 2);
      server.put(path, bytes);
      const before = server.requests.length;
      server.faults = ({ method }, number) => {
        if (method === 'HEAD' && number === before + 2) server.put(path, newer); // after the bytes, before the check
        return undefined;
      };
      assert.ok(newer.equals(await fetched()));
      assert.is(wholeFiles(cache).length, 1);
    },
    { plain: true },
  ));

test('a server that redirects to another: followed, but never with credentials', () =>
  withServer(async (server) => {
    await using other = await BlobServer.start();
    const bytes = content(5 * MiB);
    other.put('elsewhere/x', bytes);
    server.faults = () => ({ redirect: `${other.address}/elsewhere/x` });
    assert.ok(bytes.equals(await fetched(`${server.address}/models/x?sig=hidden`)));
    assert.ok(other.requests.length >= 3);
    assert.ok(other.requests.every(({ query }) => query === ''));
    const before = other.requests.length;
    process.env.AZURE_STORAGE_ACCOUNT = 'openaipublic';
    process.env.AZURE_STORAGE_SAS_TOKEN = 'sig=secret';
    await rejects(fetched(), /file\.pt: the server answers with status 302/);
    delete process.env.AZURE_STORAGE_SAS_TOKEN;
    const endpoint = `BlobEndpoint=${server.address}/mine12`;
    process.env.AZURE_STORAGE_CONNECTION_STRING = `DefaultEndpointsProtocol=http;AccountName=mine12;AccountKey=a2V5;${endpoint}`;
    await rejects(fetched('az://mine12/models/x'), /the server answers with status 302/);
    process.env.AZURE_STORAGE_CONNECTION_STRING = 'AccountName=mine12;secret';
    await rejects(fetched('az://mine12/models/x'), /mine12\/models\/x: AZURE_STORAGE_CONNECTION_STRING cannot be used/);
    assert.is(other.requests.length, before);
  }));

// ---- the disk

const fullDisk = 'a disk that is too small, and one that fills up';
if (!canMount()) test.skip(fullDisk, 'a small file system cannot be mounted here');
else {
  test(fullDisk, () =>
    withServer(async (server, cache) => {
      const bytes = content(24 * MiB);
      server.put(path, bytes);
      const inSmall = (size: string, fill: string) => {
        const fetch = `"${process.execPath}" "${child}" "${address}" ${fill}`;
        const script = `mount -t tmpfs -o size=${size} none "${cache}" && { ${fetch}; find "${cache}" -name '*-file.pt'; }`;
        return execOutput('unshare', ['-rm', 'bash', '-c', script]);
      };
      assert.match(
        await inSmall('12m', ''),
        /^failed: .*no space in the cache: 25165824 bytes are needed.*are free[^\n]*$/,
      );
      // another file takes the space while the blob comes
      const output = await inSmall('30m', `"${join(cache, 'other')}"`);
      assert.match(output, /^failed: .*cannot be written into the cache .*the disk is full[^\n]*$/);
    }),
  );
}

function execOutput(command: string, args: string[]): Promise<string> {
  const running = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  running.stdout.on('data', (text) => {
    output += text;
  });
  return new Promise((resolve) => running.on('close', () => resolve(output.replace('begun\n', '').trim())));
}

// ---- the cache

test('a copy that has changed since it was fetched is fetched again', () =>
  withServer(async (server, cache) => {
    const bytes = content(100_000);
    server.put(path, bytes);
    const again = async (): Promise<number> => {
      const before = gets(server);
      assert.ok(bytes.equals(await fetched()));
      return gets(server) - before;
    };
    await again();
    const file = () => wholeFiles(cache)[0] as string;
    assert.is(await again(), 0);
    await utimes(file(), 1, 1);
    assert.is(await again(), 0, 'touched, but the same');
    await truncate(file(), 99);
    assert.is(await again(), 1, 'cut short');
    await appendFile(file(), 'x');
    assert.is(await again(), 1, 'grown');
    const changed = Buffer.from(bytes);
    changed.fill(0, 500, 600);
    await writeFile(file(), changed);
    assert.is(await again(), 1, 'other bytes');
    await writeFile(join(file(), '..', 'entry.json'), '{"name":');
    assert.is(await again(), 1, 'a torn entry');
    const entry = join(file(), '..', 'entry.json');
    const elsewhere = join(cache, 'blobs', 'elsewhere'); // a file that fits in every way
    await copyFile(file(), elsewhere);
    const { mtimeMs } = statSync(elsewhere);
    const pointing = { ...JSON.parse(readFileSync(entry, 'utf8')), file: '../elsewhere', mtimeMs };
    await writeFile(entry, JSON.stringify(pointing));
    assert.is(await again(), 1, 'an entry that points elsewhere');
    const { mtime } = statSync(file());
    await truncate(file(), 99);
    await utimes(file(), mtime, mtime);
    await writeFile(
      entry,
      JSON.stringify({ ...JSON.parse(readFileSync(entry, 'utf8')), mtimeMs: statSync(file()).mtimeMs }),
    );
    assert.is(await again(), 1, 'cut short, with the time that was noted');
    assert.is(wholeFiles(cache).length, 1);
  }));

test('refresh asks whether the blob has changed', () =>
  withServer(async (server, cache) => {
    server.put(path, content(1000, 1));
    await fetched();
    assert.ok(content(1000, 1).equals(await fetched(address, { refresh: true })));
    assert.is(gets(server), 1);
    await using old = await openBlob(address);
    server.put(path, content(1000, 2));
    assert.ok(content(1000, 1).equals(await fetched()));
    assert.ok(content(1000, 2).equals(await fetched(address, { refresh: true })));
    assert.ok(content(1000, 2).equals(await fetched()));
    assert.ok(content(1000, 1).equals(Buffer.from(await old.read())), 'a reader that has the old one open reads on');
    assert.is(wholeFiles(cache).length, 1);
  }));

test('list, verify, clear', () =>
  withServer(async (server, cache) => {
    assert.equal((await listCache()).blobs, []);
    for (const name of ['b', 'a']) {
      server.put(`openaipublic/models/${name}`, content(1000));
      await fetched(`az://openaipublic/models/${name}`);
    }
    const { folder, blobs } = await listCache();
    assert.is(folder, cache);
    assert.equal(
      blobs.map(({ name, size, sha256: sum, etag }) => [name, size, sum, etag]),
      [
        ['az://openaipublic/models/a', 1000, sha256(content(1000)), '"0x00000002"'],
        ['az://openaipublic/models/b', 1000, sha256(content(1000)), '"0x00000001"'],
      ],
    );
    // a flipped bit that leaves the time of the file as it was
    const [first] = blobs;
    const { path: file = '' } = first ?? {};
    const { mtimeMs } = statSync(file);
    const bytes = readFileSync(file);
    bytes[500] = (bytes[500] ?? 0) ^ 1;
    await writeFile(file, bytes);
    await utimes(file, mtimeMs / 1000, mtimeMs / 1000);
    const checked = await verifyCache();
    assert.equal(checked.broken, ['az://openaipublic/models/a']);
    assert.equal(
      checked.good.map(({ name }) => name),
      ['az://openaipublic/models/b'],
    );
    const removed = await clearCache((name) => name.endsWith('/a'));
    assert.equal(
      removed.blobs.map(({ name }) => name),
      ['az://openaipublic/models/a'],
    );
    assert.is((await listCache()).blobs.length, 1);
    await clearCache();
    assert.equal(await readdir(join(cache, 'blobs')), []);
  }));

test('other files in the cache are not touched', () =>
  withServer(async (_, cache) => {
    await mkdir(join(cache, 'blobs', 'mine'), { recursive: true });
    await writeFile(join(cache, 'blobs', 'mine', 'file'), 'x');
    await writeFile(join(cache, 'file'), 'x');
    await clearCache();
    assert.is(await readFile(join(cache, 'blobs', 'mine', 'file'), 'utf8'), 'x');
    assert.is(await readFile(join(cache, 'file'), 'utf8'), 'x');
  }));

// ---- credentials

test('credentials go only to their own account, and into no message and no file', () =>
  withServer(async (server, cache) => {
    const key = Buffer.from('a key').toString('base64');
    const connection = `DefaultEndpointsProtocol=http;AccountName=mine12;AccountKey=${key};BlobEndpoint=${server.address}/mine12;`;
    process.env.AZURE_STORAGE_CONNECTION_STRING = connection;
    server.put(path, content(10));
    server.put('mine12/models/x', content(10, 2));
    await fetched();
    assert.ok(server.requests.every(({ authorization }) => authorization === undefined));
    assert.ok(content(10, 2).equals(await fetched('az://mine12/models/x')));
    assert.match(server.requests.at(-1)?.authorization ?? '', /^SharedKey mine12:/);
    delete process.env.AZURE_STORAGE_CONNECTION_STRING;
    await clearCache();

    process.env.AZURE_STORAGE_SAS_TOKEN = '?sv=2026&sig=secret';
    const before = server.requests.length;
    await fetched();
    process.env.AZURE_STORAGE_ACCOUNT = 'mine12';
    await clearCache();
    await fetched();
    assert.ok(server.requests.slice(before).every(({ query }) => query === ''));
    process.env.AZURE_STORAGE_ACCOUNT = 'openaipublic';
    await clearCache();
    await fetched();
    assert.match(server.requests.at(-1)?.query ?? '', /sig=secret/);

    const signed = `${server.endpoint}/models/none?sig=hidden`;
    const error = await rejects(fetched(signed), /there is no such blob/);
    assert.not.match(error.message, /hidden/);
    await fetched(`${server.endpoint}/models/a/file.pt?sig=hidden`);
    const files = await readdir(cache, { recursive: true, withFileTypes: true });
    for (const file of files) {
      if (!file.isFile()) continue;
      const text = readFileSync(join(file.parentPath, file.name), 'latin1');
      assert.not.match(text, /secret|hidden/);
    }
  }));

test.run();
