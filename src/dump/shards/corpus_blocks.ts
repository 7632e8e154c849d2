// Reads the corpus as blocks, one for each shard of a dump.
import { type Block, blocksOf } from '../corpus/blocks.js';
import { readCorpus, type Source } from '../corpus/corpus.js';
import type { DumpSettings } from '../format/settings.js';

/** The settings and the tokenizer with which a corpus is cut into blocks. */
export interface CutOptions {
  readonly settings: Pick<DumpSettings, 'context' | 'limit' | 'model'>;
  readonly rowsPerShard: number;
  readonly encode: (text: string) => number[];
}

export function corpusBlocks(
  sources: readonly Source[],
  { settings, rowsPerShard, encode }: CutOptions,
  reading: { readonly onBytes?: (bytes: number) => void; readonly signal?: AbortSignal | undefined } = {},
): AsyncGenerator<Block> {
  const { context, limit, model } = settings;
  const chunks = readCorpus(sources, { encode, nVocab: model.vocabulary, ...reading });
  return blocksOf(chunks, { context, rowsPerBlock: rowsPerShard, limit: limit ?? undefined });
}

/** Readers of the corpus at a time. Each holds an open file and the block that it read last. */
const mostReaders = 4;
/** Blocks that are kept for another attempt. */
const mostKept = 2;

/** A pass over the corpus from its start. */
interface Reader {
  readonly blocks: AsyncGenerator<Block>;
  /** The number of the block that it reads next. */
  next: number;
}

/**
 * Gives blocks by their number, one at a time, in any order. Several readers are kept at different offsets in the
 * corpus. So a lower number, such as that of a shard that is made again, does not end the pass that reads the higher
 * ones.
 */
export class BlockCursor {
  readonly #open: () => AsyncGenerator<Block>;
  /** Ordered by their last use. */
  readonly #readers: Reader[] = [];
  readonly #kept = new Map<number, Block>();
  /** The number of blocks that were seen so far. */
  #seen = 0;
  /** The number of blocks in the corpus, once a reader has reached its end. */
  #count = Number.POSITIVE_INFINITY;

  constructor(open: () => AsyncGenerator<Block>) {
    this.#open = open;
  }

  /** @throws Error when the corpus has no such block, or cannot be read. */
  async at(number: number): Promise<Block> {
    const block = this.#kept.get(number) ?? (await this.#read(number));
    if (!block) {
      throw new Error(`dump: the corpus has no block ${number}: it makes no more than ${this.#count} shards now`);
    }
    this.#kept.delete(number);
    return block;
  }

  /** Keeps a block, so that `at` can give it once more without reading. Only the last few are kept. */
  keep(block: Block): void {
    this.#kept.delete(block.number);
    this.#kept.set(block.number, block);
    for (const number of this.#kept.keys()) if (this.#kept.size > mostKept) this.#kept.delete(number);
  }

  /** Whether a block that `at` gave is the corpus's last one. It may read the next block, but only once. */
  async isLast(number: number): Promise<boolean> {
    return this.#seen <= number + 1 && (await this.#read(number + 1)) === undefined;
  }

  async close(): Promise<void> {
    this.#kept.clear();
    await Promise.all(this.#readers.splice(0).map(closed));
  }

  /** Undefined when the corpus has fewer blocks. */
  async #read(number: number): Promise<Block | undefined> {
    if (number >= this.#count) return undefined;
    const reader = await this.#readerBefore(number);
    for (;;) {
      const { value, done } = await reader.blocks.next();
      if (done) {
        this.#count = reader.next;
        return undefined;
      }
      reader.next = value.number + 1;
      this.#seen = Math.max(this.#seen, reader.next);
      if (value.number === number) {
        this.#readers.push(reader);
        return value;
      }
    }
  }

  /** Removes the nearest reader before a block from the list, or opens a new one. */
  async #readerBefore(number: number): Promise<Reader> {
    const [nearest] = this.#readers.filter(({ next }) => next <= number).sort((a, b) => b.next - a.next);
    if (nearest) this.#readers.splice(this.#readers.indexOf(nearest), 1);
    while (this.#readers.length >= mostReaders) await closed(this.#readers.shift());
    return nearest ?? { blocks: this.#open(), next: 0 };
  }
}

// A failure to close the file must not fail the blocks that were read.
const closed = async (reader: Reader | undefined): Promise<void> => {
  await reader?.blocks.return(undefined).catch(() => {});
};
