// Oracle: the dump that sonde itself has planned. Beside its jobs are records that somebody else has written to Redis.
// Each forged record stands before the honest jobs. A worker must do these, report the forged ones, and end.
import { writeFile } from 'node:fs/promises';
import { Redis as Client } from 'ioredis';
import * as assert from 'uvu/assert';
import { pauseAfter } from '../../src/dump/queue/records.js';
import { printable } from '../../src/files/text.js';
import { assertSameFolder, sampleText } from '../dump/folders.js';
import { suite } from '../support/harness.js';
import { good, noRedis, startWorker, until, withRedis } from '../support/redis.js';
import { run } from './command.js';

const test = suite('sonde queue: forged records');
test.limit(240_000);

const dumpWords = (out: string): string[] => [
  ...['--text', sampleText, '--hook', '1/mlp/post_act', '--context', '32', '--batch', '1'],
  ...['--shard-tokens', '640', '--limit', '1280', '--out', out],
];

type Record_ = Record<string, string>;

// A record that passes all checks here; each forged one differs in one thing.
const plain: Record_ = { name: 'x', data: '{}', opts: '{"attempts":1}', timestamp: '1', delay: '0', priority: '0' };
const queue = 'bull:sonde';

/** By id: the fields, or a command that sets the key to another type, and what the worker says of it. */
const forged: Record<string, { readonly record?: Record_; readonly set?: string[]; readonly says: RegExp }> = {
  'data-no-json': { record: { ...plain, data: '{x' }, says: /has data that is no JSON/ },
  'data-cut': { record: { ...plain, data: '{"a":' }, says: /has data that is no JSON/ },
  'no-record': { says: /lacks a name or data, or is gone/ },
  'no-name': { record: { data: '{}', opts: '{}' }, says: /lacks a name or data/ },
  'a-string': { set: ['set', `${queue}:a-string`, 'x'], says: /is no record of a job \(WRONGTYPE/ },
  'a-list': { set: ['rpush', `${queue}:a-list`, 'x'], says: /is no record of a job \(WRONGTYPE/ },
  'opts-no-json': { record: { ...plain, opts: '{{' }, says: /has opts that is no JSON/ },
  'opts-null': { record: { ...plain, opts: 'null' }, says: /has opts that are no object/ },
  'opts-array': { record: { ...plain, opts: '[1]' }, says: /has opts that are no object/ },
  'attempts-x': { record: { ...plain, opts: '{"attempts":"x"}' }, says: /has opts\.attempts that is no count/ },
  'attempts-half': { record: { ...plain, opts: '{"attempts":0.5}' }, says: /has opts\.attempts that is no count/ },
  'made-x': { record: { ...plain, atm: 'x' }, says: /has a field atm that is no count/ },
  'started-x': { record: { ...plain, ats: 'x' }, says: /is no record of a job \(ERR hash value is not an integer/ },
  'stalled-x': { record: { ...plain, stc: '-1' }, says: /has a field stc that is no count/ },
  'priority-x': { record: { ...plain, priority: 'nan' }, says: /has a field priority that is no count/ },
  'parent-no-json': { record: { ...plain, parent: '{{', parentKey: `${queue}:x` }, says: /has parent that is no JSON/ },
  'parent-number': { record: { ...plain, parent: '5' }, says: /has a parent that is no job of this queue/ },
  'parent-key-only': { record: { ...plain, parentKey: `${queue}:x` }, says: /has parent that is no JSON/ },
  'parent-elsewhere': {
    record: { ...plain, parent: '{"id":"x","queueKey":"bull:other"}', parentKey: 'bull:other:x' },
    says: /has a parent that is no job of this queue/,
  },
  'parent-fails-too': {
    record: { ...plain, parent: `{"id":"x","queueKey":"${queue}","fpof":true}`, parentKey: `${queue}:x` },
    says: /has a parent that is no job of this queue/,
  },
  repeated: {
    record: { ...plain, rjk: 'every-second', opts: '{"attempts":1,"repeat":{"every":1000}}' },
    says: /has a field rjk, which no job of sonde's has/,
  },
  deduplicated: { record: { ...plain, deid: 'x' }, says: /has a field deid/ },
  'x:lock': { record: plain, says: /has an id that no job has/ },
  'a b\x1b[2Jc': { record: plain, says: /job a b\?\[2Jc in Redis has an id that no job has/ },
  meta: { says: /has an id that no job has/ },
  wait: { says: /is no record of a job \(WRONGTYPE/ },
  '': { says: /has an id that no job has/ },
};

// BullMQ and sonde take these for jobs. A worker must come to the end of each by itself.
const odd: Record<string, Record_> = {
  'keep-nothing': { ...plain, opts: '{"attempts":1,"removeOnFail":true,"removeOnComplete":true}' },
  'keep-x': { ...plain, opts: '{"attempts":1,"removeOnFail":{"count":"x","age":"y"}}' },
  'backoff-unknown': { ...plain, opts: '{"attempts":2,"backoff":{"type":"weird"}}' },
  'backoff-custom': { ...plain, opts: '{"attempts":2,"backoff":{"type":"custom"}}' },
  'backoff-prototype': { ...plain, opts: '{"attempts":2,"backoff":{"type":"toString","delay":1}}' },
  'backoff-long': { ...plain, opts: '{"attempts":2,"backoff":{"type":"fixed","delay":1e15}}' },
  limits: { ...plain, opts: '{"attempts":1,"stackTraceLimit":"x","keepLogs":"y","tm":5,"lifo":"z"}' },
  results: { ...plain, stacktrace: '{{', returnvalue: '{{', progress: '{{' },
  numbers: { ...plain, timestamp: 'x', processedOn: 'y', delay: 'z', attemptsMade: 'x' },
};

async function forge(client: Client): Promise<string[]> {
  const ids = [...Object.keys(forged), ...Object.keys(odd)];
  for (const [id, { record, set }] of Object.entries(forged)) {
    if (record) await client.hset(`${queue}:${id}`, record);
    else if (set) await client.call(...(set as [string, ...string[]]));
  }
  for (const [id, record] of Object.entries(odd)) await client.hset(`${queue}:${id}`, record);
  await client.rpush(`${queue}:wait`, ...ids); // workers take from the right
  return ids;
}

if (noRedis) {
  test.skip('records that BullMQ cannot work with', noRedis);
} else {
  test('a worker reports each forged record, does the honest jobs, and ends; status and retry go on', () =>
    withRedis(async (redis, at) => {
      const client = new Client(redis.url);
      const status = async (...more: string[]) => good(await run(['queue', 'status', '--redis', redis.url, ...more]));
      good(await run(['dump', ...dumpWords(at('whole'))]));
      good(await run(['queue', 'plan', '--redis', redis.url, ...dumpWords(at('out'))]));
      const ids = await forge(client);
      await client.lpush(`${queue}:active`, 'taken-by-nobody'); // as if a worker had been lost
      await client.zadd(`${queue}:delayed`, '1', 'due-a-list', '2', 'due-nothing', '9e18', 'due-never');
      await client.rpush(`${queue}:due-a-list`, 'x');
      await client.hset(`${queue}:due-never`, plain);

      const { code, stderr } = await startWorker(redis.url, '--until-done').ended;
      assert.is(code, 0, stderr);
      await assertSameFolder(at('out'), at('whole'));
      for (const [id, { says }] of Object.entries(forged)) {
        const lines = stderr.split('\n').filter((line) => line.startsWith(`sonde: job ${printable(id)}: `));
        assert.is(lines.length, 1, `${JSON.stringify(id)} in ${stderr}`);
        assert.match(lines[0] as string, says);
        assert.match(lines[0] as string, /\(given up\)$/);
      }
      for (const id of ['due-a-list', 'due-nothing']) assert.match(stderr, `job ${id} in Redis is no record of a job`);
      assert.match(stderr, 'job taken-by-nobody in Redis lacks a name or data');
      assert.not.match(stderr, /(?!\n)\p{Cc}/u);
      assert.not.match(stderr, /the connection to the queue/);

      // no record comes back: none waits or is active, and those of possible jobs count as given up
      assert.equal(await client.lrange(`${queue}:wait`, 0, -1), []);
      assert.equal(await client.lrange(`${queue}:active`, 0, -1), []);
      const failed = await client.zrange(`${queue}:failed`, '0', '-1');
      const noJobs = ['x:lock', 'a b\x1b[2Jc', 'meta', 'wait', ''];
      const expected = [...ids, 'due-a-list', 'due-nothing', 'taken-by-nobody'].filter((id) => !noJobs.includes(id));
      assert.equal(failed.sort(), expected.sort());
      assert.is(await client.type(`${queue}:meta`), 'hash');
      assert.equal(await client.keys('bull:other:*'), []);

      const shown = await status();
      assert.match(shown, new RegExp(`\\ngiven up {2}${expected.length}\\n`));
      assert.match(shown, /job data-no-json of .*: the record of job data-no-json in Redis has data that is no JSON\n/);
      assert.match(shown, /done {6}3\n/);
      await status('--retry'); // only jobs are tried again
      const again = await startWorker(redis.url, '--until-done').ended;
      assert.is(again.code, 0, again.stderr);
      assert.match(await status(), new RegExp(`\\ngiven up {2}${expected.length}\\n`));
      client.disconnect();
    }));

  test('a record given up while it cannot be read, or with text for a terminal, breaks no status', () =>
    withRedis(async (redis) => {
      const client = new Client(redis.url);
      await client.hset(`${queue}:1`, { ...plain, opts: '{{' });
      await client.set(`${queue}:2`, 'x');
      await client.hset(`${queue}:3`, { ...plain, failedReason: `\x1b]0;title\x07\r\n${'long '.repeat(1e5)}` });
      await client.hset(`${queue}:6`, plain); // nobody has said why
      await client.zadd(`${queue}:failed`, '1', '1', '2', '2', '3', '3', '4', '4', '5', '\x1b[31m', '6', '6');
      const shown = good(await run(['queue', 'status', '--redis', redis.url]));
      assert.match(shown, /given up {2}6\n/);
      assert.match(shown, /job 6 of .*, 0 attempts: unknown\n/);
      assert.match(shown, /job 1 of .*: the record of job 1 in Redis has opts that is no JSON\n/);
      assert.match(shown, /job 2 of .*: the record of job 2 in Redis is none\n/);
      assert.match(shown, /job 4 of .*: the record of job 4 in Redis is gone\n/);
      assert.match(shown, /\?\]0;title\?\?\?long /);
      assert.not.match(shown, /(?!\n)\p{Cc}/u);
      assert.ok(shown.length < 5000, `${shown.length}`);
      good(await run(['queue', 'status', '--redis', redis.url, '--retry']));
      client.disconnect();
    }));

  test('keys of the queue that are of another type: reported once, without asking all the time, and it goes on', () =>
    withRedis(async (redis, at) => {
      const client = new Client(redis.url);
      const worker = startWorker(redis.url);
      await until(() => client.exists(`${queue}:stalled-check`).then((there) => there === 1));
      await client.set(`${queue}:wait`, 'x');
      await until(() => /connection to the queue: WRONGTYPE/.test(worker.said()));
      const calls = async () => {
        const info = await client.info('commandstats');
        return Number(info.match(/cmdstat_evalsha:calls=(\d+)/)?.[1] ?? 0);
      };
      const [before, begun] = [await calls(), performance.now()];
      await until(async () => (await calls()) >= before + 4); // it goes on trying
      const rate = ((await calls()) - before) / ((performance.now() - begun) / 1000);
      assert.ok(rate < 100, `${rate} scripts per second`);
      await client.del(`${queue}:wait`);
      good(await run(['queue', 'plan', '--redis', redis.url, ...dumpWords(at('out'))]));
      await until(() => worker.done.length === 3);
      worker.child.kill('SIGTERM');
      const { stderr } = await worker.ended;
      assert.is(stderr.match(/WRONGTYPE/g)?.length, 1, stderr);
      client.disconnect();
    }));

  test('a job that a worker cannot finish, since its record was changed meanwhile, is given up in the end', () =>
    withRedis(async (redis, at) => {
      const client = new Client(redis.url);
      await writeFile(at('corpus.txt'), 'a '.repeat(2000));
      const words = ['--text', at('corpus.txt'), '--hook', '1/mlp/post_act', '--context', '32', '--out', at('out')];
      good(await run(['queue', 'plan', '--redis', redis.url, ...words]));
      const [shard] = (await client.lrange(`${queue}:wait`, 0, -1)) as [string];
      const worker = startWorker(redis.url, '--until-done');
      await until(async () => (await client.lrange(`${queue}:active`, 0, -1)).includes(shard));
      await client.hset(`${queue}:${shard}`, { parent: '{{' });
      const { code, stderr } = await worker.ended;
      assert.is(code, 0, stderr);
      assert.match(stderr, new RegExp(`job ${shard} in Redis has parent that is no JSON \\(given up\\)`));
      assert.is(await client.llen(`${queue}:active`), 0);
      client.disconnect();
    }));
}

test('text for a terminal', () => {
  assert.is(printable('plain Zoë 語 😀'), 'plain Zoë 語 😀');
  assert.is(printable('\x1b[2J\u009b\u202e\u2028\r\n\0\ud800'), '?[2J???????');
  assert.is(printable('x'.repeat(400)), `${'x'.repeat(300)}…`);
  assert.is(printable(`${'x'.repeat(9)}😀`, 10), `${'x'.repeat(9)}?…`);
});

test('pauses grow, up to a minute', () => {
  assert.equal([1, 2, 3, 6, 1e9].map(pauseAfter), [2000, 4000, 8000, 60_000, 60_000]);
});

test.run();
