// Views against the same picked by hand from an array: elements, that the memory is shared, and each error.
import * as assert from 'uvu/assert';
import { chooseIndex } from '../../src/engine/ops/choose_index.js';
import { maskLogits } from '../../src/engine/ops/mask_logits.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { updateLastNonzero } from '../../src/engine/ops/update_last_nonzero.js';
import {
  attention,
  diagonal,
  embedding,
  expand,
  flatten,
  linear,
  matmul,
  packWeights,
  split,
  squeeze,
  transpose,
  unsqueeze,
} from '../../src/index.js';
import { close } from '../support/close.js';
import { suite, throws } from '../support/harness.js';
import { type Case, cases, coordinates, product, type Sample } from '../support/operations/cases.js';

const test = suite('view operations');
const numbers = async (t: Tensor) => [...(await t.read())];

/** A tensor of any dtype and layout. */
async function anyTensor(c: Case, rank = c.rng.integer(0, 5)): Promise<Sample> {
  const shape = c.rng.shape(rank, { elements: 3000, max: 19 });
  const kind = c.rng.next();
  if (kind < 0.2) return c.integers(shape, -(2 ** 31), 2 ** 31);
  if (kind < 0.7) return c.tensor(shape);
  const { t } = await c.integers(shape, 0, 2);
  const flags = c.own(t.to('bool'));
  return { t: flags, x: Float64Array.from(await flags.read()) };
}

/** The element of x at these coordinates. */
const at = ({ t, x }: Sample, coords: readonly number[]): number =>
  x[coords.reduce((i, value, d) => i * (t.shape[d] as number) + value, 0)] as number;

/** Demands that `view` has this shape, and at its coordinates what x has at those that `from` gives. */
async function checkView(
  view: Tensor,
  x: Sample,
  shape: readonly number[],
  from: (coords: number[]) => readonly number[],
): Promise<void> {
  assert.equal([...view.shape], [...shape]);
  assert.is(view.dtype, x.t.dtype);
  const expected = Array.from({ length: product(shape) }, (_, i) => at(x, from(coordinates(shape, i))));
  close(await view.read(), expected);
}

const anyDim = (c: Case, rank: number) => c.rng.integer(-rank, rank);
const counted = (dim: number, rank: number) => (dim < 0 ? dim + rank : dim);

test('unsqueeze: 200 random cases', async () => {
  await cases(200, async (c) => {
    const x = await anyTensor(c);
    const { shape } = x.t;
    const dim = anyDim(c, shape.length + 1);
    const d = counted(dim, shape.length + 1);
    const view = c.rng.pick([() => unsqueeze(x.t, dim), () => x.t.unsqueeze(dim)])();
    assert.is(view.storage, x.t.storage);
    await checkView(view, x, shape.toSpliced(d, 0, 1), (coords) => coords.toSpliced(d, 1));
  });
});

test('squeeze: 200 random cases', async () => {
  await cases(200, async (c) => {
    const sizes = c.rng.shape(c.rng.integer(0, 6), { elements: 500, max: 7 });
    const x = await c.tensor(sizes.map((n) => (c.rng.next() < 0.4 ? 1 : n)));
    const rank = sizes.length;
    const chosen = [...sizes.keys()].filter(() => c.rng.next() < 0.5).map((d) => (c.rng.next() < 0.5 ? d : d - rank));
    const dim = c.rng.pick([undefined, chosen, ...(rank > 0 ? [anyDim(c, rank)] : [])]);
    const named = dim === undefined ? [...sizes.keys()] : [dim].flat().map((d) => counted(d, rank));
    const dropped = named.filter((d) => x.t.shape[d] === 1);
    const view = c.rng.pick([() => squeeze(x.t, dim), () => x.t.squeeze(dim)])();
    assert.is(view.storage, x.t.storage);
    const left = [...sizes.keys()].filter((d) => !dropped.includes(d));
    await checkView(
      view,
      x,
      left.map((d) => x.t.shape[d] as number),
      (coords) => sizes.map((_, d) => (left.includes(d) ? (coords[left.indexOf(d)] as number) : 0)),
    );
  });
});

