// Oracles: the values of the model and the autoencoder when they are called directly, and uninterrupted dumps.
import { appendFile, cp, mkdir, readdir, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { openDump } from '../../src/dump/read/reader.js';
import { dump, planOf } from '../../src/dump/run.js';
import { findAutoencoder } from '../../src/dump/shards/autoencoders.js';
import { mergeDumps } from '../../src/dump/shards/merge.js';
import type { DumpOptions } from '../../src/dump/shards/options.js';
import { packageRoot } from '../../src/engine/native.js';
import type { Tensor } from '../../src/engine/ops/tensor.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { close } from '../support/close.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite } from '../support/harness.js';
import { random } from '../support/random.js';
import { assertSameFolder, contentsOf, sampleText } from './folders.js';

const test = suite('dump');
const model = await Transformer.load('demo');
const autoencoder = 'ae-resid-delta-mlp';
const sparse = `1/resid/delta_mlp -> ${autoencoder}`;

/** Documents of awkward lengths, 0 and whole rows among them. */
async function* documents(seed = 3, count = 9) {
  const rng = random(seed);
  for (let i = 0; i < count; i++) {
    const length = [0, 1, 7, 16, 17, 32, 40][i % 7] as number;
    yield Array.from({ length }, () => rng.integer(0, 50_257));
  }
}

const small = (out: string, changes: Partial<DumpOptions> = {}): DumpOptions => ({
  model,
  corpus: documents(),
  locations: ['resid/post_emb', '1/mlp/post_act', sparse],
  out,
  context: 16,
  shardTokens: 64,
  ...changes,
});

for (const dtype of ['float32', 'float16', 'bfloat16'] as const) {
  test(`${dtype}: values are those of the model, zero at padding`, () =>
    withFolder(async (out) => {
      const result = await dump(small(out, { dtype, batch: 3 }));
      await using made = await openDump(out);
      assert.is(result.shards, made.shards.length);
      assert.is(made.manifest.complete, true);
      const { tokens, document } = await made.tokens();
      const kept = [...tokens].filter((_, i) => document[i] !== -1);
      const expected: number[] = [];
      for await (const item of documents()) expected.push(...item);
      assert.equal(kept, expected);
      for (const location of ['resid/post_emb', '1/mlp/post_act'] as const) {
        const { data, shape } = await made.rows(location, 0, made.rowCount);
        const width = shape[2] as number;
        for (let row = 0; row < made.rowCount; row++) {
          const length = document.slice(row * 16, row * 16 + 16).filter((d) => d >= 0).length;
          const own = [...tokens.subarray(row * 16, row * 16 + length)];
          using direct = (await model.activations([own], [location])).get(location) as Tensor;
          using stored = direct.to(dtype);
          const there = data.subarray(row * 16 * width, (row + 1) * 16 * width);
          const label = `${location}, row ${row}`;
          const tolerance = { float32: 1e-6, float16: 1e-3, bfloat16: 8e-3 }[dtype];
          close(there.subarray(0, length * width), await stored.read(), { label, rtol: tolerance, atol: 1e-6 });
          assert.ok(
            there.subarray(length * width).every((x) => x === 0),
            `${label}: padding`,
          );
        }
      }
    }));
}

test('latents are those of the autoencoder, none at padding', () =>
  withFolder(async (out) => {
    await dump(small(out, { dtype: 'float32', batch: 3 }));
    await using made = await openDump(out);
    const found = await findAutoencoder({ location: '1/resid/delta_mlp', autoencoder }, {}, model);
    const { tokens, document } = await made.tokens();
    const latents = await made.rows('1/resid/delta_mlp/latents');
    assert.equal(latents.shape, [made.rowCount, 16, found.autoencoder.nLatents]);
    let entries = 0;
    for (let row = 0; row < made.rowCount; row++) {
      const length = document.slice(row * 16, row * 16 + 16).filter((d) => d >= 0).length;
      const own = [...tokens.subarray(row * 16, row * 16 + length)];
      using x = (await model.activations([own], ['1/resid/delta_mlp'])).get('1/resid/delta_mlp') as Tensor;
      const direct = await found.autoencoder.encodeSparse(x);
      for (let position = 0; position < 16; position++) {
        const [from, to] = [0, 1].map((d) => Number(latents.rowPtr[row * 16 + position + d])) as [number, number];
        assert.is(from, entries);
        const [a, b] = position < length ? [0, 1].map((d) => Number(direct.rowPtr[position + d])) : [0, 0];
        assert.equal([...latents.indices.subarray(from, to)], [...direct.indices.subarray(a, b)]);
        close(latents.values.subarray(from, to), direct.values.subarray(a, b), { rtol: 1e-5, atol: 1e-6 });
        entries = to;
      }
    }
    assert.ok(entries > 100);
    assert.is(latents.indices.length, entries);
    found.autoencoder.dispose();
  }));

