// Reductions against loops in doubles, and against exact sums.
import * as assert from 'uvu/assert';
import { DeviceError } from '../../src/engine/errors.js';
import { layerNorm } from '../../src/engine/ops/layer_norm.js';
import { rootMeanSquare } from '../../src/engine/ops/root_mean_square.js';
import { softmax } from '../../src/engine/ops/softmax.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { emulated, onCpu, testDevice } from '../support/device.js';
import { rejects, suite, throws } from '../support/harness.js';
import { type Case, cases, type Sample, unit } from '../support/operations/cases.js';
import { along, alongAll, anyDim, sameInAnyBatch } from '../support/operations/rows.js';
import type { Random } from '../support/random.js';

const test = suite('reduce');

test('sum, mean and max', async () => {
  await cases(200, async (c) => {
    const [x, d] = await anyDim(c, c.rng.next() < 0.9 ? 1 : 0);
    const { rows, rest } = along(x, d);
    const keepDim = c.rng.next() < 0.5;
    const r = { rtol: unit[x.t.dtype] + 1e-5, atol: 2e-5 };
    const sum = c.own(x.t.sum(d, { keepDim }));
    assert.equal([...sum.shape], keepDim ? x.t.shape.map((n, i) => (i === d ? 1 : n)) : rest);
    close(
      await sum.read(),
      rows.map((row) => row.reduce((a, b) => a + b, 0)),
      r,
    );
    close(
      await c.own(x.t.mean(d - x.t.shape.length)).read(),
      rows.map((row) => row.reduce((a, b) => a + b, 0) / row.length),
      r,
    );
    close(await c.own(x.t.sum()).read(), [x.x.reduce((a, b) => a + b, 0)], { rtol: r.rtol, atol: 1e-3 });
    if (x.t.size > 0) {
      close(
        await c.own(x.t.max(d)).read(),
        rows.map((row) => Math.max(...row)),
      );
      close(await c.own(x.t.max()).read(), [x.x.reduce((a, b) => Math.max(a, b))]);
    } else {
      throws(() => x.t.max(d), RangeError, /max: the tensor must be of at least one element/);
    }
  });
  using i = Tensor.from(
    [
      [2 ** 30, 2 ** 30],
      [3, 4],
    ],
    { dtype: 'int32' },
  );
  assert.equal([...(await i.sum(0).read())], [2 ** 30 + 3, 2 ** 30 + 4]);
  assert.equal(
    [i.mean(1).dtype, ...(await i.mean(0).read())],
    ['float32', (2 ** 30 + 3) / 2, (2 ** 30 + 4) / 2].map((v) => (typeof v === 'number' ? Math.fround(v) : v)),
  );
  using flags = Tensor.from([true, true, false]);
  assert.equal([...(await flags.sum().read())], [2]);
  close(await Tensor.from([1, NaN, 2]).max(0).read(), [NaN]);
});

/** The sum of finite numbers, exact but for one rounding (Shewchuk 1997): partial sums that do not overlap. */
function exactSum(values: Iterable<number>): number {
  const parts: number[] = [];
  for (let x of values) {
    let kept = 0;
    for (let part of parts) {
      if (Math.abs(x) < Math.abs(part)) [x, part] = [part, x];
      const sum = x + part;
      const rest = part - (sum - x);
      if (rest !== 0) parts[kept++] = rest;
      x = sum;
    }
    parts.length = kept;
    parts.push(x);
  }
  return parts.reduceRight((sum, part) => sum + part, 0);
}

/** The sum of numbers of which some may be infinite or NaN. */
function sumOf(values: readonly number[]): number {
  const odd = values.filter((x) => !Number.isFinite(x));
  return odd.length > 0 ? odd.reduce((a, b) => a + b) : exactSum(values);
}

