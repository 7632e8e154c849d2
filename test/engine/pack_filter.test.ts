// sparseEncode with its filter (native/cpu/filter.h). Oracle: sparseEncode without it, byte for byte.
import * as assert from 'uvu/assert';
import { type Device, openDevice } from '../../src/engine/device.js';
import { packWeights } from '../../src/engine/ops/pack_weights.js';
import { type SparseEncodeOptions, type SparseLatents, sparseEncode } from '../../src/engine/ops/sparse_encode.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { suite } from '../support/harness.js';
import { floats } from '../support/operations/cases.js';
import { biasOf, bytesOf, matrixOf, neighbour, rowTensor } from '../support/operations/filter_cases.js';
import { type Random, random } from '../support/random.js';

process.env.SONDE_FILTER = '1'; // which a device reads when it is opened

const test = suite('pack_filter');
const cpu = (threads?: number) => openDevice('cpu', threads === undefined ? {} : { threads }); // no GPU has a filter

// instruction_sets/ runs this file with each instruction set, which has cases of its own
const isas = ['', 'portable', 'avx2', 'avx512', 'avx512_bf16'];
const firstSeed = Number(process.env.TEST_SEED ?? 1_000_000 * isas.indexOf(process.env.SONDE_ISA ?? ''));
const count = Number(process.env.TEST_CASES ?? 5000);
const callsPerMatrix = 10;

/** Shapes of a matrix, and the most rows that are multiplied with it. */
function shapeOf(rng: Random): { k: number; n: number; rows: number } {
  const kind = rng.integer(0, 20);
  if (kind === 0) return { k: rng.pick([767, 768, 769, 1535, 1537, 1700]), n: rng.pick([1, 17, 49, 97]), rows: 17 };
  if (kind === 1) return { k: rng.pick([3, 17, 40]), n: rng.pick([2003, 3001, 5000]), rows: 9 };
  // so many rows that top-k makes bounds fine
  if (kind <= 3) return { k: rng.pick([1, 5, 18, 40]), n: rng.pick([7, 50, 100, 150]), rows: 1100 };
  const k = rng.pick([1, 2, 3, 4, 5, 7, 13, 16, 17, 18, 19, 31, 33, 63, 64, 65, 97, 127, 129, 191]);
  return { k, n: rng.pick([1, 2, 3, 5, 7, 15, 16, 17, 23, 47, 48, 49, 97, 191, 193, 385, 521]), rows: 65 };
}

const rowCounts = [1, 1, 1, 2, 3, 5, 6, 7, 8, 9, 12, 13, 16, 17, 31, 64, 65, 1023, 1025, 1100];

/** A threshold: often a value that occurs, or one of the two floats beside it. */
function thresholdOf(rng: Random, values: Float32Array): number {
  const positive = values.filter((v) => v > 0 && v < Infinity);
  const kind = rng.integer(0, 8);
  if (positive.length === 0 || kind === 0) return 0;
  if (kind === 1) return rng.pick([0.5, 3, 1e-45, 1e-40, 3.4e38, 1e300, Infinity]);
  // the larger ones are more awkward, as few sums are above them
  const value = Math.max(rng.pick([...positive.subarray(0, 500)]), rng.pick([...positive.subarray(-500)]));
  return kind < 4 ? value : neighbour(value, kind < 6 ? 1 : -1);
}

const topOf = (rng: Random, n: number) =>
  Math.max(1, Math.min(n, rng.pick([1, 1, 2, 3, 8, 20, Math.ceil(n / 10), Math.ceil(n / 2), n - 1, n])));

