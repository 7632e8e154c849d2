// linear with packed weights against plain loops in doubles, and its activations against their formulas.
import * as assert from 'uvu/assert';
import { type Activation, linear } from '../../src/engine/ops/linear.js';
import { matmul } from '../../src/engine/ops/matmul.js';
import { packWeights } from '../../src/engine/ops/pack_weights.js';
import type { Precision } from '../../src/engine/ops/product.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { onCpu, testDevice } from '../support/device.js';
import { suite, throws } from '../support/harness.js';
import { cases, eachRow, unit } from '../support/operations/cases.js';

const test = suite('linear');

const gelu = (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const functions: Record<Activation, (x: number) => number> = { none: (x) => x, relu: (x) => Math.max(x, 0), gelu };

test(
  '200 random shapes, dtypes, activations and residuals',
  async () => {
    await cases(200, async (c) => {
      const [k, n] = c.rng.shape(2, { elements: 6000 }) as [number, number];
      const lead = c.rng.shape(c.rng.integer(1, 3), { max: 30, elements: 300 });
      const x = await c.tensor([...lead, k]);
      const w = await c.tensor([k, n]);
      const bias = c.rng.next() < 0.5 ? await c.tensor([n]) : undefined;
      const activation = c.rng.pick(['none', 'relu', 'gelu'] as const);
      const packed = c.own(packWeights(w.t));
      const dtype = c.rng.next() < 0.3 ? c.rng.pick(['float32', 'float16'] as const) : x.t.dtype;
      const into = dtype !== x.t.dtype || c.rng.next() < 0.3;
      const out = into ? await c.tensor([...lead, n], { dtype, strided: false }) : undefined;
      const inPlace = c.rng.next() < 0.5 ? out : undefined;
      const residual = c.rng.next() < 0.4 ? (inPlace ?? (await c.tensor([...lead, n], { dtype }))) : undefined;
      const got = c.own(
        linear(x.t, packed, {
          activation,
          ...(out ? { out: out.t } : {}),
          ...(bias ? { bias: bias.t } : {}),
          ...(residual ? { residual: residual.t } : {}),
        }),
      );
      assert.is(got.dtype, dtype);
      const values = await got.read();
      eachRow([...lead, n], (row, offset) => {
        for (let j = 0; j < n; j++) {
          let sum = bias ? (bias.x[j] as number) : 0;
          let size = Math.abs(sum);
          for (let i = 0; i < k; i++) {
            const term = (x.x[row * k + i] as number) * (w.x[i * n + j] as number);
            sum += term;
            size += Math.abs(term);
          }
          const added = residual?.x[offset + j] ?? 0;
          const activated = functions[activation](sum);
          const expected = activated + added;
          const rounded = Math.abs(activated) + (residual ? Math.abs(expected) : 0);
          const allowed = (k + 4) * 2 ** -23 * size + (unit[got.dtype] + 2 ** -21) * rounded + 1e-6;
          const actual = values[offset + j] as number;
          if (!(Math.abs(actual - expected) <= allowed))
            throw new Error(`row ${row}, column ${j}: ${actual}, but ${expected}`);
        }
      });
    });
  },
  { limit: 120_000 },
);

test('equals matmul with the plain matrix, bit for bit, for any rows and threads', async () => {
  for (const threads of [1, 2, 3]) {
    const device = testDevice(threads);
    using w = Tensor.randn([100, 517], { seed: 3, device });
    using packed = packWeights(w);
    for (const rows of [1, 2, 7, 8, 9, 97, 1030]) {
      using x = Tensor.randn([rows, 100], { seed: 4, device });
      using a = linear(x, packed);
      using b = matmul(x, w);
      close(await a.read(), await b.read());
    }
  }
});

test(
  'rows are the same bits whatever the batch and the threads, for every dtype and activation',
  async () => {
    // more rows than are packed at a time, by one thread, too; deeper and wider than a block
    for (const [rows, k, n] of [
      [1030, 37, 101],
      [67, 1601, 423],
      [460, 803, 17],
    ] as const) {
      for (const [i, dtype] of (['float32', 'bfloat16', 'float16'] as const).entries()) {
        const activation = (['gelu', 'relu', 'none'] as const)[i] as Activation;
        let expected: Float32Array | undefined;
        for (const threads of [1, 2, 3, 4]) {
          const device = testDevice(threads);
          using wide = Tensor.randn([k, n], { seed: 5, device });
          using w = packWeights(wide, { dtype });
          using bias = Tensor.randn([n], { seed: 6, device });
          using values = Tensor.randn([rows, k], { seed: 7, device });
          using x = values.to(dtype);
          for (const [from, to] of [
            [0, rows],
            [0, 1],
            [5, 7],
            [8, 15],
            [9, 25],
            [rows - 10, rows],
            [0, rows - 1],
          ] as const) {
            using got = linear(x.slice(0, from, to), w, { bias, activation });
            const bits = (await got.read()) as Float32Array;
            expected ??= bits;
            const label = `${dtype}, ${threads} threads, rows ${from} to ${to} of ${rows}`;
            close(bits, expected.slice(from * n, to * n), { label });
          }
        }
      }
    }
  },
  { limit: 120_000 },
);

test('a residual is added as add() would, bit for bit, and may be out itself', async () => {
  // wider than a tile, more rows than are packed at a time, deeper than a block
  for (const [rows, k, n] of [
    [1, 7, 1],
    [13, 40, 769],
    [97, 1601, 50],
    [1030, 19, 101],
  ] as const) {
    for (const [i, dtype] of (['float32', 'bfloat16', 'float16'] as const).entries()) {
      const device = testDevice(1 + i);
      const activation = (['none', 'gelu', 'relu'] as const)[(i + rows) % 3] as Activation;
      using wide = Tensor.randn([k, n], { seed: 5, device });
      using w = packWeights(wide, { dtype });
      using bias = Tensor.randn([n], { seed: 6, device });
      using x = Tensor.randn([rows, k], { seed: 7, device }).to(dtype);
      using residual = Tensor.randn([n, rows], { seed: 8, std: 30, device }).to(dtype).permute([1, 0]);
      using product = linear(x, w, { bias, activation });
      using sum = residual.add(product);
      const expected = await sum.read();
      const label = `${dtype}, ${activation}, [${rows}, ${k}, ${n}]`;
      using fused = linear(x, w, { bias, activation, residual });
      close(await fused.read(), expected, { label });
      using out = residual.clone();
      assert.is(linear(x, w, { bias, activation, residual: out, out }), out);
      close(await out.read(), expected, { label: `${label}, in place` });
    }
  }
});

test('every precision is as accurate as it says', async () => {
  const [m, k, n] = [3, 500, 20];
  using w = Tensor.randn([k, n], { seed: 1 });
  using packed = packWeights(w);
  using x = Tensor.randn([m, k], { seed: 2 });
  const [p, q] = [await x.read(), await w.read()];
  const exact = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let l = 0; l < k; l++) sum += (p[i * k + l] as number) * (q[l * n + j] as number);
      exact[i * n + j] = sum;
    }
  }
  // of the sum's size, about sqrt(k); the CPU computes all of them in float32
  const accuracies = { float32: 2 ** -22, strict: 2 ** -20, tf32: 2 ** -10, bf16: 2 ** -7 };
  for (const [precision, accuracy] of Object.entries(accuracies) as [Precision, number][]) {
    const atol = Math.sqrt(k) * 4 * (onCpu ? accuracies.strict : accuracy);
    for (const y of [linear(x, packed, { precision }), matmul(x, w, { precision })]) {
      close(await y.read(), exact, { atol, label: precision });
      y.dispose();
    }
  }
});

