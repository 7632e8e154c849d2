// Prepares the folder that a dump is written to: refuses a folder with other contents, or one that another process
// writes to, removes what an interrupted run left, and finds the shards that are there already.
import { setTimeout } from 'node:timers/promises';
import { isPlainName, type Store, unfinishedOf } from '../../files/store/store.js';
import { quoted } from '../../files/text.js';
import {
  holdsCorpusList,
  isCorpusList,
  referenceTo,
  repairCorpusList,
  writeCorpusList,
} from '../format/corpus_list.js';
import { forEachAtOnce, onDisk, type Writing } from '../format/disk.js';
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
  ManifestReader,
  makeManifest,
  manifestFile,
  manifestOfLease,
  missing,
  mixedIn,
  parquetFile,
  parquetNumber,
  partOfManifest,
  problemWith,
  readManifests,
  type ShardEntry,
  shardFile,
  shardNumber,
  unknownArithmetic,
  whole,
  writeManifest,
} from '../format/manifest.js';
import { NonFiniteError, showNonFinite } from '../format/non_finite.js';
import type { CorpusList, DumpSettings, Part } from '../format/settings.js';

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

/** The error of a run that would write what another process is writing. It may find the folder free later on. */
export class BeingWritten extends Error {}

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

/** A folder beside the files of one part, as it was when it was listed. */
interface Surroundings {
  /** The names of all files. */
  readonly names: readonly string[];
  /** The parts that have shards, listed or not, as far as the names show. */
  readonly withShards: ReadonlySet<number>;
  /** Manifests that were read: those of all parts when there are few. */
  readonly manifests: ReadonlyMap<string, Manifest>;
}

const usualPauseMilliseconds = 30_000;

/**
 * What a process knows of a folder in which it makes many parts of one shard each. It looks at the whole folder when it
 * begins, and again when some time has passed. In between, it looks up the files of the part that it makes. So the cost
 * of a part does not grow with the number of the others.
 */
export class FolderView {
  surroundings: Surroundings = { names: [], manifests: new Map(), withShards: new Set() };
  /** The names of manifests that were compared, and need not be read again. */
  readonly compared = new Set<string>();
  /**
   * Whether the folder has shards that go together with those of this process. Then every other process finds them, and
   * this one need not look whether another dump was begun at the same time.
   */
  isSettled = false;
  readonly #pause: number;
  #listed = Number.NEGATIVE_INFINITY;

  /** The folder is listed again after `pauseMilliseconds`. */
  constructor(pauseMilliseconds: number = usualPauseMilliseconds) {
    this.#pause = pauseMilliseconds;
  }

  get isRecent(): boolean {
    return performance.now() - this.#listed < this.#pause;
  }

  update(surroundings: Surroundings): void {
    this.surroundings = surroundings;
    this.#listed = performance.now();
  }

  /** Notes manifests that were found to go together with what this process computes. */
  compare(manifests: ReadonlyMap<string, Manifest>, { arithmetic }: Computing): void {
    for (const [name, there] of manifests) {
      if (there.shards.length === 0) continue;
      this.compared.add(name);
      if (there.arithmetic.some((made) => arithmetic.includes(made))) this.isSettled = true;
    }
  }
}

/**
 * `view` is for a process that makes many parts.
 * @throws BeingWritten when another process writes to the folder, or to this part of it; Error when the folder holds
 *   something else, with the difference named.
 */