// what goes wrong in sums of float32: each gives element i of n
const kinds: Record<string, (rng: Random, n: number) => (i: number) => number> = {
  normal: (rng) => () => rng.normal(),
  equal: (rng) => {
    const x = rng.pick([0.1, 1 / 3, 16777217, 3e-39, 1e37]) * rng.pick([1, -1]);
    return () => x;
  },
  'huge, alternating': (rng) => (i) => (i % 2 ? -1 : 1) * 3e38 + rng.normal(),
  'huge, then gone': (rng, n) => (i) => (i < Math.floor(n / 2) ? 3e38 : i < 2 * Math.floor(n / 2) ? -3e38 : rng.next()),
  growing: (_, n) => (i) => 10 ** ((i / n) * 60 - 30),
  falling: (_, n) => (i) => -(10 ** (30 - (i / n) * 60)),
  subnormal: (rng) => () => rng.integer(-1000, 1000) * 2 ** -149,
  ones: () => () => 1,
  'one among many': (rng, n) => {
    const at = rng.integer(0, n);
    return (i) => (i === at ? 2 ** 24 : 1 / 3);
  },
  special: (rng) => {
    const odd = rng.pick([[NaN], [Infinity], [-Infinity], [Infinity, -Infinity], [Infinity, 3e38]]);
    return (i) => (i % 7 === 3 ? (odd[i % odd.length] as number) : rng.normal());
  },
};

const primes = [2, 3, 5, 7, 31, 37, 127, 1009, 1021, 1031, 4093, 4099];

test(
  '1000 sums and means: within 3e-7 of the sum of magnitudes, before they are rounded',
  async () => {
    await cases(1000, async ({ rng, device, own }) => {
      const n = rng.pick([0, 1, rng.pick(primes), rng.integer(1, 200), rng.integer(1, emulated() ? 5000 : 20_000)]);
      const rows = n > 3000 ? rng.integer(1, 4) : rng.integer(1, 40);
      const dtype = rng.pick(['float32', 'float32', 'bfloat16', 'float16'] as const);
      const kind = rng.pick(Object.keys(kinds));
      const scale = dtype === 'float16' && kind !== 'normal' ? 2 ** -115 : 1; // 3e38 is 7e3 then
      const data = new Float32Array(rows * n);
      for (let row = 0; row < rows; row++) {
        const value = (kinds[kind] as (typeof kinds)[string])(rng, Math.max(n, 1));
        for (let i = 0; i < n; i++) data[row * n + i] = value(i) * scale;
      }
      // the rows in the order of memory, across it, or in the middle of a larger tensor
      const layout = rng.pick(['along', 'across', 'within']);
      const wide = own(Tensor.from(data, { shape: [rows, n], device }).to(dtype));
      const x = layout === 'along' ? wide : own(Tensor.zeros([n + 3, rows + 2], { device, dtype }));
      const view =
        layout === 'along'
          ? wide
          : layout === 'across'
            ? own(wide.permute([1, 0]).clone()).permute([1, 0])
            : x
                .slice(0, 2, n + 2)
                .slice(1, 1, rows + 1)
                .permute([1, 0])
                .copyFrom(wide);
      const values = await wide.read();
      const [sums, means] = [await own(view.sum(1)).read(), await own(view.mean(1)).read()];
      const [over, middle] = [await own(view.permute([1, 0]).sum(0)).read(), await own(view.clone().sum(-1)).read()];
      for (let row = 0; row < rows; row++) {
        const of = [...values.subarray(row * n, (row + 1) * n)];
        const where = `${kind}, ${n} of ${dtype}, ${layout}`;
        const exact = sumOf(of);
        const size = sumOf(of.map(Math.abs));
        checkSum(sums[row] as number, exact, size, dtype, `sum, ${where}`);
        checkSum(means[row] as number, n ? exact / n : NaN, size / Math.max(n, 1), dtype, `mean, ${where}`);
      }
      close(over, sums);
      close(middle, sums);
    });
  },
  { limit: 250_000 },
);

