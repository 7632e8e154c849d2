// What a random program may do next.
import { cat } from '../../../src/engine/ops/cat.js';
import { layerNorm } from '../../../src/engine/ops/layer_norm.js';
import { matmul } from '../../../src/engine/ops/matmul.js';
import { Tensor } from '../../../src/engine/ops/tensor.js';
import { Leaf } from '../../../src/engine/record.js';
import { broadcastShape, sizeOf, viewStrides } from '../../../src/engine/shape.js';
import type { Program, Step, Value } from './program.js';
import {
  add,
  broadcast,
  div,
  flat,
  indicesOf,
  isClose,
  maximum,
  minimum,
  mul,
  type Scalar,
  scalar,
  sub,
  sumOf,
  unary,
  View,
} from './scalars.js';

const mostElements = 48;

export type Kind = (program: Program) => Step | undefined;

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

// ---- functions of one element

const near = (x: number, ...kinks: number[]): boolean => kinks.some((kink) => isClose(x, kink));
const gelu = (x: number): { value: number; slope: number } => {
  const scale = Math.sqrt(2 / Math.PI);
  const t = Math.tanh(scale * (x + 0.044715 * x ** 3));
  const slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * scale * (1 + 3 * 0.044715 * x * x);
  return { value: 0.5 * x * (1 + t), slope };
};
const logistic = (x: number): number => 1 / (1 + Math.exp(-x));

/** The function and its derivative; NaN where float32 comes not near it. */
const functions = {
  exp: unary((x) => (x < 2 ? Math.exp(x) : NaN), Math.exp),
  log: unary(
    (x) => (x > 0.2 ? Math.log(x) : NaN),
    (x) => 1 / x,
  ),
  sqrt: unary(
    (x) => (x > 0.2 ? Math.sqrt(x) : NaN),
    (x) => 0.5 / Math.sqrt(x),
  ),
  abs: unary((x) => (near(x, 0) ? NaN : Math.abs(x)), Math.sign),
  neg: unary(
    (x) => -x,
    () => -1,
  ),
  sign: unary(
    (x) => (near(x, 0) ? NaN : Math.sign(x)),
    () => 0,
  ),
  tanh: unary(Math.tanh, (x) => 1 - Math.tanh(x) ** 2),
  sigmoid: unary(logistic, (x) => logistic(x) * logistic(-x)),
  relu: unary(
    (x) => (near(x, 0) ? NaN : Math.max(x, 0)),
    (x) => (x > 0 ? 1 : 0),
  ),
  gelu: unary(
    (x) => gelu(x).value,
    (x) => gelu(x).slope,
  ),
};
const functionNames = Object.keys(functions) as (keyof typeof functions)[];

const ofOne: Kind = (p) => {
  const x = p.pick() as Value;
  const name = p.rng.pick(functionNames);
  const contents = x.view.read().map(functions[name]);
  return p.making(`${x.name}.${name}()`, x.view.shape, contents, () => x.tensor[name]());
};

const ofOneInPlace: Kind = (p) => {
  const x = p.pick(isWritable);
  if (!x) return undefined;
  const name = p.rng.pick(functionNames);
  return p.editing(`${x.name}.${name}_()`, x, x.view.read().map(functions[name]), () => x.tensor[`${name}_`]());
};

const clamp = unary(
  (x) => (near(x, -1, 0.5) ? NaN : Math.min(Math.max(x, -1), 0.5)),
  (x) => (x > -1 && x < 0.5 ? 1 : 0),
);
const cube = unary(
  (x) => x ** 3,
  (x) => 3 * x * x,
);

const withNumbers: Kind = (p) => {
  const x = p.pick() as Value;
  return p.rng.next() < 0.5
    ? p.making(`${x.name}.clamp(-1, 0.5)`, x.view.shape, x.view.read().map(clamp), () => x.tensor.clamp(-1, 0.5))
    : p.making(`${x.name}.pow(3)`, x.view.shape, x.view.read().map(cube), () => x.tensor.pow(3));
};

// ---- rows

const isFull = ({ view }: Value): boolean => view.places.length > 0;

