// Writes one shard. Tensors follow one another in the file while rows come batch by batch, so each batch is written
// at the positions that the plan gives; latents, whose number nobody knows before, are spooled next to the shard and
// appended at the end, and the header goes last into the room kept for it. Padding is never written: holes of a file
// read as zeros. The shard gets its name only when it is whole and on the disk.
import { type FileHandle, open, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { syncFolder } from '../files/atomic_write.js';
import type { Block } from './blocks.js';
import { chunkBytes, digestOf, discard, newTag, onDisk, unfinishedPath, writeAll } from './disk.js';
import { indexDType, latentsName, ShardLayout } from './layout.js';
import { type ShardEntry, shardFile } from './manifest.js';
import { type DumpSettings, widthOf } from './plan.js';
import { type StoredFloats, toStored } from './stored_floats.js';

/** Some rows of a block, as they went through the model. */
export interface Batch {
  /** Of the first row, in the block. */
  readonly from: number;
  readonly rows: number;
  /** Positions that were computed: the longest row, or the whole context. */
  readonly seq: number;
}

interface Csr {
  readonly rowPtr: BigInt64Array;
  readonly indices: Int32Array;
  readonly values: Float32Array;
}

interface Spool {
  readonly indices: SpoolFile;
  readonly values: SpoolFile;
  entries: number;
}

interface SpoolFile {
  readonly path: string;
  readonly handle: FileHandle;
  bytes: number;
}

export class ShardWriter {
  readonly #folder: string;
  readonly #settings: DumpSettings;
  readonly #block: Block;
  readonly #path: string;
  readonly #handle: FileHandle;
  readonly #spools: Spool[];
  readonly #layout: ShardLayout;

  private constructor(
    folder: string,
    settings: DumpSettings,
    block: Block,
    path: string,
    handle: FileHandle,
    spools: Spool[],
  ) {
    this.#folder = folder;
    this.#settings = settings;
    this.#block = block;
    this.#path = path;
    this.#handle = handle;
    this.#spools = spools;
    this.#layout = ShardLayout.beforeLatents(settings, block.rows);
  }

  /** Makes the unfinished file, with the tokens in it. */
  static async create(folder: string, settings: DumpSettings, block: Block): Promise<ShardWriter> {
    const tag = newTag();
    const opened: SpoolFile[] = [];
    const openNew = async (piece?: string): Promise<SpoolFile> => {
      const path = unfinishedPath(join(folder, shardFile(block.number)), tag, piece);
      const file = { path, handle: await onDisk(path, open(path, 'wx+')), bytes: 0 };
      opened.push(file);
      return file;
    };
    try {
      const { path, handle } = await openNew();
      const spools: Spool[] = [];
      for (const i of settings.autoencoders.keys()) {
        spools.push({ indices: await openNew(`${i}-indices`), values: await openNew(`${i}-values`), entries: 0 });
      }
      const writer = new ShardWriter(folder, settings, block, path, handle, spools);
      await writer.#writeTokens();
      return writer;
    } catch (error) {
      for (const file of opened) await discard(file);
      throw error;
    }
  }

  async #writeTokens(): Promise<void> {
    const { tokens, document } = this.#block;
    await onDisk(this.#path, this.#handle.truncate(this.#layout.bytes));
    await this.#write(tokens, this.#layout.offset('tokens'));
    await this.#write(document, this.#layout.offset('document'));
  }

  /** `values` [batch.rows, batch.seq, ...]; only what is no padding is stored. */
  async writeDense(i: number, batch: Batch, values: StoredFloats): Promise<void> {
    const entry = this.#settings.locations[i] as DumpSettings['locations'][number];
    const { context } = this.#settings;
    const width = widthOf(entry);
    const bytes = values.BYTES_PER_ELEMENT;
    const start = this.#layout.offset(entry.location);
    for (const run of this.#runs(batch)) {
      const from = run.row * batch.seq * width;
      const at = start + (batch.from + run.row) * context * width * bytes;
      await this.#write(values.subarray(from, from + run.positions * width), at);
    }
  }

  // Stretches of values that are stored without a gap: rows of full length together, others one by one.
  *#runs({ from, rows, seq }: Batch): Generator<{ row: number; positions: number }> {
    let run: { row: number; positions: number } | undefined;
    for (let row = 0; row < rows; row++) {
      const length = this.#block.lengths[from + row] as number;
      run ??= { row, positions: 0 };
      run.positions += length;
      if (length === this.#settings.context && seq === length && row < rows - 1) continue;
      yield run;
      run = undefined;
    }
  }

  /** Latents of [batch.rows * batch.seq] positions, after those of all batches before. */
  async appendLatents(i: number, batch: Batch, csr: Csr): Promise<void> {
    const spool = this.#spools[i] as Spool;
    const { context, autoencoders, dtype } = this.#settings;
    const { location, latents } = autoencoders[i] as DumpSettings['autoencoders'][number];
    const pointers = new BigInt64Array(batch.rows * context);
    let entries = spool.entries;
    for (let row = 0, at = 0; row < batch.rows; row++) {
      const length = this.#block.lengths[batch.from + row] as number;
      for (let position = 0; position < context; position++, at++) {
        const cell = row * batch.seq + position;
        if (position < length) entries += Number(csr.rowPtr[cell + 1]) - Number(csr.rowPtr[cell]);
        pointers[at] = BigInt(entries);
      }
    }
    const start = this.#layout.offset(`${latentsName(location)}.row_ptr`) + (1 + batch.from * context) * 8;
    await this.#write(pointers, start);
    for (const run of this.#runs(batch)) {
      const cell = run.row * batch.seq;
      const [from, to] = [Number(csr.rowPtr[cell]), Number(csr.rowPtr[cell + run.positions])];
      const indices = csr.indices.subarray(from, to);
      await append(spool.indices, indexDType(latents) === 'uint16' ? new Uint16Array(indices) : indices);
      await append(spool.values, toStored(csr.values.subarray(from, to), dtype));
    }
    spool.entries = entries;
  }

  /** Completes the file and gives it its name. Returns what the manifest says of it. */
  async finish(): Promise<ShardEntry> {
    const { rows, number, tokenCount } = this.#block;
    const entries = this.#spools.map((spool) => spool.entries);
    const layout = new ShardLayout(this.#settings, rows, entries);
    for (const [i, { location }] of this.#settings.autoencoders.entries()) {
      const { indices, values } = this.#spools[i] as Spool;
      await this.#copy(indices, layout.offset(`${latentsName(location)}.indices`));
      await this.#copy(values, layout.offset(`${latentsName(location)}.values`));
    }
    await this.#write(layout.header, 0);
    const { bytes } = layout;
    const sha256 = await onDisk(this.#path, digestOf(this.#handle, bytes));
    await onDisk(this.#path, this.#handle.datasync());
    await this.#handle.close();
    const file = shardFile(number);
    await onDisk(this.#path, rename(this.#path, join(this.#folder, file)));
    await onDisk(this.#folder, syncFolder(this.#folder));
    return { file, rows, tokens: tokenCount, bytes, sha256 };
  }

  /** Removes what was written. For after a failure; no write may be under way. */
  async abandon(): Promise<void> {
    const spooled = this.#spools.flatMap(({ indices, values }) => [indices, values]);
    for (const file of [{ path: this.#path, handle: this.#handle }, ...spooled]) await discard(file);
  }

  async #write(view: ArrayBufferView, position: number): Promise<void> {
    await writeAll(this.#path, this.#handle, view, position);
  }

  async #copy(from: SpoolFile, position: number): Promise<void> {
    const buffer = Buffer.allocUnsafe(Math.min(chunkBytes, from.bytes));
    for (let at = 0; at < from.bytes; ) {
      const { bytesRead } = await onDisk(from.path, from.handle.read(buffer, 0, buffer.length, at));
      if (bytesRead === 0) throw new Error(`dump: ${from.path} became shorter while it was in use`);
      await this.#write(buffer.subarray(0, bytesRead), position + at);
      at += bytesRead;
    }
    await discard(from);
  }
}

async function append(file: SpoolFile, view: ArrayBufferView): Promise<void> {
  await writeAll(file.path, file.handle, view, file.bytes);
  file.bytes += view.byteLength;
}
