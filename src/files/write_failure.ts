// Why something could not be written, in words: what is in the way, and where. And folders with those above them.
import { access, constants, lstat, mkdir, readlink, rmdir, stat } from 'node:fs/promises';
import { dirname, normalize } from 'node:path';

/** A file or folder that could not be written: `cannot write PATH: REASON`. */
export class WriteError extends Error {
  /** The system's. */
  readonly code: string | undefined;

  constructor(
    readonly path: string,
    readonly reason: string,
    /** The same will fail in the same way, until another path is chosen. */
    readonly needsOtherPath: boolean,
    cause: unknown,
  ) {
    super(`cannot write ${path}: ${reason}${needsOtherPath ? ': choose another path' : ''}`, { cause });
    this.code = (cause as NodeJS.ErrnoException).code;
  }
}

const reasons: Record<string, string> = {
  ENOSPC: 'no space is left on the disk',
  EDQUOT: 'the quota of the disk is used up',
  EFBIG: 'the system allows no file as large as that',
  EACCES: 'permission is denied',
  EPERM: 'the system does not permit it',
  EROFS: 'the disk can only be read',
  EIO: 'the disk reports an error',
  EMFILE: 'too many files are open',
  ENFILE: 'too many files are open',
};

const unfit: Record<string, string> = {
  ENAMETOOLONG: 'the name is too long',
  ERR_INVALID_ARG_VALUE: 'it is no path',
  EINVAL: 'the system takes no such name',
};

const inTheWay = ['EEXIST', 'EISDIR', 'ELOOP', 'ENOENT', 'ENOTDIR', 'ENOTEMPTY'];

/** The system's error in words. `kind` is what there should be at the path. */
export async function writeError(path: string, kind: 'file' | 'folder', cause: unknown): Promise<WriteError> {
  if (cause instanceof WriteError) {
    return cause.path === path ? cause : writeError(path, kind, cause.cause); // which begins where it could not go on
  }
  const { code = '', message } = cause as NodeJS.ErrnoException;
  if (path === '') return new WriteError("''", 'it is no path', true, cause);
  if (Object.hasOwn(unfit, code)) return new WriteError(path, unfit[code] as string, true, cause);
  const obstacle = inTheWay.includes(code) ? await obstacleOf(path, kind).catch(() => undefined) : undefined;
  if (obstacle) return new WriteError(path, `${obstacle.what} (${code})`, obstacle.stays, cause);
  const plain = message.startsWith(`${path}: `) ? message.slice(path.length + 2) : message;
  return new WriteError(path, reasons[code] ?? plain, false, cause);
}

/** Awaits the writing of a file or folder. @throws WriteError when it fails. */
export async function writing<T>(path: string, kind: 'file' | 'folder', work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    throw await writeError(path, kind, cause);
  }
}

/** Awaits what `operation` writes, whose name a failure to write then begins with; other errors stay as they are. */
export async function writingFor<T>(operation: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    if (!(cause instanceof WriteError)) throw cause;
    throw new Error(`${operation}: ${cause.message}`, { cause });
  }
}

interface Obstacle {
  readonly what: string;
  /** Nobody is going to remove it. */
  readonly stays: boolean;
}

async function obstacleOf(path: string, kind: 'file' | 'folder'): Promise<Obstacle | undefined> {
  const inWay = (what: string): Obstacle => ({ what, stays: true });
  for (const place of [...placesAbove(path), path]) {
    const name = place === path ? 'it' : place;
    const found = await stat(place).catch((error: NodeJS.ErrnoException) => error.code);
    const isLink = (await lstat(place).catch(() => undefined))?.isSymbolicLink() ?? false;
    if (isLink && found === 'ENOENT') return inWay(`${name} is a link to ${await readlink(place)}, which is not there`);
    if (isLink && found === 'ELOOP') return inWay(`${name} is a link that leads back to itself`);
    if (found === 'ENOENT' && place !== path && kind === 'file')
      return { what: `there is no folder ${place}`, stays: false };
    if (typeof found !== 'object') {
      if (found === 'ENOENT') continue;
      return undefined;
    }
    if (found.isDirectory()) {
      if (place === path && kind === 'file') return inWay('it is a folder, not a file');
      continue;
    }
    if (place !== path || kind === 'folder') return inWay(`${name} is a file, not a folder`);
    if (!found.isFile()) return inWay('it is a device, a pipe or a socket, not a file');
  }
  return undefined;
}

/** The folders that a path lies in, from the outermost on, as the path names them. */
function placesAbove(path: string): string[] {
  const places: string[] = [];
  for (let place = dirname(normalize(path)); !places.includes(place); place = dirname(place)) places.push(place);
  return places.reverse();
}

/**
 * Makes a folder with all above it where there are none. Returns what removes those that it made, as far as they are
 * empty. Not mkdir's own way of doing so: that never ends where the system says ENOENT of a folder that is there, as
 * below /proc.
 * @throws WriteError when something is in the way, or the system refuses.
 */
export async function makeFolder(path: string): Promise<() => Promise<void>> {
  const made: string[] = [];
  const undo = async () => {
    for (const place of made.reverse()) await rmdir(place).catch(() => {}); // there is something in it now
  };
  try {
    for (const place of path === '' ? [''] : [...placesAbove(path), path]) {
      if (place !== '' && (await stat(place).catch(() => undefined))?.isDirectory()) continue;
      if (await makeOne(place)) made.push(place);
    }
  } catch (cause) {
    await undo();
    throw await writeError(path, 'folder', cause);
  }
  return undo;
}

/** Says whether it was not there. */
async function makeOne(path: string): Promise<boolean> {
  try {
    await mkdir(path);
    return true;
  } catch (error) {
    // by another process, just now
    if ((await stat(path).catch(() => undefined))?.isDirectory()) return false;
    throw error;
  }
}

/** @throws WriteError when it is known already that a file could not be written: its folder is not there, for instance. */
export async function checkWritable(path: string): Promise<void> {
  await checkReplaceable(path);
  const checked = async () => {
    if (!(await stat(dirname(path))).isDirectory()) await refused('ENOTDIR');
    await access(dirname(path), constants.W_OK | constants.X_OK);
  };
  await writing(path, 'file', checked());
}

/** @throws WriteError when what is at a path is no file, such as /dev/null, which a new file would take the place of. */
export async function checkReplaceable(path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (!found || found.isFile()) return;
  await writing(path, 'file', refused(found.isDirectory() ? 'EISDIR' : 'EEXIST'));
}

const refused = (code: string): Promise<never> => Promise.reject(Object.assign(new Error(code), { code }));