test('a location with keys is stored over the whole context', () =>
  withFolder(async (out) => {
    await dump(small(out, { locations: ['0/attn/qk_probs'], dtype: 'float32', batch: 2 }));
    await using made = await openDump(out);
    const { data, shape } = await made.rows('0/attn/qk_probs', 0, 1);
    assert.equal(shape, [1, 16, 16, shape[3]]);
    assert.ok(data.some((x) => x !== 0));
  }));

test('the batch size, the way tokens come and parts change no byte', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    await dump(small(at('a'), { batch: 1 }));
    await dump(small(at('b'), { batch: 4 }));
    await assertSameFolder(at('b'), at('a'));
    for (const index of [2, 0, 1]) await dump(small(at('parts'), { shard: { index, count: 3 } }));
    const [whole, parts] = [await contentsOf(at('a')), await contentsOf(at('parts'))];
    delete whole['manifest.json'];
    for (const index of [0, 1, 2]) delete parts[`manifest-${index}-of-3.json`];
    for (const name of Object.keys(parts)) if (/^corpus-[0-9a-f]{16}\.json$/.test(name)) delete parts[name];
    assert.equal(parts, whole);
    await using one = await openDump(at('a'));
    await using three = await openDump(at('parts'));
    assert.equal(three.shards, one.shards);
    assert.is(three.manifest.complete, true);
    assert.equal(await three.verify(), []);
    await rejects(dump(small(at('parts'))), /holds a dump with parts: 3, but 1 was asked for/);
    await rejects(dump(small(at('parts'), { shard: { index: 0, count: 2 } })), /parts: 3, but 2/);
  }));

test('limit stops after so many tokens', () =>
  withFolder(async (out) => {
    const result = await dump(small(out, { limit: 45 }));
    assert.is(result.tokens, 45);
  }));

test('abort leaves a folder that the same call continues', () =>
  withFolder(async (folder) => {
    const [whole, cut] = [join(folder, 'whole'), join(folder, 'cut')];
    const base = { corpus: sampleText, limit: 6000, shardTokens: 1024, batch: 2, context: 64 };
    await dump(small(whole, base));
    for (const stopAt of [1, 1500, 3000, 5000]) {
      const controller = new AbortController();
      const onProgress = ({ tokens }: { tokens: number }) => {
        if (tokens > stopAt) controller.abort(new Error('stopped here'));
      };
      await rejects(dump(small(cut, { ...base, signal: controller.signal, onProgress })), /stopped here/);
      assert.equal(
        Object.keys(await contentsOf(cut)).filter((name) => name.endsWith('.partial')),
        [],
      );
      await using made = await openDump(cut);
      assert.equal(await made.verify(), []);
    }
    const result = await dump(small(cut, { ...base, batch: 5 }));
    assert.ok(result.written > 0);
    await assertSameFolder(cut, whole);
    await rejects(dump(small(join(folder, 'never'), { signal: AbortSignal.abort(new Error('too late')) })), /too late/);
  }));

test('abort ends the wait for a corpus that gives no more items', () =>
  withFolder(async (out) => {
    async function* endless() {
      yield [1, 2, 3];
      await new Promise(() => setInterval(() => {}, 2 ** 30).unref());
    }
    const signal = AbortSignal.timeout(50);
    await rejects(dump(small(out, { corpus: endless(), signal })), /timeout/);
  }));

test('a complete dump is left alone; a missing shard is made again; leftovers are removed', () =>
  withFolder(async (folder) => {
    const [out, whole] = [join(folder, 'out'), join(folder, 'whole')];
    await dump(small(out));
    await cp(out, whole, { recursive: true });
    assert.is((await dump(small(out))).written, 0);
    await rm(join(out, 'shard-00001.safetensors'));
    for (const name of [
      'shard-00001.safetensors.0123abcd.partial',
      'shard-00002.safetensors.0123abcd.0-values.partial',
    ]) {
      await writeFile(join(out, name), 'unfinished');
    }
    await writeFile(join(out, 'manifest.json.0123abcd.partial'), '{');
    assert.is((await dump(small(out))).written, 1);
    await assertSameFolder(out, whole);
  }));

