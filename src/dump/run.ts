// dump(): passes the corpus, block by block, to a maker of shards, and writes the manifest. While one shard is
// computed, the one before is hashed and synced, and the text of the next one is tokenised.
import { openDevice } from '../engine/device.js';
import { openStore } from '../files/store/open_store.js';
import type { Store } from '../files/store/store.js';
import { corpusBytes, describeSource, openCorpus } from './corpus/corpus.js';
import { readAhead } from './corpus/read_ahead.js';
import { type CorpusIndex, IndexWriter, readIndex } from './corpus_index/corpus_index.js';
import { CorpusReader } from './corpus_index/corpus_reader.js';
import { checkNoIndex, clearIndex, wholeIndex } from './corpus_index/make_index.js';
import { bytesOf, shardFile, totalsOf } from './format/manifest.js';
import { type NonFiniteTotal, totalNonFinite } from './format/non_finite.js';
import { MissingBlocks } from './missing_blocks.js';
import type { DumpPlan } from './shards/dump_plan.js';
import { checkFinite, type PreparedFolder, prepareFolder } from './shards/folder.js';
import { ManifestWriter } from './shards/manifest_writer.js';
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
  readonly maker: ShardMaker;
  readonly store: Store;
  readonly folder: PreparedFolder;
  readonly manifestWriter: ManifestWriter;
  readonly meter: ProgressMeter;
  readonly reader: CorpusReader;
  /** The index of the corpus, which grows as the corpus is read, and its file; undefined where there can be none. */
  readonly indexed: { readonly index: CorpusIndex; readonly writer: IndexWriter } | undefined;
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
  let indexed: Run['indexed'];
  const { limit, part } = maker.settings;
  const meter = new ProgressMeter({ corpusBytes: corpusBytes(sources), limit, parts: part.count });
  const reading = new AbortController(); // aborted when the run ends, also with an error
  const reader = new CorpusReader(sources, maker, {
    onBytes: (bytes) => {
      meter.bytesRead += bytes;
    },
    signal: signal ? AbortSignal.any([signal, reading.signal]) : reading.signal,
  });
  try {
    folder = await prepareFolder(store, maker.settings);
    if (options.finite) checkFinite(store, folder.shards.values(), folder.manifest?.arithmetic);
    manifestWriter = new ManifestWriter(store, maker.settings, folder);
    indexed = await indexIn(store, reader);
    return await runDump({ options, maker, store, folder, manifestWriter, meter, reader, indexed });
  } finally {
    reading.abort();
    await reader.close();
    await maker.close(); // before the lease of the folder is released
    if (manifestWriter && manifestWriter.shards.size > 0) await indexed?.writer.writeAll().catch(() => {});
    await indexed?.writer.close().catch(() => {});
    const removeFolder = (await manifestWriter?.settle()) ?? (async () => {});
    await folder?.release();
    await removeFolder();
  }
}

/** The index that the folder has, or an empty one; undefined where there can be none. */
async function indexIn(store: Store, reader: CorpusReader): Promise<Run['indexed']> {
  if (!reader.header) {
    await checkNoIndex(store);
    return undefined;
  }
  await clearIndex(store);
  const found = await readIndex(store, reader.header);
  reader.use(found.index);
  return { index: found.index, writer: new IndexWriter(store, found) };
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

async function runDump(run: Run): Promise<DumpResult> {
  const { options, maker, store, folder, manifestWriter, meter, reader } = run;
  const { settings } = maker;
  const { out, signal } = options;
  const report = () => options.onProgress?.(meter.now());
  const begin = () => manifestWriter.begin(maker.computing);
  if (!folder.isDone) await begin();
  const indexed = await indexFor(run, report);

  let written = 0;
  maker.begin({
    onStored(tokens) {
      meter.computed += tokens;
      report();
    },
    async onShard(number, entry) {
      await manifestWriter.add(number, entry);
      await indexed?.writer.writeSome();
      meter.shards++;
      written++;
      report();
    },
  });
  const missing = new MissingBlocks({
    ...{ store, settings, reader, index: indexed?.index, there: folder.shards },
    onFound(tokens, wasRead) {
      meter.found += tokens;
      if (!wasRead) meter.gathered += tokens;
      meter.shards++;
    },
    onRead(tokens, isOwn) {
      meter.corpusTokens += tokens;
      if (isOwn) meter.gathered += tokens;
    },
  });
  meter.known = missing.tokens;
  for await (const block of readAhead(missing.blocks(), signal)) {
    await begin();
    await maker.take(block);
  }
  meter.allGathered = true;
  await maker.finish();
  if (missing.count === 0) manifestWriter.giveUp();
  checkEnd(out, folder, missing.count);
  await indexed?.writer.writeAll();
  if (written > 0 || !folder.manifest?.complete) await manifestWriter.complete();
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

function checkEnd(out: string, { shards }: PreparedFolder, count: number): void {
  if (count === 0) throw new Error('dump: the corpus has no tokens');
  const beyond = [...shards.keys()].find((number) => number >= count);
  if (beyond === undefined) return;
  throw new Error(`dump: ${out} holds ${shardFile(beyond)}, but the corpus now makes no more than ${count} shards`);
}

// ---- the corpus

/** A part needs the whole index before its first shard; a whole dump makes it on the way. */
async function indexFor(
  { maker, store, reader, indexed, options, meter }: Run,
  report: () => void,
): Promise<Run['indexed']> {
  if (!indexed || indexed.index.isComplete || maker.settings.part.count === 1) return indexed;
  const { header } = indexed.index;
  const index = await wholeIndex(store, reader, header, { signal: options.signal, onIndexed: report });
  meter.bytesRead = 0; // what follows is read for shards
  return { index, writer: new IndexWriter(store, { index, isClean: true }) };
}
