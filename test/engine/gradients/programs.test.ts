// Gradients of random programs: views made before an edit in place and used after it, values used many times, tensors
// that are disposed on the way, detach(), several records and several scalars. Oracle: differentiation one number at a
// time, in doubles (scalars.ts).
import { type Device, openDevice } from '../../../src/engine/device.js';
import { Tensor } from '../../../src/engine/ops/tensor.js';
import { GradientRecord, Leaf, recordingIn } from '../../../src/engine/record.js';
import { broadcastShape, sizeOf, viewStrides } from '../../../src/engine/shape.js';
import { suite } from '../../support/harness.js';
import { type Random, random } from '../../support/random.js';
import {
  add,
  broadcast,
  constant,
  div,
  gradientsOf,
  maximum,
  minimum,
  mul,
  type Scalar,
  scalar,
  sub,
  sumOf,
  View,
} from './scalars.js';

const test = suite('gradients of programs');

const programs = 300;
const stepsEach = 10;
const mostElements = 48;

interface Value {
  readonly name: string;
  readonly tensor: Tensor;
  readonly view: View;
  readonly isLeaf: boolean;
}

/** What may be done next. */
interface Step {
  says: string;
  /** What is written. */
  contents: readonly Scalar[];
  run(): void;
}

class Program {
  readonly rng: Random;
  readonly device: Device;
  readonly says: string[] = [];
  readonly leaves: Value[] = [];
  /** Those that were not disposed. */
  values: Value[] = [];
  readonly #made: Tensor[] = [];
  readonly #records = [new GradientRecord(), new GradientRecord()];
  #names = 0;
  /** Of each leaf's elements: the sum of what backward passes give. */
  readonly #expected = new Map<Value, { value: number; magnitude: number }[]>();

  constructor(rng: Random, device: Device) {
    this.rng = rng;
    this.device = device;
  }

