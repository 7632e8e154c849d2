// Makes one dump of parts (`shard: { index, count }`) by writing the manifest of the whole dump. Shards are not copied:
// shards in other folders get a second name, a hard link, in the folder of the whole dump.
import { resolve } from 'node:path';
import { checkBoolean, checkOptions, describe, type OptionNames, wrong } from '../../engine/check.js';
import { isBlobUrl } from '../../files/blob/blob_address.js';
import { openStore } from '../../files/store/open_store.js';
import type { Store } from '../../files/store/store.js';
import { quoted } from '../../files/text.js';
import { readIndex } from '../corpus_index/corpus_index.js';
import { headerOfDump } from '../corpus_index/index_format.js';
import { clearIndex } from '../corpus_index/make_index.js';
import { holdsCorpusList, isCorpusList } from '../format/corpus_list.js';
import { forEachAtOnce, onDisk, type Writing, whyUnreadable } from '../format/disk.js';
import {
  arithmeticOf,
  checkSize,
  differenceOf,
  filesOf,
  indexFile,
  type ListedFile,
  leaseFile,
  type Manifest,
  ManifestReader,
  makeManifest,
  missing,
  mixedIn,
  problemWith,
  readManifests,
  type ShardEntry,
  shardFile,
  shardNumber,
  totalsOf,
  whole,
  writeManifest,
} from '../format/manifest.js';
import { type NonFiniteTotal, totalNonFinite } from '../format/non_finite.js';
import { rowsPerShard } from '../format/positions.js';
import { knownSettings } from '../format/settings.js';
import { allowAdvice, BeingWritten, isLeftover, isManifestOfPart } from './folder.js';

/** The error of a merge that would mix arithmetics. The same merge always has it. */
export class MixedArithmetics extends Error {}

export interface MergeOptions {
  /** Merges parts whose shards were made with different arithmetics; the manifest lists all of them. */
  readonly anyArithmetic?: boolean;
}

const mergeOptionNames: OptionNames<MergeOptions> = { anyArithmetic: true };

export interface MergeResult {
  readonly out: string;
  readonly rows: number;
  readonly tokens: number;
  readonly shards: number;
  /** The number of files that got a name in the folder. */
  readonly linked: number;
  /** How many of the stored values are not finite, by location, as the manifests of the parts say. */
  readonly nonFinite: Readonly<Record<string, NonFiniteTotal>>;
}

/** A part of the dump, and the store that it lies in. */
interface StoredPart {
  readonly store: Store;
  readonly manifest: Manifest;
}

interface StoredShard {
  readonly store: Store;
  readonly entry: ShardEntry;
}

interface StoredFile {
  readonly store: Store;
  readonly file: ListedFile;
}

const merging: Writing = {
  operation: 'merge',
  advice: 'No shard is lost: run the same command again when the cause is gone',
};

/**
 * Makes one dump in `out` of the parts that lie there and in the folders `from`, which must be on the same disk and
 * stay as they are. In object storage, all parts must lie in `out`. The result is, byte for byte, the dump of one
 * process. The same call finishes one that was interrupted; a dump that is complete already stays as it is.
 * @throws BeingWritten when another process writes to `out`; Error when a part is missing, incomplete or there twice,
 *   when parts are of different dumps, or when their shards do not make a complete dump. Nothing is changed then.
 */
export async function mergeDumps(
  out: string,
  from: readonly string[] = [],
  options: MergeOptions = {},
): Promise<MergeResult> {
  checkOptions('mergeDumps', options, mergeOptionNames);
  checkBoolean('merge', 'anyArithmetic', options.anyArithmetic);
  if (typeof out !== 'string' || out === '') throw new TypeError('merge: out must be the path of a folder');
  if (!Array.isArray(from) || !from.every((folder) => typeof folder === 'string' && folder !== '')) {
    throw new TypeError(wrong('merge', 'from', 'a list of paths of folders', describe(from)));
  }
  const addressOf = (name: string) => (isBlobUrl(name) ? name.replace(/\/+$/, '') : resolve(name));
  const others = [...new Set(from.map(addressOf))].filter((name) => name !== addressOf(out));
  const store = openStore(out);
  const undo = await onDisk(out, store.create(), merging);
  const lease = await onDisk(store.pathOf(leaseFile(whole)), store.takeLease(leaseFile(whole)), merging).catch(
    async (error) => {
      await undo();
      throw error;
    },
  );
  if (typeof lease === 'string') {
    await undo();
    throw new BeingWritten(`merge: ${out} is being written by ${lease}: wait until it is done`);
  }
  try {
    return await merge(store, others.map(openStore), options);
  } finally {
    await lease.release();
    await undo();
  }
}

