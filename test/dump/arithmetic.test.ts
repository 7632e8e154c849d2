// A dump that is continued with another arithmetic. Oracle: the rule, written out by hand, and folders that stay as they
// were, byte for byte.
import { existsSync } from 'node:fs';
import { cp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { Autoencoder } from '../../src/autoencoder/autoencoder.js';
import { makeManifest, readManifests, writeManifest } from '../../src/dump/format/manifest.js';
import type { DumpSettings } from '../../src/dump/format/settings.js';
import { openDump } from '../../src/dump/read/reader.js';
import { dump, planOf } from '../../src/dump/run.js';
import { OtherArithmetic, type PreparedFolder, prepareFolder } from '../../src/dump/shards/folder.js';
import { mergeDumps } from '../../src/dump/shards/merge.js';
import type { DumpOptions } from '../../src/dump/shards/options.js';
import { planShards, ShardSession } from '../../src/dump/workers/shard_session.js';
import { openStore } from '../../src/files/store/open_store.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { run } from '../cli/command.js';
import { arithmeticNames, onCpu, testDevice, withArithmetic } from '../support/device.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite } from '../support/harness.js';
import { assertSameFolder, contentsOf, sampleText } from './folders.js';

const test = suite('arithmetic');
test.limit(120_000);
const device = testDevice();
const model = await Transformer.load('demo', { device });
const here = device.arithmetic.float32;

/** The device computes as before, but calls its arithmetic of float32 by another name meanwhile. */
const as = <T>(float32: string, body: () => Promise<T>): Promise<T> => withArithmetic(device, { float32 }, body);

const request = (out: string, changes: Partial<DumpOptions> = {}): DumpOptions => ({
  ...{ model, corpus: sampleText, locations: '1/mlp/post_act', out },
  ...{ context: 32, shardTokens: 512, limit: 2048, ...changes },
});

const manifestIn = async (folder: string, name = 'manifest.json') =>
  JSON.parse(await readFile(join(folder, name), 'utf8'));

const shard = (number: number) => `shard-0000${number}.safetensors`;

/** A dump of which two of four shards are there, as after a kill. */
async function begun(out: string, whole: string): Promise<void> {
  await cp(whole, out, { recursive: true });
  const manifest = await manifestIn(out);
  for (const number of [2, 3]) await rm(join(out, shard(number)));
  const left = { ...manifest, shards: manifest.shards.slice(0, 2), complete: false };
  await writeFile(join(out, 'manifest.json'), `${JSON.stringify(left, null, 2)}\n`);
}

test('a manifest lists the arithmetic; another one is refused, unless it is allowed', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    await dump(request(at('whole')));
    assert.equal((await manifestIn(at('whole'))).arithmetic, [here]);
    await begun(at('out'), at('whole'));
    const before = await contentsOf(at('out'));
    for (const other of ['2 cpu avx512', 'cpu-float32-0', 'cuda-9.0-1'].filter((name) => name !== here)) {
      const refusal = await rejects(
        as(other, () => dump(request(at('out')))),
        OtherArithmetic,
        /out holds a dump that was begun with the arithmetic ".*", and this process computes with ".*anyArithmetic, --any-a/,
      );
      for (const name of [here, other]) assert.ok(refusal.message.includes(JSON.stringify(name)), refusal.message);
      assert.equal(await contentsOf(at('out')), before);
    }
    await cp(at('out'), at('same'), { recursive: true });
    await dump(request(at('same')));
    await assertSameFolder(at('same'), at('whole'));
    await as('0 cpu other', () => dump(request(at('out'), { anyArithmetic: true })));
    const mixed = await manifestIn(at('out'));
    assert.equal(mixed.arithmetic, ['0 cpu other', here]);
    assert.equal({ ...mixed, arithmetic: [here] }, await manifestIn(at('whole')));
    await using made = await openDump(at('out'));
    assert.equal(await made.verify(), []);
    // A shard that is lost is made again with one of them, or with a third one if that is allowed.
    await rm(join(at('out'), shard(1)));
    await rejects(dump(request(at('out'))), OtherArithmetic, /begun with the arithmetic "0 cpu other"/);
    await dump(request(at('out'), { anyArithmetic: true }));
    assert.equal((await manifestIn(at('out'))).arithmetic, ['0 cpu other', here]);
  }));

