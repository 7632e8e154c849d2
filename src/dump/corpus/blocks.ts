// Cuts tokens into the rows that the model sees. A block holds the rows of one shard. It is gathered before anything is
// computed, so that every write offset in the shard is known beforehand, and a resumed run can compare tokens without
// computing.
import type { CorpusPlace, TokenChunk } from './corpus.js';

/** A state of the reading of a corpus: a place, and what was read before it. */
export interface ReadingPlace {
  readonly place: CorpusPlace;
  /** The number of documents that ended before the place. */
  readonly document: number;
  /** The position in its document of the first token at the place. */
  readonly position: number;
}

/** Where a block begins: `skip` tokens behind a place. */
export interface BlockBegin extends ReadingPlace {
  readonly skip: number;
}

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
  /** Where reading can begin for this block; undefined where it must begin at the start of the corpus. */
  readonly begin?: BlockBegin | undefined;
  /** A byte of a source, and the source, before which the last chunk of the block ends. */
  readonly end?: { readonly source: number; readonly offset: number } | undefined;
}

/** The first block that is made, when the chunks are not from the start of the corpus but from its place. */
export interface FirstBlock {
  readonly number: number;
  readonly begin: BlockBegin;
  /** The number of tokens in the blocks before it. */
  readonly tokensBefore: number;
  /**
   * What the block has before the place: complete rows, and tokens of the next one. Such a block comes without them, and
   * without its beginning: it only shows where the next one begins.
   */
  readonly filled?: Filling | undefined;
}

/** Complete rows of a block, and the tokens of the row behind them. */
export interface Filling {
  readonly rows: number;
  readonly length: number;
}

export interface BlockOptions {
  readonly context: number;
  readonly rowsPerBlock: number;
  /** The most tokens of the corpus that are taken. */
  readonly limit?: number | undefined;
  readonly first?: FirstBlock | undefined;
}

/**
 * Cuts each document into rows of `context` tokens, the last one padded on the right, and groups rows into blocks, in
 * order. All blocks but the last have `rowsPerBlock` rows. `chunks` come several at a time, as `readCorpus` gives them.
 */
export async function* blocksOf(
  chunks: AsyncIterable<Iterable<TokenChunk>>,
  options: BlockOptions,
): AsyncGenerator<Block> {
  const { limit = Number.POSITIVE_INFINITY, first } = options;
  let number = first?.number ?? 0;
  let block = first?.filled && new BlockBuilder(number++, options, first.begin.position, undefined, first.filled);
  let total = first?.tokensBefore ?? 0;
  let document = first?.begin.document ?? 0;
  let position = first?.begin.position ?? 0; // in the document
  let skip = first?.begin.skip ?? 0;
  let before: ReadingPlace | undefined; // the last place
  let since = 0; // tokens behind it
  reading: for await (const group of chunks) {
    for (const { tokens, ends, start, until } of group) {
      if (start) {
        before = { place: start, document, position };
        since = 0;
      }
      let from = Math.min(skip, tokens.length);
      skip -= from;
      position += from;
      const end = Math.min(tokens.length, from + limit - total);
      total += end - from;
      while (from < end) {
        if (block?.isFull) {
          yield block.done();
          block = undefined;
        }
        block ??= new BlockBuilder(number++, options, position, before && { ...before, skip: since + from });
        const added = block.add(tokens, from, end, document);
        block.end = start && until !== undefined ? { source: start.source, offset: until } : undefined;
        from += added;
        position += added;
      }
      since += tokens.length;
      if (total === limit) break reading;
      if (!ends) continue;
      block?.endRow();
      document++;
      position = 0;
    }
  }
  if (block) yield block.done();
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
  readonly #number: number;
  readonly #firstPosition: number;
  readonly #begin: BlockBegin | undefined;
  readonly #context: number;
  readonly #rowsPerBlock: number;
  readonly #tokens: Int32Array;
  readonly #document: Int32Array;
  readonly #lengths: Int32Array;
  #rows = 0; // complete rows
  #length = 0; // of the row that is not complete
  #tokenCount = 0;
  end: Block['end'];

  constructor(
    number: number,
    { context, rowsPerBlock }: BlockOptions,
    firstPosition: number,
    begin: BlockBegin | undefined,
    filled: Filling = { rows: 0, length: 0 },
  ) {
    this.#number = number;
    this.#rows = filled.rows;
    this.#length = filled.length;
    this.#begin = begin;
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
      number: this.#number,
      rows: this.#rows,
      tokens: this.#tokens.subarray(0, size),
      document: this.#document.subarray(0, size),
      lengths: this.#lengths.subarray(0, this.#rows),
      tokenCount: this.#tokenCount,
      firstPosition: this.#firstPosition,
      begin: this.#begin,
      end: this.end,
    };
  }
}
