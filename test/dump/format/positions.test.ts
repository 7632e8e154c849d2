// Oracle: the same dump with nothing left out, and the filter written out as plain loops.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { storedPositionsOf } from '../../../src/dump/format/positions.js';
import { type DenseRows, type Dump, openDump } from '../../../src/dump/read/reader.js';
import { collate } from '../../../src/dump/report/collate.js';
import { dump } from '../../../src/dump/run.js';
import type { DumpOptions } from '../../../src/dump/shards/options.js';
import type { HostTensor } from '../../../src/files/host_tensor.js';
import { loadSafetensors } from '../../../src/files/safetensors/safetensors.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { random } from '../../support/random.js';
import { assertSameFolder, resealed } from '../folders.js';

const test = suite('positions that are stored');
const model = await Transformer.load('demo');
const endOfText = 50_256;
const locations = ['resid/post_emb', '0/attn/qk_probs', '1/resid/delta_mlp -> ae-resid-delta-mlp'];
// Without a location that has keys as a dimension, rows are computed in the order of their lengths.
const short = ['resid/post_emb', '1/resid/delta_mlp -> ae-resid-delta-mlp'];
const latents = '1/resid/delta_mlp/latents';

/** Documents of awkward lengths, some with `<|endoftext|>` at the end or twice in a row. */
async function* documents() {
  const rng = random(8);
  for (const length of [1, 7, 16, 17, 40, 2, 33, 1, 5]) {
    const tokens = Array.from({ length }, () => rng.integer(0, 50_256));
    if (length % 2 === 1) tokens[length - 1] = endOfText;
    if (length > 30) tokens[3] = endOfText;
    yield tokens;
  }
}

const options = (out: string, changes: Partial<DumpOptions> = {}): DumpOptions => ({
  ...{ model, corpus: documents(), locations, out, context: 16, shardTokens: 64, dtype: 'float32' },
  ...changes,
});

async function opened<T>(folder: string, body: (made: Dump) => Promise<T>): Promise<T> {
  await using made = await openDump(folder);
  return await body(made);
}

/** The whole contents of a dump, with zeros and no entries where `stored` is 0. */
async function contents(made: Dump, stored?: Uint8Array) {
  const { tokens, document, stored: own } = await made.tokens();
  const mask = stored ?? own;
  const values = await Promise.all(
    made.manifest.locations.map(async ({ location }) => {
      const { data, shape } = (await made.rows<string>(location)) as DenseRows;
      const width = shape.slice(2).reduce((a, b) => a * b, 1);
      return data.map((x, i) => (mask[Math.floor(i / width)] === 1 ? x : 0));
    }),
  );
  const { rowPtr, indices, values: activations } = await made.rows(latents);
  const entries = [...mask].map((here, i) => {
    const [from, to] = here === 1 ? [Number(rowPtr[i]), Number(rowPtr[i + 1])] : [0, 0];
    return [[...indices.subarray(from, to)], [...activations.subarray(from, to)]];
  });
  return { tokens, document, mask, values, entries };
}

const filters: [string, Partial<DumpOptions>, (token: number) => boolean][] = [
  ['no padding', { drop: ['padding'] }, () => true],
  ['no <|endoftext|>', { drop: ['endoftext'] }, (token) => token !== endOfText],
  [
    'neither, in halves',
    { drop: ['padding', 'endoftext'], dtype: 'float16', locations: short },
    (token) => token !== endOfText,
  ],
];

