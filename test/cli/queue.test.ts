// Oracle: the dump of one process. The tests start a real Redis; where none is installed, they are skipped.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Job } from 'bullmq';
import { Redis as Client } from 'ioredis';
import * as assert from 'uvu/assert';
import { withQueue } from '../../src/dump/queue/connection.js';
import type { Lease } from '../../src/files/lease.js';
import { DiskStore } from '../../src/files/store/disk_store.js';
import {
  type Device,
  dump,
  openDevice,
  planQueue,
  type QueueWorkEvent,
  queueStatus,
  workQueue,
} from '../../src/index.js';
import { assertSameFolder, contentsOf, sampleText } from '../dump/folders.js';
import { address, hashesOf, uncommittedOf, withBlobServer } from '../support/blobs/blob_stores.js';
import { withArithmetic } from '../support/device.js';
import { rejects, suite } from '../support/harness.js';
import { freePort } from '../support/machine.js';
import { good, main, noRedis, startWorker, until, type Worker, withRedis } from '../support/redis.js';
import { run } from './command.js';

const test = suite('sonde queue');
test.limit(240_000);

const dumpWords = (out: string, ...more: string[]): string[] => [
  ...['--text', sampleText, '--hook', '1/mlp/post_act', '--autoencoder', '*/resid/delta_mlp=ae-resid-delta-mlp'],
  ...['--context', '32', '--batch', '1', '--shard-tokens', '640', '--limit', '25600', '--out', out, ...more],
];

