// The hot kernels at GPT-2's sizes on the CUDA device: whole results against plain float32 arithmetic, samples against
// the CPU and against double precision, and repetitions against each other, where a race would show.
//   node build-test/bench/gpu/full_size.js [word]...           only the checks whose name contains a word
//   node build-test/bench/gpu/full_size.js profile [word]...   each hot kernel once and nothing checked, for ncu
// TINY=1: the same on small shapes, for the emulator. Exit code 1 when a check failed, or when there was none.
import {
  attention,
  type DeviceName,
  type DType,
  linear,
  openDevice,
  type PackedMatrix,
  packWeights,
  sparseEncode,
  Tensor,
} from '../../src/index.js';
import { relativeError } from '../../test/support/close.js';
import { attend, parts } from '../compare/check.js';
import { Checks, Figures, Owner } from './checks.js';
import { difference, different, farthest, farthestOf, sameBytes } from './whole.js';

type Float = Extract<DType, 'float32' | 'bfloat16'>;

const gpu = openDevice((process.env.SONDE_DEVICE as DeviceName | undefined) ?? 'cuda');
const cpu = openDevice('cpu');
const tiny = Boolean(process.env.TINY);
const repetitions = 20;
const seed = 11;

// rows, K, N; the last one takes longest, for its results are read
const products: [number, number, number][] = tiny
  ? [
      [21, 3072, 40],
      [150, 136, 72],
      [133, 72, 261],
    ]
  : [
      [5632, 3072, 768],
      [5632, 768, 2304],
      [4096, 768, 50257],
    ];
const [batch, positions, heads, channels] = tiny ? ([2, 70, 2, 64] as const) : ([6, 1024, 12, 64] as const);

/**
 * What a value may be off by, as a part of it (small ones count as `least`), and what the norm of all differences may
 * be, as a part of the norm.
 */
interface Bound {
  readonly least: number;
  readonly farthest: number;
  readonly norm: number;
}
// products here have a deviation of 1; a bfloat16 is off by 2^-8 at most, since it has 8 bits
const bounds: Record<Float, Bound> = {
  float32: { least: 1, farthest: 2e-5, norm: 3e-6 },
  bfloat16: { least: 0.1, farthest: 1.02 * 2 ** -8, norm: 2.5e-3 },
};
const exact = { float32: 3e-7, bfloat16: 2.5e-3 };

const normal = (owner: Owner, shape: number[], dtype: Float, std = 1, variant = 0): Tensor =>
  owner.own(Tensor.randn(shape, { device: gpu, dtype, seed: seed + variant, std }));

const flat = (ranges: [number, number][]): number[] =>
  ranges.flatMap(([from, to]) => Array.from({ length: to - from }, (_, i) => from + i));

/** The named rows of x [rows, n] -> [count * n]. */
async function readRows(x: Tensor, ranges: [number, number][]): Promise<Float32Array> {
  const width = x.shape[1] as number;
  const out = new Float32Array(flat(ranges).length * width);
  let at = 0;
  for (const [from, to] of ranges) {
    const part = (await x.slice(0, from, to).read()) as Float32Array;
    out.set(part, at);
    at += part.length;
  }
  return out;
}

// ---- repetitions

/** Repeats it and counts the results that differ from the first. The last is compared byte for byte. */
async function changes(first: Tensor, again: () => Tensor, free: boolean): Promise<number> {
  const differences: Tensor[] = [];
  let bytes = 0;
  for (let i = 1; i <= repetitions; i++) {
    const out = again();
    differences.push(difference(out, first));
    if (i === repetitions && !(await sameBytes(first, out))) bytes = 1;
    if (free) out.dispose();
  }
  return Math.max(await different(differences), bytes);
}

// ---- products

