// dump(): the corpus through the model into shards. While one shard is computed, the one before is hashed and synced,
// and the text of the one after is tokenised.

import { ModelContext } from '../context/model_context.js';
import type { Device } from '../engine/device.js';
import { sizeOf } from '../engine/shape.js';
import type { BlobProgress, FetchOptions } from '../files/blob.js';
import { locationShape } from '../transformer/location.js';
import type { SubjectModel } from '../transformer/subject_model.js';
import { Transformer } from '../transformer/transformer.js';
import {
  type AutoencoderSource,
  checkInputs,
  checkLayered,
  type FoundAutoencoder,
  findAutoencoder,
  withoutFolder,
} from './autoencoders.js';
import { type Block, blocksOf } from './blocks.js';
import { type Corpus, corpusBytes, describeSource, openCorpus, readCorpus, type Source } from './corpus.js';
import { makeRoom } from './disk.js';
import { type PreparedFolder, prepareFolder } from './folder.js';
import { expandDumpLocations, parseDumpLocation } from './location.js';
import { makeManifest, type ShardEntry, shardFile, writeManifest } from './manifest.js';
import { computeShard, makeSlabs } from './pipeline.js';
import { type DumpDType, type DumpPlan, type Part, planDump } from './plan.js';
import { type DumpProgress, ProgressMeter } from './progress.js';
import { quietly, readAhead } from './read_ahead.js';
import type { ShardWriter } from './shard.js';
import { ShardReader } from './shard_reader.js';

export interface DumpOptions {
  /** A transformer, another model with its members, the context of either, or what `Transformer.load` takes. */
  model: SubjectModel | ModelContext | string;
  corpus: Corpus;
  /** `5/mlp/post_act`; `*` for every layer; `5/resid/delta_mlp -> AUTOENCODER` for latents. */
  locations: string | string[];
  /** Autoencoders by the name that `locations` gives them. Files need no entry: `-> path/{layer}.pt`. */
  autoencoders?: Record<string, AutoencoderSource>;
  /** Latents above it are stored; 0 when left out. */
  threshold?: number;
  /** The folder: new, empty, or with the same dump begun. */
  out: string;
  /** Tokens per row; 128 when left out. */
  context?: number;
  /**
   * Rows of the full context that are computed at a time; of shorter rows more, with as many positions. It has no
   * influence on what is written.
   */
  batch?: number;
  /** How values are stored; float16 when left out. */
  dtype?: DumpDType;
  /** Tokens per shard, about; 1,048,576 when left out. */
  shardTokens?: number;
  /**
   * For several processes that share a corpus: this one makes the shards whose number is `index` modulo `count`. They
   * have the names and the contents of a dump in one piece, so the parts can be written to one folder or put into one
   * later.
   */
  shard?: Part;
  /** Tokens of the corpus to take at most. */
  limit?: number;
  /** For a model given by name. */
  device?: Device;
  onProgress?: (progress: DumpProgress) => void;
  /** Told while a model or autoencoders that are given by name or address are fetched from the network. */
  onFetch?: (progress: BlobProgress) => void;
  /**
   * Stops between batches, with a folder that the same call continues. The promise rejects with the signal's reason.
   */
  signal?: AbortSignal;
}

export interface DumpResult {
  readonly out: string;
  readonly rows: number;
  readonly tokens: number;
  readonly shards: number;
  /** Shards that this call wrote: 0 when the dump was complete already. */
  readonly written: number;
}

/** What a dump needs beside its plan. */
interface Prepared {
  readonly plan: DumpPlan;
  readonly model: SubjectModel;
  readonly autoencoders: FoundAutoencoder[];
  readonly sources: Source[];
  /** Frees what was loaded for the call. */
  readonly dispose: () => void;
}

interface Run extends Prepared {
  readonly options: DumpOptions;
  readonly meter: ProgressMeter;
}

/**
 * Runs a corpus through the model and stores what `locations` names. A call that was interrupted, in whatever way, is
 * continued by the same call, and the finished folder is the same, byte for byte. See the README for the layout.
 * @throws Error before anything is computed when a file, location, autoencoder or option is wrong, or when the folder
 *   holds another dump; later for a broken corpus or disk. Shards that are finished stay valid.
 */
export async function dump(options: DumpOptions): Promise<DumpResult> {
  options.signal?.throwIfAborted();
  const prepared = await prepare(options);
  try {
    const { settings } = prepared.plan;
    const meter = new ProgressMeter({
      corpusBytes: corpusBytes(prepared.sources),
      limit: settings.limit,
      parts: settings.part.count,
    });
    return await runDump({ ...prepared, options, meter });
  } finally {
    prepared.dispose();
  }
}

/** What `dump(options)` would do, without doing it. Loads the model and the autoencoders; writes nothing. */
export async function planOf(options: DumpOptions): Promise<DumpPlan> {
  const { plan, dispose } = await prepare(options);
  dispose();
  return plan;
}

