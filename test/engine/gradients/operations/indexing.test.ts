// Gradients of operations that take, put and join elements, against central differences of plain loops.
import { cat, stack } from '../../../../src/engine/ops/cat.js';
import { chooseIndex } from '../../../../src/engine/ops/choose_index.js';
import { embedding } from '../../../../src/engine/ops/embedding.js';
import { indexSelectInto } from '../../../../src/engine/ops/index_select.js';
import type { NestedIndices } from '../../../../src/engine/ops/indices.js';
import { Tensor } from '../../../../src/engine/ops/tensor.js';
import { updateLastNonzero } from '../../../../src/engine/ops/update_last_nonzero.js';
import { close } from '../../../support/close.js';
import { suite, throws } from '../../../support/harness.js';
import { coordinates, product } from '../../../support/operations/cases.js';
import { offsetOf, smaller } from '../../../support/operations/indexing.js';
import type { Random } from '../../../support/random.js';
import { anyFloat, gradients, type Own } from './differences.js';
import { device, maybe, normal } from './inputs.js';
import { thinned, underneath } from './parts.js';

const test = suite('gradients of indexing');

/** Indices of a dimension of size n, in an int32 tensor or in nested arrays, where some count from the end. */
function someIndices(rng: Random, shape: readonly number[], n: number) {
  const values = Int32Array.from({ length: product(shape) }, () => rng.integer(0, Math.max(n, 1)));
  const isList = maybe(rng) && !shape.slice(0, -1).includes(0);
  const nested = (at: number, d: number): NestedIndices | number => {
    if (d === shape.length) return (values[at] as number) - (maybe(rng) ? n : 0);
    const step = product(shape.slice(d + 1));
    return Array.from({ length: shape[d] as number }, (_, i) => nested(at + i * step, d + 1));
  };
  const list = isList ? (nested(0, 0) as NestedIndices) : undefined;
  return {
    values,
    /** Calls `use` with the indices of x; a tensor of them is overwritten afterwards. */
    through(own: Own, { device }: Tensor, use: (indices: Tensor | number[]) => Tensor | readonly Tensor[]) {
      if (list) return use(list as number[]);
      const t = own(Tensor.from(values, { shape: [...shape], device }));
      const wide = own(Tensor.zeros([...shape, 2], { dtype: 'int32', device }));
      const indices = maybe(rng) ? t : wide.select(-1, 1).copyFrom(t);
      const result = use(indices);
      indices.fill(-1);
      return result;
    },
  };
}

/** A shape, and one of its dimensions. */
function anyDim(rng: Random): [shape: number[], d: number] {
  const shape = rng.shape(rng.integer(1, 5), { max: 9, elements: 150, min: maybe(rng, 0.15) ? 0 : 1 });
  return [shape, rng.integer(0, shape.length)];
}

/** A tensor for a result, in part of a larger one; its values are constants. */
const window = (own: Own, { device }: Tensor, shape: readonly number[]): Tensor => {
  const large = own(Tensor.zeros([...shape.map((n) => n + 1), 2], { device }));
  return shape.reduce((t: Tensor, n, d) => t.slice(d, 1, n + 1), large.select(-1, 1));
};

test('embedding', async () => {
  await gradients(200, (rng) => {
    const [rows, width] = [rng.integer(1, 12), rng.pick([1, 2, 7, 0])];
    const shape = rng.shape(rng.integer(0, 4), { max: 5 });
    const { values } = someIndices(rng, shape, rows);
    const adds = maybe(rng);
    const dtype = anyFloat(rng);
    return {
      operation: 'embedding',
      inputs: [normal(rng, [rows, width], dtype), ...(adds ? [normal(rng, [...shape, width], dtype)] : [])],
      ours: (own, table, before) => {
        const addTo = before && own(before.clone());
        const { device } = table as Tensor;
        const indices = own(Tensor.from(values, { shape: [...shape], device }));
        const out = embedding(indices, table as Tensor, addTo ? { addTo } : {});
        indices.fill(-1);
        return out;
      },
      oracle: (table, before) =>
        Float64Array.from({ length: values.length * width }, (_, i) => {
          const row = values[Math.floor(i / width)] as number;
          return (table?.[row * width + (i % width)] as number) + (before?.[i] ?? 0);
        }),
      views: 'any',
    };
  });
});

