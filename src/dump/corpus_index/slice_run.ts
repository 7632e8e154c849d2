// One pass over slices that lie one after the other: it goes on with the next slice where it can take that, so that a
// process alone reads the corpus once. What is read before the state at the first slice's start is known is held in memory.
import type { Lease } from '../../files/lease.js';
import { type Block, blocksOf } from '../corpus/blocks.js';
import { type CorpusPlace, type CorpusSection, chunksIn, OpenDocument, type TokenChunk } from '../corpus/corpus.js';
import type { CorpusReader } from './corpus_reader.js';
import type { IndexEntry, IndexHeader } from './index_format.js';
import type { SliceEntries } from './slice_files.js';
import { blockAt, isBefore, SliceCounter, type SliceState, type SliceSummary, startOfCorpus } from './slice_state.js';
import type { Slices } from './slices.js';

/** What a run needs of the process that makes it. */
export interface RunHost {
  readonly reader: CorpusReader;
  readonly header: IndexHeader;
  readonly slices: Slices;
  /** The state at the start of a slice, as far as it is known. */
  state(slice: number): SliceState | undefined;
  /** Waits until the state is known. Returns undefined when the index is made in another way meanwhile. */
  waitForState(slice: number): Promise<SliceState | undefined>;
  /** Looks whether other processes have published summaries. */
  lookForStates(): Promise<void>;
  /** The lease on a slice that nobody has and that is not done; undefined for others. */
  takeIfFree(slice: number): Promise<Lease | undefined>;
  publish(slice: number, summary: SliceSummary): Promise<void>;
  /** Keeps and publishes what a slice has, and then releases its lease. */
  finish(slice: number, entries: SliceEntries, lease: Lease): void;
  onBlock(block: Block): void;
}

/** The most slices that are held in memory while the state before them is not known. */
const mostHeld = 3;

/** A slice of the run. */
interface OwnSlice {
  readonly slice: number;
  readonly lease: Lease;
  readonly begin: CorpusPlace;
  /** The number of lines before it in its source, as the sections of this pass count them. */
  readonly lines: number;
  readonly entries: IndexEntry[];
  documents: number;
}

export class SliceRun {
  readonly #host: RunHost;
  readonly #first: number;
  readonly #lease: Lease;
  /** The slices that were entered and are not finished. */
  readonly #own: OwnSlice[] = [];
  /** Where the last of the slices ends, once that is known. */
  #end: CorpusPlace | undefined;
  /** The last place that blocks were made from. */
  #seen: CorpusPlace = startOfCorpus;

  constructor(host: RunHost, first: number, lease: Lease) {
    this.#host = host;
    this.#first = first;
    this.#lease = lease;
  }

  /** Finishes the first slice, and those behind it that could be taken. */
  async run(): Promise<void> {
    await this.#host.lookForStates();
    const { source, offset } = this.#host.state(this.#first) ?? (await this.#host.slices.start(this.#first));
    const begin = { source, offset };
    this.#own.push({ ...newSlice(this.#first, this.#lease), begin, lines: 0 });
    const sections = this.#sections(begin);
    try {
      const held: CorpusSection[] = [];
      while (!this.#host.state(this.#first) && !this.#end) {
        const { value, done } = await sections.next();
        if (done) break;
        held.push({ ...value, request: { ...value.request, bytes: nothing } });
      }
      const state = await this.#host.waitForState(this.#first);
      if (state) await this.#cut(state, this.#chunks(state, held, sections));
    } finally {
      await sections.return(undefined);
      await Promise.all(this.#own.map(({ lease }) => lease.release()));
    }
  }

  /** The sections from the first slice on, with those behind the last one that the run has. */
  async *#sections(from: CorpusPlace): AsyncGenerator<CorpusSection> {
    const { reader, header, slices } = this.#host;
    const open = new OpenDocument(reader.sources, from);
    const newCounter = () => new SliceCounter(header.context, open);
    let counter = newCounter();
    for await (const section of reader.sections(from)) {
      const { index: source, offset, lines } = section.request;
      const place = { source, offset };
      while (!this.#end && slices.canBegin(place) && !isBefore(place, slices.nominal(this.#last.slice + 1))) {
        await this.#leave(counter, place, lines);
        counter = newCounter();
      }
      if (section.result.problem) throw section.result.problem;
      if (!this.#end) counter.add(section);
      yield section;
    }
    while (!this.#end) {
      await this.#leave(counter, { source: reader.sources.length, offset: 0 }, 0);
      counter = newCounter();
    }
  }

  get #last(): OwnSlice {
    return this.#own.at(-1) as OwnSlice;
  }

