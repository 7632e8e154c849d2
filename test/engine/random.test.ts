// Random values against Philox 4x32-10 written out once more in big integers, and against the moments they must have.
import * as assert from 'uvu/assert';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { testDevice } from '../support/device.js';
import { suite } from '../support/harness.js';
import { cases, product } from '../support/operations/cases.js';

const test = suite('random');
const mask = 0xffffffffn;

/** The four values of a counter (Salmon et al., SC'11, section 3.3). */
function philox(counter: bigint, key: bigint): number[] {
  let [a, b, c, d] = [counter & mask, counter >> 32n, 0n, 0n];
  let [k0, k1] = [key & mask, key >> 32n];
  for (let round = 0; round < 10; round++) {
    const p = 0xd2511f53n * a;
    const q = 0xcd9e8d57n * c;
    [a, b, c, d] = [(q >> 32n) ^ b ^ k0, q & mask, (p >> 32n) ^ d ^ k1, p & mask];
    k0 = (k0 + 0x9e3779b9n) & mask;
    k1 = (k1 + 0xbb67ae85n) & mask;
  }
  return [a, b, c, d].map(Number);
}

test('the generator gives its published values', () => {
  // the known answers of the authors' library for a counter and key of zeros
  assert.equal(philox(0n, 0n), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
});

test('200 random shapes and seeds: normal and integer values', async () => {
  await cases(200, async (c) => {
    const shape = c.rng.shape(c.rng.integer(0, 4), { elements: 3000 });
    const size = product(shape);
    const seed = c.rng.pick([0, 1, c.rng.integer(0, 2 ** 32), c.rng.integer(0, 2 ** 53)]);
    const [mean, std] = [c.rng.normal(), c.rng.next() + 0.1];
    const normal = c.own(Tensor.randn(shape, { seed, mean, std, device: c.device }));
    const expected = Array.from({ length: size }, (_, i) => {
      const four = philox(BigInt(i >> 2), BigInt(seed));
      const pair = i & 2;
      const radius = std * Math.sqrt(-2 * Math.log(((four[pair] as number) + 0.5) / 2 ** 32));
      const angle = (2 * Math.PI * (four[pair + 1] as number)) / 2 ** 32;
      return mean + radius * (i & 1 ? Math.sin(angle) : Math.cos(angle));
    });
    close(await normal.read(), expected, { rtol: 1e-6, atol: 1e-6 });
    const low = c.rng.pick([0, -5, -(2 ** 31)]);
    const high = c.rng.pick([low + 1, low + 10, 2 ** 31]);
    const whole = c.own(Tensor.randint(low, high, shape, { seed, device: c.device }));
    const integers = Array.from({ length: size }, (_, i) => {
      const four = philox(BigInt(i >> 1), BigInt(seed)).map(BigInt) as [bigint, bigint, bigint, bigint];
      const fraction = i & 1 ? (four[2] << 32n) | four[3] : (four[0] << 32n) | four[1];
      return low + Number((fraction * BigInt(high - low)) >> 64n);
    });
    close(await whole.read(), integers);
  });
});

test('moments, and the same values for any number of threads and in 16 bits', async () => {
  const n = 200_000;
  const one = Float32Array.from(await Tensor.randn([n], { seed: 42, device: testDevice(1) }).read());
  close(await Tensor.randn([n], { seed: 42, device: testDevice(3) }).read(), one);
  const mean = one.reduce((a, b) => a + b) / n;
  const moment = (p: number) => one.reduce((a, b) => a + (b - mean) ** p, 0) / n;
  assert.ok(
    Math.abs(mean) < 0.01 &&
      Math.abs(moment(2) - 1) < 0.02 &&
      Math.abs(moment(3)) < 0.05 &&
      Math.abs(moment(4) - 3) < 0.15,
  );
  close(await Tensor.randn([100], { seed: 42, dtype: 'bfloat16' }).read(), one.slice(0, 100), { rtol: 2 ** -8 });
});

test.run();
