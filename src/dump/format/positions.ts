// Which positions of a block's rows are stored, and in which order. As long as nothing is left out, every position has its
// cell, padding too, and the tensors of a shard are [rows, context, ...]. Otherwise only what is stored has one, row by
// row, and the tensors are [cells, ...].
import { endOfTextToken } from '../../files/tokenizer/tokenizer.js';
import type { Block } from '../corpus/blocks.js';
import type { DumpSettings } from './settings.js';

export interface Cells {
  readonly count: number;
  /** Of each row its first cell, and the end of the last row: [rows + 1]. */
  readonly starts: Int32Array;
  /** Of each cell its place, row * context + position, ascending; undefined when all places are cells. */
  readonly places: Int32Array | undefined;
}

type Filter = Pick<DumpSettings, 'drop' | 'sample' | 'seed' | 'context' | 'shardTokens'>;

/** Whether some positions are left out. */
export const isPacked = ({ drop, sample }: Pick<DumpSettings, 'drop' | 'sample'>): boolean =>
  drop.length > 0 || sample < 1;

/** Rows of a shard; the last one may have fewer. */
export const rowsPerShard = ({ context, shardTokens }: Pick<DumpSettings, 'context' | 'shardTokens'>): number =>
  Math.max(1, Math.floor(shardTokens / context));

export function cellsOf(filter: Filter, block: Pick<Block, 'number' | 'rows' | 'tokens' | 'lengths'>): Cells {
  const { context } = filter;
  const { rows, number } = block;
  if (!isPacked(filter)) return everyCell(rows, context);
  const isChosen = chooser(filter, number * rowsPerShard(filter));
  const starts = new Int32Array(rows + 1);
  const places = new Int32Array(rows * context);
  let count = 0;
  for (let row = 0; row < rows; row++) {
    const end = row * context + (block.lengths[row] as number);
    for (let place = row * context; place < end; place++) {
      if (passes(filter, block.tokens[place] as number) && isChosen(place)) places[count++] = place;
    }
    starts[row + 1] = count;
  }
  return { count, starts, places: places.slice(0, count) };
}

export function everyCell(rows: number, context: number): Cells {
  const starts = Int32Array.from({ length: rows + 1 }, (_, row) => row * context);
  return { count: rows * context, starts, places: undefined };
}

/** Whether a token's position counts, before positions are chosen by chance. */
export const passes = ({ drop }: Pick<DumpSettings, 'drop'>, token: number): boolean =>
  token !== endOfTextToken || !drop.includes('endoftext');

// A position's chance depends on the seed and on where it stands in the whole dump, and on nothing else.
function chooser({ sample, seed, context }: Filter, firstRow: number): (place: number) => boolean {
  if (sample >= 1) return () => true;
  const first = firstRow * context;
  const key = mixed(mixed(low(seed ?? 0) ^ 0x9e3779b9) ^ high(seed ?? 0)); // 0 would stay 0
  const limit = sample * 2 ** 32;
  return (place) => {
    const at = first + place;
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
