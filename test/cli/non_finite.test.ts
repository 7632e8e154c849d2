// Oracle: a model whose embedding has values that are not finite, counted by hand from the tokens. Processes of all kinds
// count the same: one, several, killed ones, those of a queue, and those that write into object storage.
import { spawn } from 'node:child_process';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { NonFiniteError } from '../../src/dump/format/non_finite.js';
import { openDump } from '../../src/dump/read/reader.js';
import { dump } from '../../src/dump/run.js';
import { type DumpOptions, plainOptions } from '../../src/dump/shards/options.js';
import { planShards, type ShardedRequest, ShardSession } from '../../src/dump/workers/shard_session.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { assertSameFolder, contentsOf } from '../dump/folders.js';
import { address, hashesOf, withBlobServer } from '../support/blobs/blob_stores.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite } from '../support/harness.js';
import { saveHuggingFace } from '../support/hugging_face.js';
import { endOf } from '../support/processes.js';
import { good, main, noRedis, startWorker, until, withRedis } from '../support/redis.js';
import { run } from './command.js';

const test = suite('values that are not finite');
test.limit(240_000);

const location = 'resid/post_emb';
const width = 64;
const cpu = { device: 'cpu', threads: 1 } as const;
const shardRows = 32;
const shards = 6;

/** A model whose embeddings of tokens 1, 2 and 3 hold NaN, -Infinity and 70000. */
async function saveModel(folder: string): Promise<void> {
  using model = await Transformer.load('demo');
  assert.is(model.config.dModel, width);
  const edit = (tensors: Record<string, { data: { [i: number]: unknown } }>) => {
    const { data } = tensors['transformer.wte.weight'] as { data: Float32Array };
    data[width + 3] = Number.NaN;
    data[2 * width + 5] = -Infinity;
    data[3 * width + 7] = 70_000;
  };
  await saveHuggingFace(model, folder, { edit: edit as never });
}

/**
 * Rows of 8 tokens, 32 in a shard, a document each, but that the first two rows of a shard are one. Some tokens of some
 * rows are 1, 2 or 3.
 */
async function saveTokens(path: string, special: Readonly<Record<string, number>>): Promise<void> {
  const tokens: number[] = [];
  for (let shard = 0; shard < shards; shard++) {
    for (let row = 0; row < shardRows; row++) {
      for (let position = 0; position < 8; position++) {
        const own = special[`${shard}/${row}/${position}`];
        tokens.push(own ?? (position === 7 && row > 0 ? 50_256 : 10 + position));
      }
    }
  }
  await writeFile(path, Uint16Array.from(tokens));
}

const some = { '0/3/2': 1, '3/31/6': 3, '3/31/5': 2, '4/0/0': 3, '4/1/2': 1, '5/0/0': 2 };
const counted = { nan: 2, infinite: 4, values: 4 * shardRows * 8 * width, shards: 4 };

type Places = {
  readonly at: (name: string) => string;
  readonly request: (name: string, changes?: Partial<DumpOptions>) => DumpOptions;
  readonly words: (name: string, ...more: string[]) => string[];
};

const withModel = (body: (places: Places) => Promise<void>, special: Readonly<Record<string, number>> = some) =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    await saveModel(at('model'));
    await saveTokens(at('t.bin'), special);
    await body({
      at,
      request: (name, changes = {}) => ({
        ...{ model: at('model'), corpus: at('t.bin'), locations: location, out: at(name) },
        ...{ context: 8, shardTokens: shardRows * 8, batch: 1, ...changes },
      }),
      words: (name, ...more) => [
        ...['--model', at('model'), '--tokens', at('t.bin'), '--hook', location, '--out', at(name)],
        ...['--context', '8', '--shard-tokens', `${shardRows * 8}`, '--batch', '1', ...more],
      ],
    });
  });

const warning =
  'sonde: resid/post_emb: 6 of 65,536 values are not finite: 2 NaN, 4 infinite or too large for the dtype (in 4 of 6 shards)';

