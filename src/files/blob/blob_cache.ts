// The cache of blobs on disk: a folder for each address, with the file under a name that holds its checksum, and
// entry.json, which describes the file and is replaced in one step. So a reader sees a whole file or none, whatever
// other processes write.
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, readFile, rm, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { writeFileAtomically } from '../atomic_write.js';
import { takeLease } from '../lease.js';

/** A blob in the cache. */
export interface CachedBlob {
  /** The address as it was asked for. */
  readonly name: string;
  readonly size: number;
  readonly sha256: string;
  readonly etag: string | null;
  /** The time of the last change, where the server has no ETag. */
  readonly modified: string | null;
  /** When it was fetched, as ISO 8601. */
  readonly fetched: string;
  readonly path: string;
}

interface Entry extends Omit<CachedBlob, 'path'> {
  readonly file: string;
  /** The file's modification time when its checksum was last computed. */
  readonly mtimeMs: number;
}

const entryFile = 'entry.json';

/** `$SONDE_CACHE`, else `$XDG_CACHE_HOME/sonde`, else `~/.cache/sonde`. */
export function cacheFolder(environment: Readonly<Record<string, string | undefined>> = process.env): string {
  if (environment.SONDE_CACHE) return environment.SONDE_CACHE;
  return join(environment.XDG_CACHE_HOME || join(homedir(), '.cache'), 'sonde');
}

const blobsFolder = (): string => join(cacheFolder(), 'blobs');

/** The folder of an address; signatures in its query do not count. */
export function entryFolder(url: string): string {
  const [plain = ''] = url.split('?');
  return join(blobsFolder(), createHash('sha256').update(plain).digest('hex').slice(0, 32));
}

/** The blob that a folder holds: undefined for none, half an entry, or a file that is no longer as it was fetched. */
export async function lookUp(folder: string, { rehash = false } = {}): Promise<CachedBlob | undefined> {
  const entry = await readEntry(folder);
  if (!entry) return undefined;
  const path = join(folder, entry.file);
  const found = await stat(path).catch(() => undefined);
  if (!found?.isFile() || found.size !== entry.size) return undefined;
  if (rehash || found.mtimeMs !== entry.mtimeMs) {
    if ((await checksums(path)).sha256 !== entry.sha256) return undefined;
    // the checksum need not be computed again then; in a cache that cannot be written, it is computed each time
    if (found.mtimeMs !== entry.mtimeMs) await writeEntry(folder, { ...entry, mtimeMs: found.mtimeMs }).catch(() => {});
  }
  return blobOf(folder, entry);
}

async function readEntry(folder: string): Promise<Entry | undefined> {
  try {
    const entry = JSON.parse(await readFile(join(folder, entryFile), 'utf8')) as Partial<Entry>;
    const { name, size, sha256, file, mtimeMs, fetched } = entry;
    const whole = [name, sha256, file, fetched].every((x) => typeof x === 'string') && Number.isSafeInteger(size);
    return whole && typeof mtimeMs === 'number' && file === basename(file as string) ? (entry as Entry) : undefined;
  } catch {
    return undefined; // there is none yet, or it is damaged: the blob is fetched again
  }
}

const writeEntry = (folder: string, entry: Entry): Promise<void> =>
  writeFileAtomically(join(folder, entryFile), `${JSON.stringify(entry, null, 1)}\n`);

const blobOf = (folder: string, { name, size, sha256, etag, modified, fetched, file }: Entry): CachedBlob => {
  return { name, size, sha256, etag, modified, fetched, path: join(folder, file) };
};

/** The name of a file in the cache: it ends like the blob's, so that people and other tools recognise it. */
export const storedName = (sha256: string, baseName: string): string =>
  `${sha256.slice(0, 16)}-${baseName.replace(/[^\w.-]/g, '_').slice(-100)}`;

/** The address of a blob by the path of its copy in the cache; undefined for any other path. */
export async function addressOfCopy(path: string): Promise<string | undefined> {
  if (!/^[0-9a-f]{16}-/.test(basename(path))) return undefined;
  const entry = await readEntry(dirname(resolve(path)));
  return entry?.file === basename(path) ? entry.name : undefined;
}

