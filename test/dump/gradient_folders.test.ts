// Dumps with gradients as folders. Oracle: the dump of one process, without interruption, byte for byte, and the same
// with one thing wrong.
import { cp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { openDump } from '../../src/dump/read/reader.js';
import { collate } from '../../src/dump/report/collate.js';
import { report } from '../../src/dump/report/report.js';
import { dump, planOf } from '../../src/dump/run.js';
import { describePlan } from '../../src/dump/shards/dump_plan.js';
import { mergeDumps } from '../../src/dump/shards/merge.js';
import type { DumpOptions } from '../../src/dump/shards/options.js';
import { planShards, type ShardedRequest, ShardSession } from '../../src/dump/workers/shard_session.js';
import { openDevice } from '../../src/engine/device.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite } from '../support/harness.js';
import { assertSameFolder, contentsOf, resealed, sampleText } from './folders.js';

const test = suite('folders with gradients');
test.limit(240_000);
const device = openDevice('cpu');
const model = await Transformer.load('demo', { device });
const name = '1/mlp/post_act.gradient';
const cpu = { device: 'cpu', threads: 1 } as const;

const latents = '1/resid/delta_mlp -> ae-resid-delta-mlp';

const request = (out: string, changes: Partial<DumpOptions> = {}): DumpOptions => ({
  ...{ model, corpus: [sampleText], limit: 800, context: 32, shardTokens: 256, gradientOf: 'loss', out },
  ...{ locations: ['1/mlp/post_act', 'resid/post_emb', latents] },
  ...{ statistics: true, parquet: true, ...changes },
});

const byName = (out: string): ShardedRequest => ({
  ...{ model: 'demo', corpus: [sampleText], limit: 800, context: 32, shardTokens: 256, gradientOf: 'loss', out },
  ...{ locations: ['1/mlp/post_act', latents], statistics: true, parquet: true },
});

const withWhole = (body: (at: (file: string) => string) => Promise<void>) =>
  withFolder(async (folder) => {
    const at = (file: string) => join(folder, file);
    await dump(request(at('whole')));
    await body(at);
  });

test('batches of any size and any number of threads give the same bytes', () =>
  withWhole(async (at) => {
    for (const batch of [1, 3, 8]) {
      await dump(request(at(`batch-${batch}`), { batch }));
      await assertSameFolder(at(`batch-${batch}`), at('whole'));
    }
    for (const threads of [1, 3]) {
      const other = openDevice('cpu', { threads });
      const xf = await Transformer.load('demo', { device: other });
      await dump(request(at(`threads-${threads}`), { model: xf, batch: 5 }));
      await assertSameFolder(at(`threads-${threads}`), at('whole'));
      xf.dispose();
    }
  }));

test('so do a dump that was stopped, one in parts that are merged, workers, and shards made by number', () =>
  withWhole(async (at) => {
    const stop = new AbortController();
    const onProgress = ({ shards }: { shards: number }) => {
      if (shards === 2) stop.abort(new Error('enough'));
    };
    await rejects(dump(request(at('cut'), { signal: stop.signal, onProgress })), Error, /enough/);
    await using begun = await openDump(at('cut'));
    assert.ok(begun.shards.length >= 2 && !begun.manifest.complete);
    assert.equal(await begun.verify(), []);
    await dump(request(at('cut'), { batch: 2 }));
    await assertSameFolder(at('cut'), at('whole'));

    for (const index of [1, 0]) await dump(request(at(`part-${index}`), { shard: { index, count: 2 } }));
    await mergeDumps(at('merged'), [at('part-0'), at('part-1')]);
    await assertSameFolder(at('merged'), at('whole'));

    await dump(byName(at('alone')));
    await dump({ ...byName(at('workers')), workers: [cpu, cpu] });
    await assertSameFolder(at('workers'), at('alone'));

    const plan = await planShards(byName(at('session')));
    const session = await ShardSession.open(plan, { device });
    for (let number = plan.count - 1; number >= 0; number--) await session.make(number);
    await session.close();
    await mergeDumps(at('session'));
    await assertSameFolder(at('session'), at('alone'));
  }));

test('a dump goes on with the same gradients only', () =>
  withWhole(async (at) => {
    const { gradientOf: _, ...without } = request(at('whole'));
    await rejects(
      dump(without),
      Error,
      /^dump: .*whole holds a dump with gradients of loss, but nothing was asked for$/,
    );
    await dump({ ...without, out: at('plain') });
    await rejects(
      dump(request(at('plain'))),
      Error,
      /^dump: .*plain holds a dump with gradients of nothing, but loss was asked for$/,
    );
    await dump({ ...without, out: at('part-0'), shard: { index: 0, count: 2 } });
    await dump(request(at('part-1'), { shard: { index: 1, count: 2 } }));
    await rejects(
      mergeDumps(at('merged'), [at('part-0'), at('part-1')]),
      Error,
      /^merge: the parts are not of one dump: .*part-0 has gradients of nothing, and .*part-1 has loss$/,
    );
    await using plain = await openDump(at('plain'));
    await rejects(
      plain.rows(name),
      RangeError,
      /has no "1\/mlp\/post_act\.gradient"; it has resid\/post_emb, 1\/mlp\/post_act, /,
    );
    // a manifest that says less, or more, than the shards have
    for (const [from, gradientOf] of [
      ['whole', undefined],
      ['plain', 'loss'],
    ] as const) {
      await cp(at(from), at(`${from}-changed`), { recursive: true });
      const path = join(at(`${from}-changed`), 'manifest.json');
      await writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, 'utf8')), gradientOf }));
      await using changed = await openDump(at(`${from}-changed`));
      const problems = await changed.verify();
      assert.ok(problems.length >= changed.shards.length);
      assert.match(
        problems[0]?.problem ?? '',
        /its header is not the one that the manifest implies|says nothing sensible/,
      );
    }
    const path = join(at('whole-changed'), 'manifest.json');
    await writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, 'utf8')), gradientOf: 'logits' }));
    await rejects(
      openDump(at('whole-changed')),
      Error,
      /its "gradientOf" is not as it should be: .*must be "loss", but is "logits"/,
    );
  }));

