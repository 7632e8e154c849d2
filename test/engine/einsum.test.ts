// einsum against plain loops over all letters, in doubles.
import * as assert from 'uvu/assert';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { cat, einsum, stack, Transformer } from '../../src/index.js';
import { close } from '../support/close.js';
import { testDevice } from '../support/device.js';
import { suite, throws } from '../support/harness.js';
import { type Case, cases, product, type Sample, unit } from '../support/operations/cases.js';
import { inductionScores } from '../support/operations/induction.js';

const test = suite('einsum');
test.limit(120_000);

interface Exact {
  readonly shape: number[];
  readonly out: Float64Array;
  /** The sum of magnitudes behind each element. */
  readonly size: Float64Array;
  /** The number of products that each one adds up. */
  readonly terms: number;
}

/** The output's letters: those given, or those that occur once, in the order of the alphabet, upper case first. */
function outputOf(equation: string): string {
  const [inputs = '', output] = equation.replaceAll(' ', '').split('->');
  if (output !== undefined) return output;
  const letters = [...inputs.replace(',', '')];
  return letters
    .filter((letter) => letters.filter((other) => other === letter).length === 1)
    .sort()
    .join('');
}

function oracle(equation: string, operands: readonly Sample[]): Exact {
  const inputs = (equation.replaceAll(' ', '').split('->')[0] as string).split(',');
  const output = outputOf(equation);
  const sizes = new Map<string, number>();
  for (const [i, input] of inputs.entries()) {
    for (const [d, letter] of [...input].entries()) sizes.set(letter, operands[i]?.t.shape[d] as number);
  }
  const letters = [...sizes.keys()];
  const shape = [...output].map((letter) => sizes.get(letter) as number);
  const out = new Float64Array(product(shape));
  const size = new Float64Array(out.length);
  const at = new Map<string, number>();
  const index = (list: string) => [...list].reduce((i, c) => i * (sizes.get(c) as number) + (at.get(c) as number), 0);
  const visit = (depth: number): void => {
    if (depth < letters.length) {
      const letter = letters[depth] as string;
      for (let i = 0; i < (sizes.get(letter) as number); i++) {
        at.set(letter, i);
        visit(depth + 1);
      }
      return;
    }
    const value = operands.reduce((p, { x }, i) => p * (x[index(inputs[i] as string)] as number), 1);
    const to = index(output);
    out[to] = (out[to] as number) + value;
    size[to] = (size[to] as number) + Math.abs(value);
  };
  visit(0);
  const summed = letters.filter((letter) => !output.includes(letter));
  return { shape, out, size, terms: product(summed.map((letter) => sizes.get(letter) as number)) };
}

/** Demands the right shape, dtype and values: float32's error of each term, and one rounding to the dtype. */
async function check(equation: string, operands: readonly Sample[], got: Tensor): Promise<void> {
  const { shape, out, size, terms } = oracle(equation, operands);
  assert.equal([...got.shape], shape, equation);
  const dtypes = new Set(operands.map(({ t }) => t.dtype));
  assert.is(got.dtype, dtypes.size === 1 ? [...dtypes][0] : 'float32', equation);
  const values = await got.read();
  for (const [i, expected] of out.entries()) {
    const tiny = got.dtype === 'float16' ? 2 ** -24 : 1e-37;
    const allowed = (terms + 4) * 2 ** -24 * (size[i] as number) + unit[got.dtype] * Math.abs(expected) + tiny;
    if (Math.abs((values[i] as number) - expected) <= allowed) continue;
    throw new Error(`${equation}: element ${i} of [${shape}] is ${values[i]}, but should be ${expected}`);
  }
}

/** The operations that `body` queues on the device, each with the shape of its result. */
async function queued(body: () => Tensor): Promise<[operation: string, shape: readonly number[]][]> {
  const entries = await testDevice().profile(async () => body().dispose());
  return entries.map(({ operation, arguments: [out] }) => [operation, out?.shape ?? []]);
}
const named = async (body: () => Tensor): Promise<string[]> => (await queued(body)).map(([operation]) => operation);

