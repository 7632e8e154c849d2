// Every operation once or twice on the CUDA device, on odd shapes (1, primes, one more than a tile), against the CPU
// device. It is small enough for compute-sanitizer and for the emulator.
//   node build-test/bench/gpu/small.js [word]...   only the checks whose name contains a word
import type { NativeOperations } from '../../src/engine/native.js';
import { chooseIndex } from '../../src/engine/ops/choose_index.js';
import { relu } from '../../src/engine/ops/unary.js';
import { updateLastNonzero } from '../../src/engine/ops/update_last_nonzero.js';
import {
  addLayerNorm,
  attention,
  cat,
  crossEntropy,
  type Device,
  type DeviceName,
  type DType,
  einsum,
  embedding,
  gelu,
  type HostArray,
  layerNorm,
  linear,
  logSoftmax,
  maskLogits,
  matmul,
  openDevice,
  packWeights,
  rootMeanSquare,
  softmax,
  softmaxNumerator,
  sparseDecode,
  sparseEncode,
  stack,
  Tensor,
  Transformer,
  topKMask,
  where,
} from '../../src/index.js';
import { type Random, random } from '../../test/support/random.js';
import { checkRow } from '../compare/check.js';
import { Checks, Owner } from './checks.js';

const gpu = openDevice((process.env.SONDE_DEVICE as DeviceName | undefined) ?? 'cuda');
const cpu = openDevice('cpu');
const words = process.argv.slice(2);
const checks = new Checks(words);

/** The operations that a GPU has: gradients are computed, and sums left out by a filter, on the CPU alone so far. */
type OnGpu = Exclude<keyof NativeOperations, `${string}Backward` | 'packFilter'>;

/** How often each operation was called on the CUDA device; TypeScript demands that every one that it has is here. */
const called: Record<OnGpu, number> = {
  copy: 0,
  fill: 0,
  unary: 0,
  binary: 0,
  binaryScalar: 0,
  compare: 0,
  compareScalar: 0,
  where: 0,
  reduce: 0,
  argmax: 0,
  cumsum: 0,
  sort: 0,
  topK: 0,
  topKMask: 0,
  softmax: 0,
  crossEntropy: 0,
  layerNorm: 0,
  addLayerNorm: 0,
  rootMeanSquare: 0,
  embedding: 0,
  gather: 0,
  indexSelect: 0,
  indexCopy: 0,
  scatterAdd: 0,
  triangle: 0,
  attention: 0,
  maskLogits: 0,
  packWeights: 0,
  unpackWeights: 0,
  linear: 0,
  matmul: 0,
  random: 0,
  sparseEncode: 0,
  sparseDecode: 0,
  updateLastNonzero: 0,
  chooseIndex: 0,
};
const run = gpu.run.bind(gpu);
gpu.run = (operation, ...args) => {
  if (operation in called) called[operation as OnGpu]++;
  run(operation, ...args);
};

// a rounding that falls the other way, as a part of the largest value
const unit: Record<DType, number> = { float32: 2 ** -21, bfloat16: 2 ** -7, float16: 2 ** -10, int32: 0, bool: 0 };

