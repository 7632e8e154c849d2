// The part of the fixed program that computes element by element, and moves elements.
import type { DType } from '../../src/engine/dtype.js';
import { add, div, maximum, minimum, mul, sub } from '../../src/engine/ops/binary.js';
import { cat } from '../../src/engine/ops/cat.js';
import { and, eq, ge, gt, le, lt, ne, not, or } from '../../src/engine/ops/compare.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { abs, clamp, exp, gelu, log, neg, pow, relu, sigmoid, sign, sqrt, tanh } from '../../src/engine/ops/unary.js';
import type { Digests } from './digests.js';
import { type Layout, layouts } from './values.js';

const shapes = [
  ...[[], [1], [0], [17], [63], [64], [65], [127], [128], [129], [769]],
  ...[
    [3, 5],
    [1, 65],
    [65, 1],
    [0, 7],
    [7, 13],
    [2, 3, 129],
    [5, 1, 17, 2],
  ],
];
const layoutOf = (i: number): Layout => layouts[i % layouts.length] as Layout;

const curves = { relu, gelu, exp, log, sqrt, abs, neg, sign, tanh, sigmoid };
const exponents = [0, 1, 2, 3, -1, -2, 0.5, -0.5, 2.5, 17, 1 / 3, -4.75, Number.NaN, Number.POSITIVE_INFINITY];
const bounds = [
  [-1, 2],
  [2, -1],
  [-0, 0],
  [0.1, Number.POSITIVE_INFINITY],
] as const;

const twoSided = { add, sub, mul, div, maximum, minimum };
const comparisons = { eq, ne, lt, le, gt, ge };
const numbers = [0, -0, 1, 0.1, -3, 1e-45, 3.4e38, 1e10, Number.NaN, Number.NEGATIVE_INFINITY];

export async function elementwise(d: Digests): Promise<void> {
  using sweep = d.sweep();
  for (const [name, curve] of Object.entries(curves)) {
    await d.take(name, curve(sweep), ...shapes.map((shape, i) => curve(d.floats(shape, 'awkward', layoutOf(i)))));
  }
  for (const p of exponents) await d.take('pow', pow(sweep, p), pow(d.floats([7, 13], 'awkward', 'reversed'), p));
  for (const [low, high] of bounds) await d.take('clamp', clamp(sweep, low, high), clamp(d.floats([129]), low, high));

  for (const [name, both] of Object.entries(twoSided)) {
    for (const [i, shape] of shapes.entries()) {
      const [x, y] = [d.floats(shape, 'awkward', layoutOf(i)), d.floats(shape, 'awkward', layoutOf(i + 1 + (i >>> 2)))];
      const other = d.float32(shape.slice(-1), 'awkward');
      await d.take(name, both(x, y), both(x, d.floats(shape)), both(x, other), both(other, x));
    }
    for (const b of numbers) {
      await d.take(name, both(sweep, b), both(d.floats([7, 13], 'awkward', 'reversed'), b));
    }
    using same = d.floats([3, 65], 'awkward');
    await d.take(name, both(same, same), both(same.slice(0, 0, 2), same.slice(0, 1, 3)));
    await d.take(name, both(d.floats([1031], 'plain'), d.floats([1031], 'plain')));
  }

  for (const compared of Object.values(comparisons)) {
    for (const [i, shape] of shapes.entries()) {
      const [x, y] = [d.floats(shape, 'equal', layoutOf(i)), d.floats(shape, 'awkward', layoutOf(i + 1))];
      await d.take('compare', compared(x, y), compared(x, d.floats(shape, 'equal')), compared(y, y));
    }
    for (const b of numbers) await d.take('compare', compared(sweep, b));
    await d.take('compare', compared(sweep, sweep));
  }
  for (const [i, shape] of shapes.entries()) {
    const [x, y] = [d.floats(shape, 'awkward', layoutOf(i)), d.bools(shape, layoutOf(i + 1))];
    await d.take('logical', and(x, y), or(x, y), not(x));
    await d.take('where', y.where(x, d.floats(shape, 'awkward', layoutOf(i + 2))), y.where(x, 0.1), y.where(1, x));
  }

  const dtypes: DType[] = ['float32', 'float16', 'bfloat16', 'bool'];
  for (const dtype of dtypes) {
    await d.take('copy', sweep.to(dtype));
    for (const [i, shape] of shapes.entries()) {
      await d.take('copy', d.floats(shape, 'awkward', layoutOf(i)).to(dtype));
    }
  }
  await d.take('copy', d.floats([1031], 'plain', 'sliced').mul(1000).to('int32'), d.floats([0]).to('int32'));
  for (const [i, shape] of shapes.entries()) {
    await d.take('copy', d.floats(shape, 'awkward', layoutOf(i)).clone());
    if (shape.length > 0) await d.take('cat', cat([d.floats(shape, 'awkward'), d.float32(shape, 'plain')], -1));
  }
  for (const value of numbers) await d.take('fill', Tensor.full([3, 17], value, { device: d.device, dtype: d.dtype }));
  for (const diagonal of [-70, -1, 0, 1, 3, 70]) {
    const [x, y] = [d.floats([2, 5, 65], 'awkward', 'reversed'), d.floats([65, 5], 'awkward')];
    await d.take('triangle', x.tril(diagonal), x.triu(diagonal), y.tril_(diagonal), d.floats([1, 1]).triu(diagonal));
  }
}

