// Oracle: the values of a float32 dump, summed in double precision in two passes.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { FeatureStatistics, MergedStatistics, type Statistics } from '../../../src/dump/format/statistics.js';
import { openDump } from '../../../src/dump/read/reader.js';
import { dump } from '../../../src/dump/run.js';
import type { DumpOptions } from '../../../src/dump/shards/options.js';
import type { HostTensor } from '../../../src/files/host_tensor.js';
import { loadSafetensors } from '../../../src/files/safetensors/safetensors.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { close } from '../../support/close.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { random } from '../../support/random.js';
import { contentsOf, resealed, sampleText } from '../folders.js';

const test = suite('statistics');

/** `columns[i]`: all values of feature i. */
function expectedOf(columns: readonly (readonly number[])[]): Statistics {
  const count = columns[0]?.length ?? 0;
  const mean = columns.map((x) => x.reduce((a, b) => a + b, 0) / count);
  return {
    count,
    active: Float64Array.from(columns, (x) => x.filter((v) => v !== 0).length),
    mean: Float64Array.from(mean),
    variance: Float64Array.from(columns, (x, i) => x.reduce((a, v) => a + (v - (mean[i] as number)) ** 2, 0) / count),
    maximum: Float64Array.from(columns, (x) => Math.max(...x)),
  };
}

function same(actual: Statistics, expected: Statistics, rtol = 1e-9): void {
  assert.is(actual.count, expected.count);
  for (const name of ['active', 'mean', 'variance', 'maximum'] as const) {
    close(actual[name], expected[name], { rtol, atol: 1e-12, label: name });
  }
}

test('rows of any length, far from 0, with zeros and negative latents', () => {
  const rng = random(6);
  for (let i = 0; i < 40; i++) {
    const features = rng.integer(1, 40);
    const offset = rng.pick([0, 1, 1000]); // a mean a thousand times the spread
    const [dense, sparse] = [new FeatureStatistics(features), new FeatureStatistics(features)];
    const columns: number[][] = Array.from({ length: features }, () => []);
    const latents: number[][] = Array.from({ length: features }, () => []);
    for (let row = 0; row < rng.integer(1, 9); row++) {
      const seq = rng.integer(1, 40);
      const values = rng.floats(seq * features).map((x) => (rng.next() < 0.2 ? 0 : x + offset));
      const positions = Array.from({ length: seq }, (_, p) => p).filter(() => rng.next() < 0.8);
      for (const p of positions)
        for (let c = 0; c < features; c++) columns[c]?.push(values[p * features + c] as number);
      dense.addDense(values, positions);
      const [indices, active]: [number[], number[]] = [[], []];
      const ranges = Array.from({ length: seq }, () => {
        const from = indices.length;
        const vector = Array.from({ length: features }, () => (rng.next() < 0.1 ? Math.fround(rng.normal()) : 0));
        vector.forEach((x, c) => {
          if (x === 0) return;
          indices.push(c);
          active.push(x);
        });
        return { vector, range: [from, indices.length] as const };
      });
      for (const p of positions) for (let c = 0; c < features; c++) latents[c]?.push(ranges[p]?.vector[c] as number);
      sparse.addSparse(
        Int32Array.from(indices),
        Float32Array.from(active),
        positions.map((p) => ranges[p]?.range as [number, number]),
      );
    }
    if (columns[0]?.length === 0) continue;
    same(dense.finish(), expectedOf(columns), 1e-8);
    same(sparse.finish(), expectedOf(latents));
  }
  const none = new FeatureStatistics(2).finish();
  assert.equal(
    [none.count, ...none.mean, ...none.variance, ...none.maximum],
    [0, NaN, NaN, NaN, NaN, -Infinity, -Infinity],
  );
  const some = new FeatureStatistics(1);
  some.addDense(Float32Array.of(Number.NaN, -3), [1]);
  const merged = new MergedStatistics(1);
  for (const part of [new FeatureStatistics(1).finish(), some.finish(), new FeatureStatistics(1).finish()])
    merged.add(part);
  same(merged.get(), expectedOf([[-3]]));
});