async function prepare(options: DumpOptions): Promise<Prepared> {
  const { out, autoencoders: given = {}, threshold = 0 } = options;
  if (typeof out !== 'string' || out === '') throw new TypeError('dump: out must be the path of a folder');
  if (!(typeof threshold === 'number' && threshold >= 0)) {
    throw new RangeError(`dump: threshold must be a number of 0 or more, but is ${threshold}`);
  }
  const patterns = Array.isArray(options.locations) ? options.locations : [options.locations];
  checkLayered(patterns.map(parseDumpLocation), given);
  const sources = await openCorpus(options.corpus);
  const { onFetch, signal, device } = options;
  const fetching: FetchOptions = { ...(onFetch && { onProgress: onFetch }), ...(signal && { signal }) };
  const loaded =
    typeof options.model === 'string'
      ? await Transformer.load(options.model, { ...fetching, ...(device && { device }) })
      : undefined;
  const model = loaded ?? (await subjectOf(options.model as SubjectModel | ModelContext));
  const found: FoundAutoencoder[] = [];
  const dispose = () => {
    for (const { autoencoder, own } of found) if (own) autoencoder.dispose();
    loaded?.dispose();
  };
  try {
    const locations = expandDumpLocations(patterns, model.config);
    for (const location of locations) {
      if (location.autoencoder === undefined) continue;
      const autoencoder = await findAutoencoder(location, given, model, fetching);
      found.push(autoencoder);
      checkInputs(autoencoder, widthAt(location.location, model));
    }
    const plan = planDump({
      model: {
        name: withoutFolder(model.name),
        digest: await model.digest(),
        dtype: model.dtype,
        vocabulary: model.nVocab,
        config: model.config,
      },
      corpus: sources.map(describeSource),
      dense: locations.filter(({ autoencoder }) => autoencoder === undefined).map(({ location }) => location),
      autoencoders: await Promise.all(
        found.map(async ({ location, name, autoencoder }) => {
          return { location, name, digest: await autoencoder.digest(), latents: autoencoder.nLatents, threshold };
        }),
      ),
      context: options.context,
      batch: options.batch,
      dtype: options.dtype,
      shardTokens: options.shardTokens,
      shard: options.shard,
      limit: options.limit,
      device: model.device.kind,
    });
    return { plan, model, autoencoders: found, sources, dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

const subjectOf = async (model: SubjectModel | ModelContext): Promise<SubjectModel> =>
  model instanceof ModelContext ? model.getOrCreateModel() : model;

const widthAt = (location: string, { config, nVocab }: SubjectModel): number =>
  sizeOf(locationShape(location, config, nVocab, 1, 1));

async function runDump(run: Run): Promise<DumpResult> {
  const { plan, options, meter } = run;
  const { settings } = plan;
  const { out, signal } = options;
  const folder = await prepareFolder(out, settings);
  const tell = () => options.onProgress?.(meter.now());
  const onStored = (tokens: number) => {
    meter.computed += tokens;
    tell();
  };
  const pipeline = { ...run, out, signal, onStored, slabs: makeSlabs(plan) };
  const shards = new Map(folder.shards);
  const save = (complete: boolean) =>
    writeManifest(
      out,
      makeManifest(
        settings,
        [...shards].sort(([a], [b]) => a - b).map(([, entry]) => entry),
        complete,
      ),
    );
  const started = folder.manifest && folder.manifest.shards.length === shards.size;
  if (!started) await save(false);

  const room = makeRoom(); // one shard is finished at a time
  let finishing: Promise<void> = Promise.resolve();
  let written = 0;
  let blocks = 0;
  const reading = new AbortController(); // ends with the run, however that ends
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
        continue;
      }
      const writer = await computeShard(pipeline, block);
      await finishing.catch(async (error) => {
        await writer.abandon();
        throw error;
      });
      finishing = quietly(
        finish(writer, room).then(async (entry) => {
          shards.set(block.number, entry);
          await save(false);
          meter.shards++;
          written++;
          tell();
        }),
      );
    }
    await finishing;
  } finally {
    reading.abort();
    await finishing.catch(() => {});
  }
  checkEnd(out, folder, blocks);
  if (written > 0 || !folder.manifest?.complete) await save(true);
  const entries = [...shards.values()];
  return {
    out,
    rows: entries.reduce((sum, { rows }) => sum + rows, 0),
    tokens: entries.reduce((sum, { tokens }) => sum + tokens, 0),
    shards: entries.length,
    written,
  };
}

async function finish(writer: ShardWriter, room: Uint8Array): Promise<ShardEntry> {
  try {
    return await writer.finish(room);
  } catch (error) {
    await writer.abandon();
    throw error;
  }
}

function checkEnd(out: string, { shards }: PreparedFolder, blocks: number): void {
  if (blocks === 0) throw new Error('dump: the corpus has no tokens');
  const beyond = [...shards.keys()].find((number) => number >= blocks);
  if (beyond === undefined) return;
  throw new Error(`dump: ${out} holds ${shardFile(beyond)}, but the corpus now makes no more than ${blocks} shards`);
}

// ---- the corpus

async function* gather({ plan, model, sources, meter }: Run, signal: AbortSignal): AsyncGenerator<Block> {
  const { context, limit, part } = plan.settings;
  const pieces = readCorpus(sources, {
    encode: (text) => model.enc.encode(text),
    nVocab: model.nVocab,
    onBytes: (bytes) => {
      meter.bytesRead += bytes;
    },
    signal,
  });
  const blocks = blocksOf(pieces, { context, rowsPerBlock: plan.rowsPerShard, limit: limit ?? undefined });
  for await (const block of blocks) {
    meter.corpusTokens += block.tokenCount;
    if (block.number % part.count === part.index) meter.gathered += block.tokenCount;
    yield block;
  }
  meter.allGathered = true;
}

async function checkTokens({ plan, options }: Run, entry: ShardEntry, block: Block): Promise<void> {
  const { context } = plan.settings;
  const shard = await ShardReader.open(options.out, plan.settings, entry);
  try {
    const there = await shard.rows(0, entry.rows);
    const at = firstDifference(there.tokens, block.tokens, there.document, block.document);
    if (at < 0) return;
    const place = `row ${Math.floor(at / context)}, position ${at % context}`;
    const [old, now] = [shown(there.tokens, there.document, at), shown(block.tokens, block.document, at)];
    throw new Error(`dump: ${shard.path} is of another corpus: at ${place} it has ${old}, and the corpus has ${now}`);
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
