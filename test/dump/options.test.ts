// What cannot be an argument or an option of the functions about dumps. Oracle: every error is one of sonde's own, and
// says what is wrong with which argument.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { DumpOptions } from '../../src/dump/shards/options.js';
import {
  collate,
  Dump,
  describePlan,
  dump,
  mergeDumps,
  openDump,
  planOf,
  planQueue,
  queueStatus,
  report,
  workQueue,
} from '../../src/index.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { testDevice } from '../support/device.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite } from '../support/harness.js';
import { sampleText } from './folders.js';

const test = suite('options of dumps');
test.limit(240_000);
const device = testDevice();
const model = await Transformer.load('demo', { device });
const location = '1/mlp/post_act';
const latents = '1/resid/delta_mlp -> ae-resid-delta-mlp';

/** Messages of the JavaScript engine, Node.js and libraries. */
const foreign = [
  /Cannot (read|convert|destructure|mix|set|use|access)/,
  /is not (a function|iterable|defined|a constructor)/,
  /Do not know how|circular structure|\[object /,
  /The ".*" (argument|property)|ERR_|Invalid (array|typed|string)|Maximum call stack|undefined is not/,
];

function assertOwn(error: Error, what: string): void {
  for (const pattern of foreign) assert.not.match(error.message, pattern, `${what}: ${error.message}`);
  assert.ok(error.message.length > 10, what);
}

const values: Record<string, unknown> = {
  ...{ undefined, null: null, NaN: Number.NaN, infinite: Infinity, '-1': -1, '0.5': 0.5, '2^60': 2 ** 60, '1n': 1n },
  ...{ empty: '', x: 'x', number: '4', true: true, list: [], lists: [[]], object: {}, nulls: [null] },
  ...{ function: () => {}, symbol: Symbol('x'), date: new Date(), map: new Map(), none: Object.create(null) },
};
const circular: Record<string, unknown> = {};
circular.self = circular;
values.circular = circular;

const shown = (value: unknown): string =>
  Object.keys(values).find((name) => Object.is(values[name], value)) ?? 'another value';

async function errorOf(call: () => unknown): Promise<Error | undefined> {
  try {
    await call();
    return undefined;
  } catch (error) {
    assert.instance(error, Error);
    return error as Error;
  }
}

const small = { context: 16, shardTokens: 64, limit: 100 };

const withDumps = (body: (made: Dump, at: (name: string) => string, good: DumpOptions) => Promise<void>) =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const good: DumpOptions = {
      ...{ model, corpus: sampleText, locations: [location, latents], out: at('out'), ...small },
    };
    await dump({ ...good, out: at('made') });
    await using made = await openDump(at('made'));
    const before = process.cwd();
    process.chdir(folder); // where a folder of the name x may be written
    try {
      await body(made, at, good);
    } finally {
      process.chdir(before);
    }
  });

const redis = { redis: 'redis://127.0.0.1:1', name: 'q' };

