// Sums of products by the letters of their dimensions. An equation of two operands becomes one matmul of strided views
// wherever strides can say it.
import { checkFloat, checkOperands, checkString, describe, wrong } from '../check.js';
import { type DType, promote } from '../dtype.js';
import { hasHistory, record } from '../record.js';
import { maxRank, showShape } from '../shape.js';
import { mul } from './binary.js';
import { matmul } from './matmul.js';
import { sum } from './reduce.js';
import type { Tensor } from './tensor.js';
import { sumOfProducts } from './vector_products.js';
import { diagonal } from './view_operations.js';

/** A view whose dimensions are named: each letter once. */
interface Lettered {
  readonly t: Tensor;
  readonly letters: readonly string[];
}

/**
 * The sum over all letters that are not in the output of the product of the operands, as in numpy and PyTorch:
 * `einsum('bqhc,bkhc->bhqk', q, k)`. One or two operands of floats; a letter, a to z or A to Z, is a dimension. A
 * letter twice in one operand is its diagonal. Without `->`, the output has the letters that occur once, in
 * alphabetical order. Returns a new tensor in the shape of the output, of the operands' dtype, or of float32 where they
 * differ.
 *
 * Letters that one operand alone has and the output has not are summed first. What remains is one matmul, with its
 * arithmetic; a mul, where no letter is summed over; or products that are added up in double precision, where no letter
 * of the output belongs to one operand alone. Operands are not copied, except one whose letters to sum over do not lie
 * in memory like one dimension.
 * @throws RangeError or TypeError for three operands, an ellipsis, other characters, an output letter that no operand
 * has or that is there twice, another number of dimensions, sizes that differ, more than 8 letters in the output.
 */
export function einsum(equation: string, ...operands: Tensor[]): Tensor {
  const { inputs, output } = parsed(equation, operands.length);
  checkOperands('einsum', Object.fromEntries(operands.map((t, i) => [`operand ${i + 1}`, t])));
  for (const [i, t] of operands.entries()) {
    checkFloat('einsum', `operand ${i + 1}`, t);
    if (t.shape.length !== (inputs[i] as string).length) {
      const expected = `of ${(inputs[i] as string).length} dimensions ('${inputs[i]}')`;
      throw new RangeError(wrong('einsum', `operand ${i + 1}`, expected, showShape(t.shape)));
    }
  }
  const sizes = checkedSizes(inputs, operands);
  const shape = [...output].map((letter) => sizes.get(letter) as number);
  const dtype = operands.map((t) => t.dtype).reduce(promote);
  const [first, second] = operands.map((t, i) => withoutRepeats(t, inputs[i] as string));
  if (second === undefined) return alone(first as Lettered, output);
  if ([...sizes.values()].includes(0)) {
    const zeros = (first as Lettered).t.make(shape, dtype).fill(0);
    if (hasHistory(operands[0], operands[1])) {
      record('einsum', [zeros], operands, () => (g) => operands.map((t) => g?.make(t.shape).fill(0)));
    }
    return zeros;
  }
  return together(first as Lettered, second, [...output], dtype, sizes);
}

// ---- the equation

function parsed(equation: string, count: number): { inputs: string[]; output: string } {
  const text = checkString('einsum', 'equation', equation).replaceAll(' ', '');
  const refuse = (expected: string, actual = describe(equation)): never => {
    throw new RangeError(wrong('einsum', 'equation', expected, actual));
  };
  if (text.includes('.')) refuse('without an ellipsis: each dimension has a letter');
  const [left = '', explicit, ...more] = text.split('->');
  if (more.length > 0 || !/^[A-Za-z]*(,[A-Za-z]*)*$/.test(left) || !/^[A-Za-z]*$/.test(explicit ?? '')) {
    refuse("letters for each operand, ',' between them, and maybe '->' and letters, as 'ij,jk->ik'");
  }
  const inputs = left.split(',');
  if (inputs.length > 2 || count > 2) refuse('of one or two operands', `${describe(equation)} with ${count}`);
  if (inputs.length !== count) refuse(`of ${count} operands, as many as are given`);
  const all = inputs.join('');
  if (explicit === undefined) {
    const once = [...new Set(all)].filter((letter) => all.indexOf(letter) === all.lastIndexOf(letter));
    return { inputs, output: checkedOutput(once.sort().join(''), refuse) };
  }
  for (const letter of explicit) {
    if (!all.includes(letter)) refuse(`one whose output has letters of the operands ('${letter}' is none)`);
    if (explicit.indexOf(letter) !== explicit.lastIndexOf(letter)) {
      refuse(`one whose output has each letter once ('${letter}' is there twice)`);
    }
  }
  return { inputs, output: checkedOutput(explicit, refuse) };
}

