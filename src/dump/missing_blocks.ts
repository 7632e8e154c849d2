// Finds the shards that a run has to make, and their blocks. Shards that the folder has are compared with the corpus:
// where the index knows a shard, a few kilobytes of it and of the corpus are read, and else all of its tokens.
import type { Store } from '../files/store/store.js';
import type { Block } from './corpus/blocks.js';
import type { CorpusIndex } from './corpus_index/corpus_index.js';
import type { CorpusReader } from './corpus_index/corpus_reader.js';
import { type IndexEntry, type RowTokens, rowDigest } from './corpus_index/index_format.js';
import { IndexRecorder } from './corpus_index/make_index.js';
import { forEachAtOnce } from './format/disk.js';
import type { ShardEntry } from './format/manifest.js';
import type { DumpSettings } from './format/settings.js';
import { ShardReader } from './read/shard_reader.js';

export interface MissingOptions {
  readonly store: Store;
  readonly settings: DumpSettings;
  readonly reader: CorpusReader;
  /** The index that the reader uses, which grows as the corpus is read; undefined where there can be none. */
  readonly index: CorpusIndex | undefined;
  /** The shards that the folder has, by number. */
  readonly there: ReadonlyMap<number, ShardEntry>;
  /** Called with the tokens of each shard that is there, and whether its block was read. */
  readonly onFound: (tokens: number, wasRead: boolean) => void;
  /** Called with the tokens of each block that was read, and whether it is one of this part. */
  readonly onRead: (tokens: number, isOwn: boolean) => void;
}

export class MissingBlocks {
  readonly #options: MissingOptions;
  /** The number of shards of the whole corpus, those of other parts included, as far as it is known. */
  count = 0;

  constructor(options: MissingOptions) {
    this.#options = options;
  }

  /**
   * The blocks of this part's shards that the folder lacks, in order.
   * @throws Error when one that it has is of another corpus, or when the corpus is not what its index says.
   */
  async *blocks(): AsyncGenerator<Block> {
    const { index, there, reader, onRead } = this.#options;
    const known = index?.known ?? 0;
    this.count = known;
    const own = this.#ownBelow(known);
    for (let from = 0; from < own.length; ) {
      const [number, isThere] = [own[from] as number, there.has(own[from] as number)];
      let end = from + 1;
      while (end < own.length && there.has(own[end] as number) === isThere) end++;
      const run = own.slice(from, end);
      from += run.length;
      if (isThere) await this.#checkAll(run);
      else if (this.#isWhole) yield* this.#read(number, number + run.length);
      else for (const n of run) yield* this.#read(n, n + 1);
    }
    if (index?.isComplete) return;
    const recorder = index && new IndexRecorder(index, reader);
    for await (const block of reader.blocks(Math.max(0, known - 1))) {
      await recorder?.add(block);
      if (block.number < known) continue;
      this.count = block.number + 1;
      const isOwn = this.#isOwn(block.number);
      onRead(block.tokenCount, isOwn);
      const entry = isOwn ? there.get(block.number) : undefined;
      if (entry) await this.#compare(entry, block);
      else if (isOwn) yield block;
    }
    recorder?.end();
  }

  /** The tokens of this part's shards, if the whole corpus is known. */
  get tokens(): number | undefined {
    const { index } = this.#options;
    if (!index?.isComplete) return undefined;
    return this.#ownBelow(index.known).reduce((sum, number) => sum + (index.entry(number) as IndexEntry).tokens, 0);
  }

  get #isWhole(): boolean {
    return this.#options.settings.part.count === 1;
  }

  #isOwn(number: number): boolean {
    const { index, count } = this.#options.settings.part;
    return number % count === index;
  }

  #ownBelow(end: number): number[] {
    const { index, count } = this.#options.settings.part;
    return Array.from({ length: Math.max(0, Math.ceil((end - index) / count)) }, (_, i) => index + i * count);
  }

  async *#read(from: number, to: number): AsyncGenerator<Block> {
    for await (const block of this.#options.reader.blocks(from, to)) {
      this.#options.onRead(block.tokenCount, true);
      await this.#refresh(block.number);
      yield block;
    }
  }

  /** Puts the sample of a shard right whose text is as it was, where what lies behind it has changed. */
  async #refresh(number: number): Promise<void> {
    const { index, reader } = this.#options;
    const entry = index?.entry(number);
    const sample = entry && (await reader.sampleOf(entry));
    if (sample !== undefined && sample !== entry?.sample) index?.refresh(number, sample);
  }

  async #checkAll(numbers: readonly number[]): Promise<void> {
    const others: number[] = [];
    await forEachAtOnce(numbers, async (number) => {
      if (!(await this.#isAsIndexed(number))) others.push(number);
      else this.#options.onFound(this.#entry(number).tokens, false);
    });
    for (const number of others.sort((a, b) => a - b)) {
      for await (const block of this.#options.reader.blocks(number, number + 1)) {
        await this.#compare(this.#entry(number), block, false);
      }
      await this.#refresh(number);
    }
  }

  #entry(number: number): ShardEntry {
    return this.#options.there.get(number) as ShardEntry;
  }

  /** Whether a shard and the corpus begin as the index says, and the shard ends so. */
  async #isAsIndexed(number: number): Promise<boolean> {
    const { store, settings, reader, index } = this.#options;
    const [entry, expected] = [this.#entry(number), (index as CorpusIndex).entry(number) as IndexEntry];
    if (entry.rows !== expected.rows || entry.tokens !== expected.tokens) return false;
    if ((await reader.sampleOf(expected)) !== expected.sample) return false;
    const shard = await ShardReader.open(store, settings, entry);
    try {
      const [first, last] = [await shard.rows(0, 1), await shard.rows(entry.rows - 1, entry.rows)];
      return rowDigest(first) === expected.first && rowDigest(last) === expected.last;
    } finally {
      await shard.close();
    }
  }

  /** @throws Error when a shard has other tokens than its block. `wasRead` says whether the block was counted. */
  async #compare(entry: ShardEntry, block: Block, wasRead = true): Promise<void> {
    const { store, settings, onFound } = this.#options;
    const shard = await ShardReader.open(store, settings, entry);
    try {
      checkTokens(shard, await shard.rows(0, entry.rows), block, settings.context);
    } finally {
      await shard.close();
    }
    onFound(block.tokenCount, wasRead);
  }
}

function checkTokens({ path }: ShardReader, there: RowTokens, now: RowTokens, context: number): void {
  const at = firstDifference(there, now);
  if (at < 0) return;
  const position = `row ${Math.floor(at / context)}, position ${at % context}`;
  throw new Error(
    `dump: ${path} is of another corpus: at ${position} it has ${shown(there, at)}, and the corpus has ${shown(now, at)}`,
  );
}

function firstDifference(a: RowTokens, b: RowTokens): number {
  const length = Math.max(a.tokens.length, b.tokens.length);
  for (let i = 0; i < length; i++) if (a.tokens[i] !== b.tokens[i] || a.document[i] !== b.document[i]) return i;
  return -1;
}

const shown = ({ tokens, document }: RowTokens, at: number): string =>
  at >= tokens.length || document[at] === -1 ? 'no token' : `token ${tokens[at]} of document ${document[at]}`;
