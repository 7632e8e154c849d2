// Shards are made by their numbers, and some fail. Oracle: the dump of one process, byte for byte.
import { cp, mkdir, readdir, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { Block } from '../../../src/dump/corpus/blocks.js';
import { describeSource, openCorpus } from '../../../src/dump/corpus/corpus.js';
import { CorpusReader } from '../../../src/dump/corpus_index/corpus_reader.js';
import { dump } from '../../../src/dump/run.js';
import { mergeDumps } from '../../../src/dump/shards/merge.js';
import { prepare } from '../../../src/dump/shards/prepare.js';
import { LocalMaker } from '../../../src/dump/shards/shard_maker.js';
import {
  planShards,
  type ShardedDump,
  type ShardedRequest,
  ShardSession,
} from '../../../src/dump/workers/shard_session.js';
import { packageRoot } from '../../../src/engine/native.js';
import { Tensor } from '../../../src/engine/ops/tensor.js';
import type { Lease } from '../../../src/files/lease.js';
import { DiskStore } from '../../../src/files/store/disk_store.js';
import type { Draft } from '../../../src/files/store/store.js';
import { address, blobsOf, hashesOf, withBlobServer } from '../../support/blobs/blob_stores.js';
import { testDevice } from '../../support/device.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { random } from '../../support/random.js';
import { assertSameFolder, contentsOf, sampleText } from '../folders.js';

const test = suite('shard session');
test.limit(180_000);
const device = testDevice();
const demo = join(packageRoot, 'assets', 'demo');
const shardName = (number: number): string => `shard-${String(number).padStart(5, '0')}.safetensors`;

interface Planned {
  readonly at: (name: string) => string;
  readonly request: ShardedRequest;
  readonly plan: ShardedDump;
  readonly numbers: number[];
}

/** Plans a dump of some twenty shards, with a copy of its model, and makes the dump of one process in `whole`. */
const withPlan = (body: (planned: Planned) => Promise<void>, changes: Partial<ShardedRequest> = {}): Promise<void> =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    await cp(demo, at('demo'), { recursive: true });
    await writeFile(at('corpus.txt'), (await readFile(sampleText)).subarray(0, 8_000));
    const sparse = `1/resid/delta_mlp -> ${at('demo')}/autoencoders/resid_delta_mlp/{layer}.pt`;
    const request = {
      ...{ model: at('demo'), corpus: [at('corpus.txt')], locations: ['1/mlp/post_act', sparse], out: at('out') },
      ...{ context: 32, shardTokens: 128, parquet: true, statistics: true, ...changes },
    };
    await dump({ ...request, out: at('whole'), device });
    const plan = await planShards(request);
    assert.ok(plan.count > 12, String(plan.count));
    await body({ at, request, plan, numbers: Array.from({ length: plan.count }, (_, number) => number) });
  });

async function withSession(
  plan: ShardedDump,
  body: (session: ShardSession) => Promise<void>,
  signal?: AbortSignal,
): Promise<void> {
  const session = await ShardSession.open(plan, { device, ...(signal && { signal }) });
  try {
    await body(session);
  } finally {
    await session.close();
  }
}

/** Makes a folder under a shard's name, so that the shard cannot be published. Returns its removal. */
async function obstruct(out: string, number: number): Promise<() => Promise<void>> {
  const path = join(out, shardName(number));
  await mkdir(join(path, 'not empty'), { recursive: true });
  return () => rm(path, { recursive: true });
}

const inTheWay = (number: number) => new RegExp(`cannot write .*${shardName(number)}: `);

test('a shard that failed is made again, with nothing loaded or read again', () =>
  withPlan(async ({ at, plan, numbers }) => {
    await withSession(plan, async (session) => {
      await session.make(0);
      await rm(at('demo'), { recursive: true });
      await rm(at('corpus.txt')); // the open file can still be read
      const clear = await obstruct(at('out'), 1);
      for (let attempt = 0; attempt < 3; attempt++) await rejects(session.make(1), inTheWay(1));
      await session.make(2);
      const clearAnother = await obstruct(at('out'), 3);
      await rejects(session.make(3), inTheWay(3));
      await session.make(4);
      await clear();
      await clearAnother();
      await session.make(3);
      await session.make(1);
      assert.equal(
        (await readdir(at('out'))).filter((name) => /partial|claim/.test(name)),
        [],
      );
      for (const number of numbers.slice(5)) await session.make(number);
    });
    await mergeDumps(at('out'));
    await assertSameFolder(at('out'), at('whole'));
  }));