function checkedOutput(output: string, refuse: (expected: string) => never): string {
  if (output.length > maxRank) refuse(`of at most ${maxRank} letters in the output`);
  return output;
}

function checkedSizes(inputs: readonly string[], operands: readonly Tensor[]): Map<string, number> {
  const sizes = new Map<string, number>();
  const owners = new Map<string, number>();
  for (const [i, { shape }] of operands.entries()) {
    for (const [d, letter] of [...(inputs[i] as string)].entries()) {
      const n = shape[d] as number;
      const known = sizes.get(letter);
      if (known !== undefined && known !== n) {
        const expected = `of size ${known} in '${letter}' (as operand ${owners.get(letter)} is)`;
        throw new RangeError(wrong('einsum', `operand ${i + 1}`, expected, `${showShape(shape)} ('${inputs[i]}')`));
      }
      sizes.set(letter, n);
      if (!owners.has(letter)) owners.set(letter, i + 1);
    }
  }
  return sizes;
}

// ---- one operand

/** The diagonals of the letters that are there more than once. */
function withoutRepeats(t: Tensor, input: string): Lettered {
  const letters = [...input];
  for (let to = letters.length - 1; to > 0; to--) {
    const from = letters.indexOf(letters[to] as string);
    if (from === to) continue;
    t = diagonal(t, 0, from, to);
    const [letter] = letters.splice(to, 1);
    letters.splice(from, 1);
    letters.push(letter as string);
    to = letters.length;
  }
  return { t, letters };
}

const strideOf = ({ t, letters }: Lettered, letter: string): number => t.strides[letters.indexOf(letter)] ?? 0;

/** The view with these of its letters, in this order; letters that it has not got repeat. */
function inOrder(x: Lettered, order: readonly string[], sizes: ReadonlyMap<string, number>): Tensor {
  return x.t.window(
    order.map((letter) => sizes.get(letter) as number),
    order.map((letter) => strideOf(x, letter)),
  );
}

/** The sum over all letters but those of `rest`, in their order. */
function summed({ t, letters }: Lettered, rest: readonly string[]): Tensor {
  const order = [...rest, ...letters.filter((letter) => !rest.includes(letter))];
  const last = t.permute(order.map((letter) => letters.indexOf(letter)));
  return sum(last, [...order.keys()].slice(rest.length));
}

function alone(x: Lettered, output: string): Tensor {
  if (x.letters.length > output.length) return summed(x, [...output]);
  return x.t.permute([...output].map((letter) => x.letters.indexOf(letter))).clone();
}

// ---- two operands

function together(
  a: Lettered,
  b: Lettered,
  output: readonly string[],
  dtype: DType,
  sizes: ReadonlyMap<string, number>,
): Tensor {
  const temporary: Tensor[] = [];
  const own = (t: Tensor): Tensor => {
    temporary.push(t);
    return t;
  };
  // what only one operand has and the output has not; widened before, so that only the result is rounded to 16 bits
  const reduced = (x: Lettered, other: Lettered): Lettered => {
    const letters = x.letters.filter((letter) => output.includes(letter) || other.letters.includes(letter));
    if (letters.length === x.letters.length) return x;
    const wide = x.t.dtype === 'float32' ? x.t : own(x.t.to('float32'));
    return { t: own(summed({ t: wide, letters: x.letters }, letters)), letters };
  };
  try {
    return product(reduced(a, b), reduced(b, a), output, dtype, sizes, own);
  } finally {
    for (const t of temporary) t.dispose();
  }
}

type Own = (t: Tensor) => Tensor;

function product(
  a: Lettered,
  b: Lettered,
  output: readonly string[],
  dtype: DType,
  sizes: ReadonlyMap<string, number>,
  own: Own,
): Tensor {
  const inBoth = a.letters.filter((letter) => b.letters.includes(letter));
  const contracted = inBoth.filter((letter) => !output.includes(letter));
  const batch = output.filter((letter) => inBoth.includes(letter));
  const as = (t: Tensor): Tensor => (t.dtype === dtype ? t : own(t).to(dtype));
  if (contracted.length === 0) return as(mul(inOrder(a, output, sizes), inOrder(b, output, sizes)));
  if (batch.length === output.length) {
    const order = [...batch, ...contracted];
    return as(sumOfProducts(inOrder(a, order, sizes), inOrder(b, order, sizes), batch.length));
  }
  return multiplied(a, b, batch, contracted, output, dtype, sizes, own);
}

/** Letters that lie in memory like one dimension, and that dimension. */
interface Group {
  readonly letters: readonly string[];
  readonly size: number;
  readonly stride: number;
}

