// The second pass of collate(): reads the rows that were chosen, and only those, for a group of features at a time.
import { sizeOf } from '../../engine/shape.js';
import type { DenseRows, Dump, SparseRows } from '../read/reader.js';
import { type Chunk, checkLatents, type FeatureTensor, positionsOf, rangesOf, readChunks } from './features.js';

/** The tokens of a row whose values are stored, and a feature's activations at them. */
export interface FetchedRow {
  readonly tokens: Int32Array;
  readonly activations: Float32Array;
}

interface ChosenRow {
  readonly feature: number;
  readonly row: number;
}

interface Fetching {
  readonly tensor: FeatureTensor;
  readonly context: number;
  /** In ascending order of their rows. */
  readonly chosen: readonly ChosenRow[];
  /** The values of each chosen row, from `context` times its number on. */
  readonly values: Float32Array;
  readonly tokens: Map<number, Int32Array>;
  /** For each feature up to the last one, where its values of the current row go; -1 where they are not wanted. */
  readonly starts: Int32Array;
}

/**
 * Reads the wanted rows of each feature, in ascending order, and `rowsAtOnce` at most at a time. Memory holds `context`
 * values for each pair of a feature and a row, and each row's tokens.
 */
export async function fetchRows(
  dump: Dump,
  tensor: FeatureTensor,
  wanted: ReadonlyMap<number, Iterable<number>>,
  { rowsAtOnce, signal }: { rowsAtOnce: number; signal: AbortSignal | undefined },
): Promise<(feature: number, row: number) => FetchedRow> {
  const chosen = [...wanted].flatMap(([feature, rows]) => Array.from(new Set(rows), (row) => ({ feature, row })));
  chosen.sort((a, b) => a.row - b.row);
  const { context } = dump.manifest;
  const values = new Float32Array(chosen.length * context);
  const starts = new Int32Array(chosen.reduce((most, { feature }) => Math.max(most, feature + 1), 0)).fill(-1);
  const fetching: Fetching = { tensor, context, chosen, values, tokens: new Map(), starts };
  const rows = new Set(chosen.map(({ row }) => row));
  let at = 0;
  for await (const chunk of readChunks(dump, tensor.name, rangesOf(rows, rowsAtOnce))) {
    signal?.throwIfAborted();
    for (let r = 0; r < chunk.count; r++) at = takeRow(fetching, chunk, r, at);
  }
  const numbers = new Map(chosen.map(({ feature, row }, i) => [keyOf(tensor, feature, row), i]));
  return (feature, row) => {
    const start = (numbers.get(keyOf(tensor, feature, row)) as number) * context;
    const tokens = fetching.tokens.get(row) as Int32Array;
    return { tokens, activations: values.subarray(start, start + tokens.length) };
  };
}

const keyOf = ({ width }: FeatureTensor, feature: number, row: number): number => row * width + feature;

// Copies the chosen values of a row. `from` is the first entry of `chosen` for that row. Returns the first one
// for the next row.
function takeRow(fetching: Fetching, chunk: Chunk, r: number, from: number): number {
  const { tensor, context, chosen, values, tokens, starts } = fetching;
  const row = chunk.from + r;
  let to = from;
  while (chosen[to]?.row === row) to++;
  const positions = positionsOf(chunk, r);
  tokens.set(
    row,
    Int32Array.from(positions, (p) => chunk.tokens.tokens[r * context + p] as number),
  );
  if ('data' in chunk.values) {
    for (let i = from; i < to; i++) takeDense(chunk.values, r, positions, chosen[i] as ChosenRow, values, i * context);
    return to;
  }
  checkLatents(tensor.name, chunk, r);
  for (let i = from; i < to; i++) starts[(chosen[i] as ChosenRow).feature] = i * context;
  takeSparse(chunk.values, r, positions, starts, values);
  for (let i = from; i < to; i++) starts[(chosen[i] as ChosenRow).feature] = -1;
  return to;
}

function takeDense(
  { data, shape }: DenseRows,
  r: number,
  positions: number[],
  { feature }: ChosenRow,
  into: Float32Array,
  start: number,
): void {
  const context = shape[1] as number;
  const width = sizeOf(shape.slice(2));
  positions.forEach((p, i) => {
    into[start + i] = data[(r * context + p) * width + feature] as number;
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