const squareRoot = functions.sqrt;
const meanOf = (row: readonly Scalar[]): Scalar => mul(sumOf(row), scalar(1 / row.length));
const squaresOf = (row: readonly Scalar[], from: Scalar): Scalar[] => row.map((x) => mul(sub(x, from), sub(x, from)));
/** The extreme element; NaN where another one is near. */
const extreme = (row: readonly Scalar[], sign: number): Scalar => {
  const [first, second] = row.toSorted((a, b) => sign * (b.value - a.value)) as [Scalar, Scalar | undefined];
  return second && isClose(first.value, second.value) ? scalar(NaN) : copied(first);
};

const variance = (row: readonly Scalar[]): Scalar =>
  mul(sumOf(squaresOf(row, meanOf(row))), scalar(1 / (row.length - 1)));

const reductions = {
  sum: sumOf,
  mean: meanOf,
  max: (row) => extreme(row, 1),
  min: (row) => extreme(row, -1),
  norm: (row) => squareRoot(sumOf(squaresOf(row, scalar(0)))),
  logSumExp: (row) => functions.log(sumOf(row.map(functions.exp))),
  var: variance,
  std: (row) => squareRoot(variance(row)),
} satisfies Record<string, (row: readonly Scalar[]) => Scalar>;
const reductionNames = Object.keys(reductions) as (keyof typeof reductions)[];

const reduction: Kind = (p) => {
  const x = p.pick(isFull) as Value | undefined;
  if (!x) return undefined;
  const { shape } = x.view;
  const name = p.rng.pick(reductionNames);
  const some = [...shape.keys()].filter(() => p.rng.next() < 0.5);
  const dims = some.length > 0 ? some : [...shape.keys()];
  const keepDim = p.rng.next() < 0.3;
  const kept = shape.map((n, d) => (dims.includes(d) ? 1 : n));
  const contents = indicesOf(kept).map((at) => {
    const row = x.view.window(
      dims.map((d) => shape[d] as number),
      (index) => shape.map((_, d) => (dims.includes(d) ? (index[dims.indexOf(d)] as number) : (at[d] as number))),
    );
    return reductions[name](row.read());
  });
  const target = keepDim ? kept : shape.filter((_, d) => !dims.includes(d));
  return p.making(`${x.name}.${name}([${dims}], ${keepDim})`, target, contents, () =>
    x.tensor[name](dims, { keepDim }),
  );
};

/** The contents of x with `change` applied to its rows in dimension d. */
function alongRows(
  { shape, ...view }: { shape: readonly number[]; contents: readonly Scalar[] },
  d: number,
  change: (row: readonly Scalar[]) => readonly Scalar[],
): Scalar[] {
  const n = shape[d] as number;
  const rows = indicesOf(shape.with(d, 1)).map((at) =>
    change(Array.from({ length: n }, (_, i) => view.contents[flat(at.with(d, i), shape)] as Scalar)),
  );
  const length = rows[0]?.length ?? 0;
  return indicesOf(shape.with(d, length)).map(
    (index) => rows[flat(index.with(d, 0), shape.with(d, 1))]?.[index[d] as number] as Scalar,
  );
}

const softmaxOf = (row: readonly Scalar[]): Scalar[] => {
  const powers = row.map(functions.exp);
  const total = sumOf(powers);
  return powers.map((power) => div(power, total));
};
/** In order; NaN where two are near each other. */
const sorted = (row: readonly Scalar[]): Scalar[] => {
  const order = row.toSorted((a, b) => a.value - b.value);
  return order.map((x, i) => (i > 0 && isClose(x.value, order[i - 1]?.value as number) ? scalar(NaN) : copied(x)));
};

const rowFunctions = {
  softmax: softmaxOf,
  logSoftmax: (row) => softmaxOf(row).map(unary(Math.log, (x) => 1 / x)),
  cumsum: (row) => row.map((_, i) => sumOf(row.slice(0, i + 1))),
  sort: sorted,
} satisfies Record<string, (row: readonly Scalar[]) => Scalar[]>;
const rowFunctionNames = Object.keys(rowFunctions) as (keyof typeof rowFunctions)[];

/** A value with a dimension, and one of its dimensions. */
function withDim(p: Program, isGood: (value: Value) => boolean = () => true): [Value, number] | undefined {
  const x = p.pick((value) => isFull(value) && value.view.shape.length > 0 && isGood(value));
  return x && [x, p.rng.integer(0, x.view.shape.length)];
}

