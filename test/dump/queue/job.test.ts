// Reading a job gives the payload that was planned, or an error that names the field. Oracle: the payload itself, and a
// thousand random changes of it.
import * as assert from 'uvu/assert';
import { FieldError } from '../../../src/dump/format/schema.js';
import { type DumpSettings, knownSettings } from '../../../src/dump/format/settings.js';
import { BadJob, type JobOrigin, jobData, plainRequest, readJob } from '../../../src/dump/queue/job.js';
import type { ShardedDump } from '../../../src/dump/workers/shard_session.js';
import { suite } from '../../support/harness.js';
import { random } from '../../support/random.js';

const test = suite('jobs of a queue');

const origin: JobOrigin = { name: 'sonde' };
const dump: ShardedDump = {
  request: {
    model: 'demo',
    precision: 'float32',
    corpus: [{ path: '/data/text.txt', kind: 'text' }, '/data/more.jsonl'],
    locations: ['1/mlp/post_act', '*/resid/delta_mlp -> ae'],
    autoencoders: { ae: 'ae-resid-delta-mlp' },
    threshold: 0.5,
    finite: true,
    out: '/data/dump',
    context: 32,
    batch: 8,
    dtype: 'float16',
    drop: ['padding'],
    sample: 0.25,
    seed: 3,
    statistics: true,
    parquet: false,
    gradientOf: 'loss',
    shardTokens: 640,
    limit: 25600,
  },
  settings: {
    model: {
      name: 'demo',
      digest: 'abc',
      dtype: 'float32',
      vocabulary: 50257,
      config: { enc: 'gpt2', ctxWindow: 128, dModel: 64, nLayers: 4, mAttn: 1, nHeads: 4, mMlp: 4 },
    },
    tokenizer: 'gpt2',
    corpus: [
      { kind: 'text', name: 'text.txt', bytes: 1000 },
      { kind: 'jsonl', name: 'more.jsonl', bytes: 2000 },
    ],
    locations: [{ location: '1/mlp/post_act', shape: [32, 256] }],
    autoencoders: [{ location: '0/resid/delta_mlp', name: 'ae', digest: 'def', latents: 512, threshold: 0.5 }],
    dtype: 'float16',
    context: 32,
    shardTokens: 640,
    limit: 25600,
    drop: ['padding'],
    sample: 0.25,
    seed: 3,
    statistics: true,
    parquet: false,
    gradientOf: 'loss',
    part: { index: 0, count: 1 },
  },
  count: 40,
};

const again = (data: object): unknown => JSON.parse(JSON.stringify(data));

test('a job is read as it was planned, signed or not', () => {
  for (const key of [undefined, 'secret', new Uint8Array([0, 255, 10])]) {
    const signed = { ...origin, key };
    assert.equal(readJob('merge', again(jobData('merge', dump, signed)), signed), dump);
    const shard = { dump: '0123456789abcdef', number: 39 };
    assert.equal(readJob('shard', again(jobData('shard', shard, signed)), signed), shard);
    assert.equal(readJob('shard', again(jobData('shard', shard, signed)), origin), shard, 'a worker without a key');
  }
  const other = { ...dump, request: { ...dump.request, foo: undefined } };
  assert.equal(readJob('merge', jobData('merge', other, origin), origin), dump);
});

test('a signature is of one job of one queue, under one key', () => {
  const signed = { ...origin, key: 'secret' };
  const data = again(jobData('merge', dump, signed)) as Record<string, unknown>;
  const refused = (given: unknown, by: JobOrigin, pattern: RegExp) =>
    assert.throws(
      () => readJob('merge', given, by),
      (error: Error) => error instanceof BadJob && pattern.test(error.message),
    );
  refused(jobData('merge', dump, origin), signed, /signature is missing/);
  refused(data, { ...signed, name: 'other' }, /signature is wrong/);
  refused(data, { ...signed, key: 'Secret' }, /signature is wrong/);
  refused({ ...data, count: 41 }, signed, /signature is wrong/);
  for (const signature of [null, 5, '', 'x', {}, [], `${data.signature} `, `${data.signature}00`]) {
    refused({ ...data, signature }, signed, /signature is wrong/);
  }
  assert.throws(() => jobData('shard', { dump: 'x', number: 0 }, origin), /dump must be sixteen hexadecimal digits/);
});