/** What computes on integers and bools, exactly. */
export async function integers(d: Digests): Promise<void> {
  if (d.dtype !== 'float32') return; // they have no part in it
  for (const [i, shape] of shapes.entries()) {
    const layout = layoutOf(i);
    const [x, y] = [d.integers(shape, -1000, 1000, layout), d.integers(shape, 1, 900, layoutOf(i + 1))];
    const [large, flags] = [d.integers(shape, -(2 ** 31) + 1, 2 ** 31, layout), d.bools(shape, layoutOf(i + 2))];
    await d.take('int32 curves', ...[abs, neg, sign].flatMap((f) => [f(x), f(large)]), pow(x, 3), clamp(large, -5, 77));
    await d.take('int32 curves', exp(x), sqrt(y), pow(y, -0.5), clamp(x, 0.5, 3), neg(flags), sigmoid(flags));
    await d.take('int32 two-sided', ...[add, sub, mul, div, maximum, minimum].map((f) => f(x, y)));
    await d.take('int32 two-sided', add(x, 3), mul(x, -7), div(x, 3), maximum(large, 5), add(flags, flags));
    await d.take(
      'int32 two-sided',
      add(x, d.floats(shape, 'awkward')),
      mul(large, 0.1),
      sub(flags, large.clamp(-9, 9)),
    );
    for (const f of Object.values(comparisons)) await d.take('int32 compare', f(x, y), f(large, 12.5), f(flags, x));
    await d.take('int32 moves', x.to('float32'), large.to('float32'), large.to('float16'), large.to('bool'));
    await d.take('int32 moves', flags.to('int32'), flags.to('float32'), flags.where(x, large), not(flags), x.clone());
    for (const dim of shape.length > 0 ? [undefined, -1, 0] : [undefined]) {
      const wide = d.integers(shape, -(2 ** 20), 2 ** 20, layout);
      await d.take('int32 reductions', wide.sum(dim), wide.mean(dim), wide.var(dim), wide.norm(dim), flags.sum(dim));
      await d.take(
        'int32 reductions',
        wide.any(dim),
        wide.all(dim),
        flags.any(dim),
        flags.all(dim),
        wide.logSumExp(dim),
      );
      if (shape.includes(0)) continue;
      await d.take(
        'int32 reductions',
        wide.max(dim),
        wide.min(dim),
        wide.argmax(dim),
        flags.argmin(dim),
        flags.max(dim),
      );
      if (dim !== undefined) {
        const { values, indices } = x.sort(dim, { descending: dim === 0 });
        await d.take('int32 order', values, indices, wide.cumsum(dim), flags.cumsum(dim));
      }
    }
  }
  using x = d.integers([5, 129], -9, 9);
  const { values, indices } = x.topk(7);
  await d.take('int32 order', values, indices, d.integers([4, 40], -9, 9, 'reversed').sort().indices);
  await d.take('int32 products', d.integers([1031], -900, 900).dot(d.integers([1031], -900, 900)));
  await d.take('int32 products', d.integers([17], -900, 900).outer(d.integers([65], -900, 900)));
  for (const seed of [0, 1, 2 ** 40 + 7]) {
    for (const size of [0, 1, 7, 1031]) {
      await d.take('randint', Tensor.randint(-5, 100, [size], { seed, device: d.device }));
      await d.take('randint', Tensor.randint(-(2 ** 31), 2 ** 31, [3, size], { seed, device: d.device }));
    }
  }
  await d.take('arange', Tensor.arange(17, { device: d.device }), Tensor.arange(-1, 2, 0.1, { device: d.device }));
}
