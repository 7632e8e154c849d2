// Reads the corpus as blocks, one for each shard of a dump: all of them in order, or those from a shard on that the
// index of the corpus knows. A block that the index knows must be what it says.
import { gpt2Tokenizer } from '../../files/tokenizer/tokenizer.js';
import { type Block, blocksOf } from '../corpus/blocks.js';
import {
  ChangedSize,
  type CorpusPlace,
  type CorpusSection,
  isSeekable,
  nominalStart,
  type ReadOptions,
  readCorpus,
  readSections,
  type Source,
  sectionStart,
  type TokenChunk,
  unreadable,
} from '../corpus/corpus.js';
import { OpenFiles } from '../corpus/open_files.js';
import { sectionBytes } from '../corpus/sections.js';
import { TokenizerThreads } from '../corpus/tokenizer_threads.js';
import type { DumpSettings } from '../format/settings.js';
import type { CorpusIndex } from './corpus_index.js';
import {
  blockDigest,
  entryOf,
  firstBlockOf,
  headerOf,
  type IndexEntry,
  type IndexHeader,
  sampleDigest,
  sampleRanges,
} from './index_format.js';
import { SourceBytes } from './source_bytes.js';

/** The settings and the tokenizer with which a corpus is cut into blocks. */
export interface CutOptions {
  readonly settings: Pick<DumpSettings, 'context' | 'limit' | 'tokenizer' | 'corpus'> & {
    readonly model: Pick<DumpSettings['model'], 'vocabulary'>;
  };
  readonly rowsPerShard: number;
  readonly encode: (text: string) => number[];
}

export interface ReaderOptions extends Pick<ReadOptions, 'onBytes' | 'signal' | 'sectionBytes'> {
  /** The threads that text is tokenised on; as `TokenizerThreads` when left out. */
  readonly threads?: TokenizerThreads;
}

export class CorpusReader {
  /** What an index of the corpus is of; undefined where there can be none. */
  readonly header: IndexHeader | undefined;
  readonly sources: readonly Source[];
  readonly bytes: SourceBytes;
  readonly #cut: CutOptions;
  readonly #options: ReaderOptions;
  readonly #threads: TokenizerThreads;
  readonly #files = new OpenFiles();
  #index: CorpusIndex | undefined;

