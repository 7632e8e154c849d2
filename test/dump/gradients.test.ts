// What a dump stores as gradients. Oracles: the original in PyTorch; the gradients of each row by itself, with the loss
// written out; those of latents in a pass with the autoencoder spliced in; and the same dump without gradients.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { Autoencoder } from '../../src/autoencoder/autoencoder.js';
import { type Dump, openDump } from '../../src/dump/read/reader.js';
import { dump } from '../../src/dump/run.js';
import type { DumpOptions } from '../../src/dump/shards/options.js';
import { openDevice } from '../../src/engine/device.js';
import type { DType } from '../../src/engine/dtype.js';
import { crossEntropy } from '../../src/engine/ops/cross_entropy.js';
import type { Tensor } from '../../src/engine/ops/tensor.js';
import { loadSafetensors } from '../../src/files/safetensors/safetensors.js';
import { TransformerHooks } from '../../src/transformer/hooks.js';
import { expandLocations } from '../../src/transformer/location.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { close, relativeError } from '../support/close.js';
import { withDuckDB } from '../support/duckdb.js';
import { withFolder } from '../support/folders.js';
import { openGolden } from '../support/goldens.js';
import { rejects, suite } from '../support/harness.js';
import { random } from '../support/random.js';
import { plantedGradients, plantedModel, setAt } from './planted.js';

const test = suite('gradients in dumps');
test.limit(180_000);
const device = openDevice('cpu');
const model = await Transformer.load('demo', { device });
const context = 16;

/** Documents that make rows of one token, of a few, and whole ones, in no order of their lengths. */
async function* documents(vocabulary = 50_257) {
  const rng = random(8);
  for (const length of [17, 5, 40, 1, 0, 2, 9, 16, 33, 5]) {
    yield Array.from({ length }, () => rng.integer(0, vocabulary));
  }
}

const request = (out: string, changes: Partial<DumpOptions> = {}): DumpOptions => ({
  ...{ model, corpus: documents(), locations: ['resid/post_emb', '1/mlp/post_act'], out, context, shardTokens: 64 },
  ...{ dtype: 'float32', gradientOf: 'loss', ...changes },
});

const made = (changes: Partial<DumpOptions>, body: (dumped: Dump, out: string) => Promise<void>): Promise<void> =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    await dump(request(out, changes));
    await using dumped = await openDump(out);
    assert.equal(await dumped.verify(), []);
    await body(dumped, out);
  });

/** The tokens of each row, without padding. */
async function rowsOf(dumped: Dump): Promise<number[][]> {
  const { tokens, document } = await dumped.tokens();
  return Array.from({ length: dumped.rowCount }, (_, row) => {
    const at = row * context;
    return [...tokens.subarray(at, at + context)].filter((_, i) => document[at + i] !== -1);
  });
}

test('each location of a model: the gradients of the original in PyTorch', () =>
  withFolder(async (folder) => {
    const golden = await openGolden('tiny');
    const rows = golden.rows('tokens');
    const xf = await Transformer.load(golden.folder, { device });
    const seq = (rows[0] as number[]).length;
    const locations = expandLocations(
      golden.keys
        .filter((key) => key.startsWith('bwd/'))
        .map((key) =>
          key
            .replace('bwd/', '')
            .replace(/resid\.torso\./, 'resid.')
            .replaceAll('.', '/'),
        ),
      xf.config,
    );
    assert.ok(locations.length > 60, String(locations.length));
    async function* corpus() {
      yield* rows;
    }
    const out = join(folder, 'out');
    await dump(request(out, { model: xf, corpus: corpus(), locations, context: seq, batch: 2 }));
    await using dumped = await openDump(out);
    assert.equal(
      dumped.names,
      locations.flatMap((location) => [location, `${location}.gradient`]),
    );
    for (const location of locations) {
      const point = location.replaceAll('/', '.').replace(/resid\.(?!post_emb|ln_f|post_ln_f)/, 'resid.torso.');
      const { data, shape } = await dumped.rows(`${location}.gradient` as string as 'x');
      assert.equal(shape, (await dumped.rows<'x'>(location as 'x')).shape, location);
      // the mean over the rows, where a dump has the loss of each
      golden.agrees(
        `bwd/${point}`,
        data.map((x) => x / rows.length),
        2e-4,
      );
    }
    xf.dispose();
  }));