test('the command warns at the end; inspect, verify, merge and collate say the same', () =>
  withModel(async ({ at, words }) => {
    const made = await run(['dump', ...words('out')]);
    assert.is(made.code, 0);
    assert.match(made.stdout, /^\S+: 192 rows, 1536 tokens in 6 shards, \d+ kB\n$/);
    assert.is(made.stderr.trimEnd().split('\n').at(-1), warning);
    const again = await run(['dump', ...words('out')]);
    assert.match(again.stdout, /is complete already/);
    assert.is(again.stderr.trimEnd().split('\n').at(-1), warning);
    const look = good(await run(['inspect', at('out')]));
    assert.match(
      look,
      /\nvalues that are not finite, in all shards\n {2}resid\/post_emb: 6 of 65,536 values [^\n]*\n$/,
    );
    const verified = await run(['verify', at('out')]);
    assert.is(verified.code, 0, verified.stdout);
    assert.is(verified.stderr, `${warning}\n`);
    const collated = await run(['collate', at('out'), '--select', `${location}=3`, '--out', at('records')]);
    assert.is(collated.code, 0, collated.stderr);
    assert.is(collated.stderr.trimEnd().split('\n').at(-1), warning);
    for (const index of [0, 1]) good(await run(['dump', ...words('parts', '--shard', `${index}/2`)]));
    const merged = await run(['merge', at('parts')]);
    assert.is(merged.code, 0);
    assert.is(merged.stderr, `${warning}\n`);
    await assertSameFolder(at('parts'), at('out'));

    const manifest = at('out/manifest.json');
    await writeFile(manifest, (await readFile(manifest, 'utf8')).replace('"nan": 1', '"nan": 2'));
    const wrong = await run(['verify', at('out')]);
    assert.is(wrong.code, 1);
    assert.match(
      wrong.stdout,
      /^shard-00000\.safetensors: of resid\/post_emb 1 of 16,384 values is not finite: 1 NaN, but/,
    );
  }));