  constructor(sources: readonly Source[], cut: CutOptions, options: ReaderOptions = {}) {
    this.sources = sources;
    this.bytes = new SourceBytes(sources);
    this.#cut = cut;
    this.#options = options;
    this.#threads = options.threads ?? new TokenizerThreads();
    const { settings, rowsPerShard } = cut;
    const { vocabulary } = settings.model;
    if (this.#isKnown()) this.header = headerOf({ ...settings, vocabulary, rowsPerShard });
  }

  // A tokenizer of the user's own may give other tokens when it is given the text in other pieces.
  #isKnown(): boolean {
    const isText = this.sources.some(({ kind }) => kind !== 'tokens');
    return isSeekable(this.sources) && (!isText || this.#cut.encode === gpt2Tokenizer().encode);
  }

  /** The index that blocks are looked up in. It may grow. */
  use(index: CorpusIndex): void {
    this.#index = index;
  }

  /** The blocks of shards [from, to). Shard `from` must be 0, or in the index. */
  async *blocks(from = 0, to = Number.POSITIVE_INFINITY): AsyncGenerator<Block> {
    if (from >= to) return;
    const { settings, rowsPerShard } = this.#cut;
    const index = this.#index;
    const entry = from === 0 ? undefined : this.#entry(from);
    const first = entry && firstBlockOf(entry, (index as CorpusIndex).tokensBefore(from));
    const chunks = this.#chunks(this.#reading, first?.begin.place ?? { source: 0, offset: 0 }, index?.entry(to));
    const cut = { context: settings.context, rowsPerBlock: rowsPerShard, limit: settings.limit ?? undefined, first };
    const known = Math.min(to, index?.known ?? 0);
    let next = from;
    try {
      for await (const block of blocksOf(chunks, cut)) {
        this.#options.signal?.throwIfAborted(); // what is left may have been read already
        this.#check(block);
        next = block.number + 1;
        yield block;
        if (next === to) return;
      }
    } catch (error) {
      if (!(error instanceof ChangedSize) || next >= known) throw error;
      throw this.#changed(index?.entry(next) as IndexEntry, `has other bytes: it ${error.what}`);
    }
    if (next < known) throw this.#changed(index?.entry(next) as IndexEntry, `ends before shard ${next}`);
  }

  get #reading(): ReadOptions {
    const { settings, encode } = this.#cut;
    const { vocabulary: nVocab } = settings.model;
    return { ...this.#options, ...{ encode, nVocab, files: this.#files, threads: this.#threads } };
  }

  /** The sections of the corpus from the beginning of one of them on. */
  sections(from: CorpusPlace): AsyncGenerator<CorpusSection> {
    return readSections(this.sources, this.#reading, { from });
  }

  /** The nominal place of a section at a byte of a file or after it, which may lie behind the file's end. */
  nominalStart(source: number, at: number): number {
    return nominalStart(this.sources[source] as Source, at, this.#options.sectionBytes ?? sectionBytes);
  }

  /** Where the first section begins at a nominal place or after it; undefined where the file has none. */
  sectionStart({ source, offset }: CorpusPlace): Promise<number | undefined> {
    return sectionStart(this.sources[source] as Source, offset, this.#files);
  }

  #entry(shard: number): IndexEntry {
    const entry = this.#index?.entry(shard);
    if (entry) return entry;
    throw new Error(
      `dump: the corpus has no block ${shard}: it makes no more than ${this.#index?.known ?? 0} shards now`,
    );
  }

  /**
   * The chunks from a place on, up to a shard if it is given: to the place from which that one is read, and then bit by
   * bit, as the shard before ends a little behind it.
   */
  async *#chunks(
    reading: ReadOptions,
    from: CorpusPlace,
    end: IndexEntry | undefined,
  ): AsyncGenerator<Iterable<TokenChunk>> {
    if (!end) return yield* readCorpus(this.sources, reading, { from });
    const { source, offset, lines } = end;
    const isBehind = source > from.source || offset > from.offset;
    if (isBehind) yield* readCorpus(this.sources, reading, { from, until: { source, offset } });
    const place = isBehind ? { source, offset, ...(lines !== undefined && { lines }) } : from;
    const { threads, ...alone } = reading;
    yield* readCorpus(this.sources, { ...alone, sectionBytes: 2 ** 14 }, { from: place });
  }

  /** @throws Error when the index says that a block is another one. */
  #check(block: Block): void {
    const entry = this.#index?.entry(block.number);
    if (!entry || (entry.tokens === block.tokenCount && entry.digest === blockDigest(block))) return;
    throw this.#changed(entry, `has other tokens in shard ${block.number}`);
  }

  #changed({ shard, source, offset }: IndexEntry, what: string): Error {
    const [name, last] = [source, this.#index?.entry(shard + 1)?.source ?? this.sources.length - 1].map(
      (i) => this.sources[i]?.path,
    );
    const files = name === last ? `${name}, from byte ${offset} on,` : `${name}, or a file behind it up to ${last},`;
    return new Error(
      `dump: the corpus has changed since its index was made: ${files} ${what}. Put back what was there, or begin ` +
        'again in another folder, or, where no shard is made yet, in this one without its index.jsonl',
    );
  }

  /** The entry of a block; undefined for one whose beginning is not known. */
  async entryOf(block: Block): Promise<IndexEntry | undefined> {
    const { begin, end } = block;
    if (!begin) return undefined;
    const { source, offset, character = 0 } = begin.place;
    const from = this.bytes.before({ source, offset: offset + character });
    const entry = entryOf(block, begin, end ? Math.max(1, this.bytes.before(end) - from) : 0);
    return { ...entry, sample: await this.sampleOf(entry) };
  }

  /** The digest of some of the bytes of the corpus that a shard is made from. */
  async sampleOf({ source, offset, character = 0, bytes }: Omit<IndexEntry, 'sample'>): Promise<string> {
    const begin = this.bytes.before({ source, offset: offset + character });
    const pieces: Buffer[] = [];
    for (const { from, to, files } of sampleRanges(bytes)) {
      let at = begin + from;
      for (let left = files; left > 0 && at < Math.min(begin + to, this.bytes.total); left--) {
        const place = this.bytes.at(at);
        const end = Math.min(place.offset + begin + to - at, this.bytes.sizeOf(place.source));
        pieces.push(await this.#bytesIn(place.source, place.offset, end));
        at += end - place.offset;
      }
    }
    return sampleDigest(pieces);
  }

  async #bytesIn(source: number, from: number, to: number): Promise<Buffer> {
    const path = this.sources[source]?.path ?? '';
    return this.#files.bytesIn(path, { from, to }).catch((cause) => {
      throw unreadable(path, cause);
    });
  }

  /** Closes the files that stay open between readings. */
  async closeFiles(): Promise<void> {
    await this.#files.leave();
  }

  async close(): Promise<void> {
    await Promise.all([this.#files.close(), this.#threads.close()]);
  }
}