// Few letters, so that operands share some and repeat some; their sizes are primes and, now and then, 1 or 0.
function randomEquation(c: Case): { equation: string; shapes: number[][] } {
  const pool = [...'abcdXY'];
  const sizes = new Map(pool.map((letter) => [letter, c.rng.next() < 0.03 ? 0 : c.rng.pick([1, 2, 3, 3, 5, 7])]));
  const operand = (): string => {
    const letters: string[] = [];
    const elements = () => product(letters.map((letter) => sizes.get(letter) as number));
    for (let rank = c.rng.integer(0, 6); letters.length < rank && elements() < 300; ) letters.push(c.rng.pick(pool));
    return letters.join('');
  };
  const inputs = c.rng.next() < 0.25 ? [operand()] : [operand(), operand()];
  const used = [...new Set(inputs.join(''))];
  const output: string[] = [];
  for (const letter of used) if (c.rng.next() < 0.55) output.splice(c.rng.integer(0, output.length + 1), 0, letter);
  const arrow = c.rng.next() < 0.2 ? '' : `${c.rng.pick(['->', ' -> '])}${output.join('')}`;
  const shapes = inputs.map((input) => [...input].map((letter) => sizes.get(letter) as number));
  return { equation: inputs.join(c.rng.pick([',', ', '])) + arrow, shapes };
}

test('200 random equations: diagonals, batches, sums and permutations of any layout and dtype', async () => {
  const kinds = { one: 0, two: 0, diagonals: 0, empty: 0, implicit: 0, batches: 0 };
  await cases(200, async (c) => {
    const { equation, shapes } = randomEquation(c);
    const operands: Sample[] = [];
    for (const shape of shapes) operands.push(await c.tensor(shape));
    const got = c.own(einsum(equation, ...operands.map(({ t }) => t)));
    await check(equation, operands, got);
    const [left = '', right = ''] = (equation.split('->')[0] as string).split(',');
    kinds[operands.length === 1 ? 'one' : 'two']++;
    if (/(\w).*\1/.test(left) || /(\w).*\1/.test(right)) kinds.diagonals++;
    if (got.size === 0) kinds.empty++;
    if (!equation.includes('->')) kinds.implicit++;
    if ([...outputOf(equation)].some((letter) => left.includes(letter) && right.includes(letter))) kinds.batches++;
  });
  for (const [kind, count] of Object.entries(kinds)) assert.ok(count > 2, `${kind}: ${count}`);
});

/** Equations by hand, with the shapes of their operands. */
const fixed: readonly (readonly [equation: string, ...shapes: number[][]])[] = [
  ['bqhc,bkhc->bhqk', [2, 5, 3, 4], [2, 7, 3, 4]],
  ['bqhc,bkhc->bqkh', [2, 5, 3, 4], [2, 7, 3, 4]],
  ['bhqk,bkhc->bqhc', [2, 3, 5, 7], [2, 7, 3, 4]],
  ['bsd,dhc->bshc', [2, 5, 6], [6, 3, 4]],
  ['bshc,hcd->bsd', [2, 5, 3, 4], [3, 4, 6]],
  ['bshc,hcd->bshd', [2, 5, 3, 4], [3, 4, 6]],
  ['dhc,bshc->bsd', [6, 3, 4], [2, 5, 3, 4]],
  ['chd,bshc->bsd', [4, 3, 6], [2, 5, 3, 4]],
  ['ij,jk->ki', [3, 5], [5, 7]],
  ['ij,jk', [3, 5], [5, 7]],
  ['ba', [3, 5]],
  ['ij->', [3, 5]],
  ['ij->ji', [3, 5]],
  ['ii', [5, 5]],
  ['ii->i', [5, 5]],
  ['iji->ij', [5, 3, 5]],
  ['iijj->ji', [5, 5, 3, 3]],
  ['iii->i', [3, 3, 3]],
  ['iij,jk->ik', [3, 3, 5], [5, 2]],
  ['ij,ij->', [3, 5], [3, 5]],
  ['bij,bij->b', [2, 3, 5], [2, 3, 5]],
  ['bij,bji->b', [2, 3, 5], [2, 5, 3]],
  ['i,j->ij', [3], [5]],
  ['i,i->i', [5], [5]],
  [',->', [], []],
  ['->', []],
  [',i->i', [], [5]],
  ['ab,bc->', [3, 5], [5, 7]],
  ['abc,cd->bd', [3, 5, 2], [2, 7]],
  ['ai,bi->', [3, 1], [5, 1]],
  ['abcdefgh->hgfedcba', [1, 2, 1, 2, 1, 2, 3, 1]],
  ['abcdeg,abcdefg->abcdefg', [1, 2, 1, 2, 2, 2], [1, 2, 1, 2, 2, 3, 2]],
  ['abcdex,abcdefxy->abcdefy', [2, 1, 2, 1, 2, 3], [2, 1, 2, 1, 2, 2, 3, 2]],
  ['abcdefx,abcdefx->abcdef', [2, 1, 2, 1, 2, 2, 3], [2, 1, 2, 1, 2, 2, 3]],
  ['abcxyz,xyzdef->fadbec', [2, 1, 3, 2, 2, 3], [2, 2, 3, 2, 3, 1]],
  ['zyxabc,defxyz->abcdef', [3, 2, 2, 2, 1, 3], [2, 3, 1, 2, 2, 3]],
];