test(
  `${count} random cases`,
  async () => {
    const used = { calls: 0, some: 0, groups: 0, fellBack: 0 };
    for (let seed = firstSeed; seed < firstSeed + count / callsPerMatrix; seed++) {
      const owned: { dispose(): void }[] = [];
      const own = <T extends { dispose(): void }>(t: T): T => {
        owned.push(t);
        return t;
      };
      let what = '';
      try {
        const rng = random(seed);
        const device = cpu([1, 2, 4][seed % 3]);
        const { k, n, rows: most } = shapeOf(rng);
        const dtype = rng.pick(floats);
        const w = own(packWeights(own(Tensor.from(matrixOf(rng, k, n), { shape: [k, n], device })), { dtype }));
        const biases = [0, 1, 2].map(() => biasOf(rng, n)).map((b) => b && own(Tensor.from(b, { device })));
        for (let call = 0; call < callsPerMatrix; call++) {
          const rows = rng.pick(rowCounts.filter((count) => count <= most));
          const x = own(rowTensor(rng, device, rows, k, own));
          const bias = rng.pick(biases);
          const options: SparseEncodeOptions = { k: rng.next() < 0.5 ? 0 : topOf(rng, n) };
          if (bias) options.bias = rng.next() < 0.2 ? own(bias.to(rng.pick(floats))) : bias;
          options.relu = options.k === 0 || rng.next() < 0.5;
          const { values } = await sparseEncode(x, w, { ...options, filter: false });
          options.threshold = thresholdOf(rng, values);
          what = `x [${rows}, ${k}] ${x.dtype}, n ${n} ${dtype}, ${JSON.stringify({ ...options, bias: bias?.dtype })}`;
          const expected = await sparseEncode(x, w, { ...options, filter: false });
          const { result, counts } = await filtered(device, () => sparseEncode(x, w, options));
          same(result, expected, what);
          used.calls++;
          if (counts.candidates > 0 && counts.fellBack < counts.groups) used.some++;
          used.groups += counts.groups;
          used.fellBack += counts.fellBack;
          if (rows > 9 || call % 3) continue;
          for (let row = 0; row < rows; row++) {
            const alone = await sparseEncode(x.slice(0, row, row + 1), w, options);
            same(alone, rowOf(expected, row), `${what}, row ${row} alone`);
          }
        }
      } catch (cause) {
        throw new Error(`seed ${seed}, ${what}: ${(cause as Error).message}`, { cause });
      } finally {
        for (const t of owned) t.dispose();
      }
    }
    // both ways are tried
    assert.ok(used.some > used.calls / 5 && used.fellBack > used.groups / 50, JSON.stringify(used));
  },
  { limit: 300_000 },
);

// What rounding to `steps` steps of the largest value, 1, leaves of these is nearly half of one in each channel but the first: its
// product with 63 equal values is as large as the bound says.
const nearHalf = (size: number, steps: number) => [size, ...Array<number>(63).fill((size * 0.4999) / steps)];
const ones = (size: number) => Array<number>(63).fill(size);

// `winner` and `next` are columns: the sum of the first is its upper bound, and that of the second, a little less, its lower bound.
const tight = {
  'the error of the row': (size: number, steps: number) => ({
    row: [...nearHalf(size, steps), 0],
    winner: [0, ...ones(1.001), 0],
    next: [63 / steps, ...ones(-1), 0],
  }),
  'the error of the columns': (size: number, steps: number) => ({
    row: [0, ...ones(size), (63 / steps) * size],
    winner: [...nearHalf(1.001, steps), 0],
    next: [1, ...nearHalf(-1, steps).slice(1), 1],
  }),
};