function checkSum(got: number, exact: number, size: number, dtype: keyof typeof unit, where: string): void {
  // what the dtype holds: its largest value and half a step beyond, half a step at 1, half its smallest value
  const [most, step, least] = {
    float32: [2 ** 128 - 2 ** 103, 2 ** -24, 2 ** -150],
    bfloat16: [2 ** 128 - 2 ** 119, 2 ** -8, 2 ** -134],
    float16: [65520, 2 ** -11, 2 ** -25],
  }[dtype as 'float32'] as [number, number, number];
  const allowed = 3e-7 * size + step * Math.abs(exact) + least;
  if (!Number.isFinite(exact)) assert.is(String(got), String(exact), where);
  else if (Math.abs(exact) >= most) assert.is(got, Math.sign(exact) * Infinity, where);
  else assert.ok(Math.abs(got - exact) <= allowed, `${where}: ${got}, not ${exact}: off by more than ${allowed}`);
}

test('sums do not drift with their length, nor does what is made of them', async () => {
  const device = testDevice();
  const tenth = Math.fround(0.1);
  using long = Tensor.zeros([1e7], { device }).fill(0.1);
  assert.is((await long.sum().read())[0], Math.fround(long.size * tenth));
  assert.is((await long.mean().read())[0], tenth);
  using high = Tensor.zeros([1e6, 4], { device }).fill(0.1);
  assert.equal([...(await high.mean(0).read())], [tenth, tenth, tenth, tenth]);
  for (const dtype of ['bfloat16', 'float16'] as const) {
    using half = long.slice(0, 0, 2 ** 19).to(dtype);
    const [value] = await half.slice(0, 0, 1).read();
    assert.is((await half.mean().read())[0], value);
    assert.is((await half.sum().read())[0], 2 ** 19 * (value as number));
  }

  const n = 100_003;
  using equal = Tensor.zeros([2, n], { device }).fill(0.1);
  using gain = Tensor.zeros([n], { device }).fill(1);
  using bias = Tensor.zeros([n], { device }).fill(0.25);
  assert.ok((await layerNorm(equal, gain, bias).read()).every((x) => x === 0.25));
  close(await softmax(equal).read(), new Float32Array(2 * n).fill(1 / n), { rtol: 1e-7 });
  close(await rootMeanSquare(equal, { eps: 0 }).read(), [tenth, tenth], { rtol: 1e-7 });
  using huge = Tensor.from([[3e38, -3e38, 3e38]], { device });
  close(await rootMeanSquare(huge).read(), [3e38], { rtol: 1e-7 });
});

test('a sum of int32 is exact, or an error where int32 does not hold it', async () => {
  const device = testDevice();
  using x = Tensor.from(
    [
      [2 ** 31 - 1, 1, -1],
      [2 ** 31 - 1, 1, 0],
      [-(2 ** 31), -1, 0],
    ],
    { dtype: 'int32', device },
  );
  assert.equal([...(await x.slice(0, 0, 1).sum(1).read())], [2 ** 31 - 1]);
  const why = (row: number, sum: number) =>
    new RegExp(`^reduce: the sum of row ${row} is ${sum}, which int32 does not hold \\(of out \\[`);
  await rejects(x.slice(0, 0, 2).sum(1).read(), DeviceError, why(1, 2 ** 31));
  await rejects(x.slice(0, 2).sum(-1).read(), DeviceError, why(0, -(2 ** 31) - 1));
  await rejects(x.slice(1, 0, 1).slice(0, 0, 2).sum().read(), DeviceError, why(0, 2 ** 32 - 2));
  await rejects(x.permute([1, 0]).slice(1, 0, 2).sum(0).read(), DeviceError, why(1, 2 ** 31));
  // means leave no dtype
  assert.equal(
    [...(await x.mean(1).read())],
    [2147483647, 2 ** 31, -(2 ** 31) - 1].map((sum) => Math.fround(sum / 3)),
  );
  using odd = Tensor.from([2 ** 24 + 1, 2 ** 24 + 1], { dtype: 'int32', device });
  assert.is((await odd.mean().read())[0], 2 ** 24);
  using apart = Tensor.from([2 ** 24 + 1, -(2 ** 24)], { dtype: 'int32', device });
  assert.is((await apart.mean().read())[0], 0.5);
  using many = Tensor.zeros([70_001], { dtype: 'int32', device }).fill(30_000);
  assert.is((await many.sum().read())[0], 70_001 * 30_000);
  using flags = Tensor.from(new Uint8Array(70_001).fill(1), { device });
  assert.equal([(await flags.sum().read())[0], (await flags.mean().read())[0]], [70_001, 1]);
});