test('equations by hand, of every dtype, contiguous and not', async () => {
  for (const [equation, ...shapes] of fixed) {
    await cases(3, async (c) => {
      const operands: Sample[] = [];
      for (const shape of shapes) operands.push(await c.tensor(shape));
      await check(equation, operands, c.own(einsum(equation, ...operands.map(({ t }) => t))));
    });
  }
});

test('expanded operands, and one operand given twice', async () => {
  await cases(30, async (c) => {
    const narrow = await c.tensor([3, 1, 5], { dtype: 'float32' });
    const wide = narrow.t.expand(2, 3, 4, 5);
    const x = { t: wide, x: Float64Array.from(await wide.read()) };
    const y = await c.tensor([4, 5, 6], { dtype: 'float32' });
    for (const equation of ['abcd,cde->abe', 'abcd,cde->ace', 'abcd,cde->bade', 'abcd,cde->ab']) {
      await check(equation, [x, y], c.own(einsum(equation, x.t, y.t)));
    }
    for (const equation of ['abcd,abcd->ab', 'abcd,aecd->abe', 'abcd,efcd->abef']) {
      await check(equation, [x, x], c.own(einsum(equation, x.t, x.t)));
    }
  });
});

test('views go into one matmul: no operand is copied', async () => {
  const device = testDevice();
  const zeros = (shape: number[]) => Tensor.zeros(shape, { device });
  for (const [equation, first, second] of [
    ['bqhc,bkhc->bhqk', [2, 5, 3, 4], [2, 7, 3, 4]],
    ['bqhc,bkhc->bqkh', [2, 5, 3, 4], [2, 7, 3, 4]],
    ['bqkh,bkhc->bqhc', [2, 5, 7, 3], [2, 7, 3, 4]],
    ['bsd,dhc->bshc', [2, 5, 6], [6, 3, 4]],
    ['bshc,hcd->bsd', [2, 5, 3, 4], [3, 4, 6]],
    ['bshc,hcd->bshd', [2, 5, 3, 4], [3, 4, 6]],
    ['abcd,efcd->fbea', [2, 3, 4, 5], [6, 7, 4, 5]],
  ] as const) {
    using a = zeros([...first]);
    using b = zeros([...second]);
    assert.equal(await named(() => einsum(equation, a, b)), ['matmul'], equation);
  }
  // left letters that are no one dimension: the shorter one leads
  using gaps = zeros([4, 9, 6]);
  using right = zeros([6, 5]);
  assert.equal(await queued(() => einsum('abc,cd->abd', gaps.slice(1, 0, 7), right)), [['matmul', [4, 7, 5]]]);
  // contracted letters in two orders: the smaller operand is copied
  using square = zeros([3, 4, 100]);
  using turned = zeros([4, 3, 5]);
  const copied = [
    ['copy', [5, 3, 4]],
    ['matmul', [100, 5]],
  ];
  assert.equal(await queued(() => einsum('abc,bad->cd', square, turned)), copied);
  assert.equal(await queued(() => einsum('bad,abc->dc', turned, square)), [copied[0], ['matmul', [5, 100]]]);
  // a slice has gaps between its rows: it is the one that is copied, though it is larger
  using few = zeros([3, 4, 2]);
  const part = square.slice(1, 0, 3);
  using three = zeros([3, 3, 2]);
  assert.equal(await queued(() => einsum('abc,abd->cd', part, three)), [
    ['copy', [100, 3, 3]],
    ['matmul', [100, 2]],
  ]);
  assert.equal(await named(() => einsum('abc,abd->cd', square, few)), ['matmul']);
  assert.equal(await named(() => einsum('ij,jk->ijk', turned.select(2, 0), square.select(1, 0))), ['binary']);
});

