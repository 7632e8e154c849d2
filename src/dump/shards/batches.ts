// Which rows of a block go through the model together. Rows of like length do, so that next to nothing of what is
// computed is padding; where each row's values belong in the shard is known beforehand, so the order shows nowhere.
import type { Block } from '../corpus/blocks.js';
import type { DumpPlan } from './dump_plan.js';

export interface Batch {
  /** Numbers of the rows in their block, ascending. */
  readonly rows: Int32Array;
  /** The places in `rows` in the order in which rows come over all batches, which does not depend on their size. */
  readonly order: Int32Array;
  /** Positions that are computed: the longest row's, or the whole context. */
  readonly seq: number;
}

/** The longest rows come first: what the first batch needs in memory is enough for the others. */
export function batchesOf({ batch, fullContext, settings }: DumpPlan, { rows, lengths }: Block): Batch[] {
  const { context } = settings;
  const lengthOf = (row: number): number => (fullContext ? context : (lengths[row] as number));
  const order = Int32Array.from({ length: rows }, (_, row) => row).sort((a, b) => lengthOf(b) - lengthOf(a) || a - b);
  const batches: Batch[] = [];
  for (let from = 0; from < rows; ) {
    const seq = lengthOf(order[from] as number);
    const to = from + Math.floor((batch * context) / seq);
    const inOrder = order.subarray(from, to);
    const rows = inOrder.slice().sort();
    const placeOf = new Map(Array.from(rows, (row, place) => [row, place]));
    batches.push({ rows, order: inOrder.map((row) => placeOf.get(row) as number), seq });
    from = to;
  }
  return batches;
}
