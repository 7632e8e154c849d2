// Writes one shard. Tensors follow one another in the file while rows come batch by batch, so each batch is written
// at the positions that the plan gives; latents, whose number nobody knows before, are spooled next to the shard as they
// come and put in the order of the rows at the end, and the header goes last into the room kept for it. Padding is never
// written: holes of a file read as zeros. The shard gets its name only when it is whole and on the disk.
import { handleSource } from '../files/byte_source.js';
import { type Draft, newTag, type Store } from '../files/store.js';
import type { Batch } from './batches.js';
import type { Block } from './blocks.js';
import { digestOf, onDisk, writeAll } from './disk.js';
import { indexDType, latentsName, ShardLayout } from './layout.js';
import { type ShardEntry, shardFile } from './manifest.js';
import { type DumpSettings, widthOf } from './plan.js';
import { type StoredFloats, toStored } from './stored_floats.js';

interface Csr {
  readonly rowPtr: BigInt64Array;
  readonly indices: Int32Array;
  readonly values: Float32Array;
}

interface Spool {
  readonly indices: SpoolFile;
  readonly values: SpoolFile;
  /** Of each position the active latents, [rows * context]. */
  readonly counts: Uint32Array;
  /** Of each row the first entry in the spool, [rows], and the number of its entries. */
  readonly starts: Float64Array;
  readonly sizes: Float64Array;
  entries: number;
}

interface SpoolFile extends Pick<Draft, 'path' | 'handle' | 'discard'> {
  bytes: number;
}

export class ShardWriter {
  readonly #store: Store;
  readonly #settings: DumpSettings;
  readonly #block: Block;
  readonly #draft: Draft;
  readonly #spools: Spool[];
  readonly #layout: ShardLayout;

  private constructor(store: Store, settings: DumpSettings, block: Block, draft: Draft, spools: Spool[]) {
    this.#store = store;
    this.#settings = settings;
    this.#block = block;
    this.#draft = draft;
    this.#spools = spools;
    this.#layout = ShardLayout.beforeLatents(settings, block.rows);
  }

  /** Makes the unfinished file, with the tokens in it. */
  static async create(store: Store, settings: DumpSettings, block: Block): Promise<ShardWriter> {
    const tag = newTag();
    const file = shardFile(block.number);
    const opened: Draft[] = [];
    const begin = async (piece?: string): Promise<Draft> => {
      const draft = await onDisk(store.pathOf(file), store.draft(file, tag, piece));
      opened.push(draft);
      return draft;
    };
    const spool = async (piece: string): Promise<SpoolFile> => ({ ...(await begin(piece)), bytes: 0 });
    try {
      const draft = await begin();
      const spools: Spool[] = [];
      for (const i of settings.autoencoders.keys()) {
        spools.push({
          indices: await spool(`${i}-indices`),
          values: await spool(`${i}-values`),
          counts: new Uint32Array(block.rows * settings.context),
          starts: new Float64Array(block.rows),
          sizes: new Float64Array(block.rows),
          entries: 0,
        });
      }
      const writer = new ShardWriter(store, settings, block, draft, spools);
      await writer.#writeTokens();
      return writer;
    } catch (error) {
      for (const draft of opened) await draft.discard();
      throw error;
    }
  }

  async #writeTokens(): Promise<void> {
    const { tokens, document } = this.#block;
    await onDisk(this.#draft.path, this.#draft.handle.truncate(this.#layout.bytes));
    await this.#write(tokens, this.#layout.offset('tokens'));
    await this.#write(document, this.#layout.offset('document'));
  }

  /** `values` [rows, seq, ...] of the batch; only what is no padding is stored. */
  async writeDense(i: number, batch: Batch, values: StoredFloats): Promise<void> {
    const entry = this.#settings.locations[i] as DumpSettings['locations'][number];
    const { context } = this.#settings;
    const width = widthOf(entry);
    const bytes = values.BYTES_PER_ELEMENT;
    const start = this.#layout.offset(entry.location);
    for (const { first, row, positions } of this.#runs(batch)) {
      const from = first * batch.seq * width;
      await this.#write(values.subarray(from, from + positions * width), start + row * context * width * bytes);
    }
  }

