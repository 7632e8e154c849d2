// Oracle: values that are planted by their tokens, counted by hand from the tokens. Token 0 is planted too, and the
// documents have it nowhere: it is the padding, which must not count.
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { Autoencoder } from '../../src/autoencoder/autoencoder.js';
import { findAutoencoderSpec } from '../../src/context/registry.js';
import { NonFiniteError } from '../../src/dump/format/non_finite.js';
import { openDump } from '../../src/dump/read/reader.js';
import { dump } from '../../src/dump/run.js';
import { mergeDumps } from '../../src/dump/shards/merge.js';
import type { DumpOptions } from '../../src/dump/shards/options.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { testDevice } from '../support/device.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite } from '../support/harness.js';
import { assertSameFolder, contentsOf, resealed } from './folders.js';
import { plantedAutoencoder, plantedModel, setAt } from './planted.js';

const test = suite('values that are not finite');
const device = testDevice();
const model = await Transformer.load('demo', { device });

const post = '1/mlp/post_act';
const residual = '0/resid/post_mlp';
const latents = '1/resid/delta_mlp/latents';
const endOfText = 50_256;

/** By token: where a value is planted, at which index, and which one. */
const planted: Record<number, readonly (readonly [location: string, index: number, value: number])[]> = {
  0: [
    [post, 0, Number.NaN],
    [residual, 0, Infinity],
  ],
  1: [[post, 3, Number.NaN]],
  2: [
    [post, 5, -Infinity],
    [residual, 7, Number.NaN],
  ],
  3: [[residual, 2, 70_000]], // too large for float16
  4: [[residual, 9, 3.4e38]], // too large for bfloat16, too
  5: [[residual, 1, -65_519]], // 65504 in float16
  [endOfText]: [[post, 1, Number.NaN]],
};

/** The demo model, with what is planted. */
const broken = plantedModel(model, (tokens, activations) => {
  for (const [row, own] of tokens.entries()) {
    for (const [position, token] of own.entries()) {
      for (const [location, index, x] of planted[token] ?? []) {
        setAt(activations.get(location), row, position, index, x);
      }
    }
  }
});

const file = findAutoencoderSpec('demo', 'ae-resid-delta-mlp')?.path.replace('{layer}', '1') as string;
const encoder = await Autoencoder.load(file, { device, strict: false });

/** The demo's autoencoder; of each 8 latents, one is NaN where it is active, and one is 1e5. */
const brokenEncoder = plantedAutoencoder(encoder, ({ indices, values }) => {
  indices.forEach((latent, i) => {
    if (latent % 8 === 0) values[i] = Number.NaN;
    if (latent % 8 === 1) values[i] = 1e5;
  });
});

// rows of 4 tokens, 3 of them in a shard: [6 6 6 1] [2 6 . .] [6 3 6 6]   [6 4 5 .] [7 7 . .] [eot 1 6 3]   [6 . . .]
const documents = [
  [6, 6, 6, 1, 2, 6],
  [6, 3, 6, 6, 6, 4, 5],
  [7, 7],
  [endOfText, 1, 6, 3, 6],
];

async function* corpus() {
  for (const document of documents) yield document;
}

const request = (out: string, changes: Partial<DumpOptions> = {}): DumpOptions => ({
  ...{ model: broken, corpus: corpus(), locations: [post, residual], out, context: 4, shardTokens: 12 },
  ...changes,
});

const width = { [post]: 256, [residual]: 64 } as Record<string, number>;

/** The counts in all shards; `values`: the positions of the shards that have such values. */
const expected = (
  counts: Record<string, readonly [nan: number, infinite: number, positions: number, shards: number]>,
) =>
  Object.fromEntries(
    Object.entries(counts).map(([name, [nan, infinite, positions, shards]]) => {
      return [name, { nan, infinite, values: positions * (width[name] as number), shards }];
    }),
  );

// shard 0 has 10 tokens: 1, 2, 3; shard 1 has 9: 4, 5, eot, 1, 3
const inDType = {
  float32: expected({ [post]: [3, 1, 19, 2], [residual]: [1, 0, 10, 1] }),
  bfloat16: expected({ [post]: [3, 1, 19, 2], [residual]: [1, 1, 19, 2] }),
  float16: expected({ [post]: [3, 1, 19, 2], [residual]: [1, 3, 19, 2] }),
};