/** One of the two devices, and values that are the same on both. */
class Side extends Owner {
  readonly device: Device;
  readonly #random: Random = random(7);
  constructor(device: Device) {
    super();
    this.device = device;
  }
  host(n: number, scale = 1): Float32Array {
    return this.#random.floats(n, scale);
  }
  /** Normal values; with `strided` dimensions lie in the opposite order, with a gap between rows. */
  normal(shape: number[], dtype: DType = 'float32', { strided = false, scale = 1 } = {}): Tensor {
    const size = shape.reduce((p, n) => p * n, 1);
    using raw = Tensor.from(this.host(size, scale), { shape, device: this.device });
    if (!strided) return this.own(raw.to(dtype));
    const transposed = [...shape].reverse();
    const wide = [...transposed.slice(0, -1), (transposed.at(-1) as number) + 3];
    const base = this.own(Tensor.empty(wide, { device: this.device, dtype })).fill(77);
    const view = base.slice(-1, 1, 1 + (transposed.at(-1) as number)).permute([...shape.keys()].reverse());
    return view.copyFrom(raw);
  }
  integers(shape: number[], low: number, high: number): Tensor {
    const size = shape.reduce((p, n) => p * n, 1);
    const data = Int32Array.from({ length: size }, () => this.#random.integer(low, high));
    return this.own(Tensor.from(data, { shape, device: this.device }));
  }
  bools(shape: number[]): Tensor {
    return this.own(this.integers(shape, 0, 2).to('bool'));
  }
}

type Result = Tensor | HostArray | readonly number[];
interface Options {
  /** What may differ, in roundings of the result's dtype. */
  units?: number;
  /** The same as a part of the largest value, whatever the dtype. */
  part?: number;
}

/** Does the same on both devices and compares all that comes out. */
async function check(
  name: string,
  body: (s: Side) => Result[] | Promise<Result[]>,
  options: Options = {},
): Promise<void> {
  await checks.run(name, async () => {
    const [tried, reference] = [new Side(gpu), new Side(cpu)];
    try {
      const [got, expected] = [await results(tried, body), await results(reference, body)];
      for (const [i, { values, dtype }] of expected.entries()) {
        const allowed = options.part ?? unit[dtype] * (options.units ?? 1);
        const why = difference(got[i]?.values as ArrayLike<number>, values, allowed, `result ${i}`);
        if (why) throw new Error(why);
      }
      return '';
    } finally {
      tried.end();
      reference.end();
    }
  });
}

async function results(s: Side, body: (s: Side) => Result[] | Promise<Result[]>) {
  const out: { values: ArrayLike<number>; dtype: DType }[] = [];
  for (const one of await body(s)) {
    if (!(one instanceof Tensor)) out.push({ values: one, dtype: one instanceof Float32Array ? 'float32' : 'int32' });
    else {
      s.own(one);
      out.push({ values: await one.read(), dtype: one.dtype });
    }
  }
  await s.device.synchronize();
  return out;
}

function difference(got: ArrayLike<number>, expected: ArrayLike<number>, allowed: number, what: string): string {
  if (got?.length !== expected.length) return `${what}: ${got?.length} values instead of ${expected.length}`;
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    const size = Math.abs(expected[i] as number);
    if (Number.isFinite(size) && size > largest) largest = size;
  }
  for (let i = 0; i < expected.length; i++) {
    const [a, b] = [got[i] as number, expected[i] as number];
    if (a === b || (Number.isNaN(a) && Number.isNaN(b)) || Math.abs(a - b) <= allowed * largest) continue;
    return `${what}: element ${i} of ${expected.length} is ${a}, but should be ${b} (to ${allowed * largest})`;
  }
  return '';
}

const floats = ['float32', 'bfloat16', 'float16'] as const;
const all = ['float32', 'bfloat16', 'float16', 'int32', 'bool'] as const;

// ---- element by element

