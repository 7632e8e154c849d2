// Oracle: the same dump in a folder, byte for byte. Dumps go to a server of blobs that misbehaves, processes are killed
// at chosen moments, and whatever is in the store at any moment is whole.
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { openDump } from '../../src/dump/read/reader.js';
import { collate } from '../../src/dump/report/collate.js';
import { report } from '../../src/dump/report/report.js';
import { dump } from '../../src/dump/run.js';
import { mergeDumps } from '../../src/dump/shards/merge.js';
import type { DumpOptions } from '../../src/dump/shards/options.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { run } from '../cli/command.js';
import type { BlobServer, Faults, ServedRequest } from '../support/blobs/blob_server.js';
import { address, blobsOf, hashesOf, pathOf, uncommittedOf, withBlobServer } from '../support/blobs/blob_stores.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite } from '../support/harness.js';
import { type Ended, endOf } from '../support/processes.js';
import { random } from '../support/random.js';
import { contentsOf, sampleText } from './folders.js';

const test = suite('dump into object storage');
test.limit(180_000);
const MiB = 2 ** 20;
const model = await Transformer.load('demo');
const main = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));
const sparse = '1/resid/delta_mlp -> ae-resid-delta-mlp';
const isShard = (name: string): boolean => name.startsWith('shard-');

const small = (out: string, changes: Partial<DumpOptions> = {}): DumpOptions => ({
  ...{ model, corpus: sampleText, locations: ['resid/post_emb', '1/mlp/post_act', sparse], out },
  ...{ context: 32, shardTokens: 512, limit: 2000, ...changes },
});

/** A dump with shards of some 12 MiB, which are two blocks each. */
const large = (out: string, changes: Partial<DumpOptions> = {}): DumpOptions =>
  small(out, { locations: ['*/mlp/post_act', '*/mlp/pre_act', sparse], dtype: 'float32', ...largeShards, ...changes });
const largeShards = { shardTokens: 1536, limit: 4000 };

const command = (out: string, ...more: string[]): string[] => [
  ...[main, 'dump', '--text', sampleText, '--hook', '*/mlp/post_act', '*/mlp/pre_act', '--dtype', 'float32'],
  ...['--autoencoder', '1/resid/delta_mlp=ae-resid-delta-mlp', '--context', '32', '--shard-tokens', '1536'],
  ...['--limit', '4000', '--threads', '1', '--out', out, ...more],
];

function start(args: string[]): { child: ChildProcess; ended: Promise<Ended> } {
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  return { child, ended: endOf(child) };
}

/** Makes the same dump in a folder, and returns every file with its hash. */
const inFolder = (options: (out: string) => DumpOptions): Promise<Record<string, string>> =>
  withFolder(async (folder) => {
    await dump(options(join(folder, 'out')));
    return contentsOf(join(folder, 'out'));
  });

test('a dump is that of a folder, is complete afterwards, and can be read, verified, collated and reported', () =>
  withBlobServer((server) =>
    withFolder(async (folder) => {
      const at = (name: string) => join(folder, name);
      const all: Partial<DumpOptions> = { parquet: true, statistics: true, drop: ['padding'] };
      const result = await dump(small(`${address}/`, all));
      await dump(small(at('out'), all));
      assert.equal(hashesOf(server), await contentsOf(at('out')));
      assert.equal([result.written, result.shards, uncommittedOf(server).length], [4, 4, 0]);
      assert.is((await dump(small(address, all))).written, 0);
      await using there = await openDump(address);
      await using here = await openDump(at('out'));
      assert.equal(await there.verify(), []);
      assert.equal(
        await there.rows('1/resid/delta_mlp/latents', 3, 40),
        await here.rows('1/resid/delta_mlp/latents', 3, 40),
      );
      assert.equal(await there.tokens(), await here.tokens());
      const selections = [{ name: '1/mlp/post_act', indices: [3, 200] }];
      await collate(there, { out: at('records'), selections });
      await collate(here, { out: at('same'), selections });
      const record = join('mlp_post_act', '1');
      assert.equal(await contentsOf(at(join('records', record))), await contentsOf(at(join('same', record))));
      await report(there, { out: at('report.html'), latents: 2 });
      const look = await run(['inspect', address]);
      assert.match(look.stdout, /rows +63 of 32 tokens, 2000 tokens/, look.stderr);
      server.account.put(pathOf('shard-00009.safetensors'), Buffer.from('x'));
      server.account.put(pathOf('notes.txt'), Buffer.from('x'));
      server.account.blocks.set(pathOf('shard-00007.safetensors'), new Map([['AAAA', Buffer.alloc(9)]]));
      const checked = await run(['verify', address]);
      assert.is(checked.code, 1);
      assert.match(checked.stdout, /shard-00009\.safetensors: is not listed in the manifest/);
      assert.match(checked.stdout, /00007\.safetensors\.00000000\.partial: is an unfinished piece of shard-00007/);
      assert.match(checked.stderr, /az:.*run: 2 problems were found/);
    }),
  ));

