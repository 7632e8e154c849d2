// Prepares the folder that a dump is written to: refuses a folder with other contents, or one that another process
// writes to, removes what an interrupted run left, and finds the shards that are there already.
import { isPlainName, type Store, unfinishedOf } from '../../files/store/store.js';
import { onDisk, severalAtOnce, type Writing } from '../format/disk.js';
import {
  differenceOf,
  filesOf,
  isManifestFile,
  type ListedFile,
  leaseFile,
  type Manifest,
  manifestFile,
  manifestOfLease,
  missing,
  parquetNumber,
  problemWith,
  readManifests,
  type ShardEntry,
  shardNumber,
  whole,
} from '../format/manifest.js';
import { NonFiniteError, showNonFinite } from '../format/non_finite.js';
import type { DumpSettings } from '../format/settings.js';

export interface PreparedFolder {
  /** Shards that are there, by number. */
  readonly shards: Map<number, ShardEntry>;
  /** The manifest in the folder; undefined for a new dump. */
  readonly manifest: Manifest | undefined;
  /** The folder has no valid manifest of any part. */
  readonly isNew: boolean;
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
 * @throws Error when the folder holds something else, with the difference named, or when another process writes to it.
 */
export async function prepareFolder(store: Store, settings: DumpSettings): Promise<PreparedFolder> {
  const { name: folder } = store;
  const { lease, removeFolder } = await leased(store, settings);
  if (typeof lease === 'string') {
    throw new Error(`dump: ${folder} is being written by ${lease}: wait until it is done, or choose another folder`);
  }
  const check = async () => {
    if (await lease.lost()) throw new Error(`dump: ${folder} was taken over by another process`);
  };
  try {
    const contents = await contentsOf(store, settings);
    return {
      ...contents,
      check,
      release: () => lease.release(),
      async undo() {
        const names = await store.list();
        const listed = contents.manifest?.shards.length ?? 0;
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

/** @throws NonFiniteError that names the first of `shards` with values that are not finite: the request refuses them. */
export function checkFinite({ name: folder }: Store, shards: Iterable<ShardEntry>): void {
  for (const { file, nonFinite = {} } of shards) {
    const [counted] = Object.entries(nonFinite);
    if (!counted) continue;
    const [location, counts] = counted;
    throw new NonFiniteError(
      `dump: ${folder} holds ${file}, where of ${location} ${showNonFinite(counts)}. ` +
        'Without finite, the dump goes on; with it, choose another folder',
      shardNumber(file) as number,
    );
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

async function contentsOf(
  store: Store,
  settings: DumpSettings,
): Promise<Pick<PreparedFolder, 'shards' | 'manifest' | 'isNew'>> {
  const { name: folder } = store;
  const names = await store.list(); // before the manifests: another part may begin just now, with its manifest
  const own = manifestFile(settings.part);
  // There may be many other parts. Two manifests are enough, as each was compared with others when its part began.
  const manifests = await readManifests(store, [
    own,
    manifestFile(whole),
    ...names.filter((name) => isManifestFile(name) && name !== own).slice(0, 2),
  ]);
  const found = manifests.get(own);
  // The manifest of a run that ended before its first shard was complete does not refuse another request. A shard that
  // it did publish is not removed for another request.
  const isEmpty = found?.shards.length === 0 && !names.some((name) => isShardOf(name, settings));
  const isOutdated = isEmpty && differenceOf(found, settings) !== undefined;
  const standing = [...manifests.values()].filter((there) => there !== found || !isOutdated);
  for (const there of standing) checkSame(folder, there, settings);
  const leftovers = names.filter(isLeftover);
  const other = names.find((name) => !isLeftover(name) && manifestOfLease(name) === undefined);
  if (manifests.size === 0 && other !== undefined) {
    throw new Error(`dump: ${folder} is not empty and has no manifest.json (it has ${other}): choose another folder`);
  }
  for (const name of leftovers.filter((name) => isOwn(name, settings))) {
    await onDisk(folder, store.remove(name));
  }
  const manifest = isOutdated ? undefined : found;
  return { manifest, isNew: standing.length === 0, shards: await shardsThere(store, manifest?.shards ?? []) };
}

function checkSame(folder: string, there: DumpSettings, asked: DumpSettings): void {
  const difference = differenceOf(there, asked);
  if (!difference) return;
  const [label, has, wants] = difference;
  throw new Error(`dump: ${folder} holds a dump with ${label} ${has}, but ${wants} was asked for`);
}

/** The shard, Parquet file or manifest that an interrupted run's leftover belongs to; undefined for other names. */
function leftoverOf(name: string): string | undefined {
  if (!isPlainName(name)) return undefined; // a name that no store accepts comes from no run
  const file = name.endsWith('.claim') ? undefined : (manifestOfLease(name) ?? unfinishedOf(name));
  return file !== undefined && (isManifestFile(file) || numberOf(file) !== undefined) ? file : undefined;
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
  return number === undefined ? file === manifestFile(part) : number % part.count === part.index;
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
