// The second pass of collate(): the rows that were chosen, and only those, for a group of channels at a time.

import type { DenseRows, Dump, SparseRows } from '../read/reader.js';
import { type Channels, type Chunk, checkLatents, positionsOf, rangesOf, readChunks } from './features.js';

/** A channel's activations in a row, where the row has tokens. */
export interface FetchedRow {
  readonly tokens: Int32Array;
  readonly activations: Float32Array;
}

interface Pick {
  readonly channel: number;
  readonly row: number;
}

interface Fetching {
  readonly channels: Channels;
  readonly context: number;
  /** In the order of their rows. */
  readonly picks: readonly Pick[];
  /** Of each pick, from `context` times its number on. */
  readonly values: Float32Array;
  readonly tokens: Map<number, Int32Array>;
  /** Where the values of each channel up to the last one go in the row at hand; -1 where they are not wanted. */
  readonly starts: Int32Array;
}

/**
 * Reads, for each channel, its rows, in ascending order and `rowsAtOnce` at most at a time. In memory are, for each pair
 * of a channel and a row, `context` values, and each row's tokens.
 */
export async function fetchRows(
  dump: Dump,
  channels: Channels,
  wanted: ReadonlyMap<number, Iterable<number>>,
  { rowsAtOnce, signal }: { rowsAtOnce: number; signal: AbortSignal | undefined },
): Promise<(channel: number, row: number) => FetchedRow> {
  const picks = [...wanted].flatMap(([channel, rows]) => Array.from(new Set(rows), (row) => ({ channel, row })));
  picks.sort((a, b) => a.row - b.row);
  const { context } = dump.manifest;
  const values = new Float32Array(picks.length * context);
  const starts = new Int32Array(picks.reduce((most, { channel }) => Math.max(most, channel + 1), 0)).fill(-1);
  const fetching: Fetching = { channels, context, picks, values, tokens: new Map(), starts };
  const rows = new Set(picks.map(({ row }) => row));
  let at = 0;
  for await (const chunk of readChunks(dump, channels.name, rangesOf(rows, rowsAtOnce))) {
    signal?.throwIfAborted();
    for (let r = 0; r < chunk.count; r++) at = takeRow(fetching, chunk, r, at);
  }
  const numbers = new Map(picks.map(({ channel, row }, i) => [keyOf(channels, channel, row), i]));
  return (channel, row) => {
    const start = (numbers.get(keyOf(channels, channel, row)) as number) * context;
    const tokens = fetching.tokens.get(row) as Int32Array;
    return { tokens, activations: values.subarray(start, start + tokens.length) };
  };
}

const keyOf = ({ width }: Channels, channel: number, row: number): number => row * width + channel;

// Takes what belongs to the picks of a row, the first of which is `from`; returns the first of the next row.
function takeRow(fetching: Fetching, chunk: Chunk, r: number, from: number): number {
  const { channels, context, picks, values, tokens, starts } = fetching;
  const row = chunk.from + r;
  let to = from;
  while (picks[to]?.row === row) to++;
  const positions = positionsOf(chunk, r);
  tokens.set(
    row,
    Int32Array.from(positions, (p) => chunk.tokens.tokens[r * context + p] as number),
  );
  if ('data' in chunk.values) {
    for (let i = from; i < to; i++) takeDense(chunk.values, r, positions, picks[i] as Pick, values, i * context);
    return to;
  }
  checkLatents(channels.name, chunk, r);
  for (let i = from; i < to; i++) starts[(picks[i] as Pick).channel] = i * context;
  takeSparse(chunk.values, r, positions, starts, values);
  for (let i = from; i < to; i++) starts[(picks[i] as Pick).channel] = -1;
  return to;
}

function takeDense(
  { data, shape }: DenseRows,
  r: number,
  positions: number[],
  { channel }: Pick,
  into: Float32Array,
  start: number,
): void {
  const context = shape[1] as number;
  const width = shape.slice(2).reduce((product, n) => product * n, 1);
  positions.forEach((p, i) => {
    into[start + i] = data[(r * context + p) * width + channel] as number;
  });
}

function takeSparse(
  { rowPtr, indices, values, shape }: SparseRows,
  r: number,
  positions: number[],
  starts: Int32Array,
  into: Float32Array,
): void {
  positions.forEach((p, i) => {
    const at = r * (shape[1] as number) + p;
    for (let entry = Number(rowPtr[at]); entry < Number(rowPtr[at + 1]); entry++) {
      const start = starts[indices[entry] as number] ?? -1;
      if (start >= 0) into[start + i] = values[entry] as number;
    }
  });
}