test('gather', async () => {
  await gradients(200, (rng) => {
    const [shape, d] = anyDim(rng);
    const n = shape[d] as number;
    const wanted = smaller(rng, shape).map((size, k) => (k === d ? (n === 0 ? 0 : rng.integer(0, 7)) : size));
    const { values, through } = someIndices(rng, wanted, n);
    return {
      operation: `gather along ${d}`,
      inputs: [normal(rng, shape, anyFloat(rng))],
      ours: (own, x) => through(own, x as Tensor, (index) => (x as Tensor).gather(d, index)),
      oracle: (x) => Float64Array.from(values, (i, at) => x?.[offsetOf(wanted, at, shape, d, i)] as number),
      views: 'any',
    };
  });
});

test('indexSelect, into new and given memory', async () => {
  await gradients(200, (rng) => {
    const [shape, d] = anyDim(rng);
    const n = shape[d] as number;
    const wanted = shape.with(d, n === 0 ? 0 : rng.integer(0, 7));
    const { values, through } = someIndices(rng, [wanted[d] as number], n);
    const isInto = maybe(rng, 0.3);
    return {
      operation: `indexSelect along ${d}`,
      inputs: [normal(rng, shape)],
      ours: (own, x) =>
        through(own, x as Tensor, (list) => {
          if (!isInto || Array.isArray(list)) return (x as Tensor).indexSelect(d, list);
          return indexSelectInto(window(own, x as Tensor, wanted), x as Tensor, d, list);
        }),
      oracle: (x) =>
        Float64Array.from({ length: product(wanted) }, (_, at) => {
          const i = values[coordinates(wanted, at)[d] as number];
          return x?.[offsetOf(wanted, at, shape, d, i)] as number;
        }),
      views: 'any',
    };
  });
});

test('indexCopy: of equal indices the last one; sources that broadcast, convert or share the memory', async () => {
  await gradients(420, (rng) => {
    const [shape, d] = anyDim(rng);
    const n = shape[d] as number;
    const kind = rng.pick(['new', 'in place', 'on itself'] as const);
    const count = n === 0 ? 0 : kind === 'on itself' ? rng.integer(0, n + 1) : rng.integer(0, 7);
    const wanted = shape.with(d, count);
    const from = kind === 'on itself' ? [] : thinned(rng, wanted);
    const { values, through } = someIndices(rng, [count], n);
    return {
      operation: `indexCopy along ${d}, ${kind}`,
      inputs: [normal(rng, shape, anyFloat(rng)), ...(kind === 'on itself' ? [] : [normal(rng, from, anyFloat(rng))])],
      ours: (own, ...inputs) =>
        through(own, inputs[0] as Tensor, (list) => {
          const [x, source] = inputs as [Tensor, Tensor];
          if (kind === 'new') return x.indexCopy(d, list, source);
          const out = window(own, x, shape).copyFrom(x);
          return out.indexCopy_(d, list, source ?? out.slice(d, n - count, n));
        }),
      oracle: (x, source) => {
        const out = Float64Array.from(x as Float64Array);
        const under = underneath(from, wanted);
        for (let at = 0; at < product(wanted); at++) {
          const j = coordinates(wanted, at)[d] as number;
          const value = source ? source[under[at] as number] : x?.[offsetOf(wanted, at, shape, d, n - count + j)];
          const to = offsetOf(wanted, at, shape, d, values[j]);
          if (!values.slice(j + 1).includes(values[j] as number)) out[to] = value as number;
        }
        return out;
      },
      views: 'any',
    };
  });
});