  /** A new value in memory of its own. */
  input(shape: readonly number[], isLeaf: boolean, scale = 1): Value {
    const numbers = this.rng.floats(sizeOf(shape), scale);
    const tensor = Tensor.from(numbers, { shape: [...shape], device: this.device });
    if (isLeaf) tensor.requireGrad();
    const view = View.of(
      Array.from(numbers, (x) => scalar(x)),
      shape,
    );
    const value = this.#add(isLeaf ? 'leaf' : 'constant', tensor, view, isLeaf);
    if (isLeaf) {
      this.leaves.push(value);
      const elements = view.read();
      this.#origins.set(value, elements);
      this.#expected.set(
        value,
        elements.map(() => ({ value: 0, magnitude: 0 })),
      );
    }
    return value;
  }
  readonly #origins = new Map<Value, readonly Scalar[]>();

  #add(says: string, tensor: Tensor, view: View, isLeaf = false): Value {
    const value = { name: `t${this.#names++}`, tensor, view, isLeaf };
    this.values.push(value);
    this.#made.push(tensor);
    this.says.push(`${value.name} [${view.shape}] = ${says}`);
    return value;
  }

  /** One of the values, rather one of the last. */
  pick(isGood: (value: Value) => boolean = () => true): Value | undefined {
    const good = this.values.filter(isGood);
    if (good.length === 0) return undefined;
    return this.rng.next() < 0.5 ? good[Math.max(0, good.length - this.rng.integer(1, 4))] : this.rng.pick(good);
  }

  /** A step that gives a view. */
  viewing(says: string, tensor: () => Tensor, view: View): Step {
    return { says, contents: [], run: () => this.#add(says, tensor(), view) };
  }

  /** A step that gives a new tensor. */
  making(says: string, shape: readonly number[], contents: readonly Scalar[], make: () => Tensor): Step {
    if (this.rng.next() < 0.05) {
      const constants = contents.map(constant);
      const run = () => this.#add(`${says}, not recorded`, recordingIn(undefined, make), View.of(constants, shape));
      return { says, contents, run };
    }
    return { says, contents, run: () => this.#add(says, this.#somewhere(make), View.of(contents, shape)) };
  }

  /** A step that edits a value in place. */
  editing(says: string, { view }: Value, contents: readonly Scalar[], edit: () => unknown): Step {
    const run = () => {
      this.says.push(says);
      this.#somewhere(edit);
      view.write(contents);
    };
    return { says, contents, run };
  }

  /** In one of two records, or in one that the operation begins or joins. */
  #somewhere<T>(run: () => T): T {
    const where = this.rng.integer(0, 4);
    return where > 1 ? run() : recordingIn(this.#records[where], run);
  }

  dispose(value: Value): void {
    this.says.push(`${value.name} is disposed`);
    value.tensor.dispose();
    this.values = this.values.filter(({ tensor }) => tensor.ended === undefined);
  }

  /** Goes backward from a random sum of some values. */
  async backward(retain: boolean): Promise<void> {
    const { rng, device } = this;
    const terms: Scalar[] = [];
    let loss = this.#own(Tensor.zeros([], { device }));
    for (const value of [this.values.at(-1) as Value, this.pick() as Value, rng.pick(this.leaves)]) {
      const weights = rng.floats(value.tensor.size);
      const weight = this.#own(Tensor.from(weights, { shape: [...value.tensor.shape], device }));
      loss = this.#own(loss.add(this.#own(this.#own(value.tensor.mul(weight)).sum())));
      terms.push(...value.view.read().map((element, i) => mul(element, scalar(weights[i] as number))));
      this.says.push(`loss of ${value.name}`);
    }
    this.says.push(`backward, retain ${retain}`);
    await loss.backward({ retain });
    const total = sumOf(terms);
    for (const [leaf, sums] of this.#expected) {
      for (const [i, { value, magnitude }] of gradientsOf(total, this.#origins.get(leaf) as Scalar[]).entries()) {
        const sum = sums[i] as { value: number; magnitude: number };
        sum.value += value;
        sum.magnitude += magnitude;
      }
    }
  }

  #own(tensor: Tensor): Tensor {
    this.#made.push(tensor);
    return tensor;
  }

  /** Compares all values that are left, and the gradients of all leaves. */
  async check(): Promise<void> {
    for (const { name, tensor, view } of this.values) {
      const contents = view.read();
      compare(name, await tensor.read(), contents, ({ error }) => 2e-6 * error);
    }
    for (const [{ name, tensor }, sums] of this.#expected) {
      const gradient = (await tensor.grad?.read()) ?? new Float32Array(tensor.size);
      compare(`the gradient of ${name}`, gradient, sums, ({ magnitude }) => 1e-4 * magnitude);
    }
  }

  end(): void {
    const histories = [...this.#made.map(({ storage }) => storage.history), ...this.#records];
    for (const tensor of this.#made) tensor.dispose();
    for (const history of histories) if (history instanceof GradientRecord) history.dispose();
  }
}

function compare<T extends { readonly value: number }>(
  what: string,
  actual: ArrayLike<number>,
  expected: readonly T[],
  allowed: (of: T) => number,
): void {
  if (actual.length !== expected.length) throw new Error(`${what} has ${actual.length} elements`);
  for (const [i, element] of expected.entries()) {
    const a = actual[i] as number;
    if (Math.abs(a - element.value) <= allowed(element)) continue;
    throw new Error(`${what} is ${a} at ${i}, but expected ${element.value}`);
  }
}

type Kind = (program: Program) => Step | undefined;

const without = (list: readonly number[], d: number): number[] => list.toSpliced(d, 1);

// ---- views

const select: Kind = (p) => {
  const x = p.pick(({ view }) => view.shape.some((n) => n > 0));
  if (!x) return undefined;
  const { shape } = x.view;
  const d = p.rng.pick([...shape.keys()].filter((dim) => (shape[dim] as number) > 0));
  const i = p.rng.integer(0, shape[d] as number);
  const view = x.view.window(without(shape, d), (index) => index.toSpliced(d, 0, i));
  return p.viewing(`${x.name}.select(${d}, ${i})`, () => x.tensor.select(d, i), view);
};

const slice: Kind = (p) => {
  const x = p.pick(({ view }) => view.shape.length > 0);
  if (!x) return undefined;
  const d = p.rng.integer(0, x.view.shape.length);
  const n = x.view.shape[d] as number;
  const from = p.rng.integer(0, n + 1);
  const to = p.rng.integer(from, n + 1);
  const view = x.view.window(x.view.shape.with(d, to - from), (index) => index.with(d, (index[d] as number) + from));
  return p.viewing(`${x.name}.slice(${d}, ${from}, ${to})`, () => x.tensor.slice(d, from, to), view);
};

const permute: Kind = (p) => {
  const x = p.pick(({ view }) => view.shape.length > 1);
  if (!x) return undefined;
  const order: number[] = [];
  for (const d of x.view.shape.keys()) order.splice(p.rng.integer(0, order.length + 1), 0, d);
  const view = x.view.window(
    order.map((d) => x.view.shape[d] as number),
    (index) => order.map((_, d) => index[order.indexOf(d)] as number),
  );
  return p.viewing(`${x.name}.permute([${order}])`, () => x.tensor.permute(order), view);
};

const expand: Kind = (p) => {
  const x = p.pick(({ view }) => view.shape.length < 3 && sizeOf(view.shape) <= 12);
  if (!x) return undefined;
  const own = x.view.shape.map((n) => (n === 1 ? p.rng.integer(1, 4) : n));
  const shape = p.rng.next() < 0.5 ? own : [p.rng.integer(1, 4), ...own];
  const lead = shape.length - own.length;
  const view = x.view.window(shape, (index) => index.slice(lead).map((i, d) => (x.view.shape[d] === 1 ? 0 : i)));
  return p.viewing(`${x.name}.expand(${shape})`, () => x.tensor.expand(shape), view);
};

const unsqueeze: Kind = (p) => {
  const x = p.pick(({ view }) => view.shape.length < 4);
  if (!x) return undefined;
  const d = p.rng.integer(0, x.view.shape.length + 1);
  const view = x.view.window(x.view.shape.toSpliced(d, 0, 1), (index) => without(index, d));
  return p.viewing(`${x.name}.unsqueeze(${d})`, () => x.tensor.unsqueeze(d), view);
};

const diagonal: Kind = (p) => {
  const x = p.pick(({ view }) => view.shape.length > 1);
  if (!x) return undefined;
  const { shape } = x.view;
  const a = p.rng.integer(0, shape.length);
  const b = (a + p.rng.integer(1, shape.length)) % shape.length;
  const offset = p.rng.integer(-1, 2);
  const [down, right] = [Math.max(-offset, 0), Math.max(offset, 0)];
  const length = Math.max(0, Math.min((shape[a] as number) - down, (shape[b] as number) - right));
  const others = [...shape.keys()].filter((d) => d !== a && d !== b);
  const view = x.view.window([...others.map((d) => shape[d] as number), length], (index) => {
    const i = index.at(-1) as number;
    return [...shape.keys()].map((d) =>
      d === a ? i + down : d === b ? i + right : (index[others.indexOf(d)] as number),
    );
  });
  return p.viewing(`${x.name}.diagonal(${offset}, ${a}, ${b})`, () => x.tensor.diagonal(offset, a, b), view);
};

/** A view, or a copy where strides forbid one. */
const reshape: Kind = (p) => {
  const x = p.pick(({ view }) => view.shape.length > 1);
  if (!x) return undefined;
  const { shape, cells, places } = x.view;
  const d = p.rng.integer(0, shape.length - 1);
  const target = shape.toSpliced(d, 2, (shape[d] as number) * (shape[d + 1] as number));
  const says = `${x.name}.reshape(${target})`;
  return viewStrides(shape, x.tensor.strides, target)
    ? p.viewing(says, () => x.tensor.reshape(target), new View(cells, target, places))
    : p.making(says, target, x.view.read(), () => x.tensor.reshape(target));
};

const detach: Kind = (p) => {
  const x = p.pick();
  return x && p.viewing(`${x.name}.detach()`, () => x.tensor.detach(), x.view.detach());
};

// ---- arithmetic

/** What may be changed in place. */
const isWritable = ({ view, tensor }: Value): boolean => !view.repeats && !(tensor.storage.history instanceof Leaf);

/** Something that broadcasts with x, to its shape if `to`: x itself, another value or a new constant. */
function otherSide(p: Program, x: Value, to: boolean): Value {
  const { rng } = p;
  const { shape } = x.view;
  if (rng.next() < 0.1) return x;
  const fits = ({ view }: Value) => {
    const both = broadcastShape(shape, view.shape);
    return both !== undefined && sizeOf(both) <= mostElements && (!to || String(both) === String(shape));
  };
  const found = rng.next() < 0.8 ? p.pick(fits) : undefined;
  if (found) return found;
  return p.input(
    shape.slice(rng.integer(0, shape.length + 1)).map((n) => (rng.next() < 0.3 ? 1 : n)),
    false,
  );
}

const arithmetic = { add, sub, mul, div, maximum, minimum };
const arithmeticNames = Object.keys(arithmetic) as (keyof typeof arithmetic)[];

const binary: Kind = (p) => {
  const name = p.rng.pick(arithmeticNames);
  const a = p.pick() as Value;
  const b = otherSide(p, a, false);
  const [left, right] = p.rng.next() < 0.5 ? [a, b] : [b, a];
  const shape = broadcastShape(left.view.shape, right.view.shape) as number[];
  const [x, y] = [broadcast(left.view, shape), broadcast(right.view, shape)];
  const contents = x.map((element, i) => arithmetic[name](element, y[i] as Scalar));
  return p.making(`${left.name}.${name}(${right.name})`, shape, contents, () => left.tensor[name](right.tensor));
};

const binaryInPlace: Kind = (p) => {
  const name = p.rng.pick(arithmeticNames);
  const a = p.pick(isWritable);
  if (!a) return undefined;
  const b = otherSide(p, a, true);
  const y = broadcast(b.view, a.view.shape);
  const contents = a.view.read().map((element, i) => arithmetic[name](element, y[i] as Scalar));
  return p.editing(`${a.name}.${name}_(${b.name})`, a, contents, () => a.tensor[`${name}_`](b.tensor));
};

const number = (p: Program): number => Math.fround(p.rng.pick([-1, 1]) * (0.5 + p.rng.next()));

const scalarSide: Kind = (p) => {
  const name = p.rng.pick(arithmeticNames);
  const a = p.pick() as Value;
  const x = number(p);
  const contents = a.view.read().map((element) => arithmetic[name](element, scalar(x)));
  return p.making(`${a.name}.${name}(${x})`, a.view.shape, contents, () => a.tensor[name](x));
};

const scalarInPlace: Kind = (p) => {
  const name = p.rng.pick(arithmeticNames);
  const a = p.pick(isWritable);
  if (!a) return undefined;
  const x = number(p);
  const contents = a.view.read().map((element) => arithmetic[name](element, scalar(x)));
  return p.editing(`${a.name}.${name}_(${x})`, a, contents, () => a.tensor[`${name}_`](x));
};

// ---- copies

const clone: Kind = (p) => {
  const x = p.pick() as Value;
  return p.making(`${x.name}.clone()`, x.view.shape, x.view.read().map(copied), () => x.tensor.clone());
};

const copied = (x: Scalar): Scalar => scalar(x.value, [x, 1]);

const fill: Kind = (p) => {
  const x = p.pick(isWritable);
  if (!x) return undefined;
  const value = number(p);
  const contents = x.view.places.map(() => scalar(value));
  return p.editing(`${x.name}.fill(${value})`, x, contents, () => x.tensor.fill(value));
};

const copyFrom: Kind = (p) => {
  const out = p.pick(isWritable);
  if (!out) return undefined;
  const x = otherSide(p, out, true);
  const contents = broadcast(x.view, out.view.shape).map(copied);
  return p.editing(`${out.name}.copyFrom(${x.name})`, out, contents, () => out.tensor.copyFrom(x.tensor));
};

/** Two windows on the same memory that overlap, one of which is written. */
const shift: Kind = (p) => {
  const x = p.pick((value) => isWritable(value) && value.view.shape.some((n) => n > 1));
  if (!x) return undefined;
  const { shape } = x.view;
  const d = p.rng.pick([...shape.keys()].filter((dim) => (shape[dim] as number) > 1));
  const last = (shape[d] as number) - 1;
  const [to, from] = p.rng.pick([
    [0, 1],
    [1, 0],
  ]) as [number, number];
  const part = (start: number): Value => ({
    name: `${x.name}.slice(${d}, ${start}, ${start + last})`,
    tensor: x.tensor.slice(d, start, start + last),
    view: x.view.window(shape.with(d, last), (index) => index.with(d, (index[d] as number) + start)),
    isLeaf: false,
  });
  const [out, other] = [part(to), part(from)];
  const contents = other.view.read();
  if (p.rng.next() < 0.5) {
    const says = `${out.name}.copyFrom(${other.name})`;
    return p.editing(says, out, contents.map(copied), () => out.tensor.copyFrom(other.tensor));
  }
  const own = out.view.read();
  const product = own.map((element, i) => mul(element, contents[i] as Scalar));
  return p.editing(`${out.name}.mul_(${other.name})`, out, product, () => out.tensor.mul_(other.tensor));
};

const kinds: readonly (readonly [times: number, kind: Kind])[] = [
  [1, select],
  [1, slice],
  [1, permute],
  [1, expand],
  [1, unsqueeze],
  [1, diagonal],
  [1, reshape],
  [1, detach],
  [3, binary],
  [3, binaryInPlace],
  [1, scalarSide],
  [1, scalarInPlace],
  [1, clone],
  [1, fill],
  [2, copyFrom],
  [2, shift],
];
const choices = kinds.flatMap(([times, kind]) => Array<Kind>(times).fill(kind));

/** Whether float32 comes near enough to what doubles give. */
const isTame = ({ value, error }: Scalar): boolean => Math.abs(value) < 8 && error < 100;

async function run(seed: number, device: Device): Promise<void> {
  const rng = random(seed);
  const program = new Program(rng, device);
  try {
    const rank = rng.integer(0, 4);
    for (let i = rng.integer(1, 4); i > 0; i--) {
      const shape = Array.from({ length: Math.max(0, rank - rng.integer(0, 2)) }, () => rng.pick([1, 2, 3, 3, 4]));
      if (rng.next() < 0.03) shape.push(0);
      program.input(shape, true);
    }
    const halfway = rng.next() < 0.4 ? rng.integer(4, 9) : undefined;
    for (let done = 0; done < stepsEach; ) {
      const step = rng.pick(choices)(program);
      if (!step?.contents.every(isTame)) continue;
      step.run();
      done++;
      const gone = rng.next() < 0.2 && program.pick(({ isLeaf }) => !isLeaf);
      if (gone) program.dispose(gone);
      if (done === halfway) await program.backward(true);
    }
    await program.backward(false);
    await program.check();
  } catch (cause) {
    const says = program.says.map((line) => `\n  ${line}`).join('');
    throw new Error(`seed ${seed}: ${(cause as Error).message}${says}`, { cause });
  } finally {
    program.end();
  }
}

test('leaves have the gradients that scalars have, and everything is freed', async () => {
  const device = openDevice('cpu', { threads: 1 });
  const before = device.memory().allocated;
  for (let seed = 1; seed <= programs; seed++) {
    await run(seed, device);
    const left = device.memory().allocated - before;
    if (left !== 0) throw new Error(`seed ${seed}: ${left} bytes were not freed`);
  }
});

test.run();