/** The gradient at a location, where a row goes through the model by itself. */
async function byHand(xf: Transformer, row: readonly number[], location: string): Promise<Float32Array> {
  let seen: Promise<unknown> = Promise.resolve();
  const [, layer, point = location] = /^(\d+)\/(.*)$/.exec(location) ?? [];
  const hooks = new TransformerHooks();
  const path = point.replaceAll('/', '.').replace(/^resid\.(?!post_emb)/, 'resid.torso.');
  hooks.appendToPath(`${path}.bwd`, (gradient, context) => {
    if (String(context.layer) === String(layer)) seen = gradient.read();
  });
  const { logits } = await xf.forward([row], { hooks, grad: true });
  const loss = crossEntropy(logits.slice(1, 0, -1), [row.slice(1)]);
  await loss.backward();
  const gradient = (await seen) as Float32Array;
  logits.dispose();
  loss.dispose();
  return gradient;
}

for (const precision of ['float32', 'bfloat16', 'float16'] as DType[]) {
  test(`${precision}: each row's gradients are those of its own loss, bit for bit; 0 in padding and for one token`, () =>
    withFolder(async (folder) => {
      const xf = await Transformer.load('demo', { device, dtype: precision });
      const out = join(folder, 'out');
      await dump(request(out, { model: xf, dtype: 'float16', batch: 3 }));
      await using dumped = await openDump(out);
      for (const location of ['resid/post_emb', '1/mlp/post_act']) {
        const { data, shape } = await dumped.rows<'x'>(`${location}.gradient` as 'x');
        const width = shape[2] as number;
        let ones = 0;
        for (const [n, row] of (await rowsOf(dumped)).entries()) {
          const own = data.subarray(n * context * width, (n + 1) * context * width);
          if (row.length === 1) ones++;
          if (row.length === 1) assert.ok(own.every((x) => x === 0));
          else {
            const expected = await byHand(xf, row, location);
            assert.ok(expected.some((x) => x !== 0));
            assert.equal(own.slice(0, row.length * width), expected, `${location}, row ${n}`);
            assert.ok(
              own.subarray(row.length * width).every((x) => x === 0),
              'padding',
            );
          }
        }
        assert.ok(ones >= 3, String(ones));
      }
      xf.dispose();
    }));
}

test('everything else is what a dump without gradients stores, bit for bit', () =>
  withFolder(async (folder) => {
    const [plain, out] = [join(folder, 'plain'), join(folder, 'out')];
    const locations = ['*/resid/post_mlp', '0/attn/q', '0/attn/v_out', '1/mlp/pre_act', '1/mlp/post_act', 'logits'];
    const changes = { locations: [...locations, '1/resid/delta_mlp -> ae-resid-delta-mlp'], dtype: 'float16' as const };
    await dump(request(out, { ...changes, corpus: documents() }));
    const { gradientOf: _, ...without } = request(plain, { ...changes, corpus: documents() });
    await dump(without);
    for (const shard of ['shard-00000.safetensors', 'shard-00002.safetensors']) {
      const [a, b] = [await loadSafetensors(join(out, shard)), await loadSafetensors(join(plain, shard))];
      const more = Object.keys(a).filter((name) => !(name in b));
      assert.ok(more.length > 7 && more.every((name) => name.endsWith('.gradient')), more.join());
      assert.ok(more.every((name) => a[name]?.dtype === 'float32'));
      for (const [name, tensor] of Object.entries(b)) assert.equal(a[name], tensor, name);
    }
    const [a, b] = await Promise.all(
      [out, plain].map(async (at) => JSON.parse(await readFile(join(at, 'manifest.json'), 'utf8'))),
    );
    assert.is(a.gradientOf, 'loss');
    assert.is(a.version, 1);
    assert.ok(!('gradientOf' in b));
    const names = (manifest: object) => Object.keys(manifest).filter((name) => name !== 'gradientOf');
    assert.equal(names(a), names(b));
  }));

test('a location with keys: padding has a gradient of 0, and masked entries as well', () =>
  made({ locations: ['0/attn/qk_logits', '1/attn/qk_probs', '1/attn/head_out'], batch: 2 }, async (dumped) => {
    const rows = await rowsOf(dumped);
    const { data, shape } = await dumped.rows('0/attn/qk_logits.gradient');
    assert.equal(shape, [rows.length, context, context, model.config.nHeads]);
    const [, , , heads] = shape as [number, number, number, number];
    let open = 0;
    for (let at = 0; at < data.length; at++) {
      const [key, position, row] = [heads, heads * context, heads * context ** 2].map((n) => Math.floor(at / n));
      const length = (rows[row as number] as number[]).length;
      const isOpen =
        (key as number) % context <= (position as number) % context && (position as number) % context < length;
      if (!isOpen) assert.is(data[at], 0, String(at));
      else if (data[at] !== 0) open++;
    }
    assert.ok(open > 100, String(open));
    const expected = await byHand(model, rows[0] as number[], '1/attn/head_out');
    const { data: first } = await dumped.rows('1/attn/head_out.gradient', 0, 1);
    const error = relativeError(first.subarray(0, expected.length), expected);
    assert.ok(error < 1e-5, String(error)); // attention in steps rounds otherwise
  }));

