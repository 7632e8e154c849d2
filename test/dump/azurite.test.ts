// A dump into Azurite, Microsoft's emulator of Azure's blob storage (test/support/blobs/azurite.ts says how to run it).
// Oracle: the same dump in a folder.
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { BlobServiceClient, ContainerClient } from '@azure/storage-blob';
import * as assert from 'uvu/assert';
import { openDump } from '../../src/dump/read/reader.js';
import { BlobStore } from '../../src/files/store/blob_store.js';
import {
  account,
  azuriteFolder,
  azuriteMissing,
  connectionOf,
  endpointOf,
  withAzurite,
} from '../support/blobs/azurite.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite } from '../support/harness.js';
import { endOf } from '../support/processes.js';
import { contentsOf, sampleText } from './folders.js';

const test = suite('dump into azurite');
test.limit(180_000);
const title = 'a private container: killed in mid-upload, continued, verified; leases; blocks that were left';
const main = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));
const address = `az://${account}/private/a b/run`;
const prefix = 'a b/run/';

const start = (out: string): ChildProcess =>
  spawn(
    process.execPath,
    [
      ...[main, 'dump', '--text', sampleText, '--hook', '*/mlp/post_act', '*/mlp/pre_act', '--dtype', 'float32'],
      ...['--context', '32', '--shard-tokens', '1536', '--limit', '4000', '--threads', '1', '--out', out],
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );

/** Names of blobs that have only blocks. */
async function uncommitted(container: ContainerClient): Promise<string[]> {
  const names: string[] = [];
  for await (const { name, properties } of container.listBlobsFlat({ prefix, includeUncommitedBlobs: true })) {
    if (properties.contentLength === 0) names.push(name.slice(prefix.length));
  }
  return names;
}

async function hashes(container: ContainerClient): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for await (const { name } of container.listBlobsFlat({ prefix })) {
    const bytes = await container.getBlobClient(name).downloadToBuffer();
    found[name.slice(prefix.length)] = `${bytes.length} ${createHash('sha256').update(bytes).digest('hex')}`;
  }
  return found;
}

/**
 * Suspends the process while there are blocks of shards that are not committed, and returns the names of those shards.
 */
async function stoppedInUpload(running: ChildProcess, container: ContainerClient): Promise<string[]> {
  while (running.exitCode === null) {
    if ((await uncommitted(container)).length === 0) continue;
    running.kill('SIGSTOP');
    await sleep(300); // requests that were on their way have arrived
    const left = await uncommitted(container);
    if (left.length > 0) return left;
    running.kill('SIGCONT');
  }
  throw new Error('the dump was over before it could be stopped in an upload');
}

async function run(port: number, service: BlobServiceClient): Promise<void> {
  const container = service.getContainerClient('private');
  await container.create();
  process.env.SONDE_BLOB_ENDPOINT = endpointOf(port);
  process.env.AZURE_STORAGE_CONNECTION_STRING = connectionOf(port);
  const whole = await withFolder(async (folder) => {
    const { code, errors } = await endOf(start(join(folder, 'out')));
    assert.is(code, 0, errors);
    return contentsOf(join(folder, 'out'));
  });

  const first = start(address);
  const end = endOf(first);
  const left = await stoppedInUpload(first, container);
  const { pid } = first;
  assert.match((await endOf(start(address))).errors, new RegExp(`is being written by process ${pid} on `));
  first.kill('SIGKILL');
  await end;
  await using begun = await openDump(address);
  const problems = (await begun.verify()).map(({ file, problem }) => `${file}: ${problem}`);
  assert.ok(
    problems.includes(`${left[0]}.00000000.partial: is an unfinished piece of ${left[0]}`),
    problems.join('\n'),
  );
  assert.ok(problems.some((problem) => problem.startsWith('manifest.json.claim: is the claim of')));

  const { code, errors } = await endOf(start(address));
  assert.is(code, 0, errors);
  assert.equal(await hashes(container), whole);
  assert.equal(await uncommitted(container), []);
  await using made = await openDump(address);
  assert.equal(await made.verify(), []);

  const store = new BlobStore(address);
  await container.getBlockBlobClient(`${prefix}shard-00009.safetensors`).stageBlock('AAAA', 'left', 4);
  const name = (await store.list()).find((each) => each.startsWith('shard-00009')) as string;
  assert.is(name, 'shard-00009.safetensors.00000000.partial');
  await store.remove(name);
  assert.equal(
    [await uncommitted(container), Object.keys(await hashes(container)).length],
    [[], Object.keys(whole).length],
  );

  const journal = await store.append('journal.jsonl');
  assert.ok((await store.list()).includes('journal.jsonl.00000000.partial'));
  await store.remove('journal.jsonl.00000000.partial');
  assert.is((await store.list()).filter((each) => each.startsWith('journal')).length, 0);
  await rejects(journal.append('lost'), /journal\.jsonl: there is no such blob/);
  const again = await store.append('journal.jsonl');
  await again.append('one\n');
  const growing = await store.open('journal.jsonl', { growing: true });
  const small = new BlobStore(address, { mostAppends: 3 });
  const other = await small.append('journal.jsonl'); // what is there stays
  await other.append('two\n');
  assert.is(Buffer.from(await growing.read(0, growing.size)).toString(), 'one\n');
  assert.is(other.isFull, false);
  await again.append('x'.repeat(5_000_000)); // in two blocks
  await other.append('three\n');
  assert.is(other.isFull, true);
  const { size } = await store.open('journal.jsonl');
  assert.is(size, 'one\ntwo\nthree\n'.length + 5_000_000);
  await store.remove('journal.jsonl.00000000.partial'); // one that has blocks stays
  assert.is((await store.find('journal.jsonl'))?.size, size);
  await store.remove('journal.jsonl');
  assert.is(await store.find('journal.jsonl'), undefined);

  const lease = await store.takeLease('other.claim');
  assert.match(String(await store.takeLease('other.claim')), /^process \d+ on /);
  if (typeof lease === 'string') throw new Error(lease);
  assert.is(await lease.lost(), false);
  await rejects(store.writeText('other.claim', 'x'), /another process holds it/);
  await container.getBlobClient(`${prefix}other.claim`).getBlobLeaseClient().breakLease(0);
  assert.is(await lease.lost(), true);
  await lease.release();

  delete process.env.AZURE_STORAGE_CONNECTION_STRING;
  await rejects(new BlobStore('az://openaipublic/private/x').list(), /access is denied|nothing for the public|no such/);
}

if (azuriteFolder === undefined) test.skip(title, azuriteMissing);
else test(title, () => withAzurite(run));

test.run();