test('a folder of another dump is refused, with the difference', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    await dump(small(out));
    const refused = (changes: Partial<DumpOptions>, pattern: RegExp) => rejects(dump(small(out, changes)), pattern);
    await refused({ context: 8 }, /out holds a dump with context 16, but 8 was asked for/);
    await refused({ dtype: 'float32' }, /with dtype float16, but float32/);
    await refused({ shardTokens: 32 }, /shards of 64 tokens, but 32 tokens/);
    await refused({ limit: 9 }, /a limit of none, but 9 tokens/);
    await refused({ threshold: 0.5 }, /the thresholds 0, but 0.5/);
    await refused(
      { locations: ['resid/post_emb', sparse] },
      /the locations resid\/post_emb, 1\/mlp\/post_act, but resid\/post_emb was/,
    );
    await refused({ locations: ['resid/post_emb', '1/mlp/post_act'] }, /the autoencoders 1.* but none/);
    await refused({ corpus: sampleText }, /the corpus iterable, but stories-sample.txt \(text, 100000 bytes\)/);
    await refused(
      { corpus: documents(4) },
      /shard-00000\.safetensors is of another corpus: at row 0, position 0 it has token/,
    );
    await refused({ corpus: documents(3, 5) }, /shard-0000\d\.safetensors is of another corpus|no more than \d shards/);
  }));

test('folders that are no dumps, and shards that were cut, are refused', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    await mkdir(out);
    await writeFile(join(out, 'thesis.txt'), 'important');
    await rejects(dump(small(out)), /out is not empty and has no manifest\.json \(it has thesis\.txt\)/);
    assert.is(await readFile(join(out, 'thesis.txt'), 'utf8'), 'important');
    await rm(join(out, 'thesis.txt'));
    await dump(small(out));
    await truncate(join(out, 'shard-00001.safetensors'), 100);
    await rejects(
      dump(small(out)),
      /shard-00001\.safetensors holds 100 bytes, but the manifest says \d+ bytes: remove it/,
    );
    await writeFile(join(out, 'manifest.json'), '{');
    await rejects(dump(small(out)), /manifest\.json: cannot be read as a manifest/);
    await rejects(dump(small(join(out, 'manifest.json', 'below'))), /cannot write .*below/);
  }));

async function* nothing() {}

test('an empty corpus leaves nothing behind, and a failure before the first shard does not refuse another request', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    await writeFile(at('empty.txt'), '');
    await writeFile(at('broken.txt'), Buffer.from([0xff]));
    await mkdir(at('there'));
    const wrong: [Partial<DumpOptions>, RegExp][] = [
      [{ corpus: nothing() }, /the corpus has no tokens/],
      [{ corpus: at('empty.txt') }, /the corpus has no tokens/],
      [{ corpus: at('empty.txt'), shard: { index: 1, count: 2 } }, /the corpus has no tokens/],
    ];
    for (const [changes, pattern] of wrong) {
      for (const out of [at('new/in/new'), at('there')]) await rejects(dump(small(out, changes)), pattern);
      assert.equal((await readdir(folder)).sort(), ['broken.txt', 'empty.txt', 'there']);
      assert.equal(await readdir(at('there')), []);
    }
    const stop = new AbortController();
    async function* silent() {
      stop.abort(new Error('enough'));
      await new Promise(() => {});
      yield '';
    }
    await rejects(dump(small(at('there'), { corpus: silent(), signal: stop.signal })), /enough/);
    assert.equal(await readdir(at('there')), ['manifest.json']);
    await rejects(dump(small(at('there'), { corpus: at('broken.txt'), context: 8 })), /broken\.txt, byte 0: not valid/);
    assert.equal(await readdir(at('there')), ['manifest.json']);
    await dump(small(at('there')));
    await dump(small(at('out')));
    await assertSameFolder(at('there'), at('out'));
    const whole = await contentsOf(at('there'));
    await rejects(dump(small(at('there'), { corpus: nothing() })), /no more than 0 shards|has no tokens/);
    assert.equal(await contentsOf(at('there')), whole);
  }));