test('any value for any argument: an error of sonde, or it is right', () =>
  withDumps(async (made, at, good) => {
    const { signal } = new AbortController();
    const work = { ...redis, device, onEvent: () => {}, signal, untilDone: true };
    const fine = { selections: [{ name: location, indices: [0] }], out: at('records') };
    const page = { out: at('page.html') };
    const plan = await planOf(good);
    const byName = { ...good, model: 'demo', corpus: [sampleText] };
    const queue = { ...redis, attempts: 1 };
    type Calls = Record<string, (value: never) => unknown>;
    const whole: Calls = {
      dump: (options) => dump(options),
      planOf: (options) => planOf(options),
      describePlan: (given) => describePlan(given),
      openDump: (folder) => openDump(folder),
      mergeDumps: (out) => mergeDumps(out),
      'mergeDumps, from': (from) => mergeDumps(at('merged'), from),
      'mergeDumps, options': (options) => mergeDumps(at('merged'), [], options),
      collate: (options) => collate(made, options),
      'collate, dump': (other) => collate(other, fine),
      report: (options) => report(made, options),
      'report, dump': (other) => report(other, page),
      planQueue: (options) => planQueue(options, queue),
      'planQueue, queue': (options) => planQueue(byName as never, options),
      workQueue: (options) => workQueue(options),
      queueStatus: (options) => queueStatus(options),
      'queueStatus, retry': (retry) => queueStatus(redis, retry),
      'rows, name': (name) => made.rows(name),
      'rows, from': (from) => made.rows(location, from),
      'rows, to': (to) => made.rows(location, 0, to),
      'stored, name': (name) => made.stored(name),
      'stored, from': (from) => made.stored(location, from),
      'tokens, from': (from) => made.tokens(from),
      'tokens, to': (to) => made.tokens(0, to),
      'statistics, name': (name) => made.statistics(name),
    };
    const right = new Set(['rows, from', 'rows, to', 'stored, from', 'tokens, from', 'tokens, to', 'mergeDumps, from']);
    for (const [what, call] of Object.entries(whole)) {
      for (const value of Object.values(values)) {
        const error = await errorOf(() => call(value as never));
        if (error) assertOwn(error, `${what}: ${shown(value)}`);
        else assert.ok(right.has(what) && value === undefined, `${what}: ${shown(value)} is taken`);
      }
    }
    // The options one by one. Those that are left out are right, as are some of the values.
    const each: [name: string, base: object, call: (options: never) => unknown, options: string[]][] = [
      [
        'dump',
        good,
        (options) => planOf(options),
        [
          ...['model', 'corpus', 'locations', 'autoencoders', 'out', 'precision', 'context', 'batch', 'limit', 'dtype'],
          ...['shardTokens', 'threshold', 'drop', 'sample', 'seed', 'statistics', 'parquet', 'gradientOf', 'shard'],
          ...['workers'],
          ...['device', 'onFetch', 'onProgress', 'signal', 'anyArithmetic'],
        ],
      ],
      ['collate', fine, (options) => collate(made, options), ['selections', 'out', 'top', 'random', 'seed', 'signal']],
      ['report', page, (options) => report(made, options), ['selections', 'out', 'latents', 'top', 'signal']],
      ['planQueue', queue, (options) => planQueue(byName as never, options), ['redis', 'name', 'key', 'attempts']],
      [
        'planQueue',
        byName,
        (options) => planQueue(options, queue),
        ['corpus', 'locations', 'limit', 'drop', 'seed', 'autoencoders', 'batch', 'statistics'],
      ],
      [
        'workQueue',
        work,
        (options) => workQueue(options),
        ['redis', 'name', 'key', 'device', 'allow', 'untilDone', 'lockSeconds', 'onEvent', 'signal'],
      ],
      ['describePlan', plan, (given) => describePlan(given), ['settings', 'rowsPerShard', 'batch']],
    ];
    for (const [name, base, call, options] of each) {
      for (const option of options) {
        for (const value of Object.values(values)) {
          const error = await errorOf(() => call({ ...base, [option]: value } as never));
          if (error) assertOwn(error, `${name}, ${option}: ${shown(value)}`);
        }
      }
    }
    for (const value of Object.values(values)) {
      for (const part of [
        { index: value, count: 2 },
        { index: 0, count: value },
      ]) {
        assertOwn((await errorOf(() => planOf({ ...good, shard: part as never }))) as Error, `shard: ${shown(value)}`);
      }
      const workers = [{ device: value }, { device: 'cpu', threads: value === undefined ? 0 : value }, value];
      for (const worker of workers.map((one) => [one] as never)) {
        const error = await errorOf(() => planOf({ ...good, model: 'demo', workers: worker }));
        assertOwn(error as Error, `workers: ${shown(value)}`);
      }
      for (const selection of [value, { name: value, indices: [0] }, { name: location, indices: value }]) {
        const error = await errorOf(() => collate(made, { ...fine, selections: [selection as never] }));
        assertOwn(error as Error, `selections: ${shown(value)}`);
      }
      for (const allow of [{ out: value }, { corpus: value }, { models: value }]) {
        const error = await errorOf(() => workQueue({ ...work, allow: allow as never }));
        assertOwn(error as Error, `allow: ${shown(value)}`); // at the latest, no server answers
      }
    }
  }));

test('a value of another type is named, with the option', () =>
  withDumps(async (_made, _at, good) => {
    const cases: [Partial<Record<keyof DumpOptions, unknown>>, typeof TypeError | typeof RangeError, RegExp][] = [
      [{ batch: '4' }, RangeError, /^dump: batch must be an integer from 1 to 1048576, but is "4"$/],
      [{ limit: 1n }, RangeError, /^dump: limit must be an integer of 1 or more, but is 1n$/],
      [{ drop: 'first' }, RangeError, /^dump: drop must be a list of padding and endoftext, but is "first"$/],
      [{ locations: 5 }, TypeError, /^dump: locations must be strings such as '5\/mlp\/post_act', but one is 5$/],
      [{ gradientOf: 'logits' }, RangeError, /^dump: gradientOf must be loss, but is "logits"$/],
      [{ statistics: 'yes' }, TypeError, /^dump: statistics must be true or false, but is yes$/],
      [{ context: null }, RangeError, /^dump: context must be an integer from 1 to 256 .*, but is null$/],
      [{ sample: Number.NaN }, RangeError, /^dump: sample must be .*, but is NaN$/],
      [{ threshold: '1' }, RangeError, /^dump: threshold must be a number of 0 or more, but is "1"$/],
      [{ model: 5 }, TypeError, /^dump: model must be the name, folder or address of a model.*, but is 5$/],
      [
        { model: {} },
        TypeError,
        /^dump: model\.device must be what openDevice or getDefaultDevice gives, but is undef/,
      ],
      [{ signal: {} }, TypeError, /^dump: signal must be an AbortSignal, but is a Object$/],
      [{ onProgress: 'x' }, TypeError, /^dump: onProgress must be a function, but is 'x'$/],
      [{ device: 'cpu' }, TypeError, /^dump: device must be what openDevice or getDefaultDevice gives, but is 'cpu'$/],
      [{ precision: 'float64' }, RangeError, /^dump: precision must be float32, bfloat16, float16, but is "float64"$/],
      [{ anyArithmetic: 1 }, TypeError, /^dump: anyArithmetic must be true or false, but is 1$/],
      [
        { autoencoders: { mine: 5 } },
        TypeError,
        /^dump: autoencoders\['mine'\] must be an autoencoder, its name.*is 5$/,
      ],
      [{ autoencoders: { mine: 'a.pt' } }, TypeError, /^dump: autoencoders has 'mine', which no location names/],
      [{ autoencoders: new Map() }, TypeError, /^dump: autoencoders must be an object .*but is a Map$/],
      // biome-ignore lint/suspicious/noSparseArray: what users may give
      [{ locations: [, location] }, TypeError, /^dump: locations must be strings .*but one is undefined$/],
      [{ locations: location, threshold: 1 }, RangeError, /^dump: threshold is for latents: name an autoencoder/],
    ];
    for (const [changes, kind, pattern] of cases) {
      await rejects(dump({ ...good, ...changes } as DumpOptions), kind, pattern);
    }
    const given = { ...good, locations: `${location} -> mine`, autoencoders: { mine: () => 5 as never } };
    await rejects(dump(given), TypeError, /^dump: what autoencoders\['mine'\] returns must be an autoencoder/);
  }));

