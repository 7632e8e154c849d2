// Groups the rows of a block into batches for the model. The rows of a batch have similar lengths, so that almost
// nothing of what is computed is padding. It is known beforehand where the values of each row belong in the shard, so
// the order of the batches has no influence on the shard.
import type { Block } from '../corpus/blocks.js';
import type { DumpPlan } from './dump_plan.js';

export interface Batch {
  /** Numbers of the rows in their block, ascending. */
  readonly rows: Int32Array;
  /** Indices into `rows`, longest row first. Over all batches, this order of rows does not depend on the batch size. */
  readonly order: Int32Array;
  /** Positions that are computed: the longest row's, or the whole context. */
  readonly seq: number;
}

/** The longest rows come first: the memory of the first batch is enough for the others. */
export function batchesOf({ batch, fullContext, settings }: DumpPlan, { rows: rowCount, lengths }: Block): Batch[] {
  const { context } = settings;
  const lengthOf = (row: number): number => (fullContext ? context : (lengths[row] as number));
  const order = Int32Array.from({ length: rowCount }, (_, row) => row).sort(
    (a, b) => lengthOf(b) - lengthOf(a) || a - b,
  );
  const batches: Batch[] = [];
  for (let from = 0; from < rowCount; ) {
    const seq = lengthOf(order[from] as number);
    const to = from + Math.floor((batch * context) / seq);
    const inOrder = order.subarray(from, to);
    const rows = inOrder.slice().sort();
    const indexOf = new Map(Array.from(rows, (row, index) => [row, index]));
    batches.push({ rows, order: inOrder.map((row) => indexOf.get(row) as number), seq });
    from = to;
  }
  return batches;
}