/** The path of every value in JSON. */
function* pathsIn(value: unknown, path: readonly (string | number)[] = []): Generator<readonly (string | number)[]> {
  yield path;
  if (typeof value !== 'object' || value === null) return;
  const keys = Array.isArray(value) ? value.keys() : Object.keys(value);
  for (const key of keys) yield* pathsIn((value as Record<string | number, unknown>)[key], [...path, key]);
}

const shownPath = (path: readonly (string | number)[]): string =>
  path.map((part, i) => (typeof part === 'number' ? `[${part}]` : i === 0 ? part : `.${part}`)).join('');

test('1,000 random changes: what is read is known field by field, and every refusal names the field', () => {
  const { integer, pick } = random(14);
  const text = JSON.stringify(dump);
  const paths = [...pathsIn(dump)];
  const values: unknown[] = [
    ...[
      null,
      true,
      false,
      0,
      -1,
      1,
      0.5,
      1e300,
      2 ** 53,
      -0,
      '',
      'x',
      '5',
      '../../x',
      '/etc/passwd',
      '/data/dump\u0000',
      '\u001b[2J',
    ],
    ...[
      [],
      {},
      [[]],
      [{}],
      { length: 1e9 },
      { toString: 'x' },
      'az://a/b/../c',
      'https://example.org',
      'x'.repeat(5000),
    ],
    ...[
      ['x', 'y'],
      Array(20_000).fill('1/mlp/post_act'),
      { index: 0, count: 1 },
      'constructor',
      '__proto__',
      'cuda',
      'pickle',
    ],
  ];
  const names = [
    'evil',
    '__proto__',
    'constructor',
    'toString',
    'scripts',
    'a.b',
    '',
    'x'.repeat(200),
    'signature',
    '\u001b[2J',
  ];
  const counts = { read: 0, refused: 0 };
  for (let turn = 0; turn < 1000; turn++) {
    const changed = JSON.parse(text);
    const path = pick(paths.slice(1));
    const parent = path.slice(0, -1).reduce((value, part) => value[part], changed);
    const last = path.at(-1) as string;
    const kind = integer(0, 4);
    let at = shownPath(path);
    if (kind === 0) delete parent[last];
    else if (kind < 3 || typeof parent[last] !== 'object' || Array.isArray(parent[last]))
      parent[last] = structuredClone(pick(values));
    else {
      const name = pick(names);
      Object.defineProperty(parent[last], name, { value: pick(values), enumerable: true, configurable: true });
      at = `${at}${/^\w{1,60}$/.test(name) ? `.${name}` : '['}`;
    }
    try {
      const read = readJob('merge', JSON.parse(JSON.stringify(changed)), origin);
      counts.read++;
      assert.equal(read, JSON.parse(JSON.stringify(changed)), at);
      assert.equal(knownSettings(read.settings), read.settings, 'nothing else in the settings');
    } catch (error) {
      assert.instance(error, BadJob, `${at}: ${error}`);
      counts.refused++;
      const { message } = error as Error;
      const named = [at, shownPath(path), shownPath(path.slice(0, -1)), ...together].filter((name) => name !== '');
      assert.ok(
        named.some((name) => message.startsWith(`queue: the job's ${name}`)) || path.length === 1,
        `${at}: ${message}`,
      );
      assert.ok(message.length < 1000 && !/\p{Cc}/u.test(message), message);
    }
  }
  assert.ok(counts.refused > 600 && counts.read > 20, JSON.stringify(counts));
});

// Fields that are wrong together with others
const together = [
  'request.context',
  'request.dtype',
  'request.shardTokens',
  'request.limit',
  'request.sample',
  'request.seed',
].concat([
  'request.statistics',
  'request.parquet',
  'request.gradientOf',
  'request.corpus',
  'request.batch',
  'settings.part',
]);

