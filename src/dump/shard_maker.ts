// What makes shards of blocks: this process, or several that it starts (workers.ts). Both take blocks in order, and tell
// when each shard is whole.
import type { Store } from '../files/store.js';
import type { Block } from './blocks.js';
import { makeRoom } from './disk.js';
import type { ShardEntry } from './manifest.js';
import { computeShard, makeSlabs, type Pipeline } from './pipeline.js';
import type { Prepared } from './prepare.js';
import { quietly } from './read_ahead.js';
import type { DumpSettings } from './settings.js';
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
  #finishing: Promise<void> = Promise.resolve();

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

  async take(block: Block): Promise<void> {
    const writer = await computeShard(this.#pipeline as Pipeline, block);
    await this.#finishing.catch(async (error) => {
      await writer.abandon();
      throw error;
    });
    this.#finishing = quietly(this.#finish(block.number, writer));
  }

  finish(): Promise<void> {
    return this.#finishing;
  }

  async close(): Promise<void> {
    await this.#finishing.catch(() => {}); // who waits for it is told
    this.#prepared.dispose();
  }

  async #finish(number: number, writer: ShardWriter): Promise<void> {
    let entry: ShardEntry;
    try {
      entry = await writer.finish(this.#room);
    } catch (error) {
      await writer.abandon();
      throw error;
    }
    await this.#events?.onShard(number, entry);
  }
}
