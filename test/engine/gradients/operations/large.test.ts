// Gradients of operations with kernels of their own, on shapes beyond their blocks, panels and parts. Oracle: the formulas
// of the gradients in plain loops of doubles.
import * as assert from 'uvu/assert';
import { type Device, openDevice } from '../../../../src/engine/device.js';
import type { DType } from '../../../../src/engine/dtype.js';
import { attention } from '../../../../src/engine/ops/attention.js';
import { crossEntropy } from '../../../../src/engine/ops/cross_entropy.js';
import { layerNorm } from '../../../../src/engine/ops/layer_norm.js';
import { linear } from '../../../../src/engine/ops/linear.js';
import { matmul } from '../../../../src/engine/ops/matmul.js';
import { packWeights } from '../../../../src/engine/ops/pack_weights.js';
import { Tensor } from '../../../../src/engine/ops/tensor.js';
import { close, relativeError } from '../../../support/close.js';
import { suite } from '../../../support/harness.js';
import { type Random, random } from '../../../support/random.js';
import { device } from './inputs.js';

const test = suite('gradients of large shapes');

const tensor = (
  rng: Random,
  shape: number[],
  { dtype = 'float32', on = device }: { dtype?: DType; on?: Device } = {},
) => Tensor.from(rng.floats(shape.reduce((a, b) => a * b, 1)), { shape, dtype, device: on });
const doubles = async (t: Tensor): Promise<Float64Array> => Float64Array.from(await t.read());
const at = (x: ArrayLike<number>, i: number): number => x[i] as number;

/** The gradients of leaves, for the sum of out times the weights. Frees out. */
async function gradientsOf(leaves: readonly Tensor[], out: Tensor, weights: Tensor): Promise<Float32Array[]> {
  using weighted = out.mul(weights);
  using loss = weighted.sum();
  await loss.backward();
  out.dispose();
  return Promise.all(leaves.map(async ({ grad }) => Float32Array.from((await grad?.read()) ?? [])));
}

function checkGradient(actual: Float32Array | undefined, expected: Float64Array, label: string): void {
  const error = relativeError(actual as Float32Array, expected);
  assert.ok(error < 1e-5, `${label}: the relative error is ${error}`);
}

interface Heads {
  readonly S: number;
  readonly T: number;
  readonly D: number;
  readonly E: number;
}

/** The gradients of one head: q [S, D], k [T, D], v [T, E], g [S, E]. */
function headOracle(
  { q, k, v, g }: Record<'q' | 'k' | 'v' | 'g', Float64Array>,
  { S, T, D, E }: Heads,
  causal: boolean,
  pad: Uint8Array | undefined,
): [Float64Array, Float64Array, Float64Array] {
  const [dq, dk, dv] = [new Float64Array(S * D), new Float64Array(T * D), new Float64Array(T * E)];
  const scale = 1 / Math.sqrt(D);
  for (let i = 0; i < S; i++) {
    const query = T - S + i;
    const isSeen = (j: number) => !(causal && j > query) && (!pad || pad[j] === pad[query]);
    const seen = Array.from({ length: T }, (_, j) => j).filter(isSeen);
    const dot = (a: Float64Array, b: Float64Array, j: number, n: number) => {
      let sum = 0;
      for (let d = 0; d < n; d++) sum += at(a, i * n + d) * at(b, j * n + d);
      return sum;
    };
    const scores = seen.map((j) => dot(q, k, j, D) * scale);
    const top = Math.max(...scores);
    const powers = scores.map((score) => Math.exp(score - top));
    const total = powers.reduce((a, b) => a + b, 0);
    const ofProbs = seen.map((j) => dot(g, v, j, E));
    const mean = powers.reduce((sum, p, n) => sum + (p / total) * at(ofProbs, n), 0);
    for (const [n, j] of seen.entries()) {
      const p = at(powers, n) / total;
      const ofScore = p * (at(ofProbs, n) - mean) * scale;
      for (let d = 0; d < D; d++) {
        dq[i * D + d] = at(dq, i * D + d) + ofScore * at(k, j * D + d);
        dk[j * D + d] = at(dk, j * D + d) + ofScore * at(q, i * D + d);
      }
      for (let e = 0; e < E; e++) dv[j * E + e] = at(dv, j * E + e) + p * at(g, i * E + e);
    }
  }
  return [dq, dk, dv];
}