test('values that are not finite: a NaN is the maximum, and the mean is that of a plain sum', () => {
  const [nan, infinite] = [Number.NaN, Infinity];
  // Each column is a feature: finite, NaN, Infinity, both infinities, -Infinity, NaN and a larger value after it.
  const rows = [
    [1, 2, 3, infinite, -1, 4],
    [2, nan, infinite, -infinite, -infinite, nan],
    [3, 1, infinite, 0, -2, 100],
  ];
  const plain = ({ count, active, mean, variance, maximum }: Statistics): number[][] => {
    return [[count], ...[active, mean, variance, maximum].map((values) => [...values])];
  };
  const expected = [
    [3],
    [3, 3, 3, 2, 3, 3],
    [2, nan, infinite, nan, -infinite, nan],
    [2 / 3, nan, nan, nan, nan, nan],
    [3, nan, infinite, infinite, -1, nan],
  ];
  const dense = new FeatureStatistics(6);
  dense.addDense(Float32Array.from(rows.flat()), [0, 1, 2]);
  const byRow = rows.map((row) => {
    const own = new FeatureStatistics(6);
    own.addDense(Float32Array.from(row), [0]);
    return own.finish();
  });
  const merged = new MergedStatistics(6);
  for (const part of byRow) merged.add(part);
  for (const found of [dense.finish(), merged.get()]) assert.equal(plain(found), expected);

  // latents: the same, and zeros where they are not stored
  const sparse = new FeatureStatistics(7);
  sparse.addSparse(Int32Array.from(rows.flatMap(() => [0, 1, 2, 3, 4, 5])), Float32Array.from(rows.flat()), [
    [0, 6],
    [6, 12],
    [12, 18],
    [18, 18],
  ]);
  assert.equal(plain(sparse.finish()), [
    [4],
    [3, 3, 3, 2, 3, 3, 0],
    [1.5, nan, infinite, nan, -infinite, nan, 0],
    [1.25, nan, nan, nan, nan, nan, 0],
    [3, nan, infinite, infinite, 0, nan, 0],
  ]);
});

test('the mean of a long, alternating series stays within 3e-7 of the sum of its magnitudes', () => {
  const rng = random(44);
  const [rows, seq] = [400, 1024];
  const found = new FeatureStatistics(1);
  const positions = Array.from({ length: seq }, (_, p) => p);
  // The exact sum: all values are multiples of 2^-20, and small enough for whole numbers.
  let [sum, magnitudes] = [0n, 0];
  for (let row = 0; row < rows; row++) {
    const values = Float32Array.from({ length: seq }, (_, i) => {
      return (i % 2 === 0 ? 1 : -1) * Math.round(rng.next() * 2 ** 23) * 2 ** (rng.integer(0, 10) - 20);
    });
    for (const x of values) {
      sum += BigInt(x * 2 ** 20);
      magnitudes += Math.abs(x);
    }
    found.addDense(values, positions);
  }
  const { mean, count } = found.finish();
  const error = Math.abs((mean[0] as number) * count - Number(sum) / 2 ** 20);
  assert.ok(error <= 1e-12 * magnitudes, `${error / magnitudes}`); // far below the bound of float32
});

const locations = ['1/mlp/post_act', '2/resid/post_mlp', '1/resid/delta_mlp -> ae-resid-delta-mlp'];
const options = async (out: string, changes: Partial<DumpOptions> = {}): Promise<DumpOptions> => ({
  ...{ model: await Transformer.load('demo'), corpus: sampleText, locations, limit: 1500, context: 32 },
  ...{ shardTokens: 512, statistics: true, out, ...changes },
});

test('of a dump: those of its values before they are rounded, over all shards', () =>
  withFolder(async (folder) => {
    const [exact, out, sampled] = ['exact', 'out', 'sampled'].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    await dump(await options(exact, { dtype: 'float32', statistics: false }));
    await dump(await options(out, { batch: 5 }));
    await dump(await options(sampled, { sample: 0.1, dtype: 'int8' }));
    await using made = await openDump(exact);
    await using with16 = await openDump(out);
    await using few = await openDump(sampled);
    assert.equal([await with16.verify(), await few.verify()], [[], []]);
    const { document } = await made.tokens();
    for (const name of made.names) {
      const rows = await made.rows<string>(name);
      const width = rows.shape.slice(2).reduce((a, b) => a * b, 1);
      const columns: number[][] = Array.from({ length: width }, () => []);
      document.forEach((at, flat) => {
        if (at === -1) return;
        const vector = new Float32Array(width);
        if ('data' in rows) vector.set(rows.data.subarray(flat * width, (flat + 1) * width));
        else {
          for (let i = Number(rows.rowPtr[flat]); i < Number(rows.rowPtr[flat + 1]); i++) {
            vector[rows.indices[i] as number] = rows.values[i] as number;
          }
        }
        for (const [c, x] of vector.entries()) columns[c]?.push(x);
      });
      const expected = expectedOf(columns);
      same(await with16.statistics(name), expected);
      const [one, other] = [await few.statistics(name), await with16.statistics(name)];
      for (const statistic of ['active', 'mean', 'variance', 'maximum'] as const) {
        assert.ok(
          one[statistic].every((x, i) => Object.is(x, other[statistic][i])),
          `${name}: ${statistic}`,
        );
      }
    }
    await rejects(made.statistics('1/mlp/post_act'), /was made without statistics/);
    await rejects(with16.statistics('1/mlp/pre_act'), RangeError, /statistics: .* has no "1\/mlp\/pre_act"; it has/);
    const shard = await loadSafetensors(join(out, 'shard-00001.safetensors'));
    assert.equal(shard['1/mlp/post_act.count']?.data, BigInt64Array.of(512n));
    assert.equal([shard['1/mlp/post_act.mean']?.dtype, shard['1/mlp/post_act.mean']?.shape], ['float64', [256]]);
  }));

