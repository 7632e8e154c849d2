// chooseIndex against draw() and greedy() of src/transformer/sampling/sampling.ts.
import * as assert from 'uvu/assert';
import { chooseIndex } from '../../src/engine/ops/choose_index.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { draw, greedy } from '../../src/transformer/sampling/sampling.js';
import { onCpu, testDevice } from '../support/device.js';
import { suite, throws } from '../support/harness.js';
import { type Case, cases } from '../support/operations/cases.js';
import { random } from '../support/random.js';

const test = suite('choose_index');
const device = testDevice();

/** Numbers in [0, 1) of 53 bits, as the two words that chooseIndex takes for each. */
const wordsOf = (us: readonly number[]): Int32Array =>
  Int32Array.from(us.flatMap((u) => [Math.floor(u * 2 ** 27), (u * 2 ** 53) % 2 ** 26]));

/** What is to be written for these rows: the indices, then whether there is one. */
function expected(rows: readonly ArrayLike<number>[], us?: readonly number[]): number[] {
  const indices = rows.map((row, r) => {
    if (!us) return greedy(row);
    return Number.isNaN(row[0]) ? undefined : draw(row, () => us[r] as number);
  });
  return [...indices.map((index) => index ?? 0), ...indices.map((index) => (index === undefined ? 0 : 1))];
}

/** Runs chooseIndex on rows of one length, on `on`, and compares. */
async function chosen(rows: readonly ArrayLike<number>[], us?: readonly number[], on = device): Promise<void> {
  const n = rows[0]?.length ?? 0;
  const data = Float32Array.from(rows.flatMap((row) => Array.from(row)));
  using x = Tensor.from(data, { shape: [rows.length, n], device: on });
  await chosenFrom(
    x,
    rows.map((_, r) => data.subarray(r * n, (r + 1) * n)),
    us,
  );
}

async function chosenFrom(x: Tensor, rows: readonly ArrayLike<number>[], us?: readonly number[]): Promise<void> {
  using out = Tensor.full([2, rows.length], -7, { dtype: 'int32', device: x.device });
  using words = us && Tensor.from(wordsOf(us), { shape: [us.length, 2], device: x.device });
  chooseIndex(out, x, words);
  assert.equal([...(await out.read())], expected(rows, us));
}

/** Probabilities in float32: they sum to about 1. */
function probabilities(rng: Case['rng'], n: number): Float32Array {
  const powers = rng.floats(n, 3).map(Math.exp);
  // nucleus sampling leaves zeros
  if (rng.next() < 0.5) for (let i = 0; i < n; i++) if (rng.next() < 0.6) powers[i] = 0;
  const sum = powers.reduce((a, b) => a + b, 0) || 1;
  return powers.map((power) => power / sum);
}

test('random rows in any layout', async () => {
  await cases(200, async (c) => {
    const n = c.rng.pick([1, 2, 3, 8, 31, 64, 65, 257, 1023, 1025, 2048, 2500]);
    const count = c.rng.pick([0, 1, 2, 7]);
    const rows = Array.from({ length: count }, () => probabilities(c.rng, n));
    const us = rows.map(() => c.rng.pick([c.rng.next(), c.rng.next(), 0, 1 - 2 ** -53]));
    const { t } = await c.tensor([count, n], { dtype: 'float32' });
    using host = Tensor.from(Float32Array.from(rows.flatMap((row) => [...row])), {
      shape: [count, n],
      device: c.device,
    });
    t.copyFrom(host);
    await chosenFrom(t, rows, us);
    await chosenFrom(t, rows);
    // few values: many are the largest
    const logits = await c.integers([count, n], -3, 4);
    const values = c.own(logits.t.to('float32'));
    await chosenFrom(
      values,
      rows.map((_, r) => logits.x.subarray(r * n, (r + 1) * n)),
    );
  });
});

test('a vocabulary, on any number of threads', async () => {
  const rng = random(5);
  const rows = Array.from({ length: 7 }, () => probabilities(rng, 50_257));
  const us = rows.map(() => rng.next());
  us[0] = 1 - 2 ** -53;
  for (const threads of onCpu ? [1, 2, 5] : [1]) {
    await chosen(rows, us, testDevice(threads));
    await chosen(rows, undefined, testDevice(threads));
  }
});

test('u on the boundaries', async () => {
  const quarters = [0.25, 0.25, 0.25, 0.25];
  const us = [0, 2 ** -53, 0.25 - 2 ** -53, 0.25, 0.25 + 2 ** -53, 0.5, 0.75, 1 - 2 ** -53];
  await chosen(
    us.map(() => quarters),
    us,
  );
  // zeros are never chosen where another one is left
  await chosen(
    us.map(() => [0, 0.5, 0, 0.25, 0.25, 0]),
    us,
  );
});

