// The folder a dump is written to: refuses what is not its own or is somebody else's just now, clears away what an
// interrupted run left, and says which shards are there already.
import { isPlainName, type Store, unfinishedOf } from '../files/store.js';
import { onDisk, severalAtOnce } from './disk.js';
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
} from './manifest.js';
import type { DumpSettings } from './settings.js';

export interface PreparedFolder {
  /** Shards that are there, by number. */
  readonly shards: Map<number, ShardEntry>;
  /** What the folder's manifest says; undefined for a new dump. */
  readonly manifest: Manifest | undefined;
  /** @throws Error when another process has taken over, which happens when this one stood still. */
  readonly check: () => Promise<void>;
  /** For the next process. */
  readonly release: () => Promise<void>;
}

/** @throws Error when the folder holds something else, with the difference named, or when another process writes to it. */
export async function prepareFolder(store: Store, settings: DumpSettings): Promise<PreparedFolder> {
  const { name: folder } = store;
  await onDisk(folder, store.create());
  const claim = await onDisk(folder, store.claim(claimFile(settings.part)));
  if (typeof claim === 'string') {
    throw new Error(`dump: ${folder} is being written by ${claim}: wait until it is done, or choose another folder`);
  }
  try {
    return {
      ...(await contentsOf(store, settings)),
      async check() {
        if (await claim.lost()) throw new Error(`dump: ${folder} was taken over by another process`);
      },
      release: () => claim.release(),
    };
  } catch (error) {
    await claim.release();
    throw error;
  }
}

async function contentsOf(store: Store, settings: DumpSettings): Promise<Pick<PreparedFolder, 'shards' | 'manifest'>> {
  const { name: folder } = store;
  const names = await store.list(); // before the manifests: another part may begin just now, with its manifest
  const own = manifestFile(settings.part);
  // Of other parts, which may be many, one stands for all: each was checked when it began.
  const manifests = await readManifests(store, [
    own,
    manifestFile(whole),
    ...names.filter((name) => isManifestFile(name) && name !== own).slice(0, 2),
  ]);
  for (const there of manifests.values()) checkSame(folder, there, settings);
  const leftovers = names.filter(isLeftover);
  const other = names.find((name) => !isLeftover(name) && claimedFile(name) === undefined);
  if (manifests.size === 0 && other !== undefined) {
    throw new Error(`dump: ${folder} is not empty and has no manifest.json (it has ${other}): choose another folder`);
  }
  for (const name of leftovers.filter((name) => isOwn(name, settings))) {
    await onDisk(folder, store.remove(name));
  }
  const manifest = manifests.get(own);
  return { manifest, shards: await shardsThere(store, manifest?.shards ?? []) };
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

// Other parts may be at work in the same folder.
function isOwn(leftover: string, { part }: DumpSettings): boolean {
  const file = leftoverOf(leftover) as string;
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
