// matmul against plain loops in doubles; rows must not depend on the batch or the threads, bit for bit.
import * as assert from 'uvu/assert';
import { matmul } from '../../src/engine/ops/matmul.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { testDevice } from '../support/device.js';
import { suite, throws } from '../support/harness.js';
import { cases, product, type Sample, unit } from '../support/operations/cases.js';

const test = suite('matmul');

/** out[batch][m][n] in doubles, and the sum of magnitudes that its rounding errors scale with. */
function oracle(a: Sample, b: Sample, lead: number[], m: number, n: number, k: number, bias?: Sample) {
  const out = new Float64Array(product(lead) * m * n);
  const size = new Float64Array(out.length);
  const offset = (t: Tensor, i: number) => {
    let at = 0;
    let step = product(t.shape.slice(-2));
    for (let d = 1; d <= lead.length; d++) {
      const whole = lead[lead.length - d] as number;
      const own = t.shape[t.shape.length - 2 - d] ?? 1;
      at += own === 1 ? 0 : (i % whole) * step;
      step *= own;
      i = Math.floor(i / whole);
    }
    return at;
  };
  for (let i = 0; i < product(lead); i++) {
    const [p, q] = [offset(a.t, i), offset(b.t, i)];
    for (let r = 0; r < m; r++) {
      for (let c = 0; c < n; c++) {
        let sum = bias ? (bias.x[c] as number) : 0;
        let total = Math.abs(sum);
        for (let j = 0; j < k; j++) {
          const term = (a.x[p + r * k + j] as number) * (b.x[q + j * n + c] as number);
          sum += term;
          total += Math.abs(term);
        }
        out[(i * m + r) * n + c] = sum;
        size[(i * m + r) * n + c] = total;
      }
    }
  }
  return { out, size };
}

test(
  '200 random shapes, strides, dtypes and batches',
  async () => {
    await cases(200, async (c) => {
      const [m, n, k] = c.rng.shape(3, { elements: 60_000 }) as [number, number, number];
      const lead = c.rng.shape(c.rng.integer(0, 3), { max: 4, min: c.rng.next() < 0.1 ? 0 : 1 });
      const own = (shape: number[]) => (c.rng.next() < 0.3 ? [] : shape.map((d) => (c.rng.next() < 0.2 ? 1 : d)));
      const a = await c.tensor([...lead, m, k]);
      const b = await c.tensor([...own(lead), k, n]);
      const bias = c.rng.next() < 0.5 ? await c.tensor([n]) : undefined;
      const transposeB = c.rng.next() < 0.5;
      const dims = [...b.t.shape.keys()];
      const right = transposeB ? b.t.permute([...dims.slice(0, -2), dims.length - 1, dims.length - 2]) : b.t;
      const got = c.own(matmul(a.t, right, { transposeB, ...(bias ? { bias: bias.t } : {}) }));
      assert.equal([...got.shape], [...lead, m, n]);
      const { out, size } = oracle(a, b, lead, m, n, k, bias);
      const values = await got.read();
      for (let i = 0; i < out.length; i++) {
        const allowed = (k + 2) * 2 ** -24 * (size[i] as number) + unit[got.dtype] * Math.abs(out[i] as number) + 1e-7;
        const off = Math.abs((values[i] as number) - (out[i] as number));
        if (!(off <= allowed)) throw new Error(`element ${i}: ${values[i]} but ${out[i]} (${[m, n, k]} of ${lead})`);
      }
    });
  },
  { limit: 120_000 },
);

test('rows are the same bits whatever the batch and the number of threads', async () => {
  const whole = testDevice(1);
  using a = Tensor.randn([53, 211], { seed: 1, device: whole });
  using b = Tensor.randn([211, 1003], { seed: 2, device: whole });
  const expected = await matmul(a, b).read();
  for (const threads of [1, 2, 3, 4]) {
    const device = testDevice(threads);
    using right = Tensor.from(await b.read(), { shape: [211, 1003], device });
    for (const [from, to] of [
      [0, 53],
      [52, 53],
      [3, 10],
      [0, 8],
      [7, 23],
    ] as const) {
      using rows = Tensor.from((await a.read()).slice(from * 211, to * 211), { shape: [to - from, 211], device });
      using got = matmul(rows, right);
      close(await got.read(), expected.slice(from * 1003, to * 1003), { label: `rows ${from} to ${to}` });
    }
  }
});

test('an inner width of more than one block', async () => {
  // fewer rows than a tile has; two tiles and a rest
  for (const rows of [5, 13]) {
    await cases(4, async (c) => {
      const k = 3001;
      const a = await c.tensor([rows, k], { dtype: 'float32' });
      const b = await c.tensor([k, 50], { dtype: 'float32' });
      const { out } = oracle(a, b, [], rows, 50, k);
      close(await c.own(matmul(a.t, b.t)).read(), out, { rtol: 1e-5, atol: 2e-4 });
    });
  }
});

test('out is filled and returned; wrong arguments are refused', async () => {
  using a = Tensor.from([[1, 2]]);
  using b = Tensor.from([
    [3, 4],
    [5, 6],
  ]);
  using out = Tensor.zeros([1, 2]);
  assert.is(matmul(a, b, { out }), out);
  assert.equal([...(await out.read())], [13, 16]);
  using half = Tensor.zeros([1, 2], { dtype: 'float16' });
  assert.equal([...(await matmul(a, b, { out: half }).read())], [13, 16]);
  using wide = Tensor.zeros([4, 128, 768]);
  using wrong = Tensor.zeros([3072, 768]);
  throws(
    () => matmul(wide, wrong),
    RangeError,
    /matmul: b must be \[\.\.\., 768, N\] \(the width of a \[4, 128, 768\]\), but is \[3072, 768\]/,
  );
  throws(() => matmul(a, b, { out: wide }), RangeError, /out must be \[1, 2\] \(the product\)/);
  throws(() => matmul(a, b, { out: a }), RangeError, /out must be apart from a/);
  throws(() => matmul(a, b, { bias: wide }), RangeError, /bias must be \[2\]/);
  throws(
    () => matmul(a, b, { precision: 'fp8' as never }),
    TypeError,
    /matmul: precision must be float32, strict, tf32, bf16, but is 'fp8'/,
  );
  assert.equal([...(await matmul(a, b, { precision: 'bf16' }).read())], [13, 16]);
  using i = Tensor.from([[1]], { dtype: 'int32' });
  throws(() => matmul(i, i), TypeError, /a must be float32, bfloat16 or float16, but is int32/);
  throws(() => matmul(Tensor.zeros([2, 2, 3]), Tensor.zeros([3, 3, 4])), RangeError, /b must be of leading dimensions/);
});

test.run();