async function merge(
  out: Store,
  others: readonly Store[],
  { anyArithmetic = false }: MergeOptions,
): Promise<MergeResult> {
  const parts: StoredPart[] = [];
  const reader = new ManifestReader(); // of all folders, so that what the parts have in common is in memory once
  for (const store of [out, ...others]) parts.push(...(await partsIn(store, reader)));
  const [first] = parts;
  if (!first) {
    throw new Error(`merge: there is no part of a dump in ${[out, ...others].map(({ name }) => name).join(', ')}`);
  }
  const isWhole = first.store === out && first.manifest.part.count === 1; // merged already
  for (const { store, manifest } of parts.slice(1)) {
    checkSame(first, { store, manifest: isWhole ? { ...manifest, part: whole } : manifest });
  }
  const taken = isWhole ? [first] : parts;
  checkAllThere(taken);
  const arithmetic = arithmeticOf(taken.map(({ manifest }) => manifest));
  if (!isWhole && !anyArithmetic) checkArithmetic(taken, arithmetic);
  const shards = shardsOf(taken);
  await forEachAtOnce(filesIn(shards), checkThere);
  const elsewhere = shards.filter(({ store }) => store !== out);
  for (const file of filesIn(elsewhere)) await checkFree(out, file);

  const entries = shards.map(({ entry }) => entry);
  const settings = knownSettings(first.manifest);
  const merged = makeManifest({ ...settings, part: whole }, arithmetic, entries, true);
  const hasIndex = await hasWholeIndex(out, merged);
  // Before anything is changed, this refuses a manifest that could not be read.
  if (!isWhole) checkSize(out, merged, merging);
  let linked = 0;
  for (const file of filesIn(elsewhere)) if (await linkedInto(out, file)) linked++;
  if (!hasIndex) await linkIndex(out, others, merged);
  await clearIndex(out);
  if (!isWhole) await writeManifest(out, merged, merging);
  await removeParts(out);
  return {
    out: out.name,
    ...totalsOf(entries),
    shards: entries.length,
    linked,
    nonFinite: totalNonFinite(settings, entries),
  };
}

function* filesIn(shards: readonly StoredShard[]): Generator<StoredFile> {
  for (const { store, entry } of shards) for (const file of filesOf(entry)) yield { store, file };
}

/** Whether the folder has the whole index of the corpus. @throws Error when it has the index of something else. */
async function hasWholeIndex(out: Store, merged: Manifest): Promise<boolean> {
  if (!(await out.find(indexFile))) return false;
  const { index, isClean } = await readIndex(out, headerOfDump(merged)).catch((cause: Error) => {
    throw new Error(`merge: ${cause.message.replace(/^dump: /, '')}`, { cause });
  });
  return index.isComplete && isClean;
}

/** Gives the folder the whole index of the corpus, if a part's folder has it, instead of one that is torn. */
async function linkIndex(out: Store, others: readonly Store[], merged: Manifest): Promise<void> {
  const header = headerOfDump(merged);
  for (const store of others) {
    const found = await readIndex(store, header).catch(() => undefined); // it is of something else, and helps nobody
    if (!found?.index.isComplete || !found.isClean) continue;
    await onDisk(out.pathOf(indexFile), out.remove(indexFile), merging);
    await asMergeError(out.link(store, indexFile));
    return;
  }
}

/**
 * Removes what the whole dump does not need: the manifests of the parts, what killed attempts at them have left, and
 * then the lists that the manifests refer to.
 */
async function removeParts(out: Store): Promise<void> {
  const remove = (name: string) => onDisk(out.pathOf(name), out.remove(name), merging);
  const names = await out.list();
  await forEachAtOnce(names.filter(isManifestOfPart), remove);
  await forEachAtOnce(names.filter(isLeftover), remove);
  const lists = names.filter(isCorpusList);
  if (lists.length === 0 || (await out.list()).some(isManifestOfPart)) return; // a part that has just begun needs them
  for (const name of lists) if (await holdsCorpusList(out, name)) await remove(name);
}