test('a run that was killed before its first shard does not refuse another request', () =>
  withFolder(async (folder) => {
    const [out, other, killed] = [join(folder, 'out'), join(folder, 'other'), join(folder, 'killed')];
    await dump(small(other, { context: 8 }));
    await dump(small(out));
    await dump(small(killed));
    const path = join(killed, 'manifest.json');
    const manifest = JSON.parse(await readFile(path, 'utf8'));
    const unlisted = { ...manifest, complete: false, shards: [] };
    await writeFile(path, JSON.stringify(unlisted)); // the shards are there but not listed, and must not be lost
    const there = await contentsOf(killed);
    await rejects(dump(small(killed, { context: 8 })), /killed holds a dump with context 16, but 8 was asked for/);
    assert.equal(await contentsOf(killed), there);
    for (const { file } of manifest.shards) await rm(join(killed, file));
    await rejects(dump(small(killed, { corpus: nothing(), context: 8 })), /has no tokens/);
    assert.equal(await readdir(killed), []);
    await writeFile(path, JSON.stringify(unlisted));
    await dump(small(killed, { context: 8 }));
    await assertSameFolder(killed, other);
    // The same request continues the dump, and a listed shard refuses another request.
    await writeFile(join(out, 'manifest.json'), JSON.stringify({ ...manifest, complete: false }));
    await rejects(dump(small(out, { context: 8 })), /out holds a dump with context 16, but 8 was asked for/);
    // The manifest of another part refuses it as well.
    await writeFile(join(killed, 'manifest.json'), JSON.stringify(unlisted));
    await rejects(dump(small(killed, { shard: { index: 0, count: 2 } })), /holds a dump with parts: 1, but 2/);
  }));

test('a part without shards is complete, and stays', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    const part = (index: number) => small(out, { shardTokens: 4096, shard: { index, count: 2 } });
    assert.is((await dump(part(1))).shards, 0);
    const [list = '', ...others] = await readdir(out);
    assert.match(list, /^corpus-[0-9a-f]{16}\.json$/);
    assert.equal(others, ['manifest-1-of-2.json']);
    assert.is((await dump(part(0))).shards, 1);
    await using made = await openDump(out);
    assert.is(made.manifest.complete, true);
  }));

test('a folder that cannot be made is refused with the obstacle, and without advice that does not help', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    await writeFile(at('file'), 'important');
    await symlink('nowhere', at('dangling'));
    const cases: [string, RegExp][] = [
      ['file', /^dump: cannot write \S*file: it is a file, not a folder \(EEXIST\): choose another folder$/],
      ['file/below', /^dump: cannot write \S*below: \S*file is a file, not a folder \(E\w+\): choose another folder$/],
      [
        'dangling',
        /^dump: cannot write \S*dangling: it is a link to nowhere, which is not there .*: choose another folder$/,
      ],
      ['n'.repeat(300), /^dump: cannot write \S*: the name is too long: choose another folder$/],
    ];
    for (const [name, pattern] of cases) {
      await rejects(dump(small(at(name))), Error, pattern);
      const merging = new RegExp(pattern.source.replace('^dump', '^merge'));
      await rejects(mergeDumps(at(name)), Error, merging);
    }
    await rejects(openDump(at('file')), Error, /^openDump: \S*file: it is no folder, or lies below a file$/);
    assert.equal((await readdir(folder)).sort(), ['dangling', 'file']);
  }));

test('a broken corpus ends the dump, and what is finished stays', () =>
  withFolder(async (folder) => {
    const [text, out] = [join(folder, 'a.txt'), join(folder, 'out')];
    await writeFile(text, 'It was a windy Monday. '.repeat(20_000));
    await appendFile(text, Buffer.from([0xff]));
    await rejects(
      dump(small(out, { corpus: text, shardTokens: 1024, locations: 'resid/post_emb' })),
      /a\.txt, byte 460000: not valid/,
    );
    await using made = await openDump(out);
    assert.is(made.manifest.complete, false);
    assert.ok(made.shards.length > 3);
    assert.equal(await made.verify(), []);
  }));

