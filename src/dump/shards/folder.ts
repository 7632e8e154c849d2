// Prepares the folder that a dump is written to: refuses a folder with other contents, or one that another process
// writes to, removes what an interrupted run left, and finds the shards that are there already.
import { setTimeout } from 'node:timers/promises';
import { isPlainName, type Store, unfinishedOf } from '../../files/store/store.js';
import { quoted } from '../../files/text.js';
import { onDisk, severalAtOnce, type Writing } from '../format/disk.js';
import { isJournal, isJournalFile, journalFile, manifestOfJournal } from '../format/journal.js';
import {
  allArithmetics,
  differenceOf,
  filesOf,
  inOrder,
  isIndexFile,
  isManifestFile,
  type ListedFile,
  leaseFile,
  type Manifest,
  makeManifest,
  manifestFile,
  manifestOfLease,
  missing,
  mixedIn,
  parquetNumber,
  problemWith,
  readManifests,
  type ShardEntry,
  shardNumber,
  unknownArithmetic,
  whole,
  writeManifest,
} from '../format/manifest.js';
import { NonFiniteError, showNonFinite } from '../format/non_finite.js';
import type { DumpSettings } from '../format/settings.js';

/** What computes the shards of a run. */
export interface Computing {
  /** The name of each device's arithmetic for the dtypes of the dump, in order, each once. */
  readonly arithmetic: readonly string[];
  /** Whether the dump may hold shards of other arithmetics. */
  readonly anyArithmetic: boolean;
}

export const allowAdvice =
  'Go on where sonde devices shows that name for the dtype of the dump, begin again in another folder, or allow it ' +
  '(anyArithmetic, --any-arithmetic)';

/** The error of a run that would mix arithmetics. */
export class OtherArithmetic extends Error {}

/** @throws OtherArithmetic when the devices of a run compute with several arithmetics, unless that is allowed. */
export function checkDevices({ arithmetic, anyArithmetic }: Computing): void {
  const mixed = anyArithmetic ? undefined : mixedIn(arithmetic);
  if (!mixed) return;
  const [one, two] = mixed.map((name) => quoted(name));
  throw new OtherArithmetic(
    `dump: the devices of the workers compute with the arithmetics ${one} and ${two}, whose values differ in some ` +
      'bits. Use devices of one arithmetic, as sonde devices shows them, or allow it (anyArithmetic, --any-arithmetic)',
  );
}

export interface PreparedFolder {
  /** Shards that are there, by number. */
  readonly shards: Map<number, ShardEntry>;
  /** The manifest in the folder; undefined for a new dump. */
  readonly manifest: Manifest | undefined;
  /** Whether nothing is left to compute, unless the corpus turns out to be another one. */
  readonly isDone: boolean;
  /**
   * To be called before the first shard is computed. Writes the manifest, with what an older journal holds, and removes
   * that journal: if this process is killed after it publishes a shard, the manifest says to which dump that shard
   * belongs. Resolves to the arithmetics for the manifest.
   * @throws OtherArithmetic when other shards of the folder are made with another arithmetic, unless that is allowed;
   *   Error when another part has begun meanwhile, with other settings.
   */
  readonly begin: (computing: Computing) => Promise<readonly string[]>;
  /** @throws Error when another process has taken over, which can happen after this one was suspended. */
  readonly check: () => Promise<void>;
  /** Releases the lease, so that another process can write to the folder. */
  readonly release: () => Promise<void>;
  /**
   * To be called before `release` when the corpus has no tokens. Removes the manifest if it lists no shards, so that it
   * does not refuse another request. Returns a function for after `release`, which removes the folder if this call made
   * it and it is empty.
   */
  readonly undo: () => Promise<() => Promise<void>>;
}

/**
 * `compared` has the manifests of other parts that were compared before and need not be read again; `begin` adds to it.
 * @throws Error when the folder holds something else, with the difference named, or when another process writes to it.
 */