// ---- latents

/** Of a dump of the latents of `autoencoder` at a location of the model: the stored gradients, beside those of a pass. */
async function compareLatents(xf: Transformer, autoencoder: Autoencoder, location: string): Promise<void> {
  const name = `${location}/latents`;
  async function* corpus() {
    for await (const row of documents(xf.nVocab)) yield row;
  }
  const how = { model: xf, corpus: corpus(), locations: [`${location} -> mine`], autoencoders: { mine: autoencoder } };
  await made({ ...how, batch: 2, threshold: 0.01 }, async (dumped) => {
    assert.equal(dumped.names, [name, `${name}.gradient`]);
    const latents = await dumped.rows<`${string}/latents`>(name as `${string}/latents`);
    const gradients = await dumped.rows<`${string}/latents`>(`${name}.gradient` as `${string}/latents`);
    assert.equal({ ...gradients, values: [] }, { ...latents, values: [] });
    for (const [n, row] of (await rowsOf(dumped)).entries()) {
      if (row.length === 1) continue;
      const loss = ({ logits }: { logits: Tensor }) => crossEntropy(logits.slice(1, 0, -1), [row.slice(1)]);
      const pass = await xf.gradients([row], { of: loss, at: [name], autoencoders: { [location]: autoencoder } });
      const dense = (await (pass.gradients.get(name) as Tensor).read()) as Float32Array;
      const at = row.flatMap((_, position) => {
        const [from, to] = [0, 1].map((d) => Number(latents.rowPtr[n * context + position + d])) as [number, number];
        return [...latents.indices.subarray(from, to)].map(
          (latent, i) => [from + i, position * autoencoder.nLatents + latent] as const,
        );
      });
      assert.ok(at.length > 0, `row ${n}`);
      const stored = at.map(([entry]) => gradients.values[entry] as number);
      const expected = at.map(([, index]) => dense[index] as number);
      const largest = Math.max(...expected.map(Math.abs));
      assert.ok(largest > 0);
      close(stored, expected, { rtol: 1e-4, atol: 1e-4 * largest, label: `row ${n}` });
      for (const tensor of [...pass.values.values(), ...pass.gradients.values()]) tensor.dispose();
    }
  });
}

test('latents of each kind of autoencoder: those of a pass with it spliced in, at the stored entries', async () => {
  const golden = await openGolden('tiny');
  const xf = await Transformer.load(golden.folder, { device });
  for (const kind of ['relu', 'topk', 'identity', 'tied']) {
    using autoencoder = await Autoencoder.load(join(golden.folder, `ae_${kind}.pt`), { device });
    await compareLatents(xf, autoencoder, '1/mlp/post_act');
  }
  const { dModel: nInputs } = xf.config;
  using normalizing = new Autoencoder({ nLatents: 300, nInputs, normalize: true, device, seed: 3 });
  await compareLatents(xf, normalizing, '1/resid/post_mlp');
  using half = new Autoencoder({ nLatents: 80, nInputs, dtype: 'float16', device, seed: 4 });
  await compareLatents(xf, half, '2/resid/delta_mlp');
  xf.dispose();
});

test('what is stored of a location does not depend on the others, autoencoders among them', () =>
  made(
    {
      locations: [
        '0/resid/post_mlp',
        '0/resid/post_mlp -> ae-resid-delta-mlp',
        '1/resid/delta_mlp -> ae-resid-delta-mlp',
      ],
    },
    (all) =>
      made({ locations: ['0/resid/post_mlp'] }, async (one) => {
        assert.equal(await all.rows('0/resid/post_mlp.gradient'), await one.rows('0/resid/post_mlp.gradient'));
      }),
  ));

// ---- together with the other options

test('float32 whatever the dtype; a sample has the gradients of the whole rows', () =>
  made({}, async (whole) => {
    const name = '1/mlp/post_act.gradient';
    const { data, shape } = await whole.rows(name);
    for (const dtype of ['float16', 'bfloat16', 'int8'] as const) {
      await made({ dtype, sample: 0.4, drop: ['padding'], seed: 2 }, async (part) => {
        const stored = await part.stored(name);
        const count = stored.positions.length / 2;
        assert.ok(count > 10 && count < 100, String(count));
        const width = shape[2] as number;
        for (let i = 0; i < count; i++) {
          const [row, position] = [stored.positions[2 * i] as number, stored.positions[2 * i + 1] as number];
          const from = (row * context + position) * width;
          assert.equal(stored.data.slice(i * width, (i + 1) * width), data.slice(from, from + width));
        }
      });
    }
  }));