test('expand: 200 random cases, and what is made of the views', async () => {
  await cases(200, async (c) => {
    const sizes = c.rng.shape(c.rng.integer(0, 4), { elements: 200, max: 7 });
    const x = await c.tensor(sizes.map((n) => (c.rng.next() < 0.5 ? 1 : n)));
    const lead = c.rng.shape(c.rng.integer(0, 3), { elements: 20, max: 5 });
    const target = [...lead, ...x.t.shape.map((n) => (n === 1 ? c.rng.pick([1, 0, 2, 5]) : n))];
    const wanted = target.map((n, d) =>
      d >= lead.length && n === x.t.shape[d - lead.length] && c.rng.next() < 0.5 ? -1 : n,
    );
    const view = c.rng.pick([() => expand(x.t, ...wanted), () => expand(x.t, wanted), () => x.t.expand(...wanted)])();
    assert.is(view.storage, x.t.storage);
    const from = (coords: number[]) => coords.slice(lead.length).map((i, d) => (x.t.shape[d] === 1 ? 0 : i));
    await checkView(view, x, target, from);
    await checkView(c.own(view.clone()), x, target, from);
    using total = view.sum();
    const values = Float64Array.from(await view.read());
    const size = values.reduce((sum, v) => sum + Math.abs(v), 0);
    close(await total.read(), [values.reduce((sum, v) => sum + v, 0)], { atol: size * 2 ** -8 });
    if (view.size === 0) return;
    using largest = view.max();
    close(await largest.read(), [Math.max(...values)]);
  });
});

test('transpose: 200 random cases', async () => {
  await cases(200, async (c) => {
    const x = await anyTensor(c, c.rng.integer(1, 5));
    const rank = x.t.shape.length;
    const [a, b] = [anyDim(c, rank), anyDim(c, rank)];
    const exchanged = (list: readonly number[]) =>
      list.map((value, d) =>
        d === counted(a, rank)
          ? (list[counted(b, rank)] as number)
          : d === counted(b, rank)
            ? (list[counted(a, rank)] as number)
            : value,
      );
    const view = c.rng.pick([() => transpose(x.t, a, b), () => x.t.transpose(a, b)])();
    assert.is(view.storage, x.t.storage);
    await checkView(view, x, exchanged(x.t.shape), exchanged);
  });
});

test('flatten and reshape: 200 random cases, views of contiguous tensors and where strides allow one', async () => {
  await cases(200, async (c) => {
    const x = await anyTensor(c);
    const rank = x.t.shape.length;
    const [low, high] = [c.rng.integer(0, Math.max(rank, 1)), c.rng.integer(0, Math.max(rank, 1))].sort() as [
      number,
      number,
    ];
    const flat = c.own(c.rng.next() < 0.5 ? flatten(x.t, low, high - Math.max(rank, 1)) : x.t.flatten(low, high));
    const shape = x.t.shape;
    const sizes =
      rank === 0 ? [1] : [...shape.slice(0, low), product(shape.slice(low, high + 1)), ...shape.slice(high + 1)];
    assert.equal([...flat.shape], sizes);
    close(await flat.read(), x.x);
    if (x.t.isContiguous) assert.is(flat.storage, x.t.storage);
    const back = flat.storage === x.t.storage ? flat.reshape([...shape]) : c.own(flat.reshape([...shape]));
    close(await back.read(), x.x);
  });
  using t = Tensor.from(
    Int32Array.from({ length: 24 }, (_, i) => i),
    { shape: [2, 3, 4] },
  );
  const part = t.slice(1, 0, 2); // [2, 2, 4], with a gap between the two
  assert.is(part.flatten(1).storage, t.storage);
  assert.equal(await numbers(part.flatten(1).select(0, 1)), [12, 13, 14, 15, 16, 17, 18, 19]);
  assert.equal([...part.flatten(1).strides], [12, 1]);
  part.reshape(2, 2, 2, 2).select(-1, 0).fill(-1);
  assert.equal(await numbers(t.select(0, 0).flatten()), [-1, 1, -1, 3, -1, 5, -1, 7, 8, 9, 10, 11]);
  using copy = part.flatten();
  assert.is.not(copy.storage, t.storage);
  // columns, one after the other in memory by steps of 4
  assert.is(t.select(2, 1).reshape(6).storage, t.storage);
  assert.equal(await numbers(t.select(2, 1).reshape(6)), [1, 5, 9, 13, 17, 21]);
});