test('attention logits of a model from its own q and k: without a copy, as its own', async () => {
  const model = await Transformer.load('demo', { device: testDevice() });
  const tokens = [[5, 17, 300, 42, 9, 1, 7]];
  const locations = ['0/attn/q', '0/attn/k', '0/attn/qk_logits'];
  const activations = await model.activations(tokens, locations);
  const [q, k, own] = locations.map((location) => activations.get(location)) as [Tensor, Tensor, Tensor];
  assert.equal(await named(() => einsum('bqhc,bkhc->bhqk', q, k)), ['matmul']);
  using logits = einsum('bqhc,bkhc->bqkh', q, k);
  assert.equal([...logits.shape], [...own.shape]);
  const [got, expected] = [await logits.read(), await own.read()];
  const [, queries, keys, heads] = own.shape as [number, number, number, number];
  let compared = 0;
  for (let i = 0; i < got.length; i++) {
    const key = Math.floor(i / heads) % keys;
    if (key > Math.floor(i / heads / keys) % queries) continue; // masked
    close([got[i] as number], [expected[i] as number], { rtol: 1e-5, atol: 1e-5 });
    compared++;
  }
  assert.is(compared, ((queries * (queries + 1)) / 2) * heads);
  for (const t of activations.values()) t.dispose();
  model.dispose();
});

test('the induction score of every head in one einsum', async () => {
  const device = testDevice();
  const model = await Transformer.load('demo', { device });
  const [batch, n] = [3, 11];
  using once = Tensor.randint(0, model.nVocab, [batch, n], { seed: 4, device });
  using tokens = cat([once, once], 1);
  const locations = Array.from({ length: model.config.nLayers }, (_, layer) => `${layer}/attn/qk_probs`);
  const activations = await model.activations(tokens, locations);
  const layers = locations.map((location) => activations.get(location) as Tensor);
  using probs = stack(layers);
  using mask = Tensor.zeros([2 * n, 2 * n], { device });
  mask
    .slice(0, n)
    .diagonal(1)
    .fill(1 / (batch * n));
  using scores = einsum('lbqkh,qk->lh', probs, mask);
  // the same from a view of the probabilities alone
  using weights = Tensor.full([], 1 / (batch * n), { device });
  using others = einsum('lbhi,->lh', probs.slice(2, n).diagonal(1, 2, 3), weights);
  assert.equal([...scores.shape], [layers.length, model.config.nHeads]);
  const expected: number[] = [];
  for (const layer of layers) expected.push(...inductionScores(await layer.read(), layer.shape, n));
  close(await scores.read(), expected, { rtol: 1e-5 });
  close(await others.read(), expected, { rtol: 1e-5 });
  assert.ok(new Set(expected).size === expected.length && expected.every((score) => score > 0 && score < 1));
  for (const layer of layers) layer.dispose();
  model.dispose();
});

test('only the result is rounded to 16 bits', async () => {
  // a sum beyond float16, times 1 / 4
  using a = Tensor.from([[60_000], [60_000]], { dtype: 'float16' });
  using b = Tensor.from([0.25], { dtype: 'float16' });
  using scaled = einsum('ij,j->j', a, b);
  assert.equal([scaled.dtype, [...(await scaled.read())]], ['float16', [30_000]]);
  using product = einsum('ij,k->jk', a, b);
  assert.equal([product.dtype, [...(await product.read())]], ['float16', [30_000]]);
  // products and sums that cancel: 300^2 and 1 - 300^2 are no float16
  using x = Tensor.from([300, 1, 300], { dtype: 'float16' });
  using y = Tensor.from([300, 1, -300], { dtype: 'float16' });
  using sum = einsum('i,i->', x, y);
  assert.equal([sum.dtype, await sum.item()], ['float16', 1]);
});

