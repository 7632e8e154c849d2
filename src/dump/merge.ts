// Makes one dump of parts (`shard: { index, count }`) by writing the manifest of the whole. Shards are not copied: those
// of other folders get a second name, a hard link, in the folder of the whole.
import { link, lstat, mkdir, readdir, rm, rmdir, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { syncFolder } from '../files/atomic_write.js';
import { claimOrOwner } from '../files/claim.js';
import { onDisk } from './disk.js';
import {
  claimFile,
  differenceOf,
  isManifestFile,
  type Manifest,
  makeManifest,
  manifestFile,
  readManifests,
  type ShardEntry,
  shardFile,
  shardNumber,
  whole,
  writeManifest,
} from './manifest.js';

export interface MergeResult {
  readonly out: string;
  readonly rows: number;
  readonly tokens: number;
  readonly shards: number;
  /** Shards that got a name in the folder. */
  readonly linked: number;
}

/** A part, and the folder it lies in. */
interface Part {
  readonly folder: string;
  readonly manifest: Manifest;
}

interface PlacedShard {
  readonly folder: string;
  readonly entry: ShardEntry;
}

/**
 * Makes one dump in `out` of the parts that lie there and in the folders `from`, which must be on the same disk and stay as
 * they are. The result is, byte for byte, the dump of one process. A call that was interrupted is finished by the same
 * call; a dump that is whole already is left alone.
 * @throws Error when a part is missing, incomplete or there twice, when parts are of different dumps, or when their shards
 *   do not make a whole; nothing is changed then.
 */
export async function mergeDumps(out: string, from: readonly string[] = []): Promise<MergeResult> {
  if (typeof out !== 'string' || out === '') throw new TypeError('merge: out must be the path of a folder');
  const others = [...new Set(from.map((folder) => resolve(folder)))].filter((folder) => folder !== resolve(out));
  const made = await onDisk(out, mkdir(out, { recursive: true }));
  const claim = await onDisk(out, claimOrOwner(out, claimFile(whole)));
  if (typeof claim === 'string') throw new Error(`merge: ${out} is being written by ${claim}: wait until it is done`);
  try {
    return await merge(out, others);
  } finally {
    await claim.release();
    if (made !== undefined) await rmdir(out).catch(() => {}); // unless there is something in it now
  }
}

async function merge(out: string, others: readonly string[]): Promise<MergeResult> {
  const parts: Part[] = [];
  for (const folder of [out, ...others]) parts.push(...(await partsIn(folder)));
  const [first] = parts;
  if (!first) throw new Error(`merge: there is no part of a dump in ${[out, ...others].join(', ')}`);
  const isWhole = first.folder === out && first.manifest.part.count === 1; // merged already
  for (const { folder, manifest } of parts.slice(1)) {
    checkSame(first, { folder, manifest: isWhole ? { ...manifest, part: whole } : manifest });
  }
  const taken = isWhole ? [first] : parts;
  checkAllThere(taken);
  const shards = shardsOf(taken);
  for (const shard of shards) await checkThere(shard);
  for (const shard of shards) await checkFree(out, shard);

  let linked = 0;
  for (const { folder, entry } of shards) if (folder !== out && (await linkInto(out, folder, entry))) linked++;
  if (linked > 0) await onDisk(out, syncFolder(out));
  const entries = shards.map(({ entry }) => entry);
  if (!isWhole) {
    const { shards: _, complete: _complete, format: _format, version: _version, ...settings } = first.manifest;
    await writeManifest(out, makeManifest({ ...settings, part: whole }, entries, true));
  }
  for (const name of await readdir(out)) {
    if (isManifestFile(name) && name !== manifestFile(whole)) await onDisk(out, rm(join(out, name), { force: true }));
  }
  await onDisk(out, syncFolder(out));
  return {
    out,
    rows: entries.reduce((sum, { rows }) => sum + rows, 0),
    tokens: entries.reduce((sum, { tokens }) => sum + tokens, 0),
    shards: entries.length,
    linked,
  };
}

async function partsIn(folder: string): Promise<Part[]> {
  const manifests = await readManifests(folder).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === undefined) throw cause;
    throw new Error(`merge: ${folder}: ${cause.code === 'ENOENT' ? 'there is no such folder' : cause.message}`, {
      cause,
    });
  });
  return [...manifests.values()].map((manifest) => ({ folder, manifest }));
}

