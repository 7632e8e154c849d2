// Oracle: all values of a small dump at once, as dense rows in double precision, sorted and summed up by definition.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { activations } from '../../../src/autoencoder/activation.js';
import { Autoencoder } from '../../../src/autoencoder/autoencoder.js';
import type { Manifest } from '../../../src/dump/format/manifest.js';
import { Dump, openDump, type SparseRows } from '../../../src/dump/read/reader.js';
import { type CollateOptions, collate, collateWithin } from '../../../src/dump/report/collate.js';
import type { CollateProgress } from '../../../src/dump/report/scan_progress.js';
import { dump } from '../../../src/dump/run.js';
import {
  type ActivationRecord,
  loadNeuronRecord,
  type NeuronRecord,
} from '../../../src/files/neuron_record/neuron_record.js';
import { openStore } from '../../../src/files/store/open_store.js';
import { gpt2Tokenizer } from '../../../src/files/tokenizer/tokenizer.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { close } from '../../support/close.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';

const test = suite('collate');
const model = await Transformer.load('demo');
const context = 8;
const neurons = '1/mlp/post_act';
const latents = '1/resid/delta_mlp/latents';

// No two rows are alike, and most documents end in a shorter row.
async function* documents() {
  for (let i = 0; i < 9; i++)
    yield `${i % 3 ? 'A windy' : 'One 🙂'} day ${i}: it ${i} moved ${'very '.repeat(i % 4)}old ${i} trees.`;
}

type Body = (made: Dump, folder: string) => Promise<void>;

const withDump = (body: Body): Promise<void> =>
  withFolder(async (folder) => {
    const locations = [
      neurons,
      '0/attn/v',
      'resid/post_emb',
      '0/attn/qk_probs',
      '1/resid/delta_mlp -> ae-resid-delta-mlp',
    ];
    const out = join(folder, 'dump');
    await dump({ model, corpus: documents(), locations, out, context, shardTokens: 40 });
    await using made = await openDump(out);
    assert.ok(made.shards.length >= 4);
    await body(made, folder);
  });

interface Whole {
  readonly texts: string[][];
  /** The value of a feature, by row and position, where there are tokens. */
  value(row: number, position: number, feature: number): number;
}

async function wholeOf(made: Dump, name: string): Promise<Whole> {
  const [rows, { tokens, document }] = [await made.rows<string>(name), await made.tokens()];
  const width = rows.shape.slice(2).reduce((product, n) => product * n, 1);
  const data = 'data' in rows ? rows.data : densified(rows);
  const texts = Array.from({ length: made.rowCount }, (_, r) => {
    const positions = [...Array(context).keys()].filter((p) => document[r * context + p] !== -1);
    return positions.map((p) => gpt2Tokenizer().decode([tokens[r * context + p] as number]));
  });
  return { texts, value: (r, p, feature) => data[(r * context + p) * width + feature] as number };
}

function densified({ shape, rowPtr, indices, values }: SparseRows): Float32Array {
  const width = shape[2] as number;
  const data = new Float32Array((rowPtr.length - 1) * width);
  for (let at = 0; at < rowPtr.length - 1; at++) {
    for (let i = Number(rowPtr[at]); i < Number(rowPtr[at + 1]); i++) {
      data[at * width + (indices[i] as number)] = values[i] as number;
    }
  }
  return data;
}

/** Every row as a record. */
const rowsOf = ({ texts, value }: Whole, feature: number): ActivationRecord[] =>
  texts.map((tokens, r) => ({ tokens, activations: tokens.map((_, p) => value(r, p, feature)) }));

function checkMoments({ mean, variance, skewness, kurtosis }: NeuronRecord, rows: ActivationRecord[]): void {
  const values = rows.flatMap(({ activations }) => activations);
  const average = (list: number[]): number => list.reduce((sum, x) => sum + x, 0) / list.length;
  const middle = average(values);
  const central = (power: number): number => average(values.map((x) => (x - middle) ** power));
  const [m2, m3, m4] = [central(2), central(3), central(4)];
  const expected = m2 === 0 ? [middle, 0, NaN, NaN] : [middle, m2, m3 / m2 ** 1.5, m4 / m2 ** 2];
  close(
    [mean, variance, skewness, kurtosis].map((x) => x ?? NaN),
    expected,
    { rtol: 1e-10, atol: 1e-13 },
  );
}

function checkTop({ mostPositiveActivationRecords }: NeuronRecord, rows: ActivationRecord[], top: number): void {
  const largest = rows.map(({ activations }) => Math.max(...activations));
  const order = [...rows.keys()].sort((a, b) => (largest[b] as number) - (largest[a] as number) || a - b);
  assert.equal(
    mostPositiveActivationRecords,
    order.slice(0, top).map((row) => rows[row]),
  );
}