test('a sum has the same bits along memory and across it, for any number of threads', async () => {
  const shape = [2, 5000, 37];
  const data = await Tensor.randn(shape, { seed: 3 }).read();
  let first: ArrayLike<number> | undefined;
  for (const threads of [1, 2, 3, 4]) {
    const device = testDevice(threads);
    using x = Tensor.from(data, { shape, device });
    using across = x.sum(1);
    using turned = x.permute([0, 2, 1]).clone();
    using along = turned.sum(2);
    first ??= await across.read();
    close(await across.read(), first);
    close(await along.read(), first);
  }
});

test('rows are the same bits for any batch and any number of threads', async () => {
  await sameInAnyBatch((x) => x.sum(1));
});

// ---- all kinds, over several dimensions

const total = (row: readonly number[]) => row.reduce((a, b) => a + b, 0);
const spread = (row: readonly number[]) => {
  const mean = total(row) / row.length;
  return total(row.map((x) => (x - mean) ** 2));
};
const over = (squares: number, n: number) => squares / Math.max(n, 0);
const largest = (row: readonly number[]) => row.reduce((a, b) => (b > a || Number.isNaN(b) ? b : a), -Infinity);

type Kind = 'sum' | 'mean' | 'max' | 'min' | 'any' | 'all' | 'var' | 'std' | 'norm' | 'logSumExp';
const oracles: Record<Kind, (row: readonly number[]) => number> = {
  sum: total,
  mean: (row) => total(row) / row.length,
  max: largest,
  min: (row) => -largest(row.map((x) => -x)),
  any: (row) => Number(row.some((x) => x !== 0)),
  all: (row) => Number(row.every((x) => x !== 0)),
  var: (row) => over(spread(row), row.length - 1),
  std: (row) => Math.sqrt(over(spread(row), row.length - 1)),
  norm: (row) => Math.sqrt(total(row.map((x) => x * x))),
  logSumExp: (row) => {
    const top = largest(row);
    return Number.isFinite(top) ? top + Math.log(total(row.map((x) => Math.exp(x - top)))) : top;
  },
};
const allKinds = Object.keys(oracles) as Kind[];

/** A tensor of any dtype, in any layout; one in three elements 0. */
async function anything(c: Case, shape: number[]): Promise<Sample> {
  const dtype = c.rng.pick(['float32', 'float32', 'bfloat16', 'float16', 'int32', 'bool'] as const);
  const x = dtype === 'int32' || dtype === 'bool' ? await c.integers(shape, -40, 41) : await c.tensor(shape, { dtype });
  if (c.rng.next() < 0.7) x.t.mul_(c.own((await c.integers(shape, 0, 3)).t.to('bool')));
  const t = dtype === 'bool' ? c.own(x.t.to('bool')) : x.t;
  return { t, x: Float64Array.from(await t.read()) };
}

const resultOf = (kind: Kind, { dtype }: Tensor) => {
  if (kind === 'any' || kind === 'all') return 'bool';
  const exact = kind === 'sum' || kind === 'max' || kind === 'min';
  return dtype === 'bool' || dtype === 'int32' ? (exact ? 'int32' : 'float32') : dtype;
};