for (const dtype of ['float32', 'bfloat16', 'float16'] as const) {
  for (const statistics of [false, true]) {
    test(`${dtype}, ${statistics ? 'with' : 'without'} statistics: stored values count as they are rounded`, () =>
      withFolder(async (folder) => {
        const at = (name: string) => join(folder, name);
        const { nonFinite } = await dump(request(at('a'), { dtype, statistics, batch: 1 }));
        assert.equal(nonFinite, inDType[dtype]);
        assert.equal((await dump(request(at('b'), { dtype, statistics, batch: 3 }))).nonFinite, nonFinite);
        await assertSameFolder(at('b'), at('a'));
        await using made = await openDump(at('a'));
        assert.equal(made.nonFinite, nonFinite);
        assert.equal(await made.verify(), []);
        const again = await dump(request(at('a'), { dtype, statistics }));
        assert.equal([again.written, again.nonFinite], [0, nonFinite]);
      }));
  }
}

test('positions that are left out do not count', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const { nonFinite } = await dump(request(at('drop'), { drop: ['endoftext'], dtype: 'float32' }));
    // without the one of <|endoftext|>
    assert.equal(nonFinite, expected({ [post]: [2, 1, 18, 2], [residual]: [1, 0, 10, 1] }));
    let seen = 0;
    for (let seed = 0; seed < 6; seed++) {
      const sampled = await dump(request(at(`sample ${seed}`), { sample: 0.2, seed, dtype: 'float16' }));
      await using made = await openDump(at(`sample ${seed}`));
      const { tokens, stored } = await made.tokens();
      const rows: [number, number, number, number][] = [];
      for (let shard = 0; shard < 3; shard++) {
        const kept = [...tokens.subarray(12 * shard, 12 * shard + 12)].filter((_, i) => stored[12 * shard + i] === 1);
        const count = (...wanted: number[]) => kept.filter((token) => wanted.includes(token)).length;
        rows.push([count(1, endOfText), count(2), kept.length, 1], [count(2), count(3, 4), kept.length, 1]);
      }
      const total = (own: typeof rows): typeof rows =>
        [own.filter(([nan, infinite]) => nan + infinite > 0)].map((some) =>
          some.reduce((a, b) => a.map((x, i) => x + (b[i] as number)) as typeof a, [0, 0, 0, 0]),
        );
      const [inPost] = total(rows.filter((_, i) => i % 2 === 0));
      const [inResidual] = total(rows.filter((_, i) => i % 2 === 1));
      const wanted = { ...(inPost?.[3] && { [post]: inPost }), ...(inResidual?.[3] && { [residual]: inResidual }) };
      assert.equal(sampled.nonFinite, expected(wanted), `seed ${seed}`);
      assert.equal(await made.verify(), []);
      seen += Object.keys(wanted).length;
    }
    assert.ok(seen > 4 && seen < 12, `${seen}`);
  }));

test('latents count by the dtype of their values, and beside a dense location of the same name', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const locations = ['1/resid/delta_mlp', '1/resid/delta_mlp -> ae'];
    const clean = { model, autoencoders: { ae: encoder } };
    for (const [name, changes] of Object.entries<Partial<DumpOptions>>({
      float32: { dtype: 'float32' },
      float16: { dtype: 'float16' },
      int8: { dtype: 'int8' },
      others: { dtype: 'bfloat16', statistics: true, parquet: true, drop: ['endoftext'] },
    })) {
      const options = request('', { locations, ...changes });
      await dump({ ...options, ...clean, corpus: corpus(), dtype: 'float32', out: at(`${name} clean`) });
      await using right = await openDump(at(`${name} clean`));
      const [found, size] = [{ nan: 0, infinite: 0, values: 0, shards: 0 }, right.manifest.context * 3];
      const { rowPtr, indices } = await right.rows(latents);
      for (let from = 0; from < rowPtr.length - 1; from += size) {
        const to = Math.min(rowPtr.length - 1, from + size);
        const own = indices.subarray(Number(rowPtr[from]), Number(rowPtr[to]));
        const [nan, large] = [0, 1].map((rest) => own.filter((i) => i % 8 === rest).length) as [number, number];
        const infinite = ['float16', 'int8'].includes(name) ? large : 0;
        if (nan + infinite === 0) continue;
        found.nan += nan;
        found.infinite += infinite;
        found.values += own.length;
        found.shards++;
      }
      assert.ok(found.nan > 10, name);
      for (const batch of [1, 3]) {
        const out = at(`${name} ${batch}`);
        const made = await dump({
          ...{ ...options, model, autoencoders: { ae: brokenEncoder }, corpus: corpus(), out, batch },
        });
        assert.equal(made.nonFinite, { [latents]: found }, name);
        await using opened = await openDump(out);
        assert.equal(await opened.verify(), [], name);
      }
      await assertSameFolder(at(`${name} 3`), at(`${name} 1`));
    }
  }));

