// Jobs that somebody else has put into the queue, or has changed there, on a real Redis: a worker writes, reads and
// loads nothing that it is not allowed to, and does the honest jobs that come after. Oracle: the dump of one
// process.
import { existsSync } from 'node:fs';
import { cp, mkdir, readdir, realpath, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Job } from 'bullmq';
import { Redis as Client } from 'ioredis';
import * as assert from 'uvu/assert';
import { Permit } from '../../src/dump/queue/allowances.js';
import { withQueue } from '../../src/dump/queue/connection.js';
import { idOf } from '../../src/dump/queue/job.js';
import { JobRunner } from '../../src/dump/queue/runner.js';
import { packageRoot } from '../../src/engine/native.js';
import {
  type Allowances,
  dump,
  openDevice,
  planQueue,
  type QueueWorkEvent,
  queueStatus,
  workQueue,
} from '../../src/index.js';
import { assertSameFolder, contentsOf } from '../dump/folders.js';
import { rejects, suite } from '../support/harness.js';
import { random } from '../support/random.js';
import { good, noRedis, startPlainWorker, withRedis } from '../support/redis.js';
import { run } from './command.js';

const test = suite('forged jobs');
test.limit(240_000);

type Data = Record<string, unknown> & {
  request: Record<string, unknown> & { corpus: { path: string; kind: string }[]; locations: string[] };
  settings: Record<string, unknown> & { model: Record<string, unknown>; corpus: unknown[] };
};
type Forgery = readonly [name: string, change: (data: Data) => void, refusal: RegExp];

const demo = join(packageRoot, 'assets', 'demo');
const words = (...more: string[]): string[] => [
  ...['--text', 'text.txt', '--hook', '1/mlp/post_act', '--autoencoder', '2/resid/delta_mlp=ae-resid-delta-mlp'],
  ...['--context', '32', '--batch', '4', '--shard-tokens', '640', '--limit', '2000', ...more],
];