function checkSame(first: Part, other: Part): void {
  const difference = differenceOf(first.manifest, other.manifest);
  if (!difference) return;
  const [label, one, two] = difference;
  throw new Error(
    `merge: the parts are not of one dump: ${first.folder} has ${label} ${one}, and ${other.folder} has ${two}`,
  );
}

function checkAllThere(parts: readonly Part[]): void {
  const { count } = (parts[0] as Part).manifest.part;
  const places = new Map<number, string>();
  for (const { folder, manifest } of parts) {
    const { index } = manifest.part;
    const before = places.get(index);
    if (before !== undefined) throw new Error(`merge: part ${index} of ${count} is in ${before} and in ${folder}`);
    if (!manifest.complete) {
      throw new Error(`merge: part ${index} of ${count} in ${folder} is not complete: its command goes on with it`);
    }
    places.set(index, folder);
  }
  const missing = Array.from({ length: count }, (_, index) => index).filter((index) => !places.has(index));
  if (missing.length === 0) return;
  const shown = missing.slice(0, 10).join(', ') + (missing.length > 10 ? ', …' : '');
  throw new Error(`merge: of ${count} parts, ${missing.length} are missing: ${shown}`);
}

/** In order. Only the last one may have fewer rows than the others. */
function shardsOf(parts: readonly Part[]): PlacedShard[] {
  const { context, shardTokens } = (parts[0] as Part).manifest;
  const full = Math.max(1, Math.floor(shardTokens / context));
  const shards = parts
    .flatMap(({ folder, manifest }) => manifest.shards.map((entry) => ({ folder, entry })))
    .sort((a, b) => (shardNumber(a.entry.file) as number) - (shardNumber(b.entry.file) as number));
  for (const [number, { folder, entry }] of shards.entries()) {
    const isLast = number === shards.length - 1;
    if (entry.file !== shardFile(number)) {
      throw new Error(`merge: ${shardFile(number)} is in no part, but ${entry.file} is in ${folder}`);
    }
    if (entry.rows === full || (isLast && entry.rows < full)) continue;
    throw new Error(`merge: ${join(folder, entry.file)} has ${entry.rows} rows where ${full} belong: another corpus?`);
  }
  return shards;
}

async function checkThere({ folder, entry }: PlacedShard): Promise<void> {
  const path = join(folder, entry.file);
  const found = await lstat(path).catch(() => undefined);
  if (!found) throw new Error(`merge: ${path} is missing: the command of its part writes it again`);
  if (found.isFile() && found.size === entry.bytes) return;
  const size = found.isFile() ? `holds ${found.size} bytes` : 'is not a regular file';
  throw new Error(`merge: ${path} ${size}, but the manifest says ${entry.bytes} bytes`);
}

// Before anything is changed. Links are made without overwriting anything all the same.
async function checkFree(out: string, { folder, entry }: PlacedShard): Promise<void> {
  const [path, source] = [join(out, entry.file), join(folder, entry.file)];
  const there = await lstat(path).catch(() => undefined);
  if (there && !(await isSameFile(path, source))) throw new Error(`merge: ${path} is another file than ${source}`);
}

/** Says whether there was anything to do. */
async function linkInto(out: string, folder: string, { file }: ShardEntry): Promise<boolean> {
  const [path, source] = [join(out, file), join(folder, file)];
  try {
    await link(source, path);
    return true;
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === 'EEXIST' && (await isSameFile(path, source))) return false;
    const why: Record<string, string> = {
      EEXIST: `${path} is another file`,
      EXDEV: `${folder} is on another disk than ${out}: move it there first`,
      EPERM: `the disk of ${out} knows no hard links: put the parts into one folder`,
    };
    throw new Error(`merge: cannot give ${source} a name in ${out}: ${why[code ?? ''] ?? message}`, { cause });
  }
}

async function isSameFile(a: string, b: string): Promise<boolean> {
  const [one, two] = await Promise.all([stat(a), stat(b)]);
  return one.ino === two.ino && one.dev === two.dev;
}