for (const [title, changes, keeps] of filters) {
  test(`${title}: the values of the rest are those of a whole dump`, () =>
    withFolder(async (folder) => {
      const [whole, out] = [join(folder, 'whole'), join(folder, 'out')];
      const { dtype = 'float32', locations: own = locations } = changes;
      await dump(options(whole, { dtype, locations: own }));
      await dump(options(out, { ...changes, batch: 2 })); // batches of rows that are not consecutive
      const expected = await opened(whole, async (made) => {
        const { tokens, document, stored } = await made.tokens();
        const { positions } = await made.stored('resid/post_emb', 1);
        const flatPositions = [...stored.keys()].filter((flat) => flat >= 16 && stored[flat] === 1);
        assert.equal(
          [...positions],
          flatPositions.flatMap((flat) => [Math.floor(flat / 16), flat % 16]),
        );
        return contents(
          made,
          Uint8Array.from(tokens, (t, i) => (document[i] !== -1 && keeps(t) ? 1 : 0)),
        );
      });
      await opened(out, async (made) => {
        const found = await contents(made);
        assert.equal(found.mask, expected.mask);
        assert.equal(found, expected);
        assert.equal(await made.verify(), []);
        const { positions, data, shape } = await made.stored('resid/post_emb', 1, 5);
        const width = shape[1] as number;
        const rows = await made.rows('resid/post_emb');
        const [part, entries] = [await made.rows('resid/post_emb', 3, 7), await made.rows(latents, 3, 7)];
        assert.equal(part.data, rows.data.slice(3 * 16 * width, 7 * 16 * width));
        const all = await made.rows(latents);
        const start = all.rowPtr[3 * 16] as bigint;
        assert.equal(
          entries.rowPtr,
          all.rowPtr.slice(3 * 16, 7 * 16 + 1).map((p) => p - start),
        );
        assert.equal(entries.values, all.values.slice(Number(start), Number(all.rowPtr[7 * 16])));
        const flatPositions: number[] = [];
        for (let i = 16; i < 80; i++) if (expected.mask[i] === 1) flatPositions.push(i);
        assert.equal(
          [...positions],
          flatPositions.flatMap((i) => [Math.floor(i / 16), i % 16]),
        );
        flatPositions.forEach((flat, i) => {
          assert.equal(data.subarray(i * width, (i + 1) * width), rows.data.subarray(flat * width, (flat + 1) * width));
        });
      });
      // The file can be read without this package: values lie packed, and `positions` says where they belong.
      let at = 0;
      const stored = expected.mask.reduce((sum, here) => sum + here, 0);
      for (let n = 0; n < 4; n++) {
        const shard = await loadSafetensors(join(out, `shard-0000${n}.safetensors`));
        const [count, two] = (shard.positions as HostTensor).shape as [number, number];
        assert.is(two, 2);
        assert.equal(shard['resid/post_emb']?.shape, [count, 64]);
        assert.equal(shard[`${latents}.row_ptr`]?.shape, [count + 1]);
        at += count;
      }
      assert.is(at, stored);
    }));
}

test('a sample is the same however the dump is made, another for another seed, and as large as it should be', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const sample = { sample: 0.3, locations: ['resid/post_emb'], drop: ['endoftext'] } as const;
    const of = (changes: Partial<DumpOptions>) => ({ ...sample, locations: ['resid/post_emb'], ...changes });
    await dump(options(at('a'), of({ seed: 5 })));
    await dump(options(at('b'), of({ seed: 5, batch: 1, shardTokens: 96 })));
    await dump(options(at('c'), of({ seed: 6 })));
    const stored = (name: string) => opened(at(name), async (made) => made.stored('resid/post_emb'));
    const [a, b, c] = [await stored('a'), await stored('b'), await stored('c')];
    assert.equal(a, b);
    assert.not.equal(a.positions, c.positions);
    await opened(at('a'), async (made) => {
      assert.equal(await made.verify(), []);
      const whole = { name: 'resid/post_emb', indices: [1] };
      await rejects(collate(made, { selections: [whole], out: at('x') }), RangeError, /sample .* no whole texts/);
    });
    const filter = { drop: [], sample: 0.3, context: 100, shardTokens: 100_000 };
    const block = { rows: 1000, tokens: new Int32Array(100_000), lengths: new Int32Array(1000).fill(100) };
    const chosen = [0, 1].map((seed) => storedPositionsOf({ ...filter, seed }, { ...block, number: 0 }));
    for (const { count, flatPositions } of chosen) {
      assert.ok(Math.abs(count - 30_000) < 600, `${count} of 100000`); // four standard deviations
      const even = (flatPositions as Int32Array).filter((flat) => flat % 2 === 0).length;
      assert.ok(Math.abs(even / count - 0.5) < 0.015, `${even} of ${count} are even`);
    }
    const [one, two] = chosen.map(({ flatPositions }) => new Set(flatPositions)) as [Set<number>, Set<number>];
    const both = [...one].filter((flat) => two.has(flat)).length;
    assert.ok(Math.abs(both - 9000) < 400, `${both} are in both`);
  }));