test('masked logits are -Infinity by definition, and do not count; others do', () =>
  withFolder(async (out) => {
    const logits = '0/attn/qk_logits';
    const made = await dump(request(join(out, 'a'), { model, locations: [logits], drop: ['endoftext'] }));
    assert.equal(made.nonFinite, {});
    await using there = await openDump(join(out, 'a'));
    assert.ok((await there.rows(logits)).data.some((x) => x === -Infinity));
    assert.equal(await there.verify(), []);
    // token 1 has a NaN where it must not look, and -Infinity where it may
    const odd = plantedModel(model, (tokens, activations) => {
      for (const [row, own] of tokens.entries()) {
        const position = own.indexOf(1);
        if (position < 1) continue;
        const query = activations.get(logits)?.select(0, row).select(0, position); // [keys, heads]
        query?.select(0, 0).select(0, 1).fill(-Infinity);
        if (position === 1) query?.select(0, 3).select(0, 1).fill(Number.NaN);
      }
    });
    const { nonFinite } = await dump(request(join(out, 'b'), { model: odd, locations: [logits] }));
    const heads = model.config.nHeads;
    assert.equal(nonFinite, { [logits]: { nan: 1, infinite: 2, values: 19 * 4 * heads, shards: 2 } });
    await using other = await openDump(join(out, 'b'));
    assert.equal(await other.verify(), []);
  }));

test('parts, a merge, and a dump that was interrupted count the same, and have the same bytes', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const locations = [post, residual, '1/resid/delta_mlp -> ae'];
    const options = (out: string, changes: Partial<DumpOptions> = {}) =>
      request(out, { locations, autoencoders: { ae: brokenEncoder }, parquet: true, ...changes });
    const whole = await dump(options(at('whole')));
    assert.equal(Object.keys(whole.nonFinite), [residual, post, latents]);
    for (const index of [2, 0, 1]) await dump(options(at('parts'), { shard: { index, count: 3 } }));
    {
      await using parts = await openDump(at('parts'));
      assert.equal(parts.nonFinite, whole.nonFinite);
    }
    assert.equal((await mergeDumps(at('parts'))).nonFinite, whole.nonFinite);
    await assertSameFolder(at('parts'), at('whole'));

    // Stopped after the first shard, and once more when a shard is lost.
    const stop = new AbortController();
    const onProgress = ({ shards }: { shards: number }) => shards === 1 && stop.abort(new Error('stopped'));
    await rejects(dump(options(at('stopped'), { onProgress, signal: stop.signal })), Error, /stopped/);
    assert.equal((await dump(options(at('stopped')))).nonFinite, whole.nonFinite);
    await assertSameFolder(at('stopped'), at('whole'));
    await rm(join(at('stopped'), 'shard-00001.safetensors'));
    assert.equal((await dump(options(at('stopped')))).nonFinite, whole.nonFinite);
    await assertSameFolder(at('stopped'), at('whole'));
  }));