test('rows are read without the rest of their shard', () =>
  withBlobServer(async (server) => {
    await dump(large(address));
    const size = blobsOf(server).get('shard-00000.safetensors')?.length ?? 0;
    assert.ok(size > 9 * MiB, String(size));
    server.sent = 0;
    await using made = await openDump(address);
    const { data } = await made.rows('2/mlp/pre_act', 5, 6);
    assert.ok(server.sent < size / 50, `${server.sent} bytes of ${size} for a row`);
    assert.ok(server.sent > data.byteLength);
    const before = server.sent;
    await made.rows('2/mlp/pre_act', 6, 7);
    assert.is(server.sent - before, data.byteLength);
  }));

test('connections that are cut, servers that fail and damaged bytes change nothing', () =>
  withBlobServer(async (server) => {
    const rng = random(11);
    const troubles: Faults[] = [
      ...[{ cutRequestAfter: 2 * MiB }, { cutAfter: 50 }, { damage: true }, { loseAnswer: true }],
      ...[{ status: 500 }, { status: 503, code: 'ServerBusy' }, { status: 429, retryAfter: 1 }],
    ];
    let asked: { key: string; time: number } | undefined;
    let [waits, number] = [0, 0];
    const seen = new Set<string>();
    server.faults = ({ operation, path, query }) => {
      const key = `${operation} ${path} ${query}`;
      if (asked?.key === key) {
        assert.ok(performance.now() - asked.time >= 990, `${key} came too soon`);
        [asked, waits] = [undefined, waits + 1];
      }
      // A retry after a fault succeeds, so that no operation runs out of attempts.
      if (seen.has(key) || rng.next() < 0.3) return undefined;
      seen.add(key);
      const trouble = troubles[number++ % troubles.length] as Faults;
      // a damaged list of blocks is another list: it has no checksum of its own, only that of the connection
      if (trouble.damage && operation === 'commit') return undefined;
      if (trouble.retryAfter && !asked) asked = { key, time: performance.now() };
      return trouble;
    };
    await dump(large(address));
    server.faults = () => undefined;
    assert.ok(number >= troubles.length && waits >= 1, `${number} faults, ${waits} waits`);
    assert.equal(hashesOf(server), await inFolder(large));
    assert.equal(uncommittedOf(server), []);
  }));

test('a slow server slows the dump: no more than two shards are unfinished', () =>
  withBlobServer(async (server) => {
    const finished = () => [...blobsOf(server).keys()].filter(isShard).length;
    let [most, tokens, commits] = [0, 0, 0];
    server.faults = ({ operation }) => {
      if (operation !== 'commit') return undefined;
      commits++;
      // The response is held until nothing is computed any more. By then there are two shards, one of which is held.
      const ahead = (finished() + 2) * 512;
      return { hold: until(() => tokens >= Math.min(ahead, 4096)).then(() => sleep(100)) };
    };
    const onProgress = (progress: { tokens: number }) => {
      tokens = progress.tokens;
      most = Math.max(most, tokens - finished() * 512);
    };
    await dump(small(address, { limit: 4096, batch: 2, onProgress }));
    assert.is(commits, 8);
    assert.is(most, 2 * 512);
  }));

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await sleep(5);
}