/** The rows that a random sample shows, each of which must be one of the dump's. */
function randomOf({ randomSample }: NeuronRecord, rows: ActivationRecord[]): number[] {
  const numbers = new Map(rows.map((row, i) => [JSON.stringify(row), i]));
  return randomSample.map((record) => {
    const { tokens, activations } = record;
    const row = numbers.get(JSON.stringify({ tokens, activations }));
    assert.ok(row !== undefined, 'a random record is no row of the dump');
    return row as number;
  });
}

test('latents that may be negative', () =>
  withFolder(async (folder) => {
    using identical = new Autoencoder({
      nLatents: 20,
      nInputs: model.config.dModel,
      activation: activations.identity(),
      seed: 4,
    });
    const name = '1/resid/post_mlp/latents';
    const [out, records] = [join(folder, 'dump'), join(folder, 'records')];
    await dump({
      model,
      corpus: documents(),
      locations: '1/resid/post_mlp -> mine',
      autoencoders: { mine: identical },
      threshold: 3,
      out,
      context,
      shardTokens: 40,
    });
    await using made = await openDump(out);
    const all = await made.rows(name);
    assert.ok(all.values.some((x) => x < 0) && all.values.some((x) => x > 0), 'both signs are there');
    await collate(made, { selections: [{ name, indices: 'all' }], out: records, top: 1000, random: 2 });
    const whole = await wholeOf(made, name);
    for (let latent = 0; latent < 20; latent++) {
      const record = await loadNeuronRecord(join(records, 'resid_post_mlp_latents/1', `${latent}.json`));
      const rows = rowsOf(whole, latent);
      checkMoments(record, rows);
      checkTop(record, rows, rows.length);
    }
  }));

test('dense, in heads and sparse: as computed from everything at once', () =>
  withDump(async (made, folder) => {
    const out = join(folder, 'records');
    const selections = [
      { name: neurons, indices: 'all' },
      { name: '0/attn/v', indices: [63, 0, 17, 17] },
      { name: 'resid/post_emb', indices: [5] },
      { name: latents, indices: 'all' },
    ] as const;
    const { width, texts } = {
      width: { [neurons]: 256, [latents]: 0 } as Record<string, number>,
      texts: new Set<string>(),
    };
    width[latents] = (await made.rows(latents, 0, 1)).shape[2] as number;
    const result = await collate(made, { selections, out, top: 5, random: 4 });
    assert.is(result.rows, made.rowCount);
    const folders: Record<string, string> = {
      [neurons]: 'mlp_post_act/1',
      '0/attn/v': 'attn_v/0',
      'resid/post_emb': 'resid_post_emb/0',
      [latents]: 'resid_delta_mlp_latents/1',
    };
    let records = 0;
    for (const { name, indices } of selections) {
      const whole = await wholeOf(made, name);
      assert.ok(whole.texts.some((tokens) => tokens.length < context));
      const features = indices === 'all' ? [...Array(width[name] as number).keys()] : [...new Set(indices)];
      assert.is((await readdir(join(out, folders[name] as string))).length, features.length);
      for (const feature of features) {
        const record = await loadNeuronRecord(join(out, folders[name] as string, `${feature}.json`));
        const rows = rowsOf(whole, feature);
        assert.equal(record.neuronId, { layerIndex: name.startsWith('1/') ? 1 : 0, neuronIndex: feature });
        assert.equal([record.quantileBoundaries, record.randomSampleByQuantile], [null, null]);
        checkMoments(record, rows);
        checkTop(record, rows, 5);
        const sample = randomOf(record, rows);
        assert.is(new Set(sample).size, 4);
        texts.add(sample.join());
        records++;
      }
    }
    assert.is(result.records, records);
    assert.ok(texts.size > records / 2, 'neurons share their random samples');
  }));

const filesOf = async (folder: string): Promise<Map<string, string>> => {
  const names = (await readdir(folder, { recursive: true })).filter((name) => name.endsWith('.json')).sort();
  return new Map(
    await Promise.all(names.map(async (name) => [name, await readFile(join(folder, name), 'utf8')] as const)),
  );
};

const selections = [
  { name: neurons, indices: [0, 1, 2, 3, 100, 255] },
  { name: latents, indices: [...Array(40).keys()] },
];

