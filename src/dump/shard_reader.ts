// Reads one shard. Its header must be, byte for byte, what the manifest and the numbers of its entries imply, so
// nothing in the file is believed that was not worked out here.
import { type FileHandle, lstat, open } from 'node:fs/promises';
import { join } from 'node:path';
import { bytesPerElement, viewAs } from '../files/host_tensor.js';
import { latentsName, ShardLayout } from './layout.js';
import { type ShardEntry, shardNumber } from './manifest.js';
import type { DumpSettings } from './plan.js';

const longestHeader = 2 ** 24;

type StoredArray = BigInt64Array | Int32Array | Uint16Array | Float32Array;

export class ShardReader {
  readonly entry: ShardEntry;
  readonly layout: ShardLayout;
  readonly handle: FileHandle;
  readonly path: string;

  private constructor(path: string, entry: ShardEntry, layout: ShardLayout, handle: FileHandle) {
    this.path = path;
    this.entry = entry;
    this.layout = layout;
    this.handle = handle;
  }

  /** @throws Error that names the file when it is missing, of another size, or not laid out as the manifest says. */
  static async open(folder: string, settings: DumpSettings, entry: ShardEntry): Promise<ShardReader> {
    if (shardNumber(entry.file) === undefined) throw new Error(`${entry.file} is not the name of a shard`);
    const path = join(folder, entry.file);
    await checkSize(path, entry);
    const handle = await open(path, 'r');
    try {
      const header = await readHeader(path, handle, entry.bytes);
      const layout = layoutOf(path, header, settings, entry);
      if (!layout.header.equals(header)) {
        throw new Error(`${path}: its header is not the one that the manifest implies`);
      }
      if (layout.bytes !== entry.bytes) {
        throw new Error(`${path}: holds ${entry.bytes} bytes, but its tensors take ${layout.bytes}`);
      }
      return new ShardReader(path, entry, layout, handle);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** Elements [from, to) of a tensor, as they are stored: raw bits for 16-bit floats. */
  async read(name: string, from = 0, to?: number): Promise<StoredArray> {
    const { dtype, bytes, byteOffset } = this.layout.tensor(name);
    const width = bytesPerElement(dtype);
    const length = (to ?? bytes / width) - from;
    const buffer = new ArrayBuffer(length * width);
    await readAll(this.path, this.handle, new Uint8Array(buffer), byteOffset + from * width);
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
    await this.handle.close();
  }
}

// lstat: a link could lead out of the folder, and a pipe would wait forever.
async function checkSize(path: string, { bytes }: ShardEntry): Promise<void> {
  const found = await lstat(path).catch((cause: NodeJS.ErrnoException) => {
    throw new Error(`${path}: ${cause.code === 'ENOENT' ? 'is missing' : cause.message}`, { cause });
  });
  if (!found.isFile()) throw new Error(`${path}: is not a regular file`);
  if (found.size !== bytes) throw new Error(`${path}: holds ${found.size} bytes, but the manifest says ${bytes}`);
}

async function readHeader(path: string, handle: FileHandle, size: number): Promise<Buffer> {
  const prefix = Buffer.alloc(8);
  await readAll(path, handle, prefix, 0);
  const length = prefix.readBigUInt64LE(0);
  if (length > longestHeader || Number(length) + 8 > size) {
    throw new Error(`${path}: its header would be ${length} bytes long`);
  }
  const header = Buffer.alloc(Number(length) + 8);
  await readAll(path, handle, header, 0);
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

async function readAll(path: string, handle: FileHandle, into: Uint8Array, position: number): Promise<void> {
  for (let at = 0; at < into.length; ) {
    const { bytesRead } = await handle.read(into, at, Math.min(into.length - at, 2 ** 30), position + at);
    if (bytesRead === 0) throw new Error(`${path}: ended while it was read`);
    at += bytesRead;
  }
}