if (noRedis) {
  test.skip('workers, a killed one, a stopped one, a Redis that restarts', noRedis);
} else {
  test('3 workers, 40 shards; one killed, one stopped, Redis started anew: the bytes of one process', () =>
    withRedis(async (redis, at) => {
      const status = async () => good(await run(['queue', 'status', '--redis', redis.url]));
      good(await run(['dump', ...dumpWords(at('whole'))]));
      const plan = ['queue', 'plan', '--redis', redis.url, ...dumpWords(at('out'))];
      assert.match(good(await run(plan)), /out: 40 shards to make: sonde queue work\n$/);
      assert.match(good(await run(plan)), /out is in the queue already, with 40 shards\n$/);
      assert.match(await status(), /^waiting {3}40\nactive {4}0\nretrying {2}0\ndone {6}0\nmerging {3}1 dumps/);

      const workers = [1, 2, 3].map(() => startWorker(redis.url, '--until-done'));
      const [killed, stopped, last] = workers as [Worker, Worker, Worker];
      await until(() => workers.every(({ done }) => done.length >= 2));
      killed.child.kill('SIGKILL');
      assert.is((await killed.ended).signal, 'SIGKILL');
      stopped.child.kill('SIGTERM');
      const { code, stderr } = await stopped.ended;
      assert.is(code, 130);
      assert.match(stderr, /sonde: stopped: what was under way is in the queue again\n$/);
      assert.ok(!(await readdir(at('out'))).includes('manifest.json'), 'done before anything was lost');

      await redis.stop();
      await sleep(300);
      await redis.start();
      const fourth = startWorker(redis.url, '--until-done');
      for (const worker of [last, fourth]) {
        const { code, stderr } = await worker.ended;
        assert.is(code, 0, stderr);
      }
      await assertSameFolder(at('out'), at('whole'));
      assert.match(
        await status(),
        /^waiting {3}0\nactive {4}0\nretrying {2}0\ndone {6}41\nmerging {3}0 .*\ngiven up {2}0\n$/,
      );

      assert.match(good(await run(plan)), /out is complete already, with 40 shards\. Nothing was done\.\n$/);
      await rm(join(at('out'), 'shard-00007.safetensors'));
      const lacking = await run(plan);
      assert.is(lacking.code, 1);
      assert.match(lacking.stderr, /out lacks shards: sonde dump with the same options makes what is missing\n$/);

      // Redis may forget everything: the folder says what is done
      good(await run(['queue', 'plan', '--redis', redis.url, ...dumpWords(at('again'))]));
      const some = startWorker(redis.url);
      await until(() => some.done.length >= 8);
      some.child.kill('SIGTERM');
      await some.ended;
      await redis.stop();
      await rm(at('redis'), { recursive: true });
      await mkdir(at('redis'));
      await redis.start();
      good(await run(['queue', 'plan', '--redis', redis.url, ...dumpWords(at('again'))]));
      assert.is((await startWorker(redis.url, '--until-done').ended).code, 0);
      await assertSameFolder(at('again'), at('whole'));
    }));

  test('a job that fails is tried again, given up, reported, and tried again when asked', () =>
    withRedis(async (redis, at) => {
      const corpus = at('corpus.txt');
      const text = (await readFile(sampleText)).subarray(0, 8000);
      await writeFile(corpus, text);
      const words = ['--text', corpus, '--hook', '1/mlp/post_act', '--context', '32', '--shard-tokens', '640'];
      const queue = ['--redis', redis.url, '--queue', 'other'];
      good(await run(['queue', 'plan', ...queue, '--attempts', '2', ...words, '--out', at('out')]));
      await rm(corpus);
      const first = startWorker(redis.url, '--queue', 'other', '--until-done');
      const { code, stderr } = await first.ended;
      assert.is(code, 0);
      assert.match(
        stderr,
        /sonde: shard 0: dump: corpus file .*corpus\.txt: there is no such file \(will be tried again\)/,
      );
      assert.match(stderr, /sonde: shard 0: dump: .*no such file \(given up\)/);
      const status = good(await run(['queue', 'status', ...queue]));
      assert.match(status, /^waiting {3}0\nactive {4}0\nretrying {2}0\ndone {6}0\nmerging {3}1 /);
      assert.match(
        status,
        /given up {2}4\n {2}shard \d of .*out, 2 attempts: dump: corpus file .*: there is no such file\n/,
      );

      await writeFile(corpus, text);
      assert.match(good(await run(['queue', 'status', '--retry', ...queue])), /^waiting {3}4\n.*given up {2}0\n$/s);
      assert.is((await startWorker(redis.url, '--queue', 'other', '--until-done').ended).code, 0);
      good(await run(['dump', ...words, '--out', at('whole')]));
      await assertSameFolder(at('out'), at('whole'));
      await writeFile(corpus, text.subarray(0, 4000));
      const changed = await run(['queue', 'plan', ...queue, ...words, '--out', at('out')]);
      assert.is(changed.code, 1);
      assert.match(changed.stderr, /out holds a dump with the corpus .*8000 bytes\), but .*4000 bytes\) was asked for/);
    }));

  test('a worker that stays serves what is planned now; a folder has one plan at a time', () =>
    withRedis(async (redis, at) => {
      const words = (context: string) =>
        ['--text', sampleText, '--hook', '1/mlp/post_act', '--limit', '2000', '--context', context].concat(
          ...['--shard-tokens', '640'],
        );
      const plan = (context: string) =>
        run(['queue', 'plan', '--redis', redis.url, ...words(context), '--out', at('out')]);
      const worker = startWorker(redis.url);
      const made = () => existsSync(join(at('out'), 'manifest.json'));
      good(await plan('32'));
      const other = await plan('64');
      if (!made())
        assert.match(other.stderr, /out is in the queue already with another context: 32, and not 64\. Wait/);
      for (const context of ['32', '64']) {
        if (context === '64') good(await plan(context));
        const done = async () => /^done {6}5$/m.test(good(await run(['queue', 'status', '--redis', redis.url])));
        await until(async () => made() && (await done()));
        good(await run(['dump', ...words(context), '--out', at(context)]));
        await assertSameFolder(at('out'), at(context));
        await rm(at('out'), { recursive: true });
      }
      worker.child.kill('SIGTERM');
      assert.is((await worker.ended).code, 130);
    }));

  test('a shard, or a merge, that a living process is at comes again, and no attempt is counted', () =>
    withRedis(async (redis, at) => {
      await writeFile(at('text.txt'), await readFile(sampleText));
      const queue = { redis: redis.url, name: 'leases' };
      const asked = {
        ...{ model: 'demo', corpus: at('text.txt'), locations: '1/mlp/post_act' },
        ...{ limit: 1200, context: 32, shardTokens: 640 },
      };
      const plan = () => planQueue({ ...asked, out: at('out') }, { ...queue, attempts: 1 });
      assert.is((await plan()).shards, 2);
      const store = new DiskStore(at('out'));
      const held = new Map<string, Lease>();
      for (const [what, name] of [
        ['shard 0', 'manifest-0-of-2.json.claim'],
        [`merge of ${at('out')}`, 'manifest.json.claim'],
      ] as const) {
        held.set(what, (await store.takeLease(name)) as Lease);
      }
      const client = new Client(redis.url);
      await client.flushall();
      await client.quit();
      assert.equal((await plan()).state, 'added');

      const refused: string[] = [];
      const seen = async (what: string) => {
        const { retrying, failed } = await queueStatus(queue);
        assert.equal([retrying, failed], [1, []]);
        refused.push(what);
        if (refused.filter((each) => each === what).length === 2) await held.get(what)?.release();
        await withQueue(queue, async (there) => {
          const [job] = (await there.getDelayed()) as [Job];
          assert.is(job.attemptsMade, 0);
          await job.promote(); // so that the test does not wait as long as the worker would
        });
      };
      const looks: Promise<void>[] = [];
      const events: QueueWorkEvent[] = [];
      await workQueue({
        ...{ ...queue, device: openDevice('cpu', { threads: 1 }), untilDone: true },
        allow: { out: [at('out')], corpus: [at('text.txt')] },
        signal: new AbortController().signal,
        onEvent(event) {
          events.push(event);
          if (event.kind === 'failed') looks.push(seen(event.what));
        },
      });
      await Promise.all(looks);
      assert.equal(refused, ['shard 0', 'shard 0', `merge of ${at('out')}`, `merge of ${at('out')}`]);
      for (const event of events) {
        if (event.kind !== 'failed') continue;
        assert.match(event.reason, new RegExp(`out is being written by process ${process.pid} on `));
        assert.is(event.final, false);
      }
      assert.equal((await queueStatus(queue)).done, 3);
      await dump({ ...asked, out: at('whole') });
      await assertSameFolder(at('out'), at('whole'));
    }));

  test('a worker of another arithmetic gives the job back, unless the dump is planned with any', () =>
    withRedis(async (redis, at) => {
      await writeFile(at('text.txt'), await readFile(sampleText));
      const queue = { redis: redis.url, name: 'arithmetic' };
      const asked = {
        ...{ model: 'demo', corpus: at('text.txt'), locations: '1/mlp/post_act', out: at('out') },
        ...{ limit: 2000, context: 32, shardTokens: 640 },
      };
      const plan = (more: object = {}) => planQueue({ ...asked, ...more }, { ...queue, attempts: 1 });
      assert.is((await plan()).shards, 4);
      const device = openDevice('cpu', { threads: 1 });
      const arithmetic = device.arithmetic.float32;
      const work = async (name: string, stopAfter = Number.POSITIVE_INFINITY) => {
        const stop = new AbortController();
        const events: QueueWorkEvent[] = [];
        const onEvent = (event: QueueWorkEvent) => {
          if (events.push(event) >= stopAfter) stop.abort(new Error('enough'));
        };
        const allow = { out: [at('out')], corpus: [at('text.txt')] };
        const how = { ...queue, device, allow, untilDone: true, signal: stop.signal, onEvent };
        await withArithmetic(device, { float32: name }, () => workQueue(how));
        return events;
      };
      assert.ok((await work(arithmetic, 1)).every(({ kind }) => kind === 'done'));
      const { done } = await queueStatus(queue);
      assert.ok(done >= 1 && done < 4, String(done));
      const refused =
        /^queue: shard \d is in the queue again, .* this worker ends: dump: .*out holds a dump that was beg/;
      for (let attempt = 0; attempt < 3; attempt++) {
        await rejects(work('2 cpu other'), Error, refused);
        const status = await queueStatus(queue);
        assert.equal([status.done, status.waiting + status.active, status.failed], [done, 4 - done, []]);
      }
      await rejects(
        plan({ anyArithmetic: false }),
        /in the queue already with another anyArithmetic: the default, and not/,
      );
      await rejects(
        plan({ anyArithmetic: true, limit: 1000 }),
        /in the queue already with another limit: 2000, and not/,
      );
      assert.is((await plan({ anyArithmetic: true })).state, 'queued');
      const made = await work('2 cpu other');
      assert.equal(
        made.map(({ kind }) => kind),
        Array(5 - done).fill('done'),
      );
      const manifest = JSON.parse(await readFile(join(at('out'), 'manifest.json'), 'utf8'));
      assert.equal(manifest.arithmetic, [arithmetic, '2 cpu other'].sort());
      assert.is(manifest.complete, true);
    }));

  test('gradients are the work of CPUs: a worker on a GPU gives the job back', () =>
    withRedis(async (redis, at) => {
      await writeFile(at('text.txt'), await readFile(sampleText));
      const queue = { redis: redis.url, name: 'gradients' };
      const asked = {
        ...{ model: 'demo', corpus: at('text.txt'), locations: '1/mlp/post_act', out: at('out') },
        ...{ limit: 600, context: 32, shardTokens: 256, gradientOf: 'loss' as const },
      };
      assert.is((await planQueue(asked, { ...queue, attempts: 1 })).shards, 3);
      const allow = { out: [at('out')], corpus: [at('text.txt')] };
      const work = (device: Device) =>
        workQueue({ ...queue, device, allow, untilDone: true, signal: new AbortController().signal, onEvent() {} });
      const gpu = openDevice('cpu', { threads: 5 }); // no other test opens it: it stays what it is called here
      Object.defineProperty(gpu, 'toString', { value: () => 'cuda:0' });
      await rejects(
        work(gpu),
        Error,
        /^queue: shard \d is in the queue again, .* this worker ends: dump: gradients are computed on the CPU alone so far/,
      );
      const { done, waiting, active, failed } = await queueStatus(queue);
      assert.equal([done, waiting + active, failed], [0, 3, []]);
      await work(openDevice('cpu', { threads: 1 }));
      good(
        await run([
          'dump',
          '--text',
          at('text.txt'),
          '--hook',
          '1/mlp/post_act',
          '--gradient-of',
          'loss',
          '--limit',
          '600',
          '--context',
          '32',
          '--shard-tokens',
          '256',
          '--out',
          at('whole'),
        ]),
      );
      await assertSameFolder(at('out'), at('whole'));
    }));

  test('a dump in object storage', () =>
    withRedis((redis, at) =>
      withBlobServer(async (server) => {
        const words = (out: string) => dumpWords(out, '--limit', '4000');
        good(await run(['dump', ...words(at('whole'))]));
        good(await run(['queue', 'plan', '--redis', redis.url, ...words(address)]));
        for (const worker of [1, 2].map(() => startWorker(redis.url, '--until-done', '--allow-out', address))) {
          const { code, stderr } = await worker.ended;
          assert.is(code, 0, stderr);
        }
        assert.equal(hashesOf(server), await contentsOf(at('whole')));
        assert.equal(uncommittedOf(server), []);
      }),
    ));
}