test('statistics that cannot be are found', () =>
  withFolder(async (out) => {
    await dump(await options(out, { limit: 300 }));
    const file = join(out, 'shard-00000.safetensors');
    const original = await readFile(file);
    const shard = await loadSafetensors(file);
    const changed = async (name: string, bytes: Buffer) => {
      const { data } = shard[name] as HostTensor;
      const copy = Buffer.from(original);
      copy.set(bytes, original.indexOf(Buffer.from(data.buffer, data.byteOffset, data.byteLength)));
      await writeFile(file, copy);
      await resealed(out, 0);
      await using made = await openDump(out);
      return (await made.verify()).map(({ problem }) => problem);
    };
    const count = (n: bigint) => Buffer.from(BigInt64Array.of(n).buffer);
    const [location, latents] = ['2/resid/post_mlp', '1/resid/delta_mlp/latents'];
    assert.equal(await changed(`${latents}.active`, count(301n)), [
      `${latents}: the statistics of feature 0 cannot be`,
    ]);
    assert.equal(await changed(`${location}.variance`, Buffer.from(Float64Array.of(-1).buffer)), [
      `${location}: the statistics of feature 0 cannot be`,
    ]);
  }));

/** Documents of awkward lengths, so that rows are not computed in their order. */
async function* documents() {
  const rng = random(12);
  for (const length of [3, 32, 9, 40, 1, 31, 17, 70, 5, 32, 2, 12]) {
    yield Array.from({ length }, () => rng.integer(0, 50_257));
  }
}

test('no bit depends on how many rows are computed at a time, and what is stored is not changed', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const make = async (name: string, changes: Partial<DumpOptions>) =>
      dump(await options(at(name), { corpus: documents(), ...changes }));
    for (const batch of [1, 3, 16]) await make(`batch-${batch}`, { batch });
    assert.equal(await contentsOf(at('batch-1')), await contentsOf(at('batch-3')));
    assert.equal(await contentsOf(at('batch-1')), await contentsOf(at('batch-16')));
    await make('without', { statistics: false });
    await using one = await openDump(at('batch-1'));
    await using other = await openDump(at('without'));
    for (const name of one.names) assert.equal(await one.rows<string>(name), await other.rows<string>(name));
  }));

test('a NaN has the same bits on every processor', () => {
  // what JavaScript makes of NaN and of infinities has another sign on x86 than on arm64
  const statistics = new FeatureStatistics(3);
  const ranges = [[0, 3] as const, [3, 3] as const]; // the second position has none
  statistics.addSparse(Int32Array.of(0, 1, 2), Float32Array.of(Number.NaN, Number.POSITIVE_INFINITY, 1), ranges);
  statistics.addDense(Float32Array.of(1, Number.NEGATIVE_INFINITY, 1), [0]);
  const found = statistics.finish();
  const merged = new MergedStatistics(3);
  for (let i = 0; i < 2; i++) merged.add(found);
  let seen = 0;
  for (const { mean, variance, maximum } of [found, merged.get()]) {
    for (const values of [mean, variance, maximum]) {
      const words = new BigUint64Array(values.buffer, values.byteOffset, values.length);
      for (const [j, x] of values.entries()) {
        if (!Number.isNaN(x)) continue;
        assert.is(words[j]?.toString(16), '7ff8000000000000');
        seen++;
      }
    }
  }
  assert.ok(seen >= 8, `${seen} NaN`);
});

test.run();
