// What a slice of a corpus does to the state of its reading. A slice is tokenised where the state at its start need not
// be known yet: its summary says how the state at its end follows from that.
import type { FirstBlock } from '../corpus/blocks.js';
import type { CorpusPlace, CorpusSection, OpenDocument } from '../corpus/corpus.js';
import { integer, object } from '../format/schema.js';
import type { IndexHeader } from './index_format.js';

/** The state of the reading of a corpus at the beginning of a slice. */
export interface SliceState {
  readonly source: number;
  readonly offset: number;
  /** The number of lines of the source before it; 0 but for lines of JSON. */
  readonly lines: number;
  /** The number of documents that have ended, and of their rows. */
  readonly documents: number;
  readonly rows: number;
  /** The number of tokens of the document that is open. */
  readonly position: number;
  /** The number of all tokens before it. */
  readonly tokens: number;
}

export interface SliceSummary {
  /** Where the next slice begins; behind the last slice, that is the number of sources and 0. */
  readonly source: number;
  readonly offset: number;
  /** The number of the slice's lines in the source in which the next one begins. */
  readonly lines: number;
  /** The number of documents that end in the slice. */
  readonly documents: number;
  /** The number of tokens before the first document's end, all of them where none ends. */
  readonly head: number;
  /** The number of rows of the documents that begin behind it and end in the slice. */
  readonly rows: number;
  /** The number of tokens behind the last document's end. */
  readonly tail: number;
  readonly tokens: number;
}

export const startOfCorpus: SliceState = {
  ...{ source: 0, offset: 0, lines: 0 },
  ...{ documents: 0, rows: 0, position: 0, tokens: 0 },
};

const count = integer(0);

export const readState = object<SliceState>({
  ...{ source: count, offset: count, lines: count },
  ...{ documents: count, rows: count, position: count, tokens: count },
});

export const readSummary = object<SliceSummary>({
  ...{ source: count, offset: count, lines: count },
  ...{ documents: count, head: count, rows: count, tail: count, tokens: count },
});

/** Whether one place comes before another. */
export const isBefore = (a: CorpusPlace, b: CorpusPlace): boolean =>
  a.source < b.source || (a.source === b.source && a.offset < b.offset);

/** The state behind a slice. */
export function stateAfter(before: SliceState, slice: SliceSummary, context: number): SliceState {
  const { source, offset } = slice;
  const lines = slice.lines + (source === before.source ? before.lines : 0);
  const [place, tokens] = [{ source, offset, lines }, before.tokens + slice.tokens];
  const { documents, rows, position } = before;
  const head = position + slice.head;
  if (slice.documents === 0) return { ...place, documents, rows, position: head, tokens };
  return {
    ...place,
    documents: documents + slice.documents,
    rows: rows + Math.ceil(head / context) + slice.rows,
    position: slice.tail,
    tokens,
  };
}

/** The block in which the reading goes on. */
export function blockAt(state: SliceState, { context, rowsPerShard }: IndexHeader): FirstBlock {
  const { source, offset, documents: document, position, tokens } = state;
  const row = state.rows + Math.floor(position / context);
  const [rows, length] = [row % rowsPerShard, position % context];
  const begin = { place: { source, offset }, document, position, skip: 0 };
  return {
    ...{ number: Math.floor(row / rowsPerShard), begin, tokensBefore: tokens },
    ...((rows > 0 || length > 0) && { filled: { rows, length } }),
  };
}

/** Counts what a summary says. */
export class SliceCounter {
  readonly #context: number;
  readonly #open: OpenDocument;
  #documents = 0;
  #head = 0;
  #rows = 0;
  #tail = 0;
  #tokens = 0;

  /** `open` has seen the sections before the slice, or was made for its start. */
  constructor(context: number, open: OpenDocument) {
    this.#context = context;
    this.#open = open;
  }

  add(section: CorpusSection): void {
    const { ends, documentEnds } = section.result;
    let from = 0;
    for (let i = 0; i < ends.length; i++) {
      const end = ends[i] as number;
      this.#add(end - from, documentEnds[i] === 1);
      from = end;
    }
    if (this.#open.endsBehind(section)) this.#add(0, true);
  }

  #add(tokens: number, ends: boolean): void {
    this.#tokens += tokens;
    if (this.#documents === 0) this.#head += tokens;
    else this.#tail += tokens;
    if (!ends) return;
    this.#documents++;
    this.#rows += Math.ceil(this.#tail / this.#context);
    this.#tail = 0;
  }

  summary({ source, offset }: CorpusPlace, lines: number): SliceSummary {
    return {
      ...{ source, offset, lines, documents: this.#documents },
      ...{ head: this.#head, rows: this.#rows, tail: this.#tail, tokens: this.#tokens },
    };
  }
}
