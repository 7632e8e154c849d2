// Makes shards of blocks. There are two kinds of makers: this process, or several that it starts (workers.ts). Both
// take blocks in order, and report each shard when it is complete.
import { quietly } from '../../files/promises.js';
import type { Store } from '../../files/store/store.js';
import { gpt2Tokenizer } from '../../files/tokenizer/tokenizer.js';
import type { Block } from '../corpus/blocks.js';
import { makeBuffer } from '../format/disk.js';
import type { ShardEntry } from '../format/manifest.js';
import type { DumpSettings } from '../format/settings.js';
import type { Computing } from './folder.js';
import { computeShard, makeSlabs, type Pipeline } from './pipeline.js';
import type { Prepared } from './prepare.js';
import type { ShardWriter } from './shard.js';

export interface ShardEvents {
  /** Called with the number of tokens that have been computed and written. */
  readonly onStored: (tokens: number) => void;
  /** Called with a complete shard. The next shard is reported when the promise has resolved. */
  readonly onShard: (number: number, entry: ShardEntry) => Promise<void>;
}

export interface ShardMaker {
  readonly settings: DumpSettings;
  readonly computing: Computing;
  readonly rowsPerShard: number;
  /** The model's tokenizer. */
  readonly encode: (text: string) => number[];
  /** Must be called once, when the folder is ready. */
  begin(events: ShardEvents): void;
  /**
   * Takes a block, and resolves when another one may be given. Rejects with whatever failed, also for earlier blocks.
   */
  take(block: Block): Promise<void>;
  /** Resolves when every block that was taken is a shard. */
  finish(): Promise<void>;
  /** Ends the current work without leaving unfinished files in the folder, and frees what was loaded. */
  close(): Promise<void>;
}

/** A shard that was computed. It is finished (hashed and synced) while another one may be computed. */
export interface ComputedShard {
  readonly whole: Promise<ShardEntry>;
}

/** Makes shards in this process: one is computed while the one before is hashed and synced. */
export class LocalMaker implements ShardMaker {
  readonly settings: DumpSettings;
  readonly computing: Computing;
  readonly rowsPerShard: number;
  readonly encode: (text: string) => number[];
  readonly #prepared: Prepared;
  readonly #out: Store;
  readonly #signal: AbortSignal | undefined;
  readonly #buffer = makeBuffer(); // one is enough, as one shard is finished at a time
  #events: ShardEvents | undefined;
  #pipeline: Pipeline | undefined;
  #finishing: Promise<unknown> = Promise.resolve(); // of the last shard computed; never rejects
  #taken: Promise<unknown> = Promise.resolve(); // rejects when the shard of a block that was taken failed

  constructor(prepared: Prepared, { out, signal }: { out: Store; signal?: AbortSignal | undefined }) {
    this.settings = prepared.plan.settings;
    this.computing = prepared.computing;
    this.rowsPerShard = prepared.plan.rowsPerShard;
    this.encode = encodeOf(prepared.model);
    this.#prepared = prepared;
    this.#out = out;
    this.#signal = signal;
  }

  begin(events: ShardEvents): void {
    const { onStored } = events;
    const [out, signal, slabs] = [this.#out, this.#signal, makeSlabs(this.#prepared.plan)];
    this.#events = events;
    this.#pipeline = { ...this.#prepared, out, signal, onStored, slabs };
  }

  /**
   * Makes a block's shard, also after others have failed. Blocks may come again and in any order, one at a time.
   * Resolves when the shard is computed and the one before is finished, so that another block may be given. Rejects
   * when it cannot be computed, or with the reason of `before`, if that rejects meanwhile; then nothing of the shard is
   * left.
   */
  async make(block: Block, before: Promise<unknown> = Promise.resolve()): Promise<ComputedShard> {
    const writer = await computeShard(this.#pipeline as Pipeline, block);
    await this.#finishing;
    await orAbandon(writer, before);
    const whole = quietly(this.#finish(block.number, writer));
    this.#finishing = whole.catch(() => {}); // `whole` reports the failure
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
    const entry = await orAbandon(writer, writer.finish(this.#buffer));
    await this.#events?.onShard(number, entry);
    return entry;
  }
}

/** GPT-2's own function, which an index and threads are for, or one that calls a tokenizer of the user's own. */
export const encodeOf = ({ enc }: Prepared['model']): ((text: string) => number[]) => {
  const gpt2 = gpt2Tokenizer().encode;
  return enc.encode === gpt2 ? gpt2 : (text) => enc.encode(text);
};

async function orAbandon<T>(writer: ShardWriter, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    await writer.abandon();
    throw error;
  }
}