test('a sampled dump that was cut off is finished to the same bytes', () =>
  withFolder(async (folder) => {
    const [whole, cut] = [join(folder, 'whole'), join(folder, 'cut')];
    const changes: Partial<DumpOptions> = { sample: 0.5, statistics: true, dtype: 'int8' };
    await dump(options(whole, changes));
    const stop = new AbortController();
    const onProgress = ({ shards }: { shards: number }) => {
      if (shards === 1) stop.abort(new Error('enough'));
    };
    await rejects(dump(options(cut, { ...changes, signal: stop.signal, onProgress })), /enough/);
    await dump(options(cut, { ...changes, batch: 2 }));
    await assertSameFolder(cut, whole);
    await rejects(dump(options(cut, { ...changes, seed: 3 })), Error, /holds a dump with seed 0, but 3 was asked for/);
    await rejects(dump(options(cut, { dtype: 'int8' })), /a sample of 0\.5, but 1 was asked for/);
  }));

test('records of a dump without padding are those of the whole', () =>
  withFolder(async (folder) => {
    for (const [name, drop] of [
      ['whole', []],
      ['packed', ['padding']],
    ] as const) {
      await dump(options(join(folder, name), { drop }));
      const selections = [
        { name: 'resid/post_emb', indices: [1, 5] },
        { name: latents, indices: 'all' },
      ] as const;
      await opened(join(folder, name), (made) => collate(made, { selections, out: join(folder, 'records', name) }));
    }
    for (const part of ['resid_post_emb/0', 'resid_delta_mlp_latents/1']) {
      await assertSameFolder(join(folder, 'records', 'packed', part), join(folder, 'records', 'whole', part));
    }
  }));

test('positions that do not follow from the tokens are found, and never believed', () =>
  withFolder(async (out) => {
    await dump(options(out, { drop: ['endoftext'], locations: ['resid/post_emb'] }));
    const file = join(out, 'shard-00000.safetensors');
    const original = await readFile(file);
    const { positions } = await loadSafetensors(file);
    const bytes = Buffer.from((positions as { data: Int32Array }).data.buffer);
    const start = original.indexOf(bytes);
    const changed = async (slot: number, row: number, position: number) => {
      const copy = Buffer.from(original);
      copy.writeInt32LE(row, start + 8 * slot);
      copy.writeInt32LE(position, start + 8 * slot + 4);
      await writeFile(file, copy);
      await resealed(out, 0);
    };
    const refused: [slot: number, row: number, position: number, RegExp][] = [
      [0, -1, 0, /positions\[0\] is row -1, position 0, which cannot be/],
      [2, 0, 0, /positions\[2\] is row 0, position 0, which cannot be/],
      [3, 0, 16, /positions\[3\] is row 0, position 16/],
      [5, 2 ** 30, 3, /positions\[5\] is row 1073741824/],
    ];
    for (const [slot, row, position, message] of refused) {
      await changed(slot, row, position);
      await opened(out, async (made) => {
        assert.match((await made.verify())[0]?.problem ?? '', message);
        await rejects(made.rows('resid/post_emb'), message);
      });
    }
    await changed(0, 0, 1); // a position that the filter left out
    await opened(out, async (made) => {
      assert.match((await made.verify())[0]?.problem ?? '', /positions\[0\] (is not one that|.*cannot be)/);
    });
  }));

test.run();