export async function prepareFolder(
  store: Store,
  settings: DumpSettings,
  compared: Set<string> = new Set(),
): Promise<PreparedFolder> {
  const { name: folder } = store;
  const { lease, removeFolder } = await leased(store, settings);
  if (typeof lease === 'string') {
    throw new Error(`dump: ${folder} is being written by ${lease}: wait until it is done, or choose another folder`);
  }
  const check = async () => {
    if (await lease.lost()) throw new Error(`dump: ${folder} was taken over by another process`);
  };
  try {
    const contents = await contentsOf(store, settings, compared);
    const { manifest, shards } = contents;
    return {
      manifest,
      shards,
      isDone: manifest?.complete === true && shards.size === manifest.shards.length,
      async begin(computing) {
        await check();
        const arithmetic = await begin(store, settings, contents, computing);
        for (const [name, there] of contents.others) if (there.shards.length > 0) compared.add(name);
        return arithmetic;
      },
      check,
      release: () => lease.release(),
      async undo() {
        const names = await store.list();
        const listed = manifest?.shards.length ?? 0;
        if (listed === 0 && !names.some((name) => isShardOf(name, settings))) {
          await check();
          await store.remove(manifestFile(settings.part));
        }
        return removeFolder;
      },
    };
  } catch (error) {
    await lease.release();
    await removeFolder();
    throw error;
  }
}

/**
 * @throws NonFiniteError that names the first of `shards` with values that are not finite, as the request refuses them,
 *   or with values that may never have been counted. `arithmetic` is that of the shards' manifest.
 */
export function checkFinite(
  { name: folder }: Store,
  shards: Iterable<ShardEntry>,
  arithmetic: readonly string[] = [],
): void {
  for (const { file, nonFinite = {} } of shards) {
    const [counted] = Object.entries(nonFinite);
    if (!counted && !arithmetic.includes(unknownArithmetic)) continue;
    if (!counted) {
      throw new NonFiniteError(
        `dump: ${folder} holds ${file}, and an earlier version that did not count such values may have made it. ` +
          'sonde verify counts them; without finite, the dump goes on',
        shardNumber(file) as number,
      );
    }
    const [location, counts] = counted;
    throw new NonFiniteError(
      `dump: ${folder} holds ${file}, where of ${location} ${showNonFinite(counts)}. ` +
        'Without finite, the dump goes on; with it, choose another folder',
      shardNumber(file) as number,
    );
  }
}

/**
 * Checks that the folder is new, empty or of a dump, of the one with these settings if they are given, whatever its
 * parts; and makes it. Returns a function that removes it, if this call made it and it is empty.
 */
export async function checkRoom(store: Store, settings?: DumpSettings): Promise<() => Promise<void>> {
  const undo = await created(store);
  try {
    const names = await store.list();
    const manifests = await readManifests(store);
    for (const there of manifests.values()) {
      if (settings && there.shards.length > 0)
        checkSame(store.name, { ...there, part: whole }, { ...settings, part: whole });
    }
    if (manifests.size === 0) checkNoOthers(store, names, await strangeAmong(store, names));
    return undo;
  } catch (error) {
    await undo();
    throw error;
  }
}

/** @throws Error when a folder without a manifest has files of others, the `strange` ones among them. */
function checkNoOthers({ name: folder }: Store, names: readonly string[], strange: readonly string[]): void {
  const isKnown = (name: string) => isLeftover(name) || isIndexFile(name) || manifestOfLease(name) !== undefined;
  const other = names.find((name) => strange.includes(name) || !isKnown(name));
  if (other === undefined) return;
  throw new Error(`dump: ${folder} is not empty and has no manifest.json (it has ${other}): choose another folder`);
}

const attempts = 3;

/** Makes the folder and takes its lease. Between the two steps, another process may remove the folder as unused. */
async function leased(store: Store, { part }: DumpSettings) {
  for (let attempt = 1; ; attempt++) {
    const removeFolder = await created(store);
    try {
      return { lease: await store.takeLease(leaseFile(part)), removeFolder };
    } catch (error) {
      await removeFolder();
      const isMissing = (error as NodeJS.ErrnoException).code === 'ENOENT';
      if (!isMissing || attempt === attempts) return onDisk(store.pathOf(leaseFile(part)), Promise.reject(error));
    }
  }
}

async function created(store: Store): Promise<() => Promise<void>> {
  try {
    return await store.create();
  } catch (error) {
    const names = await store.list().catch(() => []);
    const isBegun = names.some(isManifestFile);
    const elsewhere: Writing = { operation: 'dump', advice: 'Choose another folder' };
    return onDisk(store.name, Promise.reject(error), isBegun ? undefined : elsewhere);
  }
}