test('scatterAdd, with fewer indices than terms, and terms that share the memory', async () => {
  await gradients(420, (rng) => {
    const [shape, d] = anyDim(rng);
    const n = shape[d] as number;
    const kind = rng.pick(['new', 'in place', 'on itself'] as const);
    const terms =
      kind === 'on itself' ? shape : shape.map((size, k) => (k === d ? rng.integer(0, 7) : size + rng.integer(0, 3)));
    const wanted = smaller(rng, terms).map((size, k) =>
      k === d ? (n === 0 ? 0 : size) : Math.min(size, shape[k] as number),
    );
    const { values, through } = someIndices(rng, wanted, n);
    return {
      operation: `scatterAdd along ${d}, ${kind}`,
      inputs: [normal(rng, shape, anyFloat(rng)), ...(kind === 'on itself' ? [] : [normal(rng, terms, anyFloat(rng))])],
      ours: (own, ...inputs) =>
        through(own, inputs[0] as Tensor, (index) => {
          const [x, source] = inputs as [Tensor, Tensor];
          if (kind === 'new') return x.scatterAdd(d, index, source);
          const out = window(own, x, shape).copyFrom(x);
          return out.scatterAdd_(d, index, source ?? out);
        }),
      oracle: (x, source = x) => {
        const out = Float64Array.from(x as Float64Array);
        for (const [at, i] of values.entries()) {
          const to = offsetOf(wanted, at, shape, d, i);
          out[to] = (out[to] as number) + (source?.[offsetOf(wanted, at, terms, d, undefined)] as number);
        }
        return out;
      },
      views: 'any',
    };
  });
});

test('cat and stack', async () => {
  await gradients(420, (rng) => {
    const shape = rng.shape(rng.integer(1, 5), { min: 1, max: 9, elements: 100 });
    const d = rng.integer(0, shape.length);
    const isStack = maybe(rng);
    const count = rng.integer(1, 4);
    // one of them may be a constant, and empty
    const constant = count > 1 ? rng.integer(0, count + 2) : -1;
    const size = (i: number) => rng.integer(i === constant ? 0 : 1, 5);
    const parts = Array.from({ length: count }, (_, i) => (isStack ? shape : shape.with(d, size(i))));
    const inputs = parts.map((part) => normal(rng, part, anyFloat(rng)));
    const hidden = inputs[constant];
    const all = <T>(given: readonly T[], of: (values: Float32Array) => T): T[] =>
      hidden ? given.toSpliced(constant, 0, of(hidden.values)) : [...given];
    return {
      operation: `${isStack ? 'stack' : 'cat'} along ${d}`,
      inputs: inputs.filter((input) => input !== hidden),
      ours: (own, ...given) => {
        const tensors = all(given, (values) =>
          own(Tensor.from(values, { shape: [...(parts[constant] as number[])], device: (given[0] as Tensor).device })),
        );
        return isStack ? stack(tensors, d) : cat(tensors, d);
      },
      oracle: (...given) => {
        const lead = product(shape.slice(0, d));
        const values = all(given, (of) => Float64Array.from(of));
        return Float64Array.from(
          Array.from({ length: lead }, (_, i) =>
            values.flatMap((x) => [...x.subarray((i * x.length) / lead, ((i + 1) * x.length) / lead)]),
          ).flat(),
        );
      },
      views: 'any',
    };
  });
});

test('integers that backward needs are copied before they are overwritten', async () => {
  using x = Tensor.from(
    [
      [1, 2, 3],
      [4, 5, 6],
    ],
    { device },
  );
  for (const overwrite of [
    (chosen: Tensor) => chooseIndex(chosen.reshape(2, 1), Tensor.from([[1, 3, 2]], { device })),
    (chosen: Tensor) => updateLastNonzero(chosen, x.slice(1, 0, 2)),
  ]) {
    using table = Tensor.zeros([4, 1], { device }).requireGrad();
    using chosen = Tensor.from([3, 2], { device, dtype: 'int32' });
    using loss = table.indexSelect(0, chosen).sum();
    overwrite(chosen);
    close(await chosen.read(), [1, 1]);
    await loss.backward();
    close(await (table.grad as Tensor).read(), [0, 0, 1, 1]);
  }
});

test('a leaf is not written', () => {
  using leaf = Tensor.zeros([3, 2], { device }).requireGrad();
  using source = Tensor.ones([1, 2], { device });
  using indices = Tensor.zeros([3], { device, dtype: 'int32' });
  const refused = (operation: string) =>
    new RegExp(`^${operation}: the tensor must not be one whose gradient is wanted \\(requireGrad\\); detach\\(\\)`);
  throws(() => leaf.indexCopy_(0, [1], source), Error, refused('indexCopy_'));
  throws(() => leaf.scatterAdd_(0, [[1, 1]], source), Error, refused('scatterAdd_'));
  throws(() => embedding(indices, source, { addTo: leaf }), Error, refused('embedding'));
  throws(() => indexSelectInto(leaf, source, 0, indices), Error, refused('indexSelect'));
});

test.run();