test('verify finds a bit that was flipped in a gradient, and one that is not finite and not counted', () =>
  withWhole(async (at) => {
    const shard = join(at('whole'), 'shard-00001.safetensors');
    const bytes = await readFile(shard);
    const start = 8 + Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.subarray(8, start).toString());
    for (const tensor of [name, '1/resid/delta_mlp/latents.gradient']) {
      const [begin, end] = header[tensor].data_offsets as [number, number];
      assert.is(header[tensor].dtype, 'F32');
      const middle = start + begin + 4 * Math.floor((end - begin) / 8);
      const put = async (value: number) => {
        const changed = Buffer.from(bytes);
        changed.writeUInt32LE(value, middle);
        await writeFile(shard, changed);
      };
      await put((bytes.readUInt32LE(middle) ^ 1) >>> 0);
      const problems = async () => {
        await using dumped = await openDump(at('whole'));
        return (await dumped.verify()).map(({ file, problem }) => `${file}: ${problem}`);
      };
      const [flipped, ...others] = await problems();
      assert.match(flipped ?? '', /^shard-00001\.safetensors: its SHA-256 is \w+, but the manifest says/);
      assert.equal(others, []);
      await put(0x7fc00000);
      const manifest = join(at('whole'), 'manifest.json');
      const before = await readFile(manifest);
      await resealed(at('whole'), 1);
      const [uncounted] = await problems();
      assert.match(
        uncounted ?? '',
        new RegExp(`: of ${tensor} 1 of [\\d,]+ values is not finite: 1 NaN, but the manifest counts none$`),
      );
      await writeFile(shard, bytes);
      await writeFile(manifest, before);
      assert.equal(await problems(), []);
    }
  }));