interface Contents extends Pick<PreparedFolder, 'shards' | 'manifest'> {
  /** The names of all files in the folder. */
  readonly names: readonly string[];
  /** The manifests of other parts, without those that were compared before. */
  readonly others: ReadonlyMap<string, Manifest>;
  /** The arithmetics of this part's shards. */
  readonly arithmetic: readonly string[];
  /** Whether there is a journal beside the manifest of a dump, or part, under way. `manifest` has its shards. */
  readonly hasJournal: boolean;
}

/** Files of somebody else that have the name of a journal. */
async function strangeAmong(store: Store, names: readonly string[]): Promise<string[]> {
  const journals = names.filter(isJournalFile);
  const isOne = await Promise.all(journals.map((name) => severalAtOnce(() => isJournal(store, name))));
  return journals.filter((_, i) => !isOne[i]);
}

async function contentsOf(store: Store, settings: DumpSettings, compared: ReadonlySet<string>): Promise<Contents> {
  const { name: folder } = store;
  const names = await store.list(); // before the manifests: another part may begin just now, with its manifest
  const own = manifestFile(settings.part);
  const named = names.filter(isManifestFile);
  const manifests = await readManifests(
    store,
    named.filter((name) => !compared.has(name) || name === own || name === manifestFile(whole)),
  );
  const found = manifests.get(own);
  // The manifest of a run that ended before its first shard was complete does not refuse another request. A shard that
  // it did publish is not removed for another request.
  const isEmpty = found?.shards.length === 0 && !names.some((name) => isShardOf(name, settings));
  const isOutdated = isEmpty && differenceOf(found, settings) !== undefined;
  for (const there of manifests.values()) if (there !== found || !isOutdated) checkSame(folder, there, settings);
  const manifest = isOutdated ? undefined : found;
  const strange = named.length === 0 || manifest?.complete ? await strangeAmong(store, names) : [];
  const isOurs = (name: string) => isLeftover(name) && !strange.includes(name);
  if (named.length === 0) checkNoOthers(store, names, strange);
  const journal = journalFile(settings.part);
  const hasJournal = manifest?.complete === false && names.includes(journal); // until `begin` has written the manifest
  const isMerged = manifest?.complete === true && settings.part.count === 1;
  const isOfMerged = (name: string) => isMerged && isJournalFile(name) && !named.includes(manifestOfJournal(name));
  for (const name of names.filter(isOurs)) {
    if (hasJournal && name === journal) continue;
    if (isOwn(name, settings) || isOfMerged(name)) await onDisk(folder, store.remove(name));
  }
  const shards = await shardsThere(store, manifest?.shards ?? []);
  const others = new Map([...manifests].filter(([name]) => name !== own));
  return { manifest, shards, names, others, hasJournal, arithmetic: isEmpty ? [] : (found?.arithmetic ?? []) };
}

async function begin(
  store: Store,
  settings: DumpSettings,
  { manifest, shards, names, others, hasJournal, arithmetic: made }: Contents,
  computing: Computing,
): Promise<readonly string[]> {
  const { name: folder } = store;
  const own = manifestFile(settings.part);
  const arithmetic = allArithmetics(made, computing.arithmetic);
  checkArithmetic(folder, made, computing);
  for (const there of others.values()) {
    if (hasShards(there, names)) checkArithmetic(folder, there.arithmetic, computing);
  }
  const isSame = manifest?.shards.length === shards.size && String(manifest.arithmetic) === String(arithmetic);
  if (!isSame || hasJournal) await writeManifest(store, makeManifest(settings, arithmetic, inOrder(shards), false));
  if (hasJournal) {
    const journal = journalFile(settings.part);
    await onDisk(store.pathOf(journal), store.remove(journal));
  }
  // Two parts that begin at the same time do not see each other before they have written. Now one of them does, or both
  // do: then the one of the higher index gives way, and the other waits for that.
  const before = new Set(names);
  const isNew = (name: string) => name !== own && (!before.has(name) || others.get(name)?.shards.length === 0);
  try {
    for (let look = 1; ; look++) {
      const conflict = await conflictIn(store, settings, computing, isNew);
      if (!conflict) return arithmetic;
      if (!conflict.mayGiveWay || look === looks) throw conflict.error;
      await setTimeout(pauseMilliseconds);
    }
  } catch (error) {
    if (!manifest) await store.remove(own);
    throw error;
  }
}

const looks = 40;
const pauseMilliseconds = 50;

