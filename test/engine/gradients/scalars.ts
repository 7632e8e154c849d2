// Reverse-mode differentiation in doubles, one number at a time. Memory is a list of numbers, each with the derivatives
// that it was computed by, and a view is a list of places: so views and edits in place are right by construction.

/** What a number was computed from. */
interface Origin {
  readonly number: number;
  readonly inputs: readonly (readonly [of: Origin, derivative: number])[];
}

export interface Scalar {
  readonly value: number;
  readonly origin: Origin;
  /** A bound on what rounding each step to float32 changes, in units of float32's precision. */
  readonly error: number;
}

let count = 0;

/** A number with the numbers that it was computed from, and its derivatives with respect to these. */
export function scalar(value: number, ...inputs: (readonly [from: Scalar, derivative: number])[]): Scalar {
  const origin = { number: count++, inputs: inputs.map(([from, derivative]) => [from.origin, derivative] as const) };
  const error = inputs.reduce((sum, [from, derivative]) => sum + Math.abs(derivative) * from.error, Math.abs(value));
  return { value, origin, error };
}

/** The same number, of which nothing is known. */
export const constant = (x: Scalar): Scalar => ({ ...x, origin: scalar(x.value).origin });

export const add = (a: Scalar, b: Scalar): Scalar => scalar(a.value + b.value, [a, 1], [b, 1]);
export const sub = (a: Scalar, b: Scalar): Scalar => scalar(a.value - b.value, [a, 1], [b, -1]);
export const mul = (a: Scalar, b: Scalar): Scalar => scalar(a.value * b.value, [a, b.value], [b, a.value]);
export const div = (a: Scalar, b: Scalar): Scalar =>
  scalar(a.value / b.value, [a, 1 / b.value], [b, -a.value / b.value ** 2]);

/** Either side has half of the derivative where both are the same number; NaN where they are too close to tell. */
function chosen(a: Scalar, b: Scalar, takesA: boolean): Scalar {
  if (a.origin === b.origin && a.value === b.value) return scalar(a.value, [a, 0.5], [b, 0.5]);
  if (isClose(a.value, b.value)) return scalar(NaN);
  return takesA ? scalar(a.value, [a, 1]) : scalar(b.value, [b, 1]);
}
export const maximum = (a: Scalar, b: Scalar): Scalar => chosen(a, b, a.value > b.value);
export const minimum = (a: Scalar, b: Scalar): Scalar => chosen(a, b, a.value < b.value);

/** Whether what float32 makes of two numbers may compare otherwise. */
export const isClose = (a: number, b: number): boolean => Math.abs(a - b) < 1e-3;

export const sumOf = (all: readonly Scalar[]): Scalar => all.reduce(add, scalar(0));

/** A function of one number and its derivative. */
export const unary =
  (f: (x: number) => number, derivative: (x: number) => number) =>
  (x: Scalar): Scalar =>
    scalar(f(x.value), [x, derivative(x.value)]);

export interface Gradient {
  readonly value: number;
  /** The sum of the magnitudes of the terms that make it up. */
  readonly magnitude: number;
}

/** The derivatives of a number with respect to others. */
export function gradientsOf(of: Scalar, wanted: readonly Scalar[]): Gradient[] {
  const found = new Map<Origin, { value: number; magnitude: number }>([[of.origin, { value: 1, magnitude: 1 }]]);
  const reached = new Set<Origin>();
  const waiting = [of.origin];
  for (let origin = waiting.pop(); origin; origin = waiting.pop()) {
    if (reached.has(origin)) continue;
    reached.add(origin);
    for (const [input] of origin.inputs) waiting.push(input);
  }
  for (const origin of [...reached].sort((a, b) => b.number - a.number)) {
    const { value, magnitude } = found.get(origin) as Gradient;
    for (const [input, derivative] of origin.inputs) {
      const sum = found.get(input) ?? { value: 0, magnitude: 0 };
      sum.value += value * derivative;
      sum.magnitude += magnitude * Math.abs(derivative);
      found.set(input, sum);
    }
  }
  return wanted.map(({ origin }) => found.get(origin) ?? { value: 0, magnitude: 0 });
}

/** Numbers in memory, and what they were computed from as far as one storage knows: detach() shares the numbers alone. */
export class Cells {
  readonly #values: number[];
  readonly #errors: number[];
  readonly #origins: Origin[];

  constructor(contents: readonly Scalar[], shared?: Cells) {
    this.#values = shared ? shared.#values : contents.map(({ value }) => value);
    this.#errors = shared ? shared.#errors : contents.map(({ error }) => error);
    this.#origins = contents.map(({ origin }) => origin);
  }

  /** The same memory; its contents are constants. */
  detached(): Cells {
    return new Cells(
      this.#values.map((_, i) => constant(this.at(i))),
      this,
    );
  }

  at(i: number): Scalar {
    return {
      value: this.#values[i] as number,
      error: this.#errors[i] as number,
      origin: this.#origins[i] as Origin,
    };
  }

  set(i: number, { value, error, origin }: Scalar): void {
    this.#values[i] = value;
    this.#errors[i] = error;
    this.#origins[i] = origin;
  }
}

/** A window on memory: the place of each element, in row-major order. */
export class View {
  readonly cells: Cells;
  readonly shape: readonly number[];
  readonly places: readonly number[];

  constructor(cells: Cells, shape: readonly number[], places: readonly number[]) {
    this.cells = cells;
    this.shape = shape;
    this.places = places;
  }

  /** New memory with these contents. */
  static of(contents: readonly Scalar[], shape: readonly number[]): View {
    return new View(new Cells(contents), shape, [...contents.keys()]);
  }

  read(): Scalar[] {
    return this.places.map((place) => this.cells.at(place));
  }

  write(contents: readonly Scalar[]): void {
    for (const [i, place] of this.places.entries()) this.cells.set(place, contents[i] as Scalar);
  }

  detach(): View {
    return new View(this.cells.detached(), this.shape, this.places);
  }

  /** A view of another shape: `from` gives the index here of an element there. */
  window(shape: readonly number[], from: (index: readonly number[]) => readonly number[]): View {
    const places = indicesOf(shape).map((index) => this.places[flat(from(index), this.shape)] as number);
    return new View(this.cells, shape, places);
  }

  /** Whether it shows an element more than once. */
  get repeats(): boolean {
    return new Set(this.places).size < this.places.length;
  }
}

/** All indices of a shape, in row-major order. */
export function indicesOf(shape: readonly number[]): number[][] {
  return shape.reduce<number[][]>(
    (all, n) => all.flatMap((index) => Array.from({ length: n }, (_, i) => [...index, i])),
    [[]],
  );
}

export const flat = (index: readonly number[], shape: readonly number[]): number =>
  index.reduce((sum, i, d) => sum * (shape[d] as number) + i, 0);

/** The elements of a view that is broadcast to a shape. */
export function broadcast(view: View, shape: readonly number[]): Scalar[] {
  const lead = shape.length - view.shape.length;
  return view.window(shape, (index) => view.shape.map((n, d) => (n === 1 ? 0 : (index[d + lead] as number)))).read();
}
