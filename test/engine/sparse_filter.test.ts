// sparseEncode with its filter (native/cpu/filter.h). Oracle: sparseEncode without it, byte for byte.
import * as assert from 'uvu/assert';
import type { Device } from '../../src/engine/device.js';
import { packWeights } from '../../src/engine/ops/pack_weights.js';
import { type SparseEncodeOptions, type SparseLatents, sparseEncode } from '../../src/engine/ops/sparse_encode.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { testDevice } from '../support/device.js';
import { suite } from '../support/harness.js';
import { floats } from '../support/operations/cases.js';
import { biasOf, bytesOf, matrixOf, neighbour, rowTensor } from '../support/operations/filter_cases.js';
import { type Random, random } from '../support/random.js';

process.env.SONDE_FILTER = '1'; // which a device reads when it is opened

const test = suite('sparse_filter');

// each of the instruction sets that tests run with has other cases
const isas = ['portable', 'avx2', 'avx512'];
const isa = process.env.SONDE_ISA ?? 'native';
const count = Number(process.env.TEST_CASES ?? 4000);
const callsPerMatrix = 10;

/** Shapes of a matrix, and the most rows that are multiplied with it. */
function shapeOf(rng: Random): { k: number; n: number; rows: number } {
  const kind = rng.integer(0, 20);
  if (kind === 0) return { k: rng.pick([767, 768, 769, 1535, 1537, 1700]), n: rng.pick([1, 17, 49, 97]), rows: 17 };
  if (kind === 1) return { k: rng.pick([3, 17, 40]), n: rng.pick([2003, 3001, 5000]), rows: 9 };
  if (kind === 2) return { k: rng.pick([1, 5, 18]), n: rng.pick([7, 50, 100]), rows: 1100 };
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
    const first = 1_000_000 * (1 + isas.indexOf(isa));
    const used = { calls: 0, some: 0, groups: 0, fellBack: 0 };
    for (let seed = first; seed < first + count / callsPerMatrix; seed++) {
      const owned: { dispose(): void }[] = [];
      const own = <T extends { dispose(): void }>(t: T): T => {
        owned.push(t);
        return t;
      };
      let what = '';
      try {
        const rng = random(seed);
        const device = testDevice([1, 2, 4][seed % 3]);
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

/** What `body` gives, and the counts of its only sparseEncode; null where there was no filter. */
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