test('wrong arguments are refused, disposed matrices too', () => {
  using x = Tensor.zeros([2, 3]);
  const w = packWeights(Tensor.zeros([4, 5]));
  throws(() => linear(x, w), RangeError, /linear: x must be \[\.\.\., 4\] \(w is \[4, 5\]\), but is \[2, 3\]/);
  throws(
    () => linear(Tensor.zeros([2, 4]), w, { activation: 'tanh' as never }),
    TypeError,
    /activation must be none, relu, gelu/,
  );
  throws(
    () => linear(Tensor.zeros([2, 4]), w, { precision: 'fp8' as never }),
    TypeError,
    /linear: precision must be float32, strict, tf32, bf16, but is 'fp8'/,
  );
  using rows = Tensor.zeros([2, 4]);
  throws(
    () => linear(rows, w, { residual: Tensor.zeros([5]) }),
    RangeError,
    /linear: residual must be \[2, 5\] \(the product of x \[2, 4\] and w\), but is \[5\]/,
  );
  throws(
    () => linear(rows, w, { residual: Tensor.zeros([2, 5], { dtype: 'bfloat16' }) }),
    TypeError,
    /linear: residual must be float32, but is bfloat16/,
  );
  using memory = Tensor.zeros([3, 5]);
  throws(
    () => linear(rows, w, { out: memory.slice(0, 0, 2), residual: memory.slice(0, 1, 3) }),
    RangeError,
    /linear: residual must be out itself or apart from it, but is partly on the same memory/,
  );
  w.dispose();
  throws(() => linear(Tensor.zeros([2, 4]), w), Error, /linear: w cannot be used: it was disposed/);
});

test.run();