for (const dtype of floats) {
  for (const strided of [false, true]) {
    const how = `${dtype}${strided ? ', strided' : ''}`;
    await check(`arithmetic ${how}`, (s) => {
      const [a, b] = [s.normal([3, 7, 33], dtype, { strided }), s.normal([7, 33], dtype, { strided })];
      const inPlace = s.own(a.clone()).add_(b).sub_(0.5).mul_(b).div_(3);
      return [a.add(b), a.sub(b.slice(0, 0, 1)), a.mul(1.5), a.div(b), inPlace.clone(), s.normal([1], dtype).add(1)];
    });
    await check(`functions ${how}`, (s) => {
      const x = s.normal([37, 31], dtype, { strided, scale: 2 });
      const size = s.own(x.abs());
      const same = [gelu(x), relu(x), x.abs(), x.neg(), x.sign(), x.clamp(-0.5, 1), x.tanh(), x.sigmoid()];
      return [...same, s.own(x.clamp(-9, 3)).exp(), size.log(), size.sqrt(), size.pow(2), size.pow(1.7), x.pow(3)];
    });
    await check(`comparisons ${how}`, (s) => {
      const [a, b] = [s.normal([3, 7, 33], dtype, { strided }), s.normal([7, 33], dtype, { strided })];
      const more = s.own(a.gt(b));
      const less = s.own(a.lt(0.25));
      const sides = [a.maximum(b), a.minimum(0.5), more.where(a, b), less.where(a, 0), where(less, b, a)];
      const equal = [a.eq(a), a.ne(b), a.le(b), a.ge(b), more.and(less), more.or(less), more.not()];
      return [...sides, ...equal];
    });
  }
}
await check('integers', (s) => {
  const [a, b] = [s.integers([5, 103], -1000, 1000), s.integers([103], 1, 9)];
  const whole = [a.abs(), a.neg(), a.sign(), a.clamp(-5, 500), a.pow(2), a.maximum(b), a.minimum(3)];
  const compared = [a.eq(b), a.lt(b), a.ge(2.5), a.ne(7)];
  return [a.add(b), a.mul(b), a.sub(3), a.div(b), s.bools([103]).add(b), ...whole, ...compared];
});
for (const from of all) {
  await check(`copy ${from}`, (s) => {
    const x = from === 'bool' ? s.bools([3, 65, 35]) : s.own(s.normal([3, 65, 35], 'float32', { scale: 9 }).to(from));
    const transposed = x.permute([2, 0, 1]);
    return [
      x.clone(),
      transposed.clone(),
      x.slice(2, 3, 30).clone(),
      ...all.flatMap((to) => [x.to(to), transposed.to(to)]),
    ];
  });
  await check(`fill ${from}`, (s) => {
    const x = s.own(Tensor.zeros([7, 33], { device: s.device, dtype: from }));
    x.slice(1, 1, 12).fill(1);
    return [x.clone()];
  });
}
await check('upload and read, more than a chunk', async (s) => {
  const x = s.own(Tensor.randint(-1000, 1000, [1201, 2003], { device: s.device, seed: 3 }));
  const back = s.own(Tensor.from((await x.read()) as Int32Array, { shape: [1201, 2003], device: s.device }));
  return [back.sub(x), x.permute([1, 0])];
});

// ---- rows

