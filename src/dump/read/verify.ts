// Checks a dump against its manifest. It finds a missing file as well as a flipped bit, which no reader of safetensors
// notices.
import { type Store, unfinishedOf } from '../../files/store/store.js';
import { type CorpusIndex, readIndex } from '../corpus_index/corpus_index.js';
import { blockDigest, headerOfDump } from '../corpus_index/index_format.js';
import { digestOf } from '../format/disk.js';
import { isJournalFile } from '../format/journal.js';
import { latentsName, valueNames } from '../format/layout.js';
import {
  filesOf,
  indexFile,
  indexLease,
  isIndexFile,
  isManifestFile,
  type ListedFile,
  type Manifest,
  manifestOfLease,
  parquetNumber,
  problemWith,
  type ShardEntry,
  shardNumber,
} from '../format/manifest.js';
import { passes, type StoredPositions, storedPositionsOf } from '../format/positions.js';
import type { SparseLocation } from '../format/settings.js';
import { countProblems, type KnownPositions, QuickLook } from './recount.js';
import { ShardReader, statisticsIn } from './shard_reader.js';

// Large enough that object storage is asked for several ranges at once.
const scratchBytes = 2 ** 25;
const entriesAtOnce = 2 ** 22;

export interface Problem {
  readonly file: string;
  readonly problem: string;
}

/** Everything that is wrong with a dump, file by file; an empty list when nothing is. */
export async function verifyDump(store: Store, manifest: Manifest): Promise<Problem[]> {
  const problems = await checkFiles(store, manifest);
  const { index, problem } = await indexOf(store, manifest);
  if (problem !== undefined) problems.push({ file: indexFile, problem });
  const scratch = new Uint8Array(scratchBytes);
  for (const entry of manifest.shards) {
    for (const problem of await checkShard(store, manifest, entry, scratch, index))
      problems.push({ file: entry.file, problem });
    for (const file of entry.parquet ?? []) problems.push(...(await checkListed(store, file, scratch)));
  }
  return problems;
}

/** The index of the corpus, as far as there is one, and what is wrong with it. It says which tokens each shard has. */
async function indexOf(store: Store, manifest: Manifest): Promise<{ index?: CorpusIndex; problem?: string }> {
  try {
    const { index, isClean } = await readIndex(store, headerOfDump(manifest));
    if (isClean || !manifest.complete) return { index }; // a run that was killed may have written half a line
    const problem = `has ${index.known} whole lines in order, and others: sonde index with the same options writes it again`;
    return { index, problem };
  } catch (error) {
    return { problem: (error as Error).message.replace(`dump: ${store.pathOf(indexFile)} `, '') };
  }
}

async function checkFiles(store: Store, { shards, complete, part }: Manifest): Promise<Problem[]> {
  const problems: Problem[] = [];
  const listed = new Set(shards.flatMap(filesOf).map(({ file }) => file));
  for (const file of await store.list()) {
    const unfinished = unfinishedOf(file);
    if (listed.has(file) || isManifestFile(file) || isJournalFile(unfinished ?? file)) continue;
    if (manifestOfLease(file) || (isIndexFile(file) && file.startsWith(indexLease)))
      problems.push({ file, problem: 'is the claim of a process that writes here, or was killed' });
    else if (unfinished) problems.push({ file, problem: `is an unfinished piece of ${unfinished}` });
    else if (shardNumber(file) !== undefined || parquetNumber(file) !== undefined)
      problems.push({ file, problem: 'is not listed in the manifest' });
  }
  const gap = shards.findIndex(({ file }, i) => shardNumber(file) !== part.index + i * part.count);
  if (complete && gap >= 0) {
    problems.push({ file: 'manifest.json', problem: `lists ${shards[gap]?.file} where another shard should come` });
  }
  return problems;
}

/** Checks a file of which the manifest has only the size and the checksum. */
async function checkListed(store: Store, listed: ListedFile, scratch: Uint8Array): Promise<Problem[]> {
  const { file, sha256 } = listed;
  const problem = await problemWith(store, listed);
  if (problem !== undefined) return [{ file, problem }];
  const source = await store.open(file);
  try {
    const digest = await digestOf(source, scratch);
    return digest === sha256 ? [] : [{ file, problem: `its SHA-256 is ${digest}, but the manifest says ${sha256}` }];
  } finally {
    await source.close();
  }
}

async function checkShard(
  store: Store,
  manifest: Manifest,
  entry: ShardEntry,
  scratch: Uint8Array,
  index: CorpusIndex | undefined,
): Promise<string[]> {
  let shard: ShardReader;
  try {
    shard = await ShardReader.open(store, manifest, entry);
  } catch (error) {
    return [(error as Error).message.replace(`${store.pathOf(entry.file)}: `, '')];
  }
  try {
    const quickLook = new QuickLook(shard, manifest);
    const sha256 = await digestOf(shard.file, scratch, quickLook.look);
    if (sha256 !== entry.sha256) return [`its SHA-256 is ${sha256}, but the manifest says ${entry.sha256}`];
    const { tokens, document } = await shard.rows(0, entry.rows);
    const problem = tokenProblem(manifest, entry, tokens, document);
    if (problem) return [problem];
    const indexed = index?.entry(shardNumber(entry.file) as number);
    if (indexed && indexed.digest !== blockDigest({ tokens, document })) {
      return ['its tokens are not those that the index of the corpus says'];
    }
    const positions = storedPositionsOf(manifest, {
      ...numberAndRows(entry),
      tokens,
      lengths: lengthsOf(document, manifest.context),
    });
    const found = await checkPositions(shard, positions);
    if (found.length > 0) return found;
    if (manifest.dtype === 'int8') {
      for (const { location } of manifest.locations) found.push(...(await checkScale(shard, location)));
    }
    for (const i of manifest.autoencoders.keys()) {
      found.push(...(await checkLatents(shard, manifest, i, { document, positions })));
    }
    if (manifest.statistics) found.push(...(await checkStatistics(shard, manifest, tokens, document)));
    found.push(...(await countProblems(shard, manifest, { document, positions }, quickLook)));
    return found;
  } finally {
    await shard.close();
  }
}