test('wrong options are refused before anything is written', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    const refused = (changes: Partial<DumpOptions>, pattern: RegExp) => rejects(dump(small(out, changes)), pattern);
    await refused({ out: '' }, /out must be the path of a folder/);
    await refused({ threshold: -1 }, /threshold must be a number of 0 or more, but is -1/);
    await refused({ corpus: 'nowhere.txt' }, /nowhere\.txt: there is no such file/);
    await refused({ locations: [] }, /must name one at least/);
    await refused({ locations: '9/mlp/post_act' }, /9/);
    await refused(
      { locations: '1/mlp/post_act -> no-such-thing' },
      /'no-such-thing' for 1\/mlp\/post_act is no file.*ae-mlp-post-act/,
    );
    await refused({ locations: '*/mlp/post_act -> one.pt' }, /\*\/mlp\/post_act means every layer.*\{layer\}/);
    await refused({ locations: 'resid/post_emb -> a/{layer}.pt' }, /resid\/post_emb has no layer/);
    await refused(
      { locations: `1/mlp/post_act -> ${autoencoder}` },
      /1\/mlp\/post_act has 256 values per token, but the autoencoder ae-resid-delta-mlp takes 64/,
    );
    assert.equal(await contentsOf(folder), {});
    async function* nothing() {}
    await refused({ corpus: nothing() }, /the corpus has no tokens/);
  }));

test('a model of 16 bits feeds autoencoders as well; paths leave no trace', () =>
  withFolder(async (folder) => {
    const half = await Transformer.load(join(packageRoot, 'assets', 'demo'), { dtype: 'bfloat16' });
    const file = join(packageRoot, 'assets', 'demo', 'autoencoders', 'resid_delta_mlp', '{layer}.pt');
    const out = join(folder, 'out');
    await dump(small(out, { model: half, locations: ['1/mlp/post_act', `*/resid/delta_mlp -> ${file}`] }));
    half.dispose();
    await using made = await openDump(out);
    assert.is(made.manifest.model.dtype, 'bfloat16');
    assert.is(made.manifest.model.name, 'demo');
    assert.equal(
      made.manifest.autoencoders.map(({ name }) => name),
      ['0.pt', '1.pt', '2.pt', '3.pt'],
    );
    assert.ok(!(await readFile(join(out, 'manifest.json'), 'utf8')).includes(packageRoot));
    assert.ok((await made.rows('3/resid/delta_mlp/latents')).indices.length > 100);
  }));

test('autoencoders are found by name, by file and by what is given', () =>
  withFolder(async (folder) => {
    const found = await findAutoencoder({ location: '1/resid/delta_mlp', autoencoder }, {}, model);
    const location = '1/resid/delta_mlp -> mine';
    await dump(small(join(folder, 'a'), { locations: location, autoencoders: { mine: found.autoencoder } }));
    await dump(small(join(folder, 'b'), { locations: location, autoencoders: { mine: () => found.autoencoder } }));
    await assertSameFolder(join(folder, 'b'), join(folder, 'a'));
    found.autoencoder.dispose();
  }));

test('progress counts tokens to the total', () =>
  withFolder(async (out) => {
    const seen: { tokens: number; totalTokens?: number; bytesRead: number; shards: number }[] = [];
    await dump(small(out, { corpus: sampleText, limit: 5000, shardTokens: 1024, onProgress: (p) => seen.push(p) }));
    const last = seen.at(-1);
    assert.is(last?.tokens, 5000);
    assert.is(last?.totalTokens, 5000);
    assert.is(last?.shards, 5);
    assert.ok((last?.bytesRead ?? 0) > 15_000);
    for (let i = 1; i < seen.length; i++) assert.ok((seen[i]?.tokens ?? 0) >= (seen[i - 1]?.tokens ?? 0));
  }));

test('planOf writes nothing', () =>
  withFolder(async (folder) => {
    const plan = await planOf(small(join(folder, 'out')));
    assert.is(plan.rowsPerShard, 4);
    assert.equal(await contentsOf(folder), {});
  }));

test('no memory of the device is kept', () =>
  withFolder(async (folder) => {
    await dump(small(join(folder, 'warm')));
    await model.device.synchronize();
    const before = model.device.memory().allocated;
    await dump(small(join(folder, 'a')));
    await rejects(dump(small(join(folder, 'b'), { locations: [`1/mlp/post_act -> ${autoencoder}`] })), /256 values/);
    await model.device.synchronize();
    assert.is(model.device.memory().allocated, before);
  }));

test.run();
