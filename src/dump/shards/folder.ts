// The folder a dump is written to: refuses what is not its own or is somebody else's just now, clears away what an
// interrupted run left, and says which shards are there already.
import { isPlainName, type Store, unfinishedOf } from '../../files/store/store.js';
import { onDisk, severalAtOnce, type Writing } from '../format/disk.js';
import {
  claimedFile,
  claimFile,
  differenceOf,
  filesOf,
  isManifestFile,
  type ListedFile,
  type Manifest,
  manifestFile,
  missing,
  parquetNumber,
  problemWith,
  readManifests,
  type ShardEntry,
  shardNumber,
  whole,
} from '../format/manifest.js';
import type { DumpSettings } from '../format/settings.js';

export interface PreparedFolder {
  /** Shards that are there, by number. */
  readonly shards: Map<number, ShardEntry>;
  /** What the folder's manifest says; undefined for a new dump. */
  readonly manifest: Manifest | undefined;
  /** It has no manifest that counts, of whatever part. */
  readonly isNew: boolean;
  /** @throws Error when another process has taken over, which happens when this one stood still. */
  readonly check: () => Promise<void>;
  /** For the next process. */
  readonly release: () => Promise<void>;
  /**
   * For a corpus without tokens, before `release`: removes the manifest that lists none, so that nothing is left that
   * another request would be compared with. Returns what removes the folder, if it was made and is empty, after `release`.
   */
  readonly undo: () => Promise<() => Promise<void>>;
}

/** @throws Error when the folder holds something else, with the difference named, or when another process writes to it. */
export async function prepareFolder(store: Store, settings: DumpSettings): Promise<PreparedFolder> {
  const { name: folder } = store;
  const { claim, removeFolder } = await claimed(store, settings);
  if (typeof claim === 'string') {
    throw new Error(`dump: ${folder} is being written by ${claim}: wait until it is done, or choose another folder`);
  }
  const check = async () => {
    if (await claim.lost()) throw new Error(`dump: ${folder} was taken over by another process`);
  };
  try {
    const contents = await contentsOf(store, settings);
    return {
      ...contents,
      check,
      release: () => claim.release(),
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
    await claim.release();
    await removeFolder();
    throw error;
  }
}

const attempts = 3;

/** Another process may remove the folder that it made for nothing between the two steps. */
async function claimed(store: Store, { part }: DumpSettings) {
  for (let attempt = 1; ; attempt++) {
    const removeFolder = await created(store);
    try {
      return { claim: await store.takeLease(claimFile(part)), removeFolder };
    } catch (error) {
      await removeFolder();
      const isGone = (error as NodeJS.ErrnoException).code === 'ENOENT';
      if (!isGone || attempt === attempts) return onDisk(store.pathOf(claimFile(part)), Promise.reject(error));
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
  // Of other parts, which may be many, one stands for all: each was checked when it began.
  const manifests = await readManifests(store, [
    own,
    manifestFile(whole),
    ...names.filter((name) => isManifestFile(name) && name !== own).slice(0, 2),
  ]);
  const found = manifests.get(own);
  // A run that ended before its first shard was whole is in nobody's way. A shard that it came to is not removed for
  // another request.
  const isEmpty = found?.shards.length === 0 && !names.some((name) => isShardOf(name, settings));
  const isOutdated = isEmpty && differenceOf(found, settings) !== undefined;
  const standing = [...manifests.values()].filter((there) => there !== found || !isOutdated);
  for (const there of standing) checkSame(folder, there, settings);
  const leftovers = names.filter(isLeftover);
  const other = names.find((name) => !isLeftover(name) && claimedFile(name) === undefined);
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

/** What an interrupted run's leftover belongs to: a shard, a Parquet file of one, or a manifest. */
function leftoverOf(name: string): string | undefined {
  if (!isPlainName(name)) return undefined; // of no run: no store would have taken it
  const file = name.endsWith('.claim') ? undefined : (claimedFile(name) ?? unfinishedOf(name));
  return file !== undefined && (isManifestFile(file) || numberOf(file) !== undefined) ? file : undefined;
}

const numberOf = (file: string): number | undefined => shardNumber(file) ?? parquetNumber(file);

const isLeftover = (name: string): boolean => leftoverOf(name) !== undefined;

/** Whether a file is a shard of the part, or a Parquet file of one. */
function isShardOf(name: string, { part }: DumpSettings): boolean {
  const number = numberOf(name);
  return number !== undefined && number % part.count === part.index;
}

// Other parts may be at work in the same folder.
function isOwn(leftover: string, { part }: DumpSettings): boolean {
  const file = leftoverOf(leftover) ?? leftover;
  const number = numberOf(file);
  return number === undefined ? file === manifestFile(part) : number % part.count === part.index;
}

async function shardsThere(store: Store, listed: readonly ShardEntry[]): Promise<Map<number, ShardEntry>> {
  const whole = await Promise.all(
    listed.map(async (entry) => {
      const there = await Promise.all(filesOf(entry).map((file) => severalAtOnce(() => isThere(store, file))));
      return !there.includes(false); // else it will be written again
    }),
  );
  const found = listed.filter((_, i) => whole[i]);
  return new Map(found.map((entry) => [shardNumber(entry.file) as number, entry]));
}

/** @throws Error when there is something else. */
async function isThere(store: Store, listed: ListedFile): Promise<boolean> {
  const problem = await problemWith(store, listed);
  if (problem === undefined || problem === missing) return problem === undefined;
  throw new Error(`dump: ${store.pathOf(listed.file)} ${problem}: remove it to have it written again`);
}
