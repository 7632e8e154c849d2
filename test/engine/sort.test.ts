// sort against JavaScript's stable sort.
import * as assert from 'uvu/assert';
import { sort } from '../../src/engine/ops/sort.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { suite, throws } from '../support/harness.js';
import { cases } from '../support/operations/cases.js';
import { anyBits, bitsOf } from '../support/operations/indexing.js';
import { along } from '../support/operations/rows.js';

const test = suite('sort');

/** NaN above all, both zeros equal. */
function order(row: readonly number[], descending: boolean): number[] {
  const compare = (a: number, b: number) => {
    const [p, q] = [Number.isNaN(a), Number.isNaN(b)];
    return p || q ? Number(p) - Number(q) : a < b ? -1 : a > b ? 1 : 0;
  };
  const sign = descending ? -1 : 1;
  return [...row.keys()].sort((i, j) => sign * compare(row[i] as number, row[j] as number));
}

test('200 random shapes, dimensions, layouts and dtypes: stable, and bit for bit', async () => {
  await cases(200, async (c) => {
    const shape = c.rng.shape(c.rng.integer(1, 5), { elements: 5000 });
    const d = c.rng.integer(0, shape.length);
    const x = await anyBits(c, shape);
    const read = { t: x.t, x: Float64Array.from(await x.t.read()) };
    const descending = c.rng.next() < 0.5;
    const { values, indices } = x.t.sort(c.rng.pick([d, d - shape.length]), { descending });
    c.own(values);
    c.own(indices);
    assert.equal(
      [values.shape, indices.shape].map((s) => [...s]),
      [shape, shape],
    );
    assert.equal([values.dtype, indices.dtype], [x.t.dtype, 'int32']);
    const [bits, orders] = [along(x, d).rows, along(read, d).rows.map((row) => order(row, descending))];
    const last = (t: Tensor) => bitsOf(t.permute([...shape.keys()].filter((k) => k !== d).concat(d)));
    assert.equal(await last(indices), orders.flat());
    assert.equal(
      await last(values),
      orders.flatMap((list, row) => list.map((i) => bits[row]?.[i])),
    );
  });
});

test('long rows, of each way to sort them', async () => {
  for (const n of [39, 40, 41, 256, 2047, 2048, 2049, 5000]) {
    for (const descending of [false, true]) {
      using x = Tensor.randint(-(2 ** 31), 2 ** 31, [2, n], { seed: n });
      using narrow = Tensor.randint(-5, 5, [2, n], { seed: n });
      using floats = Tensor.randn([2, n], { seed: n });
      for (const t of [x, narrow, floats, narrow.to('bfloat16')]) {
        const { values, indices } = sort(t, -1, { descending });
        const all = [...(await t.read())];
        const rows = [all.slice(0, n), all.slice(n)].map((row) => order(row, descending).map((i) => [row[i], i]));
        assert.equal(
          [...(await values.read())],
          rows.flat().map(([v]) => v),
        );
        assert.equal(
          [...(await indices.read())],
          rows.flat().map(([, i]) => i),
        );
      }
    }
  }
});

test('NaN is the largest, zeros are equal', async () => {
  using x = Tensor.from([NaN, 0, -0, Infinity, -Infinity, 1e-45, NaN, -1e-45]);
  const up = x.sort();
  assert.equal([...(await up.indices.read())], [4, 7, 1, 2, 5, 3, 0, 6]);
  assert.ok(Object.is((await up.values.read())[3], -0));
  assert.equal([...(await x.sort(0, { descending: true }).indices.read())], [0, 6, 3, 5, 1, 2, 7, 4]);
});

test('errors', () => {
  using x = Tensor.zeros([2, 3]);
  throws(() => x.sort(2), RangeError, /^sort: dim must be a dimension of \[2, 3\], from -2 to 1, but is 2/);
  throws(() => x.sort(0, { descending: 1 as never }), TypeError, /^sort: descending must be true or false, but is 1/);
  throws(() => x.sort(0, { down: true } as never), TypeError, /^sort: 'down' is no option/);
  // int32 does not hold the indices of more
  const long = x
    .select(0, 0)
    .slice(0, 0, 1)
    .expand(2 ** 31 + 1);
  throws(
    () => long.sort(),
    RangeError,
    /^sort: dim must be a dimension of at most 2147483648, but is -1 of \[2147483649\]/,
  );
  throws(() => long.topk(1), RangeError, /^topk: the tensor must be of rows of at most 2147483648 elements/);
});

test.run();
