// manifest.json says what a dump holds; while the dump is made, it does so together with its journal (journal.ts). It
// is needed to read the dump, to continue it, and to refuse files of another one. It has nothing that differs between
// runs: no times, no machine, no absolute paths. Folders may come from anywhere, so everything that is read here is
// checked before it is used.
import { createHash } from 'node:crypto';
import { bytesPerElement } from '../../files/host_tensor.js';
import { type Store, unfinishedOf } from '../../files/store/store.js';
import {
  CorpusLists,
  type CorpusReference,
  corpusReference,
  largestText,
  referenceTo,
  writeCorpusList,
} from './corpus_list.js';
import { forEachAtOnce, onDisk, readSmallFile, type Writing } from './disk.js';
import { journalOfManifest, linesOf, readJournal } from './journal.js';
import { latentsName, valueNames, widthOf } from './layout.js';
import { type NonFinite, type NonFiniteCounts, problemWithCounts } from './non_finite.js';
import {
  checked,
  FieldError,
  flag,
  integer,
  isObject,
  line,
  listOf,
  object,
  oneOf,
  optional,
  type Read,
  record,
  string,
} from './schema.js';
import { type CorpusList, type DumpSettings, type Part, settingsFields, size } from './settings.js';

/** A file of the dump, with the size and the digest that it must have. */
export interface ListedFile {
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
}

export interface ShardEntry extends ListedFile {
  readonly rows: number;
  /** The number of tokens, without padding. */
  readonly tokens: number;
  /**
   * How many values are not finite, by location. It is left out where all are finite, and by versions of this library
   * that did not count.
   */
  readonly nonFinite?: NonFiniteCounts;
  /** The Parquet files of the latents, one for each autoencoder; only where the dump has such files. */
  readonly parquet?: readonly ListedFile[];
}

export interface Manifest extends DumpSettings {
  readonly format: 'sonde dump';
  readonly version: 1;
  /**
   * The arithmetics that made shards, or were about to, in order, each once: the name of the device's arithmetic
   * (`Device.arithmetic`) for the dtypes of the model and the autoencoders. It is `unknown` for shards that were made
   * before manifests had this field.
   */
  readonly arithmetic: readonly string[];
  /** The shards in the order of their numbers. */
  readonly shards: readonly ShardEntry[];
  readonly complete: boolean;
}

const manifestPattern = /^manifest(?:-(\d+)-of-(\d+))?\.json$/;
const shardPattern = /^shard-(\d{5,9})\.safetensors$/;

/** The part of a dump that is not divided. */
export const whole: Part = { index: 0, count: 1 };

/** `manifest.json`, or a manifest for each part: parts may be written by several processes at a time. */
export const manifestFile = ({ index, count }: Part): string =>
  count === 1 ? 'manifest.json' : `manifest-${index}-of-${count}.json`;

export const isManifestFile = (name: string): boolean => manifestPattern.test(name);

/** The part that a manifest's name says; undefined for other names. */
export function partOfManifest(name: string): Part | undefined {
  const [found, index = '0', count = '1'] = manifestPattern.exec(name) ?? [];
  return found === undefined ? undefined : { index: Number(index), count: Number(count) };
}

/** The index of the corpus in the folder of a dump. */
export const indexFile = 'index.jsonl';

/** The name of the lease that is held by the process that writes the index. */
export const indexLease = `${indexFile}.claim`;

const slicePrefix = `${indexFile}.slice-`;

/** The name of a file of a slice of the index, by the slice's number. */
export const sliceFile = (slice: number, what: 'summary' | 'entries' | 'claim'): string =>
  `${slicePrefix}${slice}.${what}`;

/** Whether a file is one of a slice of the index, an unfinished one, or that of its lease. */
export const isSliceFile = (name: string): boolean => name.startsWith(slicePrefix);

/** Whether a file is the index of the corpus, an unfinished one, one of its slices, or the file of its lease. */
export const isIndexFile = (name: string): boolean =>
  name === indexFile || name.startsWith(indexLease) || isSliceFile(name) || unfinishedOf(name) === indexFile;