test('where nothing is left to compute, any arithmetic will do; a corpus that goes on is refused', () =>
  withFolder(async (out) => {
    async function* documents(count: number) {
      for (let i = 0; i < count; i++) yield Array.from({ length: 512 }, (_, p) => (i * 512 + p) % 50_000);
    }
    const of = (count: number, changes: Partial<DumpOptions> = {}) =>
      request(out, { corpus: documents(count), limit: 10 ** 6, ...changes });
    await dump(of(2));
    const before = await contentsOf(out);
    await as('2 cpu other', async () => {
      assert.is((await dump(of(2))).written, 0);
      await rejects(dump(of(3)), OtherArithmetic, /begun with the arithmetic/);
    });
    assert.equal(await contentsOf(out), before);
    assert.is((await dump(of(3))).written, 1);
  }));

test('a manifest that does not say is continued, and says from then on', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    await dump(request(at('whole')));
    await begun(at('out'), at('whole'));
    const { arithmetic: _, ...old } = await manifestIn(at('out'));
    await writeFile(join(at('out'), 'manifest.json'), JSON.stringify(old));
    await as('2 cpu other', () => dump(request(at('out'))));
    assert.equal(await manifestIn(at('out')), {
      ...(await manifestIn(at('whole'))),
      arithmetic: ['2 cpu other', 'unknown'],
    });
    await rm(join(at('out'), shard(3)));
    await rejects(dump(request(at('out'))), OtherArithmetic, /begun with the arithmetic "2 cpu other"/);
    const { arithmetic: __, ...complete } = await manifestIn(at('whole'));
    await writeFile(join(at('whole'), 'manifest.json'), JSON.stringify(complete));
    const before = await contentsOf(at('whole'));
    assert.is((await dump(request(at('whole')))).written, 0);
    assert.equal(await contentsOf(at('whole')), before);
    await using made = await openDump(at('whole'));
    assert.equal(made.manifest.arithmetic, ['unknown']);
  }));

test('a dump without a shard has no arithmetic yet', () =>
  withFolder(async (folder) => {
    const [out, whole] = [join(folder, 'out'), join(folder, 'whole')];
    await dump(request(whole));
    await cp(whole, out, { recursive: true });
    const manifest = await manifestIn(out);
    for (const number of [0, 1, 2, 3]) await rm(join(out, shard(number)));
    const empty = { ...manifest, arithmetic: ['2 cpu other'], shards: [], complete: false };
    await writeFile(join(out, 'manifest.json'), JSON.stringify(empty));
    await dump(request(out));
    await assertSameFolder(out, whole);
  }));

test('parts of one folder, and parts that are merged', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const part = (out: string, index: number, changes: Partial<DumpOptions> = {}) =>
      dump(request(at(out), { shard: { index, count: 2 }, ...changes }));
    await part('out', 0);
    const before = await contentsOf(at('out'));
    await rejects(
      as('other-1', () => part('out', 1)),
      OtherArithmetic,
      /out holds a dump that was begun with the/,
    );
    assert.equal(await contentsOf(at('out')), before);
    await as('other-1', () => part('out', 1, { anyArithmetic: true }));
    await using made = await openDump(at('out'));
    assert.equal(made.manifest.arithmetic, [here, 'other-1']);
    assert.equal(await made.verify(), []);
    // Parts in folders of their own know nothing of each other.
    await part('part-0', 0);
    await as('other-1', () => part('part-1', 1));
    for (const [out, from] of [
      ['out', []],
      ['merged', [at('part-0'), at('part-1')]],
    ] as const) {
      const there = await contentsOf(at(out)).catch(() => undefined);
      const mixed =
        /merge: shards were made with different arithmetics.*: part 0 in .*, and part 1 in .*--any-arithmetic/;
      await rejects(mergeDumps(at(out), from), Error, mixed);
      assert.equal(await contentsOf(at(out)).catch(() => undefined), there);
      await mergeDumps(at(out), from, { anyArithmetic: true });
      assert.equal((await manifestIn(at(out))).arithmetic, [here, 'other-1']);
    }
    await dump(request(at('whole')));
    await part('part-2', 1);
    await mergeDumps(at('same'), [at('part-0'), at('part-2')]);
    await assertSameFolder(at('same'), at('whole'));
  }));

