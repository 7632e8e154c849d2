// manifest.json says what a dump holds; while the dump is made, it does so together with its journal (journal.ts). It
// is needed to read the dump, to continue it, and to refuse files of another one. It has nothing that differs between
// runs: no times, no machine, no absolute paths. Folders may come from anywhere, so everything that is read here is
// checked before it is used.
import { createHash } from 'node:crypto';
import { BlobChanged } from '../../files/blob/blob_request.js';
import { bytesPerElement } from '../../files/host_tensor.js';
import { type Store, unfinishedOf } from '../../files/store/store.js';
import { onDisk, severalAtOnce, type Writing } from './disk.js';
import { journalOfManifest, linesOf, readJournal } from './journal.js';
import { latentsName, valueNames, widthOf } from './layout.js';
import { type NonFinite, type NonFiniteCounts, problemWithCounts } from './non_finite.js';
import {
  checked,
  FieldError,
  flag,
  integer,
  line,
  listOf,
  object,
  oneOf,
  optional,
  type Read,
  record,
  string,
} from './schema.js';
import { type DumpSettings, type Part, settingsFields, size } from './settings.js';

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

const largestManifest = 2 ** 28; // enough for a million shards, or ninety thousand with Parquet files of twelve layers

const manifestPattern = /^manifest(-\d+-of-\d+)?\.json$/;
const shardPattern = /^shard-(\d{5,9})\.safetensors$/;

/** The part of a dump that is not divided. */
export const whole: Part = { index: 0, count: 1 };

/** `manifest.json`, or a manifest for each part: parts may be written by several processes at a time. */
export const manifestFile = ({ index, count }: Part): string =>
  count === 1 ? 'manifest.json' : `manifest-${index}-of-${count}.json`;

export const isManifestFile = (name: string): boolean => manifestPattern.test(name);

/** The index of the corpus in the folder of a dump. */
export const indexFile = 'index.jsonl';

/** The name of the lease that is held by the process that writes the index. */
export const indexLease = `${indexFile}.claim`;

/** Whether a file is the index of the corpus, an unfinished one, or the file of its lease. */
export const isIndexFile = (name: string): boolean =>
  name === indexFile || name.startsWith(indexLease) || unfinishedOf(name) === indexFile;

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
 * @throws Error, with advice and before anything is written, when the manifest would be larger than what can be read.
 */
export async function writeManifest(store: Store, manifest: Manifest, how?: Writing): Promise<void> {
  const file = manifestFile(manifest.part);
  const text = manifestText(store, manifest, how);
  await onDisk(store.pathOf(file), store.writeText(file, text), how);
}

/** The text that `writeManifest` writes. @throws Error when it is larger than what can be read. */
export function manifestText(store: Store, manifest: Manifest, how?: Pick<Writing, 'operation'>): string {
  const text = textOf(manifest);
  if (text !== undefined && Buffer.byteLength(text) <= largestManifest) return text;
  const path = store.pathOf(manifestFile(manifest.part));
  throw new Error(
    `${how?.operation ?? 'dump'}: ${path} would list ${manifest.shards.length} shards in more than ${largestManifest} ` +
      'bytes, and could not be read again: make fewer, larger shards (--shard-tokens) or several dumps, in another folder',
  );
}

/** Whether a manifest can list so many shards. */
export function canList(settings: DumpSettings, shards: number): boolean {
  const smallFile = (file: string): ListedFile => ({ file, bytes: 1, sha256: '0'.repeat(64) });
  const parquet = settings.parquet && settings.autoencoders.map(({ location }) => smallFile(parquetFile(0, location)));
  const entry: ShardEntry = { ...smallFile(shardFile(0)), rows: 1, tokens: 1, ...(parquet && { parquet }) };
  const lengthOf = (entries: ShardEntry[]) => textOf(makeManifest(settings, [], entries, true))?.length ?? Infinity;
  const each = lengthOf([entry, entry]) - lengthOf([entry]);
  return lengthOf([entry]) + (shards - 1) * each <= largestManifest;
}

/** The manifest as JSON; undefined when it is longer than a string can be. */
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
 * left out. With `only`, no other names are read.
 */
export async function readManifests(store: Store, only?: readonly string[]): Promise<Map<string, Manifest>> {
  const all = new Set(await store.list());
  const names = [...all].filter((name) => isManifestFile(name) && (only?.includes(name) ?? true));
  const read = names.map(async (name) => [name, await severalAtOnce(() => readWithJournal(store, name, all))] as const);
  const isThere = (entry: readonly [string, Manifest | undefined]): entry is readonly [string, Manifest] => !!entry[1];
  const manifests = new Map((await Promise.all(read)).filter(isThere));
  const merged = manifests.get(manifestFile(whole));
  if (!merged?.complete) return manifests;
  const others = [...manifests.values()].filter((other) => differenceOf(merged, { ...other, part: whole }));
  return new Map([merged, ...others].map((manifest) => [manifestFile(manifest.part), manifest]));
}

/**
 * The manifest of that name, with what its journal holds unless it is complete. The journal is read first: when a
 * manifest with its shards replaces it meanwhile, that one is read. Undefined when the manifest is gone.
 */