test('diagonal: 200 random cases', async () => {
  await cases(200, async (c) => {
    const x = await anyTensor(c, c.rng.integer(2, 5));
    const rank = x.t.shape.length;
    const dim1 = anyDim(c, rank);
    const row = counted(dim1, rank);
    const column = c.rng.pick([...x.t.shape.keys()].filter((d) => d !== row));
    const dim2 = c.rng.pick([column, column - rank]);
    const offset = c.rng.integer(-9, 10);
    const view = c.rng.pick([() => diagonal(x.t, offset, dim1, dim2), () => x.t.diagonal(offset, dim1, dim2)])();
    assert.is(view.storage, x.t.storage);
    const [m, n] = [x.t.shape[row] as number, x.t.shape[column] as number];
    let length = 0;
    for (let i = 0; i < m; i++) if (i + offset >= 0 && i + offset < n) length++;
    const others = [...x.t.shape.keys()].filter((d) => d !== row && d !== column);
    const shape = [...others.map((d) => x.t.shape[d] as number), length];
    await checkView(view, x, shape, (coords) => {
      const k = coords.at(-1) as number;
      return [...x.t.shape.keys()].map((d) =>
        d === row
          ? k + Math.max(-offset, 0)
          : d === column
            ? k + Math.max(offset, 0)
            : (coords[others.indexOf(d)] as number),
      );
    });
  });
  using t = Tensor.zeros([2, 3]);
  t.diagonal().fill(1);
  t.diagonal(1).copyFrom(Tensor.from([5, 6]));
  assert.equal(await numbers(t), [1, 5, 0, 0, 1, 6]);
  assert.equal([...t.diagonal(3).shape, ...t.diagonal(-2).shape, ...t.diagonal(2 ** 40).shape], [0, 0, 0]);
});

test('split: 200 random cases', async () => {
  await cases(200, async (c) => {
    const x = await anyTensor(c, c.rng.integer(1, 5));
    const { shape } = x.t;
    const dim = anyDim(c, shape.length);
    const d = counted(dim, shape.length);
    const n = shape[d] as number;
    const sizes: number[] = [];
    let size: number | number[] = c.rng.integer(1, 9);
    if (c.rng.next() < 0.5) {
      for (let left = n; left > 0; left -= sizes.at(-1) as number) sizes.push(c.rng.integer(0, left + 1));
      size = sizes;
    } else for (let from = 0; from < Math.max(n, 1); from += size) sizes.push(Math.min(size, n - from));
    const parts = c.rng.next() < 0.5 ? split(x.t, size, dim) : x.t.split(size, dim);
    assert.is(parts.length, sizes.length);
    let from = 0;
    for (const [i, part] of parts.entries()) {
      assert.is(part.storage, x.t.storage);
      const first = from;
      await checkView(part, x, shape.with(d, sizes[i] as number), (coords) =>
        coords.with(d, (coords[d] as number) + first),
      );
      from += sizes[i] as number;
    }
  });
});