test('--finite ends with an error at the first value, and the rest is made without it', () =>
  withModel(async ({ at, words }) => {
    const plan = await run(['dump', ...words('out', '--finite', '--plan')]);
    assert.match(good(plan), /^values {5}the first one that is not finite ends the dump$/m);
    const refused = await run(['dump', ...words('out', '--finite')]);
    assert.is(refused.code, 1);
    assert.match(
      refused.stderr,
      /^sonde: dump: resid\/post_emb: NaN is not finite: value 3 at position 2 in document 2 \(row 3, position 2 of shard-00000/m,
    );
    good(await run(['dump', ...words('whole')]));
    good(await run(['dump', ...words('out')]));
    await assertSameFolder(at('out'), at('whole'));
    const there = await run(['dump', ...words('out', '--finite')]);
    assert.is(there.code, 1);
    assert.match(
      there.stderr,
      /out holds shard-00000\.safetensors, where of resid\/post_emb 1 of 16,384 values is not finite: 1 NaN\. Without finite, /,
    );
  }));

// Shard 2 has its value in the last row, after many batches; shards 3 and 4 have theirs in the first.
const late = { '2/31/3': 3, '3/0/1': 1, '4/0/0': 2 };

test('several workers name the first value of all, and finish what comes before', () =>
  withModel(async ({ at, request }) => {
    const pattern =
      /^dump: resid\/post_emb: Infinity is not finite, or was too large for float16: value 7 at position 3 in document 92 \(row 31, position 3 of shard-00002/;
    for (const count of [0, 1, 3, 4]) {
      const name = `${count} workers`;
      const workers = count > 0 ? { workers: Array.from({ length: count }, () => cpu) } : {};
      await rejects(dump(request(name, { ...workers, finite: true })), NonFiniteError, pattern);
      await using made = await openDump(at(name));
      const files = made.shards.map(({ file }) => file);
      assert.equal(files.slice(0, 2), ['shard-00000.safetensors', 'shard-00001.safetensors'], name);
      assert.equal(made.nonFinite, {}, name);
    }
    const alone = await dump(request('alone'));
    assert.equal(alone.nonFinite, { [location]: { nan: 1, infinite: 2, values: 3 * 16_384, shards: 3 } });
    assert.equal(
      { ...(await dump(request('4 workers', { workers: [cpu, cpu] }))), written: 0, out: '' },
      { ...alone, written: 0, out: '' },
    );
    await assertSameFolder(at('4 workers'), at('alone'));
  }, late));

test('a killed process costs no count and no byte', () =>
  withModel(async ({ at, words }) => {
    good(await run(['dump', ...words('whole', '--statistics')]));
    const child = spawn(process.execPath, [main, 'dump', ...words('out', '--statistics')], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const ended = endOf(child);
    const isThere = async () =>
      (await readdir(at('out')).catch((): string[] => [])).includes('shard-00001.safetensors');
    await until(async () => (await isThere()) || child.exitCode !== null);
    child.kill('SIGKILL');
    await ended;
    good(await run(['dump', ...words('out', '--statistics')]));
    await assertSameFolder(at('out'), at('whole'));
    await using made = await openDump(at('out'));
    assert.equal(made.nonFinite, { [location]: counted });
    // Statistics are of unrounded values: 70000 is finite.
    assert.match(
      good(await run(['inspect', '--statistics', at('out')])),
      /post_emb {2}1536 positions: 64 of 64 are ever other than 0; 2 of 64 have values that are not finite, of the others on average a mean of -?[\d.e-]+ and a standard deviation of [\d.]+; the largest value 70000\n/,
    );
  }));

test('in object storage as in a folder', () =>
  withModel(({ at, request }) =>
    withBlobServer(async (server) => {
      await dump(request('out'));
      assert.equal((await dump(request('', { out: address }))).nonFinite, { [location]: counted });
      assert.equal(hashesOf(server), await contentsOf(at('out')));
      await using made = await openDump(address);
      assert.equal([made.nonFinite, await made.verify()], [{ [location]: counted }, []]);
    }),
  ));

test('shards that are made one by one: finite refuses those with such values, also when they are there', () =>
  withModel(async ({ at, request }) => {
    const plain = (out: string, finite: boolean): ShardedRequest => {
      const names = { model: at('model'), corpus: [at('t.bin')], locations: [location] };
      return { ...plainOptions(request(out)), ...names, finite };
    };
    const strict = await planShards(plain('out', true));
    const lenient = await planShards(plain('out', false));
    const session = await ShardSession.open(strict, {});
    const other = await ShardSession.open(lenient, {});
    try {
      await session.make(1);
      await rejects(session.make(3), NonFiniteError, /value 5 at position 5 in document 123 \(row 31, position 5 of/);
      assert.not.ok((await readdir(at('out'))).includes('shard-00003.safetensors'));
      await other.make(3);
      await rejects(
        session.make(3),
        NonFiniteError,
        /out holds shard-00003\.safetensors, where of resid\/post_emb 2 of/,
      );
      for (const number of [0, 2, 4, 5]) await other.make(number);
      assert.is((await run(['merge', at('out')])).code, 0);
      await session.make(1);
      await rejects(session.make(3), NonFiniteError, /out holds shard-00003\.safetensors/);
      await other.make(3);
    } finally {
      await session.close();
      await other.close();
    }
    await dump(request('whole'));
    await assertSameFolder(at('out'), at('whole'));
  }));

if (noRedis) {
  test.skip('a queue counts as one process does', noRedis);
} else {
  test('a queue counts as one process does, and gives up what finite refuses', () =>
    withRedis((redis) =>
      withModel(async ({ at, words }) => {
        good(await run(['dump', ...words('whole')]));
        const plan = (...more: string[]) =>
          run(['queue', 'plan', '--redis', redis.url, ...words(...(more as [string]))]);
        const work = () => startWorker(redis.url, '--allow-model', at('model'), '--until-done');
        good(await plan('out'));
        const { code, stderr } = await work().ended;
        assert.is(code, 0, stderr);
        assert.is(stderr, `${warning}\n`);
        await assertSameFolder(at('out'), at('whole'));
        const refused = await plan('out', '--finite');
        assert.is(refused.code, 1);
        assert.match(refused.stderr, /out holds shard-00000\.safetensors, where of resid\/post_emb 1 of/);

        await rm(at('out'), { recursive: true });
        good(await plan('out', '--finite'));
        const strict = await work().ended;
        assert.match(strict.stderr, /shard 3: dump: resid\/post_emb: -Infinity is not finite[^\n]* \(given up\)\n/);
        assert.not.match(strict.stderr, /will be tried again/);
        const status = good(await run(['queue', 'status', '--redis', redis.url]));
        assert.match(
          status,
          /\ngiven up {2}4\n[\s\S]* 1 attempts: dump: resid\/post_emb: NaN is not finite: value 3 at position 2/,
        );
      }),
    ));
}

test.run();