test('the packages are optional: without them, the command says what to install', async () => {
  const resolve =
    "export const resolve=(name,context,next)=>{if(name==='ioredis')throw new Error('gone');return next(name,context)}";
  const hide = `import{register}from'node:module';register('data:text/javascript,${encodeURIComponent(resolve).replaceAll("'", '%27')}')`;
  const words = [
    '--no-warnings',
    '--import',
    `data:text/javascript,${encodeURIComponent(hide)}`,
    main,
    'queue',
    'status',
  ];
  const { status, stderr } = spawnSync(process.execPath, words, { encoding: 'utf8' });
  assert.is(status, 1);
  assert.match(stderr, /^sonde: sonde queue needs two optional packages .*: npm install bullmq ioredis\n$/);
});

test('no server, no standard input', async () => {
  const server = ['--redis', `redis://user:secret@127.0.0.1:${await freePort()}`];
  for (const words of [['status'], ['work'], ['plan', ...dumpWords('out')]]) {
    const { code, stderr } = await run(['queue', ...words, ...server]);
    assert.is(code, 1);
    assert.match(stderr, /^sonde: queue: no connection to redis:\/\/127\.0\.0\.1:\d+: connect ECONNREFUSED.*\n$/);
  }
  const { code, stderr } = await run(['queue', 'plan', '-', '--hook', '1/mlp/post_act', '--out', 'out'], {
    input: 'abc',
  });
  assert.is(code, 1);
  assert.match(stderr, /^sonde: queue: standard input is on one machine only: give a file\n$/);
  const none = await run(['queue', 'plan', '--out', 'out', ...server]);
  assert.is(none.code, 2);
  assert.match(none.stderr, /queue plan needs a text/);
});

test.run();