export async function prepareFolder(store: Store, settings: DumpSettings, view?: FolderView): Promise<PreparedFolder> {
  const { name: folder } = store;
  const { lease, removeFolder } = await leased(store, settings);
  if (typeof lease === 'string') {
    throw new BeingWritten(
      `dump: ${folder} is being written by ${lease}: wait until it is done, or choose another folder`,
    );
  }
  const check = async () => {
    if (await lease.lost()) throw new Error(`dump: ${folder} was taken over by another process`);
  };
  try {
    const contents = await contentsOf(store, settings, view);
    const { manifest, shards } = contents;
    return {
      manifest,
      shards,
      isDone: manifest?.complete === true && shards.size === manifest.shards.length,
      async begin(computing) {
        await check();
        const arithmetic = await begin(store, settings, contents, computing, view);
        view?.compare(contents.manifests, computing);
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
          for (const list of [settings.corpus, contents.replaced]) {
            if (list) await removeUnusedList(store, settings, list);
          }
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
    const named = names.filter(isManifestFile);
    if (named.length === 0) await checkNothingElse(store, names, await strangeAmong(store, names));
    if (!settings) return undo;
    const manifests = await readManifests(store, spread(named, mostCompared, 0), new ManifestReader(settings.corpus));
    for (const there of manifests.values()) {
      if (there.shards.length > 0) checkSame(store.name, { ...there, part: whole }, { ...settings, part: whole });
    }
    return undo;
  } catch (error) {
    await undo();
    throw error;
  }
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

interface PartContents extends Pick<PreparedFolder, 'shards' | 'manifest'> {
  /** The arithmetics of this part's shards. */
  readonly arithmetic: readonly string[];
  /** The corpus of a request that ended before its first shard, and whose manifest this one's replaces. */
  readonly replaced: CorpusList | undefined;
  /** Whether there is a journal beside the manifest of a dump, or part, under way. `manifest` has its shards. */
  readonly hasJournal: boolean;
}

/** Files of somebody else that have the name of a journal. */
async function strangeAmong(store: Store, names: readonly string[]): Promise<string[]> {
  const strange: string[] = [];
  await forEachAtOnce(names.filter(isJournalFile), async (name) => {
    if (!(await isJournal(store, name))) strange.push(name);
  });
  return strange;
}

interface Contents extends PartContents, Surroundings {}

const contentsOf = async (store: Store, settings: DumpSettings, view: FolderView | undefined): Promise<Contents> =>
  (view?.isRecent ? await knownContents(store, settings, view) : undefined) ?? listedContents(store, settings, view);

/** Lists the folder, and removes what killed processes have left there. */
async function listedContents(store: Store, settings: DumpSettings, view: FolderView | undefined): Promise<Contents> {
  const { name: folder } = store;
  const { part, corpus } = settings;
  const own = manifestFile(part);
  const names = await store.list(); // before the manifests: another part may begin just now, with its manifest
  const named = names.filter(isManifestFile);
  const withShards = partsWithShards(names, part.count);
  const sample = sampleOf(names, part, withShards, view?.compared);
  const reader = new ManifestReader(corpus);
  const manifests = await readManifests(
    store,
    named.filter((name) => name === own || name === manifestFile(whole) || sample.has(name)),
    reader,
  );
  const ownContents = await contentsOfPart(store, settings, manifests, names);
  const { manifest, hasJournal } = ownContents;
  const strange = named.length === 0 || manifest?.complete ? await strangeAmong(store, names) : [];
  if (named.length === 0) await checkNothingElse(store, names, strange);
  const isMerged = manifest?.complete === true && part.count === 1;
  const isOfMerged = (name: string) => isMerged && isJournalFile(name) && !named.includes(manifestOfJournal(name));
  for (const name of names.filter((name) => isLeftover(name) && !strange.includes(name))) {
    if (hasJournal && name === journalFile(part)) continue; // until `begin` has written the manifest
    if (isOwn(name, settings) || isOfMerged(name)) await onDisk(folder, store.remove(name));
  }
  await removeLostLists(store, settings, names);
  if (part.count > 1 && reader.lists.refersTo(corpus)) await repairCorpusList(store, corpus);
  const surroundings: Surroundings = { names, withShards, manifests };
  if (view) {
    await removeOthersLeftovers(store, settings, names);
    view.update(surroundings);
  }
  return { ...ownContents, ...surroundings };
}

/**
 * Looks up the files of a part of one shard, where the others were compared before. Undefined when there is the manifest
 * of a whole dump, which such a part does not go together with.
 */
async function knownContents(
  store: Store,
  settings: DumpSettings,
  { surroundings }: FolderView,
): Promise<Contents | undefined> {
  const { part, parquet, autoencoders, corpus } = settings;
  const manifests = await readManifests(store, [manifestFile(part), manifestFile(whole)], new ManifestReader(corpus));
  if (manifests.has(manifestFile(whole))) return undefined;
  const there: string[] = [];
  const own = manifests.get(manifestFile(part));
  if (own && !own.complete && (await store.find(journalFile(part)))) there.push(journalFile(part));
  if (own?.shards.length === 0) {
    const latents = parquet ? autoencoders.map(({ location }) => parquetFile(part.index, location)) : [];
    for (const file of [shardFile(part.index), ...latents]) if (await store.find(file)) there.push(file);
  }
  return { ...(await contentsOfPart(store, settings, manifests, there)), ...surroundings };
}

/** Compares manifests with the request. `names` are those of the folder's files that may be shards of the part, and of its
 * journal. */
async function contentsOfPart(
  store: Store,
  settings: DumpSettings,
  manifests: ReadonlyMap<string, Manifest>,
  names: readonly string[],
): Promise<PartContents> {
  const found = manifests.get(manifestFile(settings.part));
  // The manifest of a run that ended before its first shard was complete does not refuse another request. A shard that
  // it did publish is not removed for another request.
  const isEmpty = found?.shards.length === 0 && !names.some((name) => isShardOf(name, settings));
  const isOutdated = isEmpty && differenceOf(found, settings) !== undefined;
  for (const there of manifests.values()) {
    if (there !== found || !isOutdated) checkSame(store.name, there, settings);
  }
  const manifest = isOutdated ? undefined : found;
  const shards = await shardsThere(store, manifest?.shards ?? []);
  const arithmetic = isEmpty ? [] : (found?.arithmetic ?? []);
  const hasJournal = manifest?.complete === false && names.includes(journalFile(settings.part));
  return { manifest, shards, arithmetic, hasJournal, replaced: isOutdated ? found.corpus : undefined };
}

/** @throws Error when a folder without a manifest holds what no dump has written, the `strange` files among them. */
async function checkNothingElse(store: Store, names: readonly string[], strange: readonly string[]): Promise<void> {
  for (const name of names) {
    const isKnown = isLeftover(name) || isIndexFile(name) || manifestOfLease(name) !== undefined;
    if (isKnown && !strange.includes(name)) continue;
    if (isCorpusList(name) && (await holdsCorpusList(store, name))) continue;
    throw new Error(
      `dump: ${store.name} is not empty and has no manifest.json (it has ${name}): choose another folder`,
    );
  }
}

async function begin(
  store: Store,
  settings: DumpSettings,
  { manifest, shards, names, withShards, manifests, arithmetic: made, replaced, hasJournal }: Contents,
  computing: Computing,
  view: FolderView | undefined,
): Promise<readonly string[]> {
  const { name: folder } = store;
  const own = manifestFile(settings.part);
  const arithmetic = allArithmetics(made, computing.arithmetic);
  checkArithmetic(folder, made, computing);
  for (const [name, there] of manifests) {
    const isMade = there.shards.length > 0 || withShards.has(there.part.index);
    if (name !== own && isMade) checkArithmetic(folder, there.arithmetic, computing);
  }
  const isSame = manifest?.shards.length === shards.size && String(manifest.arithmetic) === String(arithmetic);
  if (!isSame || hasJournal) {
    await writeManifest(store, makeManifest(settings, arithmetic, inOrder(shards), false));
    if (replaced && referenceTo(replaced).file !== referenceTo(settings.corpus).file) {
      await removeUnusedList(store, settings, replaced);
    }
  }
  if (hasJournal) {
    const journal = journalFile(settings.part);
    await onDisk(store.pathOf(journal), store.remove(journal));
  }
  if (view?.isSettled) return arithmetic;
  // Two parts that begin at the same time do not see each other before they have written. Now one of them does, or both
  // do: then the one of the higher index gives way, and the other waits for that.
  const before = new Set(names);
  const isNew = (name: string) => name !== own && (!before.has(name) || manifests.get(name)?.shards.length === 0);
  try {
    for (let look = 1; ; look++) {
      const conflict = await conflictIn(store, settings, computing, isNew);
      if (!conflict) return arithmetic;
      if (!conflict.mayGiveWay || look === looks) throw conflict.error;
      await setTimeout(pauseMilliseconds);
    }
  } catch (error) {
    if (!manifest) {
      await store.remove(own);
      await removeUnusedList(store, settings, settings.corpus);
    }
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
  for (const there of news.length > 0
    ? (await readManifests(store, news, new ManifestReader(settings.corpus))).values()
    : []) {
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
 * The shard, Parquet file, manifest, list or journal that an interrupted run's leftover belongs to; undefined for other
 * names. A journal is one itself, unless the manifest is of a dump under way.
 */
function leftoverOf(name: string): string | undefined {
  if (!isPlainName(name)) return undefined; // a name that no store accepts comes from no run
  if (isJournalFile(name)) return name;
  const file = name.endsWith('.claim') ? undefined : (manifestOfLease(name) ?? unfinishedOf(name));
  if (file === undefined) return undefined;
  const isKnown = isManifestFile(file) || isJournalFile(file) || isCorpusList(file) || numberOf(file) !== undefined;
  return isKnown ? file : undefined;
}

const numberOf = (file: string): number | undefined => shardNumber(file) ?? parquetNumber(file);

/** Whether a file is what an interrupted run has left. */
export const isLeftover = (name: string): boolean => leftoverOf(name) !== undefined;

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
  const lacking = new Set<ShardEntry>(); // a shard with a missing file is written again
  await forEachAtOnce(listed, async (entry) => {
    for (const file of filesOf(entry)) if (!(await isThere(store, file))) lacking.add(entry);
  });
  const found = listed.filter((entry) => !lacking.has(entry));
  return new Map(found.map((entry) => [shardNumber(entry.file) as number, entry]));
}

/** @throws Error when the file differs from what the manifest says. */
async function isThere(store: Store, listed: ListedFile): Promise<boolean> {
  const problem = await problemWith(store, listed);
  if (problem === undefined || problem === missing) return problem === undefined;
  throw new Error(`dump: ${store.pathOf(listed.file)} ${problem}: remove it to have it written again`);
}

// ---- other parts of the folder

const mostCompared = 64;

/**
 * The names of the manifests that a part is compared with: those of all other parts when there are few. Equality is
 * transitive, and each of the parts was compared with others when it began, so a sample is enough: parts of another
 * count, which belong to another dump, then parts with shards, parts that are being written, and the rest.
 */
function sampleOf(
  names: readonly string[],
  own: Part,
  withShards: ReadonlySet<number>,
  compared?: ReadonlySet<string>,
): Set<string> {
  const all = new Set(names);
  const groups: [string[], string[], string[], string[]] = [[], [], [], []];
  for (const name of names) {
    const part = compared?.has(name) ? undefined : partOfManifest(name);
    if (part === undefined || part.count === 1 || name === manifestFile(own)) continue;
    if (part.count !== own.count) groups[0].push(name);
    else if (withShards.has(part.index)) groups[1].push(name);
    else if (all.has(leaseFile(part))) groups[2].push(name);
    else groups[3].push(name);
  }
  const sample = new Set<string>();
  if (groups.flat().length <= mostCompared) return new Set(groups.flat());
  for (const group of groups) {
    const left = mostCompared - sample.size;
    const most = group === groups[3] ? left : Math.ceil(left / 2); // so that each group has its share
    for (const name of spread(group, most, own.index)) sample.add(name);
  }
  return sample;
}

/** Some of the items, at equal distances. Which ones depends on `seed`, so that different parts take different ones. */
function spread<T>(items: readonly T[], most: number, seed: number): T[] {
  if (items.length <= most || most === 0) return items.slice(0, most);
  const first = seed % Math.floor(items.length / most);
  return Array.from({ length: most }, (_, i) => items[first + Math.floor((i * items.length) / most)] as T);
}

/** The parts that have shards, listed or not, as far as the names in the folder show. */
function partsWithShards(names: readonly string[], count: number): Set<number> {
  const numbers = names.map(numberOf).filter((number) => number !== undefined);
  return new Set(numbers.map((number) => number % count));
}

const mostCleaned = 8;

/**
 * Removes what killed attempts have left of other parts, if nobody is at them. What cannot be removed now is at another
 * time, by the process that makes the part, or by the merge.
 */
async function removeOthersLeftovers(store: Store, { part }: DumpSettings, names: readonly string[]): Promise<void> {
  const { count } = part;
  const there = new Set(names);
  const leftovers = new Map<number, string[]>();
  for (const name of names) {
    const file = leftoverOf(name);
    if (file === undefined || isCorpusList(file)) continue;
    const number = numberOf(file);
    const index = number === undefined ? partOfManifest(file)?.index : number % count;
    if (index === undefined || index >= count || index === part.index) continue;
    if (there.has(leaseFile({ index, count }))) continue;
    leftovers.set(index, [...(leftovers.get(index) ?? []), name]);
  }
  for (const [index, left] of [...leftovers].slice(0, mostCleaned)) {
    try {
      const lease = await store.takeLease(leaseFile({ index, count }));
      if (typeof lease === 'string') continue; // somebody has just begun with it
      try {
        for (const name of left) await store.remove(name);
      } finally {
        await lease.release();
      }
    } catch {
      // it is no fault of this part
    }
  }
}

// ---- lists of the corpus

const isListOrPiece = (name: string): boolean => isCorpusList(leftoverOf(name) ?? name);

/** Whether a file is the manifest of a part, not of a whole dump. */
export const isManifestOfPart = (name: string): boolean => (partOfManifest(name)?.count ?? 1) > 1;

/**
 * Removes lists that no manifest refers to, and unfinished ones: processes that were killed have left them. Whoever
 * writes a list holds a lease, from before it begins until a manifest refers to it.
 */
async function removeLostLists(store: Store, { part, corpus }: DumpSettings, names: readonly string[]): Promise<void> {
  const needed = part.count > 1 ? referenceTo(corpus).file : undefined;
  const candidates = names.filter((name) => isListOrPiece(name) && name !== needed);
  if (candidates.length === 0) return;
  const now = await store.list();
  const isLease = (name: string) => manifestOfLease(name) !== undefined && !isLeftover(name);
  if (now.some((name) => isLease(name) && name !== leaseFile(part))) return;
  const areUsed = now.some(isManifestOfPart);
  for (const name of candidates) {
    const isLost = isLeftover(name) || (!areUsed && (await holdsCorpusList(store, name)));
    if (isLost) await onDisk(store.name, store.remove(name));
  }
}

/** Removes a list when no manifest of another part is there that may refer to it. */
async function removeUnusedList(store: Store, { part }: DumpSettings, list: CorpusList): Promise<void> {
  if (part.count === 1) return;
  const own = manifestFile(part);
  const isUsed = async () => (await store.list()).some((name) => isManifestOfPart(name) && name !== own);
  if (await isUsed()) return;
  await store.remove(referenceTo(list).file);
  if (await isUsed()) await writeCorpusList(store, list); // another part has begun meanwhile
}
