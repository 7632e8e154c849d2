// A store in a folder on a disk. Errors are the system's own.
import { access, constants, link, lstat, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { syncFolder, writeBytes, writeFileAtomically } from '../atomic_write.js';
import { type ByteSource, openFile } from '../byte_source.js';
import { type Lease, leaseOrOwner } from '../lease.js';
import { makeFolder, writing } from '../write_failure.js';
import { type Appender, checkedName, type Draft, type FoundFile, type Store, unfinishedName } from './store.js';

export class DiskStore implements Store {
  readonly name: string;

  constructor(folder: string) {
    this.name = folder;
  }

  pathOf(file: string): string {
    return join(this.name, checkedName(this.name, file));
  }

  async create(): Promise<() => Promise<void>> {
    const undo = await makeFolder(this.name);
    try {
      await writing(this.name, 'folder', access(this.name, constants.W_OK | constants.X_OK));
    } catch (error) {
      await undo();
      throw error;
    }
    return undo;
  }

  async list(): Promise<string[]> {
    return (await readdir(this.name)).sort();
  }

  // lstat, as a link could lead out of the folder, and a pipe would block forever.
  async find(file: string): Promise<FoundFile | undefined> {
    const found = await lstat(this.pathOf(file)).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined;
      throw error;
    });
    return found && { size: found.size, regular: found.isFile() };
  }

  async open(file: string): Promise<ByteSource> {
    return openFile(this.pathOf(file), this.pathOf(file));
  }

  async writeText(file: string, text: string): Promise<void> {
    return writeFileAtomically(this.pathOf(file), text);
  }

  async writePieces(file: string, pieces: Iterable<string>): Promise<void> {
    return writeFileAtomically(this.pathOf(file), pieces);
  }

  // A link could lead out of the folder, and a pipe would block forever.
  async append(file: string): Promise<Appender> {
    const path = this.pathOf(file);
    const { O_WRONLY, O_APPEND, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants;
    const handle = await open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o666);
    try {
      if (!(await handle.stat()).isFile()) throw new Error(`${path}: is no regular file`);
      await syncFolder(this.name); // its name lasts
    } catch (error) {
      await handle.close();
      throw error;
    }
    return {
      isFull: false,
      async append(text) {
        await writeBytes(handle, Buffer.from(text));
        await handle.datasync();
      },
      close: () => handle.close(),
    };
  }

  async remove(file: string): Promise<void> {
    await rm(this.pathOf(file), { force: true });
  }

  async draft(file: string, tag: string, part?: string): Promise<Draft> {
    const whole = this.pathOf(file);
    const path = this.pathOf(unfinishedName(file, tag, part));
    const handle = await open(path, 'wx+');
    return {
      path,
      handle,
      publish: async () => {
        await handle.datasync();
        await handle.close();
        await rename(path, whole);
        await syncFolder(this.name);
      },
      async discard() {
        await handle.close().catch(() => {}); // it is closed already
        await rm(path, { force: true });
      },
    };
  }

  async takeLease(file: string): Promise<Lease | string> {
    return leaseOrOwner(this.name, checkedName(this.name, file));
  }

  #checkOnDisk(from: Store, file: string): void {
    if (from instanceof DiskStore) return;
    const why = 'it is not on a disk of this machine, and nothing is copied';
    throw new Error(`cannot give ${from.pathOf(file)} a name in ${this.name}: ${why}`);
  }

  async canLink(from: Store, file: string): Promise<boolean> {
    const path = this.pathOf(file);
    this.#checkOnDisk(from, file);
    const there = await lstat(path).catch(() => undefined);
    return !there || isSameFile(path, from.pathOf(file));
  }

  /** Gives the file a second name, a hard link. Like other names it lasts once the folder is synced. */
  async link(from: Store, file: string): Promise<boolean> {
    const [path, source] = [this.pathOf(file), from.pathOf(file)];
    this.#checkOnDisk(from, file);
    try {
      await link(source, path);
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException;
      if (code === 'EEXIST' && (await isSameFile(path, source))) return false;
      const why: Record<string, string> = {
        EEXIST: `${path} is another file`,
        EXDEV: `${from.name} is on another disk than ${this.name}: move it there first`,
        EPERM: `the disk of ${this.name} knows no hard links: put the parts into one folder`,
      };
      throw new Error(`cannot give ${source} a name in ${this.name}: ${why[code ?? ''] ?? message}`, { cause });
    }
    return true;
  }
}

async function isSameFile(a: string, b: string): Promise<boolean> {
  const [one, two] = await Promise.all([stat(a), stat(b)]);
  return one.ino === two.ino && one.dev === two.dev;
}
