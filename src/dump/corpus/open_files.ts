// Reads ranges of files, and keeps the files open that were read last: the next range is often one of the same file.
import { type FileHandle, open } from 'node:fs/promises';
import type { ByteReader } from './byte_reader.js';

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

  /** Reads a file in a range. Errors are the system's own. */
  reader(path: string, { from, to = Number.POSITIVE_INFINITY }: ByteRange): ByteReader {
    const file = this.#open.get(path) ?? { handle: open(path), users: 0, isLeft: false };
    this.#open.delete(path);
    this.#open.set(path, file);
    file.users++;
    let at = from;
    return {
      readInto: async (memory) => {
        const handle = await file.handle.catch((error) => {
          if (this.#open.get(path) === file) this.#open.delete(path); // the next reading opens it again
          throw error;
        });
        const length = Math.min(memory.length, to - at);
        if (length <= 0) return 0;
        const { bytesRead } = await handle.read(memory, 0, length, at);
        at += bytesRead;
        return bytesRead;
      },
      close: async () => {
        file.users--;
        if (file.isLeft && file.users === 0) await closed(file);
        await this.#closeIdle(this.#most);
      },
    };
  }

  /** The bytes of a file in a range, or those of them that it has. Errors are the system's own. */
  async bytesIn(path: string, { from, to }: { readonly from: number; readonly to: number }): Promise<Buffer> {
    const reader = this.reader(path, { from, to });
    try {
      const bytes = Buffer.allocUnsafe(to - from);
      let length = 0;
      for (;;) {
        const read = await reader.readInto(bytes.subarray(length));
        if (read === 0) return bytes.subarray(0, length);
        length += read;
      }
    } finally {
      await reader.close();
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
