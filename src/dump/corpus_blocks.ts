// The corpus as the blocks of a dump's shards.
import { type Block, blocksOf } from './blocks.js';
import { readCorpus, type Source } from './corpus.js';
import type { DumpSettings } from './settings.js';

/** What decides how a corpus is cut. */
export interface Cut {
  readonly settings: Pick<DumpSettings, 'context' | 'limit' | 'model'>;
  readonly rowsPerShard: number;
  readonly encode: (text: string) => number[];
}

export function corpusBlocks(
  sources: readonly Source[],
  { settings, rowsPerShard, encode }: Cut,
  reading: { readonly onBytes?: (bytes: number) => void; readonly signal?: AbortSignal | undefined } = {},
): AsyncGenerator<Block> {
  const { context, limit, model } = settings;
  const pieces = readCorpus(sources, { encode, nVocab: model.vocabulary, ...reading });
  return blocksOf(pieces, { context, rowsPerBlock: rowsPerShard, limit: limit ?? undefined });
}

/** Gives blocks by their number: without a detour when the numbers rise, from the start of the corpus when one falls. */
export class BlockCursor {
  readonly #open: () => AsyncGenerator<Block>;
  #blocks: AsyncGenerator<Block> | undefined;
  #next = 0;

  constructor(open: () => AsyncGenerator<Block>) {
    this.#open = open;
  }

  /** @throws Error when the corpus has no such block. */
  async at(number: number): Promise<Block> {
    if (!this.#blocks || number < this.#next) {
      await this.close();
      this.#blocks = this.#open();
      this.#next = 0;
    }
    for (;;) {
      const { value, done } = await this.#blocks.next();
      if (done) {
        await this.close();
        throw new Error(`dump: the corpus has no block ${number}: it makes no more than ${this.#next} shards now`);
      }
      this.#next = value.number + 1;
      if (value.number === number) return value;
    }
  }

  async close(): Promise<void> {
    await this.#blocks?.return(undefined);
    this.#blocks = undefined;
  }
}