test(
  'every kind over one dimension, several in any order, and all',
  async () => {
    await cases(300, async (c) => {
      const x = await anything(
        c,
        c.rng.shape(c.rng.integer(0, 5), { elements: 5000, min: c.rng.next() < 0.8 ? 1 : 0 }),
      );
      const { shape } = x.t;
      const dims = [...shape.keys()].filter(() => c.rng.next() < 0.5);
      const whole = dims.length === 0;
      const { rows, rest } = alongAll(x, whole ? [...shape.keys()] : dims);
      const given = dims.map((d) => (c.rng.next() < 0.5 ? d : d - shape.length));
      if (c.rng.next() < 0.5) given.reverse();
      const dim = whole ? c.rng.pick([undefined, []]) : given.length === 1 && c.rng.next() < 0.5 ? given[0] : given;
      const keepDim = c.rng.next() < 0.5;
      for (const kind of allKinds) {
        if (x.t.size === 0 && (kind === 'max' || kind === 'min')) {
          throws(() => x.t[kind](dim), RangeError, /: the tensor must be of at least one element/);
          continue;
        }
        const out = c.own(x.t[kind](dim, { keepDim }));
        const where = `${kind} of ${x.t.dtype} [${shape}] over [${dims}]`;
        assert.is(out.dtype, resultOf(kind, x.t), where);
        const kept = shape.map((n, d) => (whole || dims.includes(d) ? 1 : n));
        assert.equal([...out.shape], keepDim ? kept : rest, where);
        const r = unit[out.dtype] + 1e-6;
        const allowed = out.dtype === 'int32' || out.dtype === 'bool' ? {} : { rtol: r, atol: 1e-5 };
        close(await out.read(), rows.map(oracles[kind]), allowed);
      }
    });
  },
  { limit: 120_000 },
);

test('odd values, as PyTorch has them', async () => {
  const device = testDevice();
  const [n, p, m] = [NaN, Infinity, -Infinity];
  const lines: [row: number[], max: number, min: number, any: number, all: number, norm: number, lse: number][] = [
    [[1, n, 2], n, n, 1, 1, n, n],
    [[n, p, 0], n, n, 1, 0, n, n],
    [[p, 1, 2], p, 1, 1, 1, p, p],
    [[m, m, m], m, m, 1, 1, p, m],
    [[m, 0, m], 0, m, 1, 0, p, 0],
    [[m, n, m], n, n, 1, 1, n, n],
    [[p, m, 0], p, m, 1, 0, p, p],
    [[0, -0, 0], 0, 0, 0, 0, 0, Math.log(3)],
    [[1e-45, 0, 0], 1e-45, 0, 1, 0, 1e-45, Math.log(3)],
    [[3e38, 3e38, 0], 3e38, 0, 1, 0, p, 3e38],
    [[3e20, 4e20, 0], 4e20, 0, 1, 0, 5e20, 4e20],
    [[-1000, -1000, -1000], -1000, -1000, 1, 1, 1000 * Math.sqrt(3), -1000 + Math.log(3)],
  ];
  // the row alone, many times over, and after 4095 or 200,000 zeros
  for (const [row, max, min, any, all, norm, lse] of lines) {
    for (const before of [0, 29, 4095, 200_000]) {
      if (emulated() && before > 5000) continue;
      const zeros = before > 0;
      const data = new Float32Array(before + row.length);
      data.set(row, before);
      for (const dtype of ['float32', 'bfloat16'] as const) {
        if (dtype === 'bfloat16' && Math.abs(norm) < 1e-40) continue; // subnormal numbers it does not hold
        using along = Tensor.from(data, { device }).to(dtype);
        using across = Tensor.zeros([data.length, 3], { device, dtype }).add(along.reshape(-1, 1));
        const r = { rtol: unit[dtype] + 1e-6, atol: 1e-6 };
        const expected: [Kind, number][] = [
          ['max', zeros && max < 0 ? 0 : max],
          ['min', zeros && min > 0 ? 0 : min],
          ['any', any],
          ['all', zeros ? 0 : all],
          ['norm', norm],
        ];
        // zeros are terms
        if (!zeros || !Number.isFinite(lse) || lse > 1e20)
          expected.push(['logSumExp', zeros && lse < 0 ? Math.log(before) : lse]);
        if (row.some((x) => !Number.isFinite(x))) expected.push(['var', NaN], ['std', NaN]);
        for (const [kind, value] of expected) {
          close(await along[kind]().read(), [value], r);
          close(await across[kind](0).read(), [value, value, value], r);
        }
      }
    }
  }
});