// bytes, and integers of 16 bits, which take many rows
for (const [title, columns] of Object.entries(tight)) {
  for (const { steps, rows, n } of [
    { steps: 127, rows: 2, n: 150 },
    { steps: 2047, rows: 600, n: 400 },
  ]) {
    test(`${title}, of ${steps} steps: sums as large as their bounds`, async () => {
      for (const size of [1, 3, 1e-6, 1e9]) {
        for (const [at, other] of [
          [0, 1],
          [70, 140],
          [n - 1, 3],
        ] as const) {
          const { row, winner, next } = columns(size, steps);
          const k = row.length;
          const values = new Float32Array(k * n);
          for (const [p, value] of winner.entries()) values[p * n + at] = value;
          for (const [p, value] of next.entries()) values[p * n + other] = value;
          using matrix = Tensor.from(values, { shape: [k, n] });
          using w = packWeights(matrix);
          // the other columns are 0, or far below, and the later ones below the earlier ones
          const lower = size === 1 || size === 1e9 ? 0 : size;
          const biases = Float32Array.from({ length: n }, (_, j) =>
            j === at || j === other ? 0 : -(1000 + j) * lower,
          );
          using bias = Tensor.from(biases);
          // without rows of equal values, all channels that are not 0 might be split off
          const all = Float32Array.from({ length: rows * k }, (_, i) =>
            Math.floor(i / k) % 8 === (rows === 2 ? 1 : 0) ? size : (row[i % k] as number),
          );
          using x = Tensor.from(all, { shape: [rows, k] });
          const first = rows === 2 ? 0 : 1;
          const expected = rowOf(await sparseEncode(x, w, { bias, filter: false }), first);
          const value = expected.values[expected.indices.indexOf(at)] as number;
          const second = expected.values[expected.indices.indexOf(other)] as number;
          assert.ok(value > second && second > 0.99 * value, `${value}, ${second}`);
          for (const options of [{ threshold: neighbour(value, -1) }, { k: 1 }]) {
            const got = await sparseEncode(x, w, { bias, ...options });
            const { indices, values } = rowOf(got, first);
            assert.equal([indices[0], values[0]], [at, value], JSON.stringify({ size, at, ...options }));
            same(got, await sparseEncode(x, w, { bias, ...options, filter: false }), 'all rows');
          }
        }
      }
    });
  }
}

test('more inputs than 32 bits can add up products of: the largest integers in every place', async () => {
  const [rows, n] = [600, 300];
  for (const k of [2049, 4111, 8300]) {
    const rng = random(k);
    const device = cpu(2);
    // every sixth column is 1 as the rows are; the sums of the others are far smaller
    const values = Float32Array.from({ length: k * n }, (_, i) => ((i % n) % 6 === 0 || rng.next() < 0.5 ? 1 : -1));
    using x = Tensor.zeros([rows, k], { device }).fill(1);
    using w = packWeights(Tensor.from(values, { shape: [k, n], device }));
    for (const options of [{ threshold: k - 1 }, { k: 50 }, { k: 60 }]) {
      const expected = await sparseEncode(x, w, { ...options, filter: false });
      assert.is(expected.values[0], k);
      same(await sparseEncode(x, w, options), expected, JSON.stringify({ inputs: k, ...options }));
    }
  }
});

test('what overflows in a bound is not left out, and leaves nothing out', async () => {
  const [k, n] = [3, 40];
  const device = cpu();
  using one = Tensor.zeros([1, k], { device }).fill(1);
  const weights = new Float32Array(k * n).fill(1);
  for (const [p, value] of [Infinity, -Infinity].entries()) weights[p * n + 5] = value;
  using w = packWeights(Tensor.from(weights, { shape: [k, n], device }));
  const indices = async (bias: number, options: SparseEncodeOptions) => {
    const all = new Float32Array(n);
    all[7] = bias;
    using tensor = Tensor.from(all, { device });
    return [...(await sparseEncode(one, w, { bias: tensor, ...options })).indices];
  };
  // a bias above the largest that has a bound
  for (const bias of [-3.4e38, -(2 ** 121), -Infinity]) assert.equal(await indices(bias, { k: 3 }), [0, 1, 5]);
  for (const bias of [3.4e38, 2 ** 121, Infinity, NaN]) assert.equal(await indices(bias, { k: 2 }), [5, 7]);
  // a sum that is NaN, with an infinite upper bound, is above any threshold
  for (const top of [0, 2, n]) assert.equal(await indices(0, { k: top, threshold: Infinity }), [5]);
});

