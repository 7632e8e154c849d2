// Which vectors of a batch go into a shard one after the other.

import type { Block } from '../corpus/blocks.js';
import type { Cells } from '../format/positions.js';
import type { StoredFloats } from '../format/stored_floats.js';
import type { Batch } from './batches.js';

/** Vectors that are stored without a gap: from `first` on in the batch, from `cell` on in the shard. */
export interface Run {
  first: number;
  cell: number;
  count: number;
}

/** Where every position has a cell: what is no padding. Rows of full length that follow one another go together. */
export function* paddedRuns({ rows, seq }: Batch, { lengths }: Block, context: number): Generator<Run> {
  let run: Run | undefined;
  for (const [n, row] of rows.entries()) {
    const length = lengths[row] as number;
    run ??= { first: n * seq, cell: row * context, count: 0 };
    run.count += length;
    if (length === context && seq === context && rows[n + 1] === row + 1) continue;
    yield run;
    run = undefined;
  }
}

/**
 * Where positions are left out. Moves the vectors of the others, `values` [rows, seq, width], together to the front, in
 * their order.
 */
export function packedRuns(
  { rows, seq }: Batch,
  { starts, places }: Cells & { readonly places: Int32Array },
  context: number,
  values: StoredFloats,
  width: number,
): Run[] {
  const runs: Run[] = [];
  let at = 0;
  for (const [n, row] of rows.entries()) {
    const [from, to] = [starts[row] as number, starts[row + 1] as number];
    const last = runs.at(-1);
    if (last && last.cell + last.count === from) last.count += to - from;
    else runs.push({ first: at, cell: from, count: to - from });
    for (let cell = from; cell < to; cell++) {
      const source = (n * seq + (places[cell] as number) - row * context) * width;
      values.copyWithin(at++ * width, source, source + width);
    }
  }
  return runs.filter(({ count }) => count > 0);
}