for (const width of [1, 33, 1031, 5003]) {
  for (const dtype of ['float32', 'bfloat16'] as const) {
    for (const strided of width < 2000 ? [false, true] : [false]) {
      const how = `${dtype} of ${width}${strided ? ', strided' : ''}`;
      const x = (s: Side) => s.normal([2, 3, width], dtype, { strided });
      await check(`reduce ${how}`, (s) => [x(s).sum(-1), x(s).mean(0), x(s).max(1), x(s).max()], { units: 8 });
      await check(
        `reduce, other kinds ${how}`,
        (s) => {
          const one = x(s);
          const kinds = [
            one.min(1),
            one.any(0),
            one.all([0, 2]),
            one.var(-1),
            one.std([0, 1]),
            one.norm(),
            one.norm(0),
          ];
          return [...kinds, one.logSumExp(), one.logSumExp([1, 2]), one.logSumExp(0)];
        },
        { units: 8 },
      );
      await check(`cumsum ${how}`, (s) => [x(s).cumsum(-1), x(s).cumsum(0)], { units: 8 });
      await check(`argmax ${how}`, (s) => [x(s).argmax(-1), x(s).argmax(0), x(s).argmin(-1), x(s).argmin()]);
      await check(
        `softmax ${how}`,
        (s) => [softmax(x(s)), softmaxNumerator(x(s)), softmax(x(s), 0), logSoftmax(x(s)), logSoftmax(x(s), 1)],
        { units: 4 },
      );
      await check(
        `crossEntropy ${how}`,
        (s) => {
          const [targets, pad] = [s.integers([2, 3], 0, width), s.bools([2, 3])];
          const losses = crossEntropy(x(s), targets, { pad, reduction: 'none' });
          return [losses, crossEntropy(x(s), targets, { pad }), crossEntropy(x(s), targets)];
        },
        { units: 8 },
      );
      await check(`rootMeanSquare ${how}`, (s) => [rootMeanSquare(x(s))], { units: 4 });
      await check(
        `layerNorm ${how}`,
        (s) => {
          const [gain, bias] = [s.normal([width], dtype), s.normal([width], dtype)];
          const { sum, out } = addLayerNorm(x(s), x(s), gain, bias);
          return [layerNorm(x(s), gain, bias), sum, out];
        },
        { units: 8 },
      );
      const k = Math.min(width, 33);
      await check(`topK ${how}`, (s) => {
        const { values, indices } = x(s).topk(k);
        return [values, indices, topKMask(x(s), k), topKMask(x(s), 1, { relu: false })];
      });
    }
  }
}
await check('reductions of int32', (s) => {
  const [x, flags] = [s.integers([3, 1031], -99, 99), s.bools([67, 3])];
  const sums = [x.sum(-1), flags.sum(), x.cumsum(0), x.cumsum(1), flags.cumsum(0)];
  return [...sums, x.max(0), x.min(), x.any(1), flags.all(0), x.var(), x.norm(1), x.argmax(1), x.argmin()];
});
await check('crossEntropy: a target outside the row is reported', async (s) => {
  const targets = s.own(Tensor.from([0, 5], { dtype: 'int32', device: s.device }));
  const out = crossEntropy(s.normal([2, 5]), targets);
  const message = await s.device.synchronize().then(
    () => 'nothing',
    (error: Error) => error.message,
  );
  out.dispose();
  return [[/target 5 at position 1 is outside \[0, 5\)/.test(message) ? 1 : 0]];
});
for (const dtype of floats) {
  await check(`embedding ${dtype}`, (s) => {
    const [indices, table] = [s.integers([5, 7], 0, 11), s.normal([11, 31], dtype)];
    const out = embedding(indices, table);
    return [
      out,
      embedding(indices.permute([1, 0]), table),
      embedding(indices, table, { addTo: s.own(out.clone()) }).clone(),
    ];
  });
}
for (const dtype of all) {
  for (const strided of [false, true]) {
    await check(`indexing ${dtype}${strided ? ', strided' : ''}`, (s) => {
      const x = s.own(s.normal([7, 33, 32], 'float32', { strided, scale: 9 }).to(dtype));
      const view = strided ? x.permute([2, 0, 1]) : x;
      const list = s.integers([40], 0, 7);
      const source = s.own(s.normal([40, 1, 32], 'float32', { scale: 9 }).to(dtype));
      const results = [
        view.gather(1, s.integers([5, 70, 31], 0, 7)),
        x.indexSelect(0, list),
        view.indexSelect(-1, [0, -1, 3]),
        x.indexCopy(0, list, source),
        view.indexCopy(2, s.integers([9], 0, 7), source.slice(0, 0, 1).slice(2, 0, 1)),
        view.tril(-2),
        view.triu(3),
      ];
      const { values, indices } = view.sort(0);
      const down = view.sort(-1, { descending: true });
      if (dtype === 'bool') return [...results, values, indices, down.values, down.indices];
      const sum = x.scatterAdd(1, s.integers([7, 700, 32], 0, 33), s.own(s.normal([7, 700, 32]).to(dtype)));
      return [...results, values, indices, down.values, down.indices, sum];
    });
  }
}
await check('sort of long rows', (s) => {
  const { values, indices } = s.normal([3, 5003]).sort();
  return [values, indices];
});
await check('embedding: an index outside the table is reported', async (s) => {
  const out = embedding(s.own(Tensor.from([0, 5], { dtype: 'int32', device: s.device })), s.normal([5, 3]));
  const message = await s.device.synchronize().then(
    () => 'nothing',
    (error: Error) => error.message,
  );
  out.dispose();
  return [[/index 5 at position 1 is outside \[0, 5\)/.test(message) ? 1 : 0]];
});

