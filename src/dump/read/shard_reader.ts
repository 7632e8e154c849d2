// Reads one shard. Its header must be, byte for byte, what the manifest and the numbers of its entries imply. So
// nothing in the file is trusted that was not worked out here.
import type { ByteSource } from '../../files/byte_source.js';
import { bytesPerElement, viewAs } from '../../files/host_tensor.js';
import { allocate, checkMemory } from '../../files/memory.js';
import { quietly } from '../../files/promises.js';
import { type PlacedTensor, parseSafetensorsHeader } from '../../files/safetensors/safetensors_header.js';
import type { Store } from '../../files/store/store.js';
import type { ReadableFile } from '../format/disk.js';
import { latentsName, longestHeader, ShardLayout, type ShardSize, statisticNames } from '../format/layout.js';
import { problemWith, type ShardEntry, shardNumber } from '../format/manifest.js';
import { everyPosition, isPacked, type StoredPositions } from '../format/positions.js';
import type { DumpSettings } from '../format/settings.js';
import type { Statistics } from '../format/statistics.js';

export type StoredArray = BigInt64Array | Float64Array | Int32Array | Uint16Array | Float32Array | Int8Array;

export class ShardReader {
  readonly entry: ShardEntry;
  readonly layout: ShardLayout;
  readonly file: ByteSource;
  readonly path: string;
  readonly #settings: DumpSettings;
  #storedPositions: Promise<StoredPositions> | undefined;

  private constructor(path: string, settings: DumpSettings, entry: ShardEntry, layout: ShardLayout, file: ByteSource) {
    this.path = path;
    this.#settings = settings;
    this.entry = entry;
    this.layout = layout;
    this.file = file;
  }