/** Head h of sequence b of x [B, positions, H, width], as [positions, width]. */
const headOf = (x: ArrayLike<number>, [b, h]: [number, number], [positions, H, width]: [number, number, number]) =>
  Float64Array.from({ length: positions * width }, (_, i) => {
    const [position, d] = [Math.floor(i / width), i % width];
    return at(x, ((b * positions + position) * H + h) * width + d);
  });

test('attention: more queries than a block, more keys than a panel, padding, keys before', async () => {
  const B = 2;
  const H = 2;
  for (const [seed, [S, T, D, E]] of (
    [
      [47, 47, 5, 3],
      [48, 48, 64, 64],
      [49, 60, 33, 33],
      [97, 97, 8, 65],
      [150, 200, 7, 1],
      [1, 90, 16, 16],
      [20, 800, 3, 2],
    ] as const
  ).entries()) {
    for (const kind of ['none', 'left', 'right', 'anywhere'] as const) {
      const rng = random(seed + 1);
      const causal = kind === 'none' || rng.next() < 0.7;
      const ends = [rng.integer(0, T), rng.integer(0, T)];
      const flags = Uint8Array.from({ length: B * T }, (_, i) => {
        const [key, end] = [i % T, ends[Math.floor(i / T)] as number];
        return Number(kind === 'left' ? key < end : kind === 'right' ? key > end : rng.next() < 0.4);
      });
      const [q, k, v] = [tensor(rng, [B, S, H, D]), tensor(rng, [B, T, H, D]), tensor(rng, [B, T, H, E])];
      for (const t of [q, k, v]) t.requireGrad();
      using pad = kind === 'none' ? undefined : Tensor.from(flags, { shape: [B, T], device });
      using weights = tensor(rng, [B, S, H, E]);
      const out = attention(q, k, v, { causal, ...(pad && { pad }) });
      const found = await gradientsOf([q, k, v], out, weights);
      const [values, g] = [await Promise.all([q, k, v].map(doubles)), await doubles(weights)];
      for (let b = 0; b < B; b++) {
        for (let h = 0; h < H; h++) {
          const part = (x: ArrayLike<number>, positions: number, width: number) =>
            headOf(x, [b, h], [positions, H, width]);
          const given = { q: part(values[0] as Float64Array, S, D), k: part(values[1] as Float64Array, T, D) };
          const expected = headOracle(
            { ...given, v: part(values[2] as Float64Array, T, E), g: part(g, S, E) },
            { S, T, D, E },
            causal,
            pad && flags.subarray(b * T, (b + 1) * T),
          );
          const sizes = [[S, D] as const, [T, D] as const, [T, E] as const];
          for (const [i, [positions, width]] of sizes.entries()) {
            const label = `d${'qkv'[i]} of [${S}, ${T}, ${D}, ${E}], padding ${kind}, causal ${causal}`;
            const actual = part(found[i] as Float32Array, positions, width);
            checkGradient(Float32Array.from(actual), expected[i] as Float64Array, label);
          }
        }
      }
      for (const t of [q, k, v]) t.dispose();
    }
  }
});

test('attention: the same bits of a joint projection, of separate ones, and with any number of threads', async () => {
  const [B, S, H, D] = [2, 130, 3, 16];
  const width = H * D;
  const gradient = async (threads: number, isJoint: boolean): Promise<Float32Array> => {
    const on = openDevice('cpu', { threads });
    const rng = random(5);
    using joint = tensor(rng, [B, S, 3 * width], { on });
    joint.requireGrad();
    const parts = [0, 1, 2].map((i) => joint.slice(2, i * width, (i + 1) * width).reshape(B, S, H, D)) as Tensor[];
    const copies = isJoint ? [] : parts.map((t) => t.clone());
    const [q, k, v] = (isJoint ? parts : copies) as [Tensor, Tensor, Tensor];
    using weights = tensor(rng, [B, S, H, D], { on });
    const [found] = await gradientsOf([joint], attention(q, k, v), weights);
    for (const t of copies) t.dispose();
    return found as Float32Array;
  };
  const expected = await gradient(1, false);
  assert.ok(expected.every(Number.isFinite) && expected.filter((x) => x !== 0).length > expected.length / 2);
  for (const threads of [1, 2, 3]) assert.equal(await gradient(threads, true), expected, `${threads} threads`);
});

