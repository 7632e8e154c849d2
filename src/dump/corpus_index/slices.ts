// The slices of a corpus, which several processes index at the same time. They follow from the sources and from what the
// index is of, so that each process finds the same ones.
import type { CorpusPlace } from '../corpus/corpus.js';
import type { CorpusReader } from './corpus_reader.js';
import type { IndexHeader } from './index_format.js';

/** The fewest bytes of a slice: they are tokenised in less than a second. */
const leastBytes = 2 ** 24;

/** A process reads on behind its slices to the end of a shard, so a slice is as large as several. */
const shardsPerSlice = 4;
const bytesPerToken = 4;

/** More slices than that do not share the work better, but a process holds the tokens of up to three in memory. */
const manySlices = 512;
const manyBytes = 2 ** 26;

/** Slices have files in the folder. */
const mostSlices = 4096;

export class Slices {
  /** 1 where the corpus is not divided. */
  readonly count: number;
  readonly #reader: CorpusReader;
  /** With a limit, nobody knows where the index ends, and the corpus is not divided. */
  constructor(reader: CorpusReader, { context, rowsPerShard, limit }: IndexHeader, least = leastBytes) {
    this.#reader = reader;
    const shards = shardsPerSlice * bytesPerToken * context * rowsPerShard;
    const size = Math.max(least, shards, Math.min(manyBytes, this.bytes / manySlices), this.bytes / mostSlices);
    this.count = limit === null ? Math.max(1, Math.floor(this.bytes / size)) : 1;
  }

  get bytes(): number {
    return this.#reader.bytes.total;
  }

  /** The first place that is not before the slice. A section that begins there or later is not of the slice before. */
  nominal(slice: number): CorpusPlace {
    const { bytes, sources } = this.#reader;
    const { source, offset: within } = bytes.at(Math.floor((slice * bytes.total) / this.count));
    if (source === sources.length) return { source, offset: 0 };
    if (within === 0) return { source: bytes.firstBeside(source), offset: 0 };
    const offset = this.#reader.nominalStart(source, within);
    return offset < bytes.sizeOf(source) ? { source, offset } : { source: source + 1, offset: 0 };
  }

  /** Where a slice begins: with the first section at its nominal place or behind it. */
  async start(slice: number): Promise<CorpusPlace> {
    const { source, offset } = this.nominal(slice);
    if (offset === 0) return { source, offset };
    const found = await this.#reader.sectionStart({ source, offset });
    return found === undefined ? { source: source + 1, offset: 0 } : { source, offset: found };
  }

  /**
   * Whether a section may be the first of a slice. Where a file ends with a section, another one may follow it that is
   * empty.
   */
  canBegin({ source, offset }: CorpusPlace): boolean {
    return offset === 0 || offset < this.#reader.bytes.sizeOf(source);
  }
}