test('parts that begin at the same time see each other before anything is computed', () =>
  withFolder(async (out) => {
    const { settings } = await planOf(request(out));
    const store = openStore(out);
    const of = (index: number, changes: Partial<DumpSettings> = {}) =>
      prepareFolder(store, { ...settings, ...changes, part: { index, count: 3 } });
    const [zero, one, two] = await Promise.all([of(0), of(1), of(2, { dtype: 'float32' })]);
    const computing = { arithmetic: [here], anyArithmetic: false };
    await zero.begin(computing);
    await rejects(
      one.begin({ ...computing, arithmetic: ['2 cpu other'] }),
      OtherArithmetic,
      /was begun with the arith/,
    );
    await rejects(two.begin(computing), Error, /holds a dump with dtype float16, but float32 was asked for/);
    const manifests = async () => (await readdir(out)).filter((name) => /^manifest-.*\.json$/.test(name));
    assert.equal(await manifests(), ['manifest-0-of-3.json']);
    await one.begin({ arithmetic: ['2 cpu other'], anyArithmetic: true });
    assert.equal(await manifests(), ['manifest-0-of-3.json', 'manifest-1-of-3.json']);
    // Without a shard, and when nobody is at it any more, a part does not decide for the others.
    await Promise.all([zero, one, two].map((part) => part.release()));
    const again = await of(2);
    assert.equal(await again.begin({ arithmetic: ['3 cpu other'], anyArithmetic: false }), ['3 cpu other']);
    await again.release();
  }));

test('single shards of a plan', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    const plan = await planShards(
      {
        ...{ model: 'demo', corpus: [sampleText], locations: ['1/mlp/post_act'], out },
        ...{ context: 32, shardTokens: 512, limit: 2048 },
      },
      { device },
    );
    const session = async (body: (session: ShardSession) => Promise<void>, changes: object = {}) => {
      const opened = await ShardSession.open({ ...plan, request: { ...plan.request, ...changes } }, { device });
      await body(opened).finally(() => opened.close());
    };
    await session((made) => made.make(2));
    await as('2 cpu other', async () => {
      await session(async (made) => {
        await made.make(2); // it is there
        for (const number of [0, 3]) {
          await rejects(made.make(number), OtherArithmetic, /out holds a dump that was begun with the arithmetic/);
        }
      });
      await session((made) => made.make(0), { anyArithmetic: true });
    });
    await session(async (made) => {
      await rejects(made.make(1), OtherArithmetic, /"2 cpu other"/);
    });
  }));

test('a manifest has the name for the dtypes of the model and the autoencoders', () =>
  withFolder(async (folder) => {
    const names = { float32: 'for float32', float16: 'for float16', bfloat16: 'for bfloat16' };
    const [nInputs, nLatents] = [model.config.dModel, 8];
    for (const [dtype, autoencoder, expected] of [
      ['float32', undefined, 'float32'],
      ['float16', undefined, 'float16'],
      ['bfloat16', undefined, 'bfloat16'],
      ['float32', 'float32', 'float32'],
      ['float32', 'bfloat16', 'bfloat16'],
      ['float16', 'float32', 'float16'],
      ['bfloat16', 'float32', 'bfloat16'],
    ] as const) {
      const out = join(folder, `${dtype} ${autoencoder}`);
      using loaded = await Transformer.load('demo', { device, dtype });
      using made = autoencoder && new Autoencoder({ nInputs, nLatents, device, dtype: autoencoder });
      const encoded = made && { locations: '1/resid/post_mlp -> own', autoencoders: { own: made } };
      const asked = request(out, { model: loaded, limit: 64, ...encoded });
      await withArithmetic(device, names, () => dump(asked));
      assert.equal((await manifestIn(out)).arithmetic, [names[expected]], out);
    }
  }));