/** The name of the lease that is held by the process that writes the dump, or the part. */
export const leaseFile = (part: Part): string => `${manifestFile(part)}.claim`;

/**
 * The manifest that a lease's file belongs to, also under the name that the file gets when the lease is taken over;
 * undefined for other names.
 */
export function manifestOfLease(name: string): string | undefined {
  const file = /^(.+)\.claim(\.[\w-]+)?$/.exec(name)?.[1];
  return file !== undefined && isManifestFile(file) ? file : undefined;
}

export const shardFile = (number: number): string => `shard-${String(number).padStart(5, '0')}.safetensors`;

/** The number in a shard's file name; undefined for other names. */
export function shardNumber(file: string): number | undefined {
  const number = shardPattern.exec(file)?.[1];
  return number !== undefined && shardFile(Number(number)) === file ? Number(number) : undefined;
}

/** The Parquet file of a location's latents beside a shard: `shard-00000.1_resid_delta_mlp_latents.parquet`. */
export const parquetFile = (number: number, location: string): string =>
  shardFile(number).replace(/safetensors$/, `${latentsName(location).replaceAll('/', '_')}.parquet`);

/** The number of the shard that a Parquet file belongs to; undefined for other names. */
export function parquetNumber(file: string): number | undefined {
  const [, shard, latents] = /^(shard-\d+)\.(\w+)\.parquet$/.exec(file) ?? [];
  return latents?.endsWith('_latents') ? shardNumber(`${shard}.safetensors`) : undefined;
}

export const missing = 'is missing';

/** What is wrong with a file of a dump, as far as its size shows; undefined when nothing is. */
export async function problemWith(store: Store, { file, bytes }: ListedFile): Promise<string | undefined> {
  const found = await store.find(file);
  if (!found) return missing;
  if (!found.regular) return 'is not a regular file';
  return found.size === bytes ? undefined : `holds ${found.size} bytes, but the manifest says ${bytes} bytes`;
}

/** The files of a shard, the shard itself first. */
export const filesOf = (entry: ShardEntry): readonly ListedFile[] => [entry, ...(entry.parquet ?? [])];

/** The rows and the tokens of several shards together. */
export const totalsOf = (shards: readonly ShardEntry[]): { rows: number; tokens: number } => ({
  rows: shards.reduce((sum, { rows }) => sum + rows, 0),
  tokens: shards.reduce((sum, { tokens }) => sum + tokens, 0),
});

export const bytesOf = (shards: readonly ShardEntry[]): number =>
  shards.flatMap(filesOf).reduce((sum, { bytes }) => sum + bytes, 0);

export const makeManifest = (
  settings: DumpSettings,
  arithmetic: readonly string[],
  shards: readonly ShardEntry[],
  complete: boolean,
): Manifest => ({
  format: 'sonde dump',
  version: 1,
  ...settings,
  arithmetic,
  shards,
  complete,
});

/**
 * Writes a manifest. That of a part refers to the list of the corpus, which is written first, unless it is there.
 * @throws Error, with advice and before anything is written, when the manifest would be larger than what can be read.
 */
export async function writeManifest(store: Store, manifest: Manifest, how?: Writing): Promise<void> {
  checkSize(store, manifest, how);
  const { part, corpus, shards } = manifest;
  const file = manifestFile(part);
  const hasList = part.count > 1;
  if (hasList) await writeCorpusList(store, corpus);
  const pieces = piecesOf(manifest);
  const isSmall = shards.length <= entriesAtOnce;
  const written = isSmall ? store.writeText(file, [...pieces].join('')) : store.writePieces(file, pieces);
  await onDisk(store.pathOf(file), written, how);
  // A process that has ended without a shard removes the list when it sees no manifest that refers to it. This one is
  // seen from now on.
  if (hasList && !manifest.complete) await writeCorpusList(store, corpus);
}

