// dump(): passes the corpus, block by block, to a maker of shards, and writes the manifest. While one shard is
// computed, the one before is hashed and synced, and the text of the next one is tokenised.
import { openDevice } from '../engine/device.js';
import { quietly } from '../files/promises.js';
import { openStore } from '../files/store/open_store.js';
import type { Store } from '../files/store/store.js';
import type { Block } from './corpus/blocks.js';
import { corpusBytes, describeSource, openCorpus, type Source } from './corpus/corpus.js';
import { readAhead } from './corpus/read_ahead.js';
import { bytesOf, makeManifest, type ShardEntry, shardFile, totalsOf, writeManifest } from './format/manifest.js';
import { type NonFiniteTotal, totalNonFinite } from './format/non_finite.js';
import type { DumpSettings } from './format/settings.js';
import { ShardReader } from './read/shard_reader.js';
import { corpusBlocks } from './shards/corpus_blocks.js';
import type { DumpPlan } from './shards/dump_plan.js';
import { type Computing, checkFinite, type PreparedFolder, prepareFolder } from './shards/folder.js';
import type { DumpOptions } from './shards/options.js';
import { checkRequest, prepare } from './shards/prepare.js';
import { ProgressMeter } from './shards/progress.js';
import { LocalMaker, type ShardMaker } from './shards/shard_maker.js';
import { WorkerPool } from './workers/workers.js';

export interface DumpResult {
  readonly out: string;
  readonly rows: number;
  readonly tokens: number;
  readonly shards: number;
  /** The bytes of all files of the shards. */
  readonly bytes: number;
  /** Shards that this call wrote; 0 when the dump was complete already. */
  readonly written: number;
  /**
   * How many of the stored values are not finite, by location, over all shards, those of earlier calls included; empty
   * where all are finite. Shards of versions of this library that did not count have none: `Dump.verify` counts again.
   */
  readonly nonFinite: Readonly<Record<string, NonFiniteTotal>>;
}

/** A dump in progress. */
interface Run {
  readonly options: DumpOptions;
  readonly sources: readonly Source[];
  readonly maker: ShardMaker;
  readonly store: Store;
  readonly folder: PreparedFolder;
  readonly manifestWriter: ManifestWriter;
  readonly meter: ProgressMeter;
}

/**
 * Runs a corpus through the model and stores what `locations` names. The same call continues one that was interrupted,
 * with any number of workers or none, and the finished folder is the same, byte for byte. See the README for the
 * layout. Values that are not finite, or are too large for the dtype, are stored as such and counted; with `finite`, the
 * first is an error. int8 cannot hold them: there, they always are one.
 * @throws Error before anything is computed when a file, location, autoencoder or option is wrong, when the folder
 *   holds another dump, or when another process writes it; later for a broken corpus or disk, or a worker that was
 *   lost, and RangeError for a value that must be finite: the first of the first shard that has one. Shards that are
 *   finished stay valid.
 */
export async function dump(options: DumpOptions): Promise<DumpResult> {
  checkRequest('dump', options);
  const { out, signal, workers } = options;
  signal?.throwIfAborted();
  const store = openStore(out);
  const sources = await openCorpus(options.corpus);
  const corpus = sources.map(describeSource);
  const maker: ShardMaker = workers
    ? await WorkerPool.start(options, corpus)
    : new LocalMaker(await prepare(options, corpus), { out: store, signal });
  let folder: PreparedFolder | undefined;
  let manifestWriter: ManifestWriter | undefined;
  try {
    const { limit, part } = maker.settings;
    folder = await prepareFolder(store, maker.settings);
    if (options.finite) checkFinite(store, folder.shards.values(), folder.manifest?.arithmetic);
    manifestWriter = new ManifestWriter(store, maker.settings, folder);
    const meter = new ProgressMeter({ corpusBytes: corpusBytes(sources), limit, parts: part.count });
    return await runDump({ options, sources, maker, store, folder, manifestWriter, meter });
  } finally {
    await maker.close(); // before the lease of the folder is released
    const removeFolder = (await manifestWriter?.settle()) ?? (async () => {});
    await folder?.release();
    await removeFolder();
  }
}

/** The plan that `dump(options)` would carry out. Loads the model and the autoencoders; writes nothing. */
export async function planOf(options: DumpOptions): Promise<DumpPlan> {
  checkRequest('planOf', options);
  const sources = await openCorpus(options.corpus, 'planOf');
  const [worker] = options.workers ?? [];
  const here = worker ? { ...options, device: openDevice(worker.device) } : options;
  const { plan, dispose } = await prepare(here, sources.map(describeSource));
  dispose();
  return plan;
}

/** The complete shards, and the manifest that lists them. */
class ManifestWriter {
  readonly shards: Map<number, ShardEntry>;
  readonly #store: Store;
  readonly #settings: DumpSettings;
  readonly #folder: PreparedFolder;
  #listed: number;
  #arithmetic: readonly string[] | undefined; // undefined until the manifest may be written
  #isGivenUp = false;
  #saving: Promise<void> = Promise.resolve();

  constructor(store: Store, settings: DumpSettings, folder: PreparedFolder) {
    this.#store = store;
    this.#settings = settings;
    this.#folder = folder;
    this.shards = new Map(folder.shards);
    this.#listed = folder.manifest?.shards.length ?? -1;
  }