test('two processes: the second one learns which process writes; and one that has lost its lease stops', () =>
  withBlobServer(async (server) => {
    const first = start(command(address));
    let second: Promise<Ended> | undefined;
    let stolen = false;
    server.faults = ({ operation, path }) => {
      if (operation !== 'commit' || second) return undefined;
      second = start(command(address)).ended;
      return {
        hold: second.then(() => {
          server.account.steal(pathOf('manifest.json.claim'));
          stolen = path !== '';
        }),
      };
    };
    const { code, errors } = await first.ended;
    const refused = await second;
    assert.is(refused?.code, 1);
    const message = new RegExp(`run is being written by process ${first.child.pid} on \\S+: wait until it is done`);
    assert.match(refused?.errors ?? '', message);
    assert.ok(stolen);
    assert.is(code, 1);
    assert.match(errors, /run was taken over by another process/);
    assert.ok(blobsOf(server).has('manifest.json.claim'), "the other's lease stays");
    assert.equal(JSON.parse(String(blobsOf(server).get('manifest.json'))).shards, []);
  }));

test('SIGKILL at any moment, also in mid-upload, costs no byte, and shows no half shard', () =>
  withBlobServer(async (server) => {
    const whole = await inFolder(large);
    const rng = random(2026);
    const left = new Set<string>();
    for (const round of moments.keys()) {
      const [operation, held] = moments[round] as [string, boolean];
      const { child, ended } = start(command(address));
      const look = () => assertWhole(server, whole);
      server.faults = killer(child, operation, 1 + rng.integer(0, 1), look, held ? ended : undefined);
      const { signal, code, errors } = await ended;
      server.faults = () => undefined;
      if (signal !== 'SIGKILL') assert.is(code, 0, errors);
      await server.settled();
      assertWhole(server, whole);
      for (const file of uncommittedOf(server)) left.add(file);
      await assertNamed(server);
    }
    assert.ok(left.size > 0, 'no upload was killed');
    const last = await start(command(address)).ended;
    assert.is(last.code, 0, last.errors);
    assert.equal(hashesOf(server), whole);
    assert.equal(uncommittedOf(server), []);
    await using made = await openDump(address);
    assert.equal(await made.verify(), []);
  }));

// The request at which the process is killed, and whether it is held until the process has ended, so that it is never
// executed. Blocks that are not committed stay.
const moments: [string, boolean][] = [
  ['put block', false],
  ['commit', true],
  ['renew', false],
  ['put blob', false],
  ['create append', false],
  ['append', true],
  ['append', false],
  ['commit', false],
  ['commit', true],
];

/**
 * Kills the process at the `count`-th request of a kind. Of a long request, only a part has arrived then. Calls `look`
 * at every request.
 */
function killer(child: ChildProcess, operation: string, count: number, look: () => void, hold?: Promise<unknown>) {
  return (request: ServedRequest): Faults | undefined => {
    look();
    if (request.operation !== operation || --count !== 0) return undefined;
    child.kill('SIGKILL');
    return hold && { hold };
  };
}

/** Every published blob has its final bytes. An empty blob stands for blocks that are being removed. */
function assertWhole(server: BlobServer, whole: Record<string, string>): void {
  for (const [name, hash] of Object.entries(hashesOf(server))) {
    if (isShard(name) && !hash.startsWith('0 ')) assert.is(hash, whole[name], name);
  }
}

/** verify() names every blob that has only blocks, and finds no problem in published shards. */
async function assertNamed(server: BlobServer): Promise<void> {
  if (!blobsOf(server).has('manifest.json')) return;
  await using made = await openDump(address);
  const problems = await made.verify();
  const blocksOnly = uncommittedOf(server).filter((name) => !blobsOf(server).has(name));
  const named = problems.filter(({ problem }) => problem.startsWith('is an unfinished piece of'));
  assert.equal(named.map(({ file }) => file.replace('.00000000.partial', '')).sort(), blocksOnly.sort());
  const others = problems.filter((problem) => !named.includes(problem));
  assert.ok(
    others.every(({ problem }) => /^(is not listed in|is the claim of)/.test(problem)),
    JSON.stringify(others),
  );
}