test('a plan of 200,000 files with paths of 120 letters, and of names that take more letters in JSON', () => {
  const files = Array.from({ length: 200_000 }, (_, i) => {
    const name = i % 50 === 0 ? `${i}-"\\".txt` : `document-${i}.txt`;
    return { path: `/${'folder/'.repeat(20).slice(0, 119 - name.length)}${name}`, kind: 'text' as const, name };
  });
  const request = { ...dump.request, corpus: files.map(({ path }) => path) };
  assert.equal(new Set(request.corpus.map(({ length }) => length)), new Set([120]));
  assert.is(plainRequest(request).corpus.length, 200_000);
  const some = files.slice(0, 5000); // all of them would take a test some seconds
  const corpus = some.map(({ kind, name }) => ({ kind, name, bytes: 2 ** 53 - 1 }));
  const large = {
    ...dump,
    request: { ...request, corpus: some.map(({ path }) => path) },
    settings: { ...dump.settings, corpus },
  };
  const read = readJob('merge', again(jobData('merge', large, origin)), origin);
  assert.is(JSON.stringify(read), JSON.stringify(large));
});

test('a job that would take hours or tens of GB of a worker or a planner is refused', () => {
  const { gradientOf: _, ...request } = dump.request;
  const { gradientOf, ...settings } = dump.settings;
  const refused = (change: Partial<ShardedDump>, pattern: RegExp) =>
    assert.throws(
      () => readJob('merge', again({ ...dump, ...change }), origin),
      (error: Error) => error instanceof BadJob && pattern.test(error.message),
    );
  const plain = { request, settings };
  refused({ count: 999_999_999 }, /job's count must be of shards that a manifest can list, but is 999999999$/);
  refused({ count: 10_000_000 }, /job's count must/);
  readJob('merge', again({ ...dump, ...plain, count: 1_000_000 }), origin);
  const logits = { ...settings, locations: [{ location: 'logits', shape: [32, 50257] }] };
  const batched = (batch: number) => ({ settings: logits, request: { ...request, batch } });
  refused(batched(8192), /request\.batch must be 664 at most with rows of 32 tokens at these locations, but is 8192$/);
  readJob('merge', again({ ...dump, ...batched(664) }), origin);
  const recorded = (batch: number) => ({ ...batched(batch), settings: { ...logits, gradientOf } as DumpSettings });
  refused(recorded(664), /request\.batch must be 130 at most with rows of 32 tokens at these locations, but is 664$/);
  readJob('merge', again({ ...dump, ...recorded(130) }), origin);
  const many = Array.from({ length: 2000 }, (_, i) => ({
    ...settings.autoencoders[0],
    location: `${i}/resid/delta_mlp`,
  }));
  refused(
    { settings: { ...settings, autoencoders: many as never }, request: { ...request, batch: 1000 } },
    /request\.batch must/,
  );
});

test('a request that cannot be planned is refused before anything is loaded', () => {
  const wrong = (change: object, pattern: RegExp) =>
    assert.throws(
      () => plainRequest({ ...dump.request, ...change }),
      (e: Error) => e instanceof BadJob && pattern.test(e.message),
    );
  wrong({ batch: 2 ** 19 }, /request\.batch must be an integer from 1 to 262144/);
  wrong({ foo: 1 }, /request\.foo is unknown/);
  wrong({ locations: ['-> x'] }, /request\.locations\[0\] must be LOCATION/);
  wrong({ out: 'az://a/b/c/' }, /request\.out must be/);
  wrong({ corpus: Array(500_001).fill('/x') }, /request\.corpus must have 1 to 500000 entries, but has 500001$/);
  wrong(
    { corpus: Array(200_000).fill(`/${'x'.repeat(200)}`) },
    /these 200,000 files and their paths may take 9\d,\d{3},\d{3} letters, and a queue takes 67,108,864: plan/,
  );
  assert.equal(plainRequest({ ...dump.request, limit: undefined as never }).limit, undefined);
  assert.instance(new FieldError('x', 'y'), Error);
});

test.run();