const ofRows: Kind = (p) => {
  const [x, d] = withDim(p) ?? [];
  if (!x || d === undefined) return undefined;
  const name = p.rng.pick(rowFunctionNames);
  const { shape } = x.view;
  const contents = alongRows({ shape, contents: x.view.read() }, d, rowFunctions[name]);
  const run = () => {
    if (name !== 'sort') return x.tensor[name](d);
    const { values, indices } = x.tensor.sort(d);
    indices.dispose();
    return values;
  };
  return p.making(`${x.name}.${name}(${d})`, shape, contents, run);
};

const norm: Kind = (p) => {
  const x = p.pick((value) => isFull(value) && (value.view.shape.at(-1) ?? 1) > 1);
  const n = x?.view.shape.at(-1);
  if (!x || n === undefined) return undefined;
  const vector = () => p.pick(({ view }) => String(view.shape) === String([n])) ?? p.input([n], false);
  const [gain, bias] = [vector(), vector()];
  const [g, b] = [gain.view.read(), bias.view.read()];
  const eps = 0.1;
  const contents = alongRows({ shape: x.view.shape, contents: x.view.read() }, x.view.shape.length - 1, (row) => {
    const mean = meanOf(row);
    const deviation = squareRoot(add(meanOf(squaresOf(row, mean)), scalar(eps)));
    return row.map((v, i) => add(mul(div(sub(v, mean), deviation), g[i] as Scalar), b[i] as Scalar));
  });
  const says = `layerNorm(${x.name}, ${gain.name}, ${bias.name})`;
  return p.making(says, x.view.shape, contents, () => layerNorm(x.tensor, gain.tensor, bias.tensor, { eps }));
};

const triangle: Kind = (p) => {
  const isInPlace = p.rng.next() < 0.5;
  const x = p.pick((value) => value.view.shape.length > 1 && (!isInPlace || isWritable(value)));
  if (!x) return undefined;
  const { shape } = x.view;
  const indices = indicesOf(shape);
  const contents = x.view
    .read()
    .map((element, i) => ((indices[i]?.at(-1) ?? 0) > (indices[i]?.at(-2) ?? 0) ? scalar(0) : copied(element)));
  if (isInPlace) return p.editing(`${x.name}.tril_()`, x, contents, () => x.tensor.tril_());
  return p.making(`${x.name}.tril()`, shape, contents, () => x.tensor.tril());
};

// ---- indices and choices

/** Random indices of a dimension of n, some of them equal. */
const someOf = (p: Program, n: number): number[] =>
  Array.from({ length: p.rng.integer(1, 4) }, () => p.rng.integer(0, n));

const indexSelect: Kind = (p) => {
  const [x, d] = withDim(p) ?? [];
  if (!x || d === undefined) return undefined;
  const indices = someOf(p, x.view.shape[d] as number);
  const shape = x.view.shape.with(d, indices.length);
  const contents = x.view.window(shape, (index) => index.with(d, indices[index[d] as number] as number)).read();
  const says = `${x.name}.indexSelect(${d}, [${indices}])`;
  return p.making(says, shape, contents.map(copied), () => x.tensor.indexSelect(d, indices));
};

/** int32 indices of a dimension of n, in a shape. */
const indicesIn = (p: Program, shape: readonly number[], n: number): Int32Array =>
  Int32Array.from({ length: sizeOf(shape) }, () => p.rng.integer(0, n));

const gather: Kind = (p) => {
  const [x, d] = withDim(p) ?? [];
  if (!x || d === undefined) return undefined;
  const shape = x.view.shape.with(d, p.rng.integer(1, 4));
  const numbers = indicesIn(p, shape, x.view.shape[d] as number);
  const contents = x.view.window(shape, (at) => at.with(d, numbers[flat(at, shape)] as number)).read();
  return p.making(`${x.name}.gather(${d}, [${numbers}])`, shape, contents.map(copied), () => {
    using indices = Tensor.from(numbers, { shape, device: p.device });
    return x.tensor.gather(d, indices);
  });
};

const scatterAdd: Kind = (p) => {
  const [x, d] = withDim(p, isWritable) ?? [];
  if (!x || d === undefined) return undefined;
  const shape = x.view.shape.with(d, p.rng.integer(1, 4));
  const source = p.pick(({ view }) => String(view.shape) === String(shape)) ?? p.input(shape, false);
  const numbers = indicesIn(p, shape, x.view.shape[d] as number);
  const contents = x.view.read();
  const terms = source.view.read();
  for (const [i, at] of indicesOf(shape).entries()) {
    const to = flat(at.with(d, numbers[i] as number), x.view.shape);
    contents[to] = add(contents[to] as Scalar, terms[i] as Scalar);
  }
  return p.editing(`${x.name}.scatterAdd_(${d}, [${numbers}], ${source.name})`, x, contents, () => {
    using indices = Tensor.from(numbers, { shape, device: p.device });
    x.tensor.scatterAdd_(d, indices, source.tensor);
  });
};

