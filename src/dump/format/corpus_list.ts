// The list of the corpus's files, for a dump that is made in parts. All parts have the same list, which may be long, so it
// is a file of its own, and the manifest of each part refers to it. The name of the file is made of its digest: any number
// of processes may write it at once, as all of them write the same bytes. The manifest of a whole dump has no such file.
import { createHash } from 'node:crypto';
import type { Store } from '../../files/store/store.js';
import { onDisk, readSmallFile } from './disk.js';
import { checked, integer, listOf, object, oneOf, type Read } from './schema.js';
import { type CorpusList, corpusSource } from './settings.js';

/** What the manifest of a part has instead of the list. */
export interface CorpusReference {
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
}

/** The most bytes of a manifest, and of a list, which the manifest of the whole dump holds. */
export const largestText = 2 ** 28; // a million shards, or ninety thousand with Parquet files of twelve layers

export const isCorpusList = (name: string): boolean => /^corpus-[0-9a-f]{16}\.json$/.test(name);

const fileOf = (sha256: string): string => `corpus-${sha256.slice(0, 16)}.json`;

const digestOf = (bytes: string | Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

// The fields of a source have one order, so that equal lists are equal texts.
const textOf = (list: CorpusList): string => {
  const corpus = list.map(({ kind, name, bytes, dtype }) => ({ kind, name, bytes, dtype }));
  return `${JSON.stringify({ format: 'sonde corpus', version: 1, corpus }, null, 1)}\n`;
};

const references = new WeakMap<CorpusList, CorpusReference>();

/** The reference to a list. It is worked out once for each array. */
export function referenceTo(list: CorpusList): CorpusReference {
  const before = references.get(list);
  if (before) return before;
  const text = textOf(list);
  const sha256 = digestOf(text);
  const reference = { file: fileOf(sha256), bytes: Buffer.byteLength(text), sha256 };
  references.set(list, reference);
  return reference;
}

const fields = object<CorpusReference>({
  file: checked('the name of a list of a corpus', (value) => typeof value === 'string' && isCorpusList(value)),
  bytes: integer(1, largestText),
  sha256: checked('a SHA-256 in hexadecimal', (value) => typeof value === 'string' && /^[0-9a-f]{64}$/.test(value)),
});

/** Reads a reference from a manifest. @throws FieldError when it is not valid. */
export const corpusReference: Read<CorpusReference> = (value, unknownFields) => {
  const reference = fields(value, unknownFields);
  const named = checked<CorpusReference>('a reference whose "file" is named by its "sha256"', () => {
    return reference.file === fileOf(reference.sha256);
  });
  return named(reference, unknownFields);
};

const contents = object<{ format: 'sonde corpus'; version: 1; corpus: CorpusList }>({
  format: oneOf('sonde corpus'),
  version: checked('1', (value) => value === 1),
  corpus: listOf(corpusSource),
});

const isWhole = async (store: Store, { file, bytes }: CorpusReference): Promise<boolean> => {
  const found = await store.find(file);
  return found?.regular === true && found.size === bytes;
};

/**
 * Writes the list, unless it is there. @throws Error when it cannot be written.
 */
export async function writeCorpusList(store: Store, list: CorpusList): Promise<void> {
  const reference = referenceTo(list);
  const { file } = reference;
  if (await isWhole(store, reference)) return;
  const written = store.writeText(file, textOf(list)).catch(async (error) => {
    // Another process, which writes it as well, may have removed the unfinished file.
    if (!(await isWhole(store, reference).catch(() => false))) throw error;
  });
  await onDisk(store.pathOf(file), written);
}

/** Writes the list again, unless what is there is right. */
export async function repairCorpusList(store: Store, list: CorpusList): Promise<void> {
  const reference = referenceTo(list);
  try {
    await readList(store, reference);
  } catch {
    await onDisk(store.pathOf(reference.file), store.writeText(reference.file, textOf(list)));
  }
}

/**
 * Whether a file is the list of a corpus, as its content shows. Somebody's own file may have such a name: it must
 * never be removed.
 */
export async function holdsCorpusList(store: Store, file: string): Promise<boolean> {
  try {
    const bytes = await readSmallFile(store, file, largestText);
    if (bytes === undefined || fileOf(digestOf(bytes)) !== file) return false;
    contents(JSON.parse(bytes.toString()), 'dropped');
    return true;
  } catch {
    return false;
  }
}

async function readList(store: Store, { file, bytes, sha256 }: CorpusReference): Promise<CorpusList> {
  const found = await readSmallFile(store, file, largestText);
  if (found === undefined) throw new Error('it is missing');
  if (found.length !== bytes) throw new Error(`it holds ${found.length} bytes, but the manifest says ${bytes} bytes`);
  const digest = digestOf(found);
  if (digest !== sha256) throw new Error(`its SHA-256 is ${digest}, but the manifest says ${sha256}`);
  return contents(JSON.parse(found.toString()), 'dropped').corpus;
}

/** The lists that the manifests of one dump refer to. Each is read once, and equal lists are one array in memory. */
export class CorpusLists {
  readonly #known = new Map<string, CorpusList>();
  readonly #reading = new Map<string, Promise<CorpusList>>();
  readonly #referred = new Set<string>();

  /** `known` are lists that need not be read. */
  constructor(...known: CorpusList[]) {
    for (const list of known) this.shared(list);
  }

  /** The array for an equal list: this one, unless there was another one before. */
  shared(list: CorpusList): CorpusList {
    const { sha256 } = referenceTo(list);
    const before = this.#known.get(sha256);
    if (before) return before;
    this.#known.set(sha256, list);
    return list;
  }

  /** @throws Error that names the list, when it is missing or not what the reference says. */
  async get(store: Store, reference: CorpusReference): Promise<CorpusList> {
    const { file, sha256 } = reference;
    this.#referred.add(sha256);
    const known = this.#known.get(sha256);
    if (known) return known;
    const path = store.pathOf(file);
    const key = JSON.stringify([path, reference.bytes, sha256]);
    const before = this.#reading.get(key);
    if (before) return before;
    const reading = readList(store, reference).then(
      (list) => this.#add(sha256, list),
      (cause) => {
        const advice = 'the command of a part writes it again';
        throw new Error(`${path}: is not the list of the corpus: ${(cause as Error).message}: ${advice}`, { cause });
      },
    );
    this.#reading.set(key, reading);
    return reading;
  }

  /** Whether a manifest that was read refers to the list. */
  refersTo(list: CorpusList): boolean {
    return this.#referred.has(referenceTo(list).sha256);
  }

  // The text of a list that somebody else wrote may differ from the one that this library writes.
  #add(sha256: string, list: CorpusList): CorpusList {
    const shared = this.shared(list);
    this.#known.set(sha256, shared);
    return shared;
  }
}
