// What makes shards of blocks: this process, or several that it starts (workers.ts). Both take blocks in order, and tell
// when each shard is whole.
import type { Store } from '../../files/store/store.js';
import type { Block } from '../corpus/blocks.js';
import { quietly } from '../corpus/read_ahead.js';
import { makeRoom } from '../format/disk.js';
import type { ShardEntry } from '../format/manifest.js';
import type { DumpSettings } from '../format/settings.js';
import { computeShard, makeSlabs, type Pipeline } from './pipeline.js';
import type { Prepared } from './prepare.js';
import type { ShardWriter } from './shard.js';

export interface ShardEvents {
  /** Tokens that have been computed and written. */
  readonly onStored: (tokens: number) => void;
  /** A shard that is whole. What follows it waits for this to end. */
  readonly onShard: (number: number, entry: ShardEntry) => Promise<void>;
}

export interface ShardMaker {
  readonly settings: DumpSettings;
  readonly rowsPerShard: number;
  /** The model's tokenizer. */
  readonly encode: (text: string) => number[];
  /** To be called once, when the folder is ready. */
  begin(events: ShardEvents): void;
  /** Takes a block, and resolves when another one may be given. Rejects with whatever failed, also of blocks before. */
  take(block: Block): Promise<void>;
  /** Resolves when every block taken is a shard. */
  finish(): Promise<void>;
  /** Ends what is under way, without leaving anything half done in the folder, and frees what was loaded. */
  close(): Promise<void>;
}

/** A shard that is computed, and is finished (hashed and synced) while another one may be computed. */
export interface ShardUnderWay {
  readonly whole: Promise<ShardEntry>;
}

/** Makes shards in this process: one is computed while the one before is hashed and synced. */
export class LocalMaker implements ShardMaker {
  readonly settings: DumpSettings;
  readonly rowsPerShard: number;
  readonly encode: (text: string) => number[];
  readonly #prepared: Prepared;
  readonly #out: Store;
  readonly #signal: AbortSignal | undefined;
  readonly #room = makeRoom(); // one shard is finished at a time
  #events: ShardEvents | undefined;
  #pipeline: Pipeline | undefined;
  #finishing: Promise<unknown> = Promise.resolve(); // of the last shard computed; never rejects
  #taken: Promise<unknown> = Promise.resolve(); // rejects when the shard of a block that was taken failed

  constructor(prepared: Prepared, { out, signal }: { out: Store; signal?: AbortSignal | undefined }) {
    this.settings = prepared.plan.settings;
    this.rowsPerShard = prepared.plan.rowsPerShard;
    this.encode = (text) => prepared.model.enc.encode(text);
    this.#prepared = prepared;
    this.#out = out;
    this.#signal = signal;
  }

  begin(events: ShardEvents): void {
    const { plan, model, autoencoders } = this.#prepared;
    const { onStored } = events;
    const [out, signal] = [this.#out, this.#signal];
    this.#events = events;
    this.#pipeline = { plan, model, autoencoders, out, signal, onStored, slabs: makeSlabs(plan) };
  }

  /**
   * Makes a block's shard, however others ended; blocks may come again and in any order, one at a time. Resolves when it is
   * computed and the one before is finished, so that another block may be given. Rejects when it cannot be computed, and
   * with the reason of `before`, should that reject meanwhile; then nothing of it is left.
   */
  async make(block: Block, before: Promise<unknown> = Promise.resolve()): Promise<ShardUnderWay> {
    const writer = await computeShard(this.#pipeline as Pipeline, block);
    await this.#finishing;
    await orAbandon(writer, before);
    const whole = quietly(this.#finish(block.number, writer));
    this.#finishing = whole.catch(() => {}); // who waits for it is told
    return { whole };
  }

  async take(block: Block): Promise<void> {
    this.#taken = (await this.make(block, this.#taken)).whole;
  }

  async finish(): Promise<void> {
    await this.#taken;
  }

  async close(): Promise<void> {
    await this.#finishing;
    this.#prepared.dispose();
  }

  async #finish(number: number, writer: ShardWriter): Promise<ShardEntry> {
    const entry = await orAbandon(writer, writer.finish(this.#room));
    await this.#events?.onShard(number, entry);
    return entry;
  }
}

async function orAbandon<T>(writer: ShardWriter, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    await writer.abandon();
    throw error;
  }
}