/** The instruction sets of this machine's addon: as SONDE_ISA has them, with the names that `sonde devices` shows. */
async function instructionSets(): Promise<{ isa: string; float32: string; bfloat16: string }[]> {
  const found = [];
  for (const isa of ['avx512_bf16', 'avx512', 'avx2', 'portable']) {
    const { code, stdout } = await run(['devices'], { env: { SONDE_ISA: isa } });
    const [, float32, bfloat16] = /^cpu .*\n +arithmetic (\S+)(?: \(bfloat16 (\S+)\))?$/m.exec(stdout) ?? [];
    if (code === 0 && float32 !== undefined) found.push({ isa, float32, bfloat16: bfloat16 ?? float32 });
  }
  return found;
}

type Precision = 'float32' | 'float16' | 'bfloat16';

const sets = onCpu ? await instructionSets() : [];
const [best, ...others] = sets;
const least = others.at(-1);
const acrossSets = 'instruction sets share dumps in float32 and float16, and in bfloat16 where the names are the same';
if (!best || !least) test.skip(acrossSets, 'only one instruction set is built');
else {
  test(
    acrossSets,
    () =>
      withFolder(async (folder) => {
        const command = (out: string, precision: Precision, ...more: string[]) => [
          ...['dump', '--text', sampleText, '--hook', '1/mlp/post_act', '--context', '32', '--shard-tokens', '512'],
          ...['--limit', '2048', '--device', 'cpu', '--precision', precision, '--out', join(folder, out), ...more],
        ];
        const good = async (isa: string, ...args: Parameters<typeof command>) => {
          const { code, stderr } = await run(command(...args), { env: { SONDE_ISA: isa } });
          assert.is(code, 0, `${isa} ${args}\n${stderr}`);
        };
        const arithmeticIn = async (out: string) => (await manifestIn(join(folder, out))).arithmetic;
        for (const { isa, float32, bfloat16 } of sets) {
          assert.is(float32, arithmeticNames.float32);
          assert.is(bfloat16, arithmeticNames[isa === 'avx512_bf16' ? 'bfloat16Dot' : 'float32'], isa);
        }
        const pairs: [Precision, typeof best, typeof best][] = [
          ...others.map((other): (typeof pairs)[number] => ['float32', best, other]),
          ['float16', least, best],
          ...others.map((other): (typeof pairs)[number] => ['bfloat16', best, other]),
          ['bfloat16', least, best],
        ];
        for (const [precision, one, other] of pairs) {
          const [there, here] = [one, other].map((set) => (precision === 'bfloat16' ? set.bfloat16 : set.float32));
          const [whole, out] = [`${precision} ${one.isa}`, `${precision} ${one.isa} ${other.isa}`];
          if (!existsSync(join(folder, whole))) await good(one.isa, whole, precision);
          assert.equal(await arithmeticIn(whole), [there]);
          await begun(join(folder, out), join(folder, whole));
          if (there === here) {
            await good(other.isa, out, precision);
            assert.equal(await arithmeticIn(out), [there]);
            await assertSameFolder(join(folder, out), join(folder, whole));
            continue;
          }
          const { code, stderr } = await run(command(out, precision), { env: { SONDE_ISA: other.isa } });
          assert.is(code, 1);
          assert.match(stderr, /sonde: dump: .* was begun with the arithmetic .* \(anyArithmetic, --any-arithmetic\)/);
          for (const name of [there, here]) assert.ok(stderr.includes(`"${name}"`), stderr);
          if (other !== least && one !== least) continue;
          await good(other.isa, out, precision, '--any-arithmetic');
          const { stdout } = await run(['inspect', join(folder, out)]);
          const both = [there, here].sort().join('; ');
          assert.ok(stdout.includes(`made with ${both}\n`), stdout);
        }
        // Parts of two instruction sets in one folder, and their merge.
        for (const [index, { isa }] of [best, least].entries()) {
          await good(isa, 'parts', 'float16', '--shard', `${index}/2`);
        }
        assert.is((await run(['merge', join(folder, 'parts')])).code, 0);
        await assertSameFolder(join(folder, 'parts'), join(folder, `float16 ${least.isa}`));
      }),
    { limit: 280_000 },
  );
}

