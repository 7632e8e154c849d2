// A multiply-add is rounded once, on every instruction set. Oracle: exact integers, rounded to float32 by hand. Most of
// the sums lie close to the middle between two floats, where rounding to double precision first would go wrong.
import * as assert from 'uvu/assert';
import { packWeights } from '../../src/engine/ops/pack_weights.js';
import { sparseDecode } from '../../src/engine/ops/sparse_decode.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { emulated, testDevice } from '../support/device.js';
import { suite } from '../support/harness.js';
import { random } from '../support/random.js';

const test = suite('fused');
const device = testDevice();
const rows = emulated() ? 20 : 300;
const columns = 300;

const smallestBits = 149; // the smallest float is 2^-149
const scaled = (x: number): bigint => BigInt(x * 2 ** smallestBits);

/** a b + c, rounded once to float32. */
function roundedOnce(a: number, b: number, c: number): number {
  const sum = scaled(a) * scaled(b) + (scaled(c) << BigInt(smallestBits));
  if (sum === 0n) return a * b + c; // for the sign of the zero
  const size = sum < 0n ? -sum : sum;
  const dropped = Math.max(size.toString(2).length - 24, smallestBits);
  const half = 1n << BigInt(dropped - 1);
  let kept = size >> BigInt(dropped);
  const rest = size - (kept << BigInt(dropped));
  if (rest > half || (rest === half && kept % 2n === 1n)) kept += 1n;
  return Math.fround(Number(kept) * 2 ** (dropped - 2 * smallestBits)) * (sum < 0n ? -1 : 1);
}

/** Compares value[i] weight[i][j] + bias[j] with the oracle, bit for bit, as a row of one entry computes it. */
async function check(value: Float32Array, weight: Float32Array, bias: Float32Array): Promise<void> {
  using w = Tensor.from(weight, { shape: [value.length, columns], device });
  using packed = packWeights(w);
  using b = Tensor.from(bias, { device });
  const rowPtr = BigInt64Array.from({ length: value.length + 1 }, (_, i) => BigInt(i));
  using out = sparseDecode({ rowPtr, indices: Int32Array.from(value.keys()), values: value }, packed, { bias: b });
  const got = await out.read();
  for (const [i, x] of got.entries()) {
    const [a, c] = [value[Math.floor(i / columns)] as number, bias[i % columns] as number];
    const expected = roundedOnce(a, weight[i] as number, c);
    assert.ok(Object.is(x, expected), `${a} * ${weight[i]} + ${c}: ${x}, not ${expected}`);
  }
}

const anySign = (rng: ReturnType<typeof random>): number => (rng.next() < 0.5 ? -1 : 1);
/** A float of 24 random bits from 2^exponent to twice that, or of fewer. */
const float = (rng: ReturnType<typeof random>, exponent: number, bits = 23): number =>
  Math.fround((1 + Math.floor(rng.next() * 2 ** bits) / 2 ** bits) * 2 ** exponent);

// Products of half a unit in the last place of the bias, or a little more or less. A row has the value
// 2^-24 (1 + near 2^-23), and weights that make it half a unit times 1 - near^2 2^-46, or half a unit as well as they can.
for (const [name, low, high] of [
  ['normal numbers', -20, 20],
  ['results below the normal range', -128, -126],
  ['results near the largest float', 124, 127],
] as const) {
  test(`half-way cases: ${name}`, async () => {
    const rng = random(7);
    const exponents = Array.from({ length: columns }, () => low + Math.floor(rng.next() * (high - low + 1)));
    const bias = Float32Array.from(exponents, (exponent) => anySign(rng) * float(rng, exponent));
    const near = Array.from({ length: rows }, () => Math.floor(rng.next() * 200) - 100);
    const value = Float32Array.from(near, (n) => 2 ** -24 * (1 + n * 2 ** -23));
    const weight = Float32Array.from({ length: rows * columns }, (_, i) => {
      const half = 2 ** (Math.max(exponents[i % columns] as number, -126) - 24);
      const row = Math.floor(i / columns);
      const exact = rng.next() < 0.5 ? 1 - (near[row] as number) * 2 ** -23 : 2 ** -24 / (value[row] as number);
      return anySign(rng) * half * 2 ** 24 * exact;
    });
    await check(value, weight, bias);
  });
}

test('everything else: products and sums of any size', async () => {
  const rng = random(8);
  const any = (spread: number) => anySign(rng) * float(rng, Math.floor((rng.next() - 0.5) * spread));
  const bias = Float32Array.from({ length: columns }, (_, j) => (j % 10 === 0 ? 0 : any(60)));
  const value = Float32Array.from({ length: rows }, () => any(40));
  await check(
    value,
    Float32Array.from({ length: rows * columns }, () => any(40)),
    bias,
  );
  const tiny = Float32Array.from({ length: columns }, (_, j) => anySign(rng) * 2 ** -149 * (j % 7));
  await check(
    value.map((x) => x * 2 ** -70),
    Float32Array.from({ length: rows * columns }, () => any(40) * 2 ** -60),
    tiny,
  );
});

test.run();