test('statistics are of gradients as well', () =>
  made(
    { statistics: true, locations: ['1/mlp/post_act', '1/resid/delta_mlp -> ae-resid-delta-mlp'] },
    async (dumped) => {
      const lengths = (await rowsOf(dumped)).map(({ length }) => length);
      const positions = lengths.reduce((sum, length) => sum + length, 0);
      const { data, shape } = await dumped.rows('1/mlp/post_act.gradient');
      const dense = await dumped.statistics('1/mlp/post_act.gradient');
      const width = shape[2] as number;
      assert.is(dense.count, positions);
      for (const neuron of [0, 100, 255]) {
        const all = lengths.flatMap((length, row) =>
          Array.from({ length }, (_, position) => data[(row * context + position) * width + neuron] as number),
        );
        close([dense.mean[neuron] as number], [all.reduce((sum, x) => sum + x, 0) / positions], {
          rtol: 1e-9,
          atol: 1e-15,
        });
        assert.is(dense.active[neuron], all.filter((x) => x !== 0).length);
        assert.is(dense.maximum[neuron], Math.max(...all));
      }
      const sparse = await dumped.statistics('1/resid/delta_mlp/latents.gradient');
      const { indices, values } = await dumped.rows('1/resid/delta_mlp/latents.gradient');
      const sums = new Float64Array(sparse.mean.length);
      for (const [i, latent] of indices.entries()) sums[latent] = (sums[latent] as number) + (values[i] as number);
      close(
        sparse.mean,
        sums.map((sum) => sum / positions),
        { rtol: 1e-9, atol: 1e-15 },
      );
    },
  ));

test('Parquet files have a column of gradients', () =>
  made({ parquet: true, locations: ['1/resid/delta_mlp -> ae-resid-delta-mlp'] }, async (dumped, out) => {
    const name = '1/resid/delta_mlp/latents';
    const { rowPtr, indices, values } = await dumped.rows(name);
    const gradients = await dumped.rows(`${name}.gradient`);
    const expected = Array.from(rowPtr.keys()).flatMap((flat) =>
      flat + 1 === rowPtr.length
        ? []
        : Array.from({ length: Number(rowPtr[flat + 1]) - Number(rowPtr[flat]) }, (_, i) => {
            const at = Number(rowPtr[flat]) + i;
            return { latent: indices[at], value: values[at], gradient: gradients.values[at], position: flat % context };
          }),
    );
    assert.ok(expected.length > 100);
    await withDuckDB(async (query) => {
      const files = `read_parquet('${join(out, 'shard-*.parquet')}')`;
      const order = 'order by row, position, latent';
      assert.equal(await query(`select latent, value, gradient, position from ${files} ${order}`), expected);
    });
  }));

// ---- values that are not finite

test('gradients that are not finite are counted by their name, or refused by it, in int8 as well', () =>
  withFolder(async (folder) => {
    const planted = plantedGradients(model, (tokens, gradients) => {
      for (const [row, own] of tokens.entries()) {
        if (own.length === context) setAt(gradients.get('1/mlp/post_act'), row, 2, 7, Number.NaN);
      }
    });
    for (const dtype of ['float16', 'int8'] as const) {
      const [out, other] = [join(folder, dtype), join(folder, `${dtype}-finite`)];
      const { nonFinite, rows } = await dump(request(out, { model: planted, dtype }));
      await using dumped = await openDump(out);
      const full = (await rowsOf(dumped)).filter(({ length }) => length === context).length;
      assert.ok(full > 2 && full < rows);
      assert.equal(Object.keys(nonFinite), ['1/mlp/post_act.gradient']);
      assert.is(nonFinite['1/mlp/post_act.gradient']?.nan, full);
      assert.equal(await dumped.verify(), []);
      await rejects(
        dump(request(other, { model: planted, dtype, finite: true })),
        RangeError,
        /^dump: 1\/mlp\/post_act\.gradient: NaN is not finite: value 7 at position 2 in document 0 \(row 0, position 2 of shard-00000/,
      );
    }
    const values = plantedModel(model, (_, activations) => setAt(activations.get('1/mlp/post_act'), 0, 0, 0, Infinity));
    await rejects(
      dump({ ...request(join(folder, 'values'), { model: values, finite: true }), gradientOf: undefined as never }),
      RangeError,
      /^dump: 1\/mlp\/post_act: Infinity is not finite: value 0/,
    );
  }));

test.run();
