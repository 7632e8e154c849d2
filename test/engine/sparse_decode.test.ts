// sparseDecode against loops in doubles.
import { DeviceError } from '../../src/engine/errors.js';
import { packWeights } from '../../src/engine/ops/pack_weights.js';
import { sparseDecode } from '../../src/engine/ops/sparse_decode.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { testDevice } from '../support/device.js';
import { rejects, suite, throws } from '../support/harness.js';
import { cases } from '../support/operations/cases.js';
import { random } from '../support/random.js';

const test = suite('sparse_decode');

test(
  '200 random sparse rows decoded',
  async () => {
    await cases(200, async (c) => {
      const [rows, k, n] = c.rng.shape(3, { elements: 30_000 }) as [number, number, number];
      const w = await c.tensor([k, n]);
      const bias = c.rng.next() < 0.5 ? await c.tensor([n], { dtype: 'float32' }) : undefined;
      const rowPtr = [0n];
      const indices: number[] = [];
      for (let row = 0; row < rows; row++) {
        for (let j = 0; j < k; j++) if (c.rng.next() < 0.2) indices.push(j);
        rowPtr.push(BigInt(indices.length));
      }
      const values = c.rng.floats(indices.length);
      const sparse = { rowPtr: BigInt64Array.from(rowPtr), indices: Int32Array.from(indices), values };
      const packed = c.own(packWeights(w.t));
      const got = c.own(sparseDecode(sparse, packed, { dtype: 'float32', ...(bias ? { bias: bias.t } : {}) }));
      const expected = new Float64Array(rows * n);
      for (let row = 0; row < rows; row++) {
        for (let j = 0; j < n; j++) {
          let sum = bias ? (bias.x[j] as number) : 0;
          for (let i = Number(rowPtr[row]); i < Number(rowPtr[row + 1]); i++) {
            sum += (values[i] as number) * (w.x[(indices[i] as number) * n + j] as number);
          }
          expected[row * n + j] = sum;
        }
      }
      close(await got.read(), expected, { rtol: 1e-5, atol: 2e-5 });
    });
  },
  { limit: 120_000 },
);

test('decoded rows are the same bits whatever the batch and the number of threads', async () => {
  const [rows, k, n] = [150, 301, 517];
  const rng = random(5);
  const each = Array.from({ length: rows }, () => Array.from({ length: rng.integer(0, 30) }, () => rng.integer(0, k)));
  const values = rng.floats(each.flat().length);
  const start = (row: number) => each.slice(0, row).flat().length;
  const part = (from: number, to: number) => {
    const indices = Int32Array.from(each.slice(from, to).flat());
    const rowPtr = new BigInt64Array(to - from + 1);
    for (let row = from; row < to; row++) {
      rowPtr[row - from + 1] = (rowPtr[row - from] as bigint) + BigInt((each[row] as number[]).length);
    }
    return { rowPtr, indices, values: values.slice(start(from), start(to)) };
  };
  for (const dtype of ['float32', 'bfloat16', 'float16'] as const) {
    let expected: Float32Array | undefined;
    for (const threads of [1, 2, 3, 4]) {
      const device = testDevice(threads);
      using w = Tensor.randn([k, n], { seed: 6, device });
      using packed = packWeights(w, { dtype });
      for (const [from, to] of [
        [0, rows],
        [0, 1],
        [63, 65],
        [70, 149],
      ] as const) {
        using got = sparseDecode(part(from, to), packed, { dtype: 'float32' });
        const bits = (await got.read()) as Float32Array;
        expected ??= bits;
        close(bits, expected.slice(from * n, to * n), { label: `${dtype}, ${threads} threads, rows ${from} to ${to}` });
      }
    }
  }
});

test('broken sparse rows are refused', async () => {
  using w = packWeights(Tensor.zeros([4, 3]));
  const rows = (pointers: bigint[], indices: number[]) => ({
    rowPtr: BigInt64Array.from(pointers),
    indices: Int32Array.from(indices),
    values: new Float32Array(indices.length),
  });
  throws(() => sparseDecode(rows([], []), w), RangeError, /rows \+ 1 pointers/);
  throws(() => sparseDecode(rows([0n, 2n], [1]), w), RangeError, /rows \+ 1 pointers/);
  await rejects(
    sparseDecode(rows([0n, 1n], [4]), w).read(),
    DeviceError,
    /sparseDecode: index 4 of entry 0 is outside \[0, 4\)/,
  );
  await rejects(
    sparseDecode(rows([0n, 2n, 1n], [1]), w).read(),
    DeviceError,
    /sparseDecode: row_ptr of row 0 must rise/,
  );
});

test.run();
