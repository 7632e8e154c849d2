// Makes single shards of a dump by their numbers. Each is a part of its own with its own manifest. So the folder says
// what is done, whichever process makes the shards, in any order and any number of times, and mergeDumps() makes one
// dump of them.
import pLimit from 'p-limit';
import { openStore } from '../../files/store/open_store.js';
import type { Store } from '../../files/store/store.js';
import type { Block } from '../corpus/blocks.js';
import { type CorpusFile, describeSource, openCorpus } from '../corpus/corpus.js';
import type { CorpusIndex } from '../corpus_index/corpus_index.js';
import { CorpusReader } from '../corpus_index/corpus_reader.js';
import { checkNoIndex, clearIndex, wholeIndex } from '../corpus_index/make_index.js';
import { inJson } from '../format/in_json.js';
import {
  differenceOf,
  type Manifest,
  makeManifest,
  manifestFile,
  readManifests,
  shardNumber,
  whole,
  writeManifest,
} from '../format/manifest.js';
import type { DumpSettings } from '../format/settings.js';
import { BeingWritten, checkFinite, checkRoom, FolderView, prepareFolder } from '../shards/folder.js';
import { type LocalOptions, localOptions, type PlainOptions } from '../shards/options.js';
import { checkRequest, type LoadPermit, prepare } from '../shards/prepare.js';
import { encodeOf, LocalMaker } from '../shards/shard_maker.js';

/** The request for a dump as plain data: files and names. */
export interface ShardedRequest extends PlainOptions {
  readonly model: string;
  readonly corpus: CorpusFile[];
  readonly locations: string[];
  readonly autoencoders?: Record<string, string>;
}

/** A dump that is made shard by shard, as plain data. */
export interface ShardedDump {
  readonly request: ShardedRequest;
  /** The settings of the whole dump, not of a part. */
  readonly settings: DumpSettings;
  /** The number of shards. */
  readonly count: number;
}

/**
 * Loads the model, and plans the shards: makes the index of the corpus in the folder of the dump, or finds it there.
 * @throws Error when the folder holds another dump, or the index of another corpus.
 */
export async function planShards(request: ShardedRequest, local: LocalOptions = {}): Promise<ShardedDump> {
  checkRequest('dump', request);
  const { signal } = local;
  const sources = await openCorpus(request.corpus);
  const prepared = await prepare({ ...request, ...localOptions(local) }, sources.map(describeSource));
  const { settings, rowsPerShard } = prepared.plan;
  const reader = new CorpusReader(sources, { settings, rowsPerShard, encode: encodeOf(prepared.model) }, { signal });
  try {
    const store = openStore(request.out);
    const undo = await checkRoom(store, settings);
    await clearIndex(store);
    const count = reader.header
      ? (await wholeIndex(store, reader, reader.header, { signal })).known
      : await blocksIn(store, reader);
    if (count > 0) return { request, settings, count };
    await undo();
    throw new Error('dump: the corpus has no tokens');
  } finally {
    await reader.close();
    prepared.dispose();
  }
}

/** The number of blocks of a corpus that can have no index, as its tokenizer is not GPT-2's own. */
async function blocksIn(store: Store, reader: CorpusReader): Promise<number> {
  await checkNoIndex(store);
  let count = 0;
  for await (const _ of reader.blocks()) count++;
  return count;
}

export interface SessionOptions extends LocalOptions {
  readonly permit?: LoadPermit;
  /** The time after which a shard lists the folder again, in milliseconds; for tests. */
  readonly listingMilliseconds?: number;
}

export class ShardSession {
  readonly #dump: ShardedDump;
  readonly #store: Store;
  readonly #maker: LocalMaker;
  readonly #reader: CorpusReader;
  readonly #signal: AbortSignal | undefined;
  #index: CorpusIndex | undefined;
  /** A reading of a corpus that can have no index, and the number of its next block. */
  #pass: { readonly blocks: AsyncGenerator<Block>; next: number } | undefined;
  readonly #oneAtATime = pLimit(1);
  readonly #view: FolderView;

  private constructor(
    dump: ShardedDump,
    store: Store,
    maker: LocalMaker,
    reader: CorpusReader,
    { signal, listingMilliseconds }: SessionOptions,
  ) {
    this.#signal = signal;
    this.#view = new FolderView(listingMilliseconds);
    this.#dump = dump;
    this.#store = store;
    this.#maker = maker;
    this.#reader = reader;
    maker.begin({ onStored() {}, async onShard() {} });
  }

  /** @throws Error when the model, an autoencoder or the corpus is not what the dump was planned with. */
  static async open(dump: ShardedDump, local: SessionOptions): Promise<ShardSession> {
    const { request } = dump;
    const { permit, signal } = local;
    checkRequest('dump', request);
    const sources = await openCorpus(request.corpus);
    const store = openStore(request.out);
    const prepared = await prepare({ ...request, ...localOptions(local) }, sources.map(describeSource), permit);
    const maker = new LocalMaker(prepared, { out: store, signal });
    try {
      checkSame(dump.settings, maker.settings);
      return new ShardSession(dump, store, maker, new CorpusReader(sources, maker, { signal }), local);
    } catch (error) {
      await maker.close();
      throw error;
    }
  }