test('records and reports of gradients', () =>
  withWhole(async (at) => {
    await using dumped = await openDump(at('whole'));
    const ofLatents = '1/resid/delta_mlp/latents.gradient';
    const { indices } = await dumped.rows(ofLatents);
    const selections = [
      { name, indices: [3] },
      { name: ofLatents, indices: [indices[0] as number] },
    ];
    const { records } = await collate(dumped, { selections, out: at('records'), top: 2, random: 1 });
    assert.is(records, 2);
    assert.equal(await readdir(at('records')), ['mlp_post_act_gradient', 'resid_delta_mlp_latents_gradient']);
    const record = JSON.parse(await readFile(join(at('records'), 'mlp_post_act_gradient', '1', '3.json'), 'utf8'));
    const { data, shape } = await dumped.rows(name);
    let largest = -Infinity;
    for (let i = 3; i < data.length; i += shape[2] as number) largest = Math.max(largest, data[i] as number);
    assert.is(Math.max(...record.most_positive_activation_records[0].activations), largest);
    await report(dumped, { selections, out: at('page.html'), latents: 1, top: 1 });
    assert.match(
      await readFile(at('page.html'), 'utf8'),
      /<th>gradients<\/th><td>beside each: float32, of the loss of each row/,
    );
  }));

test('what cannot be is refused before anything is written', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    const refused = (changes: object, kind: typeof Error, pattern: RegExp) =>
      rejects(dump({ ...request(out), ...changes } as DumpOptions), kind, pattern);
    for (const gradientOf of ['logits', null, true, 5, []]) {
      await refused({ gradientOf }, RangeError, /^dump: gradientOf must be loss, but is /);
    }
    const { gradients: _, ...others } = { ...memberOf(model), gradients: undefined };
    await refused(
      { model: others },
      TypeError,
      /^dump: model\.gradients must be a function, for gradientOf, but is undefined$/,
    );
    await refused(
      { model: 'demo', workers: [cpu, { device: 'cuda:1' }] },
      Error,
      /^dump: gradients are computed on the CPU alone so far, and workers\[1\] is on cuda:1: choose cpu \(--device cpu\)$/,
    );
    const elsewhere = openDevice('cpu', { threads: 5 }); // it stays what it is called here
    Object.defineProperty(elsewhere, 'toString', { value: () => 'cuda:0' });
    const onGpu = /^dump: gradients are computed on the CPU alone so far, and this is on cuda:0: choose cpu/;
    await refused({ model: 'demo', device: elsewhere }, Error, onGpu);
    await refused({ model: await Transformer.load('demo', { device: elsewhere }) }, Error, onGpu);
    assert.equal(await readdir(folder), []);
  }));

/** A model with the members that a dump needs, as a user may write one. */
const memberOf = (xf: Transformer) => ({
  ...{ name: 'mine', config: xf.config, nVocab: xf.nVocab, device: xf.device, dtype: xf.dtype, enc: xf.enc },
  activations: xf.activations.bind(xf),
  gradients: xf.gradients.bind(xf),
  digest: xf.digest.bind(xf),
});

test('a model of one’s own that has gradients; the plan', () =>
  withWhole(async (at) => {
    await dump(request(at('own'), { model: memberOf(model) }));
    const [own, whole] = [await contentsOf(at('own')), await contentsOf(at('whole'))];
    for (const file of Object.keys(whole)) if (file !== 'manifest.json') assert.is(own[file], whole[file], file);
    const plan = await planOf(request(at('none')));
    assert.is(plan.settings.gradientOf, 'loss');
    const text = describePlan(plan);
    assert.match(text, /^ {2}1\/mlp\/post_act {2}float16 \[rows, 32, 256\] {2}512 bytes per token$/m);
    assert.match(text, /^ {2}1\/mlp\/post_act\.gradient {2}float32 \[rows, 32, 256\] {2}1024 bytes per token$/m);
    assert.match(text, /^ {2}1\/resid\/delta_mlp\/latents\.gradient {2}of each of them; 4 bytes each$/m);
    assert.match(text, /^gradients {2}of the mean next-token cross-entropy of each row$/m);
    await rm(at('own'), { recursive: true });
  }));

test.run();