test('parts under one prefix merge; those of another prefix are refused', () =>
  withBlobServer(async (server) => {
    for (const index of [0, 1, 2]) await dump(small(address, { shard: { index, count: 3 } }));
    const other = 'az://openaipublic/dumps/other';
    await dump(small(other, { shard: { index: 0, count: 3 } }));
    const before = hashesOf(server);
    await rejects(mergeDumps(other, [address]), /part 0 of 3 is in .*other and in .*run/);
    await rejects(
      mergeDumps('az://openaipublic/dumps/new', [address]),
      /merge: cannot give .*run\/shard-00000\.safetensors a name in .*new: .*under one prefix: nothing is copied/,
    );
    assert.equal(hashesOf(server), before);
    const merged = await mergeDumps(`${address}/`, [address]);
    assert.equal([merged.rows, merged.shards, merged.linked], [63, 4, 0]);
    assert.equal(hashesOf(server), await inFolder(small));
    assert.is((await dump(small(address))).written, 0);
    await withFolder((folder) =>
      rejects(
        mergeDumps(join(folder, 'here'), [address]),
        /it is not on a disk of this machine, and nothing is copied/,
      ),
    );
  }));

test('workers, and a run that is stopped, leave what one process leaves', () =>
  withBlobServer(async (server) => {
    const cpu = { device: 'cpu', threads: 1 } as const;
    const named = { model: 'demo', workers: [cpu, cpu], limit: 4000 };
    const controller = new AbortController();
    const onProgress = ({ tokens }: { tokens: number }) => {
      if (tokens > 900) controller.abort(new Error('stopped here'));
    };
    await rejects(dump(small(address, { ...named, batch: 1, onProgress, signal: controller.signal })), /stopped here/);
    const names = [...blobsOf(server).keys()];
    assert.ok(
      names.every((name) => /^(index\.jsonl|manifest\.json|shard-\d{5}\.safetensors)$/.test(name)),
      names.join(' '),
    );
    assert.equal(uncommittedOf(server), []);
    await dump(small(address, named));
    assert.equal(hashesOf(server), await inFolder((out) => small(out, { limit: 4000 })));
  }));

test('blobs that somebody else put there under odd names change nothing', () =>
  withBlobServer(async (server) => {
    const odd = ['.', '..', '..\\shard-00000.safetensors', 'a\nb', 'manifest.json.claim.'.padEnd(300, 'x')];
    const long = `shard-00000.${'x'.repeat(250)}_latents.parquet`;
    await dump(small(address, { shard: { index: 0, count: 2 } }));
    for (const name of [...odd, long, `${long}.01234567.partial`]) server.account.put(pathOf(name), Buffer.from('x'));
    for (const index of [0, 1]) await dump(small(address, { shard: { index, count: 2 } }));
    await mergeDumps(address);
    await using made = await openDump(address);
    assert.equal(
      (await made.verify()).map(({ file }) => file),
      ['manifest.json.claim.'.padEnd(300, 'x'), long, `${long}.01234567.partial`],
    );
    for (const name of [...odd, long, `${long}.01234567.partial`]) server.account.blobs.delete(pathOf(name));
    assert.equal(hashesOf(server), await inFolder((out) => small(out)));
  }));

test('no access, no container and no server are sentences', () =>
  withBlobServer(async (server) => {
    const nowhere = 'az://openaipublic/nowhere/run';
    await rejects(dump(small(nowhere)), /dump: cannot write az:.*nowhere\/run: there is no such container \(404, Cont/);
    await rejects(openDump(address), /openDump: az:.*run has no manifest\.json, so it is not a dump/);
    await rejects(
      dump(small('https://account.blob.core.windows.net/c/p')),
      /such as az:\/\/account\/container\/prefix/,
    );
    server.faults = ({ method }) =>
      method === 'PUT' ? { status: 403, code: 'AuthorizationPermissionMismatch' } : undefined;
    const denied = await run(['dump', '--text', sampleText, '--hook', '1/mlp/post_act', '--out', address]);
    assert.is(denied.code, 1);
    assert.match(
      denied.stderr,
      /access is denied \(403, AuthorizationPermissionMismatch\); .*AZURE_STORAGE_CONNECTION/,
    );
    assert.equal(blobsOf(server).size, 0);
    process.env.SONDE_BLOB_ENDPOINT = 'http://127.0.0.1:1/openaipublic';
    await rejects(openDump(address), /az:.*run: the server cannot be reached \(ECONNREFUSED\)/);
  }));

test.run();