test('of parts that begin together with two arithmetics, those of one go on', () =>
  withFolder(async (folder) => {
    const { settings } = await planOf(request(join(folder, 'out')));
    const count = 9;
    for (const other of [0, 4, 8]) {
      const out = join(folder, `out-${other}`);
      const parts: PreparedFolder[] = [];
      for (let index = 0; index < count; index++) {
        parts.push(await prepareFolder(openStore(out), { ...settings, part: { index, count } }));
      }
      const begun = await Promise.allSettled(
        parts.map((part, index) => part.begin({ arithmetic: [index === other ? '1 B' : '1 A'], anyArithmetic: false })),
      );
      const names: string[] = [];
      for (const one of begun) {
        if (one.status === 'fulfilled') names.push(...one.value);
        else assert.instance(one.reason, OtherArithmetic);
      }
      assert.ok(names.length > 0, `all were refused beside part ${other}`);
      assert.is(new Set(names).size, 1, names.join());
      const left = (await readdir(out)).filter((name) => name.endsWith('.json'));
      assert.is(left.length, names.length + 1); // the refused ones left nothing; the others share the list of the corpus
      await Promise.all(parts.map((part) => part.release()));
    }
  }));

test('a part of a lower index does not go on beside one that has begun', () =>
  withFolder(async (out) => {
    const { settings } = await planOf(request(out));
    const of = (index: number) => prepareFolder(openStore(out), { ...settings, part: { index, count: 2 } });
    const [zero, one] = await Promise.all([of(0), of(1)]);
    await one.begin({ arithmetic: ['1 A'], anyArithmetic: false });
    await rejects(zero.begin({ arithmetic: ['1 B'], anyArithmetic: false }), OtherArithmetic, /begun with the/);
    assert.equal(
      (await readdir(out)).filter((name) => /^manifest-.*\.json$/.test(name)),
      ['manifest-1-of-2.json'],
    );
    await Promise.all([zero, one].map((part) => part.release()));
  }));

test('of parts that go on together with two arithmetics, and have a manifest each, one goes on', () =>
  withFolder(async (out) => {
    const { settings } = await planOf(request(out));
    const begun = [];
    for (const [index, arithmetic] of [['1 A'], ['1 B']].entries()) {
      const part = { ...settings, part: { index, count: 2 } };
      await writeManifest(openStore(out), makeManifest(part, arithmetic, [], false));
      begun.push({ arithmetic, folder: await prepareFolder(openStore(out), part) });
    }
    const ends = await Promise.allSettled(
      begun.map(async ({ arithmetic, folder }) => {
        try {
          return await folder.begin({ arithmetic, anyArithmetic: false });
        } catch (error) {
          await folder.release();
          throw error;
        }
      }),
    );
    assert.equal(
      ends.map(({ status }) => status),
      ['fulfilled', 'rejected'],
    );
    await begun[0]?.folder.release();
  }));

test('a manifest that is removed while it is read is not there', () =>
  withFolder(async (out) => {
    await dump(request(out));
    const unreadable = openStore(out);
    unreadable.open = () => Promise.reject(new Error('no access'));
    await rejects(readManifests(unreadable), Error, /cannot be read as a manifest: no access/);
    const store = openStore(out);
    const open = store.open.bind(store);
    store.open = async (name) => {
      await store.remove(name);
      return open(name);
    };
    assert.is((await readManifests(store)).size, 0);
  }));

test('a manifest with shards lists an arithmetic, and each once', () =>
  withFolder(async (out) => {
    await dump(request(out));
    const manifest = await manifestIn(out);
    for (const [arithmetic, problem] of [
      [[], /its "arithmetic" is empty, but it lists shards/],
      [['a', 'a'], /its "arithmetic" has a name twice/],
    ] as const) {
      await writeFile(join(out, 'manifest.json'), JSON.stringify({ ...manifest, arithmetic }));
      await rejects(openDump(out), Error, problem);
    }
  }));

test.run();
