// Decides which positions of a block's rows are stored, and in which order.
//
// A position has two numbers here. Its flat position is row * context + position in the row, counted over the whole
// block. Its slot is where it is stored. As long as nothing is left out, the two are equal, padding included, and the
// tensors of a shard are [rows, context, ...]. Otherwise only the stored positions have slots, row by row without gaps,
// and the tensors are [positions, ...].
import { endOfTextToken } from '../../files/tokenizer/tokenizer.js';
import type { Block } from '../corpus/blocks.js';
import type { DumpSettings } from './settings.js';

export interface StoredPositions {
  readonly count: number;
  /** The first slot of each row, and the end of the last row: [rows + 1]. */
  readonly starts: Int32Array;
  /** The flat position of each slot, ascending; undefined when all positions are stored. */
  readonly flatPositions: Int32Array | undefined;
}

type Filter = Pick<DumpSettings, 'drop' | 'sample' | 'seed' | 'context' | 'shardTokens'>;

/** Whether some positions are left out. */
export const isPacked = ({ drop, sample }: Pick<DumpSettings, 'drop' | 'sample'>): boolean =>
  drop.length > 0 || sample < 1;

/** Rows of a shard. The last shard may have fewer. */
export const rowsPerShard = ({ context, shardTokens }: Pick<DumpSettings, 'context' | 'shardTokens'>): number =>
  Math.max(1, Math.floor(shardTokens / context));

export function storedPositionsOf(
  filter: Filter,
  block: Pick<Block, 'number' | 'rows' | 'tokens' | 'lengths'>,
): StoredPositions {
  const { context } = filter;
  const { rows, number } = block;
  if (!isPacked(filter)) return everyPosition(rows, context);
  const isChosen = chooser(filter, number * rowsPerShard(filter));
  const starts = new Int32Array(rows + 1);
  const flatPositions = new Int32Array(rows * context);
  let count = 0;
  for (let row = 0; row < rows; row++) {
    const end = row * context + (block.lengths[row] as number);
    for (let flat = row * context; flat < end; flat++) {
      if (passes(filter, block.tokens[flat] as number) && isChosen(flat)) flatPositions[count++] = flat;
    }
    starts[row + 1] = count;
  }
  return { count, starts, flatPositions: flatPositions.slice(0, count) };
}

export function everyPosition(rows: number, context: number): StoredPositions {
  const starts = Int32Array.from({ length: rows + 1 }, (_, row) => row * context);
  return { count: rows * context, starts, flatPositions: undefined };
}

/** Whether the position of a token can be stored, before the sample is drawn. */
export const passes = ({ drop }: Pick<DumpSettings, 'drop'>, token: number): boolean =>
  token !== endOfTextToken || !drop.includes('endoftext');

// Whether a position is in the sample depends on the seed and on the position in the whole dump, and on nothing else.
function chooser({ sample, seed, context }: Filter, firstRow: number): (flat: number) => boolean {
  if (sample >= 1) return () => true;
  const first = firstRow * context;
  const key = mixed(mixed(low(seed ?? 0) ^ 0x9e3779b9) ^ high(seed ?? 0)); // 0 would stay 0
  const limit = sample * 2 ** 32;
  return (flat) => {
    const at = first + flat;
    const hash = mixed(mixed(key ^ high(at)) ^ low(at));
    return mixed(hash + key) >>> 0 < limit;
  };
}

const low = (n: number): number => (n % 2 ** 32) | 0;
const high = (n: number): number => Math.floor(n / 2 ** 32) | 0;

/** The finalizer of MurmurHash3 (A. Appleby): every bit of the result depends on every bit of the argument. */
function mixed(n: number): number {
  let h = n | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}