for (const seed of [1, 2]) {
  test(`two at a time in any order, and every third fails at first (${seed})`, () =>
    withPlan(
      async ({ at, plan, numbers }) => {
        const rng = random(seed);
        const order = numbers
          .map((number) => [number, rng.integer(0, 1e9)] as const)
          .sort(([, a], [, b]) => a - b)
          .map(([number]) => number);
        const obstacles = new Map<number, () => Promise<void>>();
        let failures = 0;
        await withSession(plan, async (session) => {
          await session.make(order.find((number) => number % 3 !== seed) as number); // without a manifest in the folder
          for (const number of numbers.filter((n) => n % 3 === seed)) {
            obstacles.set(number, await obstruct(at('out'), number));
          }
          const left = [...order];
          const work = async () => {
            for (let number = left.shift(); number !== undefined; number = left.shift()) {
              const clear = obstacles.get(number);
              obstacles.delete(number);
              if (clear) {
                await rejects(session.make(number), inTheWay(number));
                await clear();
                failures++;
                left.splice(Math.min(left.length, failures % 4), 0, number);
              } else await session.make(number);
            }
          };
          await Promise.all([work(), work()]);
        });
        assert.ok(failures > 3);
        await mergeDumps(at('out'));
        await assertSameFolder(at('out'), at('whole'));
      },
      { parquet: seed === 1 },
    ));
}

test('a shard that fails does not fail the one that is made beside it', () =>
  withPlan(async ({ at, plan }) => {
    await withSession(plan, async (session) => {
      await session.make(4);
      await obstruct(at('out'), 0);
      const results = await Promise.allSettled([0, 1, 2, 3].map((number) => session.make(number)));
      assert.equal(
        results.map(({ status }) => status),
        ['rejected', 'fulfilled', 'fulfilled', 'fulfilled'],
      );
    });
    const whole = await contentsOf(at('whole'));
    for (const number of [1, 2, 3]) {
      const made = await readFile(join(at('out'), shardName(number)));
      assert.match(whole[shardName(number)] as string, new RegExp(`^${made.length} `));
    }
  }));

test('a shard that another process makes is made when that one is gone', () =>
  withPlan(async ({ at, plan }) => {
    await withSession(plan, async (session) => {
      await session.make(0);
      await rm(at('demo'), { recursive: true });
      const lease = (await new DiskStore(at('out')).takeLease(`manifest-1-of-${plan.count}.json.claim`)) as Lease;
      await rejects(session.make(1), new RegExp(`is being written by process ${process.pid}`));
      await session.make(2);
      await lease.release();
      await session.make(1);
      await session.make(1); // the shard is there already
    });
    const names = await readdir(at('out'));
    assert.equal(
      [0, 1, 2, 3].map((number) => names.includes(shardName(number))),
      [true, true, true, false],
    );
  }));

test('a connection that was lost, and is there again', () =>
  withPlan(async ({ at, request, plan, numbers }) =>
    withBlobServer(async (server) => {
      await withSession({ ...plan, request: { ...request, out: address } }, async (session) => {
        for (const number of numbers) {
          const operation = ['commit', 'list', 'put block', 'acquire'][number % 5];
          server.faults = (asked) => (asked.operation === operation ? { status: 400, code: 'Lost' } : undefined);
          if (operation) await rejects(session.make(number), /Lost/);
          server.faults = () => undefined;
          await session.make(number);
        }
      });
      await mergeDumps(address);
      assert.equal(hashesOf(server), await contentsOf(at('whole')));
      assert.not.ok([...blobsOf(server).keys()].some((name) => name.endsWith('.claim')));
    }),
  ));

test('an aborted session leaves nothing half done, and another session goes on', () =>
  withPlan(async ({ at, plan, numbers }) => {
    const stop = new AbortController();
    await withSession(
      plan,
      async (session) => {
        await session.make(0);
        const under = [1, 2].map((number) => session.make(number));
        stop.abort(new Error('enough'));
        await Promise.allSettled(under);
        await rejects(session.make(4), /enough/);
      },
      stop.signal,
    );
    const names = await readdir(at('out'));
    assert.ok(names.includes(shardName(0)));
    assert.not.ok(names.some((name) => /partial|claim/.test(name)));
    await withSession(plan, async (session) => {
      for (const number of numbers.toReversed()) await session.make(number);
    });
    await mergeDumps(at('out'));
    await assertSameFolder(at('out'), at('whole'));
  }));

