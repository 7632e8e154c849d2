// The features of a location in a dump, which are its neurons or latents, and reading them in chunks of rows. Names
// come from the dump's manifest, which comes from anywhere: only those of the model's own locations become names of
// folders.
import { quietly } from '../../files/promises.js';
import { formatLocation, type Location, parseLocation } from '../../transformer/location.js';
import { inJson } from '../format/in_json.js';
import { namedValues } from '../format/layout.js';
import type { DenseLocation, SparseLocation } from '../format/settings.js';
import type { DenseRows, Dump, SparseRows, TokenRows } from '../read/reader.js';

/** A tensor of a dump with a value for each token and feature: neurons, latents, or the elements of all heads. */
export interface FeatureTensor {
  /** `1/mlp/post_act`, `1/resid/delta_mlp/latents`, or either with `.gradient` behind it */
  readonly name: string;
  readonly width: number;
  /** Whether the features are latents, of which only the active ones are stored. */
  readonly sparse: boolean;
  /** 0 for a location that belongs to no layer. */
  readonly layerIndex: number;
  /** The name without the layer, as the name of a folder: `resid_delta_mlp_latents`. */
  readonly folder: string;
  /** The most bytes that a row takes in memory. */
  readonly bytesPerRow: number;
}

/** @throws RangeError when the dump has no such tensor, or one that has a value for each pair of tokens. */
export function featureTensorOf(dump: Dump, name: string): FeatureTensor {
  if (dump.manifest.sample < 1) {
    throw new RangeError(`${dump.folder} holds a sample of the positions: there are no whole texts to show`);
  }
  const { locations, autoencoders, context } = dump.manifest;
  const found = namedValues(dump.manifest).find((values) => values.name === name);
  if (!found) {
    throw new RangeError(`${dump.folder} has no ${inJson(name)}; it has ${dump.names.join(', ')}`);
  }
  const { isSparse, isGradient, width, index } = found;
  const entry = (isSparse ? autoencoders : locations)[index] as DenseLocation | SparseLocation;
  const location = parseLocation(entry.location);
  if (!isSparse && hasKeys(location)) {
    throw new RangeError(`${name} has a value for each pair of tokens, and one per token is needed, as 0/attn/v has`);
  }
  const { point, layer } = location;
  const parts = [formatLocation({ point }), ...(isSparse ? ['latents'] : []), ...(isGradient ? ['gradient'] : [])];
  return {
    name,
    width,
    sparse: isSparse,
    layerIndex: typeof layer === 'number' ? layer : 0,
    folder: parts.join('/').replaceAll('/', '_'),
    bytesPerRow: isSparse ? context * (width * 8 + 8) : context * width * 4,
  };
}

const hasKeys = ({ point }: Location): boolean => point === 'attn.qk_logits' || point === 'attn.qk_probs';

/** Rows [from, from + count) of a tensor with their tokens. */
export interface Chunk {
  readonly from: number;
  readonly count: number;
  readonly values: DenseRows | SparseRows;
  readonly tokens: TokenRows;
}

export type RowRange = readonly [from: number, to: number];

/**
 * Reads ranges of rows, each while the caller works on the one before. When the caller is done, nothing is being read:
 * the dump can be closed.
 */
export async function* readChunks(dump: Dump, name: string, ranges: Iterable<RowRange>): AsyncGenerator<Chunk> {
  let next: Promise<Chunk> | undefined;
  try {
    for (const range of ranges) {
      const ready = await next;
      next = quietly(readChunk(dump, name, range));
      if (ready) yield ready;
    }
    if (next) yield await next;
  } finally {
    await next?.catch(() => {}); // the error was thrown above, or the caller does not need the chunk any more
  }
}

async function readChunk(dump: Dump, name: string, [from, to]: RowRange): Promise<Chunk> {
  const reading = [dump.rows<string>(name, from, to), dump.tokens(from, to)] as const;
  await Promise.allSettled(reading);
  const [values, tokens] = await Promise.all(reading);
  return { from, count: to - from, values, tokens };
}

/** How many rows of a tensor fit into `bytes`; one at least. */
export const rowsWithin = (dump: Dump, { bytesPerRow }: FeatureTensor, bytes: number): number =>
  Math.max(1, Math.min(dump.rowCount, Math.floor(bytes / bytesPerRow)));

/** All rows of a dump, in ranges of at most `most`. */
export function* allRanges({ rowCount }: Dump, most: number): Generator<RowRange> {
  for (let from = 0; from < rowCount; from += most) yield [from, Math.min(from + most, rowCount)];
}

/** Ranges of at most `most` rows that hold `rows`, which ascend, and no other rows. */
export function* rangesOf(rows: Iterable<number>, most: number): Generator<RowRange> {
  let [from, to] = [0, 0];
  for (const row of rows) {
    if (row === to && to - from < most && to > from) {
      to++;
      continue;
    }
    if (to > from) yield [from, to];
    [from, to] = [row, row + 1];
  }
  if (to > from) yield [from, to];
}

/** The positions of a chunk's row that hold a token whose values are stored. */
export function positionsOf({ tokens }: Chunk, row: number): number[] {
  const context = tokens.shape[1] as number;
  const positions: number[] = [];
  for (let p = 0; p < context; p++) if (tokens.stored[row * context + p] === 1) positions.push(p);
  return positions;
}

/**
 * Checks the latents of a row, which come from a file: they must be below the number of latents, and ascend at each
 * position.
 * @throws Error that names the row.
 */
export function checkLatents(name: string, { from, values }: Chunk, row: number): void {
  const { rowPtr, indices, shape } = values as SparseRows;
  const [, context, latents] = shape as [number, number, number];
  for (let p = row * context; p < (row + 1) * context; p++) {
    let previous = -1;
    for (let i = Number(rowPtr[p]); i < Number(rowPtr[p + 1]); i++) {
      const latent = indices[i] as number;
      if (latent <= previous || latent >= latents) {
        throw new Error(`${name} is broken in row ${from + row}: its latents must ascend, below ${latents}`);
      }
      previous = latent;
    }
  }
}
