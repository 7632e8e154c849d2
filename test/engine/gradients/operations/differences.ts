// Gradients against central differences of an oracle in double precision.
import { type Device, openDevice } from '../../../../src/engine/device.js';
import type { DType } from '../../../../src/engine/dtype.js';
import { Tensor } from '../../../../src/engine/ops/tensor.js';
import { coordinates, product } from '../../../support/operations/cases.js';
import { type Random, random } from '../../../support/random.js';

export interface Input {
  readonly shape: readonly number[];
  /** In row-major order; rounded to the dtype. */
  readonly values: Float32Array;
  /** float32 unless given. */
  readonly dtype?: DType;
}

/** A tensor on the CPU, the only device that gradients are computed on. */
export const onCpu = (...[data, options]: Parameters<typeof Tensor.from>): Tensor =>
  Tensor.from(data, { device: openDevice('cpu'), ...options });

/** Frees what it is given after the check. */
export type Own = <T extends { dispose(): void }>(thing: T) => T;

export interface Check {
  /** Names what is checked, for the message. */
  operation: string;
  inputs: readonly Input[];
  /** The function of the inputs, floats; what it makes on the way goes through `own`. The outputs are freed. */
  ours(own: Own, ...inputs: Tensor[]): Tensor | readonly Tensor[];
  /** The same in doubles, in row-major order. */
  oracle(...inputs: Float64Array[]): Float64Array | readonly Float64Array[];
  /**
   * What `ours` is given in place of leaves, at random: views of larger leaves in other orders ('distinct'), and also
   * such as show an element several times ('any'); none unless given.
   */
  views?: 'distinct' | 'any';
  /** Whether an input may be overwritten as a whole: it has no gradient then. */
  mayOverwrite?: boolean;
  /** How far the differences reach, 1e-5 unless given: less where the function has kinks that may be near. */
  step?: number;
  /** On the relative error of each gradient: 2e-5 unless given, 2e-4 at most. A test that loosens it says why. */
  bound?: number;
}

/** A shape of at most 200 elements, or now and then of none; of `min` to `max` dimensions. */
export const smallShape = (rng: Random, min = 0, max = 4): number[] =>
  rng.shape(rng.integer(min, max + 1), { min: rng.next() < 0.1 ? 0 : 1, elements: 200 });

/** Mostly float32. */
export const anyFloat = (rng: Random): DType =>
  rng.next() < 0.75 ? 'float32' : rng.pick(['bfloat16', 'float16'] as const);

/** Values that `draw` gives, normal ones unless given, of any dtype of floats. */
export const drawn = (rng: Random, shape: readonly number[], draw: () => number = rng.normal): Input => ({
  shape,
  values: Float32Array.from({ length: product(shape) }, draw),
  dtype: anyFloat(rng),
});

/**
 * Values of which no two are equal, or nearly so, in any dtype: multiples of 1/32 around 0, at most 200 of them, and
 * `shift` on top.
 */
export function distinct(rng: Random, shape: readonly number[], shift = 0): Input {
  const n = product(shape);
  const order = shuffled(n, rng).map((i) => (i - Math.floor(n / 2)) / 32 + shift);
  return { shape, values: Float32Array.from(order), dtype: anyFloat(rng) };
}

/** How many elements of an input have their derivative computed. */
const most = 16;

/** Calls `make` with the seeds from 1 to `count`, and checks what it gives. */
export async function gradients(count: number, make: (rng: Random, seed: number) => Check): Promise<void> {
  for (let seed = 1; seed <= count; seed++) {
    const rng = random(seed);
    await checkGradients(make(rng, seed), rng, seed);
  }
}

/** The gradient of sum(f(x) * weights), without weights 1, at x. */
export async function gradientAt(
  x: readonly number[],
  f: (x: Tensor) => Tensor,
  weights?: readonly number[],
  dtype: DType = 'float32',
): Promise<number[]> {
  using leaf = onCpu([...x], { dtype }).requireGrad();
  using out = f(leaf);
  using weighted = weights ? out.mul(onCpu([...weights])) : out.clone();
  using loss = weighted.sum();
  await loss.backward();
  return [...((await leaf.grad?.read()) ?? [])];
}

