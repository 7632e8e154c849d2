// Groups the rows of a block into batches for the model. The rows of a batch have similar lengths, so that almost
// nothing of what is computed is padding; where gradients are wanted, they have the same length, as what comes later in
// a row has a part in the gradients before it. It is known beforehand where the values of each row belong in the shard, so
// the order of the batches has no influence on the shard.
import type { Block } from '../corpus/blocks.js';
import type { DumpSettings } from '../format/settings.js';
import type { DumpPlan } from './dump_plan.js';

export interface Batch {
  /** Numbers of the rows in their block, ascending. */
  readonly rows: Int32Array;
  /** Indices into `rows`, longest row first. Over all batches, this order of rows does not depend on the batch size. */
  readonly order: Int32Array;
  /** Positions that are computed: the longest row's, or the whole context. */
  readonly seq: number;
}

/** The part of a plan that says what goes into a batch. */
export interface BatchPlan extends Pick<DumpPlan, 'batch' | 'fullContext'> {
  readonly settings: Pick<DumpSettings, 'context' | 'gradientOf'>;
}

/** The longest rows come first: the memory of the first batch is enough for the others. */
export function batchesOf({ batch, fullContext, settings }: BatchPlan, { rows: rowCount, lengths }: Block): Batch[] {
  const { context } = settings;
  const lengthOf = (row: number): number => (fullContext ? context : (lengths[row] as number));
  const order = Int32Array.from({ length: rowCount }, (_, row) => row).sort(
    (a, b) => lengthOf(b) - lengthOf(a) || a - b,
  );
  const batches: Batch[] = [];
  for (let from = 0; from < rowCount; ) {
    const seq = lengthOf(order[from] as number);
    const most = order.subarray(from, from + Math.floor((batch * context) / seq));
    const shorter = settings.gradientOf ? most.findIndex((row) => lengthOf(row) < seq) : -1;
    const inOrder = shorter < 0 ? most : most.subarray(0, shorter);
    const rows = inOrder.slice().sort();
    const indexOf = new Map(Array.from(rows, (row, index) => [row, index]));
    batches.push({ rows, order: inOrder.map((row) => indexOf.get(row) as number), seq });
    from += inOrder.length;
  }
  return batches;
}