  /** Publishes the summary of the slice that ends at a place, and takes the next one if it can. */
  async #leave(counter: SliceCounter, place: CorpusPlace, lines: number): Promise<void> {
    const { slice, begin, lines: before } = this.#last;
    await this.#host.publish(slice, counter.summary(place, place.source === begin.source ? lines - before : lines));
    const next = slice + 1;
    const lease = (await this.#mayHold()) ? await this.#host.takeIfFree(next) : undefined;
    if (lease) this.#own.push({ ...newSlice(next, lease), begin: place, lines });
    else this.#end = place;
  }

  async #mayHold(): Promise<boolean> {
    if (this.#host.state(this.#first)) return true;
    await this.#host.lookForStates();
    return this.#host.state(this.#first) !== undefined || this.#own.length < mostHeld;
  }

  /** The chunks of the sections that are held, which are let go, and then of the others. */
  async *#chunks(
    state: SliceState,
    held: CorpusSection[],
    sections: AsyncGenerator<CorpusSection>,
  ): AsyncGenerator<Iterable<TokenChunk>> {
    const open = new OpenDocument(this.#host.reader.sources, state);
    for (;;) {
      const section = held.shift() ?? (await sections.next()).value;
      if (!section) return;
      yield this.#chunksIn(section, open, state);
    }
  }

  *#chunksIn(section: CorpusSection, open: OpenDocument, { source, lines }: SliceState): Generator<TokenChunk> {
    for (const chunk of chunksIn(section, open)) {
      const { start } = chunk;
      this.#seen = start ?? this.#seen;
      const isLater = start?.source !== source || start.lines === undefined || lines === 0;
      yield isLater ? chunk : { ...chunk, start: { ...start, lines: start.lines + lines } };
    }
  }

  async #cut(state: SliceState, chunks: AsyncGenerator<Iterable<TokenChunk>>): Promise<void> {
    const { reader, header, onBlock } = this.#host;
    const { context, rowsPerShard: rowsPerBlock } = header;
    for await (const block of blocksOf(chunks, { context, rowsPerBlock, first: blockAt(state, header) })) {
      const place = block.begin?.place;
      if (place) {
        if (this.#end && !isBefore(place, this.#end)) break;
        this.#finishBefore(place);
        const slice = this.#own[0] as OwnSlice;
        slice.entries.push((await reader.entryOf(block)) as IndexEntry);
        slice.documents = (block.document.findLast((document) => document >= 0) as number) + 1;
        onBlock(block);
      }
      // The next block begins where this one was seen to be whole.
      if (this.#end && !isBefore(this.#seen, this.#end)) break;
    }
    this.#finishBefore({ source: Number.POSITIVE_INFINITY, offset: 0 });
  }

  /** Finishes the slices that end at a place or before it. */
  #finishBefore(place: CorpusPlace): void {
    for (;;) {
      const [own, next] = this.#own;
      const end = next?.begin ?? this.#end;
      if (!own || !end || isBefore(place, end)) return;
      const { slice, lease, entries, documents } = own;
      this.#host.finish(slice, { begin: this.#host.state(slice) as SliceState, entries, documents }, lease);
      this.#own.shift();
    }
  }
}

const newSlice = (slice: number, lease: Lease): Omit<OwnSlice, 'begin' | 'lines'> => ({
  ...{ slice, lease, entries: [], documents: 0 },
});

const nothing = Buffer.from(new ArrayBuffer(0));