test('each bit of u counts', async () => {
  for (let bit = 0; bit < 53; bit++) {
    const u = 2 ** (bit - 53);
    await chosen(
      [
        [u, 1],
        [u + u / 2 ** 20, 1],
      ],
      [u, u],
    );
  }
});

test('what is left is rounded to doubles, one difference after the other', async () => {
  // 0.3 - 0.1 - 0.2 is not 0.3 - (0.1 + 0.2) in floats or doubles
  const tenths = new Float32Array(2100).fill(0.1 / 210);
  const us = Array.from({ length: 40 }, (_, i) => (i * 53 + 1) / 2100);
  await chosen(
    us.map(() => tenths),
    us,
  );
});

test('probabilities that sum to less than u: the last one that is not 0', async () => {
  const u = 1 - 2 ** -53;
  await chosen(
    [
      [0.5, 0.25, 0.125, 0],
      [0.5, 0, 0, 0],
      [0, 0.5, -0, 0],
      [0.25, 0.25, 0.25, 0.125],
    ],
    [u, u, u, u],
  );
  await chosen(
    [
      [0, 0, 0],
      [0, -0, -0],
    ],
    [0, u],
  );
  await chosen([[0.5], [0]], [u, u]);
  for (const n of [255, 256, 257, 1024, 1025, 3000]) {
    const row = new Float32Array(n);
    for (const last of [0, 1, 254, n - 2, n - 1]) await chosen([row.map((_, i) => (i === last ? 0.5 : 0))], [u]);
  }
});

test('NaN and infinities', async () => {
  const [nan, inf] = [Number.NaN, Number.POSITIVE_INFINITY];
  const rows = [
    [nan, 1, 2],
    [1, nan, 0],
    [1, 2, nan],
    [0.25, nan, 0],
    [inf, 1, 2],
    [2, 1, inf],
    [-inf, -inf, -inf],
    [-inf, -inf, -2],
    [-inf, 3, inf],
    [nan, nan, nan],
    [-1e38, -3e38, -inf],
    [3.4e38, 1, 3.4e38],
  ];
  await chosen(rows);
  for (const u of [0, 0.5, 1 - 2 ** -53])
    await chosen(
      rows,
      rows.map(() => u),
    );
  // beyond a vector, a tile and a block of threads
  for (const at of [0, 30, 255, 256, 1500, 2499]) {
    const row = random(1).floats(2500);
    for (const odd of [nan, inf, -inf]) await chosen([row.map((v, i) => (i === at ? odd : v))]);
  }
});

test('of equal logits the first; zeros of both signs are equal', async () => {
  await chosen([
    [0, -0, 0],
    [-0, 0, -0],
    [-1, -0, 0],
    [5, 5, 5],
    [-1e-45, -0, 0],
  ]);
  for (const at of [0, 31, 255, 300, 1999]) {
    const row = new Float32Array(2000).fill(-1).map((_, i) => (i >= at && i % 2 === at % 2 ? 4 : -1));
    await chosen([row]);
  }
});

test('out may show the memory of random', async () => {
  const us = [0.1, 0.9];
  using memory = Tensor.from(wordsOf(us), { shape: [2, 2], device });
  using x = Tensor.from(
    [
      [0.5, 0.5],
      [0.5, 0.5],
    ],
    { device },
  );
  chooseIndex(memory, x, memory);
  assert.equal([...(await memory.read())], [0, 1, 1, 1]);
});

test('wrong arguments', () => {
  const make = (shape: number[], dtype: 'float32' | 'int32' | 'bfloat16') => Tensor.zeros(shape, { dtype, device });
  const [out, x, words] = [make([2, 3], 'int32'), make([3, 5], 'float32'), make([3, 2], 'int32')];
  throws(
    () => chooseIndex(out, make([3, 5], 'bfloat16')),
    TypeError,
    /^chooseIndex: x must be float32, but is bfloat16/,
  );
  throws(() => chooseIndex(out, make([3], 'float32')), RangeError, /x must be \[rows, 1 to 2147483648\], but is \[3\]/);
  throws(() => chooseIndex(out, make([3, 0], 'float32')), RangeError, /x must be \[rows, 1 to .*, but is \[3, 0\]/);
  throws(() => chooseIndex(make([2, 3], 'float32'), x), TypeError, /chooseIndex: out must be int32, but is float32/);
  throws(() => chooseIndex(make([3, 2], 'int32'), x), RangeError, /out must be \[2, 3\] \(.*\), but is \[3, 2\]/);
  const strided = make([3, 2], 'int32').permute([1, 0]);
  throws(() => chooseIndex(strided, x), RangeError, /out must be contiguous, but is a strided view/);
  throws(() => chooseIndex(out, x, x), RangeError, /random must be \[3, 2\] \(.*\), but is \[3, 5\]/);
  throws(() => chooseIndex(out, x, make([3, 2], 'float32')), TypeError, /random must be int32, but is float32/);
  chooseIndex(out, x, words);
});

test.run();