/** @throws Error, with advice, when a manifest would be larger than what can be read. */
export function checkSize(store: Store, manifest: Manifest, how?: Pick<Writing, 'operation'>): void {
  if (sizeOfText(manifest) <= largestText) return;
  const path = store.pathOf(manifestFile(manifest.part));
  throw new Error(
    `${how?.operation ?? 'dump'}: ${path} would list ${manifest.shards.length} shards in more than ${largestText} ` +
      'bytes, and could not be read again: make fewer, larger shards (--shard-tokens) or several dumps, in another folder',
  );
}

const entriesAtOnce = 1000;

/** The manifest as JSON, some shards at a time, so that no text is as long as all of it. */
export function* piecesOf(manifest: Manifest): Generator<string> {
  const { part, corpus, shards } = manifest;
  const stored = { ...manifest, ...(part.count > 1 && { corpus: referenceTo(corpus) }), shards: [] };
  const frame = JSON.stringify(stored, null, 2);
  const begin = '\n  "shards": [';
  const at = frame.indexOf(begin) + begin.length; // no text in JSON has a line's end in it
  yield frame.slice(0, at);
  for (let i = 0; i < shards.length; i += entriesAtOnce) {
    const entries = JSON.stringify(shards.slice(i, i + entriesAtOnce), null, 2).slice(1, -2);
    yield `${i === 0 ? '' : ','}${entries.replaceAll('\n', '\n  ')}`;
  }
  yield `${shards.length > 0 ? '\n  ' : ''}${frame.slice(at)}\n`;
}

/** The bytes of a manifest as it is written; infinite when that is longer than a string can be. */
function sizeOfText(manifest: Manifest): number {
  try {
    let bytes = 0;
    for (const piece of piecesOf(manifest)) bytes += Buffer.byteLength(piece);
    return bytes;
  } catch (error) {
    if (error instanceof RangeError) return Infinity;
    throw error;
  }
}

/** Whether a manifest can list so many shards. */
export function canList(settings: DumpSettings, shards: number): boolean {
  const smallFile = (file: string): ListedFile => ({ file, bytes: 1, sha256: '0'.repeat(64) });
  const parquet = settings.parquet && settings.autoencoders.map(({ location }) => smallFile(parquetFile(0, location)));
  const entry: ShardEntry = { ...smallFile(shardFile(0)), rows: 1, tokens: 1, ...(parquet && { parquet }) };
  const lengthOf = (entries: ShardEntry[]) => textOf(makeManifest(settings, [], entries, true))?.length ?? Infinity;
  const each = lengthOf([entry, entry]) - lengthOf([entry]);
  return lengthOf([entry]) + (shards - 1) * each <= largestText;
}

