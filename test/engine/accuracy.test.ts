// The errors that native/cpu/simd.h states for exp and GELU, in units in the last place. Oracle: Math.exp in doubles.
import * as assert from 'uvu/assert';
import { softmaxNumerator } from '../../src/engine/ops/softmax.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { gelu } from '../../src/engine/ops/unary.js';
import { emulated, onCpu, testDevice } from '../support/device.js';
import { suite } from '../support/harness.js';
import { random } from '../support/random.js';

const test = suite('accuracy');
const samples = emulated() ? 2000 : 100_000;
const leeway = onCpu ? 1 : 2; // a GPU's exponential is its vendor's

/** The distance from one float32 to the next at x. */
function unitAt(x: number): number {
  const exponent = Math.max(Math.floor(Math.log2(Math.abs(x))), -126);
  return 2 ** (exponent - 23);
}

interface Curve {
  readonly from: number;
  readonly to: number;
  readonly compute: (x: Float32Array) => Promise<ArrayLike<number>>;
  readonly exact: (x: number) => number;
  /** Units that are allowed at x. */
  readonly units: (x: number) => number;
}

async function check({ from, to, compute, exact, units }: Curve): Promise<void> {
  const rng = random(3);
  const xs = Float32Array.from({ length: samples }, (_, i) => from + ((to - from) * (i + rng.next())) / samples);
  const got = await compute(xs);
  for (const [i, x] of xs.entries()) {
    const expected = exact(x);
    const off = Math.abs((got[i] as number) - expected) / unitAt(expected);
    assert.ok(off <= leeway * units(x), `at ${x}: ${got[i]}, not ${expected}: ${off.toFixed(2)} units`);
  }
}

/** e^x for x of 0 or less: the numerator of a softmax over x and 0. */
async function expOf(xs: Float32Array): Promise<ArrayLike<number>> {
  const pairs = new Float32Array(2 * xs.length);
  for (const [i, x] of xs.entries()) pairs[2 * i] = x;
  using t = Tensor.from(pairs, { shape: [xs.length, 2], device: testDevice() });
  using out = softmaxNumerator(t);
  return (await out.read()).filter((_: number, i: number) => i % 2 === 0);
}

async function geluOf(xs: Float32Array): Promise<ArrayLike<number>> {
  using t = Tensor.from(xs, { device: testDevice() });
  using out = gelu(t);
  return out.read();
}

const twiceU = (x: number): number => 2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3);
const exactGelu = (x: number): number => x / (1 + Math.exp(-twiceU(x)));

test('exp: within 1.5 units', async () => {
  const curve = { compute: expOf, exact: Math.exp, units: () => 1.5 };
  await check({ ...curve, from: -103, to: 0 });
  await check({ ...curve, from: -1, to: 0 });
});

test('GELU: within 3 units where x >= 0; below, as many more as its exponent is large', async () => {
  const units = (x: number) => 3 + Math.max(0, -3 * twiceU(x));
  const curve = { compute: geluOf, exact: exactGelu, units };
  await check({ ...curve, from: -9.9, to: 0 });
  await check({ ...curve, from: -0.01, to: 0.01 });
  await check({ ...curve, from: 0, to: 30 });
});

test.run();