/** x w in double precision at the named rows and columns: x [rows, k] of those rows, w [k, n] -> [rows, columns]. */
function multiply(x: Float32Array, w: Float32Array, k: number, columns: number[]): Float64Array {
  const n = w.length / k;
  const rows = x.length / k;
  const out = new Float64Array(rows * columns.length);
  const column = new Float64Array(k);
  for (const [c, at] of columns.entries()) {
    for (let j = 0; j < k; j++) column[j] = w[j * n + at] as number;
    for (let row = 0; row < rows; row++) {
      let sum = 0;
      for (let j = 0; j < k; j++) sum += (x[row * k + j] as number) * (column[j] as number);
      out[row * columns.length + c] = sum;
    }
  }
  return out;
}

const pick = (rows: Float32Array, n: number, columns: number[]): Float32Array =>
  Float32Array.from({ length: (rows.length / n) * columns.length }, (_, i) => {
    return rows[Math.floor(i / columns.length) * n + (columns[i % columns.length] as number)] as number;
  });

/** The same rows on the CPU, in float32: x [rows, k], w [k, n] -> [rows * n]. */
async function onCpu(x: Float32Array, w: Float32Array, k: number, dtype: Float): Promise<Float32Array> {
  const n = w.length / k;
  const owner = new Owner();
  const from = (data: Float32Array, shape: number[]) => owner.own(Tensor.from(data, { shape, device: cpu, dtype }));
  try {
    const packed: PackedMatrix = owner.own(packWeights(from(w, [k, n])));
    const out = owner.own(Tensor.empty([x.length / k, n], { device: cpu }));
    return (await linear(from(x, [x.length / k, k]), packed, { out }).read()) as Float32Array;
  } finally {
    owner.end();
  }
}

async function checkProduct(owner: Owner, dtype: Float, rows: number, k: number, n: number): Promise<string> {
  const x = normal(owner, [rows, k], dtype);
  const w = normal(owner, [k, n], dtype, 1 / Math.sqrt(k), 1);
  const packed = owner.own(packWeights(w));
  const out = owner.own(Tensor.empty([rows, n], { device: gpu, dtype }));
  // NaN before each run: what is not written shows
  const again = () => linear(x, packed, { out: out.fill(Number.NaN) });
  const first = owner.own(again().clone());
  const strict = owner.own(Tensor.empty([rows, n], { device: gpu })).fill(Number.NaN);
  linear(x, packed, { out: strict, precision: 'strict' });

  const bound = bounds[dtype];
  const figures = new Figures();
  figures.add('all from strict', await farthest(first, strict, bound.least), bound.farthest);
  const ranges = parts(rows, 8);
  const [inputs, weights] = [await readRows(x, ranges), (await w.read()) as Float32Array];
  const [got, plain] = [await readRows(first, ranges), await readRows(strict, ranges)];
  const reference = await onCpu(inputs, weights, k, dtype);
  figures.add('rows from the CPU', farthestOf(got, reference, bound.least), bound.farthest);
  figures.add('norm', relativeError(got, reference), bound.norm);
  const columns = flat(parts(n, 40));
  const double = multiply(inputs, weights, k, columns);
  figures.add('error', relativeError(pick(got, n, columns), double), exact[dtype]);
  figures.add("strict's error", relativeError(pick(plain, n, columns), double), bounds.float32.norm);
  figures.add(`of ${repetitions} repetitions differ`, await changes(first, again, false), 0);
  return figures.line();
}

// ---- attention

async function checkAttention(owner: Owner, dtype: Float, most: number): Promise<string> {
  const qkv = normal(owner, [batch, positions, 3, heads, channels], dtype); // as the model's projection leaves them
  const [q, k, v] = [0, 1, 2].map((i) => qkv.select(2, i)) as [Tensor, Tensor, Tensor];
  const again = () => attention(q, k, v);
  const first = owner.own(again());
  const figures = new Figures();
  figures.add('NaN', await different([difference(first, first)]), 0);
  const [got, expected]: [number[], number[]] = [[], []];
  for (const [b, h] of [
    [0, 0],
    [batch - 1, heads - 1],
  ] as const) {
    const [queries, keys, values, mixed] = await Promise.all([q, k, v, first].map((t) => readHead(t, b, h)));
    for (const s of flat(parts(positions, 8))) {
      expected.push(...attend(queries as Float64Array, keys as Float64Array, values as Float64Array, s, channels));
      got.push(...(mixed as Float64Array).subarray(s * channels, (s + 1) * channels));
    }
  }
  figures.add('error', relativeError(got, expected), most);
  figures.add(`of ${repetitions} repetitions differ`, await changes(first, again, true), 0);
  return figures.line();
}