test('variances: nothing is lost far from 0; what is left over may be 0 or less', async () => {
  const device = testDevice();
  using far = Tensor.from([1e7, 1e7 + 1, 1e7 + 2], { device });
  assert.equal([...(await far.var().read())], [1]);
  assert.equal([...(await far.var(0, { correction: 0 }).read())], [Math.fround(2 / 3)]);
  assert.equal([...(await far.std(0, { correction: 2 }).read())], [Math.fround(Math.sqrt(2))]);
  assert.equal([...(await far.var(0, { correction: 2.5 }).read())], [4]);
  assert.equal([...(await far.var(0, { correction: -1 }).read())], [0.5]);
  // PyTorch divides by what is left, but by 0 at least
  for (const correction of [3, 5]) assert.equal([...(await far.var(0, { correction }).read())], [Infinity]);
  close(await far.slice(0, 0, 1).var().read(), [NaN]);
  close(await far.slice(0, 0, 0).var(0, { correction: 0 }).read(), [NaN]);
  close(await far.slice(0, 0, 0).std(0, { correction: -1 }).read(), [NaN]);
  assert.equal([...(await far.slice(0, 0, 1).std(0, { correction: 0 }).read())], [0]);
  close(await Tensor.zeros([4], { device }).var(0, { correction: 4 }).read(), [NaN]);
  using integers = Tensor.from([2 ** 30 + 1, 2 ** 30 + 2, 2 ** 30 + 3], { dtype: 'int32', device });
  assert.equal([...(await integers.var().read())], [1]);
  assert.equal([...(await integers.std(0, { correction: 0 }).read())], [Math.fround(Math.sqrt(2 / 3))]);
  using lowest = Tensor.zeros([3, 70_000], { dtype: 'int32', device }).fill(-(2 ** 31));
  assert.equal([...(await lowest.norm(1).read())], [0, 0, 0].fill(Math.fround(2 ** 31 * Math.sqrt(70_000))));
  assert.equal([...(await lowest.var(1).read())], [0, 0, 0]);
  assert.equal([...(await Tensor.from([true, true, false, false], { device }).var().read())], [Math.fround(1 / 3)]);
  // an element that is far from the others, first or last; a mean far from 0; in a line and across it
  const n = emulated() ? 20_011 : 300_007;
  for (const [first, rest, last] of [
    [1e6, 0, 0],
    [0, 0, 1e6],
    [0, 1e4, 1e4 + 1],
    [-1e4, 1e4, 1e4],
  ] as const) {
    const data = new Float32Array(n).fill(rest).map((x, i) => (i === 0 ? first : i === n - 1 ? last : x + (i % 3)));
    const exact = spread([...data]) / (n - 1);
    using x = Tensor.from(data, { device });
    using two = Tensor.zeros([n, 2], { device }).add(x.reshape(-1, 1));
    close(await x.var().read(), [exact], { rtol: 1e-6 });
    close(await two.var(0).read(), [exact, exact], { rtol: 1e-6 });
    close(await x.std().read(), [Math.sqrt(exact)], { rtol: 1e-6 });
  }
});

// few long rows side by side are reduced one by one on the CPU, more of them together
for (const width of [3, 9]) {
  test(`a row has the same bits in any layout, alone or beside ${width - 1}, for any number of threads`, async () => {
    const shape = [2, 150, emulated() ? 31 : 1000, width];
    const data = await Tensor.randn(shape, { seed: 3, std: 3 }).read();
    const first: Partial<Record<Kind, ArrayLike<number>>> = {};
    for (const threads of [1, 2, 3]) {
      const device = testDevice(threads);
      using x = Tensor.from(data, { shape, device });
      using last = x.permute([0, 3, 1, 2]).clone();
      using among = x.permute([1, 0, 2, 3]).clone();
      for (const kind of allKinds) {
        first[kind] ??= await last[kind]([2, 3]).read();
        close(await x[kind]([2, 1]).read(), first[kind]);
        close(await among.permute([1, 0, 2, 3])[kind]([1, 2]).read(), first[kind]);
        using merged = last.reshape(2 * width, -1);
        close(await merged[kind](1).read(), first[kind]);
        close(await merged.slice(0, 4, 5)[kind]().read(), [first[kind]?.[4] as number]);
        const all = await x.clone()[kind]().read();
        close(await x[kind]([0, 1, 2, 3]).read(), all);
        close(await last.permute([0, 2, 3, 1])[kind]().read(), all);
      }
    }
  });
}

