// How often a worker reads the plan of a dump, on a real Redis. Oracle: the number of times that the job that holds it is
// asked for, and the dump of one process.
import { cp, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import type { Job, RedisQueueBackend } from 'bullmq';
import { Redis as Client } from 'ioredis';
import * as assert from 'uvu/assert';
import { Permit } from '../../../src/dump/queue/allowances.js';
import { withQueue } from '../../../src/dump/queue/connection.js';
import { idOf } from '../../../src/dump/queue/job.js';
import { digestOfJob } from '../../../src/dump/queue/records.js';
import { JobRunner } from '../../../src/dump/queue/runner.js';
import { dump, mergeDumps, openDevice, planQueue } from '../../../src/index.js';
import { rejects, suite } from '../../support/harness.js';
import { noRedis, withRedis } from '../../support/redis.js';
import { assertSameFolder, sampleText } from '../folders.js';

const test = suite('runner of jobs');
test.limit(120_000);

if (noRedis) test.skip('the digest of a plan', noRedis);
else {
  test('the digest of a plan shows every change, and of a long one a change of its length or time', () =>
    withRedis(async (redis) => {
      const queue = { redis: redis.url, name: 'sonde' };
      const client = new Client(redis.url);
      await withQueue(queue, async (there) => {
        const record = { name: 'merge', data: '"plan"', timestamp: '100' };
        const digestOf = async (change: object) => {
          await client.del('bull:sonde:plan');
          await client.hset('bull:sonde:plan', { ...record, ...change });
          return digestOfJob(there, 'plan');
        };
        assert.is(await digestOf({ data: '' }), undefined);
        assert.is(await digestOfJob(there, 'none'), undefined);
        const long = 'a'.repeat(2 ** 20);
        const changes = [
          {},
          { name: 'shard' },
          { data: '"plam"' },
          { data: long },
          { data: `b${long.slice(1)}` },
        ].concat([{ data: `${long}a` }, { data: `${long}ab` }, { data: `${long}a`, timestamp: '101' }] as never[]);
        const digests: (string | undefined)[] = [];
        for (const change of changes) digests.push(await digestOf(change));
        assert.is(new Set(digests).size, changes.length);
        assert.not.ok(digests.includes(undefined));
        for (const [i, change] of changes.entries()) assert.is(await digestOf(change), digests[i]);
      }).finally(() => client.quit());
    }));
}

const title = 'the plan of a dump is read once for all of its shards, and again when it has changed';
if (noRedis) test.skip(title, noRedis);
else {
  test(title, () =>
    withRedis(async (redis, given) => {
      const root = await realpath(given('.'));
      const corpus = join(root, 'text.txt');
      await cp(sampleText, corpus);
      const queue = { redis: redis.url, name: 'sonde', attempts: 1 };
      const asked = { model: 'demo', corpus, locations: '1/mlp/post_act', limit: 4000, context: 32, shardTokens: 640 };
      const out = join(root, 'out');
      const { shards } = await planQueue({ ...asked, out }, queue);
      assert.ok(shards > 6);
      const device = openDevice('cpu', { threads: 1 });
      const permit = new Permit({ out: [root], corpus: [root] });
      const { redis: _, attempts: __, ...origin } = queue;
      const runner = new JobRunner({ ...origin, device, permit, signal: new AbortController().signal });
      const client = new Client(redis.url);
      await withQueue(queue, async (there) => {
        const backend = there.getBackend() as RedisQueueBackend;
        const { getJobData } = backend;
        let reads = 0;
        backend.getJobData = (id) => {
          if (id === idOf(out)) reads++;
          return getJobData.call(backend, id);
        };
        const run = async (number: number) =>
          runner.run((await there.getJob(`${idOf(out)}-${number}`)) as Job, there as never);
        await run(0);
        await Promise.all([run(1), run(2)]);
        assert.is(reads, 1);
        // The plan allows more than it did.
        const { state } = await planQueue({ ...asked, out, anyArithmetic: true }, queue);
        assert.is(state, 'queued');
        await run(3);
        await run(4);
        assert.is(reads, 2);
        // Somebody changes it, takes it away, puts something else there, and puts it back.
        const key = `bull:sonde:${idOf(out)}`;
        const record = await client.hgetall(key);
        const { data: text = '' } = record;
        const data = JSON.parse(text);
        const few = JSON.stringify({ ...data, count: 5 });
        await client.hset(key, { data: few });
        await rejects(run(5), /the job's number must be below the count of shards, 5, but is 5/);
        await client.hset(key, { data: JSON.stringify({ ...data, settings: 1 }) });
        for (let attempt = 0; attempt < 2; attempt++) await rejects(run(5), /the job's settings must be an object/);
        await client.hset(key, { ...record, name: 'shard' });
        await rejects(run(5), /the job's dump, .*, is not in the queue any more/);
        await client.hset(key, { ...record, data: '' });
        await rejects(run(5), /the job's dump: the record of job/);
        await client.del(key);
        await rejects(run(5), /the job's dump, .*, is not in the queue any more/);
        await client.set(key, 'of another type');
        await rejects(run(5), /WRONGTYPE/);
        await client.del(key);
        await client.hset(key, record);
        const before = reads;
        for (let number = 5; number < shards; number++) await run(number);
        assert.is(reads, before + 1);
      }).finally(() => client.quit());
      await runner.close();
      await mergeDumps(out);
      await dump({ ...asked, out: join(root, 'whole') });
      await assertSameFolder(out, join(root, 'whole'));
    }),
  );
}

test.run();
