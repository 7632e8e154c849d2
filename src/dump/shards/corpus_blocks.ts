// The corpus as the blocks of a dump's shards.
import { type Block, blocksOf } from '../corpus/blocks.js';
import { readCorpus, type Source } from '../corpus/corpus.js';
import type { DumpSettings } from '../format/settings.js';

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

/** Of the corpus at a time: each holds an open file, and the block that it gave last. */
const mostReaders = 4;
/** Blocks that are kept for another attempt. */
const mostKept = 2;

/** Reads the corpus from its start. */
interface Reader {
  readonly blocks: AsyncGenerator<Block>;
  /** The number of the block that it gives next. */
  next: number;
}

/**
 * Gives blocks by their number, one at a time, in any order. Several readers stand at different places of the corpus, so
 * that a number that falls, as that of a shard that is made again, does not lose the place of those that rise.
 */
export class BlockCursor {
  readonly #open: () => AsyncGenerator<Block>;
  /** The one that was used last is the last. */
  readonly #readers: Reader[] = [];
  readonly #kept = new Map<number, Block>();
  /** Blocks that the corpus has at least. */
  #seen = 0;
  /** Of blocks, once a reader came to the end. */
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

  /** Keeps a block, so that `at` gives it once more without reading. The last few are kept. */
  keep(block: Block): void {
    this.#kept.delete(block.number);
    this.#kept.set(block.number, block);
    for (const number of this.#kept.keys()) if (this.#kept.size > mostKept) this.#kept.delete(number);
  }

  /** Whether a block that `at` gave is the corpus's last one. Reads the one after it at most, and that only once. */
  async isLast(number: number): Promise<boolean> {
    return this.#seen <= number + 1 && (await this.#read(number + 1)) === undefined;
  }

  async close(): Promise<void> {
    this.#kept.clear();
    await Promise.all(this.#readers.splice(0).map(closed));
  }

  /** Undefined when the corpus ends before. */
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

  /** Takes out the reader with the shortest way to a block, or a new one. */
  async #readerBefore(number: number): Promise<Reader> {
    const [nearest] = this.#readers.filter(({ next }) => next <= number).sort((a, b) => b.next - a.next);
    if (nearest) this.#readers.splice(this.#readers.indexOf(nearest), 1);
    while (this.#readers.length >= mostReaders) await closed(this.#readers.shift());
    return nearest ?? { blocks: this.#open(), next: 0 };
  }
}

// What it read is there already: whether its file can be closed is not to fail others.
const closed = async (reader: Reader | undefined): Promise<void> => {
  await reader?.blocks.return(undefined).catch(() => {});
};