/** Groups of neighbours in `order` that are one dimension in memory. Letters of size 1 join any group. */
function merged(x: Lettered, order: readonly string[], sizes: ReadonlyMap<string, number>): Group[] {
  const groups: Group[] = [];
  for (const letter of order) {
    const size = sizes.get(letter) as number;
    const stride = strideOf(x, letter);
    const before = groups.at(-1);
    if (before && (size === 1 || before.size === 1 || before.stride === stride * size)) {
      groups[groups.length - 1] = {
        letters: [...before.letters, letter],
        size: before.size * size,
        stride: size === 1 ? before.stride : stride,
      };
    } else groups.push({ letters: [letter], size, stride });
  }
  return groups;
}

/** These letters in the order in which they lie in x's memory. */
const byStride = (x: Lettered, letters: readonly string[], sizes: ReadonlyMap<string, number>): string[] => {
  const step = (letter: string) => (sizes.get(letter) === 1 ? Infinity : strideOf(x, letter)); // of size 1: in front
  return [...letters].sort((left, right) => (step(right) === step(left) ? 0 : step(right) - step(left)));
};

/** The groups of one operand's own letters; the largest last. */
function grouped(x: Lettered, letters: readonly string[], sizes: ReadonlyMap<string, number>): Group[] {
  const groups = merged(x, byStride(x, letters, sizes), sizes);
  return groups.length === 0 ? [{ letters: [], size: 1, stride: 0 }] : groups.sort((a, b) => a.size - b.size);
}

/** As one matmul: [batch, others of the left, others of the right, M, K] x [the same, K, N]. */
function multiplied(
  a: Lettered,
  b: Lettered,
  batch: readonly string[],
  contracted: readonly string[],
  output: readonly string[],
  dtype: DType,
  sizes: ReadonlyMap<string, number>,
  own: Own,
): Tensor {
  const [x, y, order] = contractible(a, b, contracted, sizes, own);
  const [k] = merged(x, order, sizes) as [Group];
  const [otherK] = merged(y, order, sizes) as [Group];
  const onlyIn = (t: Lettered, other: Lettered) =>
    output.filter((c) => t.letters.includes(c) && !other.letters.includes(c));
  const [left, right] = [grouped(x, onlyIn(x, y), sizes), grouped(y, onlyIn(y, x), sizes)];
  const [m, n] = [left.pop(), right.pop()] as [Group, Group];
  const lead = [...batch.map((letter) => sizes.get(letter) as number), ...[...left, ...right].map(({ size }) => size)];
  const none = (groups: readonly Group[]) => groups.map(() => 0);
  const strides = (groups: readonly Group[]) => groups.map(({ stride }) => stride);
  const inBatch = (t: Lettered) => batch.map((letter) => strideOf(t, letter));
  const rows = x.t.window(
    [...lead, m.size, k.size],
    [...inBatch(x), ...strides(left), ...none(right), m.stride, k.stride],
  );
  const columns = y.t.window(
    [...lead, k.size, n.size],
    [...inBatch(y), ...none(left), ...strides(right), otherK.stride, n.stride],
  );
  const out = x.t.make([...lead, m.size, n.size], dtype);
  matmul(rows, columns, { out });
  // the letters as they lie in the result's memory, and from them its strides in the order of the output
  const stored = [...batch, ...[...left, ...right, m, n].flatMap(({ letters }) => letters)];
  const step = new Map<string, number>();
  let elements = 1;
  for (const letter of stored.toReversed()) {
    step.set(letter, elements);
    elements *= sizes.get(letter) as number;
  }
  return out.transferTo(
    output.map((letter) => sizes.get(letter) as number),
    output.map((letter) => step.get(letter) as number),
  );
}

/**
 * The operands and an order of the contracted letters in which these are one dimension in both. Where there is none,
 * one operand is copied: the smaller one, if the other's letters are one dimension.
 */
function contractible(
  a: Lettered,
  b: Lettered,
  contracted: readonly string[],
  sizes: ReadonlyMap<string, number>,
  own: Own,
): [a: Lettered, b: Lettered, order: readonly string[]] {
  const isOne = (x: Lettered, order: readonly string[]) => merged(x, order, sizes).length === 1;
  const [orderOfA, orderOfB] = [byStride(a, contracted, sizes), byStride(b, contracted, sizes)];
  for (const order of [orderOfA, orderOfB]) if (isOne(a, order) && isOne(b, order)) return [a, b, order];
  const copied = (x: Lettered, order: readonly string[]): Lettered => {
    const letters = [...x.letters.filter((letter) => !contracted.includes(letter)), ...order];
    return { t: own(inOrder(x, letters, sizes).clone()), letters };
  };
  const [keepsA, keepsB] = [isOne(a, orderOfA), isOne(b, orderOfB)];
  if (keepsA && (!keepsB || b.t.size <= a.t.size)) return [a, copied(b, orderOfA), orderOfA];
  if (keepsB) return [copied(a, orderOfB), b, orderOfB];
  return [copied(a, orderOfA), copied(b, orderOfA), orderOfA];
}