test('an expanded view is not written, by any operation', () => {
  using t = Tensor.zeros([1, 3]);
  using counts = Tensor.zeros([1], { dtype: 'int32' });
  const wide = t.expand(2, 3);
  const refused = (argument: string, shape = '2, 3') =>
    new RegExp(
      `: ${argument} must be a tensor whose elements can be written; clone\\(\\) makes one, but is an expanded view \\[${shape}\\]`,
    );
  throws(() => wide.fill(1), RangeError, refused('the tensor'));
  throws(() => wide.slice(1, 0, 1).fill(1), RangeError, refused('the tensor', '2, 1'));
  throws(() => wide.permute([1, 0]).fill(1), RangeError, refused('the tensor', '3, 2'));
  throws(() => wide.copyFrom(t), RangeError, refused('the tensor'));
  throws(() => wide.copyFrom(wide), RangeError, refused('the tensor'));
  using a = Tensor.zeros([2, 4]);
  using b = Tensor.zeros([4, 3]);
  using packed = packWeights(b);
  throws(() => matmul(a, b, { out: wide }), RangeError, refused('out'));
  throws(() => linear(a, packed, { out: wide }), RangeError, refused('out'));
  using indices = Tensor.zeros([2], { dtype: 'int32' });
  using table = Tensor.zeros([4, 3]);
  throws(() => embedding(indices, table, { addTo: wide }), RangeError, refused('addTo'));
  const logits = t.reshape(1, 1, 1, 3).expand(1, 1, 2, 3);
  throws(() => maskLogits(logits), RangeError, refused('logits', '1, 1, 2, 3'));
  throws(() => updateLastNonzero(counts.expand(4), a), RangeError, refused('stats', '4'));
  throws(() => chooseIndex(counts.expand(2, 2), a), RangeError, refused('out', '2, 2'));
  using q = Tensor.zeros([1, 2, 1, 4]);
  const probs = counts.to('float32').reshape(1, 1, 1, 1).expand(1, 2, 2, 1);
  throws(() => attention(q, q, q, { probs }), RangeError, refused('probs', '1, 2, 2, 1'));
  // what repeats nothing is written
  t.expand(1, 1, 3).fill(2);
  t.expand(0, 3).fill(3);
});

test('wrong arguments are refused', () => {
  using t = Tensor.zeros([2, 1, 3]);
  using full = Tensor.zeros([1, 1, 1, 1, 1, 1, 1, 1]);
  using vector = Tensor.zeros([3]);
  throws(() => t.unsqueeze(4), RangeError, /^unsqueeze: dim must be an integer from -4 to 3, but is 4/);
  throws(() => full.unsqueeze(0), RangeError, /^unsqueeze: shape must be of at most 8 dimensions/);
  throws(() => t.squeeze(3), RangeError, /^squeeze: dim must be a dimension of \[2, 1, 3\], from -3 to 2, but is 3/);
  throws(() => t.squeeze([1, -2]), RangeError, /^squeeze: dim must be each dimension once, but is \[1, -2\]/);
  throws(
    () => t.expand(2, 4, 4),
    RangeError,
    /^expand: shape must be one that \[2, 1, 3\] broadcasts to, but is \[2, 4, 4\]/,
  );
  throws(
    () => t.expand(1, 3),
    RangeError,
    /^expand: shape must be one that \[2, 1, 3\] broadcasts to, but is \[1, 3\]/,
  );
  throws(() => t.expand(-1, 2, 1, 3), RangeError, /^expand: shape must be integers of 0 or more/);
  throws(
    () => t.expand(...([[2, 1, 3], 4] as never)),
    RangeError,
    /^expand: shape must be integers of 0 or more, but is \[an array of length 3, 4\]/,
  );
  throws(() => t.expand(2 ** 51, 2, 1, 3), RangeError, /^expand: shape must be of fewer than 2\^51 elements/);
  throws(() => t.transpose(0, 3), RangeError, /^transpose: b must be a dimension of \[2, 1, 3\]/);
  throws(() => t.transpose(-4, 0), RangeError, /^transpose: a must be a dimension of \[2, 1, 3\]/);
  throws(() => t.flatten(2, 1), RangeError, /^flatten: to must be 2 or more \(from\), but is 1/);
  throws(() => t.flatten(0, 3), RangeError, /^flatten: to must be a dimension of \[2, 1, 3\]/);
  throws(() => t.diagonal(0, 1, -2), RangeError, /^diagonal: dim2 must be another dimension than dim1, but is -2/);
  throws(() => vector.diagonal(), RangeError, /^diagonal: x must be of 2 or more dimensions, but is \[3\] of 1/);
  throws(() => t.diagonal(0.5), RangeError, /^diagonal: offset must be an integer/);
  throws(() => t.split(0), RangeError, /^split: size must be an integer of 1 or more, but is 0/);
  throws(
    () => t.split([1, 1], 2),
    RangeError,
    /^split: size must be sizes that add up to 3 \(dimension 2 of \[2, 1, 3\]\), but is \[1, 1\]/,
  );
  throws(() => t.split([-1, 4], 2), RangeError, /^split: size\[0\] must be an integer of 0 or more, but is -1/);
  throws(() => Tensor.zeros([]).split(1), RangeError, /^split: dim must be a dimension of \[\]/);
});

test.run();