/** x [batch, positions, heads, channels] -> [positions * channels] of one head. */
const readHead = async (x: Tensor, b: number, h: number): Promise<Float64Array> =>
  new Float64Array(await x.select(0, b).select(1, h).read());

// ---- for the profiler

/** Each hot kernel once, the ones that matter most first. */
async function profile(words: readonly string[]): Promise<void> {
  const [rows, k, narrow, wide, latents] = tiny ? [70, 72, 136, 200, 300] : [5632, 768, 2304, 3072, 32768];
  const linears = (dtype: Float, n: number, fused: boolean) => (owner: Owner) => {
    const packed = owner.own(packWeights(normal(owner, [k, n], dtype, 1 / Math.sqrt(k))));
    const bias = normal(owner, [n], dtype);
    owner.own(linear(normal(owner, [rows, k], dtype), packed, fused ? { bias, activation: 'gelu' } : {}));
  };
  const attentions = (dtype: Float) => (owner: Owner) => {
    const qkv = normal(owner, [batch, positions, 3, heads, channels], dtype);
    owner.own(attention(qkv.select(2, 0), qkv.select(2, 1), qkv.select(2, 2)));
  };
  const encoders = (dtype: Float) => async (owner: Owner) => {
    const packed = owner.own(packWeights(normal(owner, [k, latents], dtype, 1 / Math.sqrt(k))));
    await sparseEncode(normal(owner, [rows, k], dtype, 1, 1), packed, { threshold: 3.1 });
  };
  const hot: [string, (owner: Owner) => void | Promise<void>][] = [
    ['linear bfloat16', linears('bfloat16', narrow, false)],
    ['linear float32', linears('float32', narrow, false)],
    ['attention bfloat16', attentions('bfloat16')],
    ['attention float32', attentions('float32')],
    ['sparseEncode bfloat16', encoders('bfloat16')],
    ['sparseEncode float32', encoders('float32')],
    ['linear bfloat16 + bias + gelu', linears('bfloat16', wide, true)],
  ];
  for (const [name, body] of hot) {
    if (words.length > 0 && !words.some((word) => name.includes(word))) continue;
    const owner = new Owner();
    await body(owner);
    await gpu.synchronize();
    owner.end();
    console.log(`ran ${name}`);
  }
}

// ---- all of it

async function check(words: readonly string[]): Promise<void> {
  const checks = new Checks(words);
  const run = (name: string, body: (owner: Owner) => Promise<string>) =>
    checks.run(name, async () => {
      const owner = new Owner();
      try {
        return await body(owner);
      } finally {
        owner.end();
      }
    });
  // attention first: it has nothing of Hopper's own, and a product that hangs costs what comes after it
  const shape = `[${batch}, ${positions}, ${heads}, ${channels}]`;
  await run(`attention float32 ${shape}`, (owner) => checkAttention(owner, 'float32', 5e-6));
  await run(`attention bfloat16 ${shape}`, (owner) => checkAttention(owner, 'bfloat16', 1e-2));
  for (const [rows, k, n] of products) {
    for (const dtype of ['float32', 'bfloat16'] as const) {
      await run(`linear ${dtype} [${rows}, ${k}] x [${k}, ${n}]`, (owner) => checkProduct(owner, dtype, rows, k, n));
    }
  }
  checks.end(gpu.description);
}

const [mode, ...rest] = process.argv.slice(2);
if (mode === 'profile') await profile(rest);
else await check(process.argv.slice(2));