const numberAndRows = ({ file, rows }: ShardEntry) => ({ number: shardNumber(file) as number, rows });

function lengthsOf(document: Int32Array, context: number): Int32Array {
  const lengths = new Int32Array(document.length / context);
  document.forEach((at, i) => {
    if (at >= 0) lengths[Math.floor(i / context)] = (i % context) + 1;
  });
  return lengths;
}

/** The stored positions must be those that follow from the tokens and the settings. */
async function checkPositions(shard: ShardReader, expected: StoredPositions): Promise<string[]> {
  const { flatPositions: required } = expected;
  if (!required) return [];
  try {
    const found = (await shard.storedPositions()).flatPositions as Int32Array;
    const invalid = required.findIndex((flat, i) => found[i] !== flat);
    if (invalid < 0 && found.length === required.length) return [];
    return [`positions[${invalid < 0 ? required.length : invalid}] is not one that the dump's options choose`];
  } catch (error) {
    return [(error as Error).message.replace(`${shard.path}: `, '')];
  }
}

async function checkScale(shard: ShardReader, location: string): Promise<string[]> {
  const scales = (await shard.read(`${location}.scale`)) as Float32Array;
  const invalid = scales.findIndex((scale) => !(scale >= 0 && scale < Infinity));
  return invalid < 0 ? [] : [`${location}.scale: value ${invalid} is ${scales[invalid]}`];
}

async function checkStatistics(
  shard: ShardReader,
  manifest: Manifest,
  tokens: Int32Array,
  document: Int32Array,
): Promise<string[]> {
  const counted = tokens.filter((token, i) => document[i] !== -1 && passes(manifest, token)).length;
  const found: string[] = [];
  for (const name of valueNames(manifest)) {
    const { count, active, variance } = await statisticsIn(shard, name);
    if (count !== counted) found.push(`${name}.count is ${count}, but there are ${counted} positions`);
    const invalid = active.findIndex((n, i) => n < 0 || n > count || (variance[i] as number) < 0);
    if (invalid >= 0) found.push(`${name}: the statistics of feature ${invalid} cannot be`);
  }
  return found;
}

function tokenProblem(
  { context, model }: Manifest,
  entry: ShardEntry,
  tokens: Int32Array,
  document: Int32Array,
): string | undefined {
  let count = 0;
  for (let i = 0; i < tokens.length; i++) {
    const [token, at] = [tokens[i] as number, document[i] as number];
    const where = `row ${Math.floor(i / context)}, position ${i % context}`;
    if (token < 0 || token >= model.vocabulary) return `${where}: ${token} is not a token`;
    if (at < -1) return `${where}: ${at} is not a document`;
    if (at >= 0 && i % context > 0 && document[i - 1] !== at) return `${where}: the document changes within a row`;
    if (at >= 0) count++;
  }
  return count === entry.tokens ? undefined : `holds ${count} tokens, but the manifest says ${entry.tokens}`;
}

async function checkLatents(
  shard: ShardReader,
  manifest: Manifest,
  i: number,
  { document, positions }: KnownPositions,
) {
  const { location, latents } = manifest.autoencoders[i] as SparseLocation;
  const name = latentsName(location);
  const pointers = (await shard.read(`${name}.row_ptr`)) as BigInt64Array;
  const entries = shard.layout.tensor(`${name}.indices`).shape[0] as number;
  if (pointers[0] !== 0n || pointers.at(-1) !== BigInt(entries)) {
    return [`${name}.row_ptr does not go from 0 to ${entries}`];
  }
  for (let slot = 0; slot < positions.count; slot++) {
    const flat = positions.flatPositions ? (positions.flatPositions[slot] as number) : slot;
    const active = (pointers[slot + 1] as bigint) - (pointers[slot] as bigint);
    if (active < 0n) return [`${name}.row_ptr falls at ${slot + 1}`];
    if (active > 0n && (document[flat] as number) < 0) return [`${name} has entries at padding (${flat})`];
  }
  // Entries are read in chunks: those of a shard may not fit into memory.
  let slot = 0;
  let before = -1; // the latent before, at the same position
  for (let from = 0; from < entries; from += entriesAtOnce) {
    const to = Math.min(entries, from + entriesAtOnce);
    const indices = (await shard.read(`${name}.indices`, from, to)) as Uint16Array | Int32Array;
    for (let at = from; at < to; at++) {
      const index = indices[at - from] as number;
      while (at >= Number(pointers[slot + 1])) {
        slot++;
        before = -1;
      }
      if (index < 0 || index >= latents) {
        return [`${name}.indices[${at}] is ${index}, but there are ${latents} latents`];
      }
      if (index <= before) return [`${name}.indices[${at}] does not ascend`];
      before = index;
    }
  }
  return [];
}