/** What does not go together with this part, among the manifests whose name `isNew`. */
async function conflictIn(
  store: Store,
  settings: DumpSettings,
  computing: Computing,
  isNew: (name: string) => boolean,
): Promise<{ readonly error: unknown; readonly mayGiveWay: boolean } | undefined> {
  const now = await store.list();
  const news = now.filter((name) => isManifestFile(name) && isNew(name));
  let found: { error: unknown; mayGiveWay: boolean } | undefined;
  for (const there of news.length > 0 ? (await readManifests(store, news)).values() : []) {
    try {
      checkSame(store.name, there, settings);
      if (isUnderWay(there, now)) checkArithmetic(store.name, there.arithmetic, computing);
    } catch (error) {
      const mayGiveWay = there.part.index > settings.part.index && !hasShards(there, now);
      if (!mayGiveWay) return { error, mayGiveWay };
      found ??= { error, mayGiveWay };
    }
  }
  return found;
}

/** Whether a part has shards, listed or not, as far as the names in the folder show. */
const hasShards = (there: Manifest, names: readonly string[]): boolean =>
  there.shards.length > 0 || names.some((name) => isShardOf(name, there));

/** Whether a part has shards, or is being written. */
const isUnderWay = (there: Manifest, names: readonly string[]): boolean =>
  hasShards(there, names) || names.includes(leaseFile(there.part));

function checkArithmetic(folder: string, there: readonly string[], { arithmetic, anyArithmetic }: Computing): void {
  if (anyArithmetic) return;
  const other = there.find((name) => name !== unknownArithmetic && !arithmetic.includes(name));
  if (other === undefined) return;
  const here = arithmetic.map((name) => quoted(name)).join(' and ');
  throw new OtherArithmetic(
    `dump: ${folder} holds a dump that was begun with the arithmetic ${quoted(other)}, and this process computes with ` +
      `${here}: values would differ in some bits. ${allowAdvice}`,
  );
}

function checkSame(folder: string, there: DumpSettings, asked: DumpSettings): void {
  const difference = differenceOf(there, asked);
  if (!difference) return;
  const [label, has, wants] = difference;
  throw new Error(`dump: ${folder} holds a dump with ${label} ${has}, but ${wants} was asked for`);
}

/**
 * The shard, Parquet file, manifest or journal that an interrupted run's leftover belongs to; undefined for other
 * names. A journal is one itself, unless the manifest is of a dump under way.
 */
function leftoverOf(name: string): string | undefined {
  if (!isPlainName(name)) return undefined; // a name that no store accepts comes from no run
  if (isJournalFile(name)) return name;
  const file = name.endsWith('.claim') ? undefined : (manifestOfLease(name) ?? unfinishedOf(name));
  const isOurs = (file: string) => isManifestFile(file) || isJournalFile(file) || numberOf(file) !== undefined;
  return file !== undefined && isOurs(file) ? file : undefined;
}

const numberOf = (file: string): number | undefined => shardNumber(file) ?? parquetNumber(file);

const isLeftover = (name: string): boolean => leftoverOf(name) !== undefined;

/** Whether a file is a shard of the part, or a Parquet file of one. */
function isShardOf(name: string, { part }: DumpSettings): boolean {
  const number = numberOf(name);
  return number !== undefined && number % part.count === part.index;
}

// Other parts may be written to the same folder at this time.
function isOwn(leftover: string, { part }: DumpSettings): boolean {
  const file = leftoverOf(leftover) ?? leftover;
  const number = numberOf(file);
  if (number !== undefined) return number % part.count === part.index;
  return file === manifestFile(part) || file === journalFile(part);
}

async function shardsThere(store: Store, listed: readonly ShardEntry[]): Promise<Map<number, ShardEntry>> {
  const isWhole = await Promise.all(
    listed.map(async (entry) => {
      const there = await Promise.all(filesOf(entry).map((file) => severalAtOnce(() => isThere(store, file))));
      return !there.includes(false); // a shard with a missing file is written again
    }),
  );
  const found = listed.filter((_, i) => isWhole[i]);
  return new Map(found.map((entry) => [shardNumber(entry.file) as number, entry]));
}

/** @throws Error when the file differs from what the manifest says. */
async function isThere(store: Store, listed: ListedFile): Promise<boolean> {
  const problem = await problemWith(store, listed);
  if (problem === undefined || problem === missing) return problem === undefined;
  throw new Error(`dump: ${store.pathOf(listed.file)} ${problem}: remove it to have it written again`);
}