test('a process that is killed between a shard and its manifest: the shard refuses other settings', () =>
  withPlan(async ({ at, request, plan }) => {
    const other = await planShards({ ...request, dtype: 'float32' });
    await withSession(plan, async (session) => {
      await session.make(0);
      const first = join(at('out'), `manifest-0-of-${plan.count}.json`); // as after a kill before its shard was there
      const manifest = JSON.parse(await readFile(first, 'utf8'));
      await writeFile(first, JSON.stringify({ ...manifest, shards: [], complete: false }));
      for (const name of await readdir(at('out'))) if (name.startsWith('shard-00000.')) await rm(join(at('out'), name));
      const { writeText } = DiskStore.prototype;
      DiskStore.prototype.writeText = async function (this: DiskStore, file, text) {
        if (text.includes('"complete": true')) throw new Error('killed');
        return writeText.call(this, file, text);
      };
      await rejects(session.make(1), /killed/).finally(() => {
        DiskStore.prototype.writeText = writeText;
      });
    });
    const there = await contentsOf(at('out'));
    assert.ok(shardName(1) in there);
    await withSession(other, async (session) => {
      for (const number of [0, 1, 2]) {
        await rejects(session.make(number), /out holds a dump with dtype float16, but float32 was asked for/);
      }
    });
    assert.equal(await contentsOf(at('out')), there);
    await withSession(plan, (session) => session.make(1));
  }));

test('the folder is listed when a session begins, and not for each shard; each part writes little', () =>
  withPlan(async ({ at, plan, numbers }) => {
    const { list, writeText } = DiskStore.prototype;
    let lists = 0;
    const written = new Map<string, number>();
    DiskStore.prototype.list = async function (this: DiskStore) {
      lists++;
      return list.call(this);
    };
    DiskStore.prototype.writeText = async function (this: DiskStore, file, text) {
      written.set(file, (written.get(file) ?? 0) + 1);
      return writeText.call(this, file, text);
    };
    try {
      for (const half of [numbers.slice(0, 6), numbers.slice(6)]) {
        const session = await ShardSession.open(plan, { device, listingMilliseconds: Number.POSITIVE_INFINITY });
        try {
          lists = 0;
          for (const number of half) await session.make(number);
          for (const number of numbers.slice(0, 6)) await session.make(number);
          assert.ok(lists <= 2, `${lists} lists for ${half.length} shards`);
        } finally {
          await session.close();
        }
      }
    } finally {
      Object.assign(DiskStore.prototype, { list, writeText });
    }
    const manifests = numbers.map((number) => `manifest-${number}-of-${plan.count}.json`);
    const [corpus = ''] = [...written.keys()].filter((file) => !manifests.includes(file));
    assert.match(corpus, /^corpus-[0-9a-f]{16}\.json$/);
    assert.equal(Object.fromEntries(written), {
      ...Object.fromEntries(manifests.map((file) => [file, 2])),
      [corpus]: 1,
    });
    await mergeDumps(at('out'));
    await assertSameFolder(at('out'), at('whole'));
  }));

test('leftovers of a killed attempt are removed by another session, or by the merge', () =>
  withPlan(async ({ at, plan, numbers }) => {
    const leftover = (number: number) => join(at('out'), `${shardName(number)}.0123abcd.partial`);
    for (const number of numbers) await writeFile(leftover(number), 'x');
    const left = async () => (await readdir(at('out'))).filter((name) => name.endsWith('.partial')).length;
    const session = await ShardSession.open(plan, { device, listingMilliseconds: Number.POSITIVE_INFINITY });
    try {
      await session.make(0);
      assert.is(await left(), numbers.length - 1 - 8); // its own, and those of eight others at a time
      for (const number of numbers) await session.make(number);
      await writeFile(leftover(3), 'x');
    } finally {
      await session.close();
    }
    assert.ok((await left()) > 1);
    await mergeDumps(at('out'));
    await assertSameFolder(at('out'), at('whole'));
  }));

test('closing waits for what is being computed', () =>
  withPlan(async ({ at, plan }) => {
    const session = await ShardSession.open(plan, { device });
    const under = [0, 1].map((number) => session.make(number));
    while (!(await readdir(at('out')).catch(() => [] as string[])).some((name) => name.endsWith('.partial'))) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    await session.close();
    await Promise.allSettled(under);
    assert.not.ok((await readdir(at('out'))).some((name) => /partial|claim/.test(name)));
  }));

test('a plan with fewer or more shards than the corpus makes, and numbers that are none', () =>
  withPlan(async ({ at, plan }) => {
    const { count } = plan;
    await withSession({ ...plan, count: count - 2 }, async (session) => {
      await session.make(count - 4);
      const more = new RegExp(`^dump: planned with ${count - 2} shards, but the corpus makes more$`);
      await rejects(session.make(count - 3), more);
      await rm(at('corpus.txt'));
      for (let attempt = 0; attempt < 3; attempt++) await rejects(session.make(count - 3), more); // nothing is read
      for (const number of [-1, 0.5, Number.NaN, count - 2, 2 ** 60, '1', '../../evil', null, undefined]) {
        await rejects(
          session.make(number as number),
          RangeError,
          /^dump: there is no shard .* of \d+: they are numbered/,
        );
      }
    });
    assert.equal(
      (await readdir(at('out'))).filter((name) => name.startsWith('shard-') && name.endsWith('.safetensors')),
      [shardName(count - 4)],
    );
    await rm(at('out'), { recursive: true });
    await writeFile(at('corpus.txt'), (await readFile(sampleText)).subarray(0, 8_000));
    await withSession({ ...plan, count: count + 1 }, async (session) => {
      await session.make(0);
      for (let attempt = 0; attempt < 3; attempt++) {
        await rejects(
          session.make(count),
          new RegExp(`has no block ${count}: it makes no more than ${count} shards now`),
        );
        await rm(at('corpus.txt'), { force: true });
      }
      await rejects(session.make(1), /corpus\.txt/); // the only reader has reached the end, and a new one finds no file
    });
  }));

