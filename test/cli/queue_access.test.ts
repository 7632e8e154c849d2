// Oracles: what Redis allows its users by itself, and the dump of one process. Every refusal is one sentence without
// the password.
import { spawnSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { Redis as Client } from 'ioredis';
import * as assert from 'uvu/assert';
import { reasonOf, shownAddress } from '../../src/dump/queue/connection.js';
import { queueStatus } from '../../src/dump/queue/dump_queue.js';
import { assertSameFolder, sampleText } from '../dump/folders.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite } from '../support/harness.js';
import { good, noRedis, Redis, startWorkerWith, until, withRedis } from '../support/redis.js';
import { type Outcome, run } from './command.js';

const test = suite('sonde queue: access');
test.limit(240_000);

const secret = 'S3cret/#@:%word';
const admin = 'admin-Pa55';

// The rights that planning, working and status need on the keys of one queue, as in README.md.
const rights = [
  ...['~bull:sonde:*', '+@hash', '+@list', '+@set', '+@sortedset', '+@stream', '+@string'],
  ...['+del', '+exists', '+eval', '+evalsha', '+multi', '+exec', '+info'],
];
const reading = ['+hgetall', '+llen', '+lrange', '+lindex', '+zcard', '+zcount', '+zrange', '+zrevrange'];
const user = (name: string, ...words: string[]) => ['--user', name, 'on', `>${secret}`, ...words];
const users = [
  ...['--requirepass', admin, ...user('sonde', ...rights), ...user('nobody')],
  ...user('reader', '~bull:sonde:*', '+eval', '+evalsha', '+info', ...reading),
];

const dumpWords = (out: string): string[] => [
  ...['--text', sampleText, '--hook', '1/mlp/post_act', '--context', '32', '--batch', '1'],
  ...['--shard-tokens', '640', '--limit', '2560', '--out', out],
];
const commands = [['status'], ['work', '--threads', '1'], ['plan', ...dumpWords('out')]];

function assertRefused({ code, stdout, stderr }: Outcome, pattern: RegExp): void {
  assert.match(stderr, pattern);
  assert.match(stderr, /^sonde: queue: [^\n]+\n$/);
  assert.is(code, 1);
  assert.is(stdout, '');
}

/** Each command fails with one sentence, and with SONDE_DEBUG a stack; neither has the password. */
async function assertAllRefused(redis: string, pattern: RegExp, env: Record<string, string> = {}): Promise<void> {
  const set = { ...env, SONDE_REDIS: redis };
  const debug = run(['queue', 'status'], { env: { ...set, SONDE_DEBUG: '1' } });
  for (const outcome of await Promise.all(commands.map((words) => run(['queue', ...words], { env: set })))) {
    assertRefused(outcome, pattern);
    assertNoSecret(outcome.stderr);
  }
  const { code, stderr } = await debug;
  assert.is(code, 1);
  assert.match(stderr, /^Error: queue: .*\n {4}at /);
  assertNoSecret(stderr);
}

/** The library rejects with one sentence as well, and nothing that the error holds has the password. */
async function assertRejected(redis: string, pattern: RegExp): Promise<void> {
  const error = await rejects(queueStatus({ redis, name: 'sonde' }), Error, pattern);
  assert.match(error.message, /^queue: [^\n]+$/);
  assertNoSecret(inspect(error, { depth: null }));
}

function assertNoSecret(text: string): void {
  for (const word of [secret, encodeURIComponent(secret), 'S3cret', admin, 'Pa55']) assert.not.match(text, word);
}

test('addresses that are none are refused before anything connects, and not repeated', async () => {
  const cases: [string, RegExp][] = [
    ['', /address of Redis is empty: redis:\/\/HOST:PORT was expected$/],
    ['localhost:6379', /must begin with redis:\/\//],
    ['S3cret@localhost:6379', /must begin with redis:\/\//],
    ['http://u:S3cret@localhost:6379', /must begin with redis:\/\//],
    ['/tmp/redis.sock', /must begin with redis:\/\//],
    ['redis://', /is no URL|names no host/],
    ['redis://:6379', /is no URL|names no host/],
    ['redis://u:S3cret#x@localhost', /is no URL .* %23 for #/],
    ['redis://u:123#S3cret@localhost', /has more after the host .* %23 for #/],
    ['redis://u:123?S3cret@localhost', /has more after the host/],
    ['redis://u:123/S3cret@localhost', /has more after the host .* %2F for \//],
    ['redis://u:S3cret/x@localhost', /is no URL/],
    ['redis://u:S3cret%zz@localhost', /has a % that no two hexadecimal digits follow/],
    ['redis://S3cret@localhost', /names a user without a password/],
    ['redis://localhost/S3cret', /has more after the host/],
    ['redis://localhost:99999', /is no URL/],
  ];
  for (const [redis, pattern] of cases) {
    const error = await rejects(queueStatus({ redis, name: 'sonde' }), TypeError, pattern);
    assert.not.match(`${error.stack} ${error.cause}`, 'S3cret');
    assert.match(error.message, /^queue: the address of Redis [^\n]+$/);
    assert.is(shownAddress(redis), 'Redis');
  }
  for (const words of commands) {
    assertRefused(await run(['queue', ...words, '--redis', 'u:S3cret@localhost']), /must begin with redis:/);
  }
  assertRefused(await run(['queue', 'status'], { env: { SONDE_REDIS: '' } }), /is empty/);
  assert.is(shownAddress('rediss://u:S3cret@[::1]:7/2'), 'rediss://[::1]:7');
  assert.is(shownAddress('redis://u:S3@cret@host'), 'redis://host'); // only the last @ ends the password
});

test('a password that a server repeats is taken out', () => {
  for (const text of ['S3@cret', 'S3%40cret']) {
    const reason = reasonOf(new Error(`ERR what is redis://u:${text}@host?\x1b[2J`), 'redis://u:S3@cret@host');
    assert.is(reason, 'what it says holds the password');
  }
  // BullMQ's errors have numbers as codes
  assert.is(reasonOf(Object.assign(new Error('no lock'), { code: -2 as never })), 'no lock');
  const known = reasonOf(new Error('WRONGPASS is not S3@cret'), 'redis://u:S3@cret@host');
  assert.is(known, 'the user or the password is wrong');
});

test('no such host; no Redis; one that loads; one that answers nothing a client understands', async () => {
  await assertAllRefused('redis://u:S3cret@no-such-host.invalid', /no-such-host\.invalid: there is no such host/);
  const answers: [string, RegExp][] = [
    ['HTTP/1.1 400 Bad Request\r\n\r\n', /what answers there is no Redis/],
    ['-LOADING Redis is loading the dataset in memory\r\n', /it is loading its data or busy, try again later/],
    ['-MISCONF \x1b[2JErrors writing\r\n', /takes nothing more in.*MISCONF \?\[2JErrors/],
  ];
  for (const [answer, pattern] of answers) {
    const server = createServer((socket) => {
      socket.on('error', () => {});
      socket.on('data', (text) => {
        const count = text.toString().match(/^\*\d+\r$/gm)?.length ?? 1;
        socket.write(answer.repeat(count));
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    try {
      await assertRejected(`redis://u:S3cret@127.0.0.1:${port}`, pattern);
    } finally {
      server.close();
    }
  }
});

if (noRedis) {
  test.skip('users, rights, replicas', noRedis);
} else {
  test('wrong password, no password, no rights, other keys', () =>
    withRedis(
      async (redis) => {
        await assertAllRefused(redis.urlFor('sonde', 'S3cret'), /: the user or the password is wrong \(WRONGPASS/);
        await assertRejected(redis.urlFor('', 'S3cret'), /: the user or the password is wrong/);
        await assertRejected(redis.urlFor('who', secret), /: the user or the password is wrong/);
        await assertAllRefused(redis.url, /: it asks for a password: .*SONDE_REDIS/);
        await assertAllRefused(redis.urlFor('nobody', secret), /: the user lacks rights \(NOPERM/);
        const other = await run(['queue', 'plan', ...dumpWords('out'), '--queue', 'other'], {
          env: { SONDE_REDIS: redis.urlFor('sonde', secret) },
        });
        assertRefused(other, /: the user lacks rights/);
      },
      { args: users },
    ));

  test('a user with few rights plans, works, merges and asks; one who reads only asks', () =>
    withRedis(
      async (redis, at) => {
        const env = { SONDE_REDIS: redis.urlFor('sonde', secret) };
        const reader = { SONDE_REDIS: redis.urlFor('reader', secret) };
        good(await run(['dump', ...dumpWords(at('whole'))]));
        assert.match(good(await run(['queue', 'plan', ...dumpWords(at('out'))], { env })), /4 shards to make/);
        for (const words of [
          ['plan', ...dumpWords(at('no'))],
          ['work', '--threads', '1', '--until-done'],
        ]) {
          assertRefused(await run(['queue', ...words], { env: reader }), /: the user lacks rights/);
        }
        assert.match(good(await run(['queue', 'status'], { env: reader })), /^waiting {3}4\n/);
        const { code, stderr } = await startWorkerWith(env, '--until-done').ended;
        assert.is(code, 0, stderr);
        assert.is(stderr, '');
        await assertSameFolder(at('out'), at('whole'));
        for (const one of [env, reader]) {
          assert.match(good(await run(['queue', 'status'], { env: one })), /^waiting {3}0\n.*done {6}5\n/s);
        }
        assert.match(good(await run(['queue', 'status', '--retry'], { env })), /given up {2}0\n/);
        // Redis logs what it refused: the name of a connection, which nothing depends on
        const client = new Client(redis.urlFor('default', admin));
        const log = (await client.acl('LOG')) as (string | string[])[][];
        const refused = log.map((entry) => entry.map(String)).filter((entry) => entry.includes('sonde'));
        for (const entry of refused) assert.ok(entry.includes('client|setname'), entry.join(' '));
        client.disconnect();
      },
      { args: users },
    ));

  test('a worker that loses its rights, then its password, says each once and goes on when it has them again', () =>
    withRedis(
      async (redis, at) => {
        const env = { SONDE_REDIS: redis.urlFor('sonde', secret) };
        const client = new Client(redis.urlFor('default', admin));
        const plan = async (out: string) => good(await run(['queue', 'plan', ...dumpWords(at(out))], { env }));
        const worker = startWorkerWith(env);
        const count = (pattern: RegExp) => worker.said().match(pattern)?.length ?? 0;
        await plan('first');
        await until(() => worker.done.length === 5);

        await client.acl('SETUSER', 'sonde', '-evalsha');
        await until(() => count(/the connection to the queue: the user lacks rights/g) === 1);
        const refusals = async () => {
          const log = (await client.acl('LOG')) as (string | number)[][];
          return log.reduce((sum, entry) => sum + Number(entry[1]), 0);
        };
        const before = await refusals();
        await until(async () => (await refusals()) >= before + 3); // it goes on trying
        await client.acl('SETUSER', 'sonde', '+evalsha');
        await plan('second');
        await until(() => worker.done.length === 10);

        await client.acl('SETUSER', 'sonde', 'resetpass', '>other');
        await client.client('KILL', 'USER', 'sonde');
        await until(() => count(/the connection to the queue: the user or the password is wrong/g) === 1);
        await client.acl('SETUSER', 'sonde', `>${secret}`);
        await plan('third');
        await until(() => worker.done.length === 15);
        worker.child.kill('SIGTERM');
        const { code, stderr } = await worker.ended;
        assert.is(code, 130);
        assert.is(count(/lacks rights/g), 1);
        assert.is(count(/password is wrong/g), 1);
        assertNoSecret(stderr);
        assert.not.match(stderr, /Unhandled|\n {4}at /);
        client.disconnect();
      },
      { args: users },
    ));

  test('a replica, which only reads', () =>
    withRedis(
      async (redis, at) => {
        const env = { SONDE_REDIS: redis.url };
        const pattern = /: it is a replica, which only reads: the address of the primary is needed \(READONLY/;
        assertRefused(await run(['queue', 'plan', ...dumpWords(at('out'))], { env }), pattern);
        assertRefused(await run(['queue', 'work', '--threads', '1'], { env }), pattern);
        assert.match(good(await run(['queue', 'status'], { env })), /^waiting {3}0\n/);
      },
      { args: ['--replicaof', '127.0.0.1', '1'] },
    ));
}

const noOpenssl = spawnSync('openssl', ['version']).status === 0 ? undefined : 'no openssl is installed';

function openssl(folder: string, ...words: string[]): void {
  const { status, stderr } = spawnSync('openssl', words, { cwd: folder, encoding: 'utf8' });
  assert.is(status, 0, stderr);
}

/** Makes an authority, and its certificates for a server on this machine, for another host, and for a client. */
async function makeCertificates(folder: string): Promise<void> {
  await mkdir(folder);
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  openssl(folder, 'req', '-x509', ...key, '-keyout', 'ca.key', '-out', 'ca.crt', '-subj', '/CN=test', '-days', '2');
  for (const [name, host] of Object.entries({ server: 'IP:127.0.0.1', other: 'DNS:other.invalid', client: 'DNS:me' })) {
    openssl(folder, 'req', ...key, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', `/CN=${name}`);
    await writeFile(join(folder, 'names'), `subjectAltName=${host}\n`);
    const ca = ['-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial', '-extfile', 'names', '-days', '2'];
    openssl(folder, 'x509', '-req', '-in', `${name}.csr`, ...ca, '-out', `${name}.crt`);
  }
}

const tlsWords = (folder: string, name: string, clients: 'yes' | 'no'): string[] => [
  ...['--tls-cert-file', join(folder, `${name}.crt`), '--tls-key-file', join(folder, `${name}.key`)],
  ...['--tls-ca-cert-file', join(folder, 'ca.crt'), '--tls-auth-clients', clients],
];

const lacking = noRedis ?? noOpenssl;
if (lacking) {
  test.skip('TLS, certificates of one’s own, of the server and of clients', lacking);
} else {
  test('TLS, with certificates of one’s own, of the server and of clients', () =>
    withFolder(async (folder) => {
      const files = join(folder, 'certificates');
      await makeCertificates(files);
      const start = (at: string, name: string, clients: 'yes' | 'no') =>
        Redis.start(join(folder, at), { tls: true, args: [...tlsWords(files, name, clients), ...users] });
      const trust = { NODE_EXTRA_CA_CERTS: join(files, 'ca.crt') };
      const status = (redis: string, env: Record<string, string> = {}) =>
        run(['queue', 'status'], { env: { ...trust, SONDE_REDIS: redis, ...env } });
      const mine = { SONDE_REDIS_CERT: join(files, 'client.crt'), SONDE_REDIS_KEY: join(files, 'client.key') };

      const redis = await start('redis', 'server', 'no');
      try {
        const url = redis.urlFor('sonde', secret);
        const notTrusted = /: its certificate is not trusted: NODE_EXTRA_CA_CERTS names the file of the authority's/;
        await assertAllRefused(url, notTrusted);
        assertRefused(await status(redis.urlFor('sonde', 'S3cret')), /the user or the password is wrong/);
        const noTls = /it closed the connection.*; perhaps it wants TLS, then the address begins with rediss:\/\//;
        assertRefused(await status(url.replace('rediss:', 'redis:')), noTls);
        const env = { ...trust, SONDE_REDIS: url };
        const out = join(folder, 'out');
        good(await run(['dump', ...dumpWords(join(folder, 'whole'))]));
        good(await run(['queue', 'plan', ...dumpWords(out)], { env }));
        const { code, stderr } = await startWorkerWith(env, '--until-done').ended;
        assert.is(code, 0, stderr);
        await assertSameFolder(out, join(folder, 'whole'));
      } finally {
        await redis.stop();
      }

      const strict = await start('strict', 'server', 'yes');
      try {
        const url = strict.urlFor('sonde', secret);
        const demanded = /demands a certificate of its clients: SONDE_REDIS_CERT and SONDE_REDIS_KEY name the files/;
        await assertAllRefused(url, demanded, trust);
        good(await status(url, mine));
        assertRefused(await status(url, { ...mine, SONDE_REDIS_KEY: '' }), /need each other/);
        const gone = { ...mine, SONDE_REDIS_KEY: join(files, 'gone') };
        assertRefused(await status(url, gone), /SONDE_REDIS_KEY names a file that cannot be read: ENOENT/);
        const wrong = { ...mine, SONDE_REDIS_KEY: join(files, 'other.key') };
        assertRefused(await status(url, wrong), /SONDE_REDIS_CERT and SONDE_REDIS_KEY are no certificate with its key/);
      } finally {
        await strict.stop();
      }

      const other = await start('other', 'other', 'no');
      try {
        assertRefused(await status(other.urlFor('sonde', secret)), /its certificate is for another host/);
      } finally {
        await other.stop();
      }
    }));

  test('a server without TLS does not answer one who speaks it', () =>
    withRedis(async (redis) => {
      const env = { SONDE_REDIS: redis.url.replace('redis:', 'rediss:') };
      assertRefused(await run(['queue', 'status'], { env }), /it does not answer; where rediss:\/\/ is asked for/);
    }));
}

test.run();