test('attention: parts of a joint projection that are used twice, or elsewhere as well', async () => {
  const [B, S, H, D] = [2, 20, 2, 6];
  const width = H * D;
  const other = tensor(random(9), [B, S, 3 * width]);
  for (const [first, isUsedElsewhere] of [
    [0, false],
    [1, true],
  ] as const) {
    const rng = random(8);
    using joint = tensor(rng, [B, S, 3 * width]);
    joint.requireGrad();
    const part = (i: number) => joint.slice(2, i * width, (i + 1) * width).reshape(B, S, H, D);
    const [q, k, v] = [part(0), part(first), part(2)];
    const copies = [q, k, v].map((t) => t.detach().clone().requireGrad()) as [Tensor, Tensor, Tensor];
    using weights = tensor(rng, [B, S, H, D]);
    const parts = await gradientsOf(copies, attention(...copies), weights);
    using out = attention(q, k, v);
    using weighted = out.mul(weights);
    using more = joint.mul(other);
    using loss = isUsedElsewhere ? weighted.sum().add(more.sum()) : weighted.sum();
    await loss.backward();
    const expected = isUsedElsewhere ? await doubles(other) : new Float64Array(joint.size);
    for (const [i, of] of [0, first, 2].entries()) {
      for (const [at, value] of (parts[i] as Float32Array).entries()) {
        const index = Math.floor(at / width) * 3 * width + of * width + (at % width);
        expected[index] = (expected[index] as number) + value;
      }
    }
    checkGradient((await joint.grad?.read()) as Float32Array, expected, `parts 0, ${first}, 2`);
    for (const t of copies) t.dispose();
  }
  other.dispose();
});

test('attention: nothing to attend to, with padding and without', async () => {
  for (const [B, S, T, H, D] of [
    [1, 0, 0, 1, 64],
    [2, 0, 5, 2, 3],
    [0, 3, 3, 1, 4],
    [2, 3, 3, 0, 4],
    [2, 3, 4, 2, 0],
  ] as const) {
    for (const isPadded of [true, false]) {
      const leaves = [S, T, T].map((n) => tensor(random(1), [B, n, H, D]).requireGrad()) as [Tensor, Tensor, Tensor];
      using pad = isPadded ? Tensor.zeros([B, T], { device, dtype: 'bool' }) : undefined;
      using weights = tensor(random(2), [B, S, H, D]);
      const found = await gradientsOf(leaves, attention(...leaves, { scale: 1, ...(pad && { pad }) }), weights);
      for (const [i, values] of found.entries()) {
        assert.is(values.length, leaves[i]?.size);
        assert.ok(values.every(Number.isFinite));
      }
      for (const leaf of leaves) leaf.dispose();
    }
  }
});

test('attention: one tensor that is queries, keys and values at once gets the sum', async () => {
  const rng = random(6);
  const [B, S, H, D] = [2, 20, 2, 6];
  using x = tensor(rng, [B, S, H, D]);
  const copies = [0, 1, 2].map(() => x.clone().requireGrad());
  x.requireGrad();
  using weights = tensor(rng, [B, S, H, D]);
  const [found] = await gradientsOf([x], attention(x, x, x), weights);
  const parts = await gradientsOf(copies, attention(...(copies as [Tensor, Tensor, Tensor])), weights);
  const sum = Float64Array.from(found as Float32Array, (_, i) => parts.reduce((total, p) => total + at(p, i), 0));
  checkGradient(found, sum, 'x');
  for (const t of copies) t.dispose();
});

