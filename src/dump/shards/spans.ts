// Finds the spans of a batch's vectors that lie one after the other in a shard.

import type { Block } from '../corpus/blocks.js';
import type { StoredPositions } from '../format/positions.js';
import type { StoredFloats } from '../format/stored_floats.js';
import type { Batch } from './batches.js';

/**
 * `count` vectors that are stored without a gap: from position `first` on in the batch, from `slot` on in the shard.
 */
export interface Span {
  first: number;
  slot: number;
  count: number;
}

/** For a shard that stores every position: spans without padding. Consecutive rows of full length make one span. */
export function* paddedSpans({ rows, seq }: Batch, { lengths }: Block, context: number): Generator<Span> {
  let span: Span | undefined;
  for (const [n, row] of rows.entries()) {
    const length = lengths[row] as number;
    span ??= { first: n * seq, slot: row * context, count: 0 };
    span.count += length;
    if (length === context && seq === context && rows[n + 1] === row + 1) continue;
    yield span;
    span = undefined;
  }
}

/**
 * For a shard in which positions are left out. Moves the vectors of the stored positions to the front of `values`
 * [rows, seq, width], in their order.
 */
export function packedSpans(
  { rows, seq }: Batch,
  { starts, flatPositions }: StoredPositions & { readonly flatPositions: Int32Array },
  context: number,
  values: StoredFloats,
  width: number,
): Span[] {
  const spans: Span[] = [];
  let at = 0;
  for (const [n, row] of rows.entries()) {
    const [from, to] = [starts[row] as number, starts[row + 1] as number];
    const last = spans.at(-1);
    if (last && last.slot + last.count === from) last.count += to - from;
    else spans.push({ first: at, slot: from, count: to - from });
    for (let slot = from; slot < to; slot++) {
      const source = (n * seq + (flatPositions[slot] as number) - row * context) * width;
      values.copyWithin(at++ * width, source, source + width);
    }
  }
  return spans.filter(({ count }) => count > 0);
}