async function partsIn(store: Store, reader: ManifestReader): Promise<StoredPart[]> {
  const manifests = await readManifests(store, undefined, reader).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === undefined) throw cause;
    throw new Error(`merge: ${store.name}: ${whyUnreadable(cause)}`, { cause });
  });
  return [...manifests.values()].map((manifest) => ({ store, manifest }));
}

function checkSame(first: StoredPart, other: StoredPart): void {
  const difference = differenceOf(first.manifest, other.manifest);
  if (!difference) return;
  const [label, one, two] = difference;
  throw new Error(
    `merge: the parts are not of one dump: ${first.store.name} has ${label} ${one}, and ${other.store.name} has ${two}`,
  );
}

function checkArithmetic(parts: readonly StoredPart[], arithmetic: readonly string[]): void {
  const mixed = mixedIn(arithmetic);
  if (!mixed) return;
  const [one, two] = mixed.map((wanted) => {
    const part = parts.find(({ manifest }) => manifest.shards.length > 0 && manifest.arithmetic.includes(wanted));
    const { store, manifest } = part as StoredPart;
    return `part ${manifest.part.index} in ${store.name} with ${quoted(wanted)}`;
  });
  throw new MixedArithmetics(
    `merge: shards were made with different arithmetics, whose values differ in some bits: ${one}, and ${two}. ` +
      allowAdvice,
  );
}

function checkAllThere(parts: readonly StoredPart[]): void {
  const { count } = (parts[0] as StoredPart).manifest.part;
  const folders = new Map<number, string>();
  for (const { store, manifest } of parts) {
    const { name: folder } = store;
    const { index } = manifest.part;
    const before = folders.get(index);
    if (before !== undefined) throw new Error(`merge: part ${index} of ${count} is in ${before} and in ${folder}`);
    if (!manifest.complete) {
      throw new Error(`merge: part ${index} of ${count} in ${folder} is not complete: its command goes on with it`);
    }
    folders.set(index, folder);
  }
  const lacking = count - folders.size;
  if (lacking === 0) return;
  const shown: number[] = [];
  for (let index = 0; shown.length < Math.min(lacking, 10); index++) if (!folders.has(index)) shown.push(index);
  throw new Error(`merge: of ${count} parts, ${lacking} are missing: ${shown.join(', ')}${lacking > 10 ? ', …' : ''}`);
}

/** The shards in order. Only the last one may have fewer rows than the others. */
function shardsOf(parts: readonly StoredPart[]): StoredShard[] {
  const full = rowsPerShard((parts[0] as StoredPart).manifest);
  const numbered = parts.flatMap(({ store, manifest }) =>
    manifest.shards.map((entry) => ({ number: shardNumber(entry.file) as number, shard: { store, entry } })),
  );
  const shards = numbered.sort((a, b) => a.number - b.number).map(({ shard }) => shard);
  for (const [number, { store, entry }] of shards.entries()) {
    const isLast = number === shards.length - 1;
    if (entry.file !== shardFile(number)) {
      throw new Error(`merge: ${shardFile(number)} is in no part, but ${entry.file} is in ${store.name}`);
    }
    if (entry.rows === full || (isLast && entry.rows < full)) continue;
    throw new Error(`merge: ${store.pathOf(entry.file)} has ${entry.rows} rows where ${full} belong: another corpus?`);
  }
  return shards;
}

async function checkThere({ store, file }: StoredFile): Promise<void> {
  const problem = await problemWith(store, file);
  if (problem === undefined) return;
  const advice = problem === missing ? ': the command of its part writes it again' : '';
  throw new Error(`merge: ${store.pathOf(file.file)} ${problem}${advice}`);
}

// Checks before anything is changed. Giving the names later overwrites nothing either.
async function checkFree(out: Store, { store, file: { file } }: StoredFile): Promise<void> {
  if (await asMergeError(out.canLink(store, file))) return;
  throw new Error(`merge: ${out.pathOf(file)} is another file than ${store.pathOf(file)}`);
}

/** Gives a file its name in the folder. Resolves to whether that was necessary. */
const linkedInto = (out: Store, { store, file: { file } }: StoredFile): Promise<boolean> =>
  asMergeError(out.link(store, file));

async function asMergeError<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    throw new Error(`merge: ${(cause as Error).message}`, { cause });
  }
}