test('attention: what a query does not see changes nothing of its gradient, be it infinite', async () => {
  const [S, D] = [60, 8];
  const last = (S - 1) * D;
  /** The gradients of all queries but the last, where one operand is infinite, or nothing is. What it gives to keys may be NaN. */
  const of = async (infinite: number | undefined): Promise<Float32Array> => {
    const leaves = [8, 9, 10].map((seed, i) => {
      const data = random(seed).floats(S * D);
      if (i === infinite) data.fill(Number.POSITIVE_INFINITY, last);
      return Tensor.from(data, { shape: [1, S, 1, D], device }).requireGrad();
    }) as [Tensor, Tensor, Tensor];
    const weights = random(11)
      .floats(S * D)
      .fill(infinite === 3 ? Number.NaN : 0, last);
    using given = Tensor.from(weights, { shape: [1, S, 1, D], device });
    const found = await gradientsOf(leaves, attention(...leaves), given);
    for (const leaf of leaves) leaf.dispose();
    return (found[0] as Float32Array).subarray(0, last);
  };
  const expected = await of(undefined);
  for (const infinite of [0, 1, 2, 3]) {
    close(await of(infinite), expected, { rtol: 1e-5, atol: 1e-6, label: `dq, operand ${infinite}` });
  }
});

test('linear and matmul: products with transposed matrices of many panels, rows and steps', async () => {
  for (const [seed, [M, K, N]] of (
    [
      [1, 1, 1],
      [3, 49, 97],
      [61, 130, 1601],
      [1030, 50, 7],
      [17, 800, 33],
      [9, 1100, 20],
    ] as const
  ).entries()) {
    const rng = random(seed + 20);
    for (const dtype of ['float32', 'bfloat16', 'float16'] as const) {
      using b = tensor(rng, [K, N], { dtype });
      using w = packWeights(b);
      using x = tensor(rng, [M, K]);
      x.requireGrad();
      using weights = tensor(rng, [M, N]);
      const [found] = await gradientsOf([x], linear(x, w), weights);
      const [matrix, g] = [await doubles(b), await doubles(weights)];
      const expected = Float64Array.from({ length: M * K }, (_, i) => {
        const [m, k] = [Math.floor(i / K), i % K];
        let sum = 0;
        for (let n = 0; n < N; n++) sum += at(g, m * N + n) * at(matrix, k * N + n);
        return sum;
      });
      checkGradient(found, expected, `dx of [${M}, ${K}] x [${K}, ${N}] ${dtype}`);
      if (dtype !== 'float32') continue;
      using other = b.clone();
      other.requireGrad();
      const [ofMatrix] = await gradientsOf([other], matmul(x.detach(), other), weights);
      const rows = await doubles(x);
      const product = Float64Array.from({ length: K * N }, (_, i) => {
        const [k, n] = [Math.floor(i / N), i % N];
        let sum = 0;
        for (let m = 0; m < M; m++) sum += at(rows, m * K + k) * at(g, m * N + n);
        return sum;
      });
      checkGradient(ofMatrix, product, `db of [${M}, ${K}] x [${K}, ${N}]`);
    }
  }
});

test('crossEntropy: rows of several parts, padding whose target is outside, any dtype', async () => {
  for (const [seed, [rows, N]] of (
    [
      [3, 4096],
      [5, 9001],
      [2, 50_257],
    ] as const
  ).entries()) {
    for (const dtype of ['float32', 'bfloat16', 'float16'] as const) {
      const rng = random(seed + 40);
      using logits = tensor(rng, [rows, N], { dtype });
      logits.requireGrad();
      const targets = Array.from({ length: rows }, () => rng.integer(0, N));
      const pad = targets.map((_, i) => i === 1);
      targets[1] = -100;
      using weights = tensor(rng, [rows]);
      const out = crossEntropy(logits, targets, { pad, reduction: 'none' });
      const [found] = await gradientsOf([logits], out, weights);
      const [x, g] = [await doubles(logits), await doubles(weights)];
      const expected = new Float64Array(rows * N);
      for (let row = 0; row < rows; row++) {
        if (pad[row]) continue;
        const own = x.subarray(row * N, (row + 1) * N);
        const total = own.reduce((sum, value) => sum + Math.exp(value), 0);
        for (const [i, value] of own.entries()) {
          const hit = i === targets[row] ? 1 : 0;
          expected[row * N + i] = (Math.exp(value) / total - hit) * at(g, row);
        }
      }
      checkGradient(found, expected, `[${rows}, ${N}] ${dtype}`);
    }
  }
});