// ---- attention

const heads: [number, number, number, number, number][] = [
  [1, 1, 1, 1, 1],
  [2, 17, 17, 3, 16],
  [1, 65, 131, 2, 64],
  [1, 33, 33, 1, 80],
  [2, 129, 129, 2, 64],
];
for (const dtype of floats) {
  for (const [batch, queries, keys, count, channels] of heads) {
    const shape = [batch, keys, 3, count, channels];
    const parts = (s: Side) => {
      const qkv = s.normal(shape, dtype);
      return [qkv.select(2, 0).slice(1, keys - queries), qkv.select(2, 1), qkv.select(2, 2)] as [
        Tensor,
        Tensor,
        Tensor,
      ];
    };
    const name = `attention ${dtype} [${batch}, ${queries} of ${keys}, ${count}, ${channels}]`;
    await check(name, (s) => [attention(...parts(s))], { units: 4 });
    await check(
      `${name}, probabilities, padding`,
      (s) => {
        const [q, k, v] = parts(s);
        const probs = s.own(Tensor.empty([batch, queries, keys, count], { device: s.device, dtype }));
        const pad = s.bools([batch, keys]);
        const out = attention(q, k, v, { probs, pad, causal: false });
        return [out, probs.clone()];
      },
      { units: 4 },
    );
  }
}
await check('maskLogits', (s) => {
  const logits = s.normal([2, 3, 17, 31], 'float32', { strided: true });
  maskLogits(logits, { pad: s.bools([2, 31]) });
  return [logits.clone()];
});

// ---- products