test('the number of rows that are read at a time has no influence; the seed has', () =>
  withDump(async (made, folder) => {
    const options = (out: string, more: Partial<CollateOptions> = {}): CollateOptions => ({
      selections,
      out: join(folder, out),
      top: 3,
      random: 3,
      ...more,
    });
    await collate(made, options('a'));
    const expected = await filesOf(join(folder, 'a'));
    assert.is(expected.size, 46);
    for (const limit of [1, 3 * context * 256 * 4, 2 ** 20]) {
      const limits = { chunkBytes: limit, fetchBytes: limit, choices: Math.min(limit, 2 ** 10) };
      await collateWithin(limits, made, options(`with ${limit}`));
      assert.equal(await filesOf(join(folder, `with ${limit}`)), expected);
    }
    await collate(made, options('a'));
    assert.equal(await filesOf(join(folder, 'a')), expected);
    await collate(made, options('a', { seed: 1 }));
    const other = await filesOf(join(folder, 'a'));
    for (const [name, text] of expected) {
      const [a, b] = [JSON.parse(text), JSON.parse(other.get(name) as string)];
      assert.equal({ ...a, random_sample: [] }, { ...b, random_sample: [] });
    }
    assert.not.equal(other, expected);
  }));

test('more rows asked for than there are, and none', () =>
  withDump(async (made, folder) => {
    const rows = rowsOf(await wholeOf(made, neurons), 7);
    const selections = [
      { name: neurons, indices: [7] },
      { name: latents, indices: [7] },
    ];
    await collate(made, { selections, out: folder, top: 1000, random: 1000 });
    const record = await loadNeuronRecord(join(folder, 'mlp_post_act', '1', '7.json'));
    checkTop(record, rows, rows.length);
    assert.equal(
      randomOf(record, rows).sort((a, b) => a - b),
      [...rows.keys()],
    );
    await collate(made, { selections, out: folder, top: 0, random: 0 });
    for (const location of ['mlp_post_act', 'resid_delta_mlp_latents']) {
      const none = await loadNeuronRecord(join(folder, location, '1', '7.json'));
      assert.equal([none.randomSample, none.mostPositiveActivationRecords], [[], []]);
    }
    checkMoments(await loadNeuronRecord(join(folder, 'mlp_post_act', '1', '7.json')), rows);
  }));

/** Records the ranges of rows that are read, and checks that there is one reading at a time. */
function watched(made: Dump): { ranges: [number, number][] } {
  const ranges: [number, number][] = [];
  const rows = made.rows.bind(made) as (name: string, from?: number, to?: number) => Promise<never>;
  let reading = 0;
  made.rows = async (name: string, from = 0, to = made.rowCount) => {
    ranges.push([from, to]);
    assert.is(++reading, 1);
    return await rows(name, from, to).finally(() => reading--);
  };
  return { ranges };
}

test('rows are read in small chunks: all once, then those that were chosen, in order', () =>
  withDump(async (made, folder) => {
    for (const name of [neurons, latents]) {
      const width = name === neurons ? 256 * 4 : ((await made.rows(latents, 0, 1)).shape[2] as number) * 8 + 8;
      const limits = { chunkBytes: 2 * context * width, fetchBytes: 2 ** 26, choices: 2 ** 22 };
      const { ranges } = watched(made);
      await collateWithin(limits, made, { selections: [{ name, indices: [2, 9] }], out: folder, top: 2, random: 1 });
      const firstPass = Math.ceil(made.rowCount / 2);
      assert.equal(
        ranges.slice(0, firstPass),
        Array.from({ length: firstPass }, (_, i) => [2 * i, Math.min(2 * i + 2, made.rowCount)]),
      );
      const chosen = ranges.splice(0).slice(firstPass);
      const read = chosen.flatMap(([from, to]) => Array.from({ length: to - from }, (_, i) => from + i));
      assert.ok(read.length >= 2 && read.length <= 6);
      assert.ok(read.every((row, i) => i === 0 || row > (read[i - 1] as number)));
      const all = { selections: [{ name, indices: [2, 9] }], out: folder, top: 1000, random: 0 };
      await collateWithin(limits, made, all);
      assert.equal(ranges.slice(firstPass), ranges.slice(0, firstPass));
    }
  }));

test('neurons that do not fit into memory at once are done in several rounds', () =>
  withDump(async (made, folder) => {
    const { ranges } = watched(made);
    const limits = { chunkBytes: 2 ** 25, fetchBytes: 2 ** 26, choices: 3 * 10 };
    const indices = [0, 1, 2, 3, 4, 5, 6];
    const seen: CollateProgress[] = [];
    const onProgress = (progress: CollateProgress) => seen.push(progress);
    const options = { selections: [{ name: neurons, indices }], out: folder, top: 2, random: 0, onProgress };
    await collateWithin(limits, made, options);
    assert.is(ranges.filter(([from, to]) => from === 0 && to === made.rowCount).length, 3);
    const { tokensPerSecond, ...last } = seen.at(-1) as CollateProgress;
    assert.ok(tokensPerSecond > 0);
    const tokens = 3 * made.tokenCount;
    assert.equal(last, { tokens, totalTokens: tokens, records: 7, totalRecords: 7 });
    assert.ok(seen.every((now, i) => i === 0 || now.tokens >= (seen[i - 1]?.tokens ?? 0)));
  }));