test('a row is in row-major order, whatever the order of the dimensions that name it', async () => {
  // of four elements, the first is added to the third
  using x = Tensor.from([
    [1e30, 1],
    [-1e30, 1],
  ]);
  for (const dim of [undefined, [], [0, 1], [1, 0], [-1, 0]]) assert.equal([...(await x.sum(dim).read())], [2]);
});

test('an int32 is exact in max and min, across memory as well; a sum that does not fit is named', async () => {
  const device = testDevice();
  const x = Tensor.from([2 ** 24 + 1, 2 ** 24, -(2 ** 31), 2 ** 31 - 1, 5, 6], {
    shape: [3, 2],
    dtype: 'int32',
    device,
  });
  assert.equal([...(await x.max(0).read())], [2 ** 24 + 1, 2 ** 31 - 1]);
  assert.equal([...(await x.min(0).read())], [-(2 ** 31), 6]);
  assert.equal([...(await x.max().read()), ...(await x.min([0, 1]).read())], [2 ** 31 - 1, -(2 ** 31)]);
  assert.equal(
    [...(await x.any(0).read()), ...(await x.slice(0, 1).any([0, 1]).read()), ...(await x.mul(0).all(0).read())],
    [1, 1, 1, 0, 0],
  );
  await rejects(x.sum(0).read(), DeviceError, /: the sum of row 1 is 2164260869, which int32 does not hold/);
  using flags = Tensor.from([[true, false, true]], { device });
  assert.equal([...(await flags.min(0).read())], [1, 0, 1]);
  assert.is(flags.max().dtype, 'int32');
});

test('wrong dimensions and options', () => {
  const x = Tensor.zeros([2, 3]);
  throws(() => x.sum([0, -2]), RangeError, /^sum: dim must be dimensions that differ, but is \[0, -2\]$/);
  throws(() => x.var([0, 2]), RangeError, /^var: dim\[1\] must be a dimension of \[2, 3\], from -2 to 1, but is 2$/);
  throws(() => x.sum().mean(0), RangeError, /^mean: dim must be a dimension of \[\], which has none, but is 0$/);
  throws(() => x.norm([[0]] as never), RangeError, /^norm: dim\[0\] must be a dimension/);
  throws(() => x.std(0, { correction: NaN }), RangeError, /^std: correction must be finite, but is NaN$/);
  throws(() => x.sum(0, { correction: 1 } as never), TypeError, /^sum: 'correction' is no option/);
});

// a GPU gives either
const testOnCpu = onCpu ? test : () => {};

testOnCpu('of zeros of both signs, max is 0 and min is -0, wherever they lie', async () => {
  for (const n of [1, 2, 7, 16, 17, 33, 4097, 140_000]) {
    for (const only of [undefined, 0, -0]) {
      const data = new Float32Array(n);
      const rare = Math.floor((n * 2) / 3); // the one that differs from all others
      for (let i = 0; i < n; i++) data[i] = only ?? (i === rare ? 0 : -0);
      const negated = data.map((x) => -x);
      const [max, min] = [only ?? (n > 1 ? 0 : data[0]), only ?? (n > 1 ? -0 : data[0])];
      using x = Tensor.from(data, { device: testDevice() });
      using other = Tensor.from(negated, { device: testDevice() });
      using beside = Tensor.from(
        Float32Array.from({ length: 9 * n }, (_, i) => data[Math.floor(i / 9)] as number),
        { shape: [n, 9], device: testDevice() },
      );
      const label = `${n} elements, ${only === undefined ? 'both' : Object.is(only, 0) ? '0' : '-0'}`;
      const same = async (got: Tensor, expected: number | undefined) => {
        for (const value of await got.read()) assert.ok(Object.is(value, expected), label);
      };
      await same(x.max(), max);
      await same(x.min(), min);
      await same(other.max(), -(min as number));
      await same(other.min(), -(max as number));
      await same(beside.max(0), max);
      await same(beside.min(0), min);
      await same(beside.max(), max);
    }
  }
});

test.run();
