// Errors that say why something could not be written: what is in the way, and where. Folders and their parents are made
// here, too.
import { access, constants, lstat, mkdir, readlink, rmdir, stat } from 'node:fs/promises';
import { dirname, normalize } from 'node:path';

/** A file or folder that could not be written: `cannot write PATH: REASON`. */
export class WriteError extends Error {
  /** The system's error code. */
  readonly code: string | undefined;

  constructor(
    readonly path: string,
    readonly reason: string,
    /** Whether writing there fails again in the same way until another path is chosen. */
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

/** The system's error as a message that says why. `kind` is what should be written at the path. */
export async function writeError(path: string, kind: 'file' | 'folder', cause: unknown): Promise<WriteError> {
  if (cause instanceof WriteError) {
    return cause.path === path ? cause : writeError(path, kind, cause.cause); // its path is that of a folder above
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

/** Awaits the work of `operation`. The message of a WriteError then begins with that name; other errors stay. */
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
  /** Whether it stays in the way, so that another path is needed. */
  readonly stays: boolean;
}

async function obstacleOf(path: string, kind: 'file' | 'folder'): Promise<Obstacle | undefined> {
  const inWay = (what: string): Obstacle => ({ what, stays: true });
  for (const current of [...foldersAbove(path), path]) {
    const name = current === path ? 'it' : current;
    const found = await stat(current).catch((error: NodeJS.ErrnoException) => error.code);
    const isLink = (await lstat(current).catch(() => undefined))?.isSymbolicLink() ?? false;
    if (isLink && found === 'ENOENT')
      return inWay(`${name} is a link to ${await readlink(current)}, which is not there`);
    if (isLink && found === 'ELOOP') return inWay(`${name} is a link that leads back to itself`);
    if (found === 'ENOENT' && current !== path && kind === 'file')
      return { what: `there is no folder ${current}`, stays: false };
    if (typeof found !== 'object') {
      if (found === 'ENOENT') continue;
      return undefined;
    }
    if (found.isDirectory()) {
      if (current === path && kind === 'file') return inWay('it is a folder, not a file');
      continue;
    }
    if (current !== path || kind === 'folder') return inWay(`${name} is a file, not a folder`);
    if (!found.isFile()) return inWay('it is a device, a pipe or a socket, not a file');
  }
  return undefined;
}

/** The folders that a path lies in, from the outermost on, as the path names them. */
function foldersAbove(path: string): string[] {
  const folders: string[] = [];
  for (let folder = dirname(normalize(path)); !folders.includes(folder); folder = dirname(folder)) folders.push(folder);
  return folders.reverse();
}

/**
 * Makes a folder and its parents, unless they exist. Returns a function that removes those that it made, as far as they
 * are empty. (mkdir's recursive option never ends where the system says ENOENT of an existing folder, as below /proc.)
 * @throws WriteError when something is in the way, or the system refuses.
 */
export async function makeFolder(path: string): Promise<() => Promise<void>> {
  const made: string[] = [];
  const undo = async () => {
    for (const folder of made.reverse()) await rmdir(folder).catch(() => {}); // something is in it now
  };
  try {
    for (const folder of path === '' ? [''] : [...foldersAbove(path), path]) {
      if (folder !== '' && (await stat(folder).catch(() => undefined))?.isDirectory()) continue;
      if (await makeOne(folder)) made.push(folder);
    }
  } catch (cause) {
    await undo();
    throw await writeError(path, 'folder', cause);
  }
  return undo;
}

/** Makes a folder; false when it exists already. */
async function makeOne(path: string): Promise<boolean> {
  try {
    await mkdir(path);
    return true;
  } catch (error) {
    // another process has just made it
    if ((await stat(path).catch(() => undefined))?.isDirectory()) return false;
    throw error;
  }
}

/** @throws WriteError when a file certainly cannot be written: its folder is not there, for instance. */
export async function checkWritable(path: string): Promise<void> {
  await checkReplaceable(path);
  const checked = async () => {
    if (!(await stat(dirname(path))).isDirectory()) await refused('ENOTDIR');
    await access(dirname(path), constants.W_OK | constants.X_OK);
  };
  await writing(path, 'file', checked());
}

/**
 * @throws WriteError when the path is that of something other than a file, such as /dev/null, which a new file would
 * replace.
 */
export async function checkReplaceable(path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (!found || found.isFile()) return;
  await writing(path, 'file', refused(found.isDirectory() ? 'EISDIR' : 'EEXIST'));
}

const refused = (code: string): Promise<never> => Promise.reject(Object.assign(new Error(code), { code }));