/** Demands that the gradients of sum(weights * outputs), for random weights, are those of the oracle. */
export async function checkGradients(check: Check, rng: Random, seed: number): Promise<void> {
  const { operation, inputs } = check;
  const device = openDevice('cpu', { threads: 1 + (seed % 2) });
  const before = device.memory().allocated;
  const owned: { dispose(): void }[] = [];
  try {
    await compare(check, rng, device, (thing) => {
      owned.push(thing);
      return thing;
    });
    for (const thing of owned) thing.dispose();
    const left = device.memory().allocated - before;
    if (left > 0) throw new Error(`${left} bytes were not freed`);
  } catch (cause) {
    const shapes = inputs.map(({ shape, dtype = 'float32' }) => `[${shape.join(', ')}] ${dtype}`).join(', ');
    throw new Error(`${operation} of ${shapes}, seed ${seed}: ${(cause as Error).message}`, { cause });
  } finally {
    for (const thing of owned) thing.dispose();
  }
}

async function compare(check: Check, rng: Random, device: Device, own: Own): Promise<void> {
  const { bound = 2e-5, step = 1e-5 } = check;
  if (bound > 2e-4) throw new Error(`the bound ${bound} is too loose`);
  const leaves = check.inputs.map((input) => laidOut(input, check.views, rng, device, own));
  const x: Float64Array[] = [];
  for (const { leaf } of leaves) x.push(Float64Array.from(await leaf.read()));
  for (const { leaf } of leaves) leaf.requireGrad();
  const outputs = [check.ours(own, ...leaves.map(({ leaf, view }) => view(leaf)))].flat();
  for (const output of outputs) own(output);
  const weights = outputs.map(({ size }) => rng.floats(size));
  const terms = outputs.map((output, i) => {
    const weight = own(Tensor.from(weights[i] as Float32Array, { shape: [...output.shape], device }));
    return own(own(output.mul(weight)).sum());
  });
  const loss = terms.reduce((a, b) => own(a.add(b)));
  await loss.backward();

  const lossAt = (values: readonly Float64Array[]): number => {
    const shown = leaves.map(({ at }, i) => elements(values[i] as Float64Array, at));
    const given = [check.oracle(...shown)].flat();
    return given.reduce((total, output, i) => total + inner(output, weights[i] as Float32Array), 0);
  };
  const weightNorm = Math.hypot(...weights.map((w) => Math.hypot(...w)));
  for (const [i, { leaf }] of leaves.entries()) {
    const { grad } = leaf;
    const label = `the gradient of input ${i}`;
    if (!grad && !check.mayOverwrite) throw new Error(`${label} is missing`);
    if (grad && grad.dtype !== 'float32') throw new Error(`${label} is ${grad.dtype}`);
    if (grad && String(grad.shape) !== String(leaf.shape)) throw new Error(`${label} is [${grad.shape.join(', ')}]`);
    const gradient = (await grad?.read()) ?? new Float32Array(leaf.size);
    const here = x[i] as Float64Array;
    /** The derivative of the loss along a direction of this input. */
    const along = (direction: Float64Array, scale: number): number => {
      const h = step * scale;
      const at = (by: number) => lossAt(x.map((values, k) => (k === i ? moved(values, direction, by) : values)));
      return (at(h) - at(-h)) / (2 * h);
    };
    const indices = chosen(here.length, rng);
    const expected = indices.map((j) => along(unitVector(here.length, j), 1 + Math.abs(here[j] as number)));
    const actual = indices.map((j) => gradient[j] as number);
    compareGradients(actual, expected, bound, 1e-2 * weightNorm, label, indices);
    if (here.length === 0) continue;
    const direction = Float64Array.from(here, () => rng.normal());
    const [ours, theirs] = [inner(gradient, direction), along(direction, 1)];
    const scale = Math.max(Math.hypot(...gradient), Math.abs(theirs), 1e-2 * weightNorm);
    if (!(Math.abs(ours - theirs) <= 4 * bound * scale)) {
      throw new Error(`${label} along a random direction is ${ours}, but expected ${theirs}`);
    }
  }
}