test('stopping between two steps leaves whole files only', () =>
  withDump(async (made, folder) => {
    const reason = new Error('enough');
    const out = join(folder, 'records');
    await rejects(collate(made, { selections, out, signal: AbortSignal.abort(reason) }), Error, /enough/);
    for (const when of ['tokens', 'records'] as const) {
      const controller = new AbortController();
      const onProgress = (progress: CollateProgress) => {
        if (progress[when] > 0) controller.abort(reason);
      };
      const options = { selections: selections.slice(1), out, onProgress, signal: controller.signal };
      await rejects(collate(made, options), Error, /enough/);
      const files = await readdir(out, { recursive: true }).catch(() => []);
      assert.is(files.filter((name) => name.endsWith('.json')).length, when === 'tokens' ? 0 : 8);
      assert.is(files.filter((name) => name.endsWith('.partial')).length, 0);
    }
  }));

test('a selection that cannot be collated is refused before anything is read', () =>
  withDump(async (made, folder) => {
    const { ranges } = watched(made);
    const of = (name: string, indices: readonly number[] | 'all' = [0]) => ({ selections: [{ name, indices }] });
    const refused: [Partial<CollateOptions>, typeof RangeError | typeof TypeError, RegExp][] = [
      [of('1/mlp/pre_act'), RangeError, /has no "1\/mlp\/pre_act"; it has resid\/post_emb, 0\/attn\/v/],
      [of('0/attn/qk_probs'), RangeError, /0\/attn\/qk_probs has a value for each pair of tokens/],
      [of(neurons, [3, 256]), RangeError, /1\/mlp\/post_act has indices from 0 to 255, but 256 is asked for/],
      [of(neurons, [-1]), RangeError, /from 0 to 255, but -1/],
      [of(neurons, [1.5]), RangeError, /from 0 to 255, but 1.5/],
      [of(neurons, []), TypeError, /indices of 1\/mlp\/post_act must be a list of one number at least, or 'all'/],
      [of(neurons, '5' as 'all'), TypeError, /must be a list/],
      [{ selections: [] }, RangeError, /selections must name one at least/],
      [{ top: 1001 }, RangeError, /top must be a whole number from 0 to 1000, but is 1001/],
      [{ random: -1 }, RangeError, /random must be/],
      [{ seed: 0.5 }, RangeError, /seed must be/],
      [{ out: '' }, TypeError, /out must be the path of a folder/],
    ];
    for (const [options, kind, message] of refused) {
      await rejects(collate(made, { ...of(neurons), out: join(folder, 'x'), ...options }), kind, message);
    }
    const changed = (change: Partial<Manifest>) => new Dump(openStore(made.folder), { ...made.manifest, ...change });
    const options = { ...of(neurons), out: join(folder, 'x') };
    await rejects(collate(changed({ shards: [] }), options), Error, /collate: .*dump has no rows/);
    const outside = { location: '../../mlp/post_act', shape: [context, 256] };
    await rejects(
      collate(changed({ locations: [outside] }), { ...options, ...of(outside.location) }),
      Error,
      /not known/,
    );
    assert.equal(ranges, []);
    assert.equal(await readdir(folder), ['dump']);
  }));

test('a dump that is broken inside, and a disk that refuses, are errors in words', () =>
  withDump(async (made, folder) => {
    const rows = made.rows.bind(made);
    const tokens = made.tokens.bind(made);
    const options = { selections: [{ name: latents, indices: [0] }], out: folder };
    for (const wrong of [-1, 2 ** 20]) {
      made.rows = async (_name: never, from?: number, to?: number) => {
        const found = (await rows(latents, from, to)) as SparseRows;
        found.indices[1] = wrong;
        return found as never;
      };
      await rejects(
        collate(made, options),
        Error,
        /1\/resid\/delta_mlp\/latents is broken in row 0: its latents must asc/,
      );
    }
    made.rows = rows;
    made.tokens = async (from, to) => {
      const found = await tokens(from, to);
      found.tokens[0] = 60_000;
      return found;
    };
    await rejects(collate(made, options), Error, /row \d+ is no text: .*token 0 must be .* but is 60000/);
    made.tokens = tokens;
    const taken = join(made.folder, 'manifest.json');
    await rejects(collate(made, { ...options, out: taken }), Error, /collate: cannot write .*0\.json: /);
  }));

test.run();