test('finite names the first value, whatever the batch size, and leaves what came before', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const refused = async (name: string, pattern: RegExp, changes: Partial<DumpOptions> = {}) => {
      for (const batch of [1, 2, 3]) {
        const out = at(`${name} ${batch}`);
        await rejects(dump(request(out, { finite: true, batch, ...changes })), NonFiniteError, pattern);
        assert.not.ok(Object.keys(await contentsOf(out)).some((file) => file.includes('unfinished')));
      }
    };
    const dtype = 'float32';
    await refused(
      'dense',
      /^dump: 1\/mlp\/post_act: NaN is not finite: value 3 at position 3 in document 0 \(row 0, position 3 of shard-00000\.safetensors\)\. Without finite, such values are counted$/,
      { dtype },
    );
    await refused(
      'rounded',
      /^dump: 0\/resid\/post_mlp: NaN is not finite: value 7 at position 4 in document 0 \(row 1, position 0 of/,
      { dtype, locations: residual },
    );
    // Longer rows are computed before shorter ones: the first value is found last.
    async function* shorter() {
      yield [6, 2];
      for (let i = 0; i < 8; i++) yield [6, 6, i > 0 ? 1 : 6, 6];
      yield [6, 6, 1];
    }
    for (const batch of [1, 2]) {
      const options = request(at(`shorter ${batch}`), { corpus: shorter(), locations: post, shardTokens: 40 });
      await rejects(
        dump({ ...options, batch, finite: true }),
        NonFiniteError,
        /post_act: -Infinity is not finite, .*: value 5 at position 1 in document 0 \(row 0, position 1 of/,
      );
    }
    async function* large() {
      yield [6, 6, 6, 6, 6];
      yield [6, 6, 6, 6, 6, 6, 6, 6, 6, 3];
    }
    const where = 'value 2 at position 9 in document 1 \\(row 1, position 1 of shard-00001';
    for (const [name, what, changes] of [
      ['unknown', 'Infinity is not finite, or was too large for float16', {}],
      ['known', '70000 is too large for float16', { statistics: true }],
    ] as const) {
      for (const batch of [1, 3]) {
        const out = at(`${name} ${batch}`);
        const options = () => request(out, { corpus: large(), locations: residual, batch, ...changes });
        await rejects(dump({ ...options(), finite: true }), RangeError, new RegExp(`post_mlp: ${what}: ${where}`));
        {
          await using made = await openDump(out);
          assert.equal([made.rowCount, made.nonFinite, await made.verify()], [3, {}, []]);
        }
        // The same call without it goes on; with it, the folder is refused.
        assert.equal((await dump(options())).written, 1);
        await dump({ ...options(), out: `${out} anew` });
        await assertSameFolder(out, `${out} anew`);
        await rejects(
          dump({ ...options(), finite: true }),
          NonFiniteError,
          /known|holds shard-00001\.safetensors, where of 0\/resid\/post_mlp 1 of 128 values is not finite: 1 infinite or/,
        );
      }
    }
    // Locations count in their order, and latents after them.
    const both = { model, locations: ['1/resid/delta_mlp -> ae'], autoencoders: { ae: brokenEncoder } };
    await refused(
      'latents',
      /^dump: 1\/resid\/delta_mlp\/latents: (NaN is not finite|100000 is too large for float16): latent \d+ at position 0 in document 0 /,
      both,
    );
    // Nothing is refused that is finite.
    const clean = { ...both, autoencoders: { ae: encoder } };
    assert.equal((await dump(request(at('clean'), { ...clean, finite: true }))).nonFinite, {});
    await dump(request(at('clean too'), clean));
    await assertSameFolder(at('clean'), at('clean too'));
    for (const finite of [1, 'yes', null] as unknown as boolean[]) {
      await rejects(dump(request(at('x'), { finite })), TypeError, /dump: finite must be true or false, but is /);
    }
  }));

test('int8 cannot hold such values: the error names the first', () =>
  withFolder(async (folder) => {
    for (const batch of [1, 3]) {
      for (const statistics of [false, true]) {
        await rejects(
          dump(request(join(folder, `${batch} ${statistics}`), { dtype: 'int8', batch, statistics })),
          RangeError,
          /^dump: 1\/mlp\/post_act: NaN is not finite, which int8 cannot hold: choose float16, and another folder\. It is value 3 at position 3 in document 0 \(row 0, position 3 of shard-00000/,
        );
      }
    }
    // 70000 and 3.4e38 are no problem.
    async function* large() {
      yield [6, 3, 4, 5];
    }
    const options = { dtype: 'int8', corpus: large(), locations: residual, finite: true } as const;
    assert.equal((await dump(request(join(folder, 'large'), options))).nonFinite, {});
  }));

test('a dump of a version that did not count goes on, but for finite, which cannot know', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    await dump(request(out));
    const path = join(out, 'manifest.json');
    const { arithmetic: _, ...manifest } = JSON.parse(await readFile(path, 'utf8'));
    for (const entry of manifest.shards) delete entry.nonFinite;
    await writeFile(path, JSON.stringify(manifest));
    assert.equal((await dump(request(out))).nonFinite, {});
    await rejects(
      dump(request(out, { finite: true })),
      NonFiniteError,
      /holds shard-00000\.safetensors, and an earlier version that did not count such values may have made it/,
    );
  }));