const processors = Number(/(\d+) multiprocessors/.exec(gpu.description)?.[1] ?? 2);
const sizes: [number, number, number][] = [
  [1, 1, 1],
  [7, 33, 65],
  [129, 257, 257],
  [129, 70, 256 * (Math.ceil(processors / 2) + 1) + 1], // more tiles than blocks
];
const kinds = [
  ['float32', 'float32', 'float32', 4],
  ['float32', 'float32', 'strict', 4],
  ['float32', 'float32', 'tf32', 2 ** 11],
  ['float32', 'float32', 'bf16', 2 ** 14],
  ['bfloat16', 'bfloat16', 'float32', 1],
  ['float16', 'float16', 'float32', 2],
  ['bfloat16', 'float32', 'float32', 1],
  ['float32', 'bfloat16', 'float32', 4],
] as const;
for (const [m, k, n] of sizes) {
  for (const [dtype, stored, precision, units] of kinds) {
    const name = `linear ${dtype} x ${stored}, ${precision} [${m}, ${k}] x [${k}, ${n}]`;
    await check(
      name,
      (s) => {
        const scale = 1 / Math.sqrt(k);
        const x = s.normal([m, k], dtype);
        const w = s.own(packWeights(s.normal([k, n], stored, { scale, strided: k < 100 && n < 1000 })));
        const [bias, residual] = [s.normal([n], dtype), s.normal([m, n], dtype)];
        const own = s.own(residual.clone());
        linear(x, w, { bias, precision, residual: own, out: own });
        const plain = linear(x, w, { precision, activation: m === 7 ? 'relu' : 'none' });
        if (n > 1000) return [plain];
        return [plain, linear(x, w, { bias, residual, precision, activation: 'gelu' }), own.clone()];
      },
      { units },
    );
  }
}
await check('linear float32: what half precision cannot hold', (s) => {
  const x = s.normal([130, 65]);
  x.slice(0, 0, 1).mul_(1e30);
  x.slice(0, 3, 4).mul_(1e-30);
  x.slice(0, 5, 6).slice(1, 7, 8).fill(Number.POSITIVE_INFINITY);
  x.slice(0, 129, 130).slice(1, 0, 1).fill(Number.NaN);
  const out = linear(x, s.own(packWeights(s.normal([65, 67]))));
  // rows of so many sizes: each by its own measure
  const size = s.own(s.own(x.mul(0)).add(1).max(-1, { keepDim: true })).fill(1);
  size.slice(0, 0, 1).fill(1e30);
  size.slice(0, 3, 4).fill(1e-30);
  return [out.div(size)];
});
for (const [dtype, precision, units] of [
  ['float32', 'float32', 8],
  ['float32', 'strict', 8],
  ['bfloat16', 'float32', 2],
  ['float16', 'float32', 4],
] as const) {
  await check(
    `matmul ${dtype}, ${precision}`,
    (s) => {
      const [a, b] = [s.normal([3, 1, 37, 65], dtype), s.normal([2, 65, 33], dtype, { strided: true })];
      const bias = s.normal([33], dtype);
      const transposed = matmul(s.normal([131, 67], dtype), s.normal([129, 67], dtype), {
        transposeB: true,
        precision,
      });
      return [matmul(a, b, { bias, precision }), transposed, matmul(s.normal([1, 1], dtype), s.normal([1, 1], dtype))];
    },
    { units },
  );
}
for (const dtype of floats) {
  await check(`einsum ${dtype}`, (s) => {
    const [q, k] = [s.normal([2, 17, 3, 16], dtype), s.normal([2, 31, 3, 16], dtype, { strided: true })];
    return [einsum('bqhc,bkhc->bhqk', q, k), einsum('bqhc,bkhc->khb', q, k), einsum('bqhc,bqhc->bh', q, q)];
  });
}
await check('joins', (s) => {
  const [a, b] = [s.normal([5, 33], 'float16', { strided: true }), s.integers([5, 33], -9, 9)];
  return [cat([a, b.slice(0, 1)]), stack([b, s.bools([5, 33])], -1), a.expand(2, 5, 33).sum(-1), a.diagonal(3).clone()];
});
for (const dtype of floats) {
  await check(`packing ${dtype}`, (s) => {
    const packed = s.own(packWeights(s.normal([131, 37], dtype), { transposeB: true }));
    const other = s.own(packWeights(s.normal([1, 33]), { dtype }));
    return [packed.unpack(), packed.unpack({ transposeB: true }), other.unpack()];
  });
}
await check(
  'random',
  (s) => {
    const { device } = s;
    const normal = Tensor.randn([3, 1031], { device, seed: 5, mean: 1, std: 2 });
    return [normal, Tensor.randn([1], { device, seed: 2 ** 40 }), Tensor.randint(-5, 9, [1031], { device, seed: 1 })];
  },
  { units: 4 },
);

// ---- sparse rows