test('a new tensor: what is done to it leaves the operands alone', async () => {
  for (const equation of ['ij->ij', 'ij->ji', 'ij']) {
    using x = Tensor.from([
      [1, 2],
      [3, 4],
    ]);
    using out = einsum(equation, x);
    out.fill(0);
    assert.equal([...(await x.read())], [1, 2, 3, 4], equation);
  }
  using x = Tensor.zeros([2, 2]);
  using out = einsum('ij,jk->ki', x, x);
  out.copyFrom(
    Tensor.from([
      [1, 2],
      [3, 4],
    ]),
  );
  assert.equal([...(await out.read())], [1, 2, 3, 4]);
});

test('equations and operands that do not fit are refused, by name', () => {
  using matrix = Tensor.zeros([3, 5]);
  using square = Tensor.zeros([3, 3]);
  using vector = Tensor.zeros([7]);
  using cube = Tensor.zeros([2, 2, 2, 2, 2]);
  const refused = (pattern: RegExp, equation: unknown, ...operands: unknown[]) =>
    throws(() => einsum(equation as string, ...(operands as Tensor[])), RangeError, pattern);
  refused(
    /^einsum: equation must be of one or two operands, but is 'i,i,i->i' with 3/,
    'i,i,i->i',
    vector,
    vector,
    vector,
  );
  refused(/^einsum: equation must be of one or two operands, but is 'i,i,i->i' with 2/, 'i,i,i->i', vector, vector);
  refused(/^einsum: equation must be of 1 operands, as many as are given, but is 'i,i->'/, 'i,i->', vector);
  refused(/^einsum: equation must be of 2 operands, as many as are given, but is 'i->'/, 'i->', vector, vector);
  refused(/^einsum: equation must be of 0 operands/, 'i');
  refused(
    /^einsum: equation must be without an ellipsis: each dimension has a letter, but is '\.\.\.i->i'/,
    '...i->i',
    matrix,
  );
  for (const equation of ['i1', 'i+j', 'ij>i', 'i->j->i', 'i->j,k', 'é', 'i-', 'ij->i.']) {
    refused(/^einsum: equation must be (letters for each operand|without an ellipsis)/, equation, vector);
  }
  refused(/^einsum: equation must be one whose output has letters of the operands \('k' is none\)/, 'ij->ik', matrix);
  refused(/^einsum: equation must be one whose output has each letter once \('i' is there twice\)/, 'ij->iji', matrix);
  refused(/^einsum: operand 1 must be of 3 dimensions \('ijk'\), but is \[3, 5\]/, 'ijk->i', matrix);
  refused(/^einsum: operand 2 must be of 2 dimensions \('jk'\), but is \[7\]/, 'ij,jk->ik', matrix, vector);
  refused(
    /^einsum: operand 2 must be of size 5 in 'j' \(as operand 1 is\), but is \[7\] \('j'\)/,
    'ij,j->i',
    matrix,
    vector,
  );
  refused(/^einsum: operand 1 must be of size 3 in 'i' \(as operand 1 is\), but is \[3, 5\] \('ii'\)/, 'ii->i', matrix);
  refused(/^einsum: operand 2 must be of size 3 in 'i'/, 'ij,ki->jk', square, matrix);
  refused(/^einsum: equation must be of at most 8 letters in the output/, 'abcde,fghij->abcdefghij', cube, cube);
  refused(/^einsum: equation must be of at most 8 letters in the output/, 'abcde,fghij', cube, cube);
  using integers = Tensor.zeros([3], { dtype: 'int32' });
  throws(() => einsum('i,i', vector, integers), TypeError, /^einsum: operand 2 must be float32, bfloat16 or float16/);
  throws(() => einsum('i', 5 as never), TypeError, /^einsum: operand 1 must be a tensor, but is 5/);
  throws(() => einsum(5 as never, vector), TypeError, /^einsum: equation must be a string, but is 5/);
});

test.run();