test('a manifest that counts otherwise than its files is found', () =>
  withFolder(async (out) => {
    await dump(request(out));
    const path = join(out, 'manifest.json');
    const text = await readFile(path, 'utf8');
    const changed = async (change: (entries: { nonFinite?: Record<string, unknown> }[]) => void) => {
      const manifest = JSON.parse(text);
      change(manifest.shards);
      await writeFile(path, JSON.stringify(manifest));
    };
    const problems = async () => {
      await using made = await openDump(out);
      return (await made.verify()).map(({ file, problem }) => `${file}: ${problem}`);
    };
    const [first, second] = JSON.parse(text).shards;
    const was = `${first.file}: of ${post} 2 of 2,560 values are not finite: 1 NaN, 1 infinite or too large for the dtype`;
    await changed(([entry]) => delete entry?.nonFinite);
    const residuals = `${first.file}: of ${residual} 2 of 640 values are not finite: 1 NaN, 1 infinite or`;
    const none = await problems();
    assert.equal([none.length, none[1]], [2, `${was}, but the manifest counts none`]);
    assert.ok(none[0]?.startsWith(residuals));
    await changed(([entry]) =>
      Object.assign(entry?.nonFinite ?? {}, { [post]: { nan: 2, infinite: 0, values: 2560 } }),
    );
    assert.equal(await problems(), [`${was}, but the manifest says 2 of 2,560 values are not finite: 2 NaN`]);
    await changed(([, , last]) =>
      Object.assign(last ?? {}, { nonFinite: { [post]: { nan: 1, infinite: 0, values: 256 } } }),
    );
    assert.match(
      (await problems()).join(),
      /shard-00002\.safetensors: all values of 1\/mlp\/post_act are finite, but the manifest says 1 of 256 values is not finite: 1 NaN$/,
    );

    const refused = async (nonFinite: unknown, pattern: RegExp) => {
      await changed(([entry]) => Object.assign(entry ?? {}, { nonFinite }));
      await rejects(openDump(out), Error, pattern);
    };
    const counts = (nan: unknown, infinite: unknown, values: unknown) => ({ [post]: { nan, infinite, values } });
    await refused([], /"shards" is not as it should be: shards\[0\]\.nonFinite must be an object/);
    await refused(counts(-1, 0, 3), /nonFinite\["1\/mlp\/post_act"\]\.nan must be an integer of 0 or more/);
    await refused(counts(1, '1', 3), /\.infinite must be an integer of 0 or more/);
    await refused(counts(1, 1, 2 ** 60), /\.values must be an integer of 1 or more/);
    await refused(
      counts(0, 0, 3),
      /the "nonFinite" of shard-00000\.safetensors is not as it should be: 0 of 3 values at/,
    );
    await refused(counts(3, 1, 3), /: 4 of 3 values at "1\/mlp\/post_act" cannot be$/);
    await refused(counts(3, 1, 12 * 256 + 1), /: 4 of 3073 values at/);
    for (const name of ['1/mlp/pre_act', 'constructor', '__proto__', latents]) {
      const json = `{ ${JSON.stringify(name)}: { "nan": 1, "infinite": 0, "values": 3 } }`;
      await refused(JSON.parse(json), /of shard-00000\.safetensors is not as it should be: nothing is counted at "/);
    }
    await writeFile(path, text);
    assert.ok(second.nonFinite);
    assert.equal(await problems(), []);

    // What lies at padding does not count: row 1, position 3 of the first shard.
    const shard = join(out, first.file);
    const bytes = await readFile(shard);
    const header = Number(bytes.readBigUInt64LE(0)) + 8;
    const [start] = JSON.parse(bytes.subarray(8, header).toString())[post].data_offsets;
    bytes.writeUInt16LE(0x7e00, header + start + 2 * (7 * 256 + 1));
    await writeFile(shard, bytes);
    await resealed(out, 0);
    assert.equal(await problems(), []);
  }));

test.run();
