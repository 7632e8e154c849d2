// The Parquet files beside a shard. They are made from the shard's file when that is complete.
import { handleSource } from '../../files/byte_source.js';
import type { Draft, Store } from '../../files/store/store.js';
import type { Block } from '../corpus/blocks.js';
import { digestOf, onDisk, type ReadableFile, writeAll } from '../format/disk.js';
import { latentsName, type ShardLayout, type SparseValues, sparseValues } from '../format/layout.js';
import { type ListedFile, parquetFile } from '../format/manifest.js';
import { type LatentEntries, writeLatentsParquet } from '../format/parquet.js';
import { rowsPerShard, type StoredPositions } from '../format/positions.js';
import type { DumpSettings, SparseLocation } from '../format/settings.js';
import { fromStored, type StoredFloats } from '../format/stored_floats.js';
import { readElements, type StoredArray } from '../read/shard_reader.js';

/** A shard's complete file, and what it was made from. */
export interface FinishedShard {
  readonly settings: DumpSettings;
  readonly block: Block;
  readonly positions: StoredPositions;
  readonly layout: ShardLayout;
  readonly file: ReadableFile;
  /** The path of the file, for messages. */
  readonly path: string;
}

/** A Parquet file that is complete but not published. */
export interface ParquetDraft {
  readonly draft: Draft;
  readonly listed: ListedFile;
}

/** Writes the latents of autoencoder `i`. The caller publishes or discards the draft. `buffer` is overwritten. */
export async function draftParquet(
  shard: FinishedShard,
  i: number,
  store: Store,
  tag: string,
  buffer: Uint8Array,
): Promise<ParquetDraft> {
  const { location } = shard.settings.autoencoders[i] as SparseLocation;
  const file = parquetFile(shard.block.number, location);
  const draft = await onDisk(store.pathOf(file), store.draft(file, tag));
  try {
    let bytes = 0;
    await writeLatentsParquet(await entriesOf(shard, i), async (chunk) => {
      await writeAll(draft.path, draft.handle, chunk, bytes);
      bytes += chunk.length;
    });
    const sha256 = await onDisk(draft.path, digestOf(handleSource(draft.path, draft.handle, bytes), buffer));
    return { draft, listed: { file, bytes, sha256 } };
  } catch (error) {
    await draft.discard();
    throw error;
  }
}

async function entriesOf(shard: FinishedShard, i: number): Promise<LatentEntries> {
  const { settings, block, positions } = shard;
  const { location, latents } = settings.autoencoders[i] as SparseLocation;
  const read = (part: string, from?: number, to?: number): Promise<StoredArray> =>
    readElements(shard.path, shard.file, shard.layout.tensor(`${latentsName(location)}.${part}`), from, to);
  const floats =
    ({ tensor, dtype }: SparseValues) =>
    async (from: number, to: number): Promise<Float32Array> => {
      const stored = await readElements(shard.path, shard.file, shard.layout.tensor(tensor), from, to);
      return fromStored(stored as StoredFloats, dtype);
    };
  const [values, gradients] = sparseValues(settings).filter(({ index }) => index === i) as [
    SparseValues,
    SparseValues?,
  ];
  return {
    latents,
    firstRow: block.number * rowsPerShard(settings),
    tokenizer: settings.tokenizer,
    context: settings.context,
    tokens: block.tokens,
    document: block.document,
    flatPositions: positions.flatPositions,
    rowPtr: (await read('row_ptr')) as BigInt64Array,
    indices: async (from, to) => (await read('indices', from, to)) as Uint16Array | Int32Array,
    values: floats(values),
    ...(gradients && { gradients: floats(gradients) }),
  };
}