test('crossEntropy: gradients take the place of logits only where nobody needs them any more', async () => {
  const [rows, N] = [3, 5000];
  const targets = [1, 2, 4999];
  const run = async (use: 'disposed' | 'held' | 'a view is held' | 'retained' | 'twice'): Promise<Float32Array> => {
    using leaf = tensor(random(70), [rows, N]);
    leaf.requireGrad();
    const logits = leaf.mul(1);
    const before = await logits.read();
    const view = logits.slice(0, 1, 2);
    const kept = view.shared();
    if (use !== 'a view is held') kept.dispose();
    using first = crossEntropy(logits, targets);
    using second = use === 'twice' ? crossEntropy(logits, [0, 0, 0]) : first.clone();
    using both = first.add(second);
    if (use !== 'held') logits.dispose();
    const start = device.memory().allocated;
    await (use === 'twice' ? both : first).backward({ retain: use === 'retained' });
    if (use === 'retained') {
      leaf.zeroGrad();
      await first.backward();
    }
    if (use === 'twice') leaf.grad?.sub_(await ofSecond());
    if (use === 'held') assert.equal(await logits.read(), before);
    if (use === 'a view is held') assert.equal(await kept.read(), before.slice(N, 2 * N));
    if (use === 'disposed') assert.ok(device.memory().allocated <= start);
    const found = Float32Array.from((await leaf.grad?.read()) ?? []);
    kept.dispose();
    logits.dispose();
    return found;
  };
  const ofSecond = async (): Promise<Tensor> => {
    using leaf = tensor(random(70), [rows, N]);
    leaf.requireGrad();
    using loss = crossEntropy(leaf, [0, 0, 0]);
    await loss.backward();
    return (leaf.grad as Tensor).clone();
  };
  const expected = await run('held');
  for (const use of ['disposed', 'a view is held', 'retained'] as const) assert.equal(await run(use), expected, use);
  close(await run('twice'), expected, { atol: 1e-7, label: 'twice' });
});

test('layerNorm: any width', async () => {
  for (const [seed, [rows, N]] of (
    [
      [5, 1],
      [4, 31],
      [70, 33],
      [3, 769],
      [2, 20_001],
    ] as const
  ).entries()) {
    const rng = random(seed + 60);
    const [x, gain, bias] = [tensor(rng, [rows, N]), tensor(rng, [N]), tensor(rng, [N])];
    for (const t of [x, gain, bias]) t.requireGrad();
    using weights = tensor(rng, [rows, N]);
    const found = await gradientsOf([x, gain, bias], layerNorm(x, gain, bias), weights);
    const [values, gains, g] = [await doubles(x), await doubles(gain), await doubles(weights)];
    const expected = [new Float64Array(rows * N), new Float64Array(N), new Float64Array(N)] as const;
    for (let row = 0; row < rows; row++) {
      const part = (t: Float64Array) => t.subarray(row * N, (row + 1) * N);
      const mean = part(values).reduce((a, b) => a + b, 0) / N;
      const deviation = Math.sqrt(part(values).reduce((a, b) => a + (b - mean) ** 2, 0) / N + 1e-5);
      const normed = part(values).map((value) => (value - mean) / deviation);
      const ofNormed = part(g).map((value, i) => value * at(gains, i));
      const middle = ofNormed.reduce((a, b) => a + b, 0) / N;
      const along = ofNormed.reduce((a, b, i) => a + b * at(normed, i), 0) / N;
      for (let i = 0; i < N; i++) {
        expected[0][row * N + i] = (at(ofNormed, i) - middle - at(normed, i) * along) / deviation;
        expected[1][i] = at(expected[1], i) + at(part(g), i) * at(normed, i);
        expected[2][i] = at(expected[2], i) + at(part(g), i);
      }
    }
    for (const [i, name] of ['x', 'gain', 'bias'].entries()) {
      if (N === 1 && name === 'x') close(found[i] as Float32Array, new Float64Array(rows), { atol: 1e-5 });
      else if (N > 1) checkGradient(found[i], expected[i] as Float64Array, `${name} [${rows}, ${N}]`);
    }
    for (const t of [x, gain, bias]) t.dispose();
  }
});

test.run();
