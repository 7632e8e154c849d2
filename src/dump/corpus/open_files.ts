// Reads ranges of files, and keeps the files open that were read last: the next range is often one of the same file.
import { type FileHandle, open } from 'node:fs/promises';

export interface ByteRange {
  readonly from: number;
  /** The first byte that is not read; the file's end when left out. */
  readonly to?: number | undefined;
}

/** Files that stay open when nothing reads them: the number of files that a process may open is limited. */
const mostIdle = 4;

interface OpenFile {
  readonly handle: Promise<FileHandle>;
  /** How many readings use it now. */
  users: number;
  /** Whether it is closed as soon as nothing uses it. */
  isLeft: boolean;
}

export class OpenFiles {
  /** By path, in the order of their last use. */
  readonly #open = new Map<string, OpenFile>();
  #most = mostIdle;

  /**
   * The bytes of a file in a range, so many at a time. Errors are the system's own. `areLent` says that the caller uses
   * each chunk before it asks for the next one: then all are in the same memory, and no more is allocated.
   */
  async *read(
    path: string,
    { from, to = Number.POSITIVE_INFINITY }: ByteRange,
    atOnce: number,
    areLent = false,
  ): AsyncGenerator<Buffer> {
    const file = this.#open.get(path) ?? { handle: open(path), users: 0, isLeft: false };
    this.#open.delete(path);
    this.#open.set(path, file);
    file.users++;
    try {
      const handle = await file.handle.catch((error) => {
        if (this.#open.get(path) === file) this.#open.delete(path); // the next reading opens it again
        throw error;
      });
      let bytes: Buffer | undefined;
      for (let at = from; at < to; ) {
        const length = Math.min(atOnce, to - at);
        bytes = areLent && bytes ? bytes : Buffer.allocUnsafe(length);
        const { bytesRead } = await handle.read(bytes, 0, length, at);
        if (bytesRead === 0) return;
        at += bytesRead;
        yield bytes.subarray(0, bytesRead);
      }
    } finally {
      file.users--;
      if (file.isLeft && file.users === 0) await closed(file);
      await this.#closeIdle(this.#most);
    }
  }

  /** Closes the files for good: those that are read, now or later, as soon as nothing reads them. */
  async close(): Promise<void> {
    this.#most = 0;
    await this.leave();
  }

  /** Closes the files, those that are being read as soon as nothing reads them. The next reading opens them again. */
  async leave(): Promise<void> {
    for (const file of this.#open.values()) file.isLeft = true;
    const idle = [...this.#open.values()].filter(({ users }) => users === 0);
    this.#open.clear();
    await Promise.all(idle.map(closed));
  }

  async #closeIdle(most: number): Promise<void> {
    for (const [path, file] of this.#open) {
      if (this.#open.size <= most) return;
      if (file.users > 0) continue;
      this.#open.delete(path);
      await closed(file);
    }
  }
}

// What was read is right all the same.
const closed = ({ handle }: OpenFile): Promise<void> => handle.then((opened) => opened.close()).catch(() => {});