test('the counts: only sums that can pass are computed, and all where that is most of them', async () => {
  const device = cpu(2);
  const [rows, k, n] = [100, 100, 3000];
  using x = Tensor.randn([rows, k], { seed: 1, device });
  using w = packWeights(Tensor.randn([k, n], { seed: 2, device }));
  const counts = async (options: SparseEncodeOptions, at = x) => {
    const { result, counts } = await filtered(device, () => sparseEncode(at, w, options));
    return { active: result.values.length, ...counts };
  };
  // the sums have a standard deviation of 10
  for (const options of [{ threshold: 30 }, { k: 5 }]) {
    const { active, groups, fellBack, candidates } = await counts(options);
    assert.ok(groups > 0, JSON.stringify(options));
    assert.is(fellBack, 0, JSON.stringify(options));
    assert.ok(candidates >= active && candidates < 4 * active && active > 0, `${candidates} for ${active}`);
  }
  const dense = await counts({});
  assert.ok(dense.fellBack > 0 && dense.fellBack <= dense.groups, JSON.stringify(dense));
  using zeros = Tensor.zeros([rows, k], { device });
  const equal = await counts({ k: 5, relu: false }, zeros);
  assert.is(equal.fellBack, equal.groups, JSON.stringify(equal));
  const without = { groups: 0, fellBack: 0, candidates: 0 };
  for (const options of [
    { threshold: 30, filter: false },
    { threshold: 30, relu: false },
    { k: 5, filter: false },
  ]) {
    const { active: _, ...none } = await counts(options);
    assert.equal(none, without, JSON.stringify(options));
  }
  using nothing = Tensor.zeros([0, k], { device });
  const { active: _, ...none } = await counts({}, nothing);
  assert.equal(none, without);
});

test('the memory of a filter is a quarter of the float32 values, is taken once, and ends with the matrix', async () => {
  const device = cpu(3); // no other test's: what they leave to the garbage collector is freed at any time
  const allocated = () => device.memory().allocated;
  const [k, n] = [256, 2048];
  using x = Tensor.randn([4, k], { seed: 1, device });
  using values = Tensor.randn([k, n], { seed: 2, device });
  const before = allocated();
  const w = packWeights(values);
  const packed = allocated();
  await sparseEncode(x, w, { filter: false });
  await sparseEncode(x, w, { relu: false });
  assert.is(allocated(), packed);
  await sparseEncode(x, w);
  const withFilter = allocated();
  assert.ok(withFilter - packed >= k * n && withFilter - packed < 1.2 * k * n, `${withFilter - packed} bytes`);
  await sparseEncode(x, w, { k: 3 });
  assert.is(allocated(), withFilter);
  w.dispose();
  assert.is(allocated(), before);
});

test('where the device decides, fewer than 64 rows make no filter', async () => {
  delete process.env.SONDE_FILTER;
  const device = cpu(5);
  process.env.SONDE_FILTER = '1';
  const [k, n] = [256, 2048];
  using x = Tensor.randn([64, k], { seed: 1, device });
  using values = Tensor.randn([k, n], { seed: 2, device });
  using w = packWeights(values);
  await device.synchronize();
  const packed = device.memory().allocated;
  using few = x.slice(0, 0, 63);
  for (const options of [{}, { k: 3 }]) await sparseEncode(few, w, options);
  assert.is(device.memory().allocated, packed);
  await sparseEncode(x, w, { threshold: 40 });
  const bytes = device.memory().allocated - packed; // 0 where the processor has no fast products of bytes
  assert.ok(bytes === 0 || bytes >= k * n, `${bytes} bytes`);
});

function same(actual: SparseLatents, expected: SparseLatents, what: string): void {
  if (bytesOf(actual).equals(bytesOf(expected))) return;
  assert.equal(actual, expected, what);
  assert.unreachable(`${what}: NaN or zeros differ in their bits`);
}

function rowOf({ rowPtr, indices, values }: SparseLatents, row: number): SparseLatents {
  const [from, to] = [Number(rowPtr[row]), Number(rowPtr[row + 1])];
  return {
    rowPtr: BigInt64Array.of(0n, BigInt(to - from)),
    indices: indices.slice(from, to),
    values: values.slice(from, to),
  };
}

/** What `body` gives, and the counts of its only sparseEncode; all 0 where there was no filter. */
async function filtered<T>(device: Device, body: () => Promise<T>) {
  let result: T | undefined;
  const entries = await device.profile(async () => {
    result = await body();
  });
  const all = entries.filter(({ operation }) => operation === 'sparseEncode');
  assert.is(all.length, 1);
  return { result: result as T, counts: all[0]?.filter ?? { groups: 0, fellBack: 0, candidates: 0 } };
}

test.run();