// ---- leaks after failures

/** Files of a folder that this process has open, where the system reports them. */
async function openFilesIn(folder: string): Promise<string[]> {
  const numbers = await readdir('/proc/self/fd').catch(() => []);
  const files = await Promise.all(numbers.map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')));
  return files.filter((file) => file.startsWith(folder));
}

test('many failures leave no open files and no tensors', () =>
  withPlan(async ({ at, plan }) => {
    await withSession(plan, async (session) => {
      for (const number of [0, 1]) await session.make(number);
      const clear = await obstruct(at('out'), 2);
      await rejects(session.make(2), inTheWay(2));
      const { allocated } = device.memory();
      for (let attempt = 0; attempt < 20; attempt++) await rejects(session.make(2), inTheWay(2));
      assert.is(device.memory().allocated, allocated);
      assert.equal(await openFilesIn(at('out')), []);
      await clear();
      await session.make(2);
    });
  }));

/** A disk on which a file fails at its n-th write. */
class FailingStore extends DiskStore {
  writes = Number.POSITIVE_INFINITY;
  drafts = 0;

  override async draft(file: string, tag: string, part?: string): Promise<Draft> {
    const draft = await super.draft(file, tag, part);
    this.drafts++;
    const { handle } = draft;
    const write = handle.write.bind(handle) as (...all: unknown[]) => Promise<unknown>;
    const counted = async (...all: unknown[]) => {
      if (this.writes-- > 0) return write(...all);
      throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });
    };
    handle.write = counted as typeof handle.write;
    return draft;
  }
}

test('a disk that is full at any write, and later is not', () =>
  withPlan(async ({ at, request }) => {
    const sources = await openCorpus(request.corpus);
    const prepared = await prepare({ ...request, batch: 1, device }, sources.map(describeSource));
    const store = new FailingStore(at('full'));
    await mkdir(at('full'));
    const maker = new LocalMaker(prepared, { out: store });
    const reported: number[] = [];
    maker.begin({ onStored() {}, onShard: async (number) => void reported.push(number) });
    const blocks: Block[] = [];
    const reader = new CorpusReader(sources, maker);
    for await (const block of reader.blocks(0, 4)) blocks.push(block);
    await reader.close();
    const [zero, one, two, three] = blocks as [Block, Block, Block, Block];
    // an encoder may make its filter when it is first used
    for (const { autoencoder } of prepared.autoencoders) {
      using inputs = Tensor.zeros([1, autoencoder.nInputs], { device });
      await autoencoder.encodeSparse(inputs);
    }
    await device.synchronize();
    const { allocated } = device.memory();
    let failures = 0;
    for (let writes = 0; ; writes++) {
      store.writes = writes;
      try {
        await (await maker.make(one)).whole;
        break;
      } catch (error) {
        failures++;
        assert.match((error as Error).message, /cannot write .*shard-00001.*: no space is left on the disk/);
      }
      assert.equal(await readdir(at('full')), []);
      await device.synchronize();
      assert.is(device.memory().allocated, allocated, `${writes} writes`);
      assert.equal(await openFilesIn(at('full')), []);
    }
    assert.ok(failures > 20, String(failures));
    assert.ok(store.drafts > 3 * failures);
    const whole = await contentsOf(at('whole'));
    const made = await contentsOf(at('full'));
    for (const name of Object.keys(made)) assert.is(made[name], whole[name]);
    assert.equal(reported, [1]);

    // take() and finish() are for one run, which ends with the first failure.
    store.writes = Number.POSITIVE_INFINITY;
    await maker.take(zero);
    await mkdir(join(at('full'), shardName(2), 'not empty'), { recursive: true });
    await maker.take(two);
    await rejects(maker.take(three), inTheWay(2));
    await rejects(maker.finish(), inTheWay(2));
    await (await maker.make(three)).whole; // make() is not affected
    await maker.close();
    assert.equal(reported, [1, 0, 3]);
  }));

test.run();