  // Stretches of values that are stored without a gap: rows of full length that follow one another go together. `first`
  // counts in the batch, `row` in the block.
  *#runs({ rows, seq }: Batch): Generator<{ first: number; row: number; positions: number }> {
    const { context } = this.#settings;
    let run: { first: number; row: number; positions: number } | undefined;
    for (const [i, row] of rows.entries()) {
      const length = this.#block.lengths[row] as number;
      run ??= { first: i, row, positions: 0 };
      run.positions += length;
      if (length === context && seq === context && rows[i + 1] === row + 1) continue;
      yield run;
      run = undefined;
    }
  }

  /** Latents of the batch's [rows * seq] positions. */
  async appendLatents(i: number, { rows, seq }: Batch, csr: Csr): Promise<void> {
    const spool = this.#spools[i] as Spool;
    const { context, autoencoders, dtype } = this.#settings;
    const { latents } = autoencoders[i] as DumpSettings['autoencoders'][number];
    const places = Float64Array.from(csr.rowPtr, Number);
    // Padding has entries, too, if it was computed: they are left out.
    const kept: { from: number; to: number }[] = [];
    for (const [n, row] of rows.entries()) {
      const length = this.#block.lengths[row] as number;
      const from = places[n * seq] as number;
      const to = places[n * seq + length] as number;
      for (let position = 0; position < length; position++) {
        const cell = n * seq + position;
        spool.counts[row * context + position] = (places[cell + 1] as number) - (places[cell] as number);
      }
      spool.starts[row] = spool.entries;
      spool.sizes[row] = to - from;
      spool.entries += to - from;
      const last = kept.at(-1);
      if (last?.to === from) last.to = to;
      else kept.push({ from, to });
    }
    for (const { from, to } of kept) {
      const indices = csr.indices.subarray(from, to);
      await append(spool.indices, indexDType(latents) === 'uint16' ? new Uint16Array(indices) : indices);
      await append(spool.values, toStored(csr.values.subarray(from, to), dtype));
    }
  }

  /** Completes the file and gives it its name. Returns what the manifest says of it. `room` is overwritten. */
  async finish(room: Uint8Array): Promise<ShardEntry> {
    const { rows, number, tokenCount } = this.#block;
    const entries = this.#spools.map((spool) => spool.entries);
    const layout = new ShardLayout(this.#settings, rows, entries);
    for (const [i, { location }] of this.#settings.autoencoders.entries()) {
      const spool = this.#spools[i] as Spool;
      const at = (part: string) => layout.offset(`${latentsName(location)}.${part}`);
      await this.#writePointers(spool.counts, at('row_ptr'), room);
      await this.#copy(spool.indices, spool, at('indices'), room);
      await this.#copy(spool.values, spool, at('values'), room);
    }
    await this.#write(layout.header, 0);
    const { bytes } = layout;
    const { path, handle } = this.#draft;
    const sha256 = await onDisk(path, digestOf(handleSource(path, handle, bytes), room));
    const file = shardFile(number);
    await onDisk(this.#store.pathOf(file), this.#draft.publish());
    return { file, rows, tokens: tokenCount, bytes, sha256 };
  }

  /** Removes what was written. For after a failure; no write may be under way. */
  async abandon(): Promise<void> {
    const spooled = this.#spools.flatMap(({ indices, values }) => [indices, values]);
    for (const file of [this.#draft, ...spooled]) await file.discard();
  }

  async #write(view: ArrayBufferView, position: number): Promise<void> {
    await writeAll(this.#draft.path, this.#draft.handle, view, position);
  }

  async #writePointers(counts: Uint32Array, start: number, room: Uint8Array): Promise<void> {
    const pointers = new BigInt64Array(room.buffer, room.byteOffset, Math.floor(room.length / 8));
    let entries = 0;
    for (let from = 0; from < counts.length; from += pointers.length) {
      const own = counts.subarray(from, from + pointers.length);
      for (let i = 0; i < own.length; i++) {
        entries += own[i] as number;
        pointers[i] = BigInt(entries);
      }
      await this.#write(pointers.subarray(0, own.length), start + (from + 1) * 8); // the first, 0, is a hole
    }
  }

  // From the order in which rows were computed into their own.
  async #copy(from: SpoolFile, { starts, sizes, entries }: Spool, position: number, room: Uint8Array): Promise<void> {
    const width = entries > 0 ? from.bytes / entries : 0;
    let filled = 0;
    let at = position;
    const flush = async () => {
      await this.#write(room.subarray(0, filled), at);
      at += filled;
      filled = 0;
    };
    for (let row = 0; row < starts.length; ) {
      const begin = starts[row] as number;
      let end = begin;
      for (; row < starts.length && starts[row] === end; row++) end += sizes[row] as number;
      for (let offset = begin * width; offset < end * width; ) {
        const part = room.subarray(filled, Math.min(room.length, filled + end * width - offset));
        const { bytesRead } = await onDisk(from.path, from.handle.read(part, 0, part.length, offset));
        if (bytesRead === 0) throw new Error(`dump: ${from.path} became shorter while it was in use`);
        filled += bytesRead;
        offset += bytesRead;
        if (filled === room.length) await flush();
      }
    }
    await flush();
    await from.discard();
  }
}

async function append(file: SpoolFile, view: ArrayBufferView): Promise<void> {
  await writeAll(file.path, file.handle, view, file.bytes);
  file.bytes += view.byteLength;
}