  /** @throws Error that names the file when it is missing, of another size, or not laid out as the manifest says. */
  static async open(store: Store, settings: DumpSettings, entry: ShardEntry): Promise<ShardReader> {
    if (shardNumber(entry.file) === undefined) throw new Error(`${entry.file} is not the name of a shard`);
    const path = store.pathOf(entry.file);
    const problem = await problemWith(store, entry);
    if (problem !== undefined) throw new Error(`${path}: ${problem}`);
    const file = await store.open(entry.file);
    try {
      const header = await readHeader(path, file, () => longestOf(path, settings, entry));
      const layout = impliedLayout(
        path,
        () => new ShardLayout(settings, sizeIn(path, header, file.size, settings, entry)),
      );
      if (!layout.header.equals(header)) {
        throw new Error(`${path}: its header is not the one that the manifest implies`);
      }
      if (layout.bytes !== entry.bytes) {
        throw new Error(`${path}: holds ${entry.bytes} bytes, but its tensors take ${layout.bytes}`);
      }
      return new ShardReader(path, settings, entry, layout, file);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Elements [from, to) of a tensor, as they are stored: raw bits for 16-bit floats. */
  async read(name: string, from?: number, to?: number): Promise<StoredArray> {
    return readElements(this.path, this.file, this.layout.tensor(name), from, to);
  }

  /** Fills `into` with the elements from `from` on. It must be an array of the tensor's dtype. */
  async readInto(name: string, from: number, into: StoredArray): Promise<void> {
    const { byteOffset } = this.layout.tensor(name);
    const bytes = new Uint8Array(into.buffer, into.byteOffset, into.byteLength);
    await this.file.readInto(byteOffset + from * into.BYTES_PER_ELEMENT, bytes);
  }

  /** The slots [begin, end) of rows [from, to), and the flat positions of all slots where positions are left out. */
  async slotsOf(
    from: number,
    to: number,
  ): Promise<{ begin: number; end: number; flatPositions: Int32Array | undefined }> {
    const { context } = this.#settings;
    if (!isPacked(this.#settings)) return { begin: from * context, end: to * context, flatPositions: undefined };
    const { starts, flatPositions } = await this.storedPositions();
    return { begin: starts[from] as number, end: starts[to] as number, flatPositions };
  }

  /** The tokens and documents, [rows, context] each, of rows [from, to). */
  async rows(from: number, to: number): Promise<{ tokens: Int32Array; document: Int32Array }> {
    const context = this.layout.tensor('tokens').shape[1] as number;
    const [tokens, document] = await Promise.all([
      this.read('tokens', from * context, to * context) as Promise<Int32Array>,
      this.read('document', from * context, to * context) as Promise<Int32Array>,
    ]);
    return { tokens, document };
  }

  /** Which positions are stored. @throws Error when the file holds positions that cannot be. */
  storedPositions(): Promise<StoredPositions> {
    this.#storedPositions ??= quietly(this.#readPositions());
    return this.#storedPositions;
  }

  async #readPositions(): Promise<StoredPositions> {
    const { context } = this.#settings;
    const { rows } = this.entry;
    checkMemory(`${this.path}: its positions`, 4 * (rows + 1), 'read it where there is more');
    if (!isPacked(this.#settings)) return everyPosition(rows, context);
    const positions = (await this.read('positions')) as Int32Array;
    const flatPositions = new Int32Array(positions.length / 2);
    const starts = new Int32Array(rows + 1);
    for (let slot = 0; slot < flatPositions.length; slot++) {
      const [row, position] = [positions[2 * slot] as number, positions[2 * slot + 1] as number];
      const flat = row * context + position;
      const isAfter = slot === 0 || flat > (flatPositions[slot - 1] as number);
      if (row < 0 || row >= rows || position < 0 || position >= context || !isAfter) {
        throw new Error(`${this.path}: positions[${slot}] is row ${row}, position ${position}, which cannot be`);
      }
      flatPositions[slot] = flat;
      starts[row + 1] = slot + 1;
    }
    for (let row = 0; row < rows; row++) starts[row + 1] = Math.max(starts[row + 1] as number, starts[row] as number);
    return { count: flatPositions.length, starts, flatPositions };
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}

/** Elements [from, to) of a tensor of a shard's file, as they are stored. `path` begins messages. */
export async function readElements(
  path: string,
  file: ReadableFile,
  { dtype, bytes, byteOffset }: PlacedTensor,
  from = 0,
  to = bytes / bytesPerElement(dtype),
): Promise<StoredArray> {
  const width = bytesPerElement(dtype);
  const bytesRead = allocate(path, (to - from) * width);
  await file.readInto(byteOffset + from * width, bytesRead);
  return viewAs(dtype, bytesRead.buffer, 0, to - from) as StoredArray;
}

/** The most bytes that the header can have, whatever the shard holds. The length field is included. */
function longestOf(path: string, settings: DumpSettings, { rows }: ShardEntry): number {
  const positions = rows * settings.context;
  return impliedLayout(path, () => ShardLayout.beforeLatents(settings, { rows, positions })).header.length;
}

const shortHeader = 2 ** 20;

/** Calls `longest`, which takes some time, only for a header that is longer than usual. */
async function readHeader(path: string, file: ByteSource, longest: () => number): Promise<Buffer> {
  const prefix = Buffer.alloc(8);
  await file.readInto(0, prefix);
  const length = prefix.readBigUInt64LE(0);
  const most = length > shortHeader ? Math.min(longestHeader, longest() - 8) : shortHeader;
  if (length > most || Number(length) + 8 > file.size) {
    throw new Error(
      `${path}: its header would be ${length} bytes long, and ${Math.min(most, file.size - 8)} are the most that it can be`,
    );
  }
  const header = Buffer.alloc(Number(length) + 8);
  await file.readInto(0, header);
  return header;
}

class BrokenHeader extends Error {}

/** The layout that the manifest implies. @throws Error that names the file when there can be none. */
function impliedLayout(path: string, layout: () => ShardLayout): ShardLayout {
  try {
    return layout();
  } catch (cause) {
    if (cause instanceof BrokenHeader) throw cause;
    throw new Error(`${path}: cannot be as the manifest says: ${(cause as Error).message}`, { cause });
  }
}

// Reads from the header what the manifest leaves open. The parser takes no more memory than the header's length
// justifies.
function sizeIn(
  path: string,
  header: Buffer,
  fileSize: number,
  settings: DumpSettings,
  { rows }: ShardEntry,
): ShardSize {
  const all = rows * settings.context;
  const names = settings.autoencoders.map(({ location }) => `${latentsName(location)}.indices`);
  if (names.length === 0 && !isPacked(settings)) return { rows, positions: all, entries: [] };
  let tensors: ReadonlyMap<string, PlacedTensor>;
  try {
    ({ tensors } = parseSafetensorsHeader('its header', header.subarray(8), fileSize));
  } catch (cause) {
    throw new BrokenHeader(`${path}: ${(cause as Error).message}`, { cause });
  }
  const length = (name: string, most: number): number => {
    const found = tensors.get(name)?.shape[0];
    if (found !== undefined && found <= most) return found;
    throw new BrokenHeader(`${path}: its header says nothing sensible of ${name}`);
  };
  const positions = isPacked(settings) ? length('positions', all) : all;
  return { rows, positions, entries: names.map((name) => length(name, Number.MAX_SAFE_INTEGER)) };
}

/**
 * The statistics of a location's features, or of its latents, in one shard. They lie together, so one read gets them
 * all.
 */
export async function statisticsIn(shard: ShardReader, name: string): Promise<Statistics> {
  const parts = ['count', ...statisticNames].map((statistic) => shard.layout.tensor(`${name}.${statistic}`));
  const [first, last] = [parts[0] as PlacedTensor, parts.at(-1) as PlacedTensor];
  const bytes = allocate(shard.path, last.byteOffset + last.bytes - first.byteOffset);
  await shard.file.readInto(first.byteOffset, bytes);
  const [count, active, mean, variance, maximum] = parts.map(({ dtype, shape, byteOffset }) => {
    const values = viewAs(dtype, bytes.buffer, byteOffset - first.byteOffset, shape[0] as number);
    return Float64Array.from(values as Float64Array | BigInt64Array, Number);
  }) as [Float64Array, Float64Array, Float64Array, Float64Array, Float64Array];
  return { count: count[0] as number, active, mean, variance, maximum };
}
