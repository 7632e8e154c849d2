// Reads one shard. Its header must be, byte for byte, what the manifest and the numbers of its entries imply, so
// nothing in the file is believed that was not worked out here.
import { allocate, type ByteSource } from '../files/byte_source.js';
import { bytesPerElement, viewAs } from '../files/host_tensor.js';
import type { PlacedTensor } from '../files/safetensors_header.js';
import type { Store } from '../files/store.js';
import { type Cells, everyCell, isPacked } from './cells.js';
import type { ReadableFile } from './disk.js';
import { latentsName, ShardLayout, type ShardSize, statisticNames } from './layout.js';
import { problemWith, type ShardEntry, shardNumber } from './manifest.js';
import { quietly } from './read_ahead.js';
import type { DumpSettings } from './settings.js';
import type { Statistics } from './statistics.js';

const longestHeader = 2 ** 24;

export type StoredArray = BigInt64Array | Float64Array | Int32Array | Uint16Array | Float32Array | Int8Array;

export class ShardReader {
  readonly entry: ShardEntry;
  readonly layout: ShardLayout;
  readonly file: ByteSource;
  readonly path: string;
  readonly #settings: DumpSettings;
  #cells: Promise<Cells> | undefined;

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
      const header = await readHeader(path, file);
      const layout = layoutOf(path, header, settings, entry);
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
    return readElements(this.file, this.layout.tensor(name), from, to);
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

  /** Where values are stored. @throws Error when the file says nonsense about it. */
  cells(): Promise<Cells> {
    this.#cells ??= quietly(this.#readCells());
    return this.#cells;
  }

  async #readCells(): Promise<Cells> {
    const { context } = this.#settings;
    const { rows } = this.entry;
    if (!isPacked(this.#settings)) return everyCell(rows, context);
    const positions = (await this.read('positions')) as Int32Array;
    const places = new Int32Array(positions.length / 2);
    const starts = new Int32Array(rows + 1);
    for (let cell = 0; cell < places.length; cell++) {
      const [row, position] = [positions[2 * cell] as number, positions[2 * cell + 1] as number];
      const place = row * context + position;
      const isAfter = cell === 0 || place > (places[cell - 1] as number);
      if (row < 0 || row >= rows || position < 0 || position >= context || !isAfter) {
        throw new Error(`${this.path}: positions[${cell}] is row ${row}, position ${position}, which cannot be`);
      }
      places[cell] = place;
      starts[row + 1] = cell + 1;
    }
    for (let row = 0; row < rows; row++) starts[row + 1] = Math.max(starts[row + 1] as number, starts[row] as number);
    return { count: places.length, starts, places };
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}

/** Elements [from, to) of a tensor of a shard's file, as they are stored. */
export async function readElements(
  file: ReadableFile,
  { dtype, bytes, byteOffset }: PlacedTensor,
  from = 0,
  to = bytes / bytesPerElement(dtype),
): Promise<StoredArray> {
  const width = bytesPerElement(dtype);
  const bytesRead = allocate('a tensor of a shard', (to - from) * width);
  await file.readInto(byteOffset + from * width, bytesRead);
  return viewAs(dtype, bytesRead.buffer, 0, to - from) as StoredArray;
}

async function readHeader(path: string, file: ByteSource): Promise<Buffer> {
  const prefix = Buffer.alloc(8);
  await file.readInto(0, prefix);
  const length = prefix.readBigUInt64LE(0);
  if (length > longestHeader || Number(length) + 8 > file.size) {
    throw new Error(`${path}: its header would be ${length} bytes long`);
  }
  const header = Buffer.alloc(Number(length) + 8);
  await file.readInto(0, header);
  return header;
}

function layoutOf(path: string, header: Buffer, settings: DumpSettings, entry: ShardEntry): ShardLayout {
  const size = sizeIn(path, header, settings, entry);
  try {
    return new ShardLayout(settings, size);
  } catch (cause) {
    throw new Error(`${path}: cannot be as the manifest says: ${(cause as Error).message}`, { cause });
  }
}

// What the manifest leaves open.
function sizeIn(path: string, header: Buffer, settings: DumpSettings, { rows }: ShardEntry): ShardSize {
  let tensors: Record<string, { shape?: unknown[] } | undefined>;
  try {
    tensors = JSON.parse(header.toString('utf8', 8)) ?? {};
  } catch (cause) {
    throw new Error(`${path}: its header is not JSON: ${(cause as Error).message}`, { cause });
  }
  const length = (name: string, most: number): number => {
    const found = Object.hasOwn(tensors, name) ? tensors[name]?.shape?.[0] : undefined;
    if (Number.isSafeInteger(found) && (found as number) >= 0 && (found as number) <= most) return found as number;
    throw new Error(`${path}: its header says nothing sensible of ${name}`);
  };
  const places = rows * settings.context;
  const cells = isPacked(settings) ? length('positions', places) : places;
  const entries = settings.autoencoders.map(({ location }) =>
    length(`${latentsName(location)}.indices`, Number.MAX_SAFE_INTEGER),
  );
  return { rows, cells, entries };
}

/** The statistics of a location's features, or of its latents, in one shard. They lie together, and are read at once. */
export async function statisticsIn(shard: ShardReader, name: string): Promise<Statistics> {
  const parts = ['count', ...statisticNames].map((statistic) => shard.layout.tensor(`${name}.${statistic}`));
  const [first, last] = [parts[0] as PlacedTensor, parts.at(-1) as PlacedTensor];
  const bytes = allocate('the statistics of a shard', last.byteOffset + last.bytes - first.byteOffset);
  await shard.file.readInto(first.byteOffset, bytes);
  const [count, active, mean, variance, maximum] = parts.map(({ dtype, shape, byteOffset }) => {
    const values = viewAs(dtype, bytes.buffer, byteOffset - first.byteOffset, shape[0] as number);
    return Float64Array.from(values as Float64Array | BigInt64Array, Number);
  }) as [Float64Array, Float64Array, Float64Array, Float64Array, Float64Array];
  return { count: count[0] as number, active, mean, variance, maximum };
}
