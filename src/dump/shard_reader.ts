// Reads one shard. Its header must be, byte for byte, what the manifest and the numbers of its entries imply, so
// nothing in the file is believed that was not worked out here.
import type { ByteSource } from '../files/byte_source.js';
import { bytesPerElement, viewAs } from '../files/host_tensor.js';
import type { Store } from '../files/store.js';
import { latentsName, ShardLayout } from './layout.js';
import { type ShardEntry, shardNumber } from './manifest.js';
import type { DumpSettings } from './plan.js';

const longestHeader = 2 ** 24;

type StoredArray = BigInt64Array | Int32Array | Uint16Array | Float32Array;

export class ShardReader {
  readonly entry: ShardEntry;
  readonly layout: ShardLayout;
  readonly file: ByteSource;
  readonly path: string;

  private constructor(path: string, entry: ShardEntry, layout: ShardLayout, file: ByteSource) {
    this.path = path;
    this.entry = entry;
    this.layout = layout;
    this.file = file;
  }

  /** @throws Error that names the file when it is missing, of another size, or not laid out as the manifest says. */
  static async open(store: Store, settings: DumpSettings, entry: ShardEntry): Promise<ShardReader> {
    if (shardNumber(entry.file) === undefined) throw new Error(`${entry.file} is not the name of a shard`);
    const path = store.pathOf(entry.file);
    await checkSize(store, entry);
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
      return new ShardReader(path, entry, layout, file);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Elements [from, to) of a tensor, as they are stored: raw bits for 16-bit floats. */
  async read(name: string, from = 0, to?: number): Promise<StoredArray> {
    const { dtype, bytes, byteOffset } = this.layout.tensor(name);
    const width = bytesPerElement(dtype);
    const length = (to ?? bytes / width) - from;
    const buffer = new ArrayBuffer(length * width);
    await this.file.readInto(byteOffset + from * width, new Uint8Array(buffer));
    return viewAs(dtype, buffer, 0, length) as StoredArray;
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

  async close(): Promise<void> {
    await this.file.close();
  }
}

async function checkSize(store: Store, { file, bytes }: ShardEntry): Promise<void> {
  const path = store.pathOf(file);
  const found = await store.find(file);
  if (!found) throw new Error(`${path}: is missing`);
  if (!found.regular) throw new Error(`${path}: is not a regular file`);
  if (found.size !== bytes) throw new Error(`${path}: holds ${found.size} bytes, but the manifest says ${bytes}`);
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

function layoutOf(path: string, header: Buffer, settings: DumpSettings, { rows }: ShardEntry): ShardLayout {
  const entries = entriesOf(path, header, settings);
  try {
    return new ShardLayout(settings, rows, entries);
  } catch (cause) {
    throw new Error(`${path}: cannot be as the manifest says: ${(cause as Error).message}`, { cause });
  }
}

function entriesOf(path: string, header: Buffer, { autoencoders }: DumpSettings): number[] {
  let tensors: Record<string, { shape?: unknown[] } | undefined>;
  try {
    tensors = JSON.parse(header.toString('utf8', 8)) ?? {};
  } catch (cause) {
    throw new Error(`${path}: its header is not JSON: ${(cause as Error).message}`, { cause });
  }
  return autoencoders.map(({ location }) => {
    const name = `${latentsName(location)}.indices`;
    const entries = Object.hasOwn(tensors, name) ? tensors[name]?.shape?.[0] : undefined;
    if (Number.isSafeInteger(entries) && (entries as number) >= 0) return entries as number;
    throw new Error(`${path}: its header says nothing sensible of ${name}`);
  });
}