  /** To be called before the first shard is computed. See PreparedFolder. */
  async begin(computing: Computing): Promise<void> {
    if (this.#arithmetic) return;
    this.#arithmetic = await this.#folder.begin(computing);
    this.#listed = this.shards.size;
  }

  /** For a corpus without tokens: nothing must stay of a dump that has no shards. */
  giveUp(): void {
    this.#isGivenUp = true;
  }

  add(number: number, entry: ShardEntry): Promise<void> {
    this.shards.set(number, entry);
    this.#saving = quietly(this.#saving.then(() => this.save(false)));
    return this.#saving;
  }

  async save(complete: boolean): Promise<void> {
    await this.#folder.check();
    const entries = [...this.shards].sort(([a], [b]) => a - b).map(([, entry]) => entry);
    await writeManifest(this.#store, makeManifest(this.#settings, this.#arithmetic ?? [], entries, complete));
    this.#listed = entries.length;
  }

  /**
   * Ends a run. Tries once more to list all shards: the disk may have been full of unfinished ones, which are gone now.
   * For a corpus without tokens, removes the manifest and returns a function that removes the folder, if the run made
   * it.
   */
  async settle(): Promise<(() => Promise<void>) | undefined> {
    await this.#saving.catch(() => {});
    // A failure to clean up must not hide the error of the run.
    if (this.#isGivenUp) return this.#folder.undo().catch(() => undefined);
    if (this.#arithmetic && this.#listed !== this.shards.size) await this.save(false).catch(() => {});
    return undefined;
  }
}

async function runDump(run: Run): Promise<DumpResult> {
  const { options, maker, folder, manifestWriter, meter } = run;
  const { settings } = maker;
  const { out, signal } = options;
  const report = () => options.onProgress?.(meter.now());
  const begin = () => manifestWriter.begin(maker.computing);
  if (!folder.isDone) await begin();

  let written = 0;
  maker.begin({
    onStored(tokens) {
      meter.computed += tokens;
      report();
    },
    async onShard(number, entry) {
      await manifestWriter.add(number, entry);
      meter.shards++;
      written++;
      report();
    },
  });
  let blocks = 0;
  const reading = new AbortController(); // aborted when the run ends, also with an error
  const stop = signal ? AbortSignal.any([signal, reading.signal]) : reading.signal;
  try {
    for await (const block of readAhead(gather(run, stop), signal)) {
      blocks++;
      if (block.number % settings.part.count !== settings.part.index) continue;
      const entry = folder.shards.get(block.number);
      if (entry) {
        await checkTokens(run, entry, block);
        meter.found += block.tokenCount;
        meter.shards++;
      } else {
        await begin();
        await maker.take(block);
      }
    }
    await maker.finish();
  } finally {
    reading.abort();
  }
  if (blocks === 0) manifestWriter.giveUp();
  checkEnd(out, folder, blocks);
  if (written > 0 || !folder.manifest?.complete) await manifestWriter.save(true);
  const entries = [...manifestWriter.shards.values()];
  return {
    out,
    ...totalsOf(entries),
    shards: entries.length,
    bytes: bytesOf(entries),
    written,
    nonFinite: totalNonFinite(settings, entries),
  };
}

function checkEnd(out: string, { shards }: PreparedFolder, blocks: number): void {
  if (blocks === 0) throw new Error('dump: the corpus has no tokens');
  const beyond = [...shards.keys()].find((number) => number >= blocks);
  if (beyond === undefined) return;
  throw new Error(`dump: ${out} holds ${shardFile(beyond)}, but the corpus now makes no more than ${blocks} shards`);
}

// ---- the corpus

async function* gather({ maker, sources, meter }: Run, signal: AbortSignal): AsyncGenerator<Block> {
  const { part } = maker.settings;
  const onBytes = (bytes: number) => {
    meter.bytesRead += bytes;
  };
  for await (const block of corpusBlocks(sources, maker, { onBytes, signal })) {
    meter.corpusTokens += block.tokenCount;
    if (block.number % part.count === part.index) meter.gathered += block.tokenCount;
    yield block;
  }
  meter.allGathered = true;
}

async function checkTokens({ maker, store }: Run, entry: ShardEntry, block: Block): Promise<void> {
  const { settings } = maker;
  const { context } = settings;
  const shard = await ShardReader.open(store, settings, entry);
  try {
    const there = await shard.rows(0, entry.rows);
    const at = firstDifference(there.tokens, block.tokens, there.document, block.document);
    if (at < 0) return;
    const position = `row ${Math.floor(at / context)}, position ${at % context}`;
    const [old, now] = [shown(there.tokens, there.document, at), shown(block.tokens, block.document, at)];
    throw new Error(
      `dump: ${shard.path} is of another corpus: at ${position} it has ${old}, and the corpus has ${now}`,
    );
  } finally {
    await shard.close();
  }
}

function firstDifference(a: Int32Array, b: Int32Array, inA: Int32Array, inB: Int32Array): number {
  for (let i = 0; i < Math.max(a.length, b.length); i++) if (a[i] !== b[i] || inA[i] !== inB[i]) return i;
  return -1;
}

const shown = (tokens: Int32Array, document: Int32Array, at: number): string =>
  at >= tokens.length || document[at] === -1 ? 'no token' : `token ${tokens[at]} of document ${document[at]}`;
