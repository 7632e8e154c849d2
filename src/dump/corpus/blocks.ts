// Cuts tokens into the rows that the model sees. A block holds the rows of one shard. It is gathered before anything is
// computed, so that every write offset in the shard is known beforehand, and a resumed run can compare tokens without
// computing.
import type { TokenChunk } from './corpus.js';

export interface Block {
  /** The number of the block in the corpus, which is also the number of the shard. */
  readonly number: number;
  readonly rows: number;
  /** [rows, context], 0 at padding. */
  readonly tokens: Int32Array;
  /** [rows, context], -1 at padding. */
  readonly document: Int32Array;
  /** [rows], the number of tokens before the padding, from 1 to context. */
  readonly lengths: Int32Array;
  readonly tokenCount: number;
  /** The position of the block's first token in its document, which may have begun in an earlier block. */
  readonly firstPosition: number;
}

export interface BlockOptions {
  readonly context: number;
  readonly rowsPerBlock: number;
  /** The most tokens of the corpus that are taken. */
  readonly limit?: number | undefined;
}

/**
 * Cuts each document into rows of `context` tokens, the last one padded on the right, and groups rows into blocks, in
 * order. All blocks but the last have `rowsPerBlock` rows.
 */
export async function* blocksOf(chunks: AsyncIterable<TokenChunk>, options: BlockOptions): AsyncGenerator<Block> {
  const limit = options.limit ?? Number.POSITIVE_INFINITY;
  let block = new BlockBuilder(0, options, 0);
  let total = 0;
  let document = 0;
  let position = 0; // in the document
  for await (const { tokens, ends } of chunks) {
    const end = Math.min(tokens.length, limit - total);
    for (let from = 0; from < end; ) {
      if (block.isFull) {
        yield block.done();
        block = new BlockBuilder(block.number + 1, options, position);
      }
      const added = block.add(tokens, from, end, document);
      from += added;
      position += added;
    }
    total += end;
    if (total === limit) break;
    if (!ends) continue;
    block.endRow();
    document++;
    position = 0;
  }
  if (!block.isEmpty) yield block.done();
}

/** The position in its document of the token at a flat position, row * context + position in the row. */
export function positionInDocument({ document, lengths, firstPosition }: Block, flat: number): number {
  const context = document.length / lengths.length;
  // A document's rows lie one after the other, and all but the last are full.
  let begin = flat - (flat % context);
  while (begin > 0 && document[begin - context] === document[flat]) begin -= context;
  return flat - begin + (begin === 0 ? firstPosition : 0);
}

class BlockBuilder {
  readonly number: number;
  readonly #firstPosition: number;
  readonly #context: number;
  readonly #rowsPerBlock: number;
  readonly #tokens: Int32Array;
  readonly #document: Int32Array;
  readonly #lengths: Int32Array;
  #rows = 0; // complete rows
  #length = 0; // of the row that is not complete
  #tokenCount = 0;

  constructor(number: number, { context, rowsPerBlock }: BlockOptions, firstPosition: number) {
    this.number = number;
    this.#firstPosition = firstPosition;
    this.#context = context;
    this.#rowsPerBlock = rowsPerBlock;
    this.#tokens = new Int32Array(rowsPerBlock * context);
    this.#document = new Int32Array(rowsPerBlock * context).fill(-1);
    this.#lengths = new Int32Array(rowsPerBlock);
  }

  get isFull(): boolean {
    return this.#rows === this.#rowsPerBlock;
  }

  get isEmpty(): boolean {
    return this.#tokenCount === 0;
  }

  /** Adds tokens [from, end), as many as fit into the row, and returns their number. The block must not be full. */
  add(tokens: ArrayLike<number>, from: number, end: number, document: number): number {
    const count = Math.min(end - from, this.#context - this.#length);
    const start = this.#rows * this.#context + this.#length;
    for (let i = 0; i < count; i++) this.#tokens[start + i] = tokens[from + i] as number;
    this.#document.fill(document, start, start + count);
    this.#tokenCount += count;
    this.#length += count;
    if (this.#length === this.#context) this.endRow();
    return count;
  }

  endRow(): void {
    if (this.#length === 0) return;
    this.#lengths[this.#rows++] = this.#length;
    this.#length = 0;
  }

  done(): Block {
    this.endRow();
    const size = this.#rows * this.#context;
    return {
      number: this.number,
      rows: this.#rows,
      tokens: this.#tokens.subarray(0, size),
      document: this.#document.subarray(0, size),
      lengths: this.#lengths.subarray(0, this.#rows),
      tokenCount: this.#tokenCount,
      firstPosition: this.#firstPosition,
    };
  }
}