/** The manifest with the list of the corpus in it as JSON; undefined when it is longer than a string can be. */
function textOf(manifest: Manifest): string | undefined {
  try {
    return `${JSON.stringify(manifest, null, 2)}\n`;
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

/**
 * All manifests of a folder, by file name: one, or one for each part that was begun. That of an incomplete dump or part
 * also lists the shards in its journal. Manifests of parts that were merged into a whole may still be there; they are
 * left out. With `only`, the folder is not listed, and those of these
 * names are read that are there. What the manifests have in common is in memory once.
 */
export async function readManifests(
  store: Store,
  only?: readonly string[],
  reader = new ManifestReader(),
): Promise<Map<string, Manifest>> {
  const names = only ?? (await store.list()).filter(isManifestFile);
  const wholeFile = manifestFile(whole);
  const merged = names.includes(wholeFile) ? await reader.read(store, wholeFile) : undefined;
  const found = new Map<string, Manifest>();
  if (merged) found.set(wholeFile, merged);
  await forEachAtOnce(names, async (name) => {
    const manifest = name === wholeFile ? undefined : await reader.read(store, name);
    const isMerged = manifest && merged?.complete && !differenceOf(merged, { ...manifest, part: whole });
    if (manifest && !isMerged) found.set(name, manifest);
  });
  const inOrder = merged?.complete ? [wholeFile, ...names.filter((name) => name !== wholeFile)] : names;
  return new Map(inOrder.flatMap((name) => (found.has(name) ? [[name, found.get(name) as Manifest] as const] : [])));
}

/** Reads the manifests of a dump. Equal parts of their settings are one object in memory. */
export class ManifestReader {
  readonly lists: CorpusLists;
  readonly #shared = new Map<string, unknown>();

  /** `known` is a list of the corpus that need not be read when a manifest refers to it. */
  constructor(...known: CorpusList[]) {
    this.lists = new CorpusLists(...known);
  }

  /**
   * The manifest of that name, with what its journal holds unless it is complete. Undefined when the file is gone: a
   * merge removes the manifests of the parts.
   * @throws Error that names the file, when it is not a manifest, or refers to a list that is missing or broken, or when
   *   the journal does not go with it.
   */
  async read(store: Store, name: string): Promise<Manifest | undefined> {
    const before = await this.#readManifest(store, name);
    if (!before || before.manifest.complete) return before?.manifest;
    const file = journalOfManifest(name);
    const journal = await readJournal(store, file, largestText);
    // Meanwhile another manifest, with the shards of the journal, may have replaced it, and the journal may be gone. One
    // with more shards is longer.
    if (!journal && (await store.find(name))?.size === before.bytes) return before.manifest;
    const manifest = (await this.#readManifest(store, name))?.manifest;
    if (!journal || !manifest || manifest.complete) return manifest;
    try {
      return joined(manifest, journal);
    } catch (cause) {
      throw new Error(`${store.pathOf(file)}: does not go with ${name}: ${(cause as Error).message}`, { cause });
    }
  }

  /** A manifest without its journal, and the bytes of its file. */
  async #readManifest(store: Store, name: string): Promise<{ manifest: Manifest; bytes: number } | undefined> {
    const found = await readStored(store, name);
    if (!found) return undefined;
    const { stored, bytes } = found;
    const { corpus, model, locations, autoencoders, drop, arithmetic } = stored;
    let list: CorpusList;
    try {
      list = isReference(corpus) ? await this.lists.get(store, corpus) : this.lists.shared(corpus);
    } catch (error) {
      if (!(await store.find(name))) return undefined; // a merge has removed both just now
      throw error;
    }
    const common = { model, locations, autoencoders, drop, arithmetic };
    const entries = Object.entries(common).map(([field, value]) => [field, this.#sharedValue(value)]);
    return { manifest: { ...stored, ...(Object.fromEntries(entries) as typeof common), corpus: list }, bytes };
  }

  #sharedValue(value: unknown): unknown {
    const text = JSON.stringify(value);
    if (!this.#shared.has(text)) this.#shared.set(text, value);
    return this.#shared.get(text);
  }
}

/** The manifest with the shards of the journal. The journal's entry of a shard is never older than the manifest's. */
function joined(manifest: Manifest, journal: Buffer): Manifest {
  const shards = new Map(manifest.shards.map((entry) => [shardNumber(entry.file) as number, entry]));
  for (const { number, json } of linesOf(journal, digestOfSettings(manifest))) {
    try {
      const entry = entryOf(JSON.parse(json), 'dropped');
      shards.set(shardNumber(entry.file) as number, entry);
    } catch (cause) {
      throw new Error(`line ${number} is not the entry of a shard: ${(cause as Error).message}`, { cause });
    }
  }
  const all = { ...manifest, shards: inOrder(shards) };
  const problem = contradictionIn(all);
  if (problem !== undefined) throw new Error(`with its shards, ${problem}`);
  return all;
}

/** The entries of shards by number, in the order of a manifest. */
export const inOrder = (shards: ReadonlyMap<number, ShardEntry>): ShardEntry[] =>
  [...shards].sort(([a], [b]) => a - b).map(([, entry]) => entry);

async function readStored(
  store: Store,
  name: string,
): Promise<{ readonly stored: StoredManifest; readonly bytes: number } | undefined> {
  const path = store.pathOf(name);
  let value: unknown;
  let bytes: number;
  try {
    const text = await readSmallFile(store, name, largestText);
    if (text === undefined) return undefined;
    bytes = text.length;
    value = withDefaults(JSON.parse(text.toString()));
  } catch (cause) {
    throw new Error(`${path}: cannot be read as a manifest: ${(cause as Error).message}`, { cause });
  }
  try {
    const manifest = checkedManifest(value);
    if (manifestFile(manifest.part) === name) return { stored: manifest, bytes };
    throw new Error(`its part is that of ${manifestFile(manifest.part)}`);
  } catch (cause) {
    throw new Error(`${path}: is not a manifest of a dump: ${(cause as Error).message}`, { cause });
  }
}

/** The arithmetic of shards of the first dumps, whose manifests do not say. */
export const unknownArithmetic = 'unknown';

/** Fields that the manifests of the first dumps lack: there was no choice then, or nobody asked. */
const defaults = { drop: [], sample: 1, statistics: false, parquet: false, arithmetic: [unknownArithmetic] };

/** Adds missing fields at the end, so that the others keep their order. */
function withDefaults(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  return { ...value, ...Object.fromEntries(Object.entries(defaults).filter(([name]) => !(name in value))) };
}

// ---- checking what was read

const listedFile = (isName: (name: string) => boolean): { readonly [K in keyof ListedFile]: Read<ListedFile[K]> } => ({
  file: checked('the name of such a file', (value) => typeof value === 'string' && isName(value)),
  bytes: integer(1),
  sha256: checked('a SHA-256 in hexadecimal', (value) => typeof value === 'string' && /^[0-9a-f]{64}$/.test(value)),
});

const mostNames = 2 ** 20; // more than any header of a shard can hold

const entryOf = object<ShardEntry>({
  ...listedFile((name) => shardNumber(name) !== undefined),
  rows: size,
  tokens: integer(1),
  nonFinite: optional(
    record(string, object<NonFinite>({ nan: integer(0), infinite: integer(0), values: integer(1) }), mostNames),
  ),
  parquet: optional(listOf(object<ListedFile>(listedFile((name) => parquetNumber(name) !== undefined)))),
});

/** A manifest as it is written: that of a part may refer to the list of the corpus. */
interface StoredManifest extends Omit<Manifest, 'corpus'> {
  readonly corpus: CorpusList | CorpusReference;
}

const isReference = (corpus: CorpusList | CorpusReference): corpus is CorpusReference => !Array.isArray(corpus);

const manifestOf = object<StoredManifest>({
  format: oneOf('sonde dump'),
  version: checked('1', (value) => value === 1),
  ...settingsFields,
  corpus: (value, unknownFields) =>
    isObject(value) ? corpusReference(value, unknownFields) : settingsFields.corpus(value, unknownFields),
  arithmetic: listOf(line(200), { most: 1000 }),
  shards: listOf(entryOf),
  complete: flag,
});

const mostPositions = 2 ** 31 - 1;

/** Reads a value as a manifest, without unknown fields. @throws Error that says what is wrong with it. */
function checkedManifest(value: unknown): StoredManifest {
  const { format, version } = (value ?? {}) as Partial<Record<keyof Manifest, unknown>>;
  if (format !== 'sonde dump') throw new Error('its "format" is not "sonde dump"');
  if (version !== 1) throw new Error(`its version is ${JSON.stringify(version)}, and this program reads version 1`);
  let manifest: StoredManifest;
  try {
    manifest = manifestOf(value, 'dropped');
  } catch (error) {
    if (!(error instanceof FieldError)) throw error;
    throw new Error(`its "${error.field.split(/\W/, 1)[0]}" is not as it should be: ${error.message}`);
  }
  const problem = contradictionIn(manifest);
  if (problem !== undefined) throw new Error(problem);
  return manifest;
}

/** A contradiction between fields that are valid one by one. */
function contradictionIn(manifest: StoredManifest | Manifest): string | undefined {
  const { corpus, shards, context, locations, part, parquet, autoencoders, arithmetic } = manifest;
  if (part.index >= part.count) return 'its "part" is not as it should be: the index must be below the count';
  if (part.count === 1 && isReference(corpus))
    return 'its "corpus" is not as it should be: only a part refers to a list';
  if (shards.length > 0 && arithmetic.length === 0) return 'its "arithmetic" is empty, but it lists shards';
  if (new Set(arithmetic).size < arithmetic.length) return 'its "arithmetic" has a name twice';
  const numbers = shards.map(({ file }) => shardNumber(file) as number);
  if (numbers.some((number, i) => i > 0 && number <= (numbers[i - 1] as number))) return 'its shards are not in order';
  if (numbers.some((number) => number % part.count !== part.index)) return 'it lists a shard of another part';
  const parquetFiles = (number: number) => (parquet ? autoencoders.map((a) => parquetFile(number, a.location)) : []);
  const hasParquet = shards.every(({ parquet: there = [] }, i) => {
    return listed(there.map(({ file }) => file)) === listed(parquetFiles(numbers[i] as number));
  });
  if (!hasParquet) return 'a shard does not have the Parquet files that it should have';
  if (locations.some(({ shape }) => shape[0] !== context)) return 'a location\'s shape does not begin with "context"';
  if (shards.some(({ rows, tokens }) => tokens > rows * context)) return 'a shard has more tokens than its rows hold';
  const miscounted = problemWithCounts(manifest, shards);
  if (miscounted !== undefined) return miscounted;
  const names = valueNames(manifest);
  if (new Set(names).size < names.length) return 'it has a location twice';
  // Flat positions within a shard are 32-bit integers, and offsets in its file are exact.
  const rows = shards.reduce((most, shard) => Math.max(most, shard.rows), 0);
  if (rows * context > mostPositions) return `a shard of ${rows} rows of ${context} tokens is too large`;
  const wide = locations.find((entry) => rows * context * widthOf(entry) * 8 > 2 ** 53);
  if (wide) return `a shard cannot hold ${rows} rows of ${wide.location}`;
  const tokenBytes = 2 * bytesPerElement('int32'); // each position has its token and its document
  const small = shards.find(({ rows, bytes }) => bytes < rows * context * tokenBytes);
  if (small) return `${small.file} has ${small.rows} rows, which its ${small.bytes} bytes cannot hold`;
  return undefined;
}

// ---- comparing dumps

/** All arithmetics of several dumps or parts, in order, each once. */
export const allArithmetics = (...lists: (readonly string[])[]): string[] => [...new Set(lists.flat())].sort();

/** The arithmetics of the parts that have shards. */
export const arithmeticOf = (parts: readonly Manifest[]): string[] => {
  const found = new Set<string>();
  for (const { shards, arithmetic } of parts) if (shards.length > 0) for (const name of arithmetic) found.add(name);
  return [...found].sort();
};

/** Two arithmetics of a list that give different bits; undefined when all that is known is one. */
export function mixedIn(arithmetics: readonly string[]): readonly [string, string] | undefined {
  const [first, second] = arithmetics.filter((arithmetic) => arithmetic !== unknownArithmetic);
  return first === undefined || second === undefined ? undefined : [first, second];
}

type Difference = [label: string, there: string, asked: string];

/** The first difference between the dump in a folder and the request. */
export function differenceOf(there: DumpSettings, asked: DumpSettings): Difference | undefined {
  for (const { compare } of comparisons) {
    const difference = compare(there, asked);
    if (difference) return difference;
  }
  return undefined;
}

/** A digest of the settings, with the part. It is equal where the part is, and `differenceOf` finds no difference. */
export function digestOfSettings(settings: DumpSettings): string {
  const hash = createHash('sha256');
  for (const { label, shown } of comparisons) hash.update(`${JSON.stringify([label, shown(settings)])}\n`);
  return hash.update(JSON.stringify(settings.part.index)).digest('hex');
}

/** Compares one thing in two settings. What all parts share, such as a list of thousands of files, is not looked at. */
const comparison = <T>(
  label: string,
  of: (settings: DumpSettings) => T,
  show: (value: T) => string,
  showDifference?: (there: T, asked: T) => [string, string],
) => ({
  label,
  shown: (settings: DumpSettings): string => show(of(settings)),
  compare(there: DumpSettings, asked: DumpSettings): Difference | undefined {
    const [a, b] = [of(there), of(asked)];
    if (a === b) return undefined;
    const [has, wants] = [show(a), show(b)];
    return has === wants ? undefined : [label, ...(showDifference?.(a, b) ?? ([has, wants] as const))];
  },
});

const showSource = ({ kind, name, bytes, dtype }: CorpusList[number]): string => {
  const what = [
    ...(name === undefined || bytes === undefined ? [] : [kind, `${bytes} bytes`]),
    ...(dtype ? [dtype] : []),
  ];
  return [name ?? kind, what.length > 0 ? ` (${what.join(', ')})` : ''].join('');
};

const mostShown = 4;

/** Two lists of sources; of many, the first that differs. */
function showOtherCorpus(there: CorpusList, asked: CorpusList): [string, string] {
  const [a, b] = [there, asked].map((corpus) => corpus.map(showSource)) as [string[], string[]];
  const at = a.findIndex((source, i) => source !== b[i]);
  const first = at < 0 ? a.length : at; // b goes on where a ends
  const shown = (all: string[]) => {
    if (Math.max(a.length, b.length) <= mostShown) return listed(all);
    return `of ${all.length} sources with ${all[first] ?? 'none'} as number ${first + 1}`;
  };
  return [shown(a), shown(b)];
}

const listed = (items: string[]): string => (items.length === 0 ? 'none' : items.join(', '));

const modelOf = ({ model }: DumpSettings) => model;
const locationsOf = ({ locations }: DumpSettings) => locations;
const autoencodersOf = ({ autoencoders }: DumpSettings) => autoencoders;

const comparisons = [
  comparison('the model', modelOf, ({ name }) => name),
  comparison("the model's dtype", modelOf, ({ dtype }) => dtype),
  comparison('weights of digest', modelOf, ({ digest }) => digest),
  comparison('a vocabulary of', modelOf, ({ vocabulary }) => String(vocabulary)),
  comparison('the configuration', modelOf, ({ config }) => JSON.stringify(config)),
  comparison('tokenizer', ({ tokenizer }) => tokenizer, String),
  comparison('context', ({ context }) => context, String),
  comparison('dtype', ({ dtype }) => dtype, String),
  comparison('the locations', locationsOf, (all) => listed(all.map(({ location }) => location))),
  comparison('the autoencoders', autoencodersOf, (all) =>
    listed(all.map(({ location, name }) => `${location} -> ${name}`)),
  ),
  comparison('the thresholds', autoencodersOf, (all) => listed(all.map(({ threshold }) => String(threshold)))),
  comparison('latents of', autoencodersOf, (all) => listed(all.map(({ digest }) => digest))),
  comparison(
    'the corpus',
    ({ corpus }) => corpus,
    (corpus) => listed(corpus.map(showSource)),
    showOtherCorpus,
  ),
  comparison(
    'shards of',
    ({ shardTokens }) => shardTokens,
    (tokens) => `${tokens} tokens`,
  ),
  comparison(
    'a limit of',
    ({ limit }) => limit,
    (limit) => (limit === null ? 'none' : `${limit} tokens`),
  ),
  comparison('a sample of', ({ sample }) => sample, String),
  comparison(
    'positions without',
    ({ drop }) => drop,
    (drop) => listed([...drop]),
  ),
  comparison('seed', ({ seed }) => seed, String),
  comparison(
    'statistics',
    ({ statistics }) => statistics,
    (gathered) => (gathered ? 'gathered' : 'not gathered'),
  ),
  comparison(
    'Parquet files',
    ({ parquet }) => parquet,
    (written) => (written ? 'of the latents' : 'none'),
  ),
  comparison(
    'gradients of',
    ({ gradientOf }) => gradientOf,
    (scalar) => scalar ?? 'nothing',
  ),
  comparison('parts:', ({ part }) => part.count, String),
  comparison('row shapes', locationsOf, (all) => JSON.stringify(all.map(({ shape }) => shape))),
];