async function readWithJournal(store: Store, name: string, all: ReadonlySet<string>): Promise<Manifest | undefined> {
  const file = journalOfManifest(name);
  const journal = all.has(file) ? await readJournal(store, file, largestManifest) : undefined;
  const manifest = await readManifest(store, name);
  if (!journal || !manifest || manifest.complete) return manifest;
  try {
    return joined(manifest, journal);
  } catch (cause) {
    throw new Error(`${store.pathOf(file)}: does not go with ${name}: ${(cause as Error).message}`, { cause });
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

/** Undefined when the file is gone: a merge removes the manifests of the parts. */
async function readManifest(store: Store, name: string): Promise<Manifest | undefined> {
  const path = store.pathOf(name);
  let value: unknown;
  try {
    const text = await readSmallFile(store, name);
    if (text === undefined) return undefined;
    value = withDefaults(JSON.parse(text));
  } catch (cause) {
    throw new Error(`${path}: cannot be read as a manifest: ${(cause as Error).message}`, { cause });
  }
  try {
    const manifest = checkedManifest(value);
    if (manifestFile(manifest.part) === name) return manifest;
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

async function readSmallFile(store: Store, name: string): Promise<string | undefined> {
  const found = await store.find(name);
  if (!found) return undefined;
  if (!found.regular) throw new Error('it is not a regular file');
  if (found.size > largestManifest) throw new Error(`it is ${found.size} bytes long`);
  for (let attempt = 1; ; attempt++) {
    try {
      const file = await store.open(name);
      try {
        return Buffer.from(await file.read(0, file.size)).toString();
      } finally {
        await file.close();
      }
    } catch (error) {
      if (!(await store.find(name))) return undefined; // it was removed just now
      if (!(error instanceof BlobChanged) || attempt === attempts) throw error;
    }
  }
}

/** A blob that another one replaces while it is read is read again. */
const attempts = 10;

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

const manifestOf = object<Manifest>({
  format: oneOf('sonde dump'),
  version: checked('1', (value) => value === 1),
  ...settingsFields,
  arithmetic: listOf(line(200), { most: 1000 }),
  shards: listOf(entryOf),
  complete: flag,
});

const mostPositions = 2 ** 31 - 1;

/** Reads a value as a manifest, without unknown fields. @throws Error that says what is wrong with it. */
function checkedManifest(value: unknown): Manifest {
  const { format, version } = (value ?? {}) as Partial<Record<keyof Manifest, unknown>>;
  if (format !== 'sonde dump') throw new Error('its "format" is not "sonde dump"');
  if (version !== 1) throw new Error(`its version is ${JSON.stringify(version)}, and this program reads version 1`);
  let manifest: Manifest;
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
function contradictionIn(manifest: Manifest): string | undefined {
  const { shards, context, locations, part, parquet, autoencoders, arithmetic } = manifest;
  if (part.index >= part.count) return 'its "part" is not as it should be: the index must be below the count';
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
export const arithmeticOf = (parts: readonly Manifest[]): string[] =>
  allArithmetics(...parts.filter(({ shards }) => shards.length > 0).map(({ arithmetic }) => arithmetic));

/** Two arithmetics of a list that give different bits; undefined when all that is known is one. */
export function mixedIn(arithmetics: readonly string[]): readonly [string, string] | undefined {
  const [first, second] = arithmetics.filter((arithmetic) => arithmetic !== unknownArithmetic);
  return first === undefined || second === undefined ? undefined : [first, second];
}

/** A digest of the settings, with the part. It is equal where the part is, and `differenceOf` finds no difference. */
export function digestOfSettings(settings: DumpSettings): string {
  const hash = createHash('sha256');
  for (const field of labelled(settings)) hash.update(`${JSON.stringify(field)}\n`);
  return hash.update(JSON.stringify(settings.part.index)).digest('hex');
}

/** The first difference between the dump in a folder and the request, as `[label, there, asked]`. */
export function differenceOf(there: DumpSettings, asked: DumpSettings): [string, string, string] | undefined {
  const [a, b] = [labelled(there), labelled(asked)];
  for (const [label, value] of b) if (a.get(label) !== value) return [label, a.get(label) ?? 'none', value];
  for (const [label, value] of a) if (!b.has(label)) return [label, value, 'none'];
  return undefined;
}

function labelled(settings: DumpSettings): Map<string, string> {
  const { model, locations, autoencoders, corpus } = settings;
  const source = ({ kind, name, bytes, dtype }: (typeof corpus)[number]) => {
    const what = [
      ...(name === undefined || bytes === undefined ? [] : [kind, `${bytes} bytes`]),
      ...(dtype ? [dtype] : []),
    ];
    return [name ?? kind, what.length > 0 ? ` (${what.join(', ')})` : ''].join('');
  };
  return new Map([
    ['the model', model.name],
    ["the model's dtype", model.dtype],
    ['weights of digest', model.digest],
    ['a vocabulary of', String(model.vocabulary)],
    ['the configuration', JSON.stringify(model.config)],
    ['tokenizer', settings.tokenizer],
    ['context', String(settings.context)],
    ['dtype', settings.dtype],
    ['the locations', listed(locations.map(({ location }) => location))],
    ['the autoencoders', listed(autoencoders.map(({ location, name }) => `${location} -> ${name}`))],
    ['the thresholds', listed(autoencoders.map(({ threshold }) => String(threshold)))],
    ['latents of', listed(autoencoders.map(({ digest }) => digest))],
    ['the corpus', listed(corpus.map(source))],
    ['shards of', `${settings.shardTokens} tokens`],
    ['a limit of', settings.limit === null ? 'none' : `${settings.limit} tokens`],
    ['a sample of', String(settings.sample)],
    ['positions without', listed([...settings.drop])],
    ['seed', String(settings.seed)],
    ['statistics', settings.statistics ? 'gathered' : 'not gathered'],
    ['Parquet files', settings.parquet ? 'of the latents' : 'none'],
    ['gradients of', settings.gradientOf ?? 'nothing'],
    ['parts:', `${settings.part.count}`],
    ['row shapes', JSON.stringify(locations.map(({ shape }) => shape))],
  ]);
}

const listed = (items: string[]): string => (items.length === 0 ? 'none' : items.join(', '));