  /**
   * Makes a shard, unless it is there. One is computed at a time; while it is hashed and synced, the next one may
   * begin. A failure affects one shard only: after a rejection the session can make others, and the same one again.
   * @throws NonFiniteError when the request refuses values that are not finite, and the shard has some; RangeError when
   *   the dump has no shard of that number; OtherArithmetic when others are made with another arithmetic, unless that is
   *   allowed; BeingWritten when another process makes it; Error when the disk or the corpus fails, or the corpus does
   *   not end where the dump was planned to.
   */
  async make(number: number): Promise<void> {
    const { count } = this.#dump;
    const { settings } = this.#maker; // the settings found here: those of the plan may come from anywhere
    if (!(Number.isSafeInteger(number) && number >= 0 && number < count)) {
      throw new RangeError(`dump: there is no shard ${inJson(number)} of ${count}: they are numbered from 0`);
    }
    const store = this.#store;
    const part = { ...settings, part: { index: number, count } };
    const { finite = false } = this.#dump.request;
    const merged = await mergedDump(store, settings);
    if (merged) {
      const made = merged.shards.filter(({ file }) => shardNumber(file) === number);
      if (finite) checkFinite(store, made, merged.arithmetic);
      return;
    }
    const folder = await prepareFolder(store, part, this.#view);
    try {
      const there = folder.manifest?.complete ? folder.shards.get(number) : undefined;
      if (there) {
        if (finite) checkFinite(store, [there], folder.manifest?.arithmetic);
        return;
      }
      const arithmetic = await folder.begin(this.#maker.computing);
      const computed = await this.#oneAtATime(async () => this.#maker.make(await this.#blockOf(number)));
      const entry = await computed.whole;
      await folder.check();
      await writeManifest(store, makeManifest(part, arithmetic, [entry], true));
      this.#view.isSettled = true;
    } finally {
      await folder.release();
    }
  }

  /** The block of a shard. The planned shards must hold the whole corpus. */
  async #blockOf(number: number): Promise<Block> {
    const { count } = this.#dump;
    const { header } = this.#reader;
    if (!header) return this.#blockFromStart(number);
    this.#index ??= await wholeIndex(this.#store, this.#reader, header, { signal: this.#signal });
    const { known } = this.#index;
    if (number >= known) {
      await this.#reader.closeFiles();
      throw new Error(`dump: the corpus has no block ${number}: it makes no more than ${known} shards now`);
    }
    if (number === count - 1 && known > count) {
      throw new Error(`dump: planned with ${count} shards, but the corpus makes more`);
    }
    try {
      for await (const block of this.#reader.blocks(number, number + 1)) return block;
    } catch (error) {
      await this.#reader.closeFiles(); // what was wrong with a file may be mended by another one in its place
      throw error;
    }
    throw new Error(`dump: the corpus has no block ${number} any more`);
  }

  /** Without an index, blocks are read in order; a lower number than the last one begins anew. */
  async #blockFromStart(number: number): Promise<Block> {
    if (!this.#pass || this.#pass.next > number) {
      await this.#pass?.blocks.return(undefined);
      this.#pass = { blocks: this.#reader.blocks(), next: 0 };
    }
    const pass = this.#pass;
    for (;;) {
      const { value, done } = await pass.blocks.next();
      if (done) {
        this.#pass = undefined;
        throw new Error(`dump: the corpus has no block ${number}: it makes no more than ${pass.next} shards now`);
      }
      pass.next = value.number + 1;
      if (value.number !== number) continue;
      const { count } = this.#dump;
      if (number < count - 1) return value;
      this.#pass = undefined;
      const { done: isLast } = await pass.blocks.next();
      await pass.blocks.return(undefined);
      if (isLast) return value;
      throw new Error(`dump: planned with ${count} shards, but the corpus makes more`);
    }
  }

  /** Waits until no shard is computed or finished any more, and frees what is loaded. */
  async close(): Promise<void> {
    await this.#oneAtATime(async () => {
      await this.#pass?.blocks.return(undefined);
      await this.#reader.close();
    });
    await this.#maker.close();
  }
}

function checkSame(planned: DumpSettings, found: DumpSettings): void {
  const difference = differenceOf(planned, found);
  if (!difference) return;
  const [label, there, here] = difference;
  throw new Error(`dump: planned with ${label} ${there}, but there is ${here} here`);
}

/** The manifest of the whole dump, if the parts have been merged already. */
async function mergedDump(store: Store, settings: DumpSettings): Promise<Manifest | undefined> {
  const there = await manifestOfWhole(store);
  return there?.complete && differenceOf(there, settings) === undefined ? there : undefined;
}

async function manifestOfWhole(store: Store): Promise<Manifest | undefined> {
  const file = manifestFile(whole);
  const none = new Map<string, Manifest>(); // for a folder that is not there yet
  return (await readManifests(store, [file]).catch(() => none)).get(file);
}

/**
 * Whether the dump is complete, with all of its shards. Creates the folder when it is not there.
 * @throws Error when the folder holds another dump, or this one, begun by dump() and incomplete; BeingWritten when
 *   another process writes the whole dump; NonFiniteError when it has values that are not finite, which the request
 *   refuses.
 */
export async function isComplete({ request, settings, count }: ShardedDump): Promise<boolean> {
  const store = openStore(request.out);
  const there = await manifestOfWhole(store);
  const part = { ...settings, part: there ? whole : { index: 0, count } };
  const folder = await prepareFolder(store, part).catch((error) => {
    if (there || !(error instanceof BeingWritten)) throw error;
    return undefined; // a worker of a queue that forgot its jobs makes the first shard
  });
  if (!folder) return false;
  try {
    if (!there) return false;
    if (request.finite) checkFinite(store, folder.shards.values(), folder.manifest?.arithmetic);
    if (there.complete && folder.shards.size === there.shards.length) return true;
    const lacks = there.complete ? 'lacks shards' : 'was begun by one process';
    throw new Error(`dump: ${store.name} ${lacks}: sonde dump with the same options makes what is missing`);
  } finally {
    await folder.release();
  }
}