/** Writes the entry of a file that lies in the folder already, and removes the files of earlier entries. */
export async function enter(folder: string, blob: Omit<CachedBlob, 'path'>, file: string): Promise<CachedBlob> {
  const { mtimeMs } = await stat(join(folder, file));
  const { name, size, sha256, etag, modified, fetched } = blob;
  const entry: Entry = { name, size, sha256, etag, modified, fetched, file, mtimeMs };
  await writeEntry(folder, entry);
  for (const other of await readdir(folder)) {
    if (/^[0-9a-f]{16}-/.test(other) && other !== file) await rm(join(folder, other), { force: true });
  }
  return blobOf(folder, entry);
}

/** The checksums of a file, which is read once: SHA-256 in hexadecimal, and MD5 if wanted. */
export async function checksums(path: string, { withMd5 = false } = {}): Promise<{ sha256: string; md5?: Buffer }> {
  const sha256 = createHash('sha256');
  const md5 = withMd5 ? createHash('md5') : undefined;
  for await (const part of createReadStream(path, { highWaterMark: 2 ** 20 })) {
    sha256.update(part);
    md5?.update(part);
  }
  return { sha256: sha256.digest('hex'), ...(md5 && { md5: md5.digest() }) };
}

// ---- all blobs

export interface CacheListing {
  readonly folder: string;
  readonly blobs: CachedBlob[];
  /** Bytes of downloads that have begun and not ended. */
  readonly unfinishedBytes: number;
}

/** All blobs in the cache, by name. */
export async function listCache(): Promise<CacheListing> {
  const blobs: CachedBlob[] = [];
  let unfinishedBytes = 0;
  for (const folder of await entryFolders()) {
    const blob = await lookUp(folder);
    if (blob) blobs.push(blob);
    for (const file of await readdir(folder)) {
      if (file.endsWith('.partial')) unfinishedBytes += await diskBytes(join(folder, file));
    }
  }
  blobs.sort((a, b) => (a.name < b.name ? -1 : 1));
  return { folder: cacheFolder(), blobs, unfinishedBytes };
}

/**
 * Removes the blobs that `names` selects by name; all when it is left out. Downloads that were left unfinished have no
 * name yet, so they are removed, too. A blob that is being fetched right now stays.
 */
export async function clearCache(names: (name: string) => boolean = () => true): Promise<CacheListing> {
  const blobs: CachedBlob[] = [];
  let unfinishedBytes = 0;
  for (const folder of await entryFolders()) {
    const lease = await takeLease(folder);
    if (!lease) continue;
    try {
      const entry = await readEntry(folder);
      if (entry && !names(entry.name)) continue;
      for (const file of await readdir(folder)) {
        if (file.endsWith('.partial')) unfinishedBytes += await diskBytes(join(folder, file));
      }
      if (entry) blobs.push(blobOf(folder, entry));
      await rm(folder, { recursive: true, force: true });
    } finally {
      await lease.release();
    }
  }
  return { folder: cacheFolder(), blobs, unfinishedBytes };
}

/** Computes every checksum. Broken blobs are no longer as they were fetched; their next use fetches them again. */
export async function verifyCache(): Promise<{ readonly good: CachedBlob[]; readonly broken: string[] }> {
  const good: CachedBlob[] = [];
  const broken: string[] = [];
  for (const folder of await entryFolders()) {
    const entry = await readEntry(folder);
    if (!entry) continue;
    const blob = await lookUp(folder, { rehash: true });
    if (blob) good.push(blob);
    else broken.push(entry.name);
  }
  return { good, broken };
}

async function entryFolders(): Promise<string[]> {
  const names = await readdir(blobsFolder(), { withFileTypes: true }).catch(() => []); // there is no cache yet
  return names
    .filter((entry) => entry.isDirectory() && /^[0-9a-f]{32}$/.test(entry.name))
    .map(({ name }) => join(blobsFolder(), name));
}

// An unfinished file has its full length from the start; the space that it takes on the disk is what has come.
const diskBytes = async (path: string): Promise<number> =>
  512 * ((await stat(path).catch(() => undefined))?.blocks ?? 0);
