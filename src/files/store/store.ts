// A store of a dump's files: a flat folder of files that each appear whole or not at all, but for those that are
// appended to, on a disk (disk_store.ts) or in object storage (blob_store.ts). The caller chooses the names, which are
// plain: there are no folders in folders. Names may come from a forged queue or manifest, so every method that takes
// one checks it with checkedName().
import { randomBytes } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import type { ByteSource } from '../byte_source.js';
import type { Lease } from '../lease.js';
import { quoted } from '../text.js';

export interface FoundFile {
  /** The size in bytes. */
  readonly size: number;
  /** False for what cannot be read as a file: a folder, a pipe, a link. */
  readonly regular: boolean;
}

/** An unfinished file: it is written on this machine, in any order, and is in the store once it is published. */
export interface Draft {
  /** The path at which it is written, for messages. */
  readonly path: string;
  readonly handle: FileHandle;
  /** Gives the file its name, with all that was written; it replaces an older file. To be called once. */
  publish(): Promise<void>;
  /** Removes what was written, unless it is published. No write may be in progress. */
  discard(): Promise<void>;
}

/** A file that grows at its end. One call is made at a time. */
export interface Appender {
  /**
   * Adds a small text at the end; it lasts when the promise resolves. After a failure a part of it may be there, and in
   * object storage it may be there twice, where an answer was lost on the way.
   */
  append(text: string): Promise<void>;
  /** Whether the store will soon take no more for this file, so that another one should be begun. */
  readonly isFull: boolean;
  close(): Promise<void>;
}

export interface OpenOptions {
  /** For a file that another process may append to: what is read is what the file held when it was opened. */
  readonly growing?: boolean;
}

/** Methods that take a name throw, or reject with, the error of checkedName() for one that is not plain. */
export interface Store {
  /** The folder or address as it was given, for messages. */
  readonly name: string;
  /** The name of a file in messages. */
  pathOf(file: string): string;
  /**
   * Makes the store unless it exists, and checks that it can be written. Returns a function that undoes it while it is
   * empty.
   */
  create(): Promise<() => Promise<void>>;
  /** The names of all files in order, including unfinished and abandoned ones. */
  list(): Promise<string[]>;
  /** Looks a file up; undefined for one that is not there. */
  find(file: string): Promise<FoundFile | undefined>;
  /** Opens a file for reading at any position. @throws Error when it is not there. */
  open(file: string, options?: OpenOptions): Promise<ByteSource>;
  /** Writes a small file; it replaces an older one. */
  writeText(file: string, text: string): Promise<void>;
  /** The same for a text that is made piece by piece. */
  writePieces(file: string, pieces: Iterable<string>): Promise<void>;
  /**
   * Opens a file to append to it, and makes it unless it is there. Where nothing has been appended yet, the file is
   * empty, and in object storage it is listed as an unfinished one.
   */
  append(file: string): Promise<Appender>;
  /** Removes a file, if it is there. */
  remove(file: string): Promise<void>;
  /**
   * Begins a file; with `part`, a part of it that is never published. The drafts of one file and attempt share a tag.
   */
  draft(file: string, tag: string, part?: string): Promise<Draft>;
  /** The lease that `file` stands for, or the name of its owner: `process 123 on some-host`. */
  takeLease(file: string): Promise<Lease | string>;
  /**
   * Whether a name is free for the file that another store has under it, or that file's own already.
   * @throws Error when it cannot be given a name here without copying.
   */
  canLink(from: Store, file: string): Promise<boolean>;
  /**
   * Gives a file of another store a name here, without copying it. Returns whether there was anything to do.
   * @throws Error when it cannot be done without copying, or when another file has the name.
   */
  link(from: Store, file: string): Promise<boolean>;
}

const longestName = 255; // bytes, the limit of file systems

/** The reason why a name cannot be that of a file in a store; undefined when it can. */
function nameProblem(file: unknown): string | undefined {
  if (typeof file !== 'string') return 'is not text';
  if (file === '') return 'is empty';
  if (file === '.' || file === '..') return 'stands for a folder';
  if (/[/\\]/.test(file)) return 'has a separator in it';
  if (/[\p{Cc}\p{Cs}]/u.test(file)) return 'has a control character or an unpaired surrogate in it';
  const bytes = Buffer.byteLength(file);
  return bytes > longestName ? `is ${bytes} bytes long` : undefined;
}

/** Whether a store takes a name. A folder that another program wrote to may list other names. */
export const isPlainName = (file: string): boolean => nameProblem(file) === undefined;

/**
 * The name of a file in the store `where`.
 * @throws Error when it is not plain: the file could lie outside of the store.
 */
export function checkedName(where: string, file: string): string {
  const problem = nameProblem(file);
  if (problem === undefined) return file;
  const rule = `names have 1 to ${longestName} bytes, and no separators (/ and \\) or control characters`;
  throw new Error(
    `${where}: ${quoted(file, Number.POSITIVE_INFINITY)} cannot be the name of a file there, as it ${problem}: ${rule}`,
  );
}

const unfinishedPattern = /^(.+)\.[0-9a-f]{8}(\.[\w-]+)?\.partial$/;

/** The name under which a file, or a part of it, is written until it is whole. */
export const unfinishedName = (file: string, tag: string, part?: string): string =>
  [file, tag, ...(part === undefined ? [] : [part]), 'partial'].join('.');

/** A tag that distinguishes one attempt to write a file from others. */
export const newTag = (): string => randomBytes(4).toString('hex');

/** The file of which another one is an unfinished part; undefined for other files. */
export const unfinishedOf = (name: string): string | undefined => unfinishedPattern.exec(name)?.[1];
