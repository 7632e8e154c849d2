// Oracle: the properties of batches, checked row by row.
import * as assert from 'uvu/assert';
import type { Block } from '../../../src/dump/corpus/blocks.js';
import { batchesOf } from '../../../src/dump/shards/batches.js';
import type { DumpPlan } from '../../../src/dump/shards/dump_plan.js';
import { suite } from '../../support/harness.js';
import { random } from '../../support/random.js';

const test = suite('batches');

const planOf = (context: number, batch: number, fullContext = false) =>
  ({ batch, fullContext, settings: { context } }) as DumpPlan;
const blockOf = (lengths: number[]) => ({ rows: lengths.length, lengths: Int32Array.from(lengths) }) as Block;

test('every row comes once, and fits into its batch, in no more positions than whole rows take', () => {
  const rng = random(5);
  for (let round = 0; round < 300; round++) {
    const context = rng.integer(1, 40);
    const batch = rng.integer(1, 9);
    const lengths = Array.from({ length: rng.integer(1, 90) }, () => rng.integer(1, context + 1));
    const seen: number[] = [];
    for (const { rows, seq } of batchesOf(planOf(context, batch), blockOf(lengths))) {
      const own = Array.from(rows, (row) => lengths[row] as number);
      assert.is(Math.max(...own), seq);
      assert.ok(rows.length * seq <= batch * context, `${rows.length} rows of ${seq}`);
      assert.equal(
        [...rows],
        [...rows].sort((a, b) => a - b),
      );
      seen.push(...rows);
    }
    assert.equal(
      seen.sort((a, b) => a - b),
      lengths.map((_, row) => row),
    );
  }
});

test('rows of full length stay in order', () => {
  const batches = batchesOf(planOf(8, 3), blockOf([8, 8, 8, 8, 8]));
  assert.equal(
    batches.map(({ rows, seq }) => [[...rows], seq]),
    [
      [[0, 1, 2], 8],
      [[3, 4], 8],
    ],
  );
});

test('of ragged rows little is padding', () => {
  const rng = random(6);
  const lengths = Array.from({ length: 2000 }, () => rng.integer(1, 129));
  const batches = batchesOf(planOf(128, 16), blockOf(lengths));
  const computed = batches.reduce((sum, { rows, seq }) => sum + rows.length * seq, 0);
  const tokens = lengths.reduce((sum, length) => sum + length, 0);
  assert.ok(computed < 1.03 * tokens, `${computed} positions for ${tokens} tokens`);
});

test('where the keys are a dimension, all rows have the whole context and stay in order', () => {
  const batches = batchesOf(planOf(8, 2, true), blockOf([1, 8, 2]));
  assert.equal(
    batches.map(({ rows, seq }) => [[...rows], seq]),
    [
      [[0, 1], 8],
      [[2], 8],
    ],
  );
});

test('for gradients, the rows of a batch have one length, and come in the same order as without', () => {
  const rng = random(7);
  const plan = planOf(16, 4);
  const withGradients = { ...plan, settings: { ...plan.settings, gradientOf: 'loss' } } as DumpPlan;
  for (let round = 0; round < 100; round++) {
    const block = blockOf(Array.from({ length: rng.integer(1, 60) }, () => rng.integer(1, 17)));
    const orderOf = (of: DumpPlan) =>
      batchesOf(of, block).flatMap(({ rows, order }) => Array.from(order, (n) => rows[n] as number));
    assert.equal(orderOf(withGradients), orderOf(plan));
    for (const { rows, seq } of batchesOf(withGradients, block)) {
      assert.ok(rows.every((row) => block.lengths[row] === seq));
      assert.ok(rows.length * seq <= 4 * 16);
    }
  }
});

test.run();
