// Makes single shards of a dump by their numbers, each a part of its own with its manifest: so whoever makes them, in
// whatever order and however often, the folder tells what is done, and mergeDumps() makes the whole of it.
import pLimit from 'p-limit';
import { openStore } from '../../files/store/open_store.js';
import type { Store } from '../../files/store/store.js';
import type { Block } from '../corpus/blocks.js';
import { type CorpusFile, describeSource, openCorpus } from '../corpus/corpus.js';
import {
  differenceOf,
  type Manifest,
  makeManifest,
  manifestFile,
  readManifests,
  whole,
  writeManifest,
} from '../format/manifest.js';
import type { DumpSettings } from '../format/settings.js';
import { BlockCursor, corpusBlocks } from '../shards/corpus_blocks.js';
import { prepareFolder } from '../shards/folder.js';
import type { DumpOptions } from '../shards/options.js';
import { checkOptions, type LoadPermit, prepare } from '../shards/prepare.js';
import { LocalMaker } from '../shards/shard_maker.js';

/** What a dump is asked for, as plain data: files and names. */
export type ShardedRequest = Omit<
  DumpOptions,
  | 'model'
  | 'corpus'
  | 'locations'
  | 'autoencoders'
  | 'shard'
  | 'workers'
  | 'device'
  | 'signal'
  | 'onProgress'
  | 'onFetch'
> & {
  readonly model: string;
  readonly corpus: CorpusFile[];
  readonly locations: string[];
  readonly autoencoders?: Record<string, string>;
};

/** A dump that is made shard by shard, as plain data. */
export interface ShardedDump {
  readonly request: ShardedRequest;
  /** `part` is that of the whole. */
  readonly settings: DumpSettings;
  /** Of shards. */
  readonly count: number;
}

/** What a process brings to a dump of its own. */
type Here = Pick<DumpOptions, 'device' | 'signal' | 'onFetch'>;

/** Loads the model, reads the corpus once, and says what there is to do. Writes nothing. */
export async function planShards(request: ShardedRequest, here: Here = {}): Promise<ShardedDump> {
  checkOptions(request);
  const { signal } = here;
  const sources = await openCorpus(request.corpus);
  const prepared = await prepare({ ...request, ...here }, sources.map(describeSource));
  try {
    const { settings, rowsPerShard } = prepared.plan;
    const encode = (text: string) => prepared.model.enc.encode(text);
    let count = 0;
    for await (const _ of corpusBlocks(sources, { settings, rowsPerShard, encode }, { signal })) count++;
    if (count === 0) throw new Error('dump: the corpus has no tokens');
    return { request, settings, count };
  } finally {
    prepared.dispose();
  }
}

export class ShardSession {
  readonly #dump: ShardedDump;
  readonly #store: Store;
  readonly #maker: LocalMaker;
  readonly #cursor: BlockCursor;
  readonly #oneAtATime = pLimit(1);

  private constructor(dump: ShardedDump, store: Store, maker: LocalMaker, cursor: BlockCursor) {
    this.#dump = dump;
    this.#store = store;
    this.#maker = maker;
    this.#cursor = cursor;
    maker.begin({ onStored() {}, async onShard() {} });
  }

  /** @throws Error when the model, an autoencoder or the corpus is not what the dump was planned with. */
  static async open(dump: ShardedDump, here: Here & { readonly permit?: LoadPermit }): Promise<ShardSession> {
    const { request } = dump;
    const { permit, ...own } = here;
    const { signal } = own;
    checkOptions(request);
    const sources = await openCorpus(request.corpus);
    const store = openStore(request.out);
    const prepared = await prepare({ ...request, ...own }, sources.map(describeSource), permit);
    const maker = new LocalMaker(prepared, { out: store, signal });
    try {
      checkSame(dump.settings, maker.settings);
      const open = () => corpusBlocks(sources, maker, { signal });
      return new ShardSession(dump, store, maker, new BlockCursor(open));
    } catch (error) {
      await maker.close();
      throw error;
    }
  }

  /**
   * Makes a shard, unless it is there. One is computed at a time; while it is hashed and synced, the next one may begin.
   * Each stands for itself: after a rejection the session makes others, and the same one when it is asked again.
   * @throws RangeError when the dump has no shard of that number; Error when another process makes it, the disk or the
   *   corpus fails, or the corpus does not end where the dump was planned to.
   */
  async make(number: number): Promise<void> {
    const { count } = this.#dump;
    const { settings } = this.#maker; // worked out here, and not those of the plan, which may come from anywhere
    if (!(Number.isSafeInteger(number) && number >= 0 && number < count)) {
      throw new RangeError(`dump: there is no shard ${JSON.stringify(number)} of ${count}: they are numbered from 0`);
    }
    const store = this.#store;
    const part = { ...settings, part: { index: number, count } };
    if (await isWhole(store, settings)) return;
    const folder = await prepareFolder(store, part);
    let block: Block | undefined;
    try {
      if (folder.manifest?.complete && folder.shards.has(number)) return;
      // A shard without any manifest beside it, should this process be killed just then, would be of no dump.
      if (folder.isNew) await writeManifest(store, makeManifest(part, [], false));
      const made = await this.#oneAtATime(async () => {
        block = await this.#cursor.at(number);
        await this.#checkEnd(number);
        return this.#maker.make(block);
      });
      const entry = await made.whole;
      await folder.check();
      await writeManifest(store, makeManifest(part, [entry], true));
    } catch (error) {
      if (block) this.#cursor.keep(block); // it is likely to be asked for again, in seconds
      throw error;
    } finally {
      await folder.release();
    }
  }

  /** The dump is whole when all of its shards are there: that must be all of the corpus. */
  async #checkEnd(number: number): Promise<void> {
    const { count } = this.#dump;
    if (number < count - 1 || (await this.#cursor.isLast(number))) return;
    throw new Error(`dump: planned with ${count} shards, but the corpus makes more`);
  }

  /** Frees what is loaded, when no shard is being computed or finished any more. */
  async close(): Promise<void> {
    await this.#oneAtATime(() => this.#cursor.close());
    await this.#maker.close();
  }
}

function checkSame(planned: DumpSettings, here: DumpSettings): void {
  const difference = differenceOf(planned, here);
  if (!difference) return;
  const [label, there, found] = difference;
  throw new Error(`dump: planned with ${label} ${there}, but there is ${found} here`);
}

/** Whether the parts have been merged already. */
const isWhole = async (store: Store, settings: DumpSettings): Promise<boolean> => {
  const there = await manifestOfWhole(store);
  return there?.complete === true && differenceOf(there, settings) === undefined;
};

async function manifestOfWhole(store: Store): Promise<Manifest | undefined> {
  const file = manifestFile(whole);
  const none = new Map<string, Manifest>(); // a folder that is not there yet
  return (await readManifests(store, [file]).catch(() => none)).get(file);
}

/**
 * Whether the dump is there, shards and all. Makes the folder when it is not there.
 * @throws Error when the folder holds another dump, or this one made in another way and not whole.
 */
export async function isComplete({ request, settings, count }: ShardedDump): Promise<boolean> {
  const store = openStore(request.out);
  const there = await manifestOfWhole(store);
  const folder = await prepareFolder(store, { ...settings, part: there ? whole : { index: 0, count } });
  try {
    if (!there) return false;
    if (there.complete && folder.shards.size === there.shards.length) return true;
    const lacks = there.complete ? 'lacks shards' : 'was begun by one process';
    throw new Error(`dump: ${store.name} ${lacks}: sonde dump with the same options makes what is missing`);
  } finally {
    await folder.release();
  }
}