/** `floor`: what a gradient that is 0 in theory is measured by, as it holds the noise of float32. */
function compareGradients(
  actual: readonly number[],
  expected: readonly number[],
  bound: number,
  floor: number,
  label: string,
  indices: readonly number[],
): void {
  const scale = Math.max(Math.hypot(...expected), floor);
  const typical = scale / Math.sqrt(Math.max(1, expected.length));
  for (const [i, e] of expected.entries()) {
    const a = actual[i] as number;
    if (Math.abs(a - e) <= 2 * bound * (Math.abs(e) + typical)) continue;
    throw new Error(`${label} at ${indices[i]} is ${a}, but expected ${e}`);
  }
  const error = Math.hypot(...expected.map((e, i) => e - (actual[i] as number)));
  if (!(error <= bound * scale)) throw new Error(`${label} has a relative error of ${error / scale}`);
}

/** The values at `indices`. */
function elements(values: Float64Array, indices: Int32Array): Float64Array {
  const out = new Float64Array(indices.length);
  for (let i = 0; i < out.length; i++) out[i] = values[indices[i] as number] as number;
  return out;
}

/** values + by * direction. */
function moved(values: Float64Array, direction: Float64Array, by: number): Float64Array {
  const out = new Float64Array(values.length);
  for (let i = 0; i < out.length; i++) out[i] = (values[i] as number) + by * (direction[i] as number);
  return out;
}

const inner = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  if (a.length !== b.length) throw new Error(`${a.length} elements beside ${b.length}`);
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
};

function unitVector(length: number, at: number): Float64Array {
  const vector = new Float64Array(length);
  vector[at] = 1;
  return vector;
}

/** All indices, or some of them where there are many. */
function chosen(length: number, rng: Random): number[] {
  if (length <= most) return [...Array(length).keys()];
  return [...new Set(Array.from({ length: most }, () => rng.integer(0, length)))];
}

interface LaidOut {
  leaf: Tensor;
  /** The view of the leaf that the operation is given. */
  view(leaf: Tensor): Tensor;
  /** Under which element of the leaf each element of the view lies. */
  at: Int32Array;
}

/** A leaf that holds an input, and the view that shows it. */
function laidOut(input: Input, views: Check['views'], rng: Random, device: Device, own: Own): LaidOut {
  const { shape, values, dtype = 'float32' } = input;
  const rank = shape.length;
  const isView = views !== undefined && rank > 0 && rng.next() < 0.6;
  // dimension d of the input is dimension order[d] of the leaf
  const order = isView ? shuffled(rank, rng) : [...shape.keys()];
  const before = shape.map(() => (isView ? rng.integer(0, 3) : 0));
  const after = shape.map(() => (isView ? rng.integer(0, 2) : 0));
  const repeated = shape.map((n) => isView && views === 'any' && n > 0 && rng.next() < 0.2);
  const sizes = new Array<number>(rank);
  for (const [d, n] of shape.entries()) {
    sizes[order[d] as number] = (repeated[d] ? 1 : n) + (before[d] as number) + (after[d] as number);
  }
  const at = Int32Array.from({ length: product(shape) }, (_, i) => {
    const inside = new Array<number>(rank);
    for (const [d, j] of coordinates(shape, i).entries()) {
      inside[order[d] as number] = (before[d] as number) + (repeated[d] ? 0 : j);
    }
    return inside.reduce((index, j, d) => index * (sizes[d] as number) + j, 0);
  });
  const data = rng.floats(product(sizes));
  for (const [i, index] of at.entries()) data[index] = values[i] as number;
  const leaf = own(Tensor.from(data, { shape: sizes, dtype, device }));
  const view = () => {
    let shown = leaf;
    for (const d of shape.keys()) {
      const [from, n] = [before[d] as number, repeated[d] ? 1 : (shape[d] as number)];
      shown = shown.slice(order[d] as number, from, from + n);
    }
    return shown.permute(order).expand([...shape]);
  };
  return { leaf, view: isView ? view : () => leaf, at };
}

function shuffled(length: number, rng: Random): number[] {
  const order = [...Array(length).keys()];
  for (let i = length - 1; i > 0; i--) {
    const j = rng.integer(0, i + 1);
    [order[i], order[j]] = [order[j] as number, order[i] as number];
  }
  return order;
}