/** Every field of a job, forged in one way each. The paths that `at` gives are outside of what the worker may use. */
const forgeries = (at: (name: string) => string): Forgery[] => [
  // the fields of jobs
  ['count is a path', (d) => (d.count = 'x/../../../../../../victim/package'), /job's count must be an integer/],
  ['unknown settings', (d) => (d.settings.scripts = { postinstall: 'x' }), /job's settings\.scripts is unknown/],
  ['count 0', (d) => (d.count = 0), /count must be an integer from 1/],
  ['count is huge', (d) => (d.count = 1e300), /count must be/],
  ['count is a part', (d) => (d.count = 1.5), /count must be/],
  ['no count', (d) => delete d.count, /count is missing/],
  ['no request', (d) => delete (d as Record<string, unknown>).request, /request is missing/],
  ['no settings', (d) => delete (d as Record<string, unknown>).settings, /settings is missing/],
  ['settings are a list', (d) => Object.assign(d, { settings: [] }), /settings must be an object, but is a list/],
  ['more in it', (d) => (d.rowsPerShard = 2 ** 40), /rowsPerShard is unknown/],
  ['more in the request', (d) => (d.request.workers = [{ device: 'cpu' }]), /request\.workers is unknown/],
  ['a signal', (d) => (d.request.onProgress = 'x'), /request\.onProgress is unknown/],
  [
    'a prototype',
    (d) => Object.defineProperty(d.settings, '__proto__', { value: { a: 1 }, enumerable: true }),
    /settings\.__proto__ is unknown/,
  ],
  ['more in the model', (d) => (d.settings.model.path = '/etc'), /settings\.model\.path is unknown/],
  ['no digest', (d) => delete d.settings.model.digest, /settings\.model\.digest is missing/],
  ['a config of anything', (d) => (d.settings.model.config = { evil: 1 }), /settings\.model\.config\.evil is unknown/],
  ['a part', (d) => (d.settings.part = { index: 3, count: 7 }), /settings\.part must be/],
  ['a part of paths', (d) => (d.settings.part = { index: 0, count: '/x' }), /settings\.part\.count must be/],
  [
    'a shape',
    (d) => (d.settings.locations = [{ location: '1/mlp/post_act', shape: [32, 2 ** 31, 2 ** 31] }]),
    /settings\.locations\[0\]\.shape must be/,
  ],
  ['another context', (d) => (d.request.context = 64), /request\.context must be that of the settings, 32/],
  ['another limit', (d) => (d.request.limit = 10), /request\.limit must be that of the settings/],
  ['a huge batch', (d) => (d.request.batch = 2 ** 20), /request\.batch must be an integer from 1 to/],
  ['a large batch', (d) => (d.request.batch = 2 ** 18), /request\.batch must be 8192 at most with rows of 32 tokens/],
  ['a threshold of words', (d) => (d.request.threshold = '1'), /request\.threshold must be a number/],
  ['a seed below 0', (d) => (d.request.seed = -1), /request\.seed must be an integer/],
  ['a sample above 1', (d) => (d.request.sample = 2), /request\.sample must be/],
  ['a dtype', (d) => (d.request.dtype = 'constructor'), /request\.dtype must be one of/],
  ['what to drop', (d) => (d.request.drop = ['everything']), /request\.drop\[0\] must be one of/],
  ['locations', (d) => Object.assign(d.request, { locations: { length: 1e9 } }), /request\.locations must be a list/],
  [
    'a control character',
    (d) => (d.request.model = 'demo\u001b[2J'),
    /request\.model must be a string .* control character/,
  ],
  // the folder that is written
  ['out is relative', (d) => (d.request.out = '../victim'), /request\.out must be the absolute path/],
  ['out is no text', (d) => (d.request.out = 7), /request\.out must be/],
  ['out is on the web', (d) => (d.request.out = 'https://example.org/x'), /request\.out must be/],
  [
    'out walks up',
    (d) => (d.request.out = `${at('work')}/dumps/../../victim/new`),
    /request\.out: this worker does not write to .*--allow-out \S*victim\/new/,
  ],
  ["out is the forger's", (d) => (d.request.out = at('victim')), /--allow-out \S*victim/],
  ['out is almost the name', (d) => (d.request.out = `${at('work')}-2/x`), /--allow-out/],
  [
    'out is a link',
    (d) => (d.request.out = join(at('work'), 'dumps', 'link', 'x')),
    /does not write to .*link\/x, which is .*victim\/x.*--allow-out \S*victim\/x/,
  ],
  [
    'out is beside what a link leads to',
    (d) => (d.request.out = `${at('work')}/dumps/link-to-sub/../new`),
    /does not write to .*link-to-sub\/\.\.\/new, which is \S*model\/new\. .*--allow-out \S*model\/new$/m,
  ],
  [
    'out is above a link that leads down',
    (d) => (d.request.out = `${at('work')}/link-down/../../victim/down`),
    /does not write to \S*link-down\S*victim\/down\. .*--allow-out \S*victim\/down$/m,
  ],
  [
    'out is a link to nothing',
    (d) => (d.request.out = join(at('work'), 'dumps', 'dangling')),
    /which is .*victim\/none.*--allow-out/,
  ],
  ['out is a loop of links', (d) => (d.request.out = join(at('work'), 'dumps', 'loop')), /does not write to/],
  [
    'out in object storage',
    (d) => (d.request.out = 'az://account/container/other'),
    /--allow-out az:\/\/account\/container\/other/,
  ],
  ['out walks up there', (d) => (d.request.out = 'az://account/container/mine/../other'), /request\.out must be/],
  [
    'out at a similar address',
    (d) => (d.request.out = 'az://account/container/mine2'),
    /--allow-out az:\/\/account\/container\/mine2/,
  ],
  // the text that is read
  [
    'a text of others',
    (d) => (d.request.corpus = [{ path: '/etc/passwd', kind: 'text' }]),
    /request\.corpus\[0\]: this worker does not read \/etc\/passwd\. .*--allow-corpus \/etc$/m,
  ],
  [
    'a text through a link',
    (d) => (d.request.corpus = [{ path: join(at('work'), 'link.txt'), kind: 'text' }]),
    /does not read .*link\.txt, which is .*secret\.txt\. .*--allow-corpus/,
  ],
  [
    'a text beside what a link leads to',
    (d) => (d.request.corpus = [{ path: `${at('work')}/dumps/link-to-sub/../config.json`, kind: 'text' }]),
    /does not read .*link-to-sub\/\.\.\/config\.json, which is \S*model\/config\.json\. .*--allow-corpus \S*model$/m,
  ],
  [
    'standard input',
    (d) => Object.assign(d.request, { corpus: ['-'] }),
    /request\.corpus\[0\] must be the absolute path/,
  ],
  [
    'a kind of text',
    (d) => (d.request.corpus = [{ path: at('work'), kind: 'pickle' }]),
    /request\.corpus\[0\]\.kind must be/,
  ],
  ['no text', (d) => (d.request.corpus = []), /request\.corpus must have 1 to/],
  [
    'more texts',
    (d) => d.request.corpus.push(...d.request.corpus),
    /request\.corpus must have the files of the settings/,
  ],
  // the models that are loaded
  [
    'a model of others',
    (d) => (d.request.model = at('model')),
    /request\.model: this worker does not load .*--allow-model \S*model$/m,
  ],
  [
    'a model through a link',
    (d) => (d.request.model = 'linked-model'),
    /does not load linked-model, which is .*--allow-model/,
  ],
  [
    'a model by address',
    (d) => (d.request.model = 'https://example.org/models/x?sig=secret'),
    /does not load https:\/\/example\.org\/models\/x\. .*--allow-model https:\/\/example\.org\/models\/x$/m,
  ],
  ['a model in object storage', (d) => (d.request.model = 'az://account/container/model'), /--allow-model az:/],
  ['a model of random numbers', (d) => (d.request.model = 'random:gpt2-xl'), /--allow-model random:gpt2-xl/],
  ['a model list', (d) => Object.assign(d.request, { model: ['demo'] }), /request\.model must be a string/],
  [
    'an autoencoder of others',
    (d) => (d.request.locations = [`2/resid/delta_mlp -> ${at('model')}/{layer}.pt`]),
    /request\.locations: this worker does not load .*model\/\{layer\}\.pt\. .*--allow-model \S*model$/m,
  ],
  [
    'an autoencoder through a link',
    (d) => (d.request.locations = [`2/resid/delta_mlp -> ${at('work')}/linked/{layer}.pt`]),
    /does not load .*work\/linked\/2\.pt, which is .*model\/autoencoders\/resid_delta_mlp\/2\.pt\. .*--allow-model/,
  ],
  [
    'an autoencoder by address',
    (d) => (d.request.locations = ['2/resid/delta_mlp -> https://example.org/ae/{layer}.pt']),
    /--allow-model https:\/\/example\.org\/ae$/m,
  ],
  [
    'an autoencoder under a name',
    (d) => Object.assign(d.request, { autoencoders: { 'ae-resid-delta-mlp': '/etc/passwd' } }),
    /does not load \/etc\/passwd/,
  ],
];

if (noRedis) {
  test.skip('forged jobs of many kinds', noRedis);
} else {
  test('forged jobs of many kinds: refused for good by name, nothing written elsewhere, honest jobs are done', () =>
    withRedis(async (redis, given) => {
      const root = await realpath(given('.'));
      const at = (name: string) => join(root, name);
      for (const folder of ['work', 'work/dumps', 'work/deep', 'work/deep/down', 'work-2', 'victim']) {
        await mkdir(at(folder));
      }
      await cp(join(demo, 'stories-sample.txt'), at('work/text.txt'));
      await cp(demo, at('model'), { recursive: true });
      await writeFile(at('victim/package.json'), '{"name":"victim"}');
      await writeFile(at('victim/secret.txt'), 'a secret text, '.repeat(500));
      await symlink(at('victim'), at('work/dumps/link'));
      await symlink(at('model/autoencoders'), at('work/dumps/link-to-sub'));
      await symlink(at('work/deep/down'), at('work/link-down'));
      await symlink(at('victim/none'), at('work/dumps/dangling'));
      await symlink(at('work/dumps/loop'), at('work/dumps/loop'));
      await symlink(at('victim/secret.txt'), at('work/link.txt'));
      await symlink(at('model'), at('work/linked-model'));
      await mkdir(at('work/linked'));
      await symlink(at('model/autoencoders/resid_delta_mlp/2.pt'), at('work/linked/2.pt'));
      const before = { victim: await contentsOf(at('victim')), work: (await readdir(at('work'))).sort() };

      const cwd = at('work');
      const server = ['--redis', redis.url];
      const plan = (out: string) => run(['queue', 'plan', ...server, ...words('--out', out)], { cwd });
      assert.match(good(await plan('dumps/honest')), /4 shards to make/);
      using client = connected(redis.url);
      const id = idOf(at('work/dumps/honest'));
      const record = await client.hgetall(`bull:sonde:${id}`);
      const data = JSON.parse(record.data as string) as Data;
      const all = forgeries(at);
      for (const [i, [, change]] of all.entries()) {
        const own = (0xf0000000n + BigInt(i)).toString(16).padStart(16, '0');
        const forged = structuredClone(data);
        forged.request.out = at(`work/dumps/forged-${i}`);
        change(forged);
        const text = JSON.stringify(forged);
        await addJob(client, own, 'merge', text, record.opts as string);
        await addJob(client, `${own}-0`, 'shard', JSON.stringify({ dump: own, number: 0 }), record.opts as string);
      }
      // shards without a merge job of their own
      const alone: [unknown, RegExp][] = [
        [{ dump: id, number: 4 }, /number must be below the count of shards, 4, but is 4/],
        [{ dump: id, number: -1 }, /number must be an integer/],
        [{ dump: id, number: '../x' }, /number must be an integer/],
        [{ dump: '../../x', number: 0 }, /dump must be sixteen hexadecimal digits/],
        [{ dump: '0123456789abcdef', number: 0 }, /dump, 0123456789abcdef, is not in the queue/],
        [{ dump: id, number: 0, request: data.request }, /request is unknown/],
        [null, /data must be an object, but is null/],
        [[], /data must be an object, but is a list/],
        ['text', /data must be an object, but is "text"/],
        [5, /data must be an object, but is 5/],
      ];
      for (const [i, [payload]] of alone.entries()) {
        await addJob(client, `alone-${i}`, 'shard', JSON.stringify(payload), record.opts as string);
      }
      await addJob(client, 'name', 'rm -rf', JSON.stringify(data), record.opts as string);
      assert.match(good(await plan('dumps/later')), /4 shards to make/);

      const { code, stderr } = await startPlainWorker({ cwd }, ...server, '--until-done').ended;
      assert.is(code, 0, stderr);
      const lines = stderr.split('\n');
      for (const [name, , refusal] of all)
        assert.ok(
          lines.some((line) => isFinal(line, refusal)),
          `${name}: ${stderr}`,
        );
      for (const [, refusal] of alone)
        assert.ok(
          lines.some((line) => isFinal(line, refusal)),
          String(refusal),
        );
      assert.ok(lines.some((line) => isFinal(line, /name must be shard or merge/)));
      assert.not.match(stderr, 'sig=secret');
      // errors show when a shard is loaded, so the merge finds no shards
      const again = lines.filter((line) => line.endsWith('(will be tried again)'));
      assert.ok(
        again.every((line) => /: there is no part of a dump in /.test(line)),
        again.join('\n'),
      );

      assert.equal(await contentsOf(at('victim')), before.victim);
      assert.equal((await readdir(at('work'))).sort(), before.work);
      assert.equal(await readdir(at('work-2')), []);
      assert.not.ok(existsSync(at('model/new')));
      good(await run(['dump', ...words('--out', 'whole')], { cwd }));
      for (const name of ['honest', 'later']) await assertSameFolder(at(`work/dumps/${name}`), at('work/whole'));
      for (const i of all.keys()) {
        // a folder may have been made for a job that was right but for what it names
        if (!existsSync(at(`work/dumps/forged-${i}`))) continue;
        assert.equal(await readdir(at(`work/dumps/forged-${i}`)), []);
      }
      const status = good(await run(['queue', 'status', ...server]));
      assert.match(status, new RegExp(`given up {2}${2 * all.length + alone.length + 1}\n`));
      assert.not.match(status, '\u001b');
    }));

  test("1,000 random changes of a job's text: no crash, every refusal says where, and the honest jobs are done", () =>
    withRedis(async (redis, given) => {
      const root = await realpath(given('.'));
      const at = (name: string) => join(root, name);
      await mkdir(at('work'));
      await cp(join(demo, 'stories-sample.txt'), at('work/text.txt'));
      const cwd = at('work');
      const server = ['--redis', redis.url];
      good(await run(['queue', 'plan', ...server, ...words('--out', 'honest')], { cwd }));
      using client = connected(redis.url);
      const id = idOf(at('work/honest'));
      const { data: planned = '', opts = '' } = await client.hgetall(`bull:sonde:${id}`);
      const { integer, pick } = random(1414);
      const bits = [
        '"',
        '{',
        '}',
        '[',
        ']',
        ',',
        ':',
        '0',
        '-',
        '1e999',
        'null',
        '/',
        '..',
        '\\',
        '\u0000',
        '\u001b',
        'é',
        '"x":1,',
      ];
      const count = 1000;
      const once = JSON.stringify({ ...JSON.parse(opts), attempts: 1 });
      for (let turn = 0; turn < count; turn++) {
        // There is nothing to merge in a folder of this name, and no other job has it: none waits for another.
        const data = planned.replace('/work/honest', `/work/forged-${turn}`);
        let text = data;
        for (let change = integer(1, 4); change > 0; change--) {
          const from = integer(0, text.length);
          const inserted = pick([pick(bits), pick(bits), data.slice(from, from + integer(0, 40)), '']);
          text = text.slice(0, from) + inserted + text.slice(from + integer(0, 12));
        }
        if (text === data) text = '{}';
        const own = (0xf0000000n + BigInt(turn)).toString(16).padStart(16, '0');
        await addJob(client, own, 'merge', text, once);
      }
      const { code, stderr } = await startPlainWorker({ cwd }, ...server, '--until-done').ended;
      assert.is(code, 0, stderr.slice(-3000));
      const lines = stderr.trimEnd().split('\n');
      assert.is(lines.length, count);
      // refusals name the field, or say what the record is; a changed path below the folder leads to one without parts
      const where =
        /the job's \S.*( must | has | is |: this worker does not )|data that is no JSON|there is no part of a dump|merge: cannot write /;
      for (const line of lines) {
        assert.ok(line.endsWith(' (given up)') && where.test(line), line);
        assert.not.match(line, /\p{Cc}/u);
      }
      good(await run(['dump', ...words('--out', 'whole')], { cwd }));
      await assertSameFolder(at('work/honest'), at('work/whole'));
      assert.equal(await readdir(root), ['redis', 'work']);
    }));

  test('a worker is allowed what its options name: folders, files, models, and the line that was advised', () =>
    withRedis(async (redis, given) => {
      const root = await realpath(given('.'));
      const at = (name: string) => join(root, name);
      for (const folder of ['start', 'text', 'dumps']) await mkdir(at(folder));
      await cp(join(demo, 'stories-sample.txt'), at('text/text.txt'));
      await cp(demo, at('model'), { recursive: true });
      const server = ['--redis', redis.url];
      const more = ['--out', at('dumps/out'), '--model', at('model'), '--autoencoder'];
      const plan = [
        ...[
          'queue',
          'plan',
          ...server,
          ...words(...more),
          `1/resid/delta_mlp=${at('model')}/autoencoders/resid_delta_mlp/{layer}.pt`,
        ],
      ].map((word) => (word === 'text.txt' ? at('text/text.txt') : word));
      const planned = await run(plan, { cwd: at('start') });
      assert.match(good(planned), /: 4 shards to make: sonde queue work\n$/);
      const [, advised = ''] = /^sonde: workers that are started in this folder need (.*)$/m.exec(planned.stderr) ?? [];
      const folders = `--allow-out ${at('dumps/out')} --allow-corpus ${at('text')} --allow-model ${at('model')}`;
      assert.is(advised, `${folders} --allow-model ${at('model/autoencoders/resid_delta_mlp')}`);

      // the options are added one after the other, as each refusal asks for the next
      const options: string[] = [];
      for (let turn = 0; turn < 3; turn++) {
        const { code, stderr } = await startPlainWorker({ cwd: at('start') }, ...server, ...options, '--until-done')
          .ended;
        assert.is(code, 0, stderr);
        const [, option, value] = /start the worker with (--allow-\w+) (\S+) \(given up\)/.exec(stderr) ?? [];
        assert.ok(option && value, stderr);
        options.push(option as string, value as string);
        good(await run(['queue', 'status', ...server, '--retry']));
      }
      const last = await startPlainWorker({ cwd: at('start') }, ...server, ...options, '--until-done').ended;
      assert.match(last.stderr, /given up/, 'names of the demo are allowed no more when a model is named');
      good(await run(['queue', 'status', ...server, '--retry']));
      const all = [...advised.split(' '), '--allow-model', 'demo'];
      const { stderr } = await startPlainWorker({ cwd: at('start') }, ...server, ...all, '--until-done').ended;
      assert.is(stderr, '');
      assert.ok((await readdir(at('dumps/out'))).includes('manifest.json'));
    }));

  test('jobs that somebody has broken or removed: planning again brings them back', () =>
    withRedis(async (redis, given) => {
      const root = await realpath(given('.'));
      const at = (name: string) => join(root, name);
      await cp(join(demo, 'stories-sample.txt'), at('text.txt'));
      const server = ['--redis', redis.url];
      const plan = async (out: string) =>
        good(await run(['queue', 'plan', ...server, ...words('--out', out)], { cwd: root }));
      using client = connected(redis.url);
      const key = (name: string, more = '') => `bull:sonde:${idOf(at(name))}${more}`;
      const changed = async (name: string, change: (data: Data) => void) => {
        const data = JSON.parse((await client.hget(key(name), 'data')) as string) as Data;
        change(data);
        await client.hset(key(name), 'data', JSON.stringify(data));
      };
      const damages: [string, (name: string) => Promise<unknown>][] = [
        ['merge-changed', (name) => client.hset(key(name), 'data', 'nonsense')],
        ['merge-forged', (name) => client.hset(key(name), 'data', '{"count":0}')],
        ['merge-huge', (name) => changed(name, (data) => (data.count = 999_999_999))],
        ["merge-of-another's", (name) => changed(name, (data) => (data.request.out = at('../elsewhere')))],
        ['merge-gone', (name) => client.del(key(name))],
        ['shard-changed', (name) => client.hset(key(name, '-1'), 'data', 'nonsense')],
        ['shard-of-nobody', (name) => client.hset(key(name, '-1'), 'data', '{"dump":"0123456789abcdef","number":1}')],
        [
          "shard-is-another's",
          (name) => client.hset(key(name, '-1'), 'data', `{"dump":"${idOf(at(name))}","number":2}`),
        ],
        ['shard-gone', (name) => client.del(key(name, '-1'), key(name, '-2'))],
      ];
      for (const [name] of damages) assert.match(await plan(name), /4 shards to make/);
      for (const [name, damage] of damages) await damage(name);
      const first = await startPlainWorker({ cwd: root }, ...server, '--until-done').ended;
      assert.is(first.code, 0, first.stderr);
      for (const [name] of damages) await plan(name);
      const second = await startPlainWorker({ cwd: root }, ...server, '--until-done').ended;
      assert.is(second.code, 0, second.stderr);
      good(await run(['dump', ...words('--out', 'whole')], { cwd: root }));
      for (const [name] of damages) await assertSameFolder(at(name), at('whole'));
      assert.match(good(await run(['queue', 'status', ...server])), /^merging {3}0 /m);
    }));

  test('a job that is refused leaves loaded what others need', () =>
    withRedis(async (redis, given) => {
      const root = await realpath(given('.'));
      const corpus = join(root, 'text.txt');
      await cp(join(demo, 'stories-sample.txt'), corpus);
      const queue = { redis: redis.url, name: 'sonde' };
      const asked = { model: 'demo', corpus, locations: '1/mlp/post_act', limit: 2000, context: 32, shardTokens: 640 };
      const [out, elsewhere] = [join(root, 'out'), join(root, 'elsewhere')];
      for (const folder of [out, elsewhere]) await planQueue({ ...asked, out: folder }, { ...queue, attempts: 1 });
      const checks: string[] = [];
      class Watched extends Permit {
        override async checkModel(name: string): Promise<void> {
          checks.push(name);
          return super.checkModel(name);
        }
      }
      const permit = new Watched({ out: [out], corpus: [corpus] });
      const device = openDevice('cpu', { threads: 1 });
      const runner = new JobRunner({ ...queue, device, permit, signal: new AbortController().signal });
      await withQueue(queue, async (there) => {
        const run = async (dump: string, number: number) =>
          runner.run((await there.getJob(`${idOf(dump)}-${number}`)) as Job, there as never);
        await run(out, 0);
        assert.is(checks.length, 2, 'of the job, and when it is loaded');
        await rejects(run(elsewhere, 0), /this worker does not write to/);
        assert.is(checks.length, 3);
        await run(out, 1);
        assert.is(checks.length, 3, 'nothing was loaded again');
      });
      await runner.close();
    }));

  test('in the library: the same', () =>
    withRedis(async (redis, given) => {
      const root = await realpath(given('.'));
      const queue = { redis: redis.url, name: 'library', key: 'secret' };
      const corpus = join(root, 'text.txt');
      await cp(join(demo, 'stories-sample.txt'), corpus);
      const out = join(root, 'out');
      const asked = { model: 'demo', corpus, locations: '1/mlp/post_act', limit: 2000, context: 32, shardTokens: 640 };
      for (const [change, pattern] of [
        [{ shard: { index: 0, count: 2 } }, /shard and workers are for dump\(\)/],
        [{ workers: [{ device: 'cpu' as const }] }, /shard and workers are for dump\(\)/],
        [{ model: { digest: 1 } as never }, /load the model themselves/],
        [{ batch: 2 ** 19 }, /request\.batch must be/],
        [{ corpus: '-' }, /standard input is on one machine only/],
      ] as const) {
        await rejects(planQueue({ ...asked, out, ...change }, { ...queue, attempts: 1 }), pattern);
      }
      const device = openDevice('cpu', { threads: 1 });
      const planned = await planQueue({ ...asked, out, device }, { ...queue, attempts: 1 });
      const folders = [`--allow-out ${out}`, `--allow-corpus ${root}`];
      assert.equal(planned, { shards: 4, state: 'added', workerOptions: folders });
      const work = async (allow?: Allowances) => {
        const events: QueueWorkEvent[] = [];
        const { signal } = new AbortController();
        const onEvent = (event: QueueWorkEvent) => events.push(event);
        await workQueue({ ...queue, device, untilDone: true, onEvent, signal, ...(allow && { allow }) });
        return events;
      };
      const refused = await work({ corpus: [root] });
      assert.is(refused.length, 4);
      for (const event of refused) {
        assert.ok(event.kind === 'failed' && event.final);
        assert.match(event.reason, /request\.out: this worker does not write to .*--allow-out/);
      }
      const { failed } = await queueStatus(queue, true);
      assert.equal(failed, []);
      const done = await work({ out: [out], corpus: [corpus] });
      assert.equal(
        done.map(({ kind }) => kind),
        Array(5).fill('done'),
      );
      await dump({ ...asked, out: join(root, 'whole') });
      await assertSameFolder(out, join(root, 'whole'));
      for (const key of ['', new Uint8Array(), 5 as never]) {
        await rejects(planQueue({ ...asked, out }, { ...queue, key, attempts: 1 }), TypeError, /queue: key must be/);
        const { signal } = new AbortController();
        const idle = { ...queue, key, device, untilDone: true, onEvent: () => {}, signal };
        await rejects(workQueue(idle), TypeError, /queue: key must be/);
      }
      await rejects(work({ out: [''] }), TypeError, /allow\.out must be a list of texts/);
      await rejects(
        work({ model: ['demo'] } as never),
        TypeError,
        /'model' is no option of allow; the nearest one is 'models'/,
      );
      await rejects(work({ models: 'demo' as never }), TypeError, /allow\.models must be a list/);
      await rejects(work({ out: ['az://x'] }), /az:\/\/x: is no place for a dump/);
    }));

  test('signed jobs: a worker with a key takes no others, wherever they come from', () =>
    withRedis(async (redis, given) => {
      const root = await realpath(given('.'));
      const at = (name: string) => join(root, name);
      await mkdir(at('work'));
      await cp(join(demo, 'stories-sample.txt'), at('work/text.txt'));
      await writeFile(at('key'), 'a key of some length\n');
      await writeFile(at('other'), 'another key');
      await writeFile(at('none'), '\n');
      const cwd = at('work');
      const server = ['--redis', redis.url];
      const plan = async (out: string, ...key: string[]) =>
        good(await run(['queue', 'plan', ...server, ...words('--out', out), ...key], { cwd }));
      const signed = ['--key', at('key')];
      assert.match(
        (await run(['queue', 'work', ...server, '--key', at('none')])).stderr,
        /--key .*none: the file is empty/,
      );
      assert.match((await run(['queue', 'work', ...server, '--key', at('gone')])).stderr, /--key .*gone: ENOENT/);
      const emptied = { cwd, env: { SONDE_QUEUE_KEY: '' } };
      for (const command of [['work'], ['plan', ...words('--out', 'emptied')]]) {
        const { code, stderr } = await run(['queue', ...command, ...server], emptied);
        assert.is(code, 2, stderr);
        assert.match(stderr, /SONDE_QUEUE_KEY is empty/);
      }

      await plan('signed', ...signed);
      await plan('unsigned');
      await plan('strange', '--key', at('other'));
      await plan('changed', ...signed);
      using client = connected(redis.url);
      // every field of this job is right, but it was signed with another value in one of them
      const key = `bull:sonde:${idOf(at('work/changed'))}`;
      const changed = JSON.parse((await client.hget(key, 'data')) as string);
      await client.hset(key, 'data', JSON.stringify({ ...changed, request: { ...changed.request, batch: 5 } }));
      // these signatures are of other jobs, or are not signatures
      const id = idOf(at('work/signed'));
      const shard = JSON.parse((await client.hget(`bull:sonde:${id}-0`, 'data')) as string);
      const opts = (await client.hget(`bull:sonde:${id}`, 'opts')) as string;
      const signatures = [
        changed.signature,
        '',
        5,
        `${shard.signature}00`,
        shard.signature.toUpperCase(),
        'é'.repeat(64),
      ];
      for (const [i, signature] of signatures.entries()) {
        await addJob(client, `odd-${i}`, 'shard', JSON.stringify({ ...shard, signature }), opts);
      }
      const worker = await startPlainWorker({ cwd }, ...server, ...signed, '--until-done').ended;
      assert.is(worker.code, 0, worker.stderr);
      const lines = worker.stderr.split('\n');
      const unsigned = lines.filter((line) =>
        /signature is missing, and this worker has a key \(given up\)/.test(line),
      );
      const wrong = lines.filter((line) => /signature is wrong.* \(given up\)/.test(line));
      assert.is(unsigned.length, 4);
      assert.is(wrong.length, 4 + 4 + signatures.length);
      assert.is(lines.length, unsigned.length + wrong.length + 1);
      good(await run(['dump', ...words('--out', 'whole')], { cwd }));
      await assertSameFolder(at('work/signed'), at('work/whole'));
      // the folders that planning has made hold the index of the corpus and nothing else
      for (const name of ['unsigned', 'strange', 'changed'])
        assert.equal(await readdir(at(`work/${name}`)), ['index.jsonl']);

      // planning again replaces a changed job by a right one; the key may be in the environment
      const env = { SONDE_QUEUE_KEY: 'a key of some length\n' };
      const again = await run(['queue', 'plan', ...server, ...words('--out', 'changed')], { cwd, env });
      assert.match(good(again), /4 shards to make/);
      const { stderr } = await startPlainWorker({ cwd, env }, ...server, '--until-done').ended;
      assert.is(stderr, '');
      await assertSameFolder(at('work/changed'), at('work/whole'));

      // a job that was signed for another queue
      const data = (await client.hget(key, 'data')) as string;
      await addJob(client, idOf(at('work/changed')), 'merge', data, opts, 'second');
      const second = await startPlainWorker({ cwd }, ...server, ...signed, '--queue', 'second', '--until-done').ended;
      assert.match(second.stderr, /signature is wrong/);
    }));
}

const connected = (url: string): Client & Disposable => {
  const client = new Client(url);
  return Object.assign(client, { [Symbol.dispose]: () => client.disconnect() });
};

/** A job as BullMQ keeps it: a hash, and its name among those that wait. */
async function addJob(client: Client, id: string, name: string, data: string, opts: string, queue = 'sonde') {
  const fields = { name, data, opts, timestamp: '1', delay: '0', priority: '0' };
  await client.hset(`bull:${queue}:${id}`, fields);
  await client.lpush(`bull:${queue}:wait`, id);
}

const isFinal = (line: string, refusal: RegExp): boolean =>
  line.endsWith(' (given up)') && refusal.test(line.slice(0, -' (given up)'.length));

test.run();
