// A random program on tensors, and the same on numbers (scalars.ts).
import type { Device } from '../../../src/engine/device.js';
import { Tensor } from '../../../src/engine/ops/tensor.js';
import { GradientRecord, recordingIn } from '../../../src/engine/record.js';
import { sizeOf } from '../../../src/engine/shape.js';
import type { Random } from '../../support/random.js';
import { constant, gradientsOf, mul, type Scalar, scalar, sumOf, View } from './scalars.js';

export interface Value {
  readonly name: string;
  readonly tensor: Tensor;
  readonly view: View;
  readonly isLeaf: boolean;
}

/** What may be done next. */
export interface Step {
  says: string;
  /** What is written. */
  contents: readonly Scalar[];
  run(): void;
}

export class Program {
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
    if (rng.next() < 0.3) {
      const pair = this.#own(Tensor.zeros([2, 1], { device }));
      const part = pair.select(0, rng.integer(0, 2));
      loss = part.copyFrom(loss);
      this.says.push('the loss is a view');
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
      compare(name, await tensor.read(), contents, ({ error }) => 2e-6 * error + 1e-9);
    }
    for (const [{ name, tensor }, sums] of this.#expected) {
      const gradient = (await tensor.grad?.read()) ?? new Float32Array(tensor.size);
      compare(`the gradient of ${name}`, gradient, sums, ({ magnitude }) => 1e-4 * magnitude + 1e-6);
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