test('an option that is not known is named, with the nearest one', () =>
  withDumps(async (made, at, good) => {
    const { signal } = new AbortController();
    const work = { ...redis, device, onEvent: () => {}, signal };
    const fine = { selections: [{ name: location, indices: [0] }], out: at('records') };
    const byName = { ...good, model: 'demo', corpus: sampleText };
    const cpu = { device: 'cpu' } as const;
    const cases: [() => unknown, RegExp][] = [
      [() => dump({ ...good, shardtokens: 5 } as never), /^dump: 'shardtokens' is no option; .* 'shardTokens'$/],
      [() => dump({ ...good, shard_tokens: 5 } as never), /^dump: 'shard_tokens' is no option; .* 'shardTokens'$/],
      [() => dump({ ...good, gradientof: 'loss' } as never), /^dump: 'gradientof' is no option; .* 'gradientOf'$/],
      [() => planOf({ ...good, drops: [] } as never), /^planOf: 'drops' is no option; the nearest one is 'drop'$/],
      [
        () => planOf({ ...good, shard: { index: 0, count: 1, cuont: 2 } as never }),
        /^planOf: 'cuont' is no option of shard; the nearest one is 'count'$/,
      ],
      [
        () => dump({ ...byName, workers: [cpu, { ...cpu, thread: 1 } as never] }),
        /^dump: 'thread' is no option of workers\[1\]; the nearest one is 'threads'$/,
      ],
      [
        () => dump({ ...good, corpus: [{ path: sampleText, kind: 'text', asis: true } as never] }),
        /^dump: 'asis' is no option of corpus\[0\]; the nearest one is 'asIs'$/,
      ],
      [
        () => mergeDumps(at('x'), [], { anyarithmetic: true } as never),
        /^mergeDumps: 'anyarithmetic' is no option; the nearest one is 'anyArithmetic'$/,
      ],
      [() => collate(made, { ...fine, tops: 3 } as never), /^collate: 'tops' is no option; the nearest one is 'top'$/],
      [
        () => collate(made, { ...fine, selections: [{ name: location, index: [0] }] as never }),
        /^collate: 'index' is no option of selections\[0\]; the nearest one is 'indices'$/,
      ],
      [() => report(made, { ...fine, latent: 3 } as never), /^report: 'latent' is no option; .* 'latents'$/],
      [
        () => planQueue({ ...byName, batches: 2 } as never, { ...redis, attempts: 1 }),
        /^planQueue: 'batches' is no option; the nearest one is 'batch'$/,
      ],
      [
        () => planQueue(byName as never, { ...redis, attempts: 1, keys: 'x' } as never),
        /^planQueue: 'keys' is no option of queue; the nearest one is 'key'$/,
      ],
      [
        () => workQueue({ ...work, lockSecs: 2 } as never),
        /^workQueue: 'lockSecs' is no option; the nearest one is 'lockSeconds'$/,
      ],
      [
        () => workQueue({ ...work, allow: { outs: [] } as never }),
        /^workQueue: 'outs' is no option of allow; the nearest one is 'out'$/,
      ],
      [
        () => queueStatus({ ...redis, nmae: 'x' } as never),
        /^queueStatus: 'nmae' is no option of queue; the nearest one is 'name'$/,
      ],
    ];
    for (const [call, pattern] of cases) {
      const error = await errorOf(call);
      assert.instance(error, TypeError, String(pattern));
      assert.match((error as Error).message, pattern);
    }
    assert.instance(made, Dump);
  }));

test.run();