for (const [dtype, precision] of [
  ['float32', 'float32'],
  ['float32', 'strict'],
  ['float32', 'tf32'],
  ['bfloat16', 'float32'],
] as const) {
  for (const [m, k, n] of [
    [1, 1, 1],
    [131, 65, 257],
    [5, 33, 3001],
  ] as const) {
    for (const [top, threshold, relu] of [
      [0, 0, true], // of 3,001 columns, more pass than a list holds
      [0, 0.7, false],
      [Math.min(n, 33), 0, true],
      [1, 0.5, false],
    ] as const) {
      const name = `sparseEncode ${dtype}, ${precision} [${m}, ${k}] x [${k}, ${n}], ${top || 'all'} above ${threshold}`;
      await check(name, async (s) => {
        const x = s.normal([m, k], dtype);
        const w = s.own(packWeights(s.normal([k, n], dtype, { scale: 1 / Math.sqrt(k) })));
        const bias = s.normal([n]);
        const got = await sparseEncode(x, w, { bias, k: top, threshold, relu, precision });
        const out = s.own(Tensor.empty([m, n], { device: s.device }));
        const dense = (await linear(x, w, { bias, out, precision }).read()) as Float32Array;
        const kept = { top, threshold, relu };
        for (let row = 0; row < m; row++) checkRow(got, row, dense.subarray(row * n, (row + 1) * n), kept);
        return []; // the two devices round differently: which values pass may differ, dense rows are compared elsewhere
      });
    }
    await check(`sparseEncode ${dtype}, ${precision} [${m}, ${k}] x [${k}, ${n}], thresholds of columns`, async (s) => {
      const x = s.normal([m, k], dtype);
      const w = s.own(packWeights(s.normal([k, n], dtype, { scale: 1 / Math.sqrt(k) })));
      const out = s.own(Tensor.empty([m, n], { device: s.device }));
      const dense = (await linear(x, w, { out, precision }).read()) as Float32Array;
      // every other one is a value of its column
      const limits = s.host(n).map((v, j) => Math.abs(j % 2 ? v : (dense[(j % m) * n + j] as number)));
      const thresholds = s.own(Tensor.from(limits, { device: s.device }));
      const got = await sparseEncode(x, w, { thresholds, threshold: 0.1, precision });
      const kept = { top: 0, threshold: 0.1, thresholds: limits };
      for (let row = 0; row < m; row++) checkRow(got, row, dense.subarray(row * n, (row + 1) * n), kept);
      return [];
    });
  }
}
for (const dtype of floats) {
  await check(
    `sparseDecode ${dtype}`,
    (s) => {
      const [rows, k, n] = [37, 131, 67];
      const rowPtr = [0n];
      const indices: number[] = [];
      for (let row = 0; row < rows; row++) {
        for (let j = row % 5; j < (row === 3 ? 0 : k); j += 1 + (row % 7)) indices.push(j);
        rowPtr.push(BigInt(indices.length));
      }
      const sparse = {
        rowPtr: BigInt64Array.from(rowPtr),
        indices: Int32Array.from(indices),
        values: s.host(indices.length),
      };
      const w = s.own(packWeights(s.normal([k, n], dtype)));
      return [sparseDecode(sparse, w, { bias: s.normal([n]) }), sparseDecode(sparse, w, { dtype: 'float32' })];
    },
    { units: 4 },
  );
}
await check('updateLastNonzero', (s) => {
  const stats = s.own(Tensor.zeros([131], { device: s.device, dtype: 'int32' }));
  for (let i = 0; i < 3; i++) updateLastNonzero(stats, topKMask(s.normal([2, 3, 131]), 5));
  return [stats.clone()];
});

for (const [rows, n] of [
  [7, 131],
  [3, 50_257],
] as const) {
  await check(`chooseIndex [${rows}, ${n}]`, (s) => {
    const logits = s.normal([rows, n], 'float32', { scale: 3 });
    const words = Int32Array.from({ length: 2 * rows }, (_, i) => ((i + 1) * 9_876_543) % 2 ** 26);
    const random = s.own(Tensor.from(words, { shape: [rows, 2], device: s.device }));
    // Each device's own softmax may differ in the last bits.
    const probs = s.own(
      Tensor.from(
        s.host(rows * n).map((v) => Math.abs(v) / n),
        { shape: [rows, n], device: s.device },
      ),
    );
    const outs = [0, 1].map(() => Tensor.empty([2, rows], { device: s.device, dtype: 'int32' })) as [Tensor, Tensor];
    chooseIndex(outs[0], logits);
    chooseIndex(outs[1], probs, random);
    return outs;
  });
}

// ---- all together

for (const [dtype, part] of [
  ['float32', 1e-5],
  ['bfloat16', 0.05],
] as const) {
  await check(
    `the demo model, ${dtype}`,
    async (s) => {
      const xf = s.own(await Transformer.load('demo', { device: s.device, dtype }));
      const tokens = [0, 1].map((b) => Array.from({ length: 7 }, (_, i) => (b * 31 + i * 17) % xf.nVocab));
      const probs = (await xf.activations(tokens, ['0/attn/qk_probs'])).get('0/attn/qk_probs') as Tensor;
      return [(await xf.forward(tokens)).logits, probs];
    },
    { part },
  );
}

const left = Object.entries(called).filter(([, times]) => times === 0);
if (words.length === 0 && left.length > 0) {
  checks.fail(`never called: ${left.map(([operation]) => operation).join(', ')}`);
}
checks.end(gpu.description);