const indexCopy: Kind = (p) => {
  const [x, d] = withDim(p, isWritable) ?? [];
  if (!x || d === undefined) return undefined;
  const indices = someOf(p, x.view.shape[d] as number);
  const shape = x.view.shape.with(d, indices.length);
  const source = p.pick(({ view }) => String(view.shape) === String(shape)) ?? p.input(shape, false);
  const contents = x.view.read();
  const values = source.view.read();
  for (const [i, at] of indicesOf(shape).entries()) {
    contents[flat(at.with(d, indices[at[d] as number] as number), x.view.shape)] = copied(values[i] as Scalar);
  }
  const says = `${x.name}.indexCopy_(${d}, [${indices}], ${source.name})`;
  return p.editing(says, x, contents, () => x.tensor.indexCopy_(d, indices, source.tensor));
};

const where: Kind = (p) => {
  const a = p.pick() as Value;
  const b = otherSide(p, a, false);
  const shape = broadcastShape(a.view.shape, b.view.shape) as number[];
  const flags = Uint8Array.from({ length: sizeOf(shape) }, () => p.rng.integer(0, 2));
  const [x, y] = [broadcast(a.view, shape), broadcast(b.view, shape)];
  const contents = x.map((element, i) => copied(flags[i] ? element : (y[i] as Scalar)));
  return p.making(`where([${flags}], ${a.name}, ${b.name})`, shape, contents, () => {
    using condition = Tensor.from(flags, { shape, device: p.device });
    return condition.where(a.tensor, b.tensor);
  });
};

const concatenation: Kind = (p) => {
  const [a, d] = withDim(p, ({ tensor }) => tensor.size <= mostElements / 2) ?? [];
  if (!a || d === undefined) return undefined;
  const like = ({ view, tensor }: Value) =>
    tensor.size <= mostElements / 2 &&
    String(view.shape.with(d, 0)) === String(a.view.shape.with(d, 0)) &&
    view.shape.length === a.view.shape.length;
  const b = p.pick((value) => value.view.shape.length > d && like(value)) as Value;
  const n = a.view.shape[d] as number;
  const shape = a.view.shape.with(d, n + (b.view.shape[d] as number));
  const contents = indicesOf(shape).map((index) => {
    const i = index[d] as number;
    const [view, at] = i < n ? [a.view, i] : [b.view, i - n];
    return copied(view.cells.at(view.places[flat(index.with(d, at), view.shape)] as number));
  });
  return p.making(`cat([${a.name}, ${b.name}], ${d})`, shape, contents, () => cat([a.tensor, b.tensor], d));
};

// ---- products

const product: Kind = (p) => {
  const a = p.pick(({ view }) => view.shape.length === 2);
  if (!a) return undefined;
  const [m, k] = a.view.shape as [number, number];
  const b =
    p.pick(({ view }) => view.shape.length === 2 && view.shape[0] === k) ?? p.input([k, p.rng.integer(1, 4)], false);
  const n = b.view.shape[1] as number;
  const [x, y] = [a.view.read(), b.view.read()];
  const contents = indicesOf([m, n]).map(([i, j]) =>
    sumOf(
      Array.from({ length: k }, (_, l) => mul(x[(i as number) * k + l] as Scalar, y[l * n + (j as number)] as Scalar)),
    ),
  );
  return p.making(`matmul(${a.name}, ${b.name})`, [m, n], contents, () => matmul(a.tensor, b.tensor));
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
  [3, ofOne],
  [2, ofOneInPlace],
  [1, withNumbers],
  [3, reduction],
  [2, ofRows],
  [1, norm],
  [1, triangle],
  [1, indexSelect],
  [1, gather],
  [1, scatterAdd],
  [1, indexCopy],
  [1, where],
  [1, concatenation],
  [2, product],
];
/** Each kind as often as it should be tried. */
export const choices = kinds.flatMap(([times, kind]) => Array<Kind>(times).fill(kind));
